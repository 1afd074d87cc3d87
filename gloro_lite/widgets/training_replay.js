import { boundaries, logits, network, predictions, verified, widened } from "./core.js";
import { COLORS, announcer, button, container, element, epsilonSlider, hatching, legend, listen, mount, redrawing, round, slider, svg } from "./page.js";
import { Plane } from "./plane.js";

const SIZE = 80;
const [WIDTH, HEIGHT, PAD, SIDE] = [330, 120, 18, 40];
const NETS = ["gloro", "standard"];

/** A small line chart of one quantity for both nets, with a line at the current epoch. */
function chart(title, { logarithmic = false, digits = 2 } = {}) {
  const scale = (v) => (logarithmic ? Math.log10(Math.max(v, 1e-6)) : v);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const words = svg("text", { x: 2, y: 13 });
  const cursor = svg("line", { y1: PAD, y2: HEIGHT - PAD, stroke: "currentColor", "stroke-dasharray": "3 3" });
  const foot = svg("line", { x1: SIDE, x2: WIDTH - PAD, y1: HEIGHT - PAD, y2: HEIGHT - PAD, stroke: "currentColor", "stroke-width": 0.6 });
  const marks = [0, 1].map(() => svg("text", { x: SIDE - 5, "text-anchor": "end" }));
  const curves = [0, 1].map((s) =>
    svg("polyline", { fill: "none", stroke: COLORS[s], "stroke-width": 2, ...(s ? { "stroke-dasharray": "6 3" } : {}) }),
  );
  picture.append(words, foot, cursor, ...marks, ...curves);
  let drawn = null;
  return {
    picture,
    draw(k, series, note = "") {
      const x = (e) => SIDE + (e / Math.max(series[0].length - 1, 1)) * (WIDTH - SIDE - PAD);
      if (drawn !== series) {
        drawn = series;
        const ends = [Math.min(...series.flat()), Math.max(...series.flat())];
        const [low, high] = ends.map(scale);
        const y = (v) => HEIGHT - PAD - ((scale(v) - low) / (high - low || 1)) * (HEIGHT - 2 * PAD - 12);
        ends.forEach((value, i) => {
          marks[i].setAttribute("y", y(value) + 4);
          marks[i].textContent = i && ends[0] === ends[1] ? "" : round(value, digits);
        });
        series.forEach((values, s) => {
          curves[s].setAttribute("points", values.map((v, e) => `${x(e).toFixed(1)},${y(v).toFixed(1)}`).join(" "));
        });
      }
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(k));
      const now = `${title}${note}: GloRo ${round(series[0][k], digits)}, standard ${round(series[1][k], digits)}`;
      words.textContent = now;
      picture.setAttribute("aria-label", `By epoch, and at epoch ${k}: ${now}`);
    },
  };
}

