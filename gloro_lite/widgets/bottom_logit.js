import { argmax, bottomLogit, marginConstants } from "./core.js";
import { COLORS, NAMES, announcer, button, container, element, epsilonSlider, hatching, legend, listen, mount, presses, redrawing, round, slider, svg } from "./page.js";

const [WIDTH, HEIGHT] = [340, 312];
const [LEFT, TOP, FLOOR] = [26, 10, 272]; // of the bars: where their axis stands, and the heights of its ends
const [LOW, HIGH] = [-5, 6]; // the axis's ends
const RANGE = 4; // logits are moved within -RANGE and RANGE
const LONGEST = 2.5; // of a row that is moved
const UNIT = (FLOOR - TOP) / (HIGH - LOW);
const GRIP = 14; // a handle's height
const ROW_UNIT = 52; // pixels for a row of length 1
const MIDDLE = [WIDTH / 2, HEIGHT / 2];

const yOf = (value) => FLOOR - (Math.min(Math.max(value, LOW), HIGH) - LOW) * UNIT;
const valueOf = (y) => LOW + (FLOOR - y) / UNIT;
const clamp = (value, most) => Math.min(Math.max(value, -most), most);
const SUBSCRIPTS = "₀₁₂₃₄₅";

/** Where a pointer is in a picture's own coordinates. */
function place(picture, event) {
  const box = picture.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * WIDTH, ((event.clientY - box.top) / box.height) * HEIGHT];
}

