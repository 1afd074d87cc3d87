import assert from "node:assert/strict";
import { test } from "node:test";

import * as core from "../../gloro_lite/widgets/core.js";
import { close, random, vectors, view } from "./helpers.mjs";

const columns = (x) => [x.map((point) => point[0]), x.map((point) => point[1])];
const rows = (outputs) => [...outputs[0].keys()].map((k) => outputs.map((values) => values[k]));

vectors.nets.forEach((one, number) => {
  test(`network ${number}: logits, bottom, radius, accuracy and VRA are the package's`, () => {
    const net = core.network(one.layers, view(one.weights));
    assert.equal(4 * net.length, view(one.weights).byteLength);
    const outputs = core.logits(net, ...columns(one.x));
    const each = rows(outputs);
    close(each, one.logits);
    close(each.map((values) => core.bottomLogit(values, one.table, one.epsilon)), one.bottom);
    close(each.map((values) => core.certifiedRadius(values, one.table)), one.radius);
    const many = core.predictions(outputs, one.table);
    close([...many.radius], one.radius);
    assert.deepEqual([...many.prediction], each.map(core.argmax));
    const { accuracy, vra } = core.verified(many, one.labels, one.epsilon);
    close([accuracy, vra], [one.accuracy, one.vra]);
  });
});

test("many points at once are the same as one by one", () => {
  const one = vectors.nets[1];
  const net = core.network(one.layers, view(one.weights));
  const draw = random(1);
  const x = Array.from({ length: 1100 }, () => 4 * draw() - 2);
  const y = Array.from({ length: 1100 }, () => 4 * draw() - 2);
  const all = core.logits(net, x, y);
  for (const k of [0, 511, 512, 1023, 1024, 1099]) {
    close(core.logits(net, [x[k]], [y[k]]).map((values) => values[0]), all.map((values) => values[k]), 1e-14);
  }
});

test("half-precision floats are widened", () => {
  const halves = { 0x0000: 0, 0x3c00: 1, 0xc000: -2, 0x3555: 0.333251953125, 0x7bff: 65504, 0x0001: 2 ** -24, 0x83ff: -1023 * 2 ** -24 };
  const bytes = new DataView(new ArrayBuffer(2 * Object.keys(halves).length));
  Object.keys(halves).forEach((half, k) => bytes.setUint16(2 * k, Number(half), true));
  const wide = core.widened(bytes);
  assert.deepEqual(Object.keys(halves).map((_, k) => wide.getFloat32(4 * k, true)), Object.values(halves));
});

test("weights of one epoch after another are read from where each begins", () => {
  const one = vectors.nets[0];
  const bytes = new Uint8Array(view(one.weights).buffer);
  const twice = new Uint8Array(2 * bytes.length);
  twice.set(bytes, bytes.length);
  const net = core.network(one.layers, new DataView(twice.buffer), bytes.length / 4);
  close(rows(core.logits(net, ...columns(one.x))), one.logits);
});

test("an unknown layer is refused", () => {
  assert.throws(() => core.logits({ layers: [{ kind: "tanh" }] }, [0], [0]), /no layer of kind tanh/);
});

test("margin constants are the package's", () => {
  for (const { rows: given, tight, table } of vectors.constants) close(core.marginConstants(given, tight), table, 1e-12, 1e-12);
});

test("a tie has radius 0, and bottom is then not below", () => {
  const table = [[0, 2], [2, 0]];
  assert.equal(core.certifiedRadius([1, 1], table), 0);
  assert.ok(core.bottomLogit([1, 1], table, 0.1) > 1);
  assert.equal(core.argmax([1, 1]), 0);
});

vectors.faces.forEach((one, number) => {
  test(`sites ${number}: g, the nearest site and the separation are the package's`, () => {
    const faces = core.voronoiFaces(one.sites).filter((face) => one.labels[face.p] !== one.labels[face.q]);
    close(one.x.map(([x, y]) => core.distanceToFaces(faces, x, y)), one.g);
    if (one.nearest) assert.deepEqual(one.x.map(([x, y]) => core.nearestSite(one.sites, x, y)), one.nearest);
    const { broken, least, closest } = core.separation(one.sites, one.labels, one.epsilon);
    close(least, one.least, 1e-12);
    assert.equal(broken.length, one.broken);
    const [p, q] = closest.map((k) => one.sites[k]);
    close(Math.hypot(p[0] - q[0], p[1] - q[1]), least, 1e-12);
  });
});

test("sites that coincide have no face between them", () => {
  assert.equal(core.voronoiFaces([[1, 2], [1, 2]]).length, 0);
});

test("attacks find nothing within the certified radius, and mostly do beyond the nearest other class", () => {
  const { layers, weights, points, radius, seen } = vectors.attacks;
  const net = core.network(layers, view(weights));
  const own = (x, y) => core.argmax(core.logits(net, [x], [y]).map((values) => values[0]));
  let broken = 0;
  let tried = 0;
  points.forEach((point, k) => {
    const inside = core.attack(net, point, radius[k] * (1 - 1e-9));
    assert.equal(inside.broken, 0);
    assert.equal(inside.ends.length, 16);
    for (const [x, y] of inside.ends) assert.ok(Math.hypot(x - point[0], y - point[1]) <= radius[k]);
    if (seen[k] === null) return;
    tried += 1;
    const beyond = core.attack(net, point, 1.2 * seen[k]);
    broken += beyond.broken > 0;
    const found = beyond.ends.filter(([x, y]) => own(x, y) !== own(...point));
    assert.equal(found.length, beyond.broken);
  });
  assert.ok(tried > 5 && broken > 0.8 * tried, `${broken} of ${tried}`);
});

test("a linear field's level curve is the straight line that it must be", () => {
  const size = 9;
  const field = Array.from({ length: size * size }, (_, k) => 2 * (k % size) - 3 * Math.floor(k / size));
  const cells = core.contour(field, size, 0.5);
  assert.ok(cells.length >= size - 1);
  for (const [x0, y0, x1, y1] of cells) close([2 * x0 - 3 * y0, 2 * x1 - 3 * y1], [0.5, 0.5], 1e-12);
  assert.equal(core.contour(field, size, 100).length, 0);
});

test("the curves between classes part them", () => {
  // Three planes that meet in the middle of the lattice: on each curve the two largest are equal.
  const size = 21;
  const at = (k) => [(k % size) - 10, Math.floor(k / size) - 10];
  const planes = [
    [1, 0],
    [-0.5, 0.8],
    [-0.5, -0.8],
  ];
  const outputs = planes.map(([a, b]) => Float64Array.from({ length: size * size }, (_, k) => a * at(k)[0] + b * at(k)[1]));
  const cells = core.boundaries(outputs, size);
  assert.ok(cells.length > 30);
  for (const [x0, y0, x1, y1] of cells) {
    for (const [x, y] of [
      [x0 - 10, y0 - 10],
      [x1 - 10, y1 - 10],
    ]) {
      const sorted = planes.map(([a, b]) => a * x + b * y).sort((u, v) => v - u);
      if (Math.hypot(x, y) > 2) assert.ok(sorted[0] - sorted[1] < 1e-9);
    }
  }
});

test("distances to segments are those of a search along them", () => {
  const { segments, x, distance } = vectors.segments;
  close(x.map((point) => core.distanceToSegments(segments, ...point)), distance, 1e-5, 1e-5);
  assert.equal(core.distanceToSegments([], 0, 0), Infinity);
});
