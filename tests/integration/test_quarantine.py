"""Quarantine: what is kept aside, and loaded exactly once after a rule was changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from pgferry import replay as replaying
from pgferry.errors import LossError, Permanent, UsageError
from pgferry.finishing import NotAccepted, finished_report
from pgferry.postgres.connection import connect
from pgferry.postgres.ledger import find_run, loaded_chunks
from pgferry.postgres.quarantine import open_rows, replays
from pgferry.postgres.runs import open_run
from pgferry.replay import TableReplay, judge_replay, prepare_replay, replay_table
from pgferry.settings import ColumnRules, Rules, TableRules
from pgferry.verify import table_verdict
from tests.integration.replayed import (
    ALL_RULES,
    DIRTY,
    EPOCH,
    EVENTS,
    EVENTS_TARGET,
    FAMILY,
    FAMILY_RULES,
    FAMILY_TARGET,
    NEVER,
    Move,
    expected,
    move,
    rules,
)

__all__ = ["move"]


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