function render({ model, el }) {
  const initial = { epoch: model.get("epoch"), epsilon: model.get("epsilon") };
  const points = model.get("points");
  const labels = model.get("labels");
  const [px, py] = [0, 1].map((axis) => Float64Array.from(points, (point) => point[axis]));
  const panels = NETS.map((name) => {
    const spec = model.get(name);
    const plane = new Plane(
      model.get("frame"),
      `${spec.title}: a map of its classes and of bottom at the epoch shown. The left and right arrow keys step through the epochs.`,
    );
    const lattice = plane.lattice(SIZE);
    const weights = widened(model.get(`${name}_weights`));
    const { length } = network(spec.layers, weights);
    const net = (epoch) => network(spec.layers, weights, epoch * length);
    // What an epoch shows is computed when it is first asked for, and kept: going back costs a drawing only.
    const kept = (compute) => {
      const known = new Map();
      return (epoch) => {
        if (!known.has(epoch)) known.set(epoch, compute(epoch));
        return known.get(epoch);
      };
    };
    const map = kept((epoch) => {
      const outputs = logits(net(epoch), lattice.x, lattice.y);
      return { ...predictions(outputs, spec.constants[epoch]), boundary: plane.segments(boundaries(outputs, SIZE), SIZE) };
    });
    const ofPoints = kept((epoch) => predictions(logits(net(epoch), px, py), spec.constants[epoch]));
    const root = element("div", { class: "gloro-panel" }, element("p", { class: "gloro-title" }, spec.title), plane.canvas);
    return { name, spec, plane, map, ofPoints, root };
  });
  const epochs = panels[0].spec.history.length;
  const series = (key) => panels.map(({ spec }) => spec.history.map((row) => row[key]));
  let shownVra = { epsilon: null };
  const vra = (epsilon) => {
    if (shownVra.epsilon !== epsilon) {
      const curves = panels.map(({ ofPoints }) => Array.from({ length: epochs }, (_, e) => verified(ofPoints(e), labels, epsilon).vra));
      shownVra = { epsilon, curves };
    }
    return shownVra.curves;
  };
  const charts = {
    vra: chart("VRA"),
    margin: chart("Median margin"),
    lipschitz: chart("Largest K (log scale)", { logarithmic: true, digits: 1 }),
    entropy: chart("Cross-entropy without ⊥", { digits: 3 }),
  };
  const recorded = { margin: series("margin"), lipschitz: series("lipschitz"), entropy: series("cross_entropy") };
  const accuracy = series("accuracy");

  const text = element("p", { class: "gloro-readout" });
  const spokenNow = announcer();
  const show = (epoch) => {
    model.set("epoch", Math.min(Math.max(epoch, 0), epochs - 1));
    model.save_changes();
    if (!playing) spokenNow.say(() => text.textContent);
  };
  let playing = null;
  const pause = () => {
    if (playing) spokenNow.say(() => text.textContent);
    clearInterval(playing);
    playing = null;
    play.textContent = "Play";
  };
  const play = button("Play", () => {
    if (playing) return pause();
    if (model.get("epoch") >= epochs - 1) show(0);
    play.textContent = "Pause";
    playing = setInterval(() => {
      if (model.get("epoch") >= epochs - 1 || !drawing.onScreen()) pause();
      else show(model.get("epoch") + 1);
    }, 200);
  });
  const reset = button("Reset", () => {
    pause();
    model.set(initial);
    model.save_changes();
    drawing.request();
  });
  const epoch = slider({ words: "epoch", label: "epoch", low: 0, high: epochs - 1, step: 1, input: show });
  const epsilon = epsilonSlider(model);
  const line = { fill: "none", "stroke-width": 2.2 };
  const hatch = hatching();
  const root = element(
    "div",
    container(model),
    epoch.root,
    epsilon.root,
    element("div", { class: "gloro-row" }, ...panels.map((one) => one.root)),
    element("div", { class: "gloro-row gloro-actions" }, play, reset),
    text,
    element("div", { class: "gloro-row" }, ...Object.values(charts).map((one) => element("div", { class: "gloro-panel" }, one.picture))),
    legend(
      [[svg("path", { d: "M1 7 H25", stroke: COLORS[0], ...line })], "GloRo Net"],
      [[svg("path", { d: "M1 7 H25", stroke: COLORS[1], "stroke-dasharray": "6 3", ...line })], "standard net"],
      [[hatch.definition, svg("rect", { x: 1, y: 1, width: 24, height: 12, fill: hatch.fill })], "⊥ wins at the ε shown"],
    ),
    element("p", { class: "gloro-hint" }, "The arrow keys on a map step through the epochs too, with Shift five at a time."),
    spokenNow.root,
  );
  root.dataset.widget = "TrainingReplay";
  for (const { plane } of panels) {
    plane.canvas.classList.add("gloro-still-map");
    plane.canvas.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
      show(model.get("epoch") + way * (event.shiftKey ? 5 : 1));
      event.preventDefault();
    });
  }
  mount(el, root);

  const drawing = redrawing(root, () => {
    const now = Math.min(Math.max(model.get("epoch"), 0), epochs - 1);
    const radius = model.get("epsilon");
    epoch.show(now);
    epsilon.show(radius);
    for (const { plane, map } of panels) {
      const { prediction, radius: certified, boundary } = map(now);
      plane.clear();
      plane.regions(SIZE, (k) => prediction[k], (k) => !(certified[k] > radius));
      plane.lines(boundary, { width: 1.6 });
      plane.points(points, labels, 2.6);
    }
    const curves = vra(radius);
    charts.vra.draw(now, curves, ` at ε = ${round(radius, 2)}`);
    for (const [key, values] of Object.entries(recorded)) charts[key].draw(now, values);
    const percent = (value) => `${round(100 * value, 0)}%`;
    text.textContent =
      `Epoch ${now}, of 0 to ${epochs - 1}. GloRo Net: accuracy ${percent(accuracy[0][now])}, VRA ${percent(curves[0][now])} at ε = ${round(radius, 2)}. ` +
      `Standard net: accuracy ${percent(accuracy[1][now])}, VRA ${percent(curves[1][now])}.`;
    const bottom = panels.map(({ map }) => map(now).radius.filter((r) => !(r > radius)).length / SIZE ** 2);
    const both = JSON.stringify(curves.map((curve) => curve[now]));
    Object.assign(root.dataset, { epoch: now, vra: both, margin: recorded.margin[0][now], bottom: JSON.stringify(bottom) });
    prepareLater();
  });

  // The other epochs' maps while the reader looks at this one, so that moving the slider only draws.
  let ahead = epochs - 1;
  let later = 0;
  const prepare = () => {
    later = 0;
    if (!drawing.onScreen()) return;
    for (const one of panels) one.map(ahead);
    ahead -= 1;
    prepareLater();
  };
  function prepareLater() {
    if (ahead >= 0 && !later) later = setTimeout(prepare, 40);
  }
  const stop = listen(model, ["epoch", "epsilon"], drawing.request);
  return () => {
    clearTimeout(later);
    pause();
    stop();
    drawing.stop();
  };
}

export default { render };
