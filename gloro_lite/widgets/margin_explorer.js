import { argmax, attack, bottomLogit, boundaries, certifiedRadius, contour, distanceToSegments, logits, network, predictions } from "./core.js";
import { ATTACK, BOTTOM, COLORS, NAMES, announcer, button, choice, container, element, epsilonSlider, hatching, legend, listen, mount, presses, redrawing, round, spoken, svg } from "./page.js";
import { Plane } from "./plane.js";

const SIZE = 120;
const COARSE = 64; // of the wider lattice on which the boundary is found that distances are measured to
const FINGER = 24; // pixels around the point that a touch takes hold of

function panel(model, name) {
  const spec = model.get(name);
  const net = network(spec.layers, model.get(`${name}_weights`));
  const plane = new Plane(
    model.get("frame"),
    `${spec.title}: a map of the plane. Arrow keys move the point, with Shift ten steps; A attacks it.`,
  );
  const bars = element("div", { class: "gloro-bars" });
  const text = element("p", { class: "gloro-readout" });
  const verdict = element("p", { class: "gloro-attack" });
  const root = element("div", { class: "gloro-panel" }, element("p", { class: "gloro-title" }, spec.title), plane.canvas, text, bars, verdict);
  root.dataset.panel = name;
  let attacked = null;
  let map = null;

  // What does not depend on epsilon or on the point, when it is first needed: moving either only compares.
  function prepared() {
    if (map) return map;
    const { x, y } = plane.lattice(SIZE);
    const outputs = logits(net, x, y);
    const boundary = plane.segments(boundaries(outputs, SIZE), SIZE);
    // The boundary outside of the picture counts too.
    const wide = plane.wider(Math.max(model.get("largest"), model.get("epsilon")));
    const around = wide.lattice(COARSE);
    const lines = wide.segments(boundaries(logits(net, around.x, around.y), COARSE), COARSE);
    const distance = x.map((v, k) => distanceToSegments(lines, v, y[k]));
    map = { ...predictions(outputs, spec.constants), boundary, distance };
    return map;
  }

  const at = (point) => logits(net, [point[0]], [point[1]]).map((v) => v[0]);

  function state() {
    const [epsilon, point] = [model.get("epsilon"), model.get("point")];
    const values = at(point);
    const radius = certifiedRadius(values, spec.constants);
    const bottom = bottomLogit(values, spec.constants, epsilon);
    const top = argmax(values);
    return { epsilon, point, values, radius, bottom, top, certified: values[top] > bottom };
  }

  function draw() {
    const { epsilon, point, values, radius, bottom, top, certified } = state();
    const known = prepared();
    plane.clear();
    plane.regions(
      SIZE,
      (k) => known.prediction[k],
      (k) => !(known.radius[k] > epsilon),
      (k) => known.distance[k] < epsilon,
    );
    plane.lines(known.boundary, { width: 1.6 });
    plane.lines(plane.segments(contour(known.distance, SIZE, epsilon), SIZE), { width: 1 });
    plane.points(model.get("points"), model.get("labels"));
    plane.circle(...point, radius, { width: 2 });
    plane.circle(...point, epsilon, { width: 1.2, dash: [5, 4] });
    const [px, py] = plane.toPixels(...point);
    plane.context.fillStyle = plane.ink;
    plane.context.fillRect(px - 3, py - 3, 6, 6);
    for (const { end, found } of attacked?.tries ?? []) {
      if (found) {
        plane.cross(...end, 5, { color: "white", width: 4.5 }, true);
        plane.cross(...end, 5, { color: ATTACK, width: 2.5 }, true);
      } else plane.circle(...end, plane.side / 110, { color: ATTACK, width: 1.8 });
    }

    const [low, high] = [Math.min(0, ...values, bottom), Math.max(0, ...values, bottom)];
    const place = (value) => (100 * (value - low)) / (high - low || 1);
    bars.replaceChildren(
      ...[...values, bottom].map((value, i) => {
        const last = i === values.length;
        const [left, right] = [place(Math.min(value, 0)), place(Math.max(value, 0))];
        const fill = element("span", {
          class: last ? "gloro-hatched" : "",
          style: `left:${left}%;width:${right - left}%;background-color:${last ? BOTTOM : COLORS[i]}`,
        });
        const zero = element("span", { class: "gloro-zero", style: `left:${place(0)}%` });
        return element("div", {}, element("b", {}, last ? "⊥" : `${i} ${NAMES[i]}`), element("i", {}, fill, zero), round(value));
      }),
    );
    text.textContent = says(false);
    Object.assign(root.dataset, { point: JSON.stringify(point), logits: JSON.stringify(values), bottom, radius, prediction: top, certified });
  }

  function says(withTitle) {
    const { radius, top, certified } = state();
    const verdict = certified ? `class ${top}, certified` : `⊥ wins (prediction ${top})`;
    return `${withTitle ? `${spec.title}: ` : ""}${verdict} · certified radius ${round(radius)}`;
  }

  return {
    root,
    plane,
    draw,
    says,
    forget() {
      attacked = null;
      delete root.dataset.broken;
      verdict.textContent = "";
    },
    /** Sixteen ascents within the certified radius, or within epsilon; returns what they found, in words. */
    attack(within) {
      const { epsilon, point, radius, certified } = state();
      const reach = within === "radius" ? radius : epsilon;
      // Just inside: the certificate speaks of distances up to the radius, the attack's own sums are rounded.
      const { ends, broken } = attack(net, point, reach * (1 - 1e-9));
      const own = argmax(at(point));
      attacked = { tries: ends.map((end) => ({ end, found: argmax(at(end)) !== own })) };
      Object.assign(root.dataset, { broken, reach });
      const where = within === "radius" ? `the certified radius ${round(reach)}` : `ε = ${round(reach, 2)}`;
      const count = `${ends.length} attacks within ${where}: `;
      if (broken) verdict.textContent = `${count}${broken} found another class. The prediction is attackable.`;
      else if (within === "radius" || certified) verdict.textContent = `${count}none found another class, and none can: this is proven.`;
      else verdict.textContent = `${count}none found another class, yet nothing rules one out: unproven, not broken.`;
      return `${spec.title}: ${verdict.textContent}`;
    },
  };
}

