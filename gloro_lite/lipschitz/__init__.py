"""Bounds on the l2 Lipschitz constant of a network.

Two numbers with two names. The *certified bound* (`upper_bound`) is a true upper bound in float64, computed once after
training; every certificate uses it. The *training bound* (`TrainingBound`) is a differentiable estimate by power iteration,
cheap enough for each step; it approaches the operator norms from below and certifies nothing.
"""

from gloro_lite.lipschitz.errors import MismatchError, NetworkError, UnknownLayerError
from gloro_lite.lipschitz.lower import Pairs, lower_bound, slopes, steepest_pairs
from gloro_lite.lipschitz.norms import operator_norm
from gloro_lite.lipschitz.power import TrainingBound, power_iteration
from gloro_lite.lipschitz.program import Program, upper_bound
from gloro_lite.lipschitz.walk import layer_bound, linear_operator

__all__ = [
    "MismatchError",
    "NetworkError",
    "Pairs",
    "Program",
    "TrainingBound",
    "UnknownLayerError",
    "layer_bound",
    "linear_operator",
    "lower_bound",
    "operator_norm",
    "power_iteration",
    "slopes",
    "steepest_pairs",
    "upper_bound",
]
