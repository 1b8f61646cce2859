"""Measures what the columns of a table really hold, because a declared type in SQLite promises nothing."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pgferry.model import Affinity, SourceColumn, SourceTable
from pgferry.quoting import quote
from pgferry.sqlite.forms import Form, Forms, JsonFit, forms_of, json_fit
from pgferry.sqlite.spellings import TRUE_WORDS, Spelling, Spellings, spellings_of

_COLUMNS_A_SCAN = 100  # SQLite allows 2,000 result columns; one column has up to 12.


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What one column holds. Counts are of rows; lengths of text in characters, or in UTF-8 bytes (`octets`)."""

    name: str
    rows: int
    integers: int = 0
    reals: int = 0
    texts: int = 0
    blobs: int = 0
    integer_min: int | None = None
    integer_max: int | None = None
    real_min: float | None = None
    real_max: float | None = None
    whole_reals: int = 0
    """Reals without a fraction, up to 2^53: they are integers without loss. Not counted in columns of REAL affinity
    that hold nothing but reals."""
    blob_lengths: tuple[int, int] = (0, 0)
    min_chars: int = 0
    max_chars: int = 0
    max_octets: int = 0
    """Of text in UTF-8, and of blobs."""
    empties: int = 0
    """Empty strings."""
    nuls: int = 0
    """Texts with a NUL character."""
    not_ascii: int = 0
    undecodable: int = 0
    """Texts that are no valid UTF-8."""
    forms: frozenset[Form] = frozenset()
    """The forms that every text has, empty strings apart; none when a text holds a NUL."""
    json: JsonFit = JsonFit.NONE
    """Which JSON type takes every text, and loses nothing of what it says."""
    spellings: frozenset[Spelling] = frozenset()
    """The looser spellings that every text has, as `forms`; they count where the declared type promises them."""
    json_spelled: JsonFit = JsonFit.NONE
    """As `json`, of texts that are spelled `Spelling.JSON`."""
    words: frozenset[str] = frozenset()
    """The different texts, where all are spelled `Spelling.BOOLEAN`."""
    whole_digits: int = 0
    """The most digits before the decimal point of a real, in its shortest exact decimal form."""
    scale: int = 0
    """The most digits after it."""

    @property
    def nulls(self) -> int:
        """Rows without a value."""
        return self.rows - self.values

    @property
    def values(self) -> int:
        """Rows with a value."""
        return self.integers + self.reals + self.texts + self.blobs

    @property
    def finite(self) -> bool:
        """Whether no real is an infinity."""
        return all(math.isfinite(edge) for edge in (self.real_min or 0.0, self.real_max or 0.0))

    @property
    def truths(self) -> Mapping[str, bool]:
        """What each word says, where no two say the same and no number does; empty otherwise."""
        said = {word: word.lower() in TRUE_WORDS for word in self.words}
        return said if len(set(said.values())) == len(said) and not self.integers + self.reals else {}

    def by_forms(self) -> ColumnProfile:
        """Return the same without the looser spellings: for a column whose declared type does not promise them."""
        return replace(self, spellings=frozenset(), json_spelled=JsonFit.NONE)


