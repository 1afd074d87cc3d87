// The mathematics of gloro_lite in float64, checked in node against vectors that the Python computes (tests/test_javascript.py).

/** A network from its layers, [{kind, rows, columns}], and its weights, a DataView of float32: each linear layer's rows, then biases. */
export function network(layers, view, offset = 0) {
  let at = offset;
  const take = (count) => {
    const values = new Float64Array(count);
    for (let k = 0; k < count; k++) values[k] = view.getFloat32(4 * (at + k), true);
    at += count;
    return values;
  };
  const built = layers.map((layer) =>
    layer.kind === "linear" ? { ...layer, weight: take(layer.rows * layer.columns), bias: take(layer.rows) } : layer,
  );
  return { layers: built, length: at - offset };
}

/** Half-precision floats as the bytes of the same numbers in single precision, which `network` reads. */
export function widened(view) {
  const wide = new DataView(new ArrayBuffer(2 * view.byteLength));
  for (let at = 0; at < view.byteLength; at += 2) {
    const half = view.getUint16(at, true);
    const [exponent, fraction] = [(half >> 10) & 31, half & 1023];
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
    wide.setFloat32(2 * at, half >> 15 ? -size : size, true);
  }
  return wide;
}

/** Points that go through the network together: few enough that all their activations stay in the processor's cache. */
const BLOCK = 512;

/** The logits of many points at once: x and y are arrays of coordinates; returns one Float64Array for each class. */
export function logits(net, x, y) {
  const blocks = [];
  for (let k = 0; k < x.length; k += BLOCK) blocks.push(forward(net, x.slice(k, k + BLOCK), y.slice(k, k + BLOCK)));
  if (blocks.length === 1) return blocks[0];
  return blocks[0].map((_, i) => {
    const joined = new Float64Array(x.length);
    blocks.forEach((block, k) => joined.set(block[i], k * BLOCK));
    return joined;
  });
}

function forward(net, x, y) {
  let values = [Float64Array.from(x), Float64Array.from(y)];
  for (const layer of net.layers) {
    if (layer.kind === "linear") {
      const { rows, columns, weight, bias } = layer;
      const next = [];
      for (let i = 0; i < rows; i++) {
        const sum = new Float64Array(x.length).fill(bias[i]);
        for (let j = 0; j < columns; j++) {
          const w = weight[i * columns + j];
          const input = values[j];
          for (let k = 0; k < sum.length; k++) sum[k] += w * input[k];
        }
        next.push(sum);
      }
      values = next;
    } else if (layer.kind === "minmax") {
      const half = values.length / 2;
      const sorted = values.map(() => new Float64Array(x.length));
      for (let i = 0; i < half; i++) {
        const [first, second, low, high] = [values[i], values[half + i], sorted[i], sorted[half + i]];
        for (let k = 0; k < low.length; k++) {
          const swap = first[k] > second[k];
          low[k] = swap ? second[k] : first[k];
          high[k] = swap ? first[k] : second[k];
        }
      }
      values = sorted;
    } else if (layer.kind === "relu") {
      values = values.map((a) => a.map((v) => Math.max(v, 0)));
    } else {
      throw new Error(`no layer of kind ${layer.kind}`);
    }
  }
  return values;
}

export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** K_ij = ||w_j - w_i||, or K_i + K_j, for a last layer's rows. */
export function marginConstants(rows, tight) {
  const norms = rows.map((row) => Math.hypot(...row));
  return rows.map((a, j) => rows.map((b, i) => (tight ? Math.hypot(...a.map((v, k) => v - b[k])) : norms[i] + norms[j])));
}

/** The logit of bottom, max over i != j of y_i + epsilon K_ij. */
export function bottomLogit(values, constants, epsilon) {
  const j = argmax(values);
  let best = -Infinity;
  for (let i = 0; i < values.length; i++) if (i !== j) best = Math.max(best, values[i] + epsilon * constants[j][i]);
  return best;
}

/** The certified radius, min over i != j of (y_j - y_i) / K_ij; 0 at a tie. */
export function certifiedRadius(values, constants) {
  const j = argmax(values);
  let least = Infinity;
  for (let i = 0; i < values.length; i++) {
    if (i === j) continue;
    const margin = values[j] - values[i];
    least = Math.min(least, margin > 0 ? margin / constants[j][i] : 0);
  }
  return least;
}

