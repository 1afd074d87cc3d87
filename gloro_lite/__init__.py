"""Globally-robust neural networks [Leino, Wang, Fredrikson 2021]: classifiers that prove their own robustness."""

from gloro_lite.layers import MinMax, Normalize, Residual
from gloro_lite.lipschitz import UnknownLayerError
from gloro_lite.net import Certificate, GloroNet

__all__ = ["Certificate", "GloroNet", "MinMax", "Normalize", "Residual", "UnknownLayerError"]
