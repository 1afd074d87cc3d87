import { contour, distanceToFaces, nearestSite, separation, voronoiFaces } from "./core.js";
import { NAMES, Plane, element, redrawing, round } from "./plane.js";

const SIZE = 100;
const MOST = 60;

function render({ model, el }) {
  const plane = new Plane(
    model.get("frame"),
    "A map of the sites. N and P select a site, the arrow keys move it, A adds one, L changes its label, Delete removes it.",
    480,
  );
  const text = element("p", { class: "gloro-readout", "aria-live": "polite" });
  const at = element("p", { class: "gloro-at" });
  let selected = 0;
  let dragging = false;
  let pointer = null;

  function change(sites, labels) {
    model.set({ sites, labels });
    model.save_changes();
    drawing.request();
  }
  const actions = {
    add() {
      const { sites, labels } = state();
      if (sites.length >= MOST) return;
      const place = pointer ?? [plane.left + plane.side / 2, plane.bottom + plane.side / 2];
      selected = sites.length;
      change([...sites, place], [...labels, labels.length ? labels[nearestSite(sites, ...place)] : 0]);
    },
    remove() {
      const { sites, labels } = state();
      if (sites.length <= 2) return;
      const keep = (_, k) => k !== selected;
      const [left, leftLabels] = [sites.filter(keep), labels.filter(keep)];
      if (new Set(leftLabels).size < 2) return;
      selected = Math.max(0, selected - 1);
      change(left, leftLabels);
    },
    relabel() {
      const { sites, labels } = state();
      const next = labels.map((v, k) => (k === selected ? (v + 1) % model.get("classes") : v));
      if (new Set(next).size < 2) return;
      change(sites, next);
    },
    select(step) {
      selected = (selected + step + model.get("sites").length) % model.get("sites").length;
      drawing.request();
    },
  };
  const state = () => ({ sites: model.get("sites"), labels: model.get("labels") });
  const moveSelected = (place) => change(model.get("sites").map((v, k) => (k === selected ? place : v)), model.get("labels"));

  plane.canvas.addEventListener("pointerdown", (event) => {
    const place = plane.fromEvent(event);
    const nearest = nearestSite(model.get("sites"), ...place);
    const [sx, sy] = model.get("sites")[nearest];
    if (Math.hypot(place[0] - sx, place[1] - sy) < 0.05 * plane.side) {
      selected = nearest;
      dragging = true;
      plane.canvas.setPointerCapture(event.pointerId);
      drawing.request();
    }
  });
  plane.canvas.addEventListener("pointermove", (event) => {
    pointer = plane.fromEvent(event);
    if (dragging) moveSelected(pointer);
    else drawing.request();
  });
  for (const kind of ["pointerup", "pointercancel"]) plane.canvas.addEventListener(kind, () => (dragging = false));
  plane.canvas.addEventListener("pointerleave", () => {
    if (dragging) return;
    pointer = null;
    drawing.request();
  });
  plane.canvas.addEventListener("dblclick", (event) => {
    pointer = plane.fromEvent(event);
    actions.add();
  });
  plane.canvas.addEventListener("keydown", (event) => {
    const place = plane.moved(model.get("sites")[selected], event);
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
  const button = (words, act) => element("button", { type: "button", class: "gloro-button", onclick: act }, words);
  const root = element(
    "div",
    { class: "gloro-widget", role: "group", "aria-label": model.get("description") },
    element("div", { class: "gloro-playground" }, plane.canvas),
    element(
      "div",
      { class: "gloro-row" },
      button("Next site", () => actions.select(1)),
      button("Add", actions.add),
      button("Delete", actions.remove),
      button("Relabel", actions.relabel),
    ),
    text,
    at,
    element(
      "p",
      { class: "gloro-hint" },
      "Drag a site; double-click to add one. Bold: decision faces. Thin: level curves of g at ε/2, ε, 2ε, 3ε. Dotted: discs of radius ε. " +
        "Red rings: sites that break 2ε-separation. Keys: N, P select; arrows move; A adds; L relabels; Delete removes.",
    ),
  );
  el.append(root);

  let computed = null;
  const drawing = redrawing(root, () => {
    const { sites, labels } = state();
    const epsilon = model.get("epsilon");
    selected = Math.min(selected, sites.length - 1);
    const key = JSON.stringify([sites, labels]);
    if (computed?.key !== key) {
      const faces = voronoiFaces(sites);
      const decision = faces.filter((f) => labels[f.p] !== labels[f.q]);
      const { x, y } = plane.lattice(SIZE);
      const field = x.map((v, k) => distanceToFaces(decision, v, y[k]));
      const nearest = Int32Array.from(x, (v, k) => labels[nearestSite(sites, v, y[k])]);
      computed = { key, faces, decision, field, nearest };
    }
    const { faces, decision, field, nearest } = computed;
    plane.clear();
    plane.regions(SIZE, (k) => nearest[k], (k) => !(field[k] > epsilon));
    for (const level of [0.5, 1, 2, 3]) plane.lines(contour(field, SIZE, level * epsilon), SIZE, { width: level === 1 ? 1.4 : 0.7 });
    for (const f of faces) {
      const bold = labels[f.p] !== labels[f.q];
      const ends = [f.from, f.to].map((t) => {
        const far = Math.min(Math.max(t, -20 * plane.side), 20 * plane.side);
        return plane.toPixels(f.x + far * f.dx, f.y + far * f.dy);
      });
      plane.context.beginPath();
      plane.context.moveTo(...ends[0]);
      plane.context.lineTo(...ends[1]);
      plane.stroke(bold ? { width: 2.6 } : { width: 0.6 });
    }
    const { broken, least, closest } = separation(sites, labels, epsilon);
    for (const site of sites) plane.circle(...site, epsilon, { width: 0.9, dash: [2, 3] });
    plane.points(sites, labels, 4.5);
    for (const k of new Set(broken.flat())) plane.circle(...sites[k], plane.side / 45, { color: "#D55E00", width: 3 });
    plane.circle(...sites[selected], plane.side / 32, { width: 1.6, dash: [5, 3] });

    const apart = broken.length
      ? `not 2ε-separated: ${broken.length} ${broken.length === 1 ? "pair" : "pairs"}, the closest sites ${closest[0]} and ${closest[1]}` +
        (least === 0 ? ", which coincide: no g parts them" : "")
      : "2ε-separated: g certifies every site";
    text.textContent =
      `${sites.length} sites, least distance between labels ${round(least)}, 2ε = ${round(2 * epsilon)}: ${apart}. ` +
      `Selected: site ${selected}, ${NAMES[labels[selected]]}.`;
    const place = pointer ?? sites[selected];
    const g = distanceToFaces(decision, ...place);
    at.textContent =
      `At the ${pointer ? "pointer" : "selected site"}: ${NAMES[labels[nearestSite(sites, ...place)]]}, ` +
      `g = ${round(g)}${g > epsilon ? "" : ", not more than ε: ⊥"}`;
    const shown = { sites: JSON.stringify(sites), labels: JSON.stringify(labels), place: JSON.stringify(place) };
    Object.assign(root.dataset, { ...shown, least, broken: broken.length, selected, g });
  });
  for (const name of ["sites", "labels", "epsilon"]) model.on(`change:${name}`, drawing.request);
  return () => {
    for (const name of ["sites", "labels", "epsilon"]) model.off(`change:${name}`, drawing.request);
    drawing.stop();
  };
}

export default { render };
