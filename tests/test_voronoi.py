"""Theorem 3's classifiers against brute force, exact fractions, and a search for points that break a certificate."""

from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloro_lite.voronoi import DecisionFaces, SeparationError, SiteClassifier, _tessellate, check_separation, check_sites

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


def agrees_with_exact(points, labels, places, absolute=1e-9):
    """The package's distance is never above the exact one, not by a bit, and hardly below."""
    g = DecisionFaces(torch.tensor(points, dtype=torch.float64), torch.tensor(labels))
    distance = g.distance(torch.tensor(places, dtype=torch.float64)).tolist()
    faces = exact_faces(points, labels)
    for place, value in zip(places, distance, strict=True):
        square = exact_squared_distance(faces, tuple(map(Fraction, place)))
        assert Fraction(value) ** 2 <= square
        assert value == pytest.approx(float(square) ** 0.5, rel=1e-9, abs=absolute)


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


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    spread=st.floats(-9, -1),
    centre=st.sampled_from([0.0, 0.5, 1000.0]),
)
def test_distance_where_sites_cluster(seed, sizes, spread, centre):
    """A tight cluster among scattered sites: faces as short as the cluster is wide count like all others."""
    kind = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    scattered, cluster = (torch.rand(n, 2, **kind) for n in sizes)
    sites = torch.cat((scattered, centre + 10**spread * cluster))
    labels = (torch.arange(len(sites)) % 3).tolist()
    beside = sites + 10**spread * torch.randn(len(sites), 2, **kind)
    # Rounding is that of the offset from a near site, so it is small beside the cluster as well.
    agrees_with_exact(sites.tolist(), labels, [*sites.tolist(), *beside.tolist()], absolute=1e-6 * 10**spread)


def test_a_cluster_that_was_once_lost():
    """Twenty sites within 2e-6, where Qhull leaves faces out: g was 200 times the distance to the next label."""
    generator = torch.Generator().manual_seed(200)
    kind = {"generator": generator, "dtype": torch.float64}
    sites, labels = torch.cat((torch.rand(10, 2, **kind), 0.5 + 1.8e-6 * torch.rand(10, 2, **kind))), torch.arange(20) % 3
    agrees_with_exact(sites.tolist(), labels.tolist(), sites.tolist(), absolute=1e-12)


def test_near_sites_alone_prove_most_pairs_empty():
    """A large set goes through the sites near each pair first; what remains is the same."""
    kind = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    sites = torch.cat((torch.rand(120, 2, **kind), 0.5 + 1e-7 * torch.rand(30, 2, **kind)))
    near, all_pairs = _tessellate(sites), _tessellate(sites, near=150)
    assert torch.equal(near[0], all_pairs[0]) and torch.equal(near[1], all_pairs[1])
    # Euler: a tessellation of n sites in general position has 3 n - 3 - (sites on the hull) faces.
    assert 2 * len(sites) < len(near[0]) < 3 * len(sites)


@pytest.mark.parametrize("scale", [1e-300, 1e-180, 1e-155, 1e140])
def test_sites_as_small_or_large_as_floats_can_be(scale):
    """Squares underflow below 1e-160; what is claimed is never more than the truth, and the truth for g and the separation."""
    points = [[0.0, 0.0], [scale, 0.0], [0.0, 3 * scale], [4 * scale, scale]]
    labels = [0, 1, 0, 1]
    sites, y = torch.tensor(points, dtype=torch.float64), torch.tensor(labels)
    assert check_separation(sites, y, scale / 4) == pytest.approx(scale, rel=1e-12)
    with pytest.raises(SeparationError):
        check_separation(sites, y, scale / 2)
    g = DecisionFaces(sites, y)
    assert g.distance(sites).tolist() == pytest.approx([scale / 2, scale / 2, *g.distance(sites).tolist()[2:]], rel=1e-9)
    assert g.prediction(sites).tolist() == labels
    classifier = SiteClassifier(sites, y)
    for c in (
        classifier.certify(sites, scale),
        classifier.certify_by_bisectors(sites, scale),
        classifier.certify_by_cells(sites, scale),
    ):
        assert (c.radius <= g.distance(sites) * (1 + 1e-12)).all()
    mixed = torch.cat((sites, torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)))
    least = check_separation(mixed, torch.tensor([0, 1, 0, 1, 0, 1]), min(scale, 1.0) / 4)
    assert least == pytest.approx(min(scale, 1.0), rel=1e-12)


def test_prediction_is_exact_where_distances_round_to_the_same():
    """Far from two sites that nearly coincide, floating point cannot tell which is nearer; fractions can."""
    sites = torch.tensor([[0.0, 0.0], [1e-9, 0.0], [9.0, 9.0]], dtype=torch.float64)
    x = torch.tensor([[4e-10, 3.0], [6e-10, 3.0], [5.0001e-10, -70.0]], dtype=torch.float64)
    assert DecisionFaces(sites, torch.tensor([0, 1, 2])).prediction(x).tolist() == [0, 1, 1]


