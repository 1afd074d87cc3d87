"""Theorem 3's classifiers against brute force, exact fractions, and a search for points that break a certificate."""

from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_lite.voronoi import DecisionFaces, SeparationError, SiteClassifier, check_separation, check_sites

COORDINATE = st.integers(-6, 6)
SITES = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9, unique=True)


def labelled(points, classes=2):
    return torch.tensor(points, dtype=torch.float64), torch.arange(len(points)) % classes


def exact_faces(points, labels):
    """The decision faces in exact arithmetic, each pair of sites by the definition: midpoint, direction (of any length), span."""
    sites = [tuple(map(Fraction, point)) for point in points]
    faces = []
    for (p, label_p), (q, label_q) in combinations(zip(sites, labels, strict=True), 2):
        if label_p == label_q:
            continue
        middle, way = ((p[0] + q[0]) / 2, (p[1] + q[1]) / 2), (p[1] - q[1], q[0] - p[0])
        low, high = [], []
        for r in sites:  # nearer to p than to r: slope t <= gap
            slope = 2 * ((r[0] - p[0]) * way[0] + (r[1] - p[1]) * way[1])
            gap = (r[0] - middle[0]) ** 2 + (r[1] - middle[1]) ** 2 - (p[0] - middle[0]) ** 2 - (p[1] - middle[1]) ** 2
            if slope:
                (high if slope > 0 else low).append(gap / slope)
            elif gap < 0:
                break
        else:
            if not low or not high or max(low) <= min(high):
                faces.append((middle, way, max(low, default=None), min(high, default=None)))
    return faces


def exact_squared_distance(faces, x):
    squares = []
    for middle, way, low, high in faces:
        t = ((x[0] - middle[0]) * way[0] + (x[1] - middle[1]) * way[1]) / (way[0] ** 2 + way[1] ** 2)
        t = t if low is None else max(t, low)
        t = t if high is None else min(t, high)
        squares.append((x[0] - middle[0] - t * way[0]) ** 2 + (x[1] - middle[1] - t * way[1]) ** 2)
    return min(squares)


def agrees_with_exact(points, labels, places):
    distance = DecisionFaces(torch.tensor(points, dtype=torch.float64), torch.tensor(labels)).distance(
        torch.tensor(places, dtype=torch.float64)
    )
    faces = exact_faces(points, labels)
    exact = [float(exact_squared_distance(faces, tuple(map(Fraction, place)))) ** 0.5 for place in places]
    assert distance.tolist() == pytest.approx(exact, rel=1e-9, abs=1e-9)


@given(SITES, st.tuples(COORDINATE, COORDINATE))
def test_distance_to_the_decision_faces_is_the_exact_one(points, x):
    """Collinear sites, unbounded cells and cocircular sites are all among these small integers."""
    labels = [k % 3 % 2 for k in range(len(points))]
    agrees_with_exact(points, labels, [(x[0] + 0.31, x[1] + 0.17), (100.0 * x[0], 90.0), *points])


