"""Proposes a column's PostgreSQL type from what it holds; the declared type only breaks ties.

Every candidate is tried in order of what people expect, and the first that holds every value is taken. Where none
does, text or bytea, whichever refuses fewer. Nothing that needs a person's yes is assumed: it becomes a question.
`varchar(n)` is proposed as text: SQLite never enforced n, so the application may write more at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from pgferry.model import Affinity, ColumnRule, PgKind, PgType, SourceColumn
from pgferry.plan.fit import misfits, seen_as
from pgferry.sqlite.forms import Form, JsonFit
from pgferry.sqlite.profile import ColumnProfile, is_decimal
from pgferry.sqlite.spellings import Spelling

ENOUGH = 10
"""Values that it takes to see dates, UUIDs or JSON in a column that is declared as plain text, or not at all."""

FEW = 0.01
"""Up to this share of texts that text cannot hold (a NUL, invalid UTF-8), a column stays text and those rows are
quarantined; beyond it the column is no text, and becomes bytea."""

_ROOM_TO_GROW = 2**30
_DECIMAL = re.compile(r"\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_NUMBER = re.compile(
    r"(?<![A-Z])(?:NUM|DEC|FIXED|CURRENCY|PERCENT|SINGLE|LONG|SHORT|BYTE|BIT|YEAR|EPOCH|(?:SMALL|BIG)?SERIAL|"
    r"(?:UN)?SIGNED|COUNTER|IDENTITY|AUTO_?INCREMENT)(?![A-Z])"
)
"""Words for numbers whose affinity is NUMERIC, beside those of `is_decimal`."""
_NOW = re.compile(r"current_timestamp|datetime\s*\(\s*'now'", re.IGNORECASE)
_EPOCHS = {"s": (1e8, 4.2e9), "ms": (1e11, 4.2e12), "us": (1e14, 4.2e15), "julian": (2.3e6, 2.6e6)}
"""Unit -> the numbers that it gives the years 1973 to 2103 (Julian days: 1585 to 2406). The ranges do not overlap."""


class Hint(Enum):
    """What a declared type promises."""

    BOOLEAN = auto()
    TIMESTAMP = auto()
    TIMESTAMPTZ = auto()
    DATE = auto()
    TIME = auto()
    UUID = auto()
    JSON = auto()
    DECIMAL = auto()
    INTEGER = auto()
    REAL = auto()
    TEXT = auto()
    BLOB = auto()
    NUMBER = auto()
    NOTHING = auto()
    """No declared type."""
    UNKNOWN = auto()
    """A declared type whose affinity is NUMERIC only because SQLite does not know it: XML, INET."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The type proposed for a column, the evidence, what to know, and `(setting, value, reason)` that need a yes."""

    type: PgType
    evidence: str
    notes: tuple[str, ...] = ()
    questions: tuple[tuple[str, str, str], ...] = ()
    number_as_bytes: bool = False
    """Whether the type is bytea and numbers are among the values: the rule of that name goes with it."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a column is used, which limits what it may become."""

    rowid: bool = False
    """The INTEGER PRIMARY KEY."""
    unique: bool = False
    """Part of a primary key, a unique constraint or a unique index: different values must stay different."""
    indexed: bool = False


def infer(column: SourceColumn, profile: ColumnProfile, rule: ColumnRule, use: Use = Use()) -> Proposal:
    """Propose a type for a column, given what it holds, what a person has decided about it, and how it is used."""
    if use.rowid:
        return Proposal(PgType(PgKind.BIGINT), f"{_seen(column, profile)}, the rowid → bigint")
    hint, profile = hint_of(column), as_declared(column, profile)
    chosen = _choose(column, profile, rule, use)
    number_as_bytes = chosen.kind is PgKind.BYTEA and bool(profile.integers + profile.reals)
    rule = replace(rule, number_as_bytes=rule.number_as_bytes or number_as_bytes)
    questions = tuple(_questions(column, profile, rule, use, hint, chosen))
    notes = tuple(_notes(column, profile, chosen, rule))
    return Proposal(chosen, evidence(column, profile, chosen), notes, questions, number_as_bytes)


