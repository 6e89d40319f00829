"""What the values of a trial must satisfy together: comparisons of numbers of the train config, and nothing else."""

import ast
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from raysys.configfile import Node
from raysys.errors import UserError, nearest
from tuning.distribution import MISSING
from tuning.space import value_at

_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_COMPUTED: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_ALLOWED = "comparisons (< <= > >= == !=) of paths of the train config, numbers and + - * / %"


class Constraint:
    """One comparison, such as `model.width % model.backbone[sasrec].num_heads == 0`."""

    def __init__(self, text: str) -> None:
        """Parse the text.

        Raises:
            UserError: it is anything but comparisons of paths, numbers and what can be computed of them.
        """
        self.text = text
        self.paths: list[str] = []
        """The paths it speaks of, in their order."""
        try:
            parsed = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise self._refused(f"is not an expression ({getattr(error, 'msg', error)})") from None
        if not isinstance(parsed, ast.Compare):
            raise self._refused("compares nothing")
        self._sides = [self._term(side) for side in (parsed.left, *parsed.comparators)]
        self._compared = []
        for compared in parsed.ops:
            if type(compared) not in _COMPARED:
                raise self._refused(f"{type(compared).__name__.lower()} is not allowed")
            self._compared.append(_COMPARED[type(compared)])

    def holds(self, node: Node) -> bool:
        """Tell whether a resolved train config satisfies it.

        It does where a path leads to nothing, or to null: the part is of another kind, or the setting is not used.
        Nothing satisfies a division by 0.

        Raises:
            UserError: a path leads to something that is not a number.
        """
        found = {path: self._number(node, path) for path in self.paths}
        if None in found.values():
            return True
        try:
            sides = [side(found) for side in self._sides]
        except ZeroDivisionError:
            return False
        return all(compared(*pair) for compared, pair in zip(self._compared, itertools.pairwise(sides), strict=True))

    def _term(self, node: ast.expr) -> Callable[[dict[str, Any]], Any]:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return lambda found: number
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                negated = self._term(inner)
                return lambda found: -negated(found)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _COMPUTED:
                compute, one, two = _COMPUTED[type(op)], self._term(left), self._term(right)
                return lambda found: compute(one(found), two(found))
            case ast.Name() | ast.Attribute() | ast.Subscript():
                path = self._path(node)
                self.paths.append(path)
                return lambda found: found[path]
        raise self._refused(f"{ast.unparse(node)} is not allowed")

    def _path(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return name
            case ast.Attribute(value=inner, attr=name):
                return f"{self._path(inner)}.{name}"
            case ast.Subscript(value=inner, slice=ast.Name(id=kind)):
                return f"{self._path(inner)}[{kind}]"
        raise self._refused(f"{ast.unparse(node)} is not a path")

    def _number(self, node: Node, path: str) -> Any:
        value = value_at(node, path)
        if value is MISSING or value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"constraints: {self.text!r}: {path} is {value!r}, not a number")
        return value

    def _refused(self, why: str) -> UserError:
        return UserError(f"constraints: {self.text!r}: {why}; allowed are {_ALLOWED}")


def check_constraints(constraints: Sequence[Constraint], base: Node, others: Sequence[Node]) -> None:
    """Check constraints before a search starts, against its base and other configs that it may come to.

    Raises:
        UserError: a path leads nowhere in any of them, or to no number in one, or the base does not satisfy one.
    """
    for constraint in constraints:
        for path in constraint.paths:
            if all(value_at(node, path) is MISSING for node in (base, *others)):
                known = [name for node in (base, *others) for name in _number_paths(node, "")]
                raise UserError(
                    f"constraints: {constraint.text!r}: the config has no {path}{nearest(path, dict.fromkeys(known))}"
                )
        if not constraint.holds(base):
            values = ", ".join(f"{path} is {value_at(base, path)}" for path in dict.fromkeys(constraint.paths))
            raise UserError(f"constraints: {constraint.text!r} does not hold in the base ({values})")
        for node in others:
            constraint.holds(node)  # they need not satisfy it, but it must make sense


def _number_paths(node: Any, above: str) -> list[str]:
    """Return the dotted paths of all numbers in a config."""
    if isinstance(node, dict):
        return [
            path for key, inner in node.items() for path in _number_paths(inner, f"{above}.{key}" if above else key)
        ]
    return [above] if isinstance(node, int | float) and not isinstance(node, bool) else []