@settings(max_examples=12)
@given(SITES, st.tuples(COORDINATE, COORDINATE))
def test_cells_in_the_plane_are_as_far_as_the_decision_faces(points, x):
    """Two constructions of one number: the dual of a quadratic programme and the tessellation, each rounded down."""
    sites, labels = labelled(points, 3)
    x = torch.tensor([(x[0] + 0.31, x[1] + 0.17), (7.3 * x[0], -9.1)], dtype=torch.float64)
    c = SiteClassifier(sites, labels).certify_by_cells(x, 0.1, candidates=9, rivals=9, steps=400)
    distance = DecisionFaces(sites, labels).distance(x)
    assert (c.radius <= distance * (1 + 1e-12) + 1e-12).all()
    assert torch.allclose(c.radius, distance, rtol=1e-3, atol=1e-3)
    assert torch.equal(c.label, c.prediction.where(c.radius > 0.1, -1))


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_the_box_can_only_help_and_a_lattice_finds_nothing_nearer(seed):
    kind = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    sites, labels = 1.6 * torch.rand(8, 2, **kind) - 0.3, torch.arange(8) % 2
    x = torch.rand(6, 2, **kind)
    classifier = SiteClassifier(sites, labels)
    options = {"candidates": 8, "rivals": 8, "steps": 200}
    free, boxed = classifier.certify_by_cells(x, 0.1, **options), classifier.certify_by_cells(x, 0.1, box=(0, 1), **options)
    assert (boxed.radius >= free.radius * (1 - 1e-9)).all()
    line = torch.linspace(0, 1, 201, dtype=torch.float64)
    lattice = torch.cartesian_prod(line, line)
    far = torch.cdist(x, lattice)
    other = labels[torch.cdist(lattice, sites).argmin(1)] != boxed.prediction[:, None]
    nearest = far.where(other, torch.inf).amin(1)
    assert (nearest >= boxed.radius * (1 - 1e-9)).all()
    # A lattice point is never more than 0.0036 from where the other label begins, unless the box cuts off a tiny corner.
    assert (boxed.radius >= nearest.where(nearest.isfinite(), 0.0) - 0.05).all()


@given(SITES, st.tuples(COORDINATE, COORDINATE), st.integers(-30, 30))
def test_radii_by_bisectors_are_rounded_down(points, x, power):
    """Against exact fractions, at any scale."""
    scale = 2.0**power
    sites, labels = labelled([(a * scale, b * scale) for a, b in points], 2)
    place = (x[0] + 0.31) * scale, (x[1] + 0.17) * scale
    c = SiteClassifier(sites, labels).certify_by_bisectors(torch.tensor([place], dtype=torch.float64), 0.1, candidates=9)
    exact = [tuple(map(Fraction, site)) for site in sites.tolist()]
    at = tuple(map(Fraction, place))

    def square(a, b):
        return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2

    own = int(c.prediction)
    bounds = []
    for q, label in zip(exact, labels.tolist(), strict=True):
        if label != own:
            gaps = [
                (square(at, q) - square(at, p), square(p, q)) for p, k in zip(exact, labels.tolist(), strict=True) if k == own
            ]
            bounds.append(max((gap**2 / (4 * width) for gap, width in gaps if gap > 0), default=Fraction(0)))
    assert Fraction(c.radius.item()) ** 2 <= min(bounds)
    assert c.radius.item() == pytest.approx(float(min(bounds)) ** 0.5, rel=1e-6, abs=1e-7 * scale)


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


@pytest.mark.parametrize("form", ["certify", "certify_by_bisectors", "certify_by_cells"])
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
        for q in sites[labels != own]:
            p = sites[labels == own]
            faces = ((x[row] - q).square().sum() - (x[row] - p).square().sum(1)) / (2 * (p - q).norm(dim=1))
            values.append(faces.max())
        assert sharp[row].item() == pytest.approx(min(values).item(), rel=1e-9)


def test_logits_are_half_distances():
    sites, labels = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 2])
    logits = SiteClassifier(sites, labels).logits(torch.tensor([[0.0, 0.0]]))
    assert logits[0].tolist() == pytest.approx([0, -torch.inf, -2.5], abs=1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), dimension=st.integers(1, 40))
def test_a_cell_of_one_bisector_is_rounded_down(seed, dimension):
    """Between two sites the distance is known in fractions; the dual's own rounding must not exceed it."""
    kind = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    sites, x = torch.randn(2, dimension, **kind), torch.randn(1, dimension, **kind)
    c = SiteClassifier(sites, torch.tensor([0, 1])).certify_by_cells(x, 0.1)
    p, q, at = (list(map(Fraction, row.tolist())) for row in (*sites, x[0]))
    gap = sum((a - b) ** 2 for a, b in zip(at, q, strict=True)) - sum((a - b) ** 2 for a, b in zip(at, p, strict=True))
    exact = gap**2 / (4 * sum((a - b) ** 2 for a, b in zip(p, q, strict=True)))
    assert Fraction(c.radius.item()) ** 2 <= exact
    assert c.radius.item() == pytest.approx(float(exact) ** 0.5, rel=1e-6, abs=1e-7)


