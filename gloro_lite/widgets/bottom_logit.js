import { argmax, bottomLogit, marginConstants } from "./core.js";
import { BOTTOM, COLORS, NAMES, element, redrawing, round, svg } from "./plane.js";

const [WIDTH, HEIGHT, RANGE] = [330, 240, 4];
const yOf = (value) => HEIGHT / 2 - (value / RANGE) * (HEIGHT / 2 - 14);
const valueOf = (y) => Math.min(Math.max(((HEIGHT / 2 - y) / (HEIGHT / 2 - 14)) * RANGE, -RANGE), RANGE);

/** Where a pointer is in the picture's own coordinates. */
function place(picture, event) {
  const box = picture.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * WIDTH, ((event.clientY - box.top) / box.height) * HEIGHT];
}

function draggable(handle, picture, moved) {
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus();
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) moved(...place(picture, event));
  });
}

function render({ model, el }) {
  const count = model.get("logits").length;
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const outputs = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Logits, and bottom in both forms" });
  const vectors = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Rows of the last layer" });
  const slot = WIDTH / (count + 2);
  const bars = [];
  const axis = svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2, stroke: "currentColor" });

  for (let i = 0; i < count + 2; i++) {
    const bottom = i >= count;
    const bar = svg("rect", { x: i * slot + 0.2 * slot, width: 0.6 * slot, fill: bottom ? BOTTOM : COLORS[i] });
    const name = svg("text", { x: (i + 0.5) * slot, y: HEIGHT - 2, "text-anchor": "middle" });
    name.textContent = bottom ? ["⊥ Kᵢ+Kⱼ", "⊥ tight"][i - count] : `y${i} ${NAMES[i]}`;
    const value = svg("text", { x: (i + 0.5) * slot, "text-anchor": "middle" });
    outputs.append(bar, name, value);
    const one = { bar, value };
    if (!bottom) {
      one.handle = svg("rect", {
        class: "gloro-handle",
        x: i * slot + 0.1 * slot,
        width: 0.8 * slot,
        height: 12,
        rx: 4,
        fill: "currentColor",
        "fill-opacity": 0.75,
        tabindex: 0,
        role: "slider",
        "aria-label": `logit of class ${i}, ${NAMES[i]}`,
        "aria-valuemin": -RANGE,
        "aria-valuemax": RANGE,
        "aria-orientation": "vertical",
      });
      const change = (next) => set("logits", model.get("logits").map((v, k) => (k === i ? Math.min(Math.max(next, -RANGE), RANGE) : v)));
      draggable(one.handle, outputs, (x, y) => change(valueOf(y)));
      one.handle.addEventListener("keydown", (event) => {
        const way = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
        if (!way) return;
        change(model.get("logits")[i] + way * (event.shiftKey ? 0.5 : 0.05));
        event.preventDefault();
      });
      outputs.append(one.handle);
    }
    bars.push(one);
  }
  outputs.append(axis);

  const unit = (HEIGHT / 2 - 16) / 2;
  const toPicture = ([a, b]) => [WIDTH / 2 + a * unit, HEIGHT / 2 - b * unit];
  const clampRow = (row) => row.map((v, k) => Math.min(Math.max(v, k ? -2 : -2.5), k ? 2 : 2.5));
  const arrows = Array.from({ length: count }, (_, i) => {
    const line = svg("line", { x1: WIDTH / 2, y1: HEIGHT / 2, stroke: COLORS[i], "stroke-width": 3 });
    const name = svg("text", {});
    name.textContent = `w${i}`;
    const handle = svg("circle", {
      class: "gloro-handle",
      r: 8,
      fill: COLORS[i],
      tabindex: 0,
      role: "slider",
      "aria-roledescription": "arrow head, moved by the four arrow keys",
      "aria-label": `row of class ${i}, ${NAMES[i]}`,
    });
    const change = (row) => set("rows", model.get("rows").map((v, k) => (k === i ? clampRow(row) : v)));
    draggable(handle, vectors, (x, y) => change([(x - WIDTH / 2) / unit, (HEIGHT / 2 - y) / unit]));
    handle.addEventListener("keydown", (event) => {
      const way = { ArrowUp: [0, 1], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowLeft: [-1, 0] }[event.key];
      if (!way) return;
      const step = event.shiftKey ? 0.5 : 0.05;
      change(model.get("rows")[i].map((v, k) => v + step * way[k]));
      event.preventDefault();
    });
    return { line, name, handle };
  });
  for (const { line, name, handle } of arrows) vectors.append(line, name, handle);

  const text = element("p", { class: "gloro-readout", "aria-live": "polite" });
  const root = element(
    "div",
    { class: "gloro-widget", role: "group", "aria-label": model.get("description") },
    element(
      "div",
      { class: "gloro-row" },
      element("div", { class: "gloro-panel" }, element("h4", {}, "Logits and ⊥"), outputs),
      element("div", { class: "gloro-panel" }, element("h4", {}, "Rows wᵢ of the last layer"), vectors),
    ),
    text,
    element("p", { class: "gloro-hint" }, "Drag the handles, or focus one with Tab and use the arrow keys; Shift makes steps larger."),
  );
  el.append(root);

  const drawing = redrawing(root, () => {
    const values = model.get("logits");
    const rows = model.get("rows");
    const epsilon = model.get("epsilon");
    const top = argmax(values);
    const tables = [false, true].map((tight) => marginConstants(rows, tight));
    const both = tables.map((table) => bottomLogit(values, table, epsilon));
    [...values, ...both].forEach((value, i) => {
      // A bar that would leave the picture ends at its edge; its number does not.
      const y = Math.min(Math.max(yOf(value), 4), HEIGHT - 16);
      bars[i].bar.setAttribute("y", Math.min(y, HEIGHT / 2));
      bars[i].bar.setAttribute("height", Math.abs(y - HEIGHT / 2));
      bars[i].value.textContent = round(value, 2);
      bars[i].value.setAttribute("y", value >= 0 ? Math.max(y - 10, 12) : Math.min(y + 20, HEIGHT - 16));
      if (bars[i].handle) {
        bars[i].handle.setAttribute("y", y - 6);
        bars[i].handle.setAttribute("aria-valuenow", value.toFixed(2));
      }
    });
    rows.forEach((row, i) => {
      const [x, y] = toPicture(row);
      arrows[i].line.setAttribute("x2", x);
      arrows[i].line.setAttribute("y2", y);
      arrows[i].handle.setAttribute("cx", x);
      arrows[i].handle.setAttribute("cy", y);
      arrows[i].handle.setAttribute("aria-valuetext", `${round(row[0], 2)}, ${round(row[1], 2)}; length ${round(Math.hypot(...row), 2)}`);
      arrows[i].name.setAttribute("x", Math.min(x + 11, WIDTH - 18));
      arrows[i].name.setAttribute("y", y + 4);
    });
    const say = (form) => {
      const [bottom, table] = [both[form], tables[form]];
      const rival = values.findIndex((v, i) => i !== top && v + epsilon * table[top][i] === bottom);
      const winner = values[top] > bottom ? `class ${top}` : "⊥";
      return `${winner} wins, ⊥ = y${rival} + ε · ${round(table[top][rival])} = ${round(bottom)}`;
    };
    text.textContent = `With Kᵢ + Kⱼ: ${say(0)}. With the tight Kᵢⱼ: ${say(1)}.`;
    const shown = { logits: JSON.stringify(values), rows: JSON.stringify(rows) };
    Object.assign(root.dataset, { ...shown, sum: both[0], tight: both[1], prediction: top });
  });
  for (const name of ["logits", "rows", "epsilon"]) model.on(`change:${name}`, drawing.request);
  return () => {
    for (const name of ["logits", "rows", "epsilon"]) model.off(`change:${name}`, drawing.request);
    drawing.stop();
  };
}

export default { render };
