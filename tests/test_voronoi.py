"""Theorem 3's classifiers against brute force, exact fractions, and a search for points that break a certificate."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_lite.voronoi import DecisionFaces, SeparationError, SiteClassifier, check_separation, check_sites

COORDINATE = st.integers(-6, 6)
SITES = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9, unique=True)


def labelled(points, classes=2):
    return torch.tensor(points, dtype=torch.float64), torch.arange(len(points)) % classes


def nearest_face_by_bisection(sites, labels, x, directions=720):
    """The distance to the nearest change of label, by search along many directions; never below the true distance."""

    def label(points):
        return labels[torch.cdist(points, sites).argmin(1)]

    own = label(x[None])[0]
    angle = torch.linspace(0, 2 * torch.pi, directions + 1, dtype=torch.float64)[:-1]
    ways = torch.stack((angle.cos(), angle.sin()), 1)
    steps = torch.linspace(0, 15, 600, dtype=torch.float64)
    labels_seen = label((x + steps[:, None, None] * ways).flatten(0, 1)).view(len(steps), directions)
    changed = labels_seen != own
    first = torch.where(changed.any(0), changed.int().argmax(0), len(steps) - 1)
    return steps[first].min().item(), steps[1].item()


@given(SITES, st.tuples(COORDINATE, COORDINATE))
def test_distance_to_the_decision_faces(points, x):
    """Collinear sites, unbounded cells and cocircular sites are all among these small integers."""
    sites, labels = labelled(points)
    x = torch.tensor(x, dtype=torch.float64) + torch.tensor([0.31, 0.17], dtype=torch.float64)
    distance = DecisionFaces(sites, labels).distance(x[None]).item()
    found, step = nearest_face_by_bisection(sites, labels, x)
    if found < 14:
        # A search by steps and angles overshoots: by one step, and by the angle between two directions.
        assert distance <= found + 1e-9
        assert found <= (distance + step) * 1.02 + step


@given(SITES)
def test_g_holds_on_the_sites_what_theorem_3_promises(points):
    """In exact fractions: the squared distance of each site to the others is more than (2 epsilon)^2, so |g| > epsilon."""
    sites, labels = labelled(points)
    exact = [
        min(
            Fraction((a - c) ** 2 + (b - d) ** 2) for (c, d), other in zip(points, labels.tolist(), strict=True) if other != label
        )
        for (a, b), label in zip(points, labels.tolist(), strict=True)
    ]
    epsilon = float(min(exact)) ** 0.5 / 2 * 0.999
    g = DecisionFaces(sites, labels)
    assert torch.equal(g.prediction(sites), labels)
    assert (g.distance(sites) > epsilon).all()
    c = SiteClassifier(sites, labels).certify(sites, epsilon)
    assert torch.equal(c.label, labels)
    for radius, squared in zip(c.radius.tolist(), exact, strict=True):
        assert (2 * Fraction(radius)) ** 2 <= squared  # rounded down, exactly
        assert radius >= float(squared) ** 0.5 / 2 * (1 - 1e-6)


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
    with pytest.raises(ValueError, match="in the plane"):
        DecisionFaces(torch.eye(3), torch.arange(3))
    with pytest.raises(SeparationError, match=r"sites 1 and 2 .* 0.5 apart.*2 epsilon = 0.6: take an epsilon below 0.25"):
        check_separation(torch.tensor([[0.0], [2.0], [2.5]]), torch.tensor([0, 0, 1]), 0.3)
    assert check_separation(torch.tensor([[0.0], [2.0], [2.5]]), torch.tensor([0, 0, 1]), 0.2) == 0.5
    with pytest.raises(ValueError, match="2 coordinates and the sites 1"):
        SiteClassifier(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])).certify(torch.zeros(1, 2), 0.1)
