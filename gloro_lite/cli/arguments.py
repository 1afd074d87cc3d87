"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from fractions import Fraction

from gloro_lite.certificate import check_epsilon


def net(parser: argparse.ArgumentParser) -> None:
    """Declare NET, which `gloro_lite.load` reads."""
    parser.add_argument(
        "net", metavar="NET", help="a stored net, mnist-0.3 or mnist-0.3/seed-1 say, or the folder of a run of yours"
    )


def radius(text: str) -> float:
    """An epsilon from the command line: a number or a fraction, 36/255 say."""
    try:
        # A fraction of what has an exponent would write out all its digits.
        return check_epsilon(float(Fraction(text) if "/" in text else text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no radius: give a number greater than 0, 0.3 or 36/255 say") from None
