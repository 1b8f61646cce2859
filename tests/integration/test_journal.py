"""The journal of a live move: locks, position, capture, touched rows and validations, on a real server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.live.model import Capture, CapturedTable, Direction, Phase, Position, ValidationRecord
from pgferry.live.phases import enter
from pgferry.model import QuarantinedRow, StorageClass, UndecodableText
from pgferry.postgres import journal, ledger
from pgferry.postgres.connection import connect
from pgferry.postgres.lock import RunLock

NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, UTC)
CAPTURE = Capture(
    "t0ken",
    (
        CapturedTable(0, "Items", "rowid", (), "f0"),
        CapturedTable(7, 'na\'me "x" ü', None, ("a", "B c"), "f1", stable=False),
    ),
    42,
)
KEYS = [(1,), ("a\x00b", b"\xff", -0.0, None), ("Ж" * 3000,), (b"\x01\x02" * 4000,)]
VALIDATION = ValidationRecord(
    direction=Direction.FORWARD,
    level="sample",
    started_at=NOON,
    finished_at=NOON + timedelta(seconds=3),
    moment=NOON + timedelta(seconds=1),
    passed=False,
    tables=3,
    rows=2**40,
    cells=2**41,
    differences=2,
    seconds=3.5,
    orphans=1,
    quarantined=4,
    sample_percent=12.5,
    detail={"tables": [{"name": "Items", "differences": 2}]},
)


def row(key, table="Items", reason="no date"):
    return QuarantinedRow(table, key, "c", StorageClass.TEXT, b"x", reason)


@pytest.fixture
async def run(connection):
    await ledger.install(connection)
    return await ledger.begin_run(connection, "/data/app.db", "fingerprint")


@pytest.fixture
async def other(database_url):
    opened = await connect(database_url, application_name="the other one")
    yield opened
    await opened.close(timeout=5)


@pytest.fixture
async def third(database_url):
    opened = await connect(database_url)
    yield opened
    await opened.close(timeout=5)


# ---------------------------------------------------------------- the sync lock


async def test_one_session_holds_the_sync_lock_and_is_named_to_the_others(connection, other):
    async with journal.sync_lock(other):
        with pytest.raises(Transient, match=r"server process \d+ \(the other one, role .*, since \d{4}-") as caught:
            await journal.lock_sync(connection, patience=0.1)
        assert f"pg_terminate_backend({caught.value.details['pid']})" in caught.value.action
        with pytest.raises(Transient, match="the other one"):
            async with connection.transaction():
                await journal.lock_sync_for_transaction(connection, patience=0.1)
    await journal.lock_sync(connection, patience=0)
    await journal.unlock_sync(connection)


async def test_the_lock_of_a_transaction_ends_with_it(connection, other):
    async with other.transaction():
        await journal.lock_sync_for_transaction(other)
        with pytest.raises(Transient, match="the other one"):
            await journal.lock_sync(connection, patience=0)
    async with journal.sync_lock(connection, patience=0):
        assert not await other.fetchval("SELECT pg_try_advisory_lock(7164250413003)")


async def test_waiting_is_enough_when_the_holder_ends(connection, other):
    await journal.lock_sync(other)
    waiting = asyncio.create_task(journal.lock_sync(connection, patience=10))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    other.terminate()
    assert await waiting is None
    assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") == 1


async def test_the_sync_lock_is_not_the_run_lock(database_url, connection):
    def hold() -> None:
        with RunLock(database_url, "a.db") as lock:
            lock.check()

    async with journal.sync_lock(connection):
        await asyncio.to_thread(hold)


async def test_a_session_that_is_gone_has_released_the_lock(connection, other, third):
    async with journal.sync_lock(other):
        await other.close()
    with pytest.raises(ZeroDivisionError):
        async with journal.sync_lock(connection, patience=5):
            await third.fetchval("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            raise ZeroDivisionError
    await journal.lock_sync(third, patience=5)


async def test_the_lock_is_refused_where_it_would_not_show_what_the_holder_did(connection, run):
    async with connection.transaction(isolation="repeatable_read"):
        for lock in (journal.lock_sync, journal.lock_sync_for_transaction):
            with pytest.raises(RuntimeError, match="before a transaction of that isolation"):
                await lock(connection)
    with pytest.raises(RuntimeError, match="inside the transaction"):
        await journal.lock_sync_for_transaction(connection)


# ---------------------------------------------------------------- the run


async def test_without_a_ledger_dual_write_comes_first(connection):
    with pytest.raises(UsageError, match=r"No move was ever begun .* flows dual-write"):
        await journal.live_run(connection, None)


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [(2, UsageError, "version 2, without live moves. .*dual-write"), (99, Permanent, "version 99; .*newer pgferry")],
)
async def test_another_version_of_the_ledger_is_told(connection, run, version, error, words):
    await connection.execute("DELETE FROM pgferry.schema_version WHERE version > 2")
    await connection.execute("INSERT INTO pgferry.schema_version VALUES ($1) ON CONFLICT DO NOTHING", version)
    with pytest.raises(error, match=words):
        await journal.live_run(connection, None)


async def test_only_a_run_in_a_live_phase_is_found(connection, run):
    with pytest.raises(UsageError, match="No move without downtime"):
        await journal.live_run(connection, "/data/app.db")
    await enter(connection, run.id, Phase.LOADING)
    assert (await journal.live_run(connection, None)).id == run.id
    assert (await journal.live_run(connection, "/data/app.db")).source == "/data/app.db"
    with pytest.raises(UsageError, match=r"other\.db is in no move .* but /data/app\.db"):
        await journal.live_run(connection, "other.db")
    await enter(connection, run.id, Phase.NONE)
    with pytest.raises(UsageError, match="No move without downtime"):
        await journal.live_run(connection, None)


async def test_of_several_runs_one_must_be_named(connection, run):
    second = await ledger.begin_run(connection, "/data/b.db", "f")
    third = await ledger.begin_run(connection, "/data/c.db", "f")
    for each in (run, second, third):
        await enter(connection, each.id, Phase.LOADING)
    await connection.execute("UPDATE pgferry.run SET status = 'restarted' WHERE id = $1", third.id)
    with pytest.raises(UsageError, match=r"2 moves .* Give --source: /data/app\.db or /data/b\.db"):
        await journal.live_run(connection, None)
    assert (await journal.live_run(connection, "/data/b.db")).id == second.id


# ---------------------------------------------------------------- the position


async def test_the_position_moves_only_from_where_it_is(connection, run):
    assert await journal.read_position(connection, run.id) is None
    await journal.begin_position(connection, run.id, 5, NOON)
    await journal.begin_position(connection, run.id, 99, NOON)
    assert await journal.read_position(connection, run.id) == Position(run.id, 5, NOON)
    later = NOON + timedelta(seconds=1)
    async with connection.transaction():
        assert await journal.advance(connection, run.id, before=5, to=2**60, moment=later, rows=3)
        assert not await journal.advance(connection, run.id, before=5, to=7, moment=NOON, rows=3)
    assert await journal.read_position(connection, run.id) == Position(run.id, 2**60, later)
    assert tuple(await connection.fetchrow("SELECT cycles, rows FROM pgferry.position")) == (1, 3)
    async with connection.transaction():
        await journal.set_position(connection, run.id, 1, NOON)
    assert await journal.read_position(connection, run.id) == Position(run.id, 1, NOON)


async def test_of_two_that_advance_at_once_one_must_begin_again(connection, other, run):
    await journal.begin_position(connection, run.id, 5, NOON)

    async def move(conn, to):
        async with conn.transaction():
            done = await journal.advance(conn, run.id, before=5, to=to, moment=NOON, rows=1)
            await asyncio.sleep(0.1)
            return done

    assert sorted(await asyncio.gather(move(connection, 6), move(other, 7))) == [False, True]


async def test_what_must_commit_with_its_work_refuses_to_stand_alone(connection, run):
    for call in (
        journal.advance(connection, run.id, before=1, to=2, moment=NOON, rows=0),
        journal.set_position(connection, run.id, 1, NOON),
        journal.mark_touched(connection, run.id, "Items", [(1,)]),
        journal.refresh_quarantine(connection, run.id, "Items", None, []),
        journal.record_repair(connection, 1, "Items", [(1,)], "written"),
        journal.forget_live(connection, run.id),
    ):
        with pytest.raises(RuntimeError, match="inside the transaction"):
            await call


# ---------------------------------------------------------------- the capture


async def test_a_capture_comes_back_exactly(connection, run):
    assert await journal.read_recorded_capture(connection, run.id) is None
    token = await journal.reserve_token(connection, run.id)
    assert len(token) == 32
    assert await journal.reserve_token(connection, run.id) == token
    assert await journal.read_recorded_capture(connection, run.id) is None, "only the token is reserved"
    capture = replace(CAPTURE, token=token)
    await journal.record_capture(connection, run.id, capture)
    assert await journal.read_recorded_capture(connection, run.id) == capture
    fewer = replace(capture, tables=capture.tables[:1], schema_version=43)
    await journal.record_capture(connection, run.id, fewer)
    assert await journal.read_recorded_capture(connection, run.id) == fewer
    assert await journal.reserve_token(connection, run.id) == token


async def test_tokens_reserved_at_once_are_the_same(connection, other, run):
    first, second = await asyncio.gather(*(journal.reserve_token(conn, run.id) for conn in (connection, other)))
    assert first == second


async def test_the_capture_of_another_file_is_refused(connection, run):
    await journal.record_capture(connection, run.id, CAPTURE)
    with pytest.raises(Permanent, match=r"token other is not that of run .* dual-write --undo"):
        await journal.record_capture(connection, run.id, replace(CAPTURE, token="other"))
    assert await journal.read_recorded_capture(connection, run.id) == CAPTURE


async def test_forms_go_with_the_capture(connection, run):
    assert await journal.read_forms(connection, run.id) == {}
    with pytest.raises(Permanent, match="has no capture"):
        await journal.record_forms(connection, run.id, {"Items": {}})
    await journal.record_capture(connection, run.id, CAPTURE)
    forms = {"Items": {"at": {"separator": "T", "digits": 6}}}
    await journal.record_forms(connection, run.id, forms)
    await journal.record_capture(connection, run.id, replace(CAPTURE, schema_version=50))
    assert await journal.read_forms(connection, run.id) == forms


async def test_what_is_live_is_forgotten_and_history_is_not(connection, run):
    await enter(connection, run.id, Phase.LOADING)
    await journal.record_capture(connection, run.id, CAPTURE)
    await journal.begin_position(connection, run.id, 5, NOON)
    await journal.record_validation(connection, run.id, VALIDATION)
    async with connection.transaction():
        await journal.mark_touched(connection, run.id, "Items", KEYS)
        await journal.forget_live(connection, run.id)
    assert await journal.read_position(connection, run.id) is None
    assert await journal.touched_count(connection, run.id) == 0
    assert await journal.reserve_token(connection, run.id) != CAPTURE.token
    assert len(await journal.validations(connection, run.id)) == 1


# ---------------------------------------------------------------- touched rows


async def test_touched_rows_come_back_exactly_and_once(connection, run):
    async with connection.transaction():
        await journal.mark_touched(connection, run.id, "Items", [*KEYS, *KEYS])
        await journal.mark_touched(connection, run.id, "Items", KEYS)
        await journal.mark_touched(connection, run.id, "Other", [(1,)])
        await journal.mark_touched(connection, run.id, "Empty", [])
    assert await journal.touched_count(connection, run.id) == len(KEYS) + 1
    found = await journal.touched_since(connection, run.id)
    assert {table: sorted(map(repr, keys)) for table, keys in found.items()} == {
        "Items": sorted(map(repr, KEYS)),
        "Other": ["(1,)"],
    }


async def test_undecodable_text_addresses_its_row(connection, run):
    key = (UndecodableText(b"\xff\x00"),)
    async with connection.transaction():
        await journal.mark_touched(connection, run.id, "Items", [key])
    assert await journal.touched_since(connection, run.id) == {"Items": [key]}


async def test_many_touched_rows_are_quick_and_come_in_batches(connection, run):
    keys = [(number, f"key {number}") for number in range(10_000)]
    for _again in range(2):
        began = time.monotonic()
        async with connection.transaction():
            await journal.mark_touched(connection, run.id, "Items", keys)
        assert time.monotonic() - began < 3
    batches = [keys async for _table, keys in journal.touched_batches(connection, run.id, "Items", size=3_000)]
    assert [len(batch) for batch in batches] == [3_000, 3_000, 3_000, 1_000]
    assert sorted(key for batch in batches for key in batch) == keys
    assert [batch async for batch in journal.touched_batches(connection, run.id, "Other")] == []


async def test_rows_touched_after_the_moment_are_kept(connection, run):
    async def touch(*keys):
        async with connection.transaction():
            await journal.mark_touched(connection, run.id, "Items", keys)

    await touch((1,), (2,))
    moment = await journal.server_time(connection)
    await touch((2,), (3,))
    await journal.forget_touched(connection, run.id, moment)
    assert sorted((await journal.touched_since(connection, run.id))["Items"]) == [(2,), (3,)]


# ---------------------------------------------------------------- validations


async def test_validations_come_back_newest_first(connection, run):
    numbers = [
        await journal.record_validation(connection, run.id, each)
        for each in (VALIDATION, replace(VALIDATION, level="cells", direction=Direction.REVERSE, sample_percent=None))
    ]
    found = await journal.validations(connection, run.id)
    assert found == (
        replace(VALIDATION, level="cells", direction=Direction.REVERSE, sample_percent=None, id=numbers[1]),
        replace(VALIDATION, id=numbers[0]),
    )
    assert await journal.validations(connection, run.id, 1) == found[:1]
    assert await journal.validations(connection, run.id, level="sample") == found[1:]


async def test_details_may_quote_any_value(connection, run):
    detail = {"a\x00": ["x\x00y", "\ud800", float("nan"), {"at": NOON}, 2**70, None]}
    await journal.record_validation(connection, run.id, replace(VALIDATION, detail=detail))
    (found,) = await journal.validations(connection, run.id)
    assert found.detail == {
        "a\\x00": ["x\\x00y", "\\ud800", "nan", {"at": "2024-02-29 12:00:00.123456+00:00"}, 2**70, None]
    }


async def test_repairs_are_kept_with_their_validation(connection, run):
    number = await journal.record_validation(connection, run.id, VALIDATION)
    async with connection.transaction():
        await journal.record_repair(connection, number, "Items", [(1,), ("b",)], "written to PostgreSQL")
    found = await journal.repairs(connection, number)
    assert [(each.table, each.key, each.action) for each in found] == [
        ("Items", (1,), "written to PostgreSQL"),
        ("Items", ("b",), "written to PostgreSQL"),
    ]
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with connection.transaction():
            await journal.record_repair(connection, number + 1, "Items", [(1,)], "written")


# ---------------------------------------------------------------- quarantine


async def open_keys(connection):
    rows = await connection.fetch(
        "SELECT source_table, key, reason FROM pgferry.quarantine WHERE replayed_at IS NULL ORDER BY id"
    )
    return [tuple(each) for each in rows]


async def test_the_quarantine_of_rows_is_replaced_and_of_others_kept(connection, run):
    async with connection.transaction():
        await journal.refresh_quarantine(
            connection, run.id, "Items", None, [row((1,)), row((2,)), row((3,)), row((4,), "Other")]
        )
        await journal.refresh_quarantine(connection, run.id, "Items", [], [])
    await connection.execute("UPDATE pgferry.quarantine SET replayed_at = now() WHERE key = '[3]'")
    async with connection.transaction():
        await journal.refresh_quarantine(
            connection, run.id, "Items", [(1,), (2,), (2,), (3,), (9,)], [row((2,), reason="still none")]
        )
    assert await open_keys(connection) == [("Other", "[4]", "no date"), ("Items", "[2]", "still none")]
    assert await connection.fetchval("SELECT count(*) FROM pgferry.quarantine WHERE replayed_at IS NOT NULL") == 1


async def test_the_quarantine_of_a_table_is_replaced_whole(connection, run):
    async with connection.transaction():
        await journal.refresh_quarantine(connection, run.id, "Items", None, [row((1,)), row((4,), "Other")])
        await journal.refresh_quarantine(connection, run.id, "Items", None, [row((5,))])
    assert await open_keys(connection) == [("Other", "[4]", "no date"), ("Items", "[5]", "no date")]


async def test_a_quarantine_that_is_rolled_back_is_as_it_was(connection, run):
    async with connection.transaction():
        await journal.refresh_quarantine(connection, run.id, "Items", None, [row((1,))])
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await journal.refresh_quarantine(connection, run.id, "Items", [(1,)], [])
            raise ZeroDivisionError
    assert await open_keys(connection) == [("Items", "[1]", "no date")]


# ---------------------------------------------------------------- rows left behind


async def test_rows_left_behind_are_kept_until_they_are_settled(connection, run):
    await journal.record_uncarried(connection, run.id, "Items", [*KEYS, (1,)], "unreachable")
    await journal.record_uncarried(connection, run.id, "Items", [(1,)], "again")
    await journal.record_uncarried(connection, run.id, "Other", [(2,)], "unreachable")
    found = await journal.open_uncarried(connection, run.id)
    assert {table: sorted(map(repr, keys)) for table, keys in found.items()} == {
        "Items": sorted(map(repr, KEYS)),
        "Other": ["(2,)"],
    }
    assert await journal.settle_uncarried(connection, run.id, "Items", [(1,), (77,)], "carried") == 1
    assert await journal.settle_uncarried(connection, run.id, "Items", [(1,)], "carried") == 0
    assert await journal.uncarried_count(connection, run.id) == len(KEYS)
    await journal.record_uncarried(connection, run.id, "Items", [(1,)], "a second time")
    assert (1,) in (await journal.open_uncarried(connection, run.id))["Items"]
