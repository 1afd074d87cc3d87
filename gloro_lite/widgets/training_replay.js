import { boundaries, logits, network, predictions } from "./core.js";
import { COLORS, Plane, element, redrawing, round, svg } from "./plane.js";

const SIZE = 80;
const [WIDTH, HEIGHT, PAD, SIDE] = [330, 120, 18, 40];

/** A small line chart of one quantity for both nets, with a line at the current epoch. */
function chart(title, series, logarithmic) {
  const scale = (v) => (logarithmic ? Math.log10(Math.max(v, 1e-6)) : v);
  const all = series.flat().map(scale);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (k, n) => SIDE + (k / Math.max(n - 1, 1)) * (WIDTH - SIDE - PAD);
  const y = (v) => HEIGHT - PAD - ((scale(v) - low) / (high - low || 1)) * (HEIGHT - 2 * PAD - 8);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by epoch` });
  const words = svg("text", { x: SIDE, y: 13 });
  const cursor = svg("line", { y1: PAD, y2: HEIGHT - PAD, stroke: "currentColor", "stroke-dasharray": "3 3" });
  const foot = svg("line", { x1: SIDE, x2: WIDTH - PAD, y1: HEIGHT - PAD, y2: HEIGHT - PAD, stroke: "currentColor", "stroke-width": 0.6 });
  picture.append(words, foot, cursor);
  for (const value of [Math.min(...series.flat()), Math.max(...series.flat())]) {
    const mark = svg("text", { x: SIDE - 5, y: y(value) + 4, "text-anchor": "end" });
    mark.textContent = round(value, 1);
    picture.append(mark);
  }
  series.forEach((values, s) => {
    const points = values.map((v, k) => `${x(k, values.length).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    picture.append(
      svg("polyline", { points, fill: "none", stroke: COLORS[s], "stroke-width": 2, ...(s ? { "stroke-dasharray": "6 3" } : {}) }),
    );
  });
  return {
    picture,
    draw(k) {
      const at = x(k, series[0].length);
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
      words.textContent = `${title}: GloRo ${round(series[0][k], 2)}, standard ${round(series[1][k], 2)}`;
    },
  };
}

function render({ model, el }) {
  const names = ["gloro", "standard"];
  const panels = names.map((name) => {
    const spec = model.get(name);
    const plane = new Plane(model.get("frame"), `${spec.title}: a map of its classes and of bottom at the epoch shown; the left and right arrows step through the epochs`);
    const lattice = plane.lattice(SIZE);
    const weights = model.get(`${name}_weights`);
    const length = network(spec.layers, weights).length;
    const seen = new Map();
    // An epoch's map is computed when it is first shown, and kept: going back costs a drawing only.
    const at = (epoch) => {
      if (!seen.has(epoch)) {
        const { layers } = network(spec.layers, weights, epoch * length);
        const outputs = logits({ layers }, lattice.x, lattice.y);
        seen.set(epoch, { ...predictions(outputs, spec.constants[epoch]), boundary: boundaries(outputs, SIZE) });
      }
      return seen.get(epoch);
    };
    return { name, spec, plane, at, root: element("div", { class: "gloro-panel" }, element("h4", {}, spec.title), plane.canvas) };
  });
  const epochs = panels[0].spec.history.length;
  const series = (key) => panels.map(({ spec }) => spec.history.map((row) => row[key]));
  const charts = [
    chart("VRA at the trained ε", series("vra")),
    chart("median margin", series("margin")),
    chart("largest K (log scale)", series("lipschitz"), true),
    chart("loss", series("loss")),
  ];
  const text = element("p", { class: "gloro-readout", "aria-live": "polite" });
  const show = (epoch) => {
    model.set("epoch", Math.min(Math.max(epoch, 0), epochs - 1));
    model.save_changes();
  };
  let playing = null;
  const pause = () => {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play";
  };
  const play = element("button", { type: "button", class: "gloro-button" }, "Play");
  play.addEventListener("click", () => {
    if (playing) return pause();
    if (model.get("epoch") >= epochs - 1) show(0);
    play.textContent = "Pause";
    playing = setInterval(() => (model.get("epoch") >= epochs - 1 ? pause() : show(model.get("epoch") + 1)), 200);
  });
  const root = element(
    "div",
    { class: "gloro-widget", role: "group", "aria-label": model.get("description") },
    element("div", { class: "gloro-row" }, ...panels.map((one) => one.root)),
    element("div", { class: "gloro-row" }, play),
    text,
    element("div", { class: "gloro-row" }, ...charts.map((one) => element("div", { class: "gloro-panel" }, one.picture))),
    element("p", { class: "gloro-hint" }, "Solid: GloRo. Dashed: standard. Move the epoch with the slider, or with the arrow keys on a map."),
  );
  for (const { plane } of panels) {
    plane.canvas.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way) return;
      show(model.get("epoch") + way * (event.shiftKey ? 5 : 1));
      event.preventDefault();
    });
  }
  el.append(root);
  const drawing = redrawing(root, () => {
    const epoch = Math.min(Math.max(model.get("epoch"), 0), epochs - 1);
    const epsilon = model.get("epsilon");
    for (const { plane, at } of panels) {
      const { prediction, radius, boundary } = at(epoch);
      plane.clear();
      plane.regions(SIZE, (k) => prediction[k], (k) => !(radius[k] > epsilon));
      plane.lines(boundary, SIZE, { width: 1.4 });
      plane.points(model.get("points"), model.get("labels"), 2.6);
    }
    for (const one of charts) one.draw(epoch);
    const row = panels.map(({ spec }) => spec.history[epoch]);
    text.textContent =
      `Epoch ${epoch}, of 0 to ${epochs - 1}. Accuracy ${round(row[0].accuracy, 2)} with GloRo, ${round(row[1].accuracy, 2)} without; ` +
      `VRA ${round(row[0].vra, 2)} with, ${round(row[1].vra, 2)} without.`;
    const grey = panels.map(({ at }) => at(epoch).radius.filter((r) => !(r > epsilon)).length / SIZE ** 2);
    Object.assign(root.dataset, { epoch, vra: row[0].vra, margin: row[0].margin, grey: JSON.stringify(grey) });
  });
  for (const name of ["epoch", "epsilon"]) model.on(`change:${name}`, drawing.request);
  // The other epochs' maps while the reader reads, so that moving the slider only draws.
  let ahead = epochs - 1;
  const prepare = () => {
    if (ahead < 0) return;
    for (const one of panels) one.at(ahead);
    ahead -= 1;
    later = setTimeout(prepare, 30);
  };
  let later = setTimeout(prepare, 500);
  return () => {
    clearTimeout(later);
    pause();
    for (const name of ["epoch", "epsilon"]) model.off(`change:${name}`, drawing.request);
    drawing.stop();
  };
}

export default { render };
