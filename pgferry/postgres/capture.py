"""Capture of changes in PostgreSQL while it is in front: triggers log the keys of touched rows.

Every captured table has an outbox `pgferry.outbox_<number>` with the table's key columns, typed as they are there. A
row-level AFTER trigger logs the key of each row that is inserted, updated or deleted, by whatever statement (COPY,
MERGE, ON CONFLICT, a cascade, another trigger); a TRUNCATE logs that the whole table was touched. The entries commit
and roll back with the writes they speak of. They commit out of order: what was seen is told by their ids, never by a
highest one.

The triggers' functions run with the rights of pgferry's role, so the application's role needs none on schema pgferry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from pgferry.errors import Permanent
from pgferry.live.model import HIDDEN, Live, LiveTable
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.handle import Connection
from pgferry.postgres.patience import patiently
from pgferry.postgres.statements import statements
from pgferry.quoting import literal, qualified, quote

SQL = statements("capture")

ROWS_TRIGGER = "_pgferry_capture"
TRUNCATE_TRIGGER = "_pgferry_capture_all"

_UNDO = (
    "Until cleanup the schema must stay as it was at the switch: undo the change, or end the move by "
    "`python -m flows cleanup`."
)
_INSTALL = (
    "Changes may have been missed. Install the capture again, then compare and mend with "
    "`python -m flows validate --repair`."
)


def outbox(table: LiveTable) -> str:
    """Return the qualified name of a table's outbox; its key columns are `k0`, `k1`, … in key order."""
    return f"pgferry.outbox_{table.captured.number}"


def key_names(table: LiveTable) -> list[str]:
    """Return the names of the outbox's key columns."""
    return [f"k{place}" for place in range(len(table.key))]


async def install(conn: Connection, live: Live) -> None:
    """Install the capture of every table in one transaction; what is there already stays, with its entries.

    Hidden columns get a default, past every rowid that is known. Where a table's key or partitions have changed since
    an earlier installation, the whole table is logged as touched. Raises Transient when a table stays locked.
    """

    async def work() -> None:
        for table in live.tables:
            await _install(conn, live, table)

    if live.tables:
        await patiently(conn, work, _name(live.tables[0]))


@dataclass(frozen=True, slots=True)
class _Object:
    """Something that the capture has made: what it is called, what drops it, and the relation that this locks."""

    name: str
    drop: str
    relation: str


async def objects(conn: Connection, live: Live | None = None) -> tuple[str, ...]:
    """Return the names of all that `remove` would drop; reads only."""
    return tuple(item.name for item in await _objects(conn))


async def remove(conn: Connection, live: Live | None = None) -> tuple[str, ...]:
    """Drop every trigger, function, outbox, sequence and default of the capture; return their names. Idempotent.

    Finds them in the catalog, so that nothing stays of tables that `live` no longer has, or without it. One transaction
    an object: a trigger's removal waits for its table's readers, too. Raises Transient when a table stays locked.
    """
    found = await _objects(conn)
    for item in found:
        await _run(conn, item.drop, item.relation)
    return tuple(item.name for item in found)


async def _objects(conn: Connection) -> list[_Object]:
    """Return what there is of the capture, in the order in which it can be dropped."""
    found: list[_Object] = []
    for row in await conn.fetch(SQL["triggers"], [ROWS_TRIGGER, TRUNCATE_TRIGGER]):
        name, table = row["name"], row["table"]
        found.append(_Object(f"trigger {name} on {table}", f"DROP TRIGGER IF EXISTS {name} ON {table}", table))
    sequences: dict[str, _Object] = {}
    for row in await conn.fetch(SQL["rowid_sequences"]):
        table, sequence = row["table"], f"pgferry.{row['name']}"
        if table is not None:
            drop = f"ALTER TABLE {table} ALTER COLUMN {quote(HIDDEN)} DROP DEFAULT"
            found.append(_Object(f"default of {table}.{HIDDEN}", drop, table))
        sequences[sequence] = _Object(f"sequence {sequence}", f"DROP SEQUENCE IF EXISTS {sequence}", sequence)
    found += sequences.values()
    functions = [f"pgferry.{row['name']}" for row in await conn.fetch(SQL["functions"])]
    found += [_Object(f"function {name}", f"DROP FUNCTION IF EXISTS {name}()", "pgferry.run") for name in functions]
    tables = [f"pgferry.{row['name']}" for row in await conn.fetch(SQL["outboxes"])]
    return found + [_Object(f"table {name}", f"DROP TABLE IF EXISTS {name}", name) for name in tables]


async def installed(conn: Connection) -> bool:
    """Say whether anything of the capture is there: a trigger or an outbox."""
    triggers = await conn.fetch(SQL["triggers"], [ROWS_TRIGGER, TRUNCATE_TRIGGER])
    return bool(triggers) or bool(await conn.fetch(SQL["outboxes"]))