def evidence(column: SourceColumn, profile: ColumnProfile, type: PgType) -> str:
    """Say in one line what the column holds and what it becomes."""
    profile = as_declared(column, profile)
    blind = ", no data to tell by" if hint_of(column) is Hint.UNKNOWN and not profile.values else ""
    return f"{_seen(column, profile)}{_finding(profile, type)}{blind} → {type_sql(type)}"


def as_declared(column: SourceColumn, profile: ColumnProfile) -> ColumnProfile:
    """Return what the profile says of the column: spellings count only where the declared type promises them."""
    return profile if _by_words(column) in _SPELLED else profile.by_forms()


def type_sql(type: PgType) -> str:
    """Return a type as SQL writes it."""
    if type.kind is PgKind.NUMERIC and type.precision is not None:
        return f"numeric({type.precision},{type.scale or 0})"
    return type.kind.value


def hint_of(column: SourceColumn) -> Hint:
    """Return what the declared type promises, or its affinity where the words say nothing."""
    named = _by_words(column)
    if named is not None:
        return named
    if is_decimal(_without_labels(column.declared)):
        return Hint.DECIMAL
    if column.affinity is Affinity.TEXT and column.default and _NOW.search(column.default):
        return Hint.TIMESTAMP
    return _by_affinity(column)


def _by_words(column: SourceColumn) -> Hint | None:
    text = _without_labels(column.declared).upper()
    return next((hint for words, hint in _WORDS if any(word in text for word in words)), None)


def _without_labels(declared: str) -> str:
    """Return a declared type without the quoted labels of an `"ENUM('date', 'number')"`, which promise nothing."""
    return re.sub(r"'[^']*'", "", declared)


_SPELLED = frozenset({Hint.BOOLEAN, Hint.TIMESTAMP, Hint.TIMESTAMPTZ, Hint.DATE, Hint.TIME, Hint.JSON})


_WORDS: tuple[tuple[tuple[str, ...], Hint], ...] = (
    (("BOOL",), Hint.BOOLEAN),
    (("TIMESTAMPTZ", "WITH TIME ZONE"), Hint.TIMESTAMPTZ),
    (("DATETIME", "TIMESTAMP"), Hint.TIMESTAMP),
    (("DATE",), Hint.DATE),
    (("TIME",), Hint.TIME),
    (("UUID", "GUID", "UNIQUEIDENTIFIER"), Hint.UUID),
    (("JSON",), Hint.JSON),
    (("STRING",), Hint.TEXT),
)


_BYTES = ("BYTEA", "BINARY")
"""Words of other databases for bytes, which SQLite gives the affinity NUMERIC."""


def _by_affinity(column: SourceColumn) -> Hint:
    if column.affinity is Affinity.BLOB:
        return Hint.BLOB if "BLOB" in column.declared.upper() else Hint.NOTHING
    if column.affinity is Affinity.NUMERIC:
        return _by_numeric_affinity(_without_labels(column.declared).upper())
    by_affinity = {
        Affinity.INTEGER: Hint.INTEGER,
        Affinity.REAL: Hint.REAL,
        Affinity.TEXT: Hint.TEXT,
    }
    return by_affinity[column.affinity]


def _by_numeric_affinity(declared: str) -> Hint:
    """Tell numbers from the words that get the affinity NUMERIC only because SQLite does not know them."""
    if any(word in declared for word in _BYTES):
        return Hint.BLOB
    return Hint.NUMBER if _NUMBER.search(declared) else Hint.UNKNOWN


# ---------------------------------------------------------------- the choice


def _choose(column: SourceColumn, profile: ColumnProfile, rule: ColumnRule, use: Use) -> PgType:
    last = _last_resorts(profile, rule)
    for type in (*_expected(column, profile, use), *_numbers(column, profile), *last):
        if allowed(type, profile, use) and not misfits(profile, type, rule):
            return type
    if profile.blobs and profile.integers + profile.reals:
        # Nothing else holds both; the numbers become the bytes of their digits.
        return PgType(PgKind.BYTEA)
    return min(last, key=lambda type: misfits(profile, type, rule))


