"""The curves that a notebook draws while it trains, and maps of the plane."""

import IPython.display
import pytest
import torch
from matplotlib.figure import Figure

from gloro_lite import plotting


class Handle:
    def __init__(self):
        self.pictures = []

    def update(self, picture):
        self.pictures.append(picture)


@pytest.mark.parametrize(("seconds", "pictures"), [(0.0, 3), (1000.0, 2)])
def test_live_curves_are_redrawn_in_place_and_not_too_often(monkeypatch, seconds, pictures):
    handle = Handle()
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    draw = plotting.live_curves(seconds)
    history = []
    for epoch in range(3):
        history.append({"epoch": epoch, "loss": 2.0 - epoch, "accuracy": 0.5, "vra": 0.1 * epoch, "lipschitz": 3.0})
        draw(history, epoch == 2)
    assert len(handle.pictures) == pictures and all(isinstance(picture, Figure) for picture in handle.pictures)
    loss, validation, _ = handle.pictures[-1].axes
    assert list(loss.lines[0].get_ydata()) == [2.0 - epoch for epoch in range(3)]  # the last picture has all
    assert [text.get_text() for text in validation.get_legend().get_texts()] == ["accuracy", "VRA (estimate)"]


def test_the_boundary_is_drawn_where_the_prediction_changes():
    axes = Figure().add_subplot()
    x = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])

    def side(points):
        return (points[:, 0] > 0.25).long()

    plotting.boundary(axes, side, x)
    line = axes.collections[-1].get_paths()[0].vertices
    assert abs(line[:, 0] - 0.25).max() < 0.02 and line[:, 1].max() - line[:, 1].min() > 2
