"""Learns from a column's values in what form the application writes them.

Each form that a value suggests is tried: the one that writes the most of the values exactly as they are is the
column's. A form is only a preference: whichever is chosen, what goes back reads as the same value.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise, product
from typing import Any

from pgferry.convert.back import LexicalForm, default_form, writer
from pgferry.convert.back_intervals import STYLES
from pgferry.convert.fields import encode_field
from pgferry.convert.jsonb import Number, parse_json
from pgferry.convert.lexical_form import MINIMAL, TRIMMED, JsonForm, MomentForm
from pgferry.convert.outcome import Rejected
from pgferry.convert.rules import convert, storage_class
from pgferry.errors import Permanent
from pgferry.model import (
    Affinity,
    ColumnPair,
    ColumnRule,
    PgKind,
    PgType,
    SourceTable,
    SqliteValue,
    StorageClass,
    UndecodableText,
)
from pgferry.quoting import quote

__all__ = ["LexicalForm", "learn", "learn_from"]

_RUN = 250
"""Values that are looked at in each of three places: the newest, the oldest, and those in the middle."""

_LONGEST = 16 * 1024
"""Of a longer value only the storage class counts."""

_CANDIDATES = 16
_MOST_KEYS = 300

Value = SqliteValue | UndecodableText


def learn(conn: sqlite3.Connection, table: SourceTable, pair: ColumnPair) -> LexicalForm:
    """Return the form of a column by a few hundred of its values; reads only.

    The form of an empty column is what SQLAlchemy writes for that type on SQLite. The connection must hand out text
    that does not decode as `UndecodableText`, as those of `connect` do. Raises sqlite3.Error.
    """
    form = _declared(table, pair)
    values, long = _sample(conn, table, pair.source.name)
    if long and not values and form.only is None:
        form = replace(form, storage=StorageClass(long.most_common(1)[0][0]))
    form = learn_from(values, pair.target.type, pair.rule, form)
    return replace(form, null=_null(conn, table, pair, values))


def learn_from(values: Sequence[Value], type: PgType, rule: ColumnRule, base: LexicalForm) -> LexicalForm:
    """Return the form that writes most of the values as they are; the base where none does better."""
    seen = _seen(values, type, rule)
    if not seen:
        return base
    if type.kind is PgKind.ARRAY and type.element is not None:
        base = replace(base, element=_element(seen, type.element, rule, base))
    forms = _candidates(seen, type, rule, base)
    scores = [_score(form, seen, type, rule) for form in forms]
    return forms[scores.index(max(scores))]


# ---------------------------------------------------------------- what is there


@dataclass(frozen=True, slots=True)
class _Seen:
    """A value, the field that it becomes in PostgreSQL, and how often it was met."""

    value: Value
    field: bytes
    count: int


def _seen(values: Iterable[Value], type: PgType, rule: ColumnRule) -> list[_Seen]:
    """Return the different values that have a meaning in PostgreSQL."""
    counts = Counter((value.__class__, value) for value in values)
    answers = ((value, convert(value, type, rule), count) for (_, value), count in counts.items())
    return [
        _Seen(value, encode_field(answer, type), count)
        for value, answer, count in answers
        if answer is not None and not isinstance(answer, Rejected)
    ]


def _score(form: LexicalForm, seen: Sequence[_Seen], type: PgType, rule: ColumnRule) -> int:
    write = writer(type, form, rule)
    score = 0
    for one in seen:
        try:
            value = write(one.field)
        except Permanent:
            continue
        if value == one.value and value.__class__ is one.value.__class__:
            score += one.count
    return score


def _declared(table: SourceTable, pair: ColumnPair) -> LexicalForm:
    source = pair.source
    return default_form(
        pair.target.type,
        pair.rule,
        affinity=source.affinity,
        declared=source.declared,
        column=f"{table.name}.{source.name}",
        only=_only(table, pair),
    )


_STRICT = {
    "INT": StorageClass.INTEGER,
    "INTEGER": StorageClass.INTEGER,
    "REAL": StorageClass.REAL,
    "TEXT": StorageClass.TEXT,
    "BLOB": StorageClass.BLOB,
}


def _only(table: SourceTable, pair: ColumnPair) -> StorageClass | None:
    # A hidden target column is paired with the rowid itself.
    if pair.source.name in (table.rowid_column, table.rowid_name):
        return StorageClass.INTEGER
    return _STRICT.get(pair.source.declared.upper()) if table.strict else None


def _sample(conn: sqlite3.Connection, table: SourceTable, column: str) -> tuple[list[Value], Counter[str]]:
    """Return values of a column, and the classes of those that are too long to be looked at."""
    values: list[Value] = []
    long: Counter[str] = Counter()
    name = quote(column)
    shape = f"typeof({name}), CASE WHEN length({name}) <= {_LONGEST} THEN {name} END"
    for storage, value in _rows(conn, table, name, shape):
        if value is None:
            long[storage] += 1
        else:
            values.append(value)
    return values, long


def _rows(conn: sqlite3.Connection, table: SourceTable, name: str, shape: str) -> Iterator[tuple[str, Value]]:
    # The plus keeps SQLite from reading the table by an index on the column, in that index's order.
    there = f"FROM {quote(table.name)} WHERE +{name} IS NOT NULL"
    if table.rowid_name is None:
        yield from conn.execute(f"SELECT {shape} {there} LIMIT {3 * _RUN}")
        return
    rowid = quote(table.rowid_name)
    middle = f"SELECT min({rowid}) / 2 + max({rowid}) / 2 FROM {quote(table.name)}"
    places = (f"ORDER BY {rowid} DESC", f"ORDER BY {rowid}", f"AND {rowid} >= ({middle}) ORDER BY {rowid}")
    found: dict[int, tuple[str, Value]] = {}
    for place in places:
        query = f"SELECT {rowid}, {shape} {there} {place} LIMIT {_RUN}"
        found |= {row[0]: (row[1], row[2]) for row in conn.execute(query)}
    yield from found.values()


# ---------------------------------------------------------------- NULL


def _null(conn: sqlite3.Connection, table: SourceTable, pair: ColumnPair, values: Sequence[Value]) -> SqliteValue:
    """Return what stands for NULL: what the rule reads as NULL, where the column has more of it than of NULLs."""
    unset = Counter(v for v in values if v is not None and convert(v, pair.target.type, pair.rule) is None)
    if not unset:
        return _required(pair)
    (word, _) = unset.most_common(1)[0]
    name = quote(pair.source.name)
    query = (
        f"SELECT count(*) FILTER (WHERE {name} IS NULL), count(*) FILTER (WHERE {name} IS ?) FROM {quote(table.name)}"
    )
    nulls, words = conn.execute(query, (word,)).fetchone()
    return word if words > nulls and not isinstance(word, UndecodableText) else None


def _required(pair: ColumnPair) -> SqliteValue:
    """Return the empty text for a column that takes no NULL, if the rule reads it as NULL."""
    return "" if pair.source.not_null and convert("", pair.target.type, pair.rule) is None else None


# ---------------------------------------------------------------- candidates


def _candidates(seen: Sequence[_Seen], type: PgType, rule: ColumnRule, base: LexicalForm) -> list[LexicalForm]:
    """Return the forms to try, the likeliest first."""
    classes = Counter[StorageClass]()
    for one in seen:
        classes[storage_class(one.value)] += one.count
    styled = _STYLED.get(type.kind, _as_it_is)(seen, type, rule, base)
    storages = [base.only] if base.only else _storages(classes, type, base)
    return [replace(form, storage=storage) for storage, form in product(storages, styled)]


def _storages(classes: Counter[StorageClass], type: PgType, base: LexicalForm) -> list[StorageClass]:
    found = [storage for storage, _ in classes.most_common()]
    if type.kind in _FLOATING and base.affinity in (Affinity.NUMERIC, Affinity.INTEGER, Affinity.REAL):
        # SQLite itself makes integers of whole floats there, and floats of integers.
        found = [StorageClass.REAL if storage is StorageClass.INTEGER else storage for storage in found]
    return list(dict.fromkeys(found))


_FLOATING = (PgKind.REAL, PgKind.DOUBLE, PgKind.NUMERIC)


Describe = Callable[[Sequence[_Seen], PgType, ColumnRule, LexicalForm], list[LexicalForm]]


def _as_it_is(seen: Sequence[_Seen], type: PgType, rule: ColumnRule, base: LexicalForm) -> list[LexicalForm]:
    return [base]


def _styles(*styles: str) -> Describe:
    return lambda seen, type, rule, base: [replace(base, style=s) for s in dict.fromkeys((base.style, *styles))]


def _words(seen: Sequence[_Seen], type: PgType, rule: ColumnRule, base: LexicalForm) -> list[LexicalForm]:
    """Return the most frequent text of each truth value; where one is missing, its usual partner."""
    counts: dict[bytes, Counter[str]] = {b"\x00": Counter(), b"\x01": Counter()}
    for one in seen:
        if isinstance(one.value, str):
            counts[one.field][one.value] += one.count
    no, yes = (next((word for word, _ in counts[field].most_common(1)), None) for field in (b"\x00", b"\x01"))
    if no is None and yes is None:
        return [base]
    no, yes = no or _partner(str(yes)), yes or _partner(str(no))
    return [replace(base, words=(no, yes))]


_PAIRS = (("false", "true"), ("f", "t"), ("no", "yes"), ("n", "y"), ("off", "on"), ("0", "1"))
_PARTNERS = dict(_PAIRS) | {yes: no for no, yes in _PAIRS}


def _partner(word: str) -> str:
    partner = _PARTNERS[word.lower()]
    if word.isupper():
        return partner.upper()
    return partner.capitalize() if word[:1].isupper() else partner


# ---------------------------------------------------------------- moments

_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:([ T])[0-9]{2}:[0-9]{2}(:[0-9]{2}(?:\.([0-9]+))?)?( ?(?:[Zz]|UTC|[+-][0-9:]+))?)?"
)
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(?:\.([0-9]+))?)?")


def _moments(seen: Sequence[_Seen], type: PgType, rule: ColumnRule, base: LexicalForm) -> list[LexicalForm]:
    counts: Counter[MomentForm] = Counter()
    for one in seen:
        if isinstance(one.value, str):
            for moment in _described(one.value, type, rule):
                counts[moment] += one.count
    found = [replace(base, moment=moment) for moment, _ in counts.most_common(_CANDIDATES)]
    numbers = [] if rule.epoch is None else [replace(base, style="number")]
    return found + numbers + [base]


def _described(text: str, type: PgType, rule: ColumnRule) -> Iterator[MomentForm]:
    if type.kind is PgKind.TIME:
        match, between, offset = _TIME.fullmatch(text), " ", None
        seconds, fraction = match.groups() if match else (None, None)
    else:
        match = _MOMENT.fullmatch(text)
        between, seconds, fraction, offset = match.groups() if match else ("", None, None, None)
    if match is None:
        return
    suffix = offset or ""
    zones = (False, True) if suffix and rule.timezone is not None else (False,)
    for digits, in_zone in product(_digits(seconds, fraction, between), zones):
        yield MomentForm(between or "", seconds is not None or not between, digits, suffix, in_zone)


def _digits(seconds: str | None, fraction: str | None, between: str | None) -> tuple[int, ...]:
    """Return the ways to write a fraction of which this one is an example, the likeliest first."""
    if seconds is None:
        return (6,)
    if fraction is None:
        return (0, MINIMAL, TRIMMED)
    fixed = len(fraction)
    if fixed != 6:
        return (fixed, TRIMMED)
    # A T comes from isoformat(), which leaves a fraction of zero out.
    return (MINIMAL, 6, TRIMMED) if between == "T" else (6, MINIMAL, TRIMMED)


# ---------------------------------------------------------------- JSON and arrays

_SEPARATORS = ((", ", ": "), (",", ":"))
_SHORT_OF_ALL = 200


def _documents(seen: Sequence[_Seen], type: PgType, rule: ColumnRule, base: LexicalForm) -> list[LexicalForm]:
    texts = [one.value for one in seen[:_SHORT_OF_ALL] if isinstance(one.value, str)]
    if type.kind is PgKind.JSON or not texts:
        return [base]
    escapes = (True, False) if any(not text.isascii() or "\\u" in text for text in texts) else (True,)
    orders: list[dict[str, Any]] = [{}]
    sequences = [sequence for text in texts for sequence in _key_sequences(parse_json(text))]
    if any(len(sequence) > 1 for sequence in sequences):
        orders += [{"in_order": True}, {"keys": _key_order(sequences)}]
    return [
        replace(base, json=JsonForm(comma, colon, escape, **order))
        for (comma, colon), escape, order in product(_SEPARATORS, escapes, orders)
    ]


def _key_sequences(node: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict):
        yield tuple(node)
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _key_sequences(child)


def _key_order(sequences: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return one order of keys that all the objects follow; empty when there is none, or there are too many keys."""
    before: dict[str, set[str]] = {}
    for sequence in sequences:
        for key in sequence:
            before.setdefault(key, set())
        for first, second in pairwise(sequence):
            before[second].add(first)
    if len(before) > _MOST_KEYS:
        return ()
    try:
        return tuple(TopologicalSorter({key: sorted(keys) for key, keys in before.items()}).static_order())
    except CycleError:
        return ()


