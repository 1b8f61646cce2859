"""Installs the capture of changes in a SQLite file, removes it, and tells what happened to it meanwhile."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.live.model import Capture, CapturedTable, Change, ChangeKind
from pgferry.model import SourceTable
from pgferry.pairing import ALEMBIC_TABLE
from pgferry.quoting import quote
from pgferry.sqlite import catalog, ddl
from pgferry.sqlite.connect import write_transaction
from pgferry.sqlite.outbox import is_still, last_id
from pgferry.sqlite.triggers import OUTBOX, CaptureObject, capture_objects, describe, outbox_columns

PREFIX = catalog.PREFIX
"""What the names of all objects begin with that pgferry makes in the file."""

CANARY_ROWID = 7
"""Where the canary's only row lies until a VACUUM renumbers the rows of tables that have no key."""

FENCE = PREFIX + "fence"
"""The name of the fence's table, and what the names of its triggers begin with."""

# The tables that every captured file has. The outbox's id is the rowid itself, never AUTOINCREMENT: that would write
# to the application's sqlite_sequence. It is never used again because the last entry is never removed.
_TABLES = {
    PREFIX + "capture": "(token TEXT NOT NULL, next_number INTEGER NOT NULL)",
    PREFIX + "table": (
        "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, rowid_name TEXT, key TEXT NOT NULL, stable INTEGER NOT NULL,"
        " generation INTEGER NOT NULL, objects TEXT NOT NULL)"
    ),
    PREFIX + "meta": "(name TEXT PRIMARY KEY, value TEXT)",
    PREFIX + "canary": "(sings INTEGER)",
    OUTBOX: "(id INTEGER PRIMARY KEY, t, r)",
}
_OWN = "SELECT name, tbl_name, sql, type, rowid FROM sqlite_schema WHERE type IN ('table', 'trigger')"
_TOKEN = 'SELECT token, next_number FROM "_pgferry_capture"'
_RECORDED = 'SELECT number, name, rowid_name, key, stable, generation, objects FROM "_pgferry_table" ORDER BY number'
_RECORD = (
    'INSERT INTO "_pgferry_table" (number, name, rowid_name, key, stable, generation, objects)'
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET rowid_name = excluded.rowid_name,"
    " key = excluded.key, stable = excluded.stable, generation = excluded.generation, objects = excluded.objects"
)
_CANARY = 'SELECT max(rowid) FROM "_pgferry_canary"'
_UNDO = "python -m flows dual-write --undo"


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A captured table as the file records it. `objects` is name -> SQL of what was made for it."""

    number: int
    name: str
    rowid: str | None
    key: tuple[str, ...]
    stable: bool
    generation: int
    objects: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Present:
    """An object of sqlite_schema, as far as it matters here; `place` is its rowid there."""

    name: str
    table: str
    sql: str
    kind: str
    place: int


def install(path: Path, token: str) -> Capture:
    """Capture every ordinary table of a file but Alembic's, in one short write transaction; atomic.

    With the same token it may be repeated at any time: it mends what is missing, takes new tables in and forgets
    dropped ones; numbers of known tables stay. A table whose writes may have gone unnoticed has another fingerprint
    afterwards. Raises Permanent when another run captures the file, an object has a name like ours, or nothing
    addresses a table's rows; Transient when the file stays locked.
    """
    with write_transaction(path) as connection:
        _prepare(connection, token, path)
        tables = captured_sources(connection)
        known = {record.name: record for record in _recorded(connection)}
        renumbered = _renumbered(connection)
        present = _present(connection)
        ours = {name for record in known.values() for name in record.objects}
        _refuse_strangers(present, ours | set(_TABLES), path)
        kept = []
        for table in tables.values():
            record = known.get(table.name)
            kept.append(_capture_table(connection, table, record, present, renumbered))
        _forget(connection, known.values(), {captured.number for captured in kept})
        _reset_canary(connection)
        return Capture(token, tuple(kept), schema_version(connection))


def remove(path: Path, *, but_fence: bool = False) -> tuple[str, ...]:
    """Drop every trigger and table of pgferry from a file and return their names; atomic, and does no harm twice.

    With `but_fence` the fence stays, if there is one: the file refuses writes as before.
    """
    with write_transaction(path) as connection:
        own = [item for item in _own(connection) if not (but_fence and item.name.startswith(FENCE))]
        for item in own:
            connection.execute(f"DROP {item.kind} {quote(item.name)}")
        return tuple(item.name for item in own)


def own_objects(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return the names of what `remove` would drop: triggers, then tables."""
    return tuple(item.name for item in _own(connection))


