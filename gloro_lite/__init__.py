"""Globally-robust neural networks [Leino, Wang, Fredrikson 2021]: classifiers that prove their own robustness."""

from gloro_lite.certificate import Certificate
from gloro_lite.layers import MinMax, Normalize, Residual
from gloro_lite.lipschitz import MismatchError, NetworkError, UnknownLayerError
from gloro_lite.net import GloroNet

__all__ = ["Certificate", "GloroNet", "MinMax", "MismatchError", "NetworkError", "Normalize", "Residual", "UnknownLayerError"]
