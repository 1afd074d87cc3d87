import { contour, distanceToFaces, nearestSite, separation, voronoiFaces } from "./core.js";
import { ATTACK, NAMES, announcer, button, choice, container, element, epsilonSlider, hatching, legend, listen, mount, presses, redrawing, round, spoken, svg } from "./page.js";
import { Plane } from "./plane.js";

const SIZE = 100;
const FINGER = 22; // pixels around a site that a press takes hold of

function render({ model, el }) {
  const initial = Object.fromEntries(["sites", "labels", "epsilon"].map((name) => [name, model.get(name)]));
  const most = model.get("most");
  const plane = new Plane(
    model.get("frame"),
    "A map of the sites. N and P select a site, the arrow keys move it, A adds one, L changes its label, Delete removes it.",
    480,
  );
  const text = element("p", { class: "gloro-readout" });
  const at = element("p", { class: "gloro-at" });
  const note = announcer(true);
  const spokenNow = announcer();
  let selected = 0;
  let tapping = "look";
  let hover = null; // where the mouse is
  let probe = null; // where a tap or a click asked for g

  const state = () => ({ sites: model.get("sites"), labels: model.get("labels") });
  const describe = () => {
    const { sites, labels } = state();
    return `Site ${selected} of ${sites.length}, ${NAMES[labels[selected]]}, at ${spoken(sites[selected])}`;
  };
  function change(sites, labels, words) {
    model.set({ sites, labels });
    model.save_changes();
    note.now(words ?? "");
    drawing.request();
    spokenNow.say(() => words ?? `${describe()}. ${apart().words}.`);
  }
  const refuse = (words) => {
    note.now(words);
    return false;
  };
  const apart = () => {
    const { sites, labels } = state();
    const { broken, least, closest } = separation(sites, labels, model.get("epsilon"));
    const words = broken.length
      ? `not 2ε-separated: ${broken.length} ${broken.length === 1 ? "pair" : "pairs"}, the closest sites ${closest[0]} and ${closest[1]}` +
        (least === 0 ? ", which coincide: no g parts them" : "")
      : "2ε-separated: g certifies every site";
    return { broken, least, words };
  };
  /** A place that no site has: the one that was asked for, or the next on a spiral around it. */
  const free = ([x, y]) => {
    const { sites } = state();
    for (let k = 0; ; k++) {
      const reach = 0.03 * plane.side * Math.sqrt(k);
      const place = plane.clamp([x + reach * Math.cos(2.4 * k), y + reach * Math.sin(2.4 * k)]);
      if (k > 200 || sites.every(([a, b]) => Math.hypot(a - place[0], b - place[1]) > 0.02 * plane.side)) return place;
    }
  };
  const actions = {
    add(place) {
      const { sites, labels } = state();
      if (sites.length >= most) return refuse(`There are ${most} sites already, the most that this picture takes. Delete one first.`);
      const wanted = free(place ?? hover ?? probe ?? [plane.left + plane.side / 2, plane.bottom + plane.side / 2]);
      selected = sites.length;
      const label = labels[nearestSite(sites, ...wanted)];
      change([...sites, wanted], [...labels, label], `Site ${selected} added at ${spoken(wanted)}, ${NAMES[label]}.`);
    },
    remove() {
      const { sites, labels } = state();
      if (sites.length <= 2) return refuse("Two sites must stay: one of each label, or there is no face between labels.");
      const keep = (_, k) => k !== selected;
      const left = labels.filter(keep);
      if (new Set(left).size < 2) return refuse(`Site ${selected} stays: it is the last of its label, and two labels must be left.`);
      const gone = selected;
      selected = Math.max(0, selected - 1);
      change(sites.filter(keep), left, `Site ${gone} deleted; ${left.length} are left.`);
    },
    relabel() {
      const { sites, labels } = state();
      const classes = model.get("classes");
      // The next label that leaves two labels on the map.
      for (let step = 1; step < classes; step++) {
        const next = labels.map((v, k) => (k === selected ? (v + step) % classes : v));
        if (new Set(next).size >= 2) return change(sites, next, `Site ${selected} is ${NAMES[next[selected]]} now.`);
      }
      return refuse(`Site ${selected} keeps its label: two labels must be left.`);
    },
    select(step) {
      selected = (selected + step + state().sites.length) % state().sites.length;
      note.now("");
      drawing.request();
      spokenNow.say(describe);
    },
    reset() {
      selected = 0;
      hover = probe = null;
      tapping = "look";
      taps.show(tapping);
      model.set(initial);
      model.save_changes();
      note.now("As at the start.");
      drawing.request();
    },
  };
  const moveSelected = (place) => change(state().sites.map((v, k) => (k === selected ? place : v)), state().labels);
  const under = (event) => {
    const { sites } = state();
    const nearest = nearestSite(sites, ...plane.fromEvent(event));
    return plane.distance(event, sites[nearest]) < FINGER ? nearest : null;
  };

  let dragging = false;
  presses(plane.canvas, {
    grip(event) {
      const site = under(event);
      // What the press starts to move keeps its place until the pointer moves: see `move`.
      if (site === null || (tapping !== "look" && site !== selected)) return false;
      selected = site;
      dragging = "pressed";
      origin = [event.clientX, event.clientY];
      drawing.request();
      return true;
    },
    move(event) {
      hover = null;
      probe = null;
      if (dragging === "pressed" && Math.hypot(event.clientX - origin[0], event.clientY - origin[1]) < 3) return;
      dragging = true;
      moveSelected(plane.fromEvent(event));
    },
    drop() {
      if (dragging === "pressed") spokenNow.say(describe);
      dragging = false;
    },
    tap(event) {
      const place = plane.fromEvent(event);
      if (tapping === "move") moveSelected(place);
      else if (tapping === "add") actions.add(place);
      else {
        probe = place;
        note.now("");
        drawing.request();
        spokenNow.say(() => `At ${spoken(place)}: ${atWords(place).words}`);
      }
    },
  });
  let origin = null;
  plane.canvas.addEventListener("pointermove", (event) => {
    if (dragging || event.pointerType !== "mouse") return;
    hover = plane.fromEvent(event);
    drawing.request();
  });
  plane.canvas.addEventListener("pointerleave", () => {
    hover = null;
    drawing.request();
  });
  plane.canvas.addEventListener("dblclick", (event) => {
    if (tapping === "look") actions.add(plane.fromEvent(event));
  });
  plane.canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = plane.moved(state().sites[selected], event);
    const key = event.key.toLowerCase();
    if (place) moveSelected(place);
    else if (key === "n") actions.select(1);
    else if (key === "p") actions.select(-1);
    else if (key === "a") actions.add();
    else if (key === "l") actions.relabel();
    else if (key === "delete" || key === "backspace") actions.remove();
    else return;
    event.preventDefault();
  });

  const epsilon = epsilonSlider(model);
  const taps = choice(
    "A tap on the map",
    [
      ["look", "selects a site, or shows g there"],
      ["move", "moves the selected site there"],
      ["add", "adds a site there"],
    ],
    tapping,
    (value) => {
      tapping = value;
    },
  );
  const line = { stroke: "currentColor", fill: "none" };
  const hatch = hatching();
  const root = element(
    "div",
    container(model),
    epsilon.root,
    element("div", { class: "gloro-playground" }, plane.canvas),
    taps.root,
    element(
      "div",
      { class: "gloro-row gloro-actions" },
      button("Previous site", () => actions.select(-1)),
      button("Next site", () => actions.select(1)),
      button("Add", () => actions.add()),
      button("Delete", actions.remove),
      button("Relabel", actions.relabel),
      button("Reset", actions.reset),
    ),
    note.root,
    text,
    at,
    legend(
      [[svg("path", { d: "M1 7 H25", "stroke-width": 2.8, ...line })], "face between two labels"],
      [[svg("path", { d: "M1 7 H25", "stroke-width": 1, ...line })], "level curves of g at ε/2, ε (thicker), 2ε, 3ε; faces within a label"],
      [[svg("circle", { cx: 13, cy: 7, r: 5.5, "stroke-dasharray": "2 3", ...line })], "disc of radius ε around a site"],
      [[hatch.definition, svg("rect", { x: 1, y: 1, width: 24, height: 12, fill: hatch.fill })], "g ≤ ε: ⊥ wins"],
      [[svg("circle", { cx: 13, cy: 7, r: 5, fill: "none", stroke: ATTACK, "stroke-width": 3 })], "breaks 2ε-separation"],
      [[svg("circle", { cx: 13, cy: 7, r: 5.5, "stroke-dasharray": "5 3", "stroke-width": 1.6, ...line })], "selected site"],
    ),
    element(
      "p",
      { class: "gloro-hint" },
      "Drag a site; double-click to add one. Keys on the map: N, P select; arrows move, with Shift ten steps; A adds; L relabels; Delete removes.",
    ),
    spokenNow.root,
  );
  root.dataset.widget = "VoronoiPlayground";
  mount(el, root);

  let computed = null;
  function known() {
    const { sites, labels } = state();
    const key = JSON.stringify([sites, labels]);
    if (computed?.key !== key) {
      const faces = voronoiFaces(sites);
      computed = { key, faces, decision: faces.filter((f) => labels[f.p] !== labels[f.q]), field: null };
    }
    return computed;
  }
  function atWords(place) {
    const { sites, labels } = state();
    const g = distanceToFaces(known().decision, ...place);
    const label = NAMES[labels[nearestSite(sites, ...place)]];
    return { g, words: `${label}, g = ${round(g)}${g > model.get("epsilon") ? "" : ", not more than ε: ⊥"}` };
  }
  const drawing = redrawing(root, () => {
    const { sites, labels } = state();
    const radius = model.get("epsilon");
    epsilon.show(radius);
    selected = Math.min(selected, sites.length - 1);
    const map = known();
    if (!map.field) {
      const { x, y } = plane.lattice(SIZE);
      map.field = x.map((v, k) => distanceToFaces(map.decision, v, y[k]));
      map.nearest = Int32Array.from(x, (v, k) => labels[nearestSite(sites, v, y[k])]);
    }
    const { faces, field, nearest } = map;
    plane.clear();
    plane.regions(SIZE, (k) => nearest[k], (k) => !(field[k] > radius));
    for (const level of [0.5, 1, 2, 3]) {
      plane.lines(plane.segments(contour(field, SIZE, level * radius), SIZE), { width: level === 1 ? 1.6 : 0.8 });
    }
    for (const f of faces) {
      const bold = labels[f.p] !== labels[f.q];
      const [from, to] = [f.from, f.to].map((t) => {
        const far = Math.min(Math.max(t, -20 * plane.side), 20 * plane.side);
        return [f.x + far * f.dx, f.y + far * f.dy];
      });
      plane.lines([[...from, ...to]], { width: bold ? 2.8 : 0.7 });
    }
    const { broken, least, words } = apart();
    for (const site of sites) plane.circle(...site, radius, { width: 1, dash: [2, 3] });
    plane.points(sites, labels, 5);
    for (const k of new Set(broken.flat())) plane.circle(...sites[k], plane.side / 42, { color: ATTACK, width: 3 });
    plane.circle(...sites[selected], plane.side / 30, { width: 1.8, dash: [5, 3] });
    if (probe && !hover) plane.cross(...probe, 6, { width: 1.8 });

    text.textContent =
      `${sites.length} sites, least distance between labels ${round(least)}, 2ε = ${round(2 * radius)}: ${words}. ` +
      `Selected: site ${selected}, ${NAMES[labels[selected]]}, at ${spoken(sites[selected])}.`;
    const asked = hover ?? probe;
    const place = asked ?? sites[selected];
    const { g, words: there } = atWords(place);
    at.textContent = `${asked ? `At ${spoken(place)}` : "At the selected site"}: ${there}`;
    const shown = { sites: JSON.stringify(sites), labels: JSON.stringify(labels), place: JSON.stringify(place) };
    Object.assign(root.dataset, { ...shown, least, broken: broken.length, selected, g });
  });
  const stop = listen(model, ["sites", "labels", "epsilon"], drawing.request);
  return () => {
    stop();
    drawing.stop();
  };
}

export default { render };
