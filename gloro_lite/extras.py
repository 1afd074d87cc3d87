"""Packages that `import gloro_lite` does without: what needs one says which extra brings it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Within, packages of an extra are imported. Raises ModuleNotFoundError that says how to install it where one is missing.

    Args:
        what: is not possible without them, a phrase that goes before "needs".
        extra: its name in `[project.optional-dependencies]` of `pyproject.toml`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise ModuleNotFoundError(f"{what} needs {package}: pip install 'gloro-lite[{extra}]'", name=error.name) from error