/** Predictions and certified radii for the logits of many points. */
export function predictions(outputs, constants) {
  const count = outputs[0].length;
  const prediction = new Int32Array(count);
  const radius = new Float64Array(count);
  for (let k = 0; k < count; k++) {
    let j = 0;
    for (let i = 1; i < outputs.length; i++) if (outputs[i][k] > outputs[j][k]) j = i;
    let least = Infinity;
    for (let i = 0; i < outputs.length; i++) {
      if (i === j) continue;
      const margin = outputs[j][k] - outputs[i][k];
      const r = margin > 0 ? margin / constants[j][i] : 0;
      if (r < least) least = r;
    }
    prediction[k] = j;
    radius[k] = least;
  }
  return { prediction, radius };
}

/** The Voronoi faces: {p, q, x, y, dx, dy, from, to}, the points (x, y) + t (dx, dy) that are nearest to sites p and q alike. */
export function voronoiFaces(sites) {
  const faces = [];
  for (let p = 0; p < sites.length; p++) {
    for (let q = p + 1; q < sites.length; q++) {
      const [ax, ay] = sites[p];
      const [bx, by] = sites[q];
      const width = Math.hypot(bx - ax, by - ay);
      if (width === 0) continue;
      const [x, y] = [(ax + bx) / 2, (ay + by) / 2];
      const [dx, dy] = [-(by - ay) / width, (bx - ax) / width];
      let [from, to] = [-Infinity, Infinity];
      for (const [cx, cy] of sites) {
        if ((cx === ax && cy === ay) || (cx === bx && cy === by)) continue;
        // The point at t is as close to p as to this site where slope * t <= gap.
        const slope = 2 * ((cx - ax) * dx + (cy - ay) * dy);
        const gap = (cx - ax) * (cx - bx) + (cy - ay) * (cy - by);
        if (slope > 0) to = Math.min(to, gap / slope);
        else if (slope < 0) from = Math.max(from, gap / slope);
        else if (gap < 0) to = -Infinity;
      }
      if (from <= to && to > -Infinity) faces.push({ p, q, x, y, dx, dy, from, to });
    }
  }
  return faces;
}

/** Theorem 3's |g|: the distance from (x, y) to the nearest of some faces. */
export function distanceToFaces(faces, x, y) {
  let least = Infinity;
  for (let k = 0; k < faces.length; k++) {
    const f = faces[k];
    const ox = x - f.x;
    const oy = y - f.y;
    const t = Math.min(Math.max(ox * f.dx + oy * f.dy, f.from), f.to);
    const rx = ox - t * f.dx;
    const ry = oy - t * f.dy;
    const squared = rx * rx + ry * ry;
    if (squared < least) least = squared;
  }
  return Math.sqrt(least);
}

export function nearestSite(sites, x, y) {
  let best = 0;
  let least = Infinity;
  for (let k = 0; k < sites.length; k++) {
    const dx = sites[k][0] - x;
    const dy = sites[k][1] - y;
    const squared = dx * dx + dy * dy;
    if (squared < least) {
      best = k;
      least = squared;
    }
  }
  return best;
}

/** Pairs of sites with different labels that are not more than 2 epsilon apart, the closest pair and its distance. */
export function separation(sites, labels, epsilon) {
  const broken = [];
  let [least, closest] = [Infinity, null];
  for (let p = 0; p < sites.length; p++) {
    for (let q = p + 1; q < sites.length; q++) {
      if (labels[p] === labels[q]) continue;
      const distance = Math.hypot(sites[p][0] - sites[q][0], sites[p][1] - sites[q][1]);
      if (distance < least) [least, closest] = [distance, [p, q]];
      if (!(distance > 2 * epsilon)) broken.push([p, q]);
    }
  }
  return { broken, least, closest };
}

