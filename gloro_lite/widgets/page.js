// What all widgets share on a page: elements, native controls, what is spoken, and drawing only while on screen.

import { palette } from "./palette.js";

export const { classes: COLORS, names: NAMES, bottom: BOTTOM, attack: ATTACK } = palette;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** What a widget's outermost element is called. */
export const container = (model) => ({ class: "gloro-widget", role: "group", "aria-label": model.get("description") });

/** Put a widget in its place. JupyterLab's own keys, of which A inserts a cell and arrows move between cells, rest while a part of it
 * has the focus. */
export function mount(el, root) {
  for (const part of root.querySelectorAll("button, canvas, input, summary")) part.setAttribute("data-lm-suppress-shortcuts", "true");
  el.append(root);
}

/** A number in as many decimals, with a minus sign that is read aloud as one; infinities as signs, and no negative zero. */
export function round(value, digits = 3) {
  const text = Number.isFinite(value) ? Math.abs(value).toFixed(digits) : "∞";
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** How a point is shown and read aloud. */
export const spoken = ([x, y]) => `(${round(x, 2)}, ${round(y, 2)})`;

/** How many decimals a slider of this step shows: 2 for 0.01. */
export const decimals = (step) => Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));

/** The multiple of `step` from `low` that is nearest to a value, as short as the step is: 0.3, not 0.30000000000000004. */
export const snapped = (value, low, step) => Number((low + Math.round((value - low) / step) * step).toFixed(decimals(step) + 2));

/** A name that no other widget on the page has, though each has its own copy of this module. */
const unique = (name) => `gloro-${name}-${Math.random().toString(36).slice(2)}`;

export const button = (words, act, attributes = {}) =>
  element("button", { type: "button", class: "gloro-button", onclick: act, ...attributes }, words);

/** A native slider: `show(value)` moves it, `input(value)` is called when the reader does. `label` starts with `words`. */
export function slider({ words, label, low, high, step, input, unit = "" }) {
  const track = element("input", { type: "range", min: low, max: high, step, "aria-label": label });
  const shown = element("output", { "aria-hidden": "true" });
  track.addEventListener("input", () => input(snapped(Number(track.value), low, step)));
  return {
    root: element("label", { class: "gloro-slider" }, element("span", { "aria-hidden": "true" }, words), track, shown),
    track,
    show(value) {
      const text = round(value, decimals(step)) + unit;
      track.value = value;
      track.setAttribute("aria-valuetext", text);
      shown.textContent = text;
    },
  };
}

/** The slider of epsilon that every widget has. */
export function epsilonSlider(model) {
  const epsilon = model.get("epsilon");
  return slider({
    words: "ε",
    label: "ε, the radius, in input units",
    low: 0.01,
    high: Math.max(model.get("largest"), epsilon),
    step: 0.01,
    input(value) {
      model.set("epsilon", value);
      model.save_changes();
    },
  });
}

/** Radio buttons: `options` are pairs of a value and its words. */
export function choice(legend, options, value, input) {
  const name = unique("choice");
  const boxes = options.map(([one, words]) => {
    const box = element("input", { type: "radio", name, value: one, onchange: () => input(one) });
    box.checked = one === value;
    return [one, box, element("label", {}, box, element("span", {}, words))];
  });
  return {
    root: element("fieldset", { class: "gloro-choice" }, element("legend", {}, legend), ...boxes.map(([, , label]) => label)),
    show(next) {
      for (const [one, box] of boxes) box.checked = one === next;
    },
  };
}

/** A live region: hidden for what the picture shows anyway, and visible for what only words say. */
export function announcer(visible = false) {
  const root = element("p", { class: visible ? "gloro-note" : "gloro-spoken", role: "status" });
  let later = 0;
  return {
    root,
    /** Say what `words()` is once the reader has paused, and not at every step of a drag. */
    say(words) {
      clearTimeout(later);
      later = setTimeout(() => {
        const text = words();
        if (root.textContent !== text) root.textContent = text;
      }, 400);
    },
    /** Say this at once, though it was the last thing said. */
    now(text) {
      clearTimeout(later);
      root.textContent = "";
      root.textContent = text;
    },
  };
}