def test_rivals_that_are_not_looked_at_bound_the_radius_too():
    kind = {"generator": torch.Generator().manual_seed(2), "dtype": torch.float64}
    sites, x = torch.rand(120, 12, **kind), torch.rand(80, 12, **kind)
    classifier = SiteClassifier(sites, torch.arange(120) % 3)
    few, all_of_them = (classifier.certify_by_cells(x, 0.1, candidates=20, rivals=n, steps=300).radius for n in (1, 40))
    assert (few <= all_of_them * (1 + 1e-9)).all() and (few < all_of_them * 0.999).any()
    assert (few >= classifier.certify_by_bisectors(x, 0.1, candidates=20).radius * (1 - 1e-12)).all()


def test_what_is_given_is_copied():
    sites, labels = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1])
    classifier, g = SiteClassifier(sites, labels), DecisionFaces(sites, labels)
    x = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    sites.zero_(), labels.zero_()
    assert classifier.certify_by_bisectors(x, 0.1).radius.item() == pytest.approx(0.5)
    assert g.distance(x).item() == pytest.approx(0.5) and g.prediction(x).item() == 0


def test_an_empty_batch_gives_an_empty_certificate():
    classifier = SiteClassifier(torch.eye(3), torch.arange(3))
    for form in (classifier.certify, classifier.certify_by_bisectors, classifier.certify_by_cells):
        assert form(torch.zeros(0, 3), 0.1).radius.shape == (0,)


def test_labels_that_are_no_classes_counted_from_0_are_told_how_to_become_so():
    sites, labels = torch.rand(4, 2), torch.tensor([7, 2**40, 7, 2**40])
    with pytest.raises(ValueError, match=r"the largest is 1099511627776: number them anew with labels\.unique"):
        SiteClassifier(sites, labels)
    assert SiteClassifier(sites, labels.unique(return_inverse=True)[1]).classes == 2


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
    for labels in (
        torch.tensor([0.0, 0.5, 1.0]),
        torch.tensor([0.0, 0.0, 1.0]),
        torch.tensor([False, False, True]),
        [0.0, 0.0, 1.0],
    ):
        with pytest.raises(ValueError, match=r"must be integers, not (float32|bool): if they are whole, give labels.long\(\)"):
            check_sites(two, labels)
    check_sites(two, [0, 0, 1])
    check_sites(two, torch.tensor([0, 0, 1], dtype=torch.uint8))
    with pytest.raises(ValueError, match="0 or greater"):
        check_sites(two, torch.tensor([-1, -1, 1]))
    with pytest.raises(ValueError, match=r"3 sites and labels of shape \(2,\)"):
        check_sites(two, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"site 0 holds a value beyond 1e\+150.*divide all data"):
        check_sites(torch.tensor([[1e200], [0.0]], dtype=torch.float64), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="sites are complex"):
        check_sites(torch.tensor([[1j], [0.0]]), torch.tensor([0, 1]))
    classifier = SiteClassifier(two, torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"points have the shape \(2,\): give one row for each point"):
        classifier.certify(torch.zeros(2), 0.1)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        classifier.certify_by_bisectors(torch.zeros(1, 2), 0.1, candidates=0)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        classifier.certify_by_cells(torch.zeros(1, 2), 0.1, rivals=0)
    with pytest.raises(ValueError, match=r"chunk is a number of sites, at least 1, not 8\.0"):
        SiteClassifier(two, torch.tensor([0, 0, 1]), chunk=8.0)
    with pytest.raises(ValueError, match=r"point 0 has coordinates from 0 to 9, outside the box \(0, 1\): are the images scaled"):
        classifier.certify_by_cells(torch.tensor([[0.0, 9.0]]), 0.1, box=(0, 1))
    with pytest.raises(ValueError, match=r"\(least, greatest\)"):
        classifier.certify_by_cells(torch.tensor([[0.0, 9.0]]), 0.1, box=(1, 0))
    with pytest.raises(ValueError, match="chunk"):
        SiteClassifier(two, torch.tensor([0, 0, 1]), chunk=0)
    with pytest.raises(ValueError, match="in the plane"):
        DecisionFaces(torch.eye(3), torch.arange(3))
    with pytest.raises(SeparationError, match=r"sites 1 and 2 .* 0.5 apart.*2 epsilon = 0.6: take an epsilon below 0.25"):
        check_separation(torch.tensor([[0.0], [2.0], [2.5]]), torch.tensor([0, 0, 1]), 0.3)
    assert check_separation(torch.tensor([[0.0], [2.0], [2.5]]), torch.tensor([0, 0, 1]), 0.2) == 0.5
    with pytest.raises(ValueError, match="2 coordinates and the sites 1"):
        SiteClassifier(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])).certify(torch.zeros(1, 2), 0.1)
