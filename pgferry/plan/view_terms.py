"""Translates the expressions of views: those of `pgferry.plan.translate`, and aggregates and CASE beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from pgferry.plan.translate import Translator, Typed, Untranslatable, either

_NUMBERS = ("integer", "float", "numeric")


class ViewTranslator(Translator):
    """Translates expressions whose columns are found by `resolve`, which raises Untranslatable."""

    def __init__(self, resolve: Callable[[exp.Column], Typed]) -> None:
        super().__init__({})
        self._resolve = resolve

    def term(self, node: exp.Expression) -> Typed:
        """Translate an expression; raises Untranslatable."""
        return self._any(node)

    def truth(self, node: exp.Expression) -> str:
        """Translate a condition; raises Untranslatable."""
        return self._truth(node).sql

    def _any(self, node: exp.Expression) -> Typed:
        handler = _HANDLERS.get(type(node))
        return handler(self, node) if handler else super()._any(node)

    def _found(self, node: exp.Column) -> Typed:
        return self._resolve(node)

    def _count(self, node: exp.Count) -> Typed:
        _only(node, "this", "big_int")
        inner: Any = node.this
        if inner is None or isinstance(inner, exp.Star):
            return Typed("count(*)", "integer")
        if isinstance(inner, exp.Distinct):
            if len(inner.expressions) != 1:
                raise Untranslatable("count() of several columns")
            return Typed(f"count(DISTINCT {self._any(inner.expressions[0]).sql})", "integer")
        return Typed(f"count({self._any(inner).sql})", "integer")

    def _sum(self, node: exp.Sum) -> Typed:
        found = self._summed(node)
        return Typed(f"sum({found.sql})", "float" if found.kind == "float" else "numeric")

    def _average(self, node: exp.Avg) -> Typed:
        return Typed(f"avg(CAST({self._summed(node).sql} AS double precision))", "float")

    def _summed(self, node: exp.Expression) -> Typed:
        _only(node, "this")
        found = self._any(node.this)
        if found.kind not in _NUMBERS:
            raise Untranslatable(f"it sums {found.kind}")
        return found

    def _extreme(self, node: exp.Expression) -> Typed:
        _only(node, "this")
        found = self._any(node.this)
        return Typed(f"{'max' if isinstance(node, exp.Max) else 'min'}({ordered(found)})", found.kind)

    def _cases(self, node: exp.Case) -> Typed:
        _only(node, "ifs", "default")
        branches: list[Any] = node.args["ifs"]
        default = self._any(node.args["default"]) if node.args.get("default") else Typed("NULL", "null")
        found = [(self._truth(branch.this).sql, self._any(branch.args["true"])) for branch in branches]
        values = [*(value for _, value in found), default]
        kinds = {value.kind for value in values} - {"null"}
        if len(kinds) != 1:
            raise Untranslatable(f"its CASE mixes {', '.join(sorted(kinds)) or 'nothing'}")
        whens = " ".join(f"WHEN {condition} THEN {value.sql}" for condition, value in found)
        return either(f"(CASE {whens} ELSE {default.sql} END)", values)


_HANDLERS: dict[type[exp.Expression], Callable[[ViewTranslator, Any], Typed]] = {
    exp.Column: ViewTranslator._found,
    exp.Count: ViewTranslator._count,
    exp.Sum: ViewTranslator._sum,
    exp.Avg: ViewTranslator._average,
    exp.Max: ViewTranslator._extreme,
    exp.Min: ViewTranslator._extreme,
    exp.Case: ViewTranslator._cases,
}


def ordered(value: Typed) -> str:
    """Return the value as it sorts in SQLite; raises Untranslatable when PostgreSQL sorts it in another way."""
    if value.kind == "text":
        return f'{value.sql} COLLATE "C"'
    if value.kind in (*_NUMBERS, "bytea") or value.sorts:
        return value.sql
    raise Untranslatable(f"it sorts {value.kind}, which SQLite may sort in another way")


def _only(node: exp.Expression, *parts: str) -> None:
    unknown = [name for name, value in node.args.items() if value and name not in parts]
    if unknown:
        raise Untranslatable(f"{node.sql(dialect='sqlite')} is not known to mean the same in PostgreSQL")