/** Look for another label within `radius` of a point by `starts` ascents of the rivals' margin, as gloro_lite.attacks.pgd does. */
export function attack(net, point, radius, starts = 16, steps = 30) {
  const at = (x, y) => logits(net, [x], [y]).map((v) => v[0]);
  const own = argmax(at(...point));
  const margin = (x, y) => {
    const values = at(x, y);
    return Math.max(...values.filter((_, i) => i !== own)) - values[own];
  };
  const ends = [];
  let broken = 0;
  for (let start = 0; start < starts; start++) {
    const angle = (2 * Math.PI * start) / starts;
    let [dx, dy] = [0.5 * radius * Math.cos(angle), 0.5 * radius * Math.sin(angle)];
    let found = false;
    for (let step = 0; step <= steps; step++) {
      const [x, y] = [point[0] + dx, point[1] + dy];
      found = argmax(at(x, y)) !== own;
      if (found || step === steps) break; // every end was looked at
      const h = 1e-5;
      const gx = margin(x + h, y) - margin(x - h, y);
      const gy = margin(x, y + h) - margin(x, y - h);
      const length = Math.hypot(gx, gy) || 1;
      dx += ((2.5 * radius) / steps) * (gx / length);
      dy += ((2.5 * radius) / steps) * (gy / length);
      const reach = Math.hypot(dx, dy);
      if (reach > radius) [dx, dy] = [(dx * radius) / reach, (dy * radius) / reach];
    }
    broken += found;
    ends.push([point[0] + dx, point[1] + dy]);
  }
  return { ends, broken };
}

/** The segments [x0, y0, x1, y1] of a level curve of a size x size field, in units of its cells. */
export function contour(field, size, level) {
  const segments = [];
  for (let r = 0; r + 1 < size; r++) {
    for (let c = 0; c + 1 < size; c++) {
      const k = r * size + c;
      const below = field[k] < level;
      if (below === field[k + 1] < level && below === field[k + size] < level && below === field[k + size + 1] < level) continue;
      const corners = [
        [c, r, field[r * size + c]],
        [c + 1, r, field[r * size + c + 1]],
        [c + 1, r + 1, field[(r + 1) * size + c + 1]],
        [c, r + 1, field[(r + 1) * size + c]],
      ];
      const cuts = [];
      for (let k = 0; k < 4; k++) {
        const [a, b] = [corners[k], corners[(k + 1) % 4]];
        if (a[2] < level !== b[2] < level) {
          const t = (level - a[2]) / (b[2] - a[2]);
          cuts.push([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])]);
        }
      }
      for (let k = 0; k + 1 < cuts.length; k += 2) segments.push([...cuts[k], ...cuts[k + 1]]);
    }
  }
  return segments;
}

/** The curves between classes, as `contour` gives them, for the logits of a size x size lattice. */
export function boundaries(outputs, size) {
  const segments = [];
  const margin = new Float64Array(size * size);
  // A class leads where its margin over the others is positive; the last class's curves are those of the others.
  for (let j = 0; j + 1 < outputs.length; j++) {
    for (let k = 0; k < margin.length; k++) {
      let rival = -Infinity;
      for (let i = 0; i < outputs.length; i++) if (i !== j && outputs[i][k] > rival) rival = outputs[i][k];
      margin[k] = outputs[j][k] - rival;
    }
    segments.push(...contour(margin, size, 0));
  }
  return segments;
}

/** The distance from (x, y) to the nearest of some segments [x0, y0, x1, y1]; infinite where there are none. */
export function distanceToSegments(segments, x, y) {
  let least = Infinity;
  for (let k = 0; k < segments.length; k++) {
    const [x0, y0, x1, y1] = segments[k];
    const dx = x1 - x0;
    const dy = y1 - y0;
    const squared = dx * dx + dy * dy;
    const t = squared > 0 ? Math.min(Math.max(((x - x0) * dx + (y - y0) * dy) / squared, 0), 1) : 0;
    const rx = x - x0 - t * dx;
    const ry = y - y0 - t * dy;
    const distance = rx * rx + ry * ry;
    if (distance < least) least = distance;
  }
  return Math.sqrt(least);
}

/** The share of points that are classified as labelled, and of those whose certified radius exceeds epsilon too (the VRA). */
export function verified({ prediction, radius }, labels, epsilon) {
  let right = 0;
  let certified = 0;
  for (let k = 0; k < labels.length; k++) {
    if (prediction[k] !== labels[k]) continue;
    right += 1;
    if (radius[k] > epsilon) certified += 1;
  }
  return { accuracy: right / labels.length, vra: certified / labels.length };
}