def _element(seen: Sequence[_Seen], element: PgType, rule: ColumnRule, base: LexicalForm) -> LexicalForm:
    """Learn the form of an array's elements from the nodes of its JSON."""
    nodes = [node for one in seen[:_SHORT_OF_ALL] if isinstance(one.value, str) for node in parse_json(one.value)]
    form = base.element or default_form(element, declared="TEXT")
    if element.kind in (PgKind.JSON, PgKind.JSONB):
        return form
    if element.kind is PgKind.BOOLEAN and any(isinstance(node, Number) for node in nodes):
        form = replace(form, style="number")
    return learn_from([_plain(node) for node in nodes if node is not None], element, rule, form)


def _plain(node: Any) -> SqliteValue:
    if not isinstance(node, Number):
        return int(node) if isinstance(node, bool) else str(node)
    return int(node) if node.lstrip("-").isdigit() else float(node)


def _arrays(seen: Sequence[_Seen], type: PgType, rule: ColumnRule, base: LexicalForm) -> list[LexicalForm]:
    pairs = product(_SEPARATORS, (True, False))
    return [replace(base, json=JsonForm(comma, colon, escape)) for (comma, colon), escape in pairs]


_STYLED: dict[PgKind, Describe] = {
    PgKind.REAL: _styles("shortest", "exact", "whole"),
    PgKind.DOUBLE: _styles("", "whole"),
    PgKind.NUMERIC: _styles("fixed", "short"),
    PgKind.BOOLEAN: _words,
    PgKind.CHAR: _styles("trimmed", "padded"),
    PgKind.DATE: _moments,
    PgKind.TIME: _moments,
    PgKind.TIMESTAMP: _moments,
    PgKind.TIMESTAMPTZ: _moments,
    PgKind.INTERVAL: _styles("number", *STYLES),
    PgKind.UUID: _styles(*("hex", "dashes", "HEX", "DASHES")),
    PgKind.JSONB: _documents,
    PgKind.ARRAY: _arrays,
}