async def pending(conn: Connection, live: Live) -> dict[str, int]:
    """Return source table -> entries in its outbox, of tables that have any. An entry of a TRUNCATE counts as one.

    A table without an outbox has none pending; `check` says that it is missing.
    """
    there = {row["name"] for row in await conn.fetch(SQL["outboxes"])}
    tables = [table for table in live.tables if f"outbox_{table.captured.number}" in there]
    if not tables:
        return {}
    counts = " UNION ALL ".join(
        f"SELECT {table.captured.number} AS number, count(*) AS entries FROM {outbox(table)}" for table in tables
    )
    found = {row["number"]: row["entries"] for row in await conn.fetch(counts)}
    return {t.pair.source.name: found[t.captured.number] for t in tables if found[t.captured.number]}


async def check(conn: Connection, live: Live) -> None:
    """Read the catalog and raise Permanent unless every change of every table is captured.

    Named are tables that are gone or have other columns or partitions than when the capture was installed, and
    triggers, functions, outboxes and defaults that are missing, disabled or altered.
    """
    states = await _states(conn, live.tables)
    altered = [text for table in live.tables for text in _alterations(table, states[table.captured.number])]
    if altered:
        raise Permanent(f"The target's schema has changed: {'; '.join(altered)}.", _UNDO, problems=tuple(altered))
    gaps = [text for table in live.tables for text in _gaps(table, states[table.captured.number])]
    if gaps:
        raise Permanent(f"Changes in the target are not captured: {'; '.join(gaps)}.", _INSTALL, problems=tuple(gaps))


# ---------------------------------------------------------------- judging


async def _states(conn: Connection, tables: Sequence[LiveTable]) -> dict[int, asyncpg.Record]:
    numbers = [table.captured.number for table in tables]
    rows = await conn.fetch(SQL["state"], numbers, [_name(table) for table in tables])
    return {row["number"]: row for row in rows}


def _alterations(table: LiveTable, state: asyncpg.Record) -> Iterator[str]:
    if not state["there"]:
        yield f"table {_name(table)} is gone"
        return
    now: dict[str, str] = json.loads(state["columns"])
    before: dict[str, str] = json.loads(state["noted"])["columns"] if state["noted"] else now
    for name in before.keys() | {column.name for column in table.pair.target.columns}:
        if name not in now:
            yield f"column {_name(table)}.{quote(name)} is gone"
    for name, type_ in now.items():
        if name not in before:
            yield f"column {_name(table)}.{quote(name)} is new"
        elif before[name] != type_:
            yield f"column {_name(table)}.{quote(name)} was {before[name]} and is {type_}"


def _gaps(table: LiveTable, state: asyncpg.Record) -> Iterator[str]:
    if not state["outbox"] or not state["noted"]:
        yield f"outbox {outbox(table)} of {_name(table)} is missing"
        return
    if state["body"] != _body(table):
        yield f"function {_function(table)} of {_name(table)} is missing or altered"
    for name in state["unwatched"] or ():
        yield f"trigger {ROWS_TRIGGER} of {name} is missing or disabled"
    for name in state["untruncated"] or ():
        yield f"trigger {TRUNCATE_TRIGGER} of {name} is missing or disabled"
    if json.loads(state["noted"])["parts"] != state["parts"]:
        yield f"the partitions of {_name(table)} are others than they were"
    if table.hidden and _sequence(table) not in (state["hidden_default"] or ""):
        yield f"column {_name(table)}.{HIDDEN} has lost its default"


# ---------------------------------------------------------------- installing


async def _install(conn: Connection, live: Live, table: LiveTable) -> None:
    try:
        await conn.execute(f"LOCK TABLE {_name(table)} IN SHARE ROW EXCLUSIVE MODE")
    except asyncpg.UndefinedTableError as error:
        raise Permanent(f"Table {_name(table)} is gone from the target.", "Make it again by a migration.") from error
    state = (await _states(conn, [table]))[table.captured.number]
    note = _note(table, state)
    before = json.loads(state["noted"]) if state["noted"] else None
    if before is None or before["key"] != note["key"]:
        await _make_outbox(conn, table)
    await _make_function(conn, table)
    if table.hidden:
        await _make_default(conn, live, table)
    await _make_triggers(conn, table, state)
    if before is not None and (before["key"], before["parts"]) != (note["key"], note["parts"]):
        await conn.execute(f"INSERT INTO {outbox(table)} (whole) VALUES (true)")
    await conn.execute(f"COMMENT ON TABLE {outbox(table)} IS {literal(json.dumps(note))}")


def _note(table: LiveTable, state: asyncpg.Record) -> dict[str, Any]:
    """Return what the outbox's comment keeps of the table, for `check` to compare with later."""
    columns: dict[str, str] = json.loads(state["columns"])
    key = [[pair.target.name, columns.get(pair.target.name, "")] for pair in table.key]
    return {"table": _name(table), "key": key, "columns": columns, "parts": state["parts"]}


