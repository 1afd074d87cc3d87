import assert from "node:assert/strict";
import { test } from "node:test";

import { contour } from "../../gloro_lite/widgets/core.js";
import { decimals, round, snapped, spoken } from "../../gloro_lite/widgets/page.js";
import { Square } from "../../gloro_lite/widgets/plane.js";
import { close, random, vectors } from "./helpers.mjs";

const { frame, size, x, y } = vectors.lattice;
const square = new Square(frame, 300);
const key = (name, shiftKey = false) => ({ key: name, shiftKey });

test("the lattice is the package's", () => {
  const found = square.lattice(size);
  close([...found.x], x);
  close([...found.y], y);
});

test("pixels run from the top left corner", () => {
  const { left, bottom, side } = frame;
  close(square.toPixels(left, bottom + side), [0, 0]);
  close(square.toPixels(left + side, bottom), [300, 300]);
  close(square.toPixels(left + side / 2, bottom + side / 4), [150, 225]);
});

test("points stay inside, and arrow keys move them by a hundredth or a tenth", () => {
  const { left, bottom, side } = frame;
  const draw = random(2);
  for (let k = 0; k < 200; k++) {
    const point = square.clamp([20 * draw() - 10, 20 * draw() - 10]);
    assert.ok(point[0] >= left && point[0] <= left + side && point[1] >= bottom && point[1] <= bottom + side);
    assert.deepEqual(square.clamp(point), point);
  }
  const middle = [left + side / 2, bottom + side / 2];
  close(square.moved(middle, key("ArrowLeft")), [middle[0] - side / 100, middle[1]]);
  close(square.moved(middle, key("ArrowUp", true)), [middle[0], middle[1] + side / 10]);
  close(square.moved([left, bottom], key("ArrowDown", true)), [left, bottom]);
  assert.equal(square.moved(middle, key("Enter")), null);
});

test("a level curve in cells is at the same place in the plane", () => {
  const { x: px, y: py } = square.lattice(12);
  const field = px.map((v, k) => 0.7 * v - 1.1 * py[k]);
  const lines = square.segments(contour(field, 12, -0.4), 12);
  assert.ok(lines.length > 5);
  for (const [x0, y0, x1, y1] of lines) close([0.7 * x0 - 1.1 * y0, 0.7 * x1 - 1.1 * y1], [-0.4, -0.4], 1e-9);
});

test("a wider square has the same middle", () => {
  const wide = square.wider(0.5);
  close([wide.left, wide.bottom, wide.side, wide.pixels], [frame.left - 0.5, frame.bottom - 0.5, frame.side + 1, 300]);
});

test("numbers are said in as many digits as a reader can use", () => {
  assert.equal(round(0.1 + 0.2, 2), "0.30");
  assert.equal(round(-1.234, 1), "−1.2");
  assert.equal(round(-0.0001, 2), "0.00");
  assert.equal(round(Infinity), "∞");
  assert.equal(round(-Infinity), "−∞");
  assert.equal(spoken([1.005, -2]), "(1.00, −2.00)");
  for (const [step, count] of [[0.01, 2], [0.05, 2], [0.5, 1], [1, 0], [5, 0]]) assert.equal(decimals(step), count);
  assert.equal(snapped(0.30000000000000004, 0.01, 0.01), 0.3);
  assert.equal(snapped(-179.6, -180, 1), -180);
});