def _last_resorts(profile: ColumnProfile, rule: ColumnRule) -> tuple[PgType, ...]:
    """Return text, bytea or both, in the order of preference."""
    text, raw = PgType(PgKind.TEXT), PgType(PgKind.BYTEA)
    if not _is_text(profile, rule):
        return (raw,) if not profile.integers + profile.reals else (raw, text)
    return (text, raw) if profile.blobs else (text,)


def _is_text(profile: ColumnProfile, rule: ColumnRule) -> bool:
    """Say whether the texts of the column are text, a few damaged ones aside."""
    refused = misfits(replace(profile, blobs=0), PgType(PgKind.TEXT), rule)
    return refused <= profile.texts * FEW


def _expected(column: SourceColumn, profile: ColumnProfile, use: Use) -> Iterator[PgType]:
    """Yield the types that the declaration, or the look of the text, makes people expect."""
    hint = hint_of(column)
    if hint is Hint.DECIMAL:
        yield from _declared_decimal(column)
    for kind in _EXPECTED.get(hint, ()):
        yield PgType(kind)
    if hint is Hint.BLOB and (profile.blobs or not profile.values):
        yield PgType(PgKind.BYTEA)
    if (hint in (Hint.NOTHING, Hint.UNKNOWN) and not profile.values) or (hint is Hint.TEXT and not profile.texts):
        yield PgType(PgKind.TEXT)
    if hint in (Hint.TEXT, Hint.NOTHING, Hint.BLOB):
        yield from _by_look(profile, use)


_EXPECTED: dict[Hint, tuple[PgKind, ...]] = {
    Hint.BOOLEAN: (PgKind.BOOLEAN,),
    Hint.TIMESTAMP: (PgKind.TIMESTAMP, PgKind.TIMESTAMPTZ),
    Hint.TIMESTAMPTZ: (PgKind.TIMESTAMPTZ,),
    Hint.DATE: (PgKind.DATE, PgKind.TIMESTAMP, PgKind.TIMESTAMPTZ),
    Hint.TIME: (PgKind.TIME,),
    Hint.UUID: (PgKind.UUID,),
    Hint.JSON: (PgKind.JSONB, PgKind.JSON),
    Hint.REAL: (PgKind.DOUBLE,),
}


def _declared_decimal(column: SourceColumn) -> Iterator[PgType]:
    match = _DECIMAL.search(column.declared)
    if match:
        precision, scale = int(match[1]), int(match[2] or 0)
        if 1 <= precision <= 1000 and scale <= precision:
            yield PgType(PgKind.NUMERIC, precision=precision, scale=scale)
    yield PgType(PgKind.NUMERIC)


def _by_look(profile: ColumnProfile, use: Use) -> Iterator[PgType]:
    if profile.texts - profile.empties < ENOUGH:
        return
    for forms, kind in _LOOKS:
        if profile.forms & forms:
            yield PgType(kind)
    if profile.json and not use.indexed:
        yield PgType(PgKind.JSONB if profile.json is JsonFit.JSONB else PgKind.JSON)


# An offset other than zero would be lost in timestamptz, and times of day may be lengths or angles: both stay text.
_LOOKS: tuple[tuple[frozenset[Form], PgKind], ...] = (
    (frozenset({Form.DATE}), PgKind.DATE),
    (frozenset({Form.TIMESTAMP, Form.TIMESTAMP_T}), PgKind.TIMESTAMP),
    (frozenset({Form.TIMESTAMP_UTC}), PgKind.TIMESTAMPTZ),
    (frozenset({Form.UUID}), PgKind.UUID),
)


def _numbers(column: SourceColumn, profile: ColumnProfile) -> Iterator[PgType]:
    if not profile.reals and (profile.integers or hint_of(column) is Hint.INTEGER):
        yield _sized(column, profile)
    if profile.integers or profile.reals:
        yield PgType(PgKind.DOUBLE)
    if profile.integers or profile.reals or hint_of(column) in (Hint.NUMBER, Hint.UNKNOWN):
        yield PgType(PgKind.NUMERIC)