async def _make_outbox(conn: Connection, table: LiveTable) -> None:
    rows = await conn.fetch(SQL["key_types"], _name(table), [pair.target.name for pair in table.key])
    types = {row["name"]: row for row in rows}
    columns = []
    for name, pair in zip(key_names(table), table.key, strict=True):
        row = types[pair.target.name]
        collation = f" COLLATE {row['collation']}" if row["collation"] else ""
        columns.append(f", {name} {row['type']}{collation}")
    await conn.execute(f"DROP TABLE IF EXISTS {outbox(table)}")
    await conn.execute(
        f"CREATE TABLE {outbox(table)} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        f" whole boolean NOT NULL DEFAULT false{''.join(columns)})"
    )


async def _make_function(conn: Connection, table: LiveTable) -> None:
    await conn.execute(
        f"CREATE OR REPLACE FUNCTION {_function(table)} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = pg_catalog, pg_temp AS {literal(_body(table))}"
    )
    await conn.execute(f"REVOKE ALL ON FUNCTION {_function(table)} FROM PUBLIC")


def _body(table: LiveTable) -> str:
    old, new = _members(table, "OLD"), _members(table, "NEW")
    log = f"INSERT INTO {outbox(table)} ({', '.join(key_names(table))}) VALUES"
    # *<> compares bytes: by a collation that ignores case, 'A' and 'a' are equal, yet SQLite's two keys.
    return f"""
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {outbox(table)} (whole) VALUES (true);
    ELSIF TG_OP = 'INSERT' THEN
        {log} ({new});
    ELSIF TG_OP = 'DELETE' THEN
        {log} ({old});
    ELSIF ROW({old})::record *<> ROW({new})::record THEN
        {log} ({old}), ({new});
    ELSE
        {log} ({new});
    END IF;
    RETURN NULL;
END
"""


def _members(table: LiveTable, record: str) -> str:
    return ", ".join(f"{record}.{quote(pair.target.name)}" for pair in table.key)


async def _make_default(conn: Connection, live: Live, table: LiveTable) -> None:
    sequence, rows = _sequence(table), rows_of(table.pair.target)
    behind = await conn.fetchval(SQL["quarantined_rowid"], live.run_id, table.pair.source.name)
    highest = await conn.fetchval(f"SELECT max({quote(HIDDEN)}) FROM {rows}")
    given = live.sequences.get(table.pair.source.name)
    await conn.execute(f"CREATE SEQUENCE IF NOT EXISTS {sequence} AS bigint")
    # A default draws from its sequence with the rights of whoever inserts.
    await conn.execute(f"GRANT USAGE ON SEQUENCE {sequence} TO PUBLIC")
    reached = max(value for value in (behind, highest, given, 0) if value is not None)
    position = await conn.fetchval(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")
    if reached > position:
        await conn.fetchval(f"SELECT setval({literal(sequence)}::text::regclass, $1)", reached)
    await conn.execute(
        f"ALTER TABLE {rows} ALTER COLUMN {quote(HIDDEN)} SET DEFAULT nextval({literal(sequence)}::regclass)"
    )


async def _make_triggers(conn: Connection, table: LiveTable, state: asyncpg.Record) -> None:
    function = _function(table)
    if state["unwatched"]:
        await conn.execute(f"DROP TRIGGER IF EXISTS {ROWS_TRIGGER} ON {_name(table)}")
        await conn.execute(
            f"CREATE TRIGGER {ROWS_TRIGGER} AFTER INSERT OR UPDATE OR DELETE ON {_name(table)}"
            f" FOR EACH ROW EXECUTE FUNCTION {function}"
        )
    for name in state["untruncated"] or ():
        await conn.execute(f"DROP TRIGGER IF EXISTS {TRUNCATE_TRIGGER} ON {name}")
        await conn.execute(
            f"CREATE TRIGGER {TRUNCATE_TRIGGER} AFTER TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION {function}"
        )
    for name in state["names"]:
        # Also for sessions of session_replication_role = replica, as restores and replication use them.
        await conn.execute(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {ROWS_TRIGGER}")
        await conn.execute(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {TRUNCATE_TRIGGER}")


async def _run(conn: Connection, statement: str, relation: str) -> None:
    async def work() -> None:
        await conn.execute(statement)

    await patiently(conn, work, relation)


def _name(table: LiveTable) -> str:
    return qualified(table.pair.target.schema, table.pair.target.name)


def _function(table: LiveTable) -> str:
    return f"pgferry.capture_{table.captured.number}()"


def _sequence(table: LiveTable) -> str:
    return f"pgferry.rowid_{table.captured.number}"