@dataclass(frozen=True, slots=True)
class TableProfile:
    """What a table holds."""

    table: str
    rows: int
    columns: tuple[ColumnProfile, ...]

    def column(self, name: str) -> ColumnProfile:
        """Return the profile of a column; raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def profile_table(connection: sqlite3.Connection, table: SourceTable) -> TableProfile:
    """Measure every column of a table; reads only.

    Three scans at the most: the first finds the storage classes, by far the most columns having one; the second counts
    the classes of the others; the third looks into text and decimals. Tables of more than 100 columns take these scans
    for each 100. Every figure is exact: nothing is judged by a sample. Raises sqlite3.Error when the table cannot be
    read.
    """
    _register(connection)
    rows: int = connection.execute(f"SELECT count(*) FROM {quote(table.name)}").fetchone()[0]
    columns: list[ColumnProfile] = []
    for group in _groups(table.columns):
        found = _classes(connection, table.name, group, rows)
        found = _texts(connection, table.name, found)
        columns += _digits(connection, table, found)
    return TableProfile(table.name, rows, tuple(columns))


def _groups(columns: Sequence[SourceColumn]) -> Iterator[Sequence[SourceColumn]]:
    for start in range(0, len(columns), _COLUMNS_A_SCAN):
        yield columns[start : start + _COLUMNS_A_SCAN]


def _figures(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], figures: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Compute the figures of each column in one scan; yield a row for each column."""
    if not columns:
        return
    # A collation of the application's own is not known here, and would fail even where numbers are compared.
    names = [f"({quote(column)} COLLATE BINARY)" for column in columns]
    wanted = ", ".join(figure.format(q=name) for name in names for figure in figures)
    values = connection.execute(f"SELECT {wanted} FROM {quote(table)}").fetchone()
    for start in range(0, len(values), len(figures)):
        yield values[start : start + len(figures)]


# ---------------------------------------------------------------- storage classes

# SQLite sorts numbers before text before BLOBs, so the least and the greatest value tell the classes between them.
_EDGE_FIGURES = (
    "count({q})",
    "typeof(min({q}))",
    "typeof(max({q}))",
    "min({q})",
    "max({q})",
    "sum(typeof({q}) = 'real')",
)
_CLASS_FIGURES = (
    "sum(typeof({q}) = 'integer')",
    "sum(typeof({q}) = 'real')",
    "sum(typeof({q}) = 'text')",
    "sum(typeof({q}) = 'blob')",
    "min(CASE WHEN typeof({q}) = 'integer' THEN {q} END)",
    "max(CASE WHEN typeof({q}) = 'integer' THEN {q} END)",
    "min(CASE WHEN typeof({q}) = 'real' THEN {q} END)",
    "max(CASE WHEN typeof({q}) = 'real' THEN {q} END)",
    "sum(typeof({q}) = 'real' AND {q} BETWEEN -9007199254740992.0 AND 9007199254740992.0"
    " AND CAST({q} AS INTEGER) = {q})",
)
_BLOB_FIGURES = (
    "min(CASE WHEN typeof({q}) = 'blob' THEN length({q}) END)",
    "max(CASE WHEN typeof({q}) = 'blob' THEN length({q}) END)",
)


def _classes(
    connection: sqlite3.Connection, table: str, columns: Sequence[SourceColumn], rows: int
) -> list[ColumnProfile]:
    names = [column.name for column in columns]
    edges = _figures(connection, table, names, _EDGE_FIGURES)
    plain = {column.name: _of_one_class(column, rows, row) for column, row in zip(columns, edges, strict=True)}
    mixed = [name for name in names if plain[name] is None]
    counted = zip(mixed, _figures(connection, table, mixed, _CLASS_FIGURES), strict=True)
    found = {name: profile for name, profile in plain.items() if profile is not None}
    found |= {name: _of_classes(name, rows, row) for name, row in counted}
    with_blobs = [name for name in names if found[name].blobs]
    for name, lengths in zip(with_blobs, _figures(connection, table, with_blobs, _BLOB_FIGURES), strict=True):
        found[name] = replace(found[name], blob_lengths=(lengths[0], lengths[1]), max_octets=lengths[1])
    return [found[name] for name in names]


def _of_one_class(column: SourceColumn, rows: int, row: tuple[Any, ...]) -> ColumnProfile | None:
    """Return the profile of a column whose values are all of one class; None when they are not."""
    count, first, last, low, high, reals = row
    profile = ColumnProfile(column.name, rows)
    if not count:
        return profile
    if first == last and first in ("text", "blob"):
        return replace(profile, **{f"{first}s": count})
    if last in ("text", "blob"):
        return None
    if not reals:
        return replace(profile, integers=count, integer_min=low, integer_max=high)
    if reals == count and column.affinity is Affinity.REAL:
        return replace(profile, reals=count, real_min=low, real_max=high)
    return None


