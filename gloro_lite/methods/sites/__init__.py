"""The paper's Theorem 3 with sites that learn: a nearest-site classifier whose certified radius is what training raises.

The classifier is `gloro_lite.voronoi.SiteClassifier`: the label of the nearest site, certified by the hyperplanes that bisect two
sites. Here the sites are parameters. That nearest prototypes can be trained on their own certificate is due to Voracek and Hein,
"Provably Adversarially Robust Nearest Prototype Classifiers", ICML 2022.

    python -m gloro_lite.methods.sites --dataset mnist --epsilon 1.58 --output DIR

trains, chooses the epoch on the validation split, certifies the test set once and writes the results. An interrupted run goes on
where it was. Training needs torch alone; the command needs what `gloro_lite.datasets` needs, and safetensors.
"""

from gloro_lite.methods.sites.model import Sites, hinge, initial_sites, smooth
from gloro_lite.methods.sites.results import load_sites, write
from gloro_lite.methods.sites.training import Data, Settings, load_data, train_sites, warp

__all__ = [
    "Data",
    "Settings",
    "Sites",
    "hinge",
    "initial_sites",
    "load_data",
    "load_sites",
    "smooth",
    "train_sites",
    "warp",
    "write",
]
