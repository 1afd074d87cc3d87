"""Tables in Markdown, and numbers as tables and sentences show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_ALIGNMENT = {"l": ":---", "r": "---:"}


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]], align: str = "") -> str:
    """A table in Markdown.

    Args:
        head: the columns' titles.
        rows: cells, in Markdown; see `escaped` for text that may hold a bar.
        align: a letter for each column, l or r; left empty, as the page's style has it.

    Raises ValueError where a row, or `align`, has not as many cells as the head.
    """
    rules = [_ALIGNMENT[letter] for letter in align] or ["---"] * len(head)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rules)}|"]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells under {len(head)} columns: {row}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    if len(rules) != len(head):
        raise ValueError(f"alignment {align!r} for {len(head)} columns")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text that may stand in a cell."""
    return text.replace("|", "\\|")


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction in per cent, without the sign."""
    return f"{100 * fraction:.{digits}f}"


def signed(points: float, digits: int = 1) -> str:
    """A difference with its sign, a true minus."""
    return f"{points:+.{digits}f}".replace("-", "−")


def span(values: Iterable[float], form: str = ",", word: str = " to ") -> str:
    """The least and the largest of some numbers, in a format of `format`; one number where they are equal."""
    found = sorted(values)
    low, high = format(found[0], form), format(found[-1], form)
    return low if low == high else f"{low}{word}{high}"


def standard_error(fraction: float, count: int) -> float:
    """Of a fraction that `count` images gave: the binomial's standard error, a fraction too."""
    return float((fraction * (1 - fraction) / count) ** 0.5)