def _of_classes(name: str, rows: int, row: tuple[Any, ...]) -> ColumnProfile:
    integers, reals, texts, blobs, low, high, real_low, real_high, whole = row
    return ColumnProfile(
        name=name,
        rows=rows,
        integers=integers,
        reals=reals,
        texts=texts,
        blobs=blobs,
        integer_min=low,
        integer_max=high,
        real_min=real_low,
        real_max=real_high,
        whole_reals=whole,
    )


# ---------------------------------------------------------------- text

# Python measures text faster than SQL does: one call a value, instead of a dozen functions. Text comes as its bytes,
# because SQLite's own functions stop at a NUL, and Python's driver refuses bytes that are no text.
_TEXT_FIGURE = "pgferry_text(CASE WHEN typeof({q}) = 'text' THEN CAST({q} AS BLOB) END)"


def _texts(connection: sqlite3.Connection, table: str, columns: list[ColumnProfile]) -> list[ColumnProfile]:
    names = [column.name for column in columns if column.texts]
    rows = zip(names, _figures(connection, table, names, (_TEXT_FIGURE,)), strict=True)
    measured = {name: json.loads(row[0]) for name, row in rows}
    return [_with_text(column, measured.get(column.name)) for column in columns]


def _with_text(column: ColumnProfile, measured: dict[str, Any] | None) -> ColumnProfile:
    if measured is None:
        return column
    found = {
        "forms": frozenset(Form(form) for form in measured["forms"]),
        "spellings": frozenset(Spelling(spelling) for spelling in measured["spellings"]),
        "max_octets": max(column.max_octets, measured["max_octets"]),
        "json": JsonFit(measured["json"]),
        "json_spelled": JsonFit(measured["json_spelled"]),
        "words": frozenset(measured["words"]),
    }
    return replace(column, **measured | found)


REMEMBERED = 1_000
"""Different values of a column of which it is remembered that they were looked at; many a column has no more."""

REMEMBERED_BYTES = 256
"""Bytes of a text up to which it is remembered."""


class _Texts:
    """A SQLite aggregate over the bytes of texts; answers as JSON."""

    codec = "utf-8"

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        """Texts that change nothing when they come again: neither empty nor with a NUL or anything beyond ASCII."""
        self.min_chars: int | None = None
        self.max_chars = 0
        self.max_octets = 0
        self.empties = 0
        self.nuls = 0
        self.not_ascii = 0
        self.undecodable = 0
        self.forms: Forms | None = None
        self.spellings: Spellings | None = None
        self.words: set[str] = set()
        self.json = JsonFit.JSONB

    def step(self, raw: bytes | None, /) -> None:
        if raw is None or raw in self.known:
            return
        try:
            text = raw.decode(self.codec)
        except UnicodeDecodeError:
            self._measure_undecodable(raw)
            return
        counted = self.not_ascii + self.nuls
        self._measure(text)
        if not text:
            self.empties += 1
            return
        if self.forms is None or self.forms or self.spellings:
            self._look_at(text)
        if len(self.known) < REMEMBERED and len(raw) <= REMEMBERED_BYTES and self.not_ascii + self.nuls == counted:
            self.known.add(raw)

    def _measure(self, text: str) -> None:
        length = len(text)
        if self.min_chars is None or length < self.min_chars:
            self.min_chars = length
        self.max_chars = max(self.max_chars, length)
        if text.isascii():
            octets = length
        else:
            octets = len(text.encode())
            self.not_ascii += 1
        self.max_octets = max(self.max_octets, octets)
        if "\x00" in text:
            self.nuls += 1

    def _measure_undecodable(self, raw: bytes) -> None:
        self.undecodable += 1
        self.not_ascii += 1
        self.nuls += b"\x00" in raw and self.codec == "utf-8"
        self.max_octets = max(self.max_octets, len(raw))
        self.max_chars = max(self.max_chars, len(raw))
        self.min_chars = min(self.min_chars or 0, len(raw))
        self.forms, self.spellings = frozenset(), frozenset()

    def _look_at(self, text: str) -> None:
        """Keep the forms and spellings that this text has too."""
        forms = forms_of(text)
        spellings = spellings_of(text, forms)
        self.forms = forms if self.forms is None else self.forms & forms
        self.spellings = spellings if self.spellings is None else self.spellings & spellings
        if Spelling.JSON in self.spellings:  # as every text of the form JSON is spelled
            self.json = min(self.json, json_fit(text))
            if not self.json:
                self.forms, self.spellings = frozenset(), frozenset()
        elif Spelling.BOOLEAN in self.spellings:
            self.words.add(text)

    def finalize(self) -> str:
        forms, spellings = sorted(self.forms or ()), sorted(self.spellings or ())
        return json.dumps(
            {
                "min_chars": self.min_chars or 0,
                "max_chars": self.max_chars,
                "max_octets": self.max_octets,
                "empties": self.empties,
                "nuls": self.nuls,
                "not_ascii": self.not_ascii,
                "undecodable": self.undecodable,
                "forms": forms,
                "json": self.json if Form.JSON in forms else JsonFit.NONE,
                "spellings": spellings,
                "words": sorted(self.words) if Spelling.BOOLEAN in spellings else [],
                "json_spelled": self.json if Spelling.JSON in spellings else JsonFit.NONE,
            }
        )


