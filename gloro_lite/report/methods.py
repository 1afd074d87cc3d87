"""The methods whose runs are stored, in the order of the book's tables."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """A method, as tables name it and as its runs are found.

    Attributes:
        title: what a table calls it.
        key: of a recipe's runs, how the recipe's name ends, `-short` left out: "-standard", or "" for our own recipes. Of another
            method's, the folder under `data/results`, with a slash: "kw/".
        paper: its name in `data/paper.json`; empty where the paper has no figures for it.
        card: what a model card says that it is; of recipes their cards say more.
        probabilistic: its guarantee holds with a probability.
    """

    title: str
    key: str
    paper: str = ""
    card: str = ""
    probabilistic: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether its runs are of no recipe."""
        return self.key.endswith("/")


METHODS = (
    Method("Standard", "-standard", "standard"),
    Method("GloRo, the paper's recipe", "-paper", "gloro"),
    Method("the paper's recipe with ReLU", "-relu"),
    Method("the paper's recipe without TRADES", "-ce"),
    Method("GloRo, our recipes", ""),
    Method("LMT", "lmt/", card="A network trained by LMT, Lipschitz-margin training"),
    Method("KW", "kw/", "kw", "A ReLU network trained by KW, the convex outer polytope of Wong and Kolter"),
    Method("BCP", "bcp/", "bcp", "A ReLU network trained by BCP, box constraint propagation with local bounds"),
    Method(
        "Smoothing",
        "smoothing/",
        "smoothing",
        "A network trained on images with noise, for randomized smoothing",
        probabilistic=True,
    ),
    Method("Sites that learn", "sites/", card="Sites that learn: a classifier by the nearest of them, without a network"),
)


def method_of(name: str) -> Method:
    """The method of a stored recipe, "mnist-0.3-paper-short", or of another method's row, "kw/mnist-0.3".

    Raises KeyError where a folder is of none.
    """
    folder, slash, _ = name.partition("/")
    if slash:
        return {method.key: method for method in METHODS}[folder + slash]
    ours = [method for method in METHODS if not method.is_foreign]
    # The longest ending that fits: every name ends in "".
    return max((m for m in ours if name.removesuffix("-short").endswith(m.key)), key=lambda method: len(method.key))