function render({ model, el }) {
  const initial = Object.fromEntries(["logits", "rows", "epsilon"].map((name) => [name, model.get(name)]));
  const count = initial.logits.length;
  const spokenNow = announcer();
  let locked = false;
  let chosen = 0; // the row that a tap moves
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
    spokenNow.say(() => text.textContent);
  };
  const setLogit = (i, value) => {
    const rounded = Number(clamp(value, RANGE).toFixed(2));
    set("logits", model.get("logits").map((v, k) => (k === i ? rounded : v)));
  };
  const setRow = (i, [a, b]) => {
    const length = Math.hypot(a, b);
    if (length === 0) return;
    const wanted = locked ? Math.hypot(...model.get("rows")[i]) : Math.min(length, LONGEST);
    const row = [(a * wanted) / length, (b * wanted) / length];
    set("rows", model.get("rows").map((v, k) => (k === i ? row : v)));
  };
  const hatch = hatching();

  // Bars from the floor: the logits have no natural zero, and all whiskers go up.
  const bars = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Bars of the logits, with whiskers up to what each rival can reach, and bars of bottom. The table below has the numbers." });
  bars.append(hatch.definition);
  for (let value = LOW + 1; value <= HIGH; value += 2) {
    const y = yOf(value);
    bars.append(svg("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y, stroke: "currentColor", "stroke-opacity": 0.15 }));
    const mark = svg("text", { x: LEFT - 4, y: y + 4, "text-anchor": "end" });
    mark.textContent = round(value, 0);
    bars.append(mark);
  }
  const slot = (WIDTH - LEFT) / (count + 2);
  const columns = Array.from({ length: count + 2 }, (_, i) => {
    const bottom = i >= count;
    const x = LEFT + i * slot;
    const bar = svg("rect", { x: x + 0.14 * slot, width: 0.72 * slot, fill: bottom ? hatch.fill : COLORS[i], stroke: "currentColor", "stroke-width": 0 });
    const name = svg("text", { x: x + slot / 2, y: FLOOR + 16, "text-anchor": "middle" });
    name.textContent = bottom ? ["⊥", "⊥ tight"][i - count] : `y${SUBSCRIPTS[i]}`;
    const value = svg("text", { x: x + slot / 2, y: FLOOR + 33, "text-anchor": "middle", class: "gloro-number" });
    bars.append(bar, name, value);
    if (bottom) return { bar, value };
    const lines = [0.34, 0.66].map((at, form) => {
      const style = { fill: "none", stroke: "currentColor", "stroke-width": form ? 3 : 1.6 };
      const path = svg("path", style);
      bars.append(path);
      return { path, x: x + at * slot };
    });
    const grip = svg("g", { class: "gloro-handle" });
    const plate = svg("rect", { x: x + 0.14 * slot, width: 0.72 * slot, height: GRIP, fill: "black", "fill-opacity": 0.35 });
    const grooves = svg("path", { d: `M${x + 0.34 * slot} 5 h${0.32 * slot} m0 4 h${-0.32 * slot}`, stroke: "white", "stroke-width": 1.5 });
    grip.append(plate, grooves);
    bars.append(grip);
    return { bar, value, lines, grip };
  });
  const levels = [0, 1].map((form) => {
    const style = form ? { "stroke-width": 1.6 } : { "stroke-width": 1.4, "stroke-dasharray": "5 4" };
    const line = svg("line", { x1: LEFT, x2: WIDTH, stroke: "currentColor", ...style });
    bars.append(line);
    return line;
  });
  bars.append(svg("line", { x1: LEFT, x2: WIDTH, y1: FLOOR, y2: FLOOR, stroke: "currentColor" }));
  const column = (event) => Math.floor((place(bars, event)[0] - LEFT) / slot);
  let pulled = -1;
  presses(bars, {
    grip(event) {
      const i = column(event);
      if (i < 0 || i >= count) return false;
      const y = place(bars, event)[1];
      const top = yOf(model.get("logits")[i]);
      if (y < top - 14 || y > top + GRIP + 14) return false;
      pulled = i;
      return true;
    },
    move: (event) => setLogit(pulled, valueOf(place(bars, event)[1] - GRIP / 2)),
    tap(event) {
      const i = column(event);
      if (i >= 0 && i < count) setLogit(i, valueOf(place(bars, event)[1]));
    },
  });

  // The last layer's rows, as arrows from the middle.
  const vectors = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Arrows for the last layer's rows. Their lengths and angles can be set below." });
  for (const line of [
    { x1: 0, x2: WIDTH, y1: MIDDLE[1], y2: MIDDLE[1] },
    { x1: MIDDLE[0], x2: MIDDLE[0], y1: 0, y2: HEIGHT },
  ]) {
    vectors.append(svg("line", { ...line, stroke: "currentColor", "stroke-opacity": 0.3 }));
  }
  const toPicture = ([a, b]) => [MIDDLE[0] + a * ROW_UNIT, MIDDLE[1] - b * ROW_UNIT];
  const fromPicture = ([x, y]) => [(x - MIDDLE[0]) / ROW_UNIT, (MIDDLE[1] - y) / ROW_UNIT];
  const arrows = Array.from({ length: count }, (_, i) => {
    const line = svg("line", { x1: MIDDLE[0], y1: MIDDLE[1], stroke: COLORS[i], "stroke-width": 3.5 });
    const ring = svg("circle", { r: 15, fill: "none", stroke: "currentColor", "stroke-dasharray": "3 2.5" });
    const disc = svg("circle", { r: 12, fill: COLORS[i], stroke: "white" });
    const name = svg("text", { "text-anchor": "middle", class: "gloro-on-color" });
    name.textContent = i;
    return { line, ring, disc, name, head: svg("g", { class: "gloro-handle" }, ring, disc, name) };
  });
  vectors.append(...arrows.map(({ line }) => line), ...arrows.map(({ head }) => head));
  presses(vectors, {
    grip(event, touch) {
      const [x, y] = place(vectors, event);
      const away = model.get("rows").map((row) => {
        const [a, b] = toPicture(row);
        return Math.hypot(a - x, b - y);
      });
      const nearest = away.indexOf(Math.min(...away));
      if (away[nearest] > (touch ? 24 : 16)) return false;
      chosen = nearest;
      return true;
    },
    move: (event) => setRow(chosen, fromPicture(place(vectors, event))),
    tap: (event) => setRow(chosen, fromPicture(place(vectors, event))),
  });

  // The numbers, for the keyboard and for readers who tap.
  const polar = (row) => [Math.hypot(...row), (Math.atan2(row[1], row[0]) * 180) / Math.PI];
  const fromPolar = (length, degrees) => [length * Math.cos((degrees * Math.PI) / 180), length * Math.sin((degrees * Math.PI) / 180)];
  const own = (i) => `of class ${i}, ${NAMES[i]}`;
  const sliders = Array.from({ length: count }, (_, i) => ({
    logit: slider({ words: `y${SUBSCRIPTS[i]}`, label: `y${SUBSCRIPTS[i]}, the logit ${own(i)}`, low: -RANGE, high: RANGE, step: 0.05, input: (v) => setLogit(i, v) }),
    length: slider({
      words: `‖w${SUBSCRIPTS[i]}‖`,
      label: `‖w${SUBSCRIPTS[i]}‖, the length of the row ${own(i)}`,
      low: 0.05,
      high: LONGEST,
      step: 0.05,
      input(v) {
        chosen = i;
        if (!locked) setRow(i, fromPolar(v, polar(model.get("rows")[i])[1]));
      },
    }),
    angle: slider({
      words: `angle of w${SUBSCRIPTS[i]}`,
      label: `angle of w${SUBSCRIPTS[i]}, the row ${own(i)}`,
      low: -180,
      high: 180,
      step: 1,
      unit: "°",
      input(v) {
        chosen = i;
        setRow(i, fromPolar(polar(model.get("rows")[i])[0], v));
      },
    }),
  }));
  const numbers = element("details", { class: "gloro-numbers" }, element("summary", {}, "Set the numbers with sliders"));
  for (const kind of ["logit", "length", "angle"]) numbers.append(element("div", { class: "gloro-group" }, ...sliders.map((one) => one[kind].root)));

  const epsilon = epsilonSlider(model);
  const lock = element("input", { type: "checkbox" });
  lock.addEventListener("change", () => {
    locked = lock.checked;
    drawing.request();
  });
  const reset = () => {
    locked = lock.checked = false;
    chosen = 0;
    model.set(initial);
    model.save_changes();
    drawing.request();
    spokenNow.say(() => text.textContent);
  };

  const head = ["class", "logit", "+ ε(Kᵢ + Kⱼ)", "+ ε‖wⱼ − wᵢ‖"].map((words) => element("th", { scope: "col" }, words));
  const body = element("tbody");
  const caption = element("caption", {}, "What each rival can reach within ε");
  const table = element("table", { class: "gloro-table" }, caption, element("thead", {}, element("tr", {}, ...head)), body);
  const text = element("p", { class: "gloro-readout" });
  const line = { stroke: "currentColor", fill: "none" };
  const root = element(
    "div",
    container(model),
    epsilon.root,
    element(
      "div",
      { class: "gloro-row" },
      element("div", { class: "gloro-panel" }, element("p", { class: "gloro-title" }, "Logits and ⊥"), bars),
      element("div", { class: "gloro-panel" }, element("p", { class: "gloro-title" }, "Rows wᵢ of the last layer, Kᵢ = ‖wᵢ‖"), vectors),
    ),
    text,
    element(
      "div",
      { class: "gloro-row gloro-actions" },
      element("label", { class: "gloro-check" }, lock, element("span", {}, "keep the rows' lengths")),
      button("Reset", reset),
    ),
    legend(
      [[svg("path", { d: "M13 13 V2 M9 2 h8 M10 7 h6", "stroke-width": 1.6, ...line })], "whisker: εKᵢ, then εKⱼ"],
      [[svg("path", { d: "M13 13 V2 M9 2 h8", "stroke-width": 3, ...line })], "tight whisker: ε‖wⱼ − wᵢ‖"],
      [[svg("path", { d: "M1 7 H25", "stroke-dasharray": "5 4", "stroke-width": 1.4, ...line })], "level of ⊥, the highest whisker"],
      [[svg("path", { d: "M1 7 H25", "stroke-width": 1.6, ...line })], "level of the tight ⊥"],
    ),
    table,
    numbers,
    element("p", { class: "gloro-hint" }, "Drag a bar's top or an arrow's head. Or tap: above a class's name to set its logit there, beside the arrows to put the ringed one there."),
    spokenNow.root,
  );
  root.dataset.widget = "BottomLogit";
  mount(el, root);

  const drawing = redrawing(root, () => {
    const values = model.get("logits");
    const rows = model.get("rows");
    const radius = model.get("epsilon");
    const top = argmax(values);
    const tables = [false, true].map((tight) => marginConstants(rows, tight));
    const both = tables.map((one) => bottomLogit(values, one, radius));
    const norms = rows.map((row) => Math.hypot(...row));
    const rival = both.map((bottom, form) => values.findIndex((v, i) => i !== top && v + radius * tables[form][top][i] === bottom));
    epsilon.show(radius);
    [...values, ...both].forEach((value, i) => {
      const { bar, value: words, grip } = columns[i];
      const y = yOf(value);
      bar.setAttribute("y", y);
      bar.setAttribute("height", FLOOR - y);
      bar.setAttribute("stroke-width", i === top ? 2 : 0);
      words.textContent = round(value, 2);
      grip?.setAttribute("transform", `translate(0 ${y})`);
    });
    columns.slice(0, count).forEach(({ lines }, i) => {
      lines.forEach(({ path, x }, form) => {
        if (i === top) return path.setAttribute("d", "");
        const reach = values[i] + radius * tables[form][top][i];
        const half = form ? 5 : 4;
        // A whisker that leaves the picture ends in an arrow's head at its edge.
        const end = reach > HIGH ? `M${x - half} ${TOP + 6} L${x} ${TOP} L${x + half} ${TOP + 6}` : `M${x - half} ${yOf(reach)} h${2 * half}`;
        const step = form ? "" : `M${x - 3} ${yOf(values[i] + radius * norms[i])} h6`;
        path.setAttribute("d", `M${x} ${yOf(values[i])} V${yOf(reach)} ${end} ${step}`);
      });
    });
    both.forEach((value, form) => {
      levels[form].setAttribute("y1", yOf(value));
      levels[form].setAttribute("y2", yOf(value));
    });
    rows.forEach((row, i) => {
      const [x, y] = toPicture(row);
      const { line, ring, disc, name } = arrows[i];
      line.setAttribute("x2", x);
      line.setAttribute("y2", y);
      for (const circle of [ring, disc]) {
        circle.setAttribute("cx", x);
        circle.setAttribute("cy", y);
      }
      ring.setAttribute("visibility", i === chosen ? "visible" : "hidden");
      name.setAttribute("x", x);
      name.setAttribute("y", y + 4.5);
      const [length, degrees] = polar(row);
      sliders[i].logit.show(values[i]);
      sliders[i].length.show(length);
      sliders[i].length.track.disabled = locked;
      sliders[i].angle.show(degrees);
    });
    body.replaceChildren(
      ...values.map((value, i) => {
        const cells = tables.map((one, form) => {
          if (i === top) return element("td", {}, "predicted");
          const words = `${round(value, 2)} + ${round(radius * one[top][i], 2)} = ${round(value + radius * one[top][i], 2)}`;
          return element("td", {}, i === rival[form] ? element("strong", {}, words) : words);
        });
        return element("tr", {}, element("th", { scope: "row" }, `${i} ${NAMES[i]}`), element("td", {}, round(value, 2)), ...cells);
      }),
    );
    const say = (form) => {
      const [bottom, one] = [both[form], tables[form]];
      const winner = values[top] > bottom ? `class ${top}` : "⊥";
      return `${winner} wins, ⊥ = y${SUBSCRIPTS[rival[form]]} + ε · ${round(one[top][rival[form]], 2)} = ${round(bottom, 2)}`;
    };
    text.textContent = `With Kᵢ + Kⱼ: ${say(0)}. With the tight ‖wⱼ − wᵢ‖: ${say(1)}.`;
    const shown = { logits: JSON.stringify(values), rows: JSON.stringify(rows) };
    Object.assign(root.dataset, { ...shown, sum: both[0], tight: both[1], prediction: top });
  });
  const stop = listen(model, ["logits", "rows", "epsilon"], drawing.request);
  return () => {
    stop();
    drawing.stop();
  };
}

export default { render };