function render({ model, el }) {
  const initial = { point: model.get("point"), epsilon: model.get("epsilon") };
  const root = element("div", container(model));
  root.dataset.widget = "MarginExplorer";
  const panels = ["gloro", "standard"].map((name) => panel(model, name));
  const spokenNow = announcer();
  let within = "radius";
  const forget = () => {
    for (const one of panels) one.forget();
  };
  const tell = () => spokenNow.say(() => `Point at ${spoken(model.get("point"))}. ${panels.map((one) => one.says(true)).join(". ")}.`);
  const move = (point) => {
    forget();
    model.set("point", point);
    model.save_changes();
    tell();
  };
  const strike = () => {
    const found = panels.map((one) => one.attack(within));
    drawing.request();
    spokenNow.now(found.join(" "));
  };
  for (const { plane } of panels) {
    presses(plane.canvas, {
      // The mouse takes the point to where it presses; a finger has to press the point, or it scrolls the page.
      grip: (event, touch) => !touch || plane.distance(event, model.get("point")) < FINGER,
      move: (event) => move(plane.fromEvent(event)),
      tap: (event) => move(plane.fromEvent(event)),
    });
    plane.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const point = plane.moved(model.get("point"), event);
      if (point) move(point);
      else if (event.key === "a" || event.key === "A") strike();
      else return;
      event.preventDefault();
    });
  }
  const epsilon = epsilonSlider(model);
  const reach = choice(
    "Attack within",
    [
      ["radius", "each net's certified radius"],
      ["epsilon", "ε"],
    ],
    within,
    (value) => {
      within = value;
      forget();
      drawing.request();
    },
  );
  const reset = () => {
    within = "radius";
    reach.show(within);
    forget();
    model.set(initial);
    model.save_changes();
    drawing.request();
    tell();
  };
  const ink = { stroke: "currentColor", fill: "none" };
  const hatch = hatching();
  const crossed = hatching(true);
  root.append(
    epsilon.root,
    element("div", { class: "gloro-row gloro-actions" }, reach.root, button("Attack the point", strike), button("Reset", reset)),
    element("div", { class: "gloro-row" }, ...panels.map((one) => one.root)),
    legend(
      [[svg("circle", { cx: 13, cy: 7, r: 5.5, "stroke-width": 2, ...ink })], "certified: no other class inside"],
      [[svg("circle", { cx: 13, cy: 7, r: 5.5, "stroke-dasharray": "3 2.4", ...ink })], "radius ε"],
      [[hatch.definition, svg("rect", { x: 1, y: 1, width: 24, height: 12, fill: hatch.fill })], "⊥ wins: unproven at ε"],
      [[crossed.definition, svg("rect", { x: 1, y: 1, width: 24, height: 12, fill: crossed.fill })], "within ε of the boundary: attackable"],
      [[svg("path", { d: "M8 2 l10 10 M18 2 l-10 10", stroke: ATTACK, "stroke-width": 2.5 })], "an attack that found another class"],
      [[svg("circle", { cx: 13, cy: 7, r: 3.5, fill: "none", stroke: ATTACK, "stroke-width": 1.8 })], "an attack that found no other class"],
    ),
    element(
      "p",
      { class: "gloro-hint" },
      "Press or tap a map to put the point there, or drag it. Keys on a map: arrows move the point, with Shift ten steps; A attacks it.",
    ),
    spokenNow.root,
  );
  mount(el, root);
  const drawing = redrawing(root, () => {
    epsilon.show(model.get("epsilon"));
    for (const one of panels) one.draw();
  });
  const changed = () => {
    forget();
    drawing.request();
  };
  const stops = [listen(model, ["epsilon"], changed), listen(model, ["point"], drawing.request)];
  return () => {
    for (const stop of stops) stop();
    drawing.stop();
  };
}

export default { render };
