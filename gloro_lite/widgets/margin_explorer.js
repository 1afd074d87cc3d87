import { argmax, attack, bottomLogit, boundaries, certifiedRadius, logits, network, predictions } from "./core.js";
import { BOTTOM, COLORS, NAMES, Plane, element, redrawing, round } from "./plane.js";

const SIZE = 120;

function panel(model, name, spec, frame, move) {
  const net = network(spec.layers, model.get(`${name}_weights`));
  const plane = new Plane(frame, `${spec.title}: a map of the plane. Arrow keys move the point, with Shift ten steps; A attacks it.`);
  const { x, y } = plane.lattice(SIZE);
  // The picture's logits and radii do not depend on epsilon: moving it only compares.
  const outputs = logits(net, x, y);
  const cached = predictions(outputs, spec.constants);
  const boundary = boundaries(outputs, SIZE);
  const bars = element("div", { class: "gloro-bars" });
  const text = element("p", { class: "gloro-readout", "aria-live": "polite" });
  const verdict = element("p", { class: "gloro-attack", "aria-live": "polite" });
  const root = element("div", { class: "gloro-panel" }, element("h4", {}, spec.title), plane.canvas, text, bars, verdict);
  root.dataset.panel = name;
  let attacked = null;

  for (const kind of ["pointermove", "pointerdown"]) plane.canvas.addEventListener(kind, (event) => move(plane.fromEvent(event), event));

  function draw() {
    const epsilon = model.get("epsilon");
    const point = model.get("point");
    const values = logits(net, [point[0]], [point[1]]).map((v) => v[0]);
    const radius = certifiedRadius(values, spec.constants);
    const bottom = bottomLogit(values, spec.constants, epsilon);
    const top = argmax(values);
    const isBottom = !(values[top] > bottom);

    plane.clear();
    plane.regions(SIZE, (k) => cached.prediction[k], (k) => !(cached.radius[k] > epsilon));
    plane.lines(boundary, SIZE, { width: 1.4 });
    plane.points(model.get("points"), model.get("labels"));
    plane.circle(...point, radius, { width: 2 });
    plane.circle(...point, epsilon, { width: 1, dash: [4, 4] });
    const [px, py] = plane.toPixels(...point);
    plane.context.fillStyle = plane.ink;
    plane.context.fillRect(px - 2.5, py - 2.5, 5, 5);
    if (attacked) for (const end of attacked.ends) plane.circle(...end, plane.side / 160, { color: "#D55E00", width: 2 });

    const [low, high] = [Math.min(0, ...values, bottom), Math.max(0, ...values, bottom)];
    const place = (value) => (100 * (value - low)) / (high - low || 1);
    bars.replaceChildren(
      ...[...values, bottom].map((value, i) => {
        const last = i === values.length;
        const [left, right] = [place(Math.min(value, 0)), place(Math.max(value, 0))];
        const fill = element("span", { style: `left:${left}%;width:${right - left}%;background:${last ? BOTTOM : COLORS[i]}` });
        const zero = element("span", { class: "gloro-zero", style: `left:${place(0)}%` });
        return element("div", {}, element("b", {}, last ? "⊥" : `${i} ${NAMES[i]}`), element("i", {}, fill, zero), round(value));
      }),
    );
    text.textContent = `${isBottom ? `⊥ wins (prediction ${top})` : `class ${top}, certified`} · certified radius ${round(radius)}`;
    Object.assign(root.dataset, { point: JSON.stringify(point), logits: JSON.stringify(values), bottom, radius, prediction: top, certified: !isBottom });
  }

  return {
    root,
    plane,
    draw,
    forget() {
      attacked = null;
      verdict.textContent = "";
    },
    attack() {
      const point = model.get("point");
      const radius = certifiedRadius(logits(net, [point[0]], [point[1]]).map((v) => v[0]), spec.constants);
      // Just inside: the certificate speaks of distances up to the radius, the attack's own sums are rounded.
      attacked = attack(net, point, radius * (1 - 1e-9));
      root.dataset.broken = attacked.broken;
      verdict.textContent =
        `${attacked.ends.length} attacks inside the disc: ` +
        (attacked.broken ? `${attacked.broken} found another class` : "none found another class");
    },
  };
}

function render({ model, el }) {
  const root = element("div", { class: "gloro-widget", role: "group", "aria-label": model.get("description") });
  const panels = [];
  // A click holds the point, so that the mouse can leave for the button; touch moves it only while pressed.
  let held = false;
  const move = (point, event) => {
    if (event?.pointerType === "mouse") {
      if (event.type === "pointerdown") held = !held;
      else if (held) return;
    }
    for (const one of panels) one.forget();
    model.set("point", point);
    model.save_changes();
  };
  const strike = () => {
    for (const one of panels) one.attack();
    drawing.request();
  };
  for (const name of ["gloro", "standard"]) panels.push(panel(model, name, model.get(name), model.get("frame"), move));
  for (const { plane } of panels) {
    plane.canvas.addEventListener("keydown", (event) => {
      const point = plane.moved(model.get("point"), event);
      if (point) move(point);
      else if (event.key === "a" || event.key === "A") strike();
      else return;
      event.preventDefault();
    });
  }
  const button = element("button", { type: "button", class: "gloro-button", onclick: strike }, "Attack the point");
  root.append(
    element("div", { class: "gloro-row" }, ...panels.map((one) => one.root)),
    element("div", { class: "gloro-row" }, button),
    element("p", { class: "gloro-hint" }, "Solid disc: certified radius. Dashed circle: ε. Grey: ⊥ wins. A click holds the point, another lets it go. Keys: arrows move it, A attacks."),
  );
  el.append(root);
  const drawing = redrawing(root, () => panels.forEach((one) => one.draw()));
  model.on("change:epsilon", drawing.request);
  model.on("change:point", drawing.request);
  return () => {
    model.off("change:epsilon", drawing.request);
    model.off("change:point", drawing.request);
    drawing.stop();
  };
}

export default { render };