def read_capture(connection: sqlite3.Connection) -> Capture | None:
    """Return the capture that a file has, with the fingerprints of its tables as they are now; None without one.

    A table that is gone has an empty fingerprint. Call it within a read transaction where others write.
    """
    token = token_of(connection)
    if token is None:
        return None
    tables = captured_sources(connection)
    return Capture(token, tuple(_as_captured(r, tables) for r in _recorded(connection)), schema_version(connection))


def changes(
    connection: sqlite3.Connection, known: Capture, at_least: int = 0, mark: str | None = None
) -> tuple[Change, ...]:
    """Tell what happened to a captured file since `known` was taken, besides writes to its rows; at most one a table.

    Four look-ups when the schema is unchanged. `at_least` is the last outbox entry that was seen, and `mark` what it
    was (`outbox.mark_of`): a file whose outbox ends before it, or has another entry there, has lost writes. Call it
    within the read transaction whose rows are to be trusted.
    """
    if token_of(connection) != known.token:
        return (Change(ChangeKind.REPLACED, "", "it has no capture, or that of another run"),)
    lost = _lost(connection, at_least, mark)
    if schema_version(connection) == known.schema_version:
        return lost
    return (*lost, *_changes(connection, known))


def _lost(connection: sqlite3.Connection, seen: int, mark: str | None) -> tuple[Change, ...]:
    last = last_id(connection)
    if last < seen:
        detail = f"its outbox ends at {last}, but {seen} was already seen"
    elif not is_still(connection, seen, mark):
        detail = f"entry {seen} of its outbox is not the one that was already seen"
    else:
        return ()
    return (Change(ChangeKind.REPLACED, "", f"{detail}: it has lost writes that PostgreSQL has", lost=True),)


