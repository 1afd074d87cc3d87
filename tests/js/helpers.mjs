// The vectors, and comparing with them.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const vectors = JSON.parse(readFileSync(new URL("vectors.json", import.meta.url), "utf8"));

/** Numbers, or lists of them however deep, are equal to about five digits. */
export function close(found, wanted, relative = 1e-5, absolute = 1e-12) {
  if (typeof wanted === "number") {
    const gap = Math.abs(found - wanted);
    assert.ok(gap <= absolute + relative * Math.abs(wanted), `${found} is not ${wanted}`);
    return;
  }
  assert.equal(found.length, wanted.length);
  wanted.forEach((value, k) => close(found[k], value, relative, absolute));
}

/** The bytes of a base64 text, as widgets hold them. */
export function view(text) {
  const bytes = Uint8Array.from(Buffer.from(text, "base64"));
  return new DataView(bytes.buffer);
}

/** Repeatable random numbers in [0, 1): mulberry32. */
export function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
