"""Which rows and columns of a table are asked for: a small language of comparisons, parsed here and never executed.

    reward > 0.9 and not diverged
    generation in (3, 4) and margins[0] >= 0.2
    reward - reward_se > 0.85 or trainer == 'trainer-001'
    `all:tar@far=0.01` > 0.5 and 'not finite' not in reason

A column goes by its name, in backticks where that is no plain word. A comparison with what is not there is false;
`reward == None` asks for it. Generations count from 1, as on the screen and in RUN@G.
"""

import ast
import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from search_space.errors import UserError, first_line, require, shown

MAX_CHARACTERS, MAX_PARTS = 1000, 200
QUOTED = re.compile(r"`([^`]+)`")
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
CALCULATIONS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv
}  # fmt: skip


def selected(table: pd.DataFrame, *, where: str = "", sort: str = "", columns: str = "") -> pd.DataFrame:
    """The rows for which `where` holds, in the order of `sort` (`COLUMN[:desc],...`), with the `columns` (`A,B`) alone.

    Raises:
        UserError: one of the three is not understood, names a column that is not there, or does not fit its values.
    """
    if where:
        table = table.iloc[_matching(table, where)]
    for key in reversed([part.strip() for part in sort.split(",") if part.strip()]):
        table = _sorted(table, key)
    names = [name.strip() for name in columns.split(",") if name.strip()]
    return table[[_known(name, table, "--columns") for name in names]] if names else table


def _sorted(table: pd.DataFrame, key: str) -> pd.DataFrame:
    name, colon, order = key.rpartition(":")
    falling = bool(colon) and order == "desc"
    name = _known(name if falling or (colon and order == "asc") else key, table, "--sort")
    try:
        return table.sort_values(name, ascending=not falling, kind="stable")
    except (TypeError, ValueError):
        raise UserError(f"--sort: values of {name} have no order") from None


def _known(name: str, names: Iterable[Any], place: str) -> str:
    """A name that is one of a table's columns."""
    known = [str(other) for other in names]
    if name not in known:
        near = difflib.get_close_matches(name[:50], known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        raise UserError(f"{place}: no column {shown(name)}; {hint}")
    return name


def _matching(table: pd.DataFrame, text: str) -> list[int]:
    """Positions of the rows for which an expression holds."""
    try:
        expression = _Expression(text, list(map(str, table)))
        columns: dict[str, Any] = {name: pa.array(_from_one(name, table[name])) for name in expression.used}
        columns[""] = pa.array(np.arange(len(table)))
        found: list[int] = pa.table(columns).filter(expression.arrow)[""].to_pylist()
        return found
    except UserError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"--where {shown(text)}: does not fit the columns: {first_line(error)[:200]}") from None


def _from_one(name: str, column: "pd.Series[Any]") -> "pd.Series[Any]":
    return column + 1 if name == "generation" else column


class _Expression:
    """An expression of the small language, as one of Arrow.

    Args:
        columns: that it may name.
    """

    def __init__(self, text: str, columns: Sequence[str]) -> None:
        self.text, self.columns, self.used = text, columns, set[str]()
        require(len(text) <= MAX_CHARACTERS, f"--where must have at most {MAX_CHARACTERS} characters", len(text))
        self._quoted: list[str] = []
        plain = QUOTED.sub(self._placeholder, text)
        try:
            tree = ast.parse(plain.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            what = error.msg if isinstance(error, SyntaxError) else first_line(error)
            raise self._refused(f"not understood ({what})") from None
        if sum(1 for _ in ast.walk(tree)) > MAX_PARTS:
            raise self._refused(f"of more than {MAX_PARTS} parts")
        self.arrow = self._condition(tree)

    def _placeholder(self, found: "re.Match[str]") -> str:
        self._quoted.append(found[1])
        return f"__{len(self._quoted) - 1}__"

    def _refused(self, why: str) -> UserError:
        example = "reward > 0.9 and not diverged"
        return UserError(f"--where must be a condition such as {example!r}, got {shown(self.text)}: {why}")

    def _condition(self, node: ast.expr) -> Any:
        """What is true or false of a row."""
        match node:
            case ast.BoolOp(op=op, values=values):
                first, *others = map(self._condition, values)
                for other in others:
                    first = first & other if isinstance(op, ast.And) else first | other
                return first
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._condition(operand)
            case ast.Compare(left=left, ops=ops, comparators=others):
                steps = zip([left, *others], ops, others, strict=False)
                first, *further = [self._comparison(*step) for step in steps]
                for step in further:
                    first = first & step
                return first
            case ast.Name():
                return self._value(node)
        raise self._refused("expected comparisons, joined by and, or, not")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(op, ast.NotIn):
            return ~self._comparison(left, ast.In(), right)
        if isinstance(op, ast.In):
            if isinstance(right, ast.Tuple | ast.List):
                return self._value(left).isin([self._constant(item) for item in right.elts])
            return pc.match_substring(self._value(right), pattern=str(self._constant(left)))
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, ast.Eq | ast.NotEq):
            missing = self._value(left).is_null()
            return missing if isinstance(op, ast.Eq) else ~missing
        if type(op) not in COMPARISONS:
            raise self._refused("expected one of == != < <= > >= in")
        return COMPARISONS[type(op)](self._value(left), self._value(right))

    def _value(self, node: ast.expr) -> Any:
        """A column, a place in one, a number or text, or what is calculated of them."""
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(place))) if place >= 0:
                return pc.list_element(self._column(name), place)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in CALCULATIONS:
                return CALCULATIONS[type(op)](self._value(left), self._value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return pc.negate(self._value(operand))
        return pc.scalar(self._constant(node))

    def _constant(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                return node.value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
        raise self._refused("expected a column, a number or a text in quotes")

    def _column(self, name: str) -> Any:
        if re.fullmatch("__[0-9]+__", name) and int(name.strip("_")) < len(self._quoted):
            name = self._quoted[int(name.strip("_"))]
        self.used.add(_known(name, self.columns, "--where"))
        return pc.field(name)
