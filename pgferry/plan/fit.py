"""How many values of a column a PostgreSQL type would refuse, told from the profile, by the rules of the conversion."""

from __future__ import annotations

from collections.abc import Callable

from pgferry.convert.numbers import EXACT_DOUBLE, INTEGER_RANGES
from pgferry.model import ColumnRule, PgKind, PgType
from pgferry.sqlite.forms import Form, JsonFit
from pgferry.sqlite.profile import ColumnProfile
from pgferry.sqlite.spellings import Spelling

_MOMENTS = frozenset({Form.DATE, Form.TIMESTAMP, Form.TIMESTAMP_T, Form.TIMESTAMP_ANY})
_FORMS: dict[PgKind, frozenset[Form]] = {
    PgKind.DATE: frozenset({Form.DATE}),
    PgKind.TIME: frozenset({Form.TIME}),
    PgKind.TIMESTAMP: _MOMENTS | {Form.TIMESTAMP_UTC},
    PgKind.TIMESTAMPTZ: _MOMENTS | {Form.TIMESTAMP_UTC, Form.TIMESTAMP_OFFSET},
    PgKind.UUID: frozenset({Form.UUID, Form.UUID_ANY}),
    PgKind.BOOLEAN: frozenset({Form.BOOLEAN}),
    PgKind.BIGINT: frozenset({Form.INTEGER}),
    PgKind.NUMERIC: frozenset({Form.INTEGER, Form.DECIMAL}),
    PgKind.JSON: frozenset({Form.JSON}),
    PgKind.JSONB: frozenset({Form.JSON}),
}
"""The lexical forms of text that each type takes; a column whose text has one of them fits."""

_SPELLINGS: dict[PgKind, frozenset[Spelling]] = {
    PgKind.TIME: frozenset({Spelling.TIME_MINUTES}),
    PgKind.TIMESTAMP: frozenset({Spelling.MINUTES, Spelling.MINUTES_T, Spelling.NAIVE, Spelling.UTC}),
    PgKind.TIMESTAMPTZ: frozenset(
        {Spelling.MINUTES, Spelling.MINUTES_T, Spelling.NAIVE, Spelling.UTC, Spelling.OFFSET}
    ),
    PgKind.BOOLEAN: frozenset({Spelling.BOOLEAN}),
    PgKind.JSON: frozenset({Spelling.JSON}),
    PgKind.JSONB: frozenset({Spelling.JSON}),
}
"""As `_FORMS`, the looser spellings."""


def seen_as(profile: ColumnProfile, type: PgType) -> Form | Spelling | None:
    """Return as what the type reads the column's texts: the narrowest form or else spelling that all of them have."""
    forms = profile.forms & _FORMS.get(type.kind, frozenset())
    spellings = profile.spellings & _SPELLINGS.get(type.kind, frozenset())
    form = next((form for form in Form if form in forms), None)
    return form or next((spelling for spelling in Spelling if spelling in spellings), None)


def misfits(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    """Return how many values the type refuses under the rule: 0 is exact, any other number an upper bound."""
    return _MISFITS[type.kind](profile, type, rule)


def _texts(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    """Return the texts that a type other than text refuses."""
    empties = 0 if rule.on_empty == "null" else profile.empties
    if profile.texts == profile.empties or seen_as(profile, type) or _settled(profile, type, rule):
        return empties
    return profile.texts


def _settled(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> bool:
    """Say whether a person has named the zone of the moments that have no offset, among others that have one."""
    return type.kind is PgKind.TIMESTAMPTZ and rule.timezone is not None and Spelling.MOMENT in profile.spellings


def _integer(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    least, greatest = INTEGER_RANGES[type.kind]
    integers = _outside(profile.integer_min, profile.integer_max, least, greatest) * profile.integers
    reals = profile.reals - profile.whole_reals
    if _outside(profile.real_min, profile.real_max, least, greatest):
        reals = profile.reals
    return integers + reals + _texts(profile, type, rule) + profile.blobs


def _outside(low: float | None, high: float | None, least: int, greatest: int) -> bool:
    return low is not None and high is not None and not (least <= low and high <= greatest)


def _double(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    large = _outside(profile.integer_min, profile.integer_max, -EXACT_DOUBLE, EXACT_DOUBLE)
    return large * profile.integers + _texts(profile, type, rule) + profile.blobs


def _numeric(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    reals = 0 if profile.finite else profile.reals
    texts = _texts(profile, type, rule)
    if type.precision is None:
        return reals + texts + profile.blobs
    scale = type.scale or 0
    room = type.precision - scale
    integers = profile.integers if _digits(profile) > room else 0
    if profile.scale > scale or profile.whole_digits > room:
        reals = profile.reals
    return integers + reals + (profile.texts if texts != profile.texts else texts) + profile.blobs


def _digits(profile: ColumnProfile) -> int:
    edges = (profile.integer_min, profile.integer_max)
    return max((len(str(abs(edge))) for edge in edges if edge), default=0)


def _boolean(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    numbers = _outside(profile.integer_min, profile.integer_max, 0, 1) * profile.integers
    return numbers + profile.reals + _texts(profile, type, rule) + profile.blobs


def _moment(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    numbers = 0 if rule.epoch else profile.integers + profile.reals
    return numbers + _texts(profile, type, rule) + profile.blobs


def _time(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    return profile.integers + profile.reals + _texts(profile, type, rule) + profile.blobs


def _uuid(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    blobs = 0 if profile.blob_lengths == (16, 16) else profile.blobs
    return profile.integers + profile.reals + _texts(profile, type, rule) + blobs


def _json(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    needed = JsonFit.JSONB if type.kind is PgKind.JSONB else JsonFit.JSON
    empties = 0 if rule.on_empty == "null" else profile.empties
    taken = max(profile.json, profile.json_spelled) >= needed
    texts = empties if taken or profile.texts == profile.empties else profile.texts
    return texts + profile.blobs + (0 if profile.finite else profile.reals)


def _text(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    nuls = 0 if rule.on_nul == "strip" else profile.nuls
    blobs = 0 if rule.blob_as_text else profile.blobs
    return nuls + profile.undecodable + blobs


def _bytes(profile: ColumnProfile, type: PgType, rule: ColumnRule) -> int:
    return 0 if rule.number_as_bytes else profile.integers + profile.reals


_MISFITS: dict[PgKind, Callable[[ColumnProfile, PgType, ColumnRule], int]] = {
    PgKind.INTEGER: _integer,
    PgKind.BIGINT: _integer,
    PgKind.DOUBLE: _double,
    PgKind.NUMERIC: _numeric,
    PgKind.BOOLEAN: _boolean,
    PgKind.DATE: _moment,
    PgKind.TIMESTAMP: _moment,
    PgKind.TIMESTAMPTZ: _moment,
    PgKind.TIME: _time,
    PgKind.UUID: _uuid,
    PgKind.JSON: _json,
    PgKind.JSONB: _json,
    PgKind.TEXT: _text,
    PgKind.BYTEA: _bytes,
}
