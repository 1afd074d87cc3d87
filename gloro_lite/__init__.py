"""Globally-robust neural networks [Leino, Wang, Fredrikson 2021]: classifiers that prove their own robustness."""

from gloro_lite.certificate import Certificate
from gloro_lite.layers import MinMax, Normalize, Residual
from gloro_lite.lipschitz import MismatchError, NetworkError, UnknownLayerError
from gloro_lite.net import GloroNet
from gloro_lite.stored import load

__version__ = "0.2.0"

__all__ = [
    "Certificate",
    "GloroNet",
    "MinMax",
    "MismatchError",
    "NetworkError",
    "Normalize",
    "Residual",
    "UnknownLayerError",
    "__version__",
    "load",
]
