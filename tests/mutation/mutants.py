"""Small changes to a module's source, each of which a test should notice.

A mutant is one change of one place: a comparison turned or moved by its boundary, an operator exchanged for its opposite, a
condition negated or a part of it dropped, a number put to 0, 1 or 2, a check or a rounding upwards left out, a maximum for a
minimum. Texts are left alone, and so is what is evaluated for an error's message.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_COMPARISONS: dict[type, tuple[type, ...]] = {  # the boundary, and the opposite
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = (("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"), ("floor", "ceil"))
_EXCHANGED = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
# Functions that give their first argument, but for rounding or a check; methods that give what they are called on, in most cases.
_WRAPPERS = {"raised", "nextafter", "_up", "length_up", "Upper", "abs", "check_epsilon"}
_METHODS = {"abs", "where", "clamp", "clamp_min", "clamp_max", "clone", "double", "kept", "eval", "scatter"}
_REFUSALS = {"refuse", "_refuse"}
# Which axis a reduction takes, or that two lists are of one length: a change fails at once and tells nothing.
_LEFT = {"strict", "dim", "dim1", "dim2", "keepdim", "kind"}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        key: where and what, without line numbers: `function | line of source | before -> after`; a second one is marked #2.
        kind: "comparison", "condition", "arithmetic", "number", "rounding", "exchange", "call" or "check".
        lines: of the statement, or the lambda, that it changes; first and last.
    """

    key: str
    kind: str
    lines: tuple[int, int]
    place: tuple[ast.AST, str, int | None]
    new: ast.AST

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The tree that it was made from, changed for as long as the block lasts."""
        parent, field, index = self.place
        old = getattr(parent, field) if index is None else getattr(parent, field)[index]
        _put(self.place, self.new)
        try:
            yield
        finally:
            _put(self.place, old)


def _put(place: tuple[ast.AST, str, int | None], node: ast.AST) -> None:
    parent, field, index = place
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def mutants(source: str, tree: ast.Module) -> list[Mutant]:
    """All mutants of a module, in order. Each changes `tree`, which was parsed from `source`, while it is applied."""
    lines, found, seen = source.splitlines(), [], {}
    for place, node, function, span in _places(tree, "", None):
        for kind, new, what in _variants(node):
            new = ast.fix_missing_locations(ast.copy_location(copy.copy(new), node))
            what = what or f"{_text(node)} -> {_text(new)}"
            key = f"{function} | {lines[node.lineno - 1].strip()} | {what}"
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > 1:
                key += f" #{seen[key]}"
            found.append(Mutant(key, kind, span, place, new))
    return found


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _places(node: ast.AST, function: str, span: tuple[int, int] | None) -> Iterator[tuple]:
    """Every node that may be changed: where it hangs, itself, the function it is in, and the lines that run with it."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}" if function else node.name
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases") or (isinstance(node, ast.Raise) and field == "exc"):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if _is_docstring(child) or (isinstance(node, ast.Call) and _called(node) in _REFUSALS and field == "args"):
                continue
            if isinstance(child, ast.keyword) and child.arg in _LEFT:
                continue
            if isinstance(node, ast.Subscript) and field == "slice" and _is_number(child):
                continue
            within = span
            if isinstance(child, ast.stmt):
                compound = isinstance(child, ast.If | ast.While | ast.For | ast.With | ast.Try | ast.FunctionDef | ast.ClassDef)
                within = None if compound else (child.lineno, child.end_lineno)
            elif isinstance(child, ast.Lambda):
                within = child.body.lineno, child.body.end_lineno
            if hasattr(child, "lineno"):
                yield (node, field, index), child, function, within or (child.lineno, child.end_lineno)
            yield from _places(child, function, within)


def _is_number(node: ast.AST) -> bool:
    """Whether it is a number, with a sign or without."""
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _with(node: ast.AST, **fields) -> ast.AST:
    new = copy.copy(node)
    for field, value in fields.items():
        setattr(new, field, value)
    return new


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST, str]]:
    """What takes a node's place: the kind of the change, the new node, and what to call it where two texts would be too long."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                yield "comparison", _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]]), ""
    elif isinstance(node, ast.BoolOp):
        both = (ast.Or, ast.And) if isinstance(node.op, ast.And) else (ast.And, ast.Or)
        yield "condition", _with(node, op=both[0]()), " -> ".join(cls.__name__.lower() for cls in both[::-1])
        for place, value in enumerate(node.values):
            rest = [*node.values[:place], *node.values[place + 1 :]]
            yield "condition", rest[0] if len(rest) == 1 else _with(node, values=rest), f"without {_text(value)}"
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield "arithmetic", _with(node, op=_OPERATORS[type(node.op)]()), ""
    elif isinstance(node, ast.UnaryOp):
        yield "condition" if isinstance(node.op, ast.Not) else "arithmetic", node.operand, ""
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            test = ast.UnaryOp(ast.Not(), node.test)
            yield "condition", _with(node, test=test), f"if {_text(node.test)} -> if {_text(test)}"
    elif isinstance(node, ast.Constant):
        for kind, new in _numbers(node):
            yield kind, new, ""
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Raise):
        yield "check", ast.Pass(), "raise -> nothing"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "check", ast.Pass(), f"{_text(node.value.func)} -> nothing"


def _numbers(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield "condition", ast.Constant(not value)
    elif isinstance(value, int | float):
        yield "number", ast.Constant(type(value)(0 if value else 1))
        if value == 1:
            yield "number", ast.Constant(type(value)(2))


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST, str]]:
    name, method = _called(node), isinstance(node.func, ast.Attribute)
    if name in _EXCHANGED:
        other = _EXCHANGED[name]
        new = _with(node.func, attr=other) if method else ast.Name(other, ast.Load())
        yield "exchange", _with(node, func=new), f"{name} -> {other}"
    if name in _WRAPPERS and node.args and (not method or name == "nextafter"):
        yield "check" if name == "check_epsilon" else "rounding", node.args[0], ""
    of = node.func.value if method else None
    if name in _METHODS and of is not None and not (isinstance(of, ast.Name) and of.id in ("torch", "math", "F")):
        yield "call", of, f"without .{name} of {_text(of)}"