class _Utf16LittleTexts(_Texts):
    codec = "utf-16-le"


class _Utf16BigTexts(_Texts):
    codec = "utf-16-be"


_TEXTS_OF: dict[str, type[_Texts]] = {"UTF-8": _Texts, "UTF-16le": _Utf16LittleTexts, "UTF-16be": _Utf16BigTexts}


# ---------------------------------------------------------------- decimals


class _Digits:
    """A SQLite aggregate: the most digits before and after the decimal point, as `before,after`."""

    def __init__(self) -> None:
        self.whole = 0
        self.scale = 0
        self.known: set[float] = set()

    def step(self, value: float | None, /) -> None:
        if value is None or value in self.known or not math.isfinite(value):
            return
        if len(self.known) < REMEMBERED:
            self.known.add(value)
        _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        power = int(exponent)
        self.whole = max(self.whole, len(digits) + power)
        self.scale = max(self.scale, -power)

    def finalize(self) -> str:
        return f"{self.whole},{self.scale}"


_DIGITS_FIGURE = "pgferry_digits(CASE WHEN typeof({q}) = 'real' THEN {q} END)"


def is_decimal(declared: str) -> bool:
    """Say whether a declared type promises decimals (`DECIMAL(10,2)`, `NUMERIC`, `MONEY`)."""
    text = declared.upper()
    return any(word in text for word in ("DECIMAL", "NUMERIC", "MONEY", "DEC(", "NUMBER"))


def _digits(connection: sqlite3.Connection, table: SourceTable, columns: list[ColumnProfile]) -> list[ColumnProfile]:
    names = [column.name for column in columns if column.reals and is_decimal(table.column(column.name).declared)]
    rows = zip(names, _figures(connection, table.name, names, (_DIGITS_FIGURE,)), strict=True)
    found = {name: [int(part) for part in row[0].split(",")] for name, row in rows}
    return [
        replace(c, whole_digits=found[c.name][0], scale=found[c.name][1]) if c.name in found else c for c in columns
    ]


def _register(connection: sqlite3.Connection) -> None:
    encoding = str(connection.execute("PRAGMA encoding").fetchone()[0])
    aggregates: dict[str, Callable[[], Any]] = {"pgferry_text": _TEXTS_OF[encoding], "pgferry_digits": _Digits}
    for name, aggregate in aggregates.items():
        connection.create_aggregate(name, 1, aggregate)
