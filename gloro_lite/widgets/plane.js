// A square picture of the plane on a canvas, for the mouse, touch and the keyboard; and what all widgets share on a page.

export const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#332288", "#882255", "#117733"];
export const BOTTOM = "#9E9E9E";
export const NAMES = ["blue", "orange", "green", "pink", "sky", "red", "yellow", "indigo", "wine", "moss"];

const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const PALETTE = COLORS.map(rgb);
const GREY = rgb(BOTTOM);

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

/** Call `draw` at most once a frame, measure it, and call it again when the page's theme changes. */
export function redrawing(root, draw) {
  let due = false;
  let count = 0;
  const run = () => {
    due = false;
    const start = performance.now();
    draw();
    count += 1;
    Object.assign(root.dataset, { redraws: count, redrawMs: (performance.now() - start).toFixed(2) });
  };
  const request = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(run);
  };
  const observer = new MutationObserver(request);
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-mode", "class"] });
  run();
  return { request, stop: () => observer.disconnect() };
}

/** A marker of a shape for each class, so that colour is not needed to tell them apart. */
export function marker(context, label, x, y, size) {
  context.beginPath();
  const shape = label % 4;
  if (shape === 0) context.arc(x, y, size, 0, 2 * Math.PI);
  else if (shape === 1) context.rect(x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size);
  else {
    const turn = shape === 2 ? 0 : Math.PI / 2;
    const corners = shape === 2 ? 4 : 3;
    for (let k = 0; k < corners; k++) {
      const angle = turn + (2 * Math.PI * k) / corners;
      context.lineTo(x + 1.3 * size * Math.cos(angle), y - 1.3 * size * Math.sin(angle));
    }
    context.closePath();
  }
  context.fillStyle = COLORS[label % COLORS.length];
  context.fill();
  context.lineWidth = 1;
  context.strokeStyle = "white";
  context.stroke();
}

/** A canvas that shows the square [left, left + side] x [bottom, bottom + side]. */
export class Plane {
  constructor({ left, bottom, side }, label, pixels = 320) {
    Object.assign(this, { left, bottom, side, pixels });
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas = element("canvas", { class: "gloro-plane", tabindex: "0", role: "application", "aria-label": label });
    this.canvas.width = this.canvas.height = pixels * ratio;
    this.context = this.canvas.getContext("2d");
    this.context.scale(ratio, ratio);
    this.image = document.createElement("canvas");
  }

  toPixels(x, y) {
    return [((x - this.left) / this.side) * this.pixels, (1 - (y - this.bottom) / this.side) * this.pixels];
  }

  /** The point of the plane under a pointer event, kept inside. */
  fromEvent(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.clamp([
      this.left + ((event.clientX - box.left) / box.width) * this.side,
      this.bottom + (1 - (event.clientY - box.top) / box.height) * this.side,
    ]);
  }

  clamp([x, y]) {
    return [
      Math.min(Math.max(x, this.left), this.left + this.side),
      Math.min(Math.max(y, this.bottom), this.bottom + this.side),
    ];
  }

  /** A point moved by an arrow key (ten times as far with Shift), or null for another key. */
  moved(point, event) {
    const step = (this.side / 100) * (event.shiftKey ? 10 : 1);
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const way = ways[event.key];
    return way ? this.clamp([point[0] + step * way[0], point[1] + step * way[1]]) : null;
  }

  /** Coordinates of a size x size lattice of cell centres, row by row from the top. */
  lattice(size) {
    const x = new Float64Array(size * size);
    const y = new Float64Array(size * size);
    for (let r = 0; r < size; r++) {
      for (let c = 0; c < size; c++) {
        x[r * size + c] = this.left + ((c + 0.5) / size) * this.side;
        y[r * size + c] = this.bottom + (1 - (r + 0.5) / size) * this.side;
      }
    }
    return { x, y };
  }

  clear() {
    this.ink = getComputedStyle(this.canvas).color;
    this.context.clearRect(0, 0, this.pixels, this.pixels);
  }

  /** Fill by class; grey where `grey(k)` says so. */
  regions(size, label, grey) {
    if (this.image.width !== size) this.image.width = this.image.height = size;
    const brush = this.image.getContext("2d");
    const picture = brush.createImageData(size, size);
    const { data } = picture;
    for (let k = 0; k < size * size; k++) {
      const isGrey = grey(k);
      const color = isGrey ? GREY : PALETTE[label(k) % PALETTE.length];
      data[4 * k] = color[0];
      data[4 * k + 1] = color[1];
      data[4 * k + 2] = color[2];
      data[4 * k + 3] = isGrey ? 190 : 110;
    }
    brush.putImageData(picture, 0, 0);
    this.context.drawImage(this.image, 0, 0, this.pixels, this.pixels);
  }

  lines(segments, size, style = {}) {
    const scale = this.pixels / size;
    this.context.beginPath();
    for (const [x0, y0, x1, y1] of segments) {
      this.context.moveTo((x0 + 0.5) * scale, (y0 + 0.5) * scale);
      this.context.lineTo((x1 + 0.5) * scale, (y1 + 0.5) * scale);
    }
    this.stroke(style);
  }

  circle(x, y, radius, style = {}) {
    const [px, py] = this.toPixels(x, y);
    this.context.beginPath();
    this.context.arc(px, py, (radius / this.side) * this.pixels, 0, 2 * Math.PI);
    this.stroke(style);
  }

  stroke({ color = this.ink, width = 1.2, dash = [] }) {
    this.context.strokeStyle = color;
    this.context.lineWidth = width;
    this.context.setLineDash(dash);
    this.context.stroke();
    this.context.setLineDash([]);
  }

  points(points, labels, size = 3.2) {
    points.forEach(([x, y], k) => marker(this.context, labels[k], ...this.toPixels(x, y), size));
  }
}

export const round = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : value > 0 ? "∞" : "-∞");