def _sized(column: SourceColumn, profile: ColumnProfile) -> PgType:
    """Return integer for numbers with room to grow in it, else bigint; smallint saves nothing worth its limit."""
    declared_wide = any(word in column.declared.upper() for word in ("BIG", "INT8", "LONG", "UNSIGNED"))
    edges = [abs(edge) for edge in (profile.integer_min, profile.integer_max) if edge is not None]
    small = edges and max(edges) < _ROOM_TO_GROW
    return PgType(PgKind.INTEGER if small and not declared_wide else PgKind.BIGINT)


def allowed(type: PgType, profile: ColumnProfile, use: Use) -> bool:
    """Keep different texts different in unique columns, and unorderable types out of indexes.

    Looser words for true and false are taken only one each: then they go back as they were, and conditions that name
    them keep their meaning.
    """
    if type.kind is PgKind.JSON:
        return not use.indexed
    if type.kind is PgKind.BOOLEAN and profile.texts and Form.BOOLEAN not in profile.forms and not profile.truths:
        return profile.texts == profile.empties and not use.unique
    return not use.unique or not profile.texts or _stays_different(type, profile)


def _stays_different(type: PgType, profile: ColumnProfile) -> bool:
    """Say whether no two different texts of a column become one value of the type."""
    if type.kind in (PgKind.TIMESTAMP, PgKind.TIME):
        one_form = profile.forms & {Form.TIMESTAMP, Form.TIMESTAMP_T, Form.TIME} or profile.spellings & _ONE_TEXT_EACH
        return bool(one_form) and profile.min_chars == profile.max_chars
    if type.kind is PgKind.UUID:
        return Form.UUID in profile.forms and not profile.blobs
    if type.kind in (PgKind.INTEGER, PgKind.BIGINT):
        return Form.INTEGER in profile.forms and not profile.integers + profile.reals
    return type.kind in (PgKind.DATE, PgKind.TEXT, PgKind.BYTEA)


_ONE_TEXT_EACH = frozenset({Spelling.MINUTES, Spelling.MINUTES_T, Spelling.TIME_MINUTES})


# ---------------------------------------------------------------- what needs a yes, and what to know


def _questions(
    column: SourceColumn, profile: ColumnProfile, rule: ColumnRule, use: Use, hint: Hint, chosen: PgType
) -> Iterator[tuple[str, str, str]]:
    if profile.nuls and rule.on_nul != "strip" and chosen.kind in (PgKind.TEXT, PgKind.BYTEA):
        yield "on_nul", "strip", f"{profile.nuls:,} texts hold a NUL character, which text cannot hold"
    if profile.blobs and profile.texts and not rule.blob_as_text and chosen.kind is PgKind.BYTEA:
        yield "blob_as_text", "true", f"{profile.blobs:,} BLOBs stand among {profile.texts:,} texts; take them as text"
    if profile.empties and rule.on_empty != "null":
        other = _choose(column, profile, replace(rule, on_empty="null"), use)
        if other != chosen:
            count = f"{profile.empties:,} empty strings"
            yield "on_empty", "null", f"{count}; as NULL the column would be {type_sql(other)}"
    if profile.spellings == {Spelling.MOMENT} and rule.timezone is None:
        other = _choose(column, profile, replace(rule, timezone="UTC"), use)
        if other != chosen:
            yield "timezone", "UTC", f"{Spelling.MOMENT}; with those in UTC the column would be {type_sql(other)}"
    unit = epoch_unit(profile)
    if hint in (Hint.TIMESTAMP, Hint.TIMESTAMPTZ, Hint.DATE) and unit and rule.epoch is None:
        edges = f"numbers from {_low(profile):,} to {_high(profile):,}"
        yield "epoch", unit, f"{edges}; as {_UNIT_NAMES[unit]} the last is {_moment_of(_high(profile), unit)}"


_UNIT_NAMES = {
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "julian": "Julian days",
}


