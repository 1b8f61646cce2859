"""Quarantine: what is kept aside, and loaded exactly once after a rule was changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry import replay as replaying
from pgferry.copying import export_unit, load_unit
from pgferry.errors import LossError, Permanent, UsageError
from pgferry.finishing import NotAccepted, conclude, finished_report
from pgferry.move import prepare
from pgferry.postgres.catalog import count_rows
from pgferry.postgres.connection import connect
from pgferry.postgres.ledger import Run, find_run, loaded_chunks, read_run, record_snapshot
from pgferry.postgres.quarantine import open_rows, reasons, replays
from pgferry.postgres.runs import open_run
from pgferry.quarantine import overview
from pgferry.replay import ReplayReport, TableReplay, conclude_replay, judge_replay, prepare_replay, replay_table
from pgferry.settings import ColumnRules, Rules, Settings, TableRules
from pgferry.sqlite.snapshot import SnapshotCheck, take
from pgferry.verify import table_verdict


@dataclass(frozen=True)
class Moved:
    """A source that was moved, and where."""

    connection: asyncpg.Connection
    url: URL
    source: Path
    run: Run

    async def replay(self, rules: Rules, *tables: str) -> ReplayReport:
        """Replay as the flow does, pass after pass."""
        work = await prepare_replay(self.connection, self.run, rules, "", tables)
        done = {table: await replay_table(self.connection, work, table) for table in work.reads}
        left = [table for table, result in done.items() if result.orphans]
        while left:
            later = {table: await replay_table(self.connection, work, table, orphans_only=True) for table in left}
            done |= {table: done[table].then(result) for table, result in later.items()}
            gained = any(result.loaded for result in later.values())
            left = [table for table, result in later.items() if result.orphans and gained]
        return ReplayReport(tuple(done.values()), await conclude_replay(self.connection, work))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the source."""
        with closing(sqlite3.connect(self.source)) as source:
            return source.execute(sql).fetchall()

    async def target(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the target."""
        return [tuple(row) for row in await self.connection.fetch(sql)]

    async def events(self) -> list[tuple[Any, ...]]:
        """Return the target's events."""
        return await self.target("SELECT id, at, qty, note, kind FROM events ORDER BY id")

    async def reasons(self) -> dict[str, int]:
        """Return the open reasons, by their example, and how many rows have them."""
        return {item.example: item.rows for item in await reasons(self.connection, self.run.id)}


Move = Callable[..., Awaitable[Moved]]
NO_RULES = Rules()


@pytest.fixture
def move(connection: asyncpg.Connection, database_url: URL, tmp_path: Path) -> Move:
    """Make a source and a schema, and move the one into the other."""

    async def moved(source_sql: str, target_sql: str, rules: Rules = NO_RULES, rows: int = 7) -> Moved:
        source = tmp_path / "app.db"
        with closing(sqlite3.connect(source)) as file:
            file.executescript(source_sql)
        await connection.execute(target_sql)
        settings = Settings(source=source, home=tmp_path / "home", chunk_rows=rows)
        run = await open_run(connection, source, rules, restart=False)
        snapshot = take(source, tmp_path / "backups")
        await record_snapshot(connection, run.id, snapshot)
        plan = await prepare(connection, run.id, snapshot, settings, rules, "")
        for group in plan.groups:
            for unit in group.units:
                await load_unit(connection, plan, unit, export_unit(plan, unit))
        loaded = await loaded_chunks(connection, run.id)
        verdicts = [
            table_verdict(
                pair,
                plan.source_rows[pair.source.name],
                (await count_rows(connection, [pair.target]))[0],
                [chunk for (table, _), chunk in loaded.items() if table == pair.source.name],
            )
            for pair in plan.pairs
        ]
        report = await conclude(connection, plan, verdicts, SnapshotCheck((), 0), database_url, {})
        assert report.verified
        return Moved(connection, database_url, source, await read_run(connection, run.id))

    return moved


def rules(table: str, **columns: ColumnRules) -> Rules:
    return Rules(tables={table: TableRules(columns=columns)})


EVENTS = """
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at DATETIME, qty INTEGER, note TEXT, kind TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 103)
INSERT INTO events SELECT i, CASE WHEN i % 10 = 3 THEN 1700000000 + i ELSE '2024-01-02 03:04:05' END,
    CASE WHEN i % 10 = 5 OR i = 93 THEN '' WHEN i = 71 THEN 'many' ELSE i END,
    CASE WHEN i % 10 = 7 THEN CAST('blob ' || i AS BLOB) WHEN i = 98 THEN x'ff00' ELSE 'note ' || i END,
    CASE WHEN i = 50 THEN NULL ELSE 'k' END FROM n;
"""
EVENTS_TARGET = """
CREATE TABLE events (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, at timestamp, qty integer, note text,
                     kind text NOT NULL);
"""
EPOCH = rules("events", at=ColumnRules(epoch="s"))
ALL_RULES = rules(
    "events", at=ColumnRules(epoch="s"), qty=ColumnRules(on_empty="null"), note=ColumnRules(blob_as_text=True)
)
NEVER = {50, 71, 98}
"""Events that no rule makes fit: a NULL in a NOT NULL column, a word as a number, bytes that are no text."""
DIRTY = NEVER | {number for number in range(1, 104) if number % 10 in (3, 5, 7)}


def expected(moved: Moved, without: set[int]) -> list[tuple[Any, ...]]:
    """Read the rules by hand: what the target must hold of the source's events."""
    found = []
    for number, at, qty, note, kind in moved.rows("SELECT * FROM events ORDER BY id"):
        if number not in without:
            moment = datetime.fromtimestamp(at, UTC) if isinstance(at, int) else datetime.fromisoformat(at)
            text = note.decode() if isinstance(note, bytes) else note
            found.append((number, moment.replace(tzinfo=None), None if qty == "" else qty, text, kind))
    return found


# ---------------------------------------------------------------- exactly those that fit, exactly once


async def test_a_replay_loads_exactly_the_rows_that_fit_by_now(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    assert await moved.events() == expected(moved, DIRTY)

    result = await moved.replay(ALL_RULES)

    assert await moved.events() == expected(moved, NEVER)
    assert result.tables == (TableReplay("events", len(DIRTY), len(DIRTY) - 3, 3),)
    (table,) = result.run.tables
    assert (table.source_rows, table.loaded, table.quarantined, table.cells_compared) == (103, 100, 3, 500)
    assert result.run.verified
    assert not result.run.complete
    assert await moved.reasons() == {
        "NULL in a column that is NOT NULL in the target": 1,
        "'many' is no integer": 1,
        "a BLOB of 2 bytes that is not valid UTF-8 (at byte 0), in a text column": 1,
    }


async def test_a_second_replay_does_nothing(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    first = await moved.replay(ALL_RULES)
    again = await moved.replay(ALL_RULES)
    assert again.tables == (TableReplay("events", 3, 0, 3),)
    assert again.run == first.run
    assert await moved.events() == expected(moved, NEVER)
    assert await moved.target("SELECT count(*)::int, sum(rows)::int FROM pgferry.replay") == [(1, len(DIRTY) - 3)]


async def test_rows_that_do_not_fit_stay_with_the_reason_of_now(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    row = "SELECT column_name, storage_class, value FROM pgferry.quarantine WHERE key = '[93]' AND replayed_at IS NULL"
    assert await moved.target(row) == [("at", "integer", b"1700000093")]

    result = await moved.replay(EPOCH)

    assert (result.loaded, result.kept) == (10, len(DIRTY) - 10)
    assert await moved.target(row) == [("qty", "text", b"")]
    assert await moved.events() == expected(moved, DIRTY - {*range(3, 93, 10), 103})


async def test_what_the_move_loaded_by_its_rules_is_left_alone(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET, EPOCH)
    result = await moved.replay(rules("events", note=ColumnRules(blob_as_text=True)))
    assert result.loaded == 10
    assert await moved.events() == expected(moved, NEVER | {*range(5, 104, 10), 93})


async def test_identities_go_past_the_replayed_keys(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.replay(ALL_RULES)
    assert await moved.connection.fetchval("INSERT INTO events (kind) VALUES ('new') RETURNING id") == 104


async def test_an_emptied_quarantine_makes_the_finished_run_complete(move: Move):
    source = EVENTS.replace("i = 71", "i < 0").replace("i = 98", "i < 0").replace("i = 50", "i < 0")
    moved = await move(source, EVENTS_TARGET)
    with pytest.raises(NotAccepted, match="10 rows were loaded from quarantine; still in it: 21 of events"):
        judge_replay(await moved.replay(EPOCH))

    result = await moved.replay(ALL_RULES)

    judge_replay(result)
    run = await find_run(moved.connection, str(moved.source))
    assert run is not None
    report = finished_report(run, moved.url)
    assert (report.again, report.complete, report.verified, report.kept_aside) == (True, True, True, ())
    assert (report.tables[0].loaded, report.tables[0].quarantined) == (103, 0)
    assert report.bytes == report.tables[0].bytes_sent == result.run.bytes
    assert (run.status, run.finished_at, run.fingerprint) == ("finished", moved.run.finished_at, moved.run.fingerprint)


async def test_what_the_rules_of_now_accept_counts(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    accepting = Rules(tables={"events": ALL_RULES.tables["events"].model_copy(update={"accept_quarantined": True})})
    result = await moved.replay(accepting)
    judge_replay(result)
    assert result.run.complete
    assert result.run.tables[0].quarantined == 3


async def test_two_replays_at_once_load_each_row_once(move: Move, monkeypatch: pytest.MonkeyPatch):
    moved = await move(EVENTS, EVENTS_TARGET)
    monkeypatch.setattr(replaying, "BATCH_ROWS", 4)
    others = [replace(moved, connection=await connect(moved.url)) for _ in range(3)]
    results = await asyncio.gather(*(other.replay(ALL_RULES) for other in others))
    for other in others:
        await other.connection.close()
    assert sum(result.loaded for result in results) == len(DIRTY) - 3
    assert await moved.events() == expected(moved, NEVER)


# ---------------------------------------------------------------- killed in the middle

KILL = """
CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$;
CREATE TRIGGER kill AFTER {event} FOR EACH STATEMENT WHEN (current_setting('test.kill', true) = 'yes')
EXECUTE FUNCTION kill();
ALTER DATABASE {database} SET test.kill = 'yes';
"""


@pytest.mark.parametrize(
    "event",
    [
        "INSERT ON events",
        "INSERT ON pgferry.replay",
        "UPDATE OF replayed_at ON pgferry.quarantine",
        "UPDATE OF report ON pgferry.run",
        "UPDATE OF reason ON pgferry.quarantine",
    ],
)
async def test_a_replay_that_is_killed_at_any_step_is_run_again(move: Move, monkeypatch, event: str):
    moved = await move(EVENTS, EVENTS_TARGET)
    monkeypatch.setattr(replaying, "BATCH_ROWS", 9)
    await moved.connection.execute(KILL.format(event=event, database=moved.url.database))
    victim = replace(moved, connection=await connect(moved.url))
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await victim.replay(ALL_RULES)
    victim.connection.terminate()
    aside = "SELECT count(*)::int FROM pgferry.quarantine WHERE replayed_at IS NULL"
    assert await moved.target(aside) == [(103 - len(await moved.events()),)]

    await moved.connection.execute(f"ALTER DATABASE {moved.url.database} RESET test.kill")
    result = await moved.replay(ALL_RULES)

    assert result.kept == 3
    assert await moved.events() == expected(moved, NEVER)
    assert (result.run.tables[0].loaded, result.run.tables[0].quarantined) == (100, 3)


# ---------------------------------------------------------------- what the target refuses

FAMILY = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, size INTEGER, code TEXT);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent, before INTEGER REFERENCES child,
                    n INTEGER);
INSERT INTO parent VALUES (1, 1, 'a'), (2, '', 'b'), (3, '', 'c'), (4, '', 'd');
INSERT INTO child VALUES (1, 1, NULL, 1), (2, 2, 3, ''), (3, 2, NULL, ''), (4, 99, NULL, ''), (5, 1, NULL, '');
"""
FAMILY_TARGET = """
CREATE TABLE parent (id integer PRIMARY KEY, size integer, code text UNIQUE);
CREATE TABLE child (id integer PRIMARY KEY, parent integer, before integer, n integer CHECK (n > 0));
"""
FAMILY_KEYS = """
ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES parent {when}, ADD FOREIGN KEY (before) REFERENCES child {when}
"""
FAMILY_RULES = Rules(
    tables={
        "parent": TableRules(columns={"size": ColumnRules(on_empty="null")}),
        "child": TableRules(columns={"n": ColumnRules(on_empty="null")}),
    }
)


@pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"])
async def test_rows_that_the_target_refuses_stay_and_the_others_load(move: Move, when: str):
    moved = await move(FAMILY, FAMILY_TARGET)
    await moved.connection.execute(FAMILY_KEYS.format(when=when))
    await moved.connection.execute("INSERT INTO parent VALUES (3, 33, 'taken'), (7, 77, 'd')")

    result = await moved.replay(FAMILY_RULES)

    parents = [(1, 1, "a"), (2, None, "b"), (3, 33, "taken"), (7, 77, "d")]
    assert await moved.target("SELECT id, size, code FROM parent ORDER BY id") == parents
    # Child 2 refers to child 3 of the same batch, and both to a parent that the first pass loads after them.
    children = [(1, 1, None, 1), (2, 2, 3, None), (3, 2, None, None), (5, 1, None, None)]
    assert await moved.target("SELECT id, parent, before, n FROM child ORDER BY id") == children
    assert {table.table: (table.loaded, table.kept, table.orphans) for table in result.tables} == {
        "child": (3, 1, 1),
        "parent": (1, 2, 0),
    }
    assert set(await moved.reasons()) == {
        'the target refuses the row: duplicate key value violates unique constraint "parent_pkey": '
        "Key (id)=(3) already exists",
        'the target refuses the row: duplicate key value violates unique constraint "parent_code_key": '
        "Key (code)=(d) already exists",
        'the target refuses the row by a foreign key: insert or update on table "child" violates foreign key '
        'constraint "child_parent_fkey": Key (parent)=(99) is not present in table "parent"',
    }
    # The value that did not fit at first is still there.
    first = "SELECT DISTINCT column_name, value FROM pgferry.quarantine WHERE source_table = 'parent'"
    assert await moved.target(first) == [("size", b"")]


async def test_refused_rows_load_when_the_target_takes_them(move: Move):
    moved = await move(FAMILY, FAMILY_TARGET)
    await moved.connection.execute(FAMILY_KEYS.format(when=""))
    assert (await moved.replay(FAMILY_RULES)).kept == 1
    await moved.connection.execute("INSERT INTO parent VALUES (99)")
    assert (await moved.replay(FAMILY_RULES)).kept == 0
    assert await moved.target("SELECT count(*)::int FROM child") == [(5,)]


async def test_one_refused_row_among_many_costs_no_other(move: Move):
    source = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, '' FROM n;
    """
    moved = await move(
        source, "CREATE TABLE t (id integer PRIMARY KEY CHECK (id <> 1234), n integer NOT NULL)", rows=1000
    )
    await moved.connection.execute("ALTER TABLE t ALTER n DROP NOT NULL")
    result = await moved.replay(rules("t", n=ColumnRules(on_empty="null")))
    assert result.tables == (TableReplay("t", 3000, 2999, 1),)
    assert await moved.target("SELECT count(*)::int, sum(id)::int FROM t") == [(2999, 3000 * 3001 // 2 - 1234)]


async def test_rows_that_a_trigger_changes_are_not_loaded(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.connection.execute(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := upper(NEW.note); RETURN NEW; "
        "END $$; CREATE TRIGGER shout BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION shout()"
    )
    with pytest.raises(Permanent, match="31 rows of table 'events' read back other than they were sent"):
        await moved.replay(ALL_RULES)
    assert await moved.events() == expected(moved, DIRTY)
    assert (await overview(moved.connection, moved.run)).rows == len(DIRTY)


async def test_a_trigger_that_raises_refuses_its_row_only(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.connection.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not %', NEW.id; END $$; "
        "CREATE TRIGGER no BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.id = 13) EXECUTE FUNCTION no()"
    )
    await moved.replay(ALL_RULES)
    assert await moved.events() == expected(moved, NEVER | {13})
    assert (await moved.reasons())["the target refuses the row: not 13"] == 1


# ---------------------------------------------------------------- keys of every kind

KEYS = """
CREATE TABLE words (word TEXT, part BLOB, real REAL, n INTEGER, PRIMARY KEY (word, part, real)) WITHOUT ROWID;
INSERT INTO words VALUES ('a', x'00ff', 0.1, 1), ('a', x'00ff', -0.5, ''), ('é' || char(0) || '"', x'', 1e300, ''),
    (CAST(x'ff41' AS TEXT), x'01', 2.0, ''), ('a', x'', 5e-324, ''), ('z', x'10', 9007199254740993.0, 'no');
CREATE TABLE bag (n INTEGER, t TEXT);
INSERT INTO bag VALUES (1, 'x'), ('', 'y'), ('', 'y'), (NULL, NULL), ('', NULL);
CREATE TABLE texts (n INTEGER, id TEXT PRIMARY KEY);
INSERT INTO texts VALUES (1, 'one'), ('', 'two'), ('', NULL);
CREATE TABLE hidden (rowid TEXT, _rowid_ TEXT, oid TEXT, n INTEGER);
INSERT INTO hidden VALUES ('a', 'b', 'c', ''), ('d', 'e', 'f', 4);
CREATE TABLE hidden_key (rowid TEXT PRIMARY KEY, _rowid_ TEXT, oid TEXT, n INTEGER);
INSERT INTO hidden_key VALUES ('a', 'b', 'c', ''), (NULL, 'e', 'f', ''), (NULL, 'g', 'h', '');
"""
KEYS_TARGET = """
CREATE TABLE words (word bytea, part bytea, "real" double precision, n integer, PRIMARY KEY (word, part, "real"));
CREATE TABLE bag (n integer, t text);
CREATE TABLE texts (n integer, id text);
CREATE TABLE hidden (rowid text, _rowid_ text, oid text, n integer);
CREATE TABLE hidden_key (rowid text, _rowid_ text, oid text, n integer);
"""


async def test_rows_are_found_again_by_any_key(move: Move):
    moved = await move(KEYS, KEYS_TARGET)
    rule = TableRules(columns={"n": ColumnRules(on_empty="null")})

    result = await moved.replay(Rules(tables=dict.fromkeys(("words", "bag", "texts", "hidden", "hidden_key"), rule)))

    source = "SELECT CAST(word AS BLOB), part, real, nullif(n, '') FROM words WHERE n <> 'no' ORDER BY 1, 2, 3"
    assert await moved.target('SELECT word, part, "real", n FROM words ORDER BY 1, 2, 3') == moved.rows(source)
    for table, column in (("bag", "t"), ("texts", "id")):
        found = await moved.target(f"SELECT n, {column} FROM {table}")
        assert sorted(map(repr, found)) == sorted(map(repr, moved.rows(f"SELECT nullif(n, ''), {column} FROM {table}")))
    assert await moved.target("SELECT n FROM hidden") == [(4,)]
    assert await moved.target("SELECT rowid, n FROM hidden_key") == [("a", None)]
    assert {table.table: (table.loaded, table.kept) for table in result.tables} == {
        "words": (4, 1),
        "bag": (3, 0),
        "texts": (2, 0),
        "hidden": (0, 1),
        "hidden_key": (1, 2),
    }
    left = "SELECT reason, count(*)::int FROM pgferry.quarantine WHERE replayed_at IS NULL GROUP BY 1 ORDER BY 2"
    assert await moved.target(left) == [
        ("'no' is no integer", 1),
        ("the row cannot be told from others in the snapshot by its key", 3),
    ]


# ---------------------------------------------------------------- the ledger's books


async def test_replayed_rows_can_be_compared_later_like_a_chunks_rows(move: Move, monkeypatch: pytest.MonkeyPatch):
    moved = await move(EVENTS, EVENTS_TARGET)
    # Gaps in the first page: the server fills them before it appends.
    await moved.connection.execute("DELETE FROM events WHERE id < 20")
    await moved.connection.execute("VACUUM events")
    monkeypatch.setattr(replaying, "BATCH_ROWS", 8)
    work = await prepare_replay(moved.connection, moved.run, ALL_RULES, "")
    await moved.replay(ALL_RULES)

    batches = (await replays(moved.connection, moved.run.id))["events"]
    pair = work.reads["events"].pair
    assert sum(batch.rows for batch in batches) == len(DIRTY) - 3
    assert [await replaying.reads_back(moved.connection, pair, batch) for batch in batches] == [True] * 5
    chunks = [*(await loaded_chunks(moved.connection, moved.run.id)).values(), *batches]
    verdict = table_verdict(pair, 103, 100, chunks)
    assert (verdict.loaded, verdict.quarantined, verdict.closed, verdict.difference_count) == (100, 3, True, 0)

    await moved.connection.execute("UPDATE events SET note = 'other' WHERE id = 3")
    equal = [await replaying.reads_back(moved.connection, pair, batch) for batch in batches]
    assert equal == [False, True, True, True, True]


async def test_books_that_do_not_agree_are_told(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.connection.execute("DELETE FROM pgferry.quarantine WHERE key = '[50]'")
    with pytest.raises(LossError, match=r"'events' has 103 rows; 100 are .* 3 as quarantined, .* quarantine holds 2"):
        await moved.replay(ALL_RULES)


async def test_only_the_named_tables_are_replayed(move: Move):
    moved = await move(FAMILY, FAMILY_TARGET)
    result = await moved.replay(FAMILY_RULES, "parent")
    assert [(table.table, table.loaded) for table in result.tables] == [("parent", 3)]
    assert await moved.target("SELECT count(*)::int FROM child") == [(1,)]


async def test_a_replay_refuses_what_it_cannot_do(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    with pytest.raises(UsageError, match=r"has no table 'nothing'\. Give one .*: events"):
        await moved.replay(ALL_RULES, "nothing")
    with pytest.raises(UsageError, match="rules for table 'evnts'"):
        await moved.replay(rules("evnts", at=ColumnRules(epoch="s")))
    with pytest.raises(UsageError, match=r"rules for column events\.att"):
        await moved.replay(rules("events", att=ColumnRules(epoch="s")))
    unfinished = replace(moved, run=replace(moved.run, status="running"))
    with pytest.raises(Permanent, match=r"is running: .* Finish it first"):
        await unfinished.replay(ALL_RULES)
    assert await moved.events() == expected(moved, DIRTY)


async def test_a_run_that_is_restarted_meanwhile_gets_no_rows(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    work = await prepare_replay(moved.connection, moved.run, ALL_RULES, "")
    await open_run(moved.connection, moved.source, Rules(), restart=True)
    with pytest.raises(Permanent, match="is restarted"):
        await replay_table(moved.connection, work, "events")
    assert await moved.events() == []


async def test_excluded_tables_stay_and_new_names_do_not_matter(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    assert (await moved.replay(Rules(tables={"events": TableRules(exclude=True)}))).tables == ()
    renamed = ALL_RULES.tables["events"].model_copy(update={"rename": "elsewhere"})
    assert (await moved.replay(Rules(tables={"events": renamed}))).loaded == len(DIRTY) - 3


async def test_a_column_that_was_widened_in_the_target_takes_its_rows(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.connection.execute("ALTER TABLE events ALTER COLUMN qty TYPE text")
    assert (await moved.replay(Rules())).loaded == 11
    assert await moved.target("SELECT id, qty FROM events WHERE id IN (71, 75) ORDER BY id") == [(71, "many"), (75, "")]


async def test_replayed_rows_are_no_longer_open(move: Move):
    moved = await move(EVENTS, EVENTS_TARGET)
    await moved.replay(ALL_RULES)
    assert [row.key for row in await open_rows(moved.connection, moved.run.id, "events")] == [(50,), (71,), (98,)]
    assert await open_rows(moved.connection, moved.run.id, "events", after=10**9) == ()