# Each is an arrangement that Qhull, or arithmetic far from the origin, once got wrong.
@pytest.mark.parametrize("stray", [0.0, 1e-13, 1e-9, 1e-4])
@pytest.mark.parametrize("arrangement", ["grid", "line", "circle", "pairs", "far"])
def test_distance_where_sites_are_almost_degenerate(arrangement, stray):
    generator = torch.Generator().manual_seed(3)
    k = torch.arange(12, dtype=torch.float64)
    sites = {
        "grid": torch.stack((k % 4, k // 4), 1),
        "line": torch.stack((0.3 * k, 0.7 * k), 1),
        "circle": torch.stack(((k * torch.pi / 6).cos(), (k * torch.pi / 6).sin()), 1),
        "pairs": torch.rand(6, 2, generator=generator, dtype=torch.float64).repeat(2, 1),
        "far": torch.rand(12, 2, generator=generator, dtype=torch.float64) + 1e6,
    }[arrangement]
    labels = [0, 1, 1, 2, 0, 2] * 2
    sites = sites + stray * torch.randn(12, 2, generator=generator, dtype=torch.float64)
    places = sites.mean(0) + 6 * torch.rand(20, 2, generator=generator, dtype=torch.float64) - 3
    agrees_with_exact(sites.tolist(), labels, [*places.tolist(), *sites.tolist()])


def test_qhull_and_the_trial_of_all_pairs_find_the_same_faces():
    """A large set is tessellated by Qhull; with two sites that nearly coincide every pair is tried."""
    generator = torch.Generator().manual_seed(0)
    sites, labels = torch.rand(100, 2, generator=generator, dtype=torch.float64), torch.arange(100) % 3
    x = 2 * torch.rand(500, 2, generator=generator, dtype=torch.float64) - 0.5
    twin = torch.cat((sites, sites[:1] + 1e-12)), torch.cat((labels, labels[:1]))
    assert torch.allclose(DecisionFaces(sites, labels).distance(x), DecisionFaces(*twin).distance(x), rtol=1e-9, atol=1e-9)


@given(SITES)
def test_g_holds_on_the_sites_what_theorem_3_promises(points):
    """In exact fractions: with sites more than 2 epsilon apart, |g| > epsilon on each; and by the package's floating point."""
    sites, labels = labelled(points)
    own = labels.tolist()
    exact = [
        min(Fraction((a - c) ** 2 + (b - d) ** 2) for (c, d), other in zip(points, own, strict=True) if other != label)
        for (a, b), label in zip(points, own, strict=True)
    ]
    epsilon = float(min(exact)) ** 0.5 / 2 * 0.999
    faces = exact_faces(points, own)
    for point in points:
        assert exact_squared_distance(faces, point) > Fraction(epsilon) ** 2
    g = DecisionFaces(sites, labels)
    assert torch.equal(g.prediction(sites), labels)
    assert (g.distance(sites) > epsilon).all()
    c = SiteClassifier(sites, labels).certify(sites, epsilon)
    assert torch.equal(c.label, labels)
    for radius, squared in zip(c.radius.tolist(), exact, strict=True):
        assert (2 * Fraction(radius)) ** 2 <= squared  # rounded down, exactly
        assert radius >= float(squared) ** 0.5 / 2 * (1 - 1e-6)


@given(SITES, st.integers(0, 100))
def test_each_margin_of_g_is_1_lipschitz(points, seed):
    """Between near points and far ones, on the same side of a face and across it."""
    sites, labels = labelled(points, 3)
    g = DecisionFaces(sites, labels)
    generator = torch.Generator().manual_seed(seed)
    x = 16 * torch.rand(300, 2, generator=generator, dtype=torch.float64) - 8
    moved = x + torch.logspace(-3, 1, 300, dtype=torch.float64)[:, None] * torch.randn(300, 2, generator=generator).double()
    margins = [y[:, :, None] - y[:, None, :] for y in (g.logits(x), g.logits(moved))]
    assert ((margins[0] - margins[1]).abs().amax((1, 2)) <= (x - moved).norm(dim=1) + 1e-12).all()


@given(SITES, st.integers(0, 100))
def test_gradient_has_norm_one_almost_everywhere(points, seed):
    sites, labels = labelled(points, 3)
    g = DecisionFaces(sites, labels)
    x = 16 * torch.rand(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 8
    x = x[g.distance(x) > 1e-3].requires_grad_()
    (gradient,) = torch.autograd.grad(g.distance(x).sum(), x)
    assert torch.allclose(gradient.norm(dim=1), torch.ones(len(x), dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("form", ["certify", "certify_by_bisectors"])
def test_certificates_hold_in_many_dimensions(form):
    generator = torch.Generator().manual_seed(0)
    sites = torch.rand(60, 7, generator=generator, dtype=torch.float64)
    labels = torch.arange(60) % 4
    classifier = SiteClassifier(sites, labels, chunk=16)
    x = torch.rand(200, 7, generator=generator, dtype=torch.float64)
    c = getattr(classifier, form)(x, 0.05)
    assert torch.equal(c.prediction, labels[torch.cdist(x, sites).argmin(1)])
    assert torch.equal(c.label, c.prediction.where(c.radius > 0.05, -1))
    tight = 0
    for q in range(60):  # straight at each site of another label, as far as the certificate reaches
        way = sites[q] - x
        way = way / way.norm(dim=1, keepdim=True)
        inside = x + c.radius[:, None] * (1 - 1e-9) * way
        assert torch.equal(labels[torch.cdist(inside, sites).argmin(1)], c.prediction)
    # Perpendicular to the bisectors is where the boundary lies: a radius one per cent larger breaks for some point.
    for p in range(60):
        for q in range(60):
            if labels[p] != labels[q]:
                way = (sites[q] - sites[p]) / (sites[q] - sites[p]).norm()
                beyond = x + 1.01 * c.radius[:, None] * way
                tight += int((labels[torch.cdist(beyond, sites).argmin(1)] != c.prediction).sum())
                inside = x + c.radius[:, None] * (1 - 1e-9) * way
                assert torch.equal(labels[torch.cdist(inside, sites).argmin(1)], c.prediction)
    assert tight > 0 or form == "certify"


def test_bisectors_are_never_below_the_nearest_sites_and_chunks_change_nothing():
    generator = torch.Generator().manual_seed(1)
    sites, labels = torch.rand(40, 5, generator=generator, dtype=torch.float64), torch.arange(40) % 3
    x = torch.rand(30, 5, generator=generator, dtype=torch.float64)
    whole, parts = SiteClassifier(sites, labels), SiteClassifier(sites, labels, chunk=7)
    near, sharp = whole.certify(x, 0.1).radius, whole.certify_by_bisectors(x, 0.1, candidates=40).radius
    assert (sharp >= near * (1 - 1e-9)).all() and (sharp > near * 1.05).any()
    assert torch.allclose(sharp, parts.certify_by_bisectors(x, 0.1, candidates=40).radius, rtol=1e-9, atol=1e-12)
    # Brute force, from the definition.
    for row in range(30):
        own = labels[(x[row] - sites).norm(dim=1).argmin()]
        values = []
        for p in sites[labels == own]:
            q = sites[labels != own]
            faces = ((x[row] - q).square().sum(1) - (x[row] - p).square().sum()) / (2 * (p - q).norm(dim=1))
            values.append(faces.min())
        assert sharp[row].item() == pytest.approx(max(values).item(), rel=1e-9)


def test_logits_are_half_distances():
    sites, labels = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 2])
    logits = SiteClassifier(sites, labels).logits(torch.tensor([[0.0, 0.0]]))
    assert logits[0].tolist() == pytest.approx([0, -torch.inf, -2.5], abs=1e-6)


def test_errors_say_what_to_do():
    two = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="sites 0 and 1 coincide and have the labels 0 and 1"):
        check_sites(two, torch.tensor([0, 1, 1]))
    DecisionFaces(two, torch.tensor([0, 0, 1]))  # the same label twice is no clash
    with pytest.raises(ValueError, match="at least two sites"):
        check_sites(two[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match="two different labels"):
        check_sites(two, torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match="site 1 holds NaN"):
        check_sites(torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="point 0 holds NaN"):
        DecisionFaces(two, torch.tensor([0, 0, 1])).distance(torch.tensor([[torch.nan, 0.0]]))
    with pytest.raises(ValueError, match="in the plane"):
        DecisionFaces(torch.eye(3), torch.arange(3))
    with pytest.raises(SeparationError, match=r"sites 1 and 2 .* 0.5 apart.*2 epsilon = 0.6: take an epsilon below 0.25"):
        check_separation(torch.tensor([[0.0], [2.0], [2.5]]), torch.tensor([0, 0, 1]), 0.3)
    assert check_separation(torch.tensor([[0.0], [2.0], [2.5]]), torch.tensor([0, 0, 1]), 0.2) == 0.5
    with pytest.raises(ValueError, match="2 coordinates and the sites 1"):
        SiteClassifier(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])).certify(torch.zeros(1, 2), 0.1)