def set_note(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a small text under a name in the captured file; joins the caller's transaction."""
    sql = 'INSERT INTO "_pgferry_meta" (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = ?'
    connection.execute(sql, (name, value, value))


def forget_note(connection: sqlite3.Connection, name: str) -> None:
    """Remove the text of that name, if there is one; joins the caller's transaction."""
    connection.execute('DELETE FROM "_pgferry_meta" WHERE name = ?', (name,))


def notes(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the texts that `set_note` kept; none when the file is not captured."""
    if not has_table(connection, PREFIX + "meta"):
        return {}
    return dict(connection.execute('SELECT name, value FROM "_pgferry_meta" ORDER BY name').fetchall())


def schema_version(connection: sqlite3.Connection) -> int:
    """Return SQLite's own count of schema changes; VACUUM counts it up, too."""
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def captured_sources(connection: sqlite3.Connection) -> dict[str, SourceTable]:
    """Return the tables that are to be captured, as they are now, by their names."""
    return {table.name: table for table in catalog.read_catalog(connection).tables if table.name != ALEMBIC_TABLE}


def take_triggers_off(connection: sqlite3.Connection) -> list[str]:
    """Drop the application's own triggers on captured tables; return their SQL, for `put_triggers_back`.

    Rows that another database has already worked out must not be worked on again. Joins the caller's transaction.
    """
    found = _of_application(_present(connection), [record.name for record in _recorded(connection)])
    for item in found:
        connection.execute(f"DROP TRIGGER {quote(item.name)}")
    return [item.sql for item in found]


def put_triggers_back(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    """Make triggers again, word for word and in the same order, where needed behind the capture's own."""
    for statement in statements:
        connection.execute(statement)
    present = _present(connection)
    for record in _recorded(connection):
        if _overtaking(record, present):
            _drop(connection, record)
            for sql in record.objects.values():
                connection.execute(sql)


# ---------------------------------------------------------------- installing


def _prepare(connection: sqlite3.Connection, token: str, path: Path) -> None:
    """Make the tables that every captured file has, unless they are there; refuse another run's."""
    there = token_of(connection)
    if there is None:
        _refuse_strangers(_present(connection), set(), path)
        for name, columns in _TABLES.items():
            connection.execute(f"CREATE TABLE {quote(name)} {columns}")
        connection.execute('INSERT INTO "_pgferry_capture" VALUES (?, 1)', (token,))
        _reset_canary(connection)
    elif there != token:
        raise Permanent(
            f"{path} is captured by another run (its token is {there}).",
            f"End that run first: `{_UNDO}` with its target, or with this one when that target is gone.",
        )


def _refuse_strangers(present: Mapping[str, _Present], ours: set[str], path: Path) -> None:
    for item in present.values():
        if item.name.lower().startswith(PREFIX) and item.name not in ours and not item.name.startswith(FENCE):
            raise Permanent(
                f"{path} has a {item.kind} {item.name!r} (on {item.table!r}) that pgferry did not make.",
                f"Rename or drop it: names that begin with {PREFIX} are pgferry's.",
            )


def _capture_table(
    connection: sqlite3.Connection,
    table: SourceTable,
    record: _Recorded | None,
    present: Mapping[str, _Present],
    renumbered: bool,
) -> CapturedTable:
    number = record.number if record else _next_number(connection)
    captured = describe(table, number)
    wanted = capture_objects(table, captured)
    generation = record.generation if record else 0
    if record:
        missed = _is_broken(record, table.name, present) or bool(_overtaking(record, present))
        generation += missed or (renumbered and not captured.stable)
    captured = describe(table, number, generation)
    _widen(connection, captured)
    _make(connection, wanted, record, present)
    objects = json.dumps({item.name: item.sql for item in wanted})
    values = (number, table.name, captured.rowid, json.dumps(captured.key), captured.stable, generation, objects)
    connection.execute(_RECORD, values)
    return captured


def _make(
    connection: sqlite3.Connection,
    wanted: Sequence[CaptureObject],
    record: _Recorded | None,
    present: Mapping[str, _Present],
) -> None:
    """Leave a table's capture as it is when it is whole; make all of it anew otherwise, so that it comes last."""
    there = [present.get(item.name) for item in wanted]
    same = [(item.table, item.sql) for item in wanted] == [(item.table, item.sql) for item in there if item]
    known = record is not None and set(record.objects) == {item.name for item in wanted}
    if record and known and same and not _overtaking(record, present):
        return
    _drop(connection, record)
    for item in wanted:
        connection.execute(item.sql)


def _drop(connection: sqlite3.Connection, record: _Recorded | None) -> None:
    for name, sql in reversed(list((record.objects if record else {}).items())):
        kind = "TABLE" if sql.startswith("CREATE TABLE") else "TRIGGER"
        connection.execute(f"DROP {kind} IF EXISTS {quote(name)}")


def _forget(connection: sqlite3.Connection, known: Iterable[_Recorded], kept: set[int]) -> None:
    for record in known:
        if record.number not in kept:
            _drop(connection, record)
            connection.execute('DELETE FROM "_pgferry_table" WHERE number = ?', (record.number,))


def _next_number(connection: sqlite3.Connection) -> int:
    # Never one that was used before: entries of a forgotten table may still lie in the outbox.
    sql = 'UPDATE "_pgferry_capture" SET next_number = next_number + 1 RETURNING next_number - 1'
    return int(connection.execute(sql).fetchall()[0][0])


def _widen(connection: sqlite3.Connection, table: CapturedTable) -> None:
    there = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (OUTBOX,))}
    for name in outbox_columns(table):
        if name not in there:
            connection.execute(f"ALTER TABLE {quote(OUTBOX)} ADD COLUMN {name}")


def _reset_canary(connection: sqlite3.Connection) -> None:
    if connection.execute(_CANARY).fetchone()[0] != CANARY_ROWID:
        connection.execute('DELETE FROM "_pgferry_canary"')
        connection.execute('INSERT INTO "_pgferry_canary" (rowid) VALUES (?)', (CANARY_ROWID,))


# ---------------------------------------------------------------- what is there


def token_of(connection: sqlite3.Connection) -> str | None:
    """Return the token of the run that captures the file; None when none does."""
    if not has_table(connection, PREFIX + "capture"):
        return None
    row = connection.execute(_TOKEN).fetchone()
    return str(row[0]) if row else ""


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Say whether there is a table of that exact name."""
    sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return connection.execute(sql, (name,)).fetchone() is not None


def _recorded(connection: sqlite3.Connection) -> list[_Recorded]:
    return [
        _Recorded(number, name, rowid, tuple(json.loads(key)), bool(stable), generation, json.loads(objects))
        for number, name, rowid, key, stable, generation, objects in connection.execute(_RECORDED)
    ]


def _present(connection: sqlite3.Connection) -> dict[str, _Present]:
    found = (_Present(*row) for row in connection.execute(_OWN) if isinstance(row[0], str) and isinstance(row[2], str))
    return {item.name: item for item in found}


def _of_application(present: Mapping[str, _Present], tables: Iterable[str]) -> list[_Present]:
    """Return the application's own triggers on these tables, in the order in which they were made."""
    wanted = {name.lower() for name in tables}
    found = [item for item in present.values() if item.kind == "trigger" and not catalog.is_own("trigger", item.name)]
    return sorted((item for item in found if item.table.lower() in wanted), key=lambda item: item.place)


def _own(connection: sqlite3.Connection) -> list[_Present]:
    # By exact names: a table of the application's that only begins like ours is never dropped with them.
    own = [item for item in _present(connection).values() if catalog.is_own(item.kind, item.name)]
    return sorted(own, key=lambda item: item.kind == "table")


def _as_captured(record: _Recorded, tables: Mapping[str, SourceTable]) -> CapturedTable:
    table = tables.get(record.name)
    seen = CapturedTable(record.number, record.name, record.rowid, record.key, "", record.stable)
    if table is None or (table.rowid_name is None and not table.key):
        return seen
    return replace(seen, fingerprint=describe(table, record.number, record.generation).fingerprint)


# ---------------------------------------------------------------- what happened


def _changes(connection: sqlite3.Connection, known: Capture) -> Iterator[Change]:
    tables = captured_sources(connection)
    records = {record.name: record for record in _recorded(connection)}
    present = _present(connection)
    renumbered = _renumbered(connection)
    for table in known.tables:
        change = _change(connection, table, tables.get(table.name), records.get(table.name), present)
        if change is None and renumbered and not table.stable:
            change = Change(ChangeKind.RENUMBERED, table.name, "its rows have no other address than their rowid")
        if change:
            yield change
    names = {table.name for table in known.tables}
    for name in tables:
        if name not in names:
            yield Change(ChangeKind.NEW, name, "it was made, or renamed, after the capture was installed")


def _change(
    connection: sqlite3.Connection,
    known: CapturedTable,
    table: SourceTable | None,
    record: _Recorded | None,
    present: Mapping[str, _Present],
) -> Change | None:
    if table is None:
        return Change(ChangeKind.DROPPED, known.name, "it was dropped or renamed, or can no longer be read")
    if record is None or record.number != known.number or not _is_whole(record, table.name, present):
        return Change(ChangeKind.UNCAPTURED, known.name, "it was made anew: writes to it were not noted")
    overtaking = _overtaking(record, present)
    if overtaking:
        detail = f"its newer trigger {overtaking[0]!r} may end a statement before the capture notes the row"
        return Change(ChangeKind.UNCAPTURED, known.name, detail)
    if _as_captured(record, {table.name: table}).fingerprint != known.fingerprint:
        return Change(ChangeKind.ALTERED, known.name, "its columns, constraints or unique indexes have changed")
    if _is_broken(record, table.name, present):
        return Change(ChangeKind.UNCAPTURED, known.name, "a capture trigger of it is not as it was made")
    return None


def _is_whole(record: _Recorded, table: str, present: Mapping[str, _Present]) -> bool:
    """Whether everything that was made for a table is still there, and the triggers still belong to it."""
    there = [present.get(name) for name in record.objects]
    return all(item is not None and (item.kind == "table" or item.table == table) for item in there)


def _is_broken(record: _Recorded, table: str, present: Mapping[str, _Present]) -> bool:
    return not _is_whole(record, table, present) or any(
        present[name].sql != sql for name, sql in record.objects.items()
    )


def _renumbered(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_CANARY).fetchone()[0] != CANARY_ROWID)


def _overtaking(record: _Recorded, present: Mapping[str, _Present]) -> list[str]:
    """Return the application's AFTER triggers that may keep ours from firing, though the row stays written.

    SQLite fires the newest trigger of a table first, so only those made after ours do.
    """
    ours = [present[name].place for name in record.objects if name in present and present[name].kind == "trigger"]
    found = _of_application(present, [record.name])
    return [item.name for item in found if ours and item.place > min(ours) and _abandons(item.sql)]


def _abandons(sql: str) -> bool:
    """Whether a trigger may end a statement and leave what it wrote so far: by IGNORE or FAIL."""
    words = [token.keyword for token in ddl.tokens(sql)]
    pairs = [words[place : place + 3 : 2] for place in range(len(words))]
    ends = ["RAISE", "IGNORE"] in pairs or ["RAISE", "FAIL"] in pairs or ("OR", "FAIL") in pairwise(words)
    return ends and "AFTER" in words
