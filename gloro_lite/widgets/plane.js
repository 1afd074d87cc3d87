// A square of the plane: its coordinates, and a picture of it on a canvas for the mouse, touch and the keyboard.

import { BOTTOM, COLORS, element } from "./page.js";

const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const PALETTE = COLORS.map(rgb);
const GREY = rgb(BOTTOM);
const TILE = 7; // pixels from one line of the hatching to the next

/** The square [left, left + side] x [bottom, bottom + side], shown `pixels` wide. */
export class Square {
  constructor({ left, bottom, side }, pixels = 320) {
    Object.assign(this, { left, bottom, side, pixels });
  }

  toPixels(x, y) {
    return [((x - this.left) / this.side) * this.pixels, (1 - (y - this.bottom) / this.side) * this.pixels];
  }

  clamp([x, y]) {
    return [
      Math.min(Math.max(x, this.left), this.left + this.side),
      Math.min(Math.max(y, this.bottom), this.bottom + this.side),
    ];
  }

  /** A point moved by an arrow key (ten times as far with Shift), or null for another key. */
  moved(point, { key, shiftKey }) {
    const step = (this.side / 100) * (shiftKey ? 10 : 1);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
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

  /** Segments in units of a size x size lattice's cells, as `contour` in core.js gives them, in the plane's units. */
  segments(cells, size) {
    const scale = this.side / size;
    return cells.map(([x0, y0, x1, y1]) => [
      this.left + (x0 + 0.5) * scale,
      this.bottom + this.side - (y0 + 0.5) * scale,
      this.left + (x1 + 0.5) * scale,
      this.bottom + this.side - (y1 + 0.5) * scale,
    ]);
  }

  /** The square with as much more on each side. */
  wider(margin) {
    return new Square({ left: this.left - margin, bottom: this.bottom - margin, side: this.side + 2 * margin }, this.pixels);
  }
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

/** A square on a canvas. */
export class Plane extends Square {
  constructor(frame, label, pixels = 320) {
    super(frame, pixels);
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas = element("canvas", { class: "gloro-plane", tabindex: "0", role: "application", "aria-label": label });
    this.canvas.width = this.canvas.height = pixels * this.ratio;
    this.context = this.canvas.getContext("2d");
    this.context.scale(this.ratio, this.ratio);
  }

  /** The point of the plane under a pointer, kept inside. */
  fromEvent(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.clamp([
      this.left + ((event.clientX - box.left) / box.width) * this.side,
      this.bottom + (1 - (event.clientY - box.top) / box.height) * this.side,
    ]);
  }

  /** How far, in screen pixels, a pointer is from a point of the plane. */
  distance(event, point) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.toPixels(...point);
    const scale = box.width / this.pixels;
    return Math.hypot(event.clientX - box.left - x * scale, event.clientY - box.top - y * scale);
  }

  clear() {
    this.ink = getComputedStyle(this.canvas).color;
    this.context.clearRect(0, 0, this.pixels, this.pixels);
  }

  /** A canvas of a name and a size, kept for the next drawing. */
  #sheet(name, size) {
    this[name] ??= document.createElement("canvas");
    if (this[name].width !== size) this[name].width = this[name].height = size;
    return this[name].getContext("2d");
  }

  /** Diagonal lines that repeat, in the page's ink; `back` turns them the other way. */
  #hatching(back) {
    const tile = TILE * this.ratio;
    const brush = this.#sheet(back ? "tileBack" : "tile", tile);
    brush.clearRect(0, 0, tile, tile);
    brush.strokeStyle = this.ink;
    brush.globalAlpha = 0.55;
    brush.lineWidth = this.ratio;
    brush.beginPath();
    for (const shift of [-tile, 0, tile]) {
      brush.moveTo(shift - 1, back ? -1 : tile + 1);
      brush.lineTo(shift + tile + 1, back ? tile + 1 : -1);
    }
    brush.stroke();
    return brush.createPattern(brush.canvas, "repeat");
  }

  /** Hatch where `where(k)` says so. */
  #hatch(size, where, back) {
    const cut = this.#sheet("cut", size);
    const mask = cut.createImageData(size, size);
    for (let k = 0; k < size * size; k++) mask.data[4 * k + 3] = where(k) ? 255 : 0;
    cut.putImageData(mask, 0, 0);
    const full = this.canvas.width;
    const lines = this.#sheet("lines_", full);
    lines.globalCompositeOperation = "copy";
    lines.drawImage(cut.canvas, 0, 0, full, full);
    lines.globalCompositeOperation = "source-in";
    lines.fillStyle = this.#hatching(back);
    lines.fillRect(0, 0, full, full);
    this.context.drawImage(lines.canvas, 0, 0, this.pixels, this.pixels);
  }

  /** Fill by class; grey and hatched where `bottom(k)` says so, and hatched both ways where `both(k)` does. */
  regions(size, label, bottom, both = null) {
    const brush = this.#sheet("tints", size);
    const tints = brush.createImageData(size, size);
    for (let k = 0; k < size * size; k++) {
      const isBottom = bottom(k);
      const color = isBottom ? GREY : PALETTE[label(k) % PALETTE.length];
      for (let part = 0; part < 3; part++) tints.data[4 * k + part] = color[part];
      tints.data[4 * k + 3] = isBottom ? 75 : 120;
    }
    brush.putImageData(tints, 0, 0);
    this.context.drawImage(brush.canvas, 0, 0, this.pixels, this.pixels);
    this.#hatch(size, bottom, false);
    if (both) this.#hatch(size, both, true);
  }

  /** Segments in the plane's units. */
  lines(segments, style = {}) {
    this.context.beginPath();
    for (const [x0, y0, x1, y1] of segments) {
      this.context.moveTo(...this.toPixels(x0, y0));
      this.context.lineTo(...this.toPixels(x1, y1));
    }
    this.stroke(style);
  }

  circle(x, y, radius, style = {}) {
    const [px, py] = this.toPixels(x, y);
    this.context.beginPath();
    this.context.arc(px, py, (radius / this.side) * this.pixels, 0, 2 * Math.PI);
    this.stroke(style);
  }

  /** A cross of as many pixels: upright as a plus, or turned as a times sign. */
  cross(x, y, size, style = {}, turned = false) {
    const [px, py] = this.toPixels(x, y);
    const arms = turned ? [[1, 1], [1, -1]] : [[1, 0], [0, 1]];
    this.context.beginPath();
    for (const [a, b] of arms) {
      this.context.moveTo(px - a * size, py - b * size);
      this.context.lineTo(px + a * size, py + b * size);
    }
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