def epoch_unit(profile: ColumnProfile) -> str | None:
    """Return the unit in which the column's numbers would be moments of our time, 0 apart; None when in none."""
    if not profile.integers and not profile.reals:
        return None
    low, high = _low(profile), _high(profile)
    for unit, (least, greatest) in _EPOCHS.items():
        if least <= high <= greatest and (low == 0 or low >= least):
            return unit
    return None


def _moment_of(number: float, unit: str) -> str:
    seconds = {"s": number, "ms": number / 1e3, "us": number / 1e6, "julian": (number - 2440587.5) * 86400}[unit]
    return (datetime(1970, 1, 1) + timedelta(seconds=int(seconds))).isoformat(sep=" ")


def _low(profile: ColumnProfile) -> float:
    return min(edge for edge in (profile.integer_min, profile.real_min) if edge is not None)


def _high(profile: ColumnProfile) -> float:
    return max(edge for edge in (profile.integer_max, profile.real_max) if edge is not None)


def _notes(column: SourceColumn, profile: ColumnProfile, chosen: PgType, rule: ColumnRule) -> Iterator[str]:
    refused = misfits(profile, chosen, rule)
    if refused:
        yield f"up to {refused:,} values do not fit and will be quarantined"
    if column.affinity in (Affinity.INTEGER, Affinity.NUMERIC) and _beyond_integers(profile):
        yield "some numbers are beyond 64-bit integers: SQLite has already rounded them to 15 digits"
    damaged = hint_of(column) in (Hint.UUID, Hint.TEXT) and column.affinity is Affinity.NUMERIC
    if damaged and profile.integers + profile.reals:
        count = f"{profile.integers + profile.reals:,} values"
        yield f"{count} of digits only were already turned to numbers by the declared type {column.declared}"
    if profile.undecodable:
        yield f"{profile.undecodable:,} texts are not valid UTF-8"
    if chosen.kind is PgKind.BYTEA and profile.integers + profile.reals:
        yield f"{profile.integers + profile.reals:,} numbers become the bytes of their digits (number_as_bytes)"


def _beyond_integers(profile: ColumnProfile) -> bool:
    edges = (profile.real_min, profile.real_max)
    return any(edge is not None and 2.0**63 <= abs(edge) < float("inf") for edge in edges)


def _seen(column: SourceColumn, profile: ColumnProfile) -> str:
    declared = " ".join(column.declared.split()) or "no declared type"
    return f"{declared}, {profile.rows:,} {'row' if profile.rows == 1 else 'rows'}"


def _finding(profile: ColumnProfile, type: PgType) -> str:
    if not profile.values:
        return ", all NULL" if profile.rows else ""
    counts = {
        "integers": profile.integers,
        "reals": profile.reals,
        "texts": profile.texts,
        "BLOBs": profile.blobs,
    }
    seen = {name: count for name, count in counts.items() if count}
    if len(seen) > 1:
        return ", " + " and ".join(f"{count:,} {name}" for name, count in seen.items()) + _nulls(profile)
    return f", all {_one_class(profile, type, next(iter(seen)))}{_nulls(profile)}"


def _nulls(profile: ColumnProfile) -> str:
    return f", {profile.nulls:,} NULL" if profile.nulls else ""


def _one_class(profile: ColumnProfile, type: PgType, name: str) -> str:
    if name == "integers":
        return f"integers from {profile.integer_min} to {profile.integer_max}"
    if name == "texts" and type.kind is not PgKind.TEXT:
        if type.kind is PgKind.BOOLEAN and profile.truths:
            return f"texts: {' or '.join(sorted(profile.words))}"
        seen = seen_as(profile, type)
        return f"texts: {seen.value}" if seen else name
    return f"texts of up to {profile.max_chars:,} characters{_undecided(profile)}" if name == "texts" else name


def _undecided(profile: ColumnProfile) -> str:
    """Say why moments, times or truths that a declared type promises stay text."""
    if profile.spellings == {Spelling.BOOLEAN} and not profile.forms and not profile.truths:
        return ": more than one word for true or false"
    mixed = profile.spellings in [{Spelling.MOMENT}, {Spelling.CLOCK}] and not profile.forms
    return f": {next(iter(profile.spellings)).value}" if mixed else ""
