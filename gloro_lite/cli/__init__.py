"""The command line: `python -m gloro_lite certify`, `compare`, `export`, `cards` and `train`.

Each command is a module with `add`, which declares its options, and `run`, which does the work and raises ValueError or OSError
with a message that says what to do.
"""

from __future__ import annotations

import argparse
import sys

from gloro_lite.cli import cards, certify, compare, export
from gloro_lite.console import reports_errors

COMMANDS = (certify, compare, export, cards)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    p = argparse.ArgumentParser(
        prog="python -m gloro_lite",
        description="Certified classifiers: certify images, compare, export and train nets.",
        epilog="Exit codes: 0 done, 1 an error, 2 a command or option that is not understood, 130 interrupted.",
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    commands.add_parser("train", help="train a recipe and certify the test set (`train --help` lists its options)")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:  # which has options and exit codes of its own
        from gloro_lite.train import command

        return command.main(arguments[1:])
    options = parser().parse_args(arguments)
    return reports_errors(lambda _: options.run(options))()