/** A legend: pairs of the inside of a 26 x 14 picture and its words. */
export function legend(...entries) {
  const list = element("ul", { class: "gloro-legend" });
  for (const [marks, words] of entries) {
    const picture = svg("svg", { viewBox: "0 0 26 14", width: 26, height: 14, "aria-hidden": "true" }, ...marks);
    list.append(element("li", {}, picture, element("span", {}, words)));
  }
  return list;
}

/** A pattern of diagonal lines, or of lines both ways, that fills what is bottom's in an SVG picture: its definition, and the fill. */
export function hatching(both = false) {
  const id = unique("hatch");
  const ways = "M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2" + (both ? " M-1,5 l2,2 M0,0 l6,6 M5,-1 l2,2" : "");
  const line = svg("path", { d: ways, stroke: "currentColor", "stroke-width": both ? 0.8 : 1.1 });
  const ground = svg("rect", { width: 6, height: 6, fill: BOTTOM, "fill-opacity": 0.3 });
  const pattern = svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, ground, line);
  return { definition: svg("defs", {}, pattern), fill: `url(#${id})` };
}

/** Presses of a picture. `grip(event)` says whether a press takes hold of something: then `move(event)` follows the pointer until it
 * is let go. Any other touch is left to the page, which may scroll; where it was a tap, `tap(event)` is called. */
export function presses(target, { grip, move, tap, drop = () => {} }) {
  let held = null;
  let gripped = false;
  // A touch that takes hold must not scroll the page; what the style sheet could say of the whole picture is said of this touch.
  target.addEventListener(
    "touchstart",
    (event) => {
      if (event.touches.length === 1 && event.cancelable && grip(event.touches[0], true)) event.preventDefault();
    },
    { passive: false },
  );
  target.addEventListener("pointerdown", (event) => {
    if (event.button || held !== null) return;
    gripped = grip(event, event.pointerType !== "mouse");
    if (!gripped) return;
    held = event.pointerId;
    target.setPointerCapture(held);
    move(event);
  });
  target.addEventListener("pointermove", (event) => {
    if (event.pointerId === held) move(event);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    target.addEventListener(kind, (event) => {
      if (event.pointerId !== held) return;
      held = null;
      drop();
    });
  }
  target.addEventListener("click", (event) => {
    if (!gripped) tap(event);
  });
}

/** Call `draw` at most once a frame and only while `root` is on screen or near; measure it. It is called again when the page's theme
 * changes, and before the page is printed. */
export function redrawing(root, draw) {
  let due = false;
  let stale = true;
  let near = typeof IntersectionObserver === "undefined";
  let printing = false;
  let drawn = 0;
  const run = () => {
    due = false;
    if (!near && !printing) return;
    stale = false;
    const start = performance.now();
    draw();
    drawn += 1;
    Object.assign(root.dataset, { redraws: drawn, redrawMs: (performance.now() - start).toFixed(2) });
  };
  const request = () => {
    stale = true;
    if (printing) run();
    if (due || !near) return;
    due = true;
    requestAnimationFrame(run);
  };
  const theme = new MutationObserver(request);
  theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-mode", "class"] });
  const screen = near
    ? null
    : new IntersectionObserver(
        (entries) => {
          near = entries[entries.length - 1].isIntersecting;
          if (near && stale) request();
        },
        { rootMargin: "150px" },
      );
  screen?.observe(root);
  const print = ({ type }) => {
    printing = type === "beforeprint";
    if (printing) run();
    else request();
  };
  const contrast = window.matchMedia?.("(forced-colors: active)");
  for (const kind of ["beforeprint", "afterprint"]) window.addEventListener(kind, print);
  contrast?.addEventListener?.("change", request);
  if (near) run();
  return {
    request,
    onScreen: () => near,
    stop() {
      theme.disconnect();
      screen?.disconnect();
      for (const kind of ["beforeprint", "afterprint"]) window.removeEventListener(kind, print);
      contrast?.removeEventListener?.("change", request);
    },
  };
}

/** Listen to changes of a model's traits; returns what stops it. */
export function listen(model, names, act) {
  for (const name of names) model.on(`change:${name}`, act);
  return () => {
    for (const name of names) model.off(`change:${name}`, act);
  };
}
