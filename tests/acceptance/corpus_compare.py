"""Compares a planned move's target with its source, quarantined rows apart, by its own reading of the rules.

It shares no code with the project. The source is read by sqlite3, the target by asyncpg; the types are those of the
target's catalog, the names those of the ledger. The rows that are not in quarantine must be there, cell for cell, and
no others; each row that is there must have a reason and the bytes of the value that did not fit.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.engine import URL

TYPES = """
SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attgenerated <> '' AS generated
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
 WHERE nspname = $1 AND relname = $2 AND attnum > 0 AND NOT attisdropped
"""
TABLES = "SELECT source_table, target_schema, target_table, columns::text AS columns FROM pgferry.run_table"
QUARANTINE = """
SELECT key, column_name, storage_class, value, reason FROM pgferry.quarantine
 WHERE source_table = $1 AND replayed_at IS NULL
"""
LONG = 1_000_000
"""Characters or bytes beyond which a value is compared by its hash."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Bytes:
    """Text that is no UTF-8."""

    raw: bytes


@dataclass(frozen=True)
class TableOutcome:
    """What became of a table's rows, as counted here; `wrong` names every row that is not as it must be."""

    table: str
    rows: int
    loaded: int
    quarantined: int
    wrong: tuple[str, ...]
    reasons: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether every row is accounted for."""
        return self.rows == self.loaded + self.quarantined


async def compare(source: Path, target: URL) -> dict[str, TableOutcome]:
    """Compare every table that the ledger has, by source name."""
    server = await asyncpg.connect(target.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as file:
            file.text_factory = _text
            tables = await server.fetch(TABLES)
            return {table["source_table"]: await _compare_table(file, server, table) for table in tables}
    finally:
        await server.close()


def _text(raw: bytes) -> str | Bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return Bytes(raw)


async def _compare_table(file: sqlite3.Connection, server: asyncpg.Connection, table: asyncpg.Record) -> TableOutcome:
    name, goal = table["source_table"], f"{_quoted(table['target_schema'])}.{_quoted(table['target_table'])}"
    types = {row["name"]: row for row in await server.fetch(TYPES, table["target_schema"], table["target_table"])}
    pairs = [(mine, theirs) for mine, theirs in json.loads(table["columns"])]
    known = {mine for mine, _ in pairs}
    columns = file.execute("SELECT name, hidden, pk FROM pragma_table_xinfo(?)", (name,)).fetchall()
    # A generated column is not copied: what the server reckons must be what SQLite does.
    pairs += [(n, n) for n, hidden, _ in columns if hidden in (2, 3) and n not in known and n in types]
    assert {n for n, hidden, _ in columns if hidden == 0} <= {mine for mine, _ in pairs}, name
    kept = await server.fetch(QUARANTINE, name)
    address = _address(file, name, columns)
    there = Counter(_target_row(row, types, pairs) for row in await _target_rows(server, goal, types, pairs))
    loaded = there.total()
    wrong: list[str] = []
    aside = {_key(row["key"]): row for row in kept}
    total = 0
    missing: Counter[Row] = Counter()
    for key, values in _source_rows(file, name, address, [mine for mine, _ in pairs]):
        total += 1
        row = aside.pop(key, None) if address else None
        if row is not None:
            wrong += _check_kept(row, dict(zip((mine for mine, _ in pairs), values, strict=True)))
            continue
        expected = _expected(values, [types[theirs]["type"] for _, theirs in pairs], wrong if address else [])
        if there[expected]:
            there[expected] -= 1
        else:
            missing[expected] += 1
    if address:
        wrong += [f"quarantined, but not in the source: {key}" for key in aside]
        wrong += [f"only in the source: {_shown(row)}" for row in missing.elements()]
    elif missing.total() != len(kept):
        wrong += [f"{missing.total()} rows are not in the target, {len(kept)} in quarantine"]
    wrong += [f"only in the target: {_shown(row)}" for row in there.elements()]
    reasons = tuple(f"{row['column_name']}: {row['reason']}" for row in kept)
    return TableOutcome(name, total, loaded, len(kept), tuple(f"{name}: {text}" for text in wrong), reasons)


def _address(file: sqlite3.Connection, table: str, columns: list[Any]) -> list[str]:
    """Return the names that address a row: the rowid by a name that no column hides, or the primary key."""
    (without_rowid,) = file.execute("SELECT wr FROM pragma_table_list WHERE name = ?", (table,)).fetchone()
    keys = [name for name, _, place in sorted(columns, key=lambda column: column[2]) if place]
    if without_rowid:
        return keys
    hidden = {name.lower() for name, *_ in columns}
    free = [name for name in ("rowid", "_rowid_", "oid") if name not in hidden]
    return free[:1] or _rowid_alias(file, table, keys)


def _rowid_alias(file: sqlite3.Connection, table: str, keys: list[str]) -> list[str]:
    alias = (
        len(keys) == 1
        and not file.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (table,)).fetchone()
    )
    return keys if alias else []


def _source_rows(
    file: sqlite3.Connection, table: str, address: list[str], columns: list[str]
) -> Iterator[tuple[Row, Row]]:
    names = ", ".join(map(_quoted, [*address, *columns]))
    for row in file.execute(f"SELECT {names} FROM {_quoted(table)}"):
        yield tuple(map(_key_form, row[: len(address)])), row[len(address) :]


def _key(text: str) -> Row:
    """Return a key of the quarantine in the form of `_key_form`."""
    return tuple(next(iter(member.items())) if isinstance(member, dict) else member for member in json.loads(text))


def _key_form(value: Any) -> Any:
    match value:
        case float():
            return ("real", repr(value))
        case bytes():
            return ("blob", value.hex())
        case Bytes(raw):
            return ("text", raw.hex())
    return value


def _check_kept(row: asyncpg.Record, values: dict[str, Any]) -> Iterator[str]:
    value = values[row["column_name"]]
    if not row["reason"].strip():
        yield f"no reason for {row['key']}"
    if row["value"] != _stored(value):
        yield f"{row['key']} {row['column_name']}: quarantine has {row['value']!r}, the source {value!r}"


def _stored(value: Any) -> bytes:
    if isinstance(value, Bytes):
        return value.raw
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode()


# ---------------------------------------------------------------- what a value must have become


def _expected(values: Row, types: list[str], wrong: list[str]) -> Row:
    try:
        return tuple(_hashed(None if v is None else _form(t)(v)) for v, t in zip(values, types, strict=True))
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        wrong.append(f"loaded, although {error!r}: {_shown(values)} as {types}")
        return values


async def _target_rows(
    server: asyncpg.Connection, goal: str, types: dict[str, asyncpg.Record], pairs: list[Any]
) -> list[asyncpg.Record]:
    names = ", ".join(_quoted(theirs) for _, theirs in pairs)
    return await server.fetch(f"SELECT {names} FROM {goal}")


def _target_row(row: asyncpg.Record, types: dict[str, asyncpg.Record], pairs: list[Any]) -> Row:
    forms = [_form(types[theirs]["type"]) for _, theirs in pairs]
    return tuple(_hashed(None if v is None else form(v)) for v, form in zip(row, forms, strict=True))


def _hashed(form: Any) -> Any:
    if isinstance(form, str | bytes) and len(form) > LONG:
        return hashlib.sha256(form.encode() if isinstance(form, str) else form).digest()
    return form


def _integer(value: Any) -> int:
    if isinstance(value, float) and (value != int(value) or abs(value) > 2**53):
        raise ValueError(value)
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]+", value):
        raise ValueError(value)
    return int(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | Bytes):
        raise TypeError("bytes where none belong")
    return value


def _double(value: Any) -> bytes:
    number = float(_plain(value))
    if isinstance(value, int) and int(number) != value:
        raise ValueError(value)
    return struct.pack(">d", number)


def _numeric(value: Any) -> Decimal:
    number = Decimal(repr(value) if isinstance(value, float) else _plain(value))
    if not number.is_finite():
        raise ValueError(value)
    return number


def _boolean(value: Any) -> bool:
    words = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}
    return (
        words[str(int(value) if isinstance(value, float) else _plain(value)).lower()]
        if value
        not in (
            True,
            False,
        )
        else bool(value)
    )


def _words(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).replace("inf", "Infinity")
    text = str(_plain(value))
    if "\x00" in text:
        raise ValueError("a NUL")
    return text


def _bytea(value: Any) -> bytes:
    return _words(value).encode() if isinstance(value, int | float) else _stored(value)


def _wall_clock(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if moment.utcoffset():
        raise ValueError("an offset")
    return moment.replace(tzinfo=None)


def _instant(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _document(text: str) -> Any:
    if isinstance(text, int | float):
        return _frozen(_numeric(text))
    return _frozen(json.loads(text, parse_float=Decimal, parse_int=Decimal))


def _frozen(node: Any) -> Any:
    if isinstance(node, dict):
        return ("object", *sorted((key, _frozen(value)) for key, value in node.items()))
    if isinstance(node, list):
        return ("array", *map(_frozen, node))
    return (type(node).__name__, node)


def _form(type_: str) -> Callable[[Any], Any]:
    return _FORMS[re.sub(r"\([0-9,]+\)", "", type_)]


_FORMS: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "bigint": _integer,
    "double precision": _double,
    "numeric": _numeric,
    "boolean": _boolean,
    "text": _words,
    "bytea": _bytea,
    "date": lambda value: value if isinstance(value, date) else date.fromisoformat(value),
    "time without time zone": lambda value: value if isinstance(value, time) else time.fromisoformat(value),
    "timestamp without time zone": _wall_clock,
    "timestamp with time zone": _instant,
    "uuid": lambda value: UUID(bytes=value) if isinstance(value, bytes) else UUID(str(value)),
    "json": str,
    "jsonb": _document,
}


def _shown(row: Row) -> str:
    text = repr(row)
    return text if len(text) <= 300 else text[:299] + "…"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
