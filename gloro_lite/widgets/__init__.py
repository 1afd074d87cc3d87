"""Pictures to play with, alive in Jupyter and, without a kernel, in the rendered book. Needs anywidget and matplotlib.

The mathematics runs in the browser, `core.js`, in float64; its results agree with this package's to 1e-5.
"""

from gloro_lite import extras

with extras.needed("gloro_lite.widgets", "book"):
    from gloro_lite.widgets.bottom_logit import BottomLogit
    from gloro_lite.widgets.margin_explorer import MarginExplorer
    from gloro_lite.widgets.training_replay import TrainingReplay
    from gloro_lite.widgets.voronoi_playground import VoronoiPlayground

__all__ = ["BottomLogit", "MarginExplorer", "TrainingReplay", "VoronoiPlayground"]
