"""Bounds on the l2 Lipschitz constant of a network.

Two numbers with two names. The *certified bound* (`upper_bound`) is a true upper bound in float64, computed once after
training; every certificate uses it. The *training bound* (`TrainingBound`) is a differentiable estimate by power iteration,
cheap enough for each step; it approaches the operator norms from below and certifies nothing.
"""

from gloro_lite.lipschitz.certified import operator_norm, upper_bound
from gloro_lite.lipschitz.compose import UnknownLayerError, layer_bound
from gloro_lite.lipschitz.lower import lower_bound
from gloro_lite.lipschitz.operators import LinearOperator, linear_operator
from gloro_lite.lipschitz.power import TrainingBound, power_iteration

__all__ = [
    "LinearOperator",
    "TrainingBound",
    "UnknownLayerError",
    "layer_bound",
    "linear_operator",
    "lower_bound",
    "operator_norm",
    "power_iteration",
    "upper_bound",
]
