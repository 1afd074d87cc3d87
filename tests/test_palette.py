"""The palette is readable: contrast by WCAG's formula, and CIELAB differences as a reader with deuteranopia sees them."""

from itertools import combinations

import numpy as np
import pytest

from gloro_lite.palette import PALETTE

LIGHT, DARK = "#ffffff", "#121212"
# Full deuteranopia on linear RGB: G. M. Machado et al., A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE TVCG 15(6), 2009, the table's last entry.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear(color: str) -> np.ndarray:
    """sRGB to linear RGB, (3,)."""
    values = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB to CIELAB under D65, (3,)."""
    xyz = np.array(TO_XYZ) @ rgb / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    low, high = sorted(float(np.array(TO_XYZ)[1] @ linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def seen(color: str, matrix=DEUTERANOPIA) -> np.ndarray:
    return lab(np.clip(np.array(matrix) @ linear(color), 0, 1))


def test_the_oracle_itself():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    grey = linear("#808080")
    assert np.array(DEUTERANOPIA) @ grey == pytest.approx(grey, abs=1e-3)  # greys look the same to everybody


def test_lines_and_marks_stand_out():
    for color in (*PALETTE["classes"], PALETTE["bottom"], PALETTE["attack"]):
        assert contrast(color, LIGHT) >= 3, color
    for color in (*PALETTE["classes"][:6], PALETTE["bottom"], PALETTE["attack"]):
        assert contrast(color, DARK) >= 3, color


def test_classes_and_bottom_tell_apart():
    colors = [*PALETTE["classes"], PALETTE["bottom"]]
    assert len(PALETTE["names"]) == len(set(PALETTE["names"])) == len(PALETTE["classes"]) == 10
    for a, b in combinations(colors, 2):
        assert np.linalg.norm(seen(a) - seen(b)) > 15, (a, b)
        assert np.linalg.norm(seen(a, np.eye(3)) - seen(b, np.eye(3))) > 15, (a, b)
