"""Translates SQLite expressions to PostgreSQL, where they are known to mean the same there; refuses the rest.

The grammar is sqlglot's. What is emitted is a list of known nodes, each with the kind of value that it yields, because
PostgreSQL is strict about kinds where SQLite is not. A server's consent would not be enough: many expressions run on
both and mean different things (in SQLite `LIKE` ignores case, integers have 64 bits, text sorts by bytes).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pgferry.convert.numbers import EXACT_DOUBLE, INTEGER_RANGES
from pgferry.model import PgKind, PgType
from pgferry.plan.ranges import ANYTHING, Range
from pgferry.quoting import literal, quote


class Untranslatable(Exception):
    """The expression, or a part of it, has no translation that is known to mean the same."""


@dataclass(frozen=True, slots=True)
class KnownColumn:
    """A column that expressions may name."""

    name: str
    type: PgType
    binary: bool = True
    """Whether it compares by the bytes of its values; NOCASE and RTRIM columns do not, nor do columns whose values
    change their class."""
    truths: tuple[tuple[str, bool], ...] = ()
    """What each word of a boolean column says, where it holds one word each."""
    range: Range | None = None
    """What its numbers are; None when that was not measured, and then they may be all that the type holds."""
    one_class: bool = True
    """Whether every value has the class that its type says; else SQLite reckons with integers where PostgreSQL has
    doubles, or measures text where PostgreSQL has bytes, or the other way round."""
    sorts: bool = False
    """Whether its moments sort by time as their texts do."""

    @property
    def numbers(self) -> Range:
        """The numbers that it may hold."""
        if self.range is not None:
            return self.range
        edges = INTEGER_RANGES.get(self.type.kind)
        return Range(*edges) if edges else ANYTHING


@dataclass(frozen=True, slots=True)
class Typed:
    """A translated expression and the kind of its value."""

    sql: str
    kind: str
    """`integer`, `float`, `numeric`, `text`, `boolean` (a condition, or a boolean column), `null`, or the type's own
    name for anything else."""
    constant: object = None
    """The value of a literal."""
    range: Range = ANYTHING
    """The numbers that it may yield."""
    one_class: bool = True
    """Whether its values have the class that `kind` says."""
    sorts: bool = False
    """Whether its moments sort by time as their texts do."""
    truths: tuple[tuple[str, bool], ...] = ()
    """Of a boolean column that holds words: what each of them says."""


_KINDS = {
    PgKind.SMALLINT: "integer",
    PgKind.INTEGER: "integer",
    PgKind.BIGINT: "integer",
    PgKind.REAL: "float",
    PgKind.DOUBLE: "float",
    PgKind.VARCHAR: "text",
    PgKind.CHAR: "text",
}
_NUMBERS = ("integer", "float", "numeric")
_COMPARED = (*_NUMBERS, "text", "boolean", "bytea")
"""Kinds whose values are equal in PostgreSQL just when they were in SQLite; two spellings of one moment, one UUID or
one document were not."""
_ORDERINGS: dict[type[exp.Expression], str] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_EQUALITIES: dict[type[exp.Expression], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_PARTS = frozenset(
    {"this", "expression", "expressions", "is_string", "quoted", "table", "db"}
    | {"low", "high", "start", "length", "position", "safe", "negate"}
)
"""The parts of a node that are looked at. Any other would be lost, and with it a meaning."""
_ARITHMETIC: dict[type[exp.Expression], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}
_OPERATIONS: dict[str, Callable[[Range, Range], Range]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_LENGTHS = Range(0, 2**30)
"""A value in PostgreSQL has up to 1 GB."""


class Translator:
    """Translates the expressions of one table; `columns` by their lower-case SQLite names."""

    def __init__(self, columns: Mapping[str, KnownColumn]) -> None:
        self._columns = columns

    def value(self, sql: str) -> Typed:
        """Translate an expression; raises Untranslatable with the reason."""
        return self._any(parse(sql))

    def condition(self, sql: str) -> str:
        """Translate a condition of CHECK or WHERE; raises Untranslatable with the reason."""
        return self._truth(parse(sql)).sql

    # ------------------------------------------------------------ nodes

    def _any(self, node: exp.Expression) -> Typed:
        _refuse_unknown_parts(node)
        kind = type(node)
        if kind in _ORDERINGS:
            return self._ordering(node, _ORDERINGS[kind])
        if kind in _EQUALITIES:
            return self._equality(node, _EQUALITIES[kind])
        if kind in _ARITHMETIC:
            return self._arithmetic(node, _ARITHMETIC[kind])
        handler = _HANDLERS.get(kind)
        if handler is None:
            raise Untranslatable(f"{_shown(node)} is not known to mean the same in PostgreSQL")
        return handler(self, node)

    def _truth(self, node: exp.Expression) -> Typed:
        """Translate a node in the place of a condition, where SQLite takes any number for a boolean."""
        found = self._any(node)
        if found.kind == "integer":
            return Typed(f"({found.sql} <> 0)", "boolean")
        if found.kind not in ("boolean", "null"):
            raise Untranslatable(f"{_shown(node)} stands as a condition and is {found.kind}")
        return found

    def _column(self, node: exp.Expression) -> Typed:
        known = self._columns.get(node.name.lower())
        if known is None:
            if isinstance(node.this, exp.Identifier) and node.this.quoted and not node.args.get("table"):
                return _text(node.name)  # SQLite takes "x" for the text x when there is no such column
            raise Untranslatable(f"it names {node.name!r}, which is no column of the table")
        if not known.binary:
            raise Untranslatable(
                f"{known.name!r} compares by a collation, or by classes of values, that PostgreSQL does not have"
            )
        return typed_column(quote(known.name), known)

    def _literal(self, node: exp.Expression) -> Typed:
        if node.args.get("is_string"):
            return _text(node.name)
        text = node.name
        if text.isdigit():
            return Typed(text, "integer", int(text), Range.of(int(text)))
        value = float(text)
        if not math.isfinite(value) or (not value and re.search("[1-9]", text.lower().partition("e")[0])):
            raise Untranslatable(f"{text} is beyond what a double holds, which is an error in PostgreSQL")
        return Typed(text, "float", value, Range.of(value))

    def _null(self, node: exp.Expression) -> Typed:
        return Typed("NULL", "null")

    def _truth_literal(self, node: exp.Expression) -> Typed:
        value = int(bool(node.this))
        return Typed(str(value), "integer", value, Range.of(value))

    def _parentheses(self, node: exp.Expression) -> Typed:
        inner = self._any(node.this)
        return replace(inner, sql=f"({inner.sql})")

    def _negative(self, node: exp.Expression) -> Typed:
        inner = self._number(node.this)
        if isinstance(inner.constant, int | float):
            return Typed(f"(-{inner.sql})", inner.kind, -inner.constant, -inner.range)
        return Typed(f"(-{_wide(inner, inner.kind)})", inner.kind, range=_within(-inner.range, inner.kind, node))

    def _connector(self, node: exp.Expression) -> Typed:
        word = "AND" if isinstance(node, exp.And) else "OR"
        left, right = self._truth(node.args["this"]), self._truth(node.args["expression"])
        return Typed(f"({left.sql} {word} {right.sql})", "boolean")

    def _not(self, node: exp.Expression) -> Typed:
        return Typed(f"(NOT {self._truth(node.this).sql})", "boolean")

    def _is(self, node: exp.Expression) -> Typed:
        if isinstance(node.args["expression"], exp.Boolean):
            raise Untranslatable("IS TRUE asks whether a number is not zero")
        if not isinstance(node.args["expression"], exp.Null):
            return self._equality(node, "IS NOT DISTINCT FROM")
        return Typed(f"({self._any(node.this).sql} IS NULL)", "boolean")

    def _equality(self, node: exp.Expression, sign: str) -> Typed:
        left, right = self._alike(node.args["this"], node.args["expression"])
        return Typed(f"({left.sql} {sign} {right.sql})", "boolean")

    def _ordering(self, node: exp.Expression, sign: str) -> Typed:
        left, right = self._alike(node.args["this"], node.args["expression"])
        return Typed(f"({_sortable(left)} {sign} {right.sql})", "boolean")

    def _between(self, node: exp.Expression) -> Typed:
        low, high = node.args["low"], node.args["high"]
        value, least = self._alike(node.this, low)
        _, greatest = self._alike(node.this, high)
        return Typed(f"({_sortable(value)} BETWEEN {least.sql} AND {greatest.sql})", "boolean")

    def _in(self, node: exp.Expression) -> Typed:
        if not node.expressions:
            raise Untranslatable("IN with a query")
        pairs = [self._alike(node.this, item) for item in node.expressions]
        return Typed(f"({pairs[0][0].sql} IN ({', '.join(right.sql for _, right in pairs)}))", "boolean")

    def _alike(self, left: exp.Expression, right: exp.Expression) -> tuple[Typed, Typed]:
        """Translate two sides that are compared; raises when the databases compare such kinds differently."""
        first, second = self._any(left), self._any(right)
        first, second = _as_boolean(first, second), _as_boolean(second, first)
        if "null" in (first.kind, second.kind):
            return first, second
        if first.kind == second.kind:
            if first.kind not in _COMPARED:
                raise Untranslatable(f"it compares {first.kind}, whose values had other forms in SQLite")
            return first, second
        if first.kind in _NUMBERS and second.kind in _NUMBERS:
            _refuse_rounding(first, second)
            return first, second
        raise Untranslatable(f"it compares {first.kind} ({_shown(left)}) with {second.kind} ({_shown(right)})")

    # ------------------------------------------------------------ numbers and text

    def _number(self, node: exp.Expression) -> Typed:
        found = self._any(node)
        if found.kind not in ("integer", "float"):
            raise Untranslatable(f"it reckons with {found.kind} ({_shown(node)})")
        if not found.one_class:
            raise Untranslatable(f"it reckons with integers and reals that become one type ({_shown(node)})")
        return found

    def _arithmetic(self, node: exp.Expression, sign: str) -> Typed:
        left, right = self._number(node.args["this"]), self._number(node.args["expression"])
        kind = "integer" if left.kind == right.kind == "integer" else "float"
        first, second = (_within(side.range, kind, node) for side in (left, right))
        result = _within(_OPERATIONS[sign](first, second), kind, node)
        if sign == "*" and not result.least:
            raise Untranslatable(
                f"{_shown(node)} may be too near to zero for a double, which is an error in PostgreSQL"
            )
        return Typed(f"({_wide(left, kind)} {sign} {_wide(right, kind)})", kind, range=result)

    def _joined(self, node: exp.Expression) -> Typed:
        left, right = self._textual(node.args["this"]), self._textual(node.args["expression"])
        return Typed(f"({left.sql} || {right.sql})", "text")

    def _textual(self, node: exp.Expression) -> Typed:
        found = self._any(node)
        if found.kind != "text":
            raise Untranslatable(f"it takes {found.kind} ({_shown(node)}) for text")
        return found

    def _like(self, node: exp.Expression) -> Typed:
        text, pattern = self._textual(node.this), self._textual(node.args["expression"])
        if not isinstance(pattern.constant, str) or not pattern.constant.isascii():
            raise Untranslatable("LIKE with a pattern that is no plain ASCII text")
        # SQLite's LIKE ignores the case of ASCII letters and has no escape character.
        word = "NOT ILIKE" if node.args.get("negate") else "ILIKE"
        return Typed(f"({text.sql} {word} {pattern.sql} ESCAPE '')", "boolean")

    def _glob(self, node: exp.Expression) -> Typed:
        text, pattern = self._textual(node.this), self._textual(node.args["expression"])
        if not isinstance(pattern.constant, str):
            raise Untranslatable("GLOB with a pattern that is no plain text")
        return Typed(f"({text.sql} ~ {literal(glob_to_regex(pattern.constant))})", "boolean")

    def _length(self, node: exp.Expression) -> Typed:
        found = self._any(node.this)
        if not found.one_class:
            raise Untranslatable("length() of text that is kept as bytes, or of bytes that are kept as text")
        if found.kind == "bytea":
            return Typed(f"octet_length({found.sql})", "integer", range=_LENGTHS)
        return Typed(f"length({self._textual(node.this).sql})", "integer", range=_LENGTHS)

    def _case(self, node: exp.Expression) -> Typed:
        # SQLite folds ASCII letters only, as PostgreSQL does under the collation "C".
        word = "lower" if isinstance(node, exp.Lower) else "upper"
        return Typed(f'{word}({self._textual(node.this).sql} COLLATE "C")', "text")

    def _trim(self, node: exp.Expression) -> Typed:
        if node.args.get("expression"):
            raise Untranslatable("trim() with characters of its own")
        word = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or ""), "btrim")
        return Typed(f"{word}({self._textual(node.this).sql})", "text")

    def _abs(self, node: exp.Expression) -> Typed:
        found = self._number(node.this)
        return Typed(f"abs({_wide(found, found.kind)})", found.kind, range=_within(abs(found.range), found.kind, node))

    def _coalesce(self, node: exp.Expression) -> Typed:
        found = [self._any(item) for item in (node.this, *node.expressions)]
        kinds = {item.kind for item in found} - {"null"}
        if len(kinds) != 1:
            raise Untranslatable(f"it mixes {', '.join(sorted(kinds))}")
        return either(f"coalesce({', '.join(item.sql for item in found)})", found)

    def _substring(self, node: exp.Expression) -> Typed:
        text = self._textual(node.this)
        start, length = node.args.get("start"), node.args.get("length")
        numbers = [self._any(part).constant for part in (start, length) if part is not None]
        if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise Untranslatable("substr() with places that are no plain positive numbers")
        return Typed(f"substr({text.sql}, {', '.join(map(str, numbers))})", "text")

    def _function(self, node: exp.Expression) -> Typed:
        name = node.name.lower()
        arguments = node.expressions
        if name == "json_valid" and len(arguments) == 1:
            return self._json_valid(arguments[0])
        raise Untranslatable(f"the function {name}() has no translation")

    def _json_valid(self, node: exp.Expression) -> Typed:
        found = self._any(node)
        if found.kind not in ("json", "jsonb"):
            raise Untranslatable("json_valid() of what is no JSON column")
        return Typed(f"(CASE WHEN {found.sql} IS NOT NULL THEN 1 END)", "integer", range=Range.of(1))

    def _typeof(self, node: exp.Expression) -> Typed:
        found = self._any(node.this)
        names = {"integer": "integer", "float": "real", "text": "text", "bytea": "blob"}
        if found.kind not in names or not found.one_class:
            raise Untranslatable(f"typeof() of {found.kind}")
        return Typed(f"(CASE WHEN {found.sql} IS NULL THEN 'null' ELSE '{names[found.kind]}' END)", "text")


_HANDLERS: dict[type[exp.Expression], Callable[[Translator, Any], Typed]] = {
    exp.Column: Translator._column,
    exp.Literal: Translator._literal,
    exp.Null: Translator._null,
    exp.Boolean: Translator._truth_literal,
    exp.Paren: Translator._parentheses,
    exp.Neg: Translator._negative,
    exp.And: Translator._connector,
    exp.Or: Translator._connector,
    exp.Not: Translator._not,
    exp.Is: Translator._is,
    exp.Between: Translator._between,
    exp.In: Translator._in,
    exp.DPipe: Translator._joined,
    exp.Like: Translator._like,
    exp.Glob: Translator._glob,
    exp.Length: Translator._length,
    exp.Lower: Translator._case,
    exp.Upper: Translator._case,
    exp.Trim: Translator._trim,
    exp.Abs: Translator._abs,
    exp.Coalesce: Translator._coalesce,
    exp.Substring: Translator._substring,
    exp.Anonymous: Translator._function,
    exp.Typeof: Translator._typeof,
}


def glob_to_regex(pattern: str) -> str:
    """Return the PostgreSQL regular expression that matches what a GLOB pattern does (lang_expr.html#glob)."""
    regex, position = "^", 0
    while position < len(pattern):
        character = pattern[position]
        end = pattern.find("]", position + 2) if character == "[" else -1
        if character == "[" and end > 0:
            inside = pattern[position + 1 : end]
            negated = inside.startswith("^")
            regex += "[" + "^" * negated + inside[negated:].replace("\\", "\\\\").replace("[", "\\[") + "]"
            position = end
        else:
            regex += {"*": ".*", "?": "."}.get(character) or _escaped(character)
        position += 1
    return regex + "$"


def _escaped(character: str) -> str:
    return "\\" + character if character in r".^$*+?()[]{}|\\" else character


def parse(sql: str) -> exp.Expression:
    """Parse SQLite's SQL; raises Untranslatable."""
    try:
        parsed: Any = sqlglot.parse_one(sql, read="sqlite")
    except (SqlglotError, RecursionError) as error:
        raise Untranslatable("it does not parse") from error
    expression: exp.Expression = parsed
    return expression


def _refuse_unknown_parts(node: exp.Expression) -> None:
    known = _PARTS if isinstance(node, exp.Like) else _PARTS - {"negate"}
    unknown = [name for name, value in node.args.items() if value and name not in known]
    if unknown:
        raise Untranslatable(f"{_shown(node)} is not known to mean the same in PostgreSQL")


def _shown(node: exp.Expression) -> str:
    try:
        text = node.sql(dialect="sqlite")
    except (SqlglotError, RecursionError, ValueError):
        text = type(node).__name__
    return text if len(text) <= 60 else text[:59] + "…"


def typed_column(sql: str, known: KnownColumn) -> Typed:
    """Return what a column yields, under the name `sql`."""
    kind = _KINDS.get(known.type.kind, known.type.kind.value)
    return Typed(sql, kind, truths=known.truths, range=known.numbers, one_class=known.one_class, sorts=known.sorts)


def either(sql: str, values: Sequence[Typed]) -> Typed:
    """Return an expression that yields one of some values of one kind, or NULL."""
    real = [value for value in values if value.kind != "null"]
    return Typed(
        sql,
        real[0].kind,
        truths=real[0].truths if len({value.truths for value in real}) == 1 else (),
        range=reduce(operator.or_, (value.range for value in real)),
        one_class=all(value.one_class for value in real),
        sorts=all(value.sorts for value in real),
    )


def _within(range: Range, kind: str, node: exp.Expression) -> Range:
    """Return the range as the kind has it; raises when a number in it is too large for the kind."""
    found = range if kind == "integer" else range.as_reals()
    if not (found.is_bigint if kind == "integer" else found.is_finite):
        name = "bigint" if kind == "integer" else "double precision"
        raise Untranslatable(f"{_shown(node)} may be {found}, out of the range of {name}: an error in PostgreSQL")
    return found


def _refuse_rounding(first: Typed, second: Typed) -> None:
    """Refuse to compare integers with doubles where PostgreSQL would round the integers first, as SQLite does not."""
    whole = [side for side in (first, second) if side.kind == "integer"]
    real = [side for side in (first, second) if side.kind == "float" and side.constant is None]
    if whole and real and max(abs(whole[0].range.low), abs(whole[0].range.high)) > EXACT_DOUBLE:
        raise Untranslatable("it compares integers beyond 2^53 with reals")


def _text(value: str) -> Typed:
    return Typed(literal(value), "text", value)


def _as_boolean(value: Typed, other: Typed) -> Typed:
    """Turn into a boolean what is compared with one: 0 and 1, or the words that stand in its column."""
    if other.kind == "boolean" and value.kind == "text" and value.constant in (truths := dict(other.truths)):
        truth = truths[str(value.constant)]
        return Typed("true" if truth else "false", "boolean", truth)
    if other.kind == "boolean" and value.kind == "integer" and value.constant in (0, 1):
        return Typed("true" if value.constant else "false", "boolean", value.constant)
    return value


def _sortable(value: Typed) -> str:
    if value.kind == "boolean":
        raise Untranslatable("it sorts booleans")
    if value.kind not in (*_NUMBERS, "text", "null"):
        raise Untranslatable(f"it sorts {value.kind}, which SQLite sorts as text")
    return f'{value.sql} COLLATE "C"' if value.kind == "text" else value.sql


def _wide(value: Typed, kind: str) -> str:
    # SQLite reckons in 64 bits; PostgreSQL in the width of the operands.
    return f"CAST({value.sql} AS {'bigint' if kind == 'integer' else 'double precision'})"
