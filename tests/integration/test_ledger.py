"""The ledger: every promise about what is recorded when, on a real server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from pgferry.errors import LossError, Permanent
from pgferry.model import Chunk, LoadedChunk, QuarantinedRow, Snapshot, StorageClass
from pgferry.postgres import ledger
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.connection import connect
from pgferry.postgres.deferred import defer, pending
from pgferry.quoting import quote

SNAPSHOT = Snapshot("/b/app.db", "ab" * 32, 2**40, "/app.db", datetime(2024, 2, 29, 1, 2, 3, 4, UTC), 7)
TABLE = ledger.PlannedTable("Items", "public", "items", 30, (("id", "id"), ("na'me", "name")), fingerprint="f1")
CHUNKS = (
    Chunk("Items", 0, 10, None, (10,)),
    Chunk("Items", 1, 10, (11, "a\x00b", b"\xff", -0.0, None), (2**63 - 1,)),
    Chunk("Items", 2, 10, (5e-324,), None),
)


def loaded(chunk: Chunk, quarantined: int = 0) -> LoadedChunk:
    return LoadedChunk(chunk, chunk.rows - quarantined, quarantined, 2**33, "cd" * 32, 2**32 - 1, 0, 2**31)


@pytest.fixture
async def run(connection):
    await connection.execute("SET search_path = public")
    await ledger.install(connection)
    return await ledger.begin_run(connection, "app.db", "fingerprint")


@pytest.fixture
async def planned_run(connection, run):
    await ledger.plan_tables(connection, run.id, [TABLE], CHUNKS)
    return run


@pytest.fixture
async def other(database_url):
    opened = await connect(database_url)
    yield opened
    await opened.close(timeout=5)


async def record(connection, run, chunk, quarantined=0):
    async with connection.transaction():
        await ledger.record_chunk(connection, run.id, loaded(chunk, quarantined))


# ---------------------------------------------------------------- the schema


async def test_processes_that_install_at_once_take_turns(connection, database_url):
    several = [await connect(database_url) for _ in range(5)]
    await asyncio.gather(*(ledger.install(each) for each in several))
    for each in several:
        await each.close()
    installed = await connection.fetchval("SELECT array_agg(version ORDER BY version) FROM pgferry.schema_version")
    assert installed == list(range(1, ledger.VERSION + 1))


async def test_installing_again_keeps_what_is_there(connection, planned_run):
    await ledger.install(connection)
    assert await ledger.planned_chunks(connection, planned_run.id) == CHUNKS


async def test_a_newer_schema_is_refused(connection, run):
    await connection.execute("INSERT INTO pgferry.schema_version VALUES (99)")
    with pytest.raises(Permanent, match=f"version 99; this pgferry knows {ledger.VERSION}"):
        await ledger.install(connection)


async def test_a_role_without_the_privilege_is_told_what_to_grant(connection):
    role = f"pgferry_test_{uuid4().hex[:8]}"
    await connection.execute(f"CREATE ROLE {role}")
    try:
        await connection.execute(f"SET ROLE {role}")
        with pytest.raises(Permanent, match=f'GRANT CREATE ON DATABASE "pgferry_test_.*" TO "{role}"'):
            await ledger.install(connection)
    finally:
        await connection.execute(f"RESET ROLE; DROP ROLE {role}")
    assert not await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgferry'")


# ---------------------------------------------------------------- runs


async def test_a_run_is_found_by_its_source_until_it_is_restarted(connection, run):
    assert await ledger.find_run(connection, "app.db") == run
    assert await ledger.find_run(connection, "other.db") is None
    with pytest.raises(Permanent, match=r"app\.db has a run"):
        await ledger.begin_run(connection, "app.db", "another")
    await ledger.restart(connection, run.id)
    assert await ledger.find_run(connection, "app.db") is None
    again = await ledger.begin_run(connection, "app.db", "another")
    assert [(each.id, each.status) for each in await ledger.history(connection)] == [
        (again.id, "running"),
        (run.id, "restarted"),
    ]


async def test_of_two_runs_begun_at_once_one_is_refused(connection, other):
    await ledger.install(connection)
    ends = await asyncio.gather(
        *(ledger.begin_run(each, "app.db", "f") for each in (connection, other)), return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["Permanent", "Run"]


async def test_snapshot_and_report_come_back_as_they_were(connection, run):
    await ledger.record_snapshot(connection, run.id, SNAPSHOT)
    await ledger.finish_run(connection, run.id, {"rows": 2**60, "name": "ü"})
    found = await ledger.find_run(connection, "app.db")
    assert found is not None
    assert (found.snapshot, found.report, found.status) == (SNAPSHOT, {"rows": 2**60, "name": "ü"}, "finished")
    assert found.finished_at is not None
    assert found.finished_at >= found.started_at


async def test_a_run_that_is_not_there_is_named(connection, run):
    for call in (
        ledger.read_run(connection, 4711),
        ledger.record_snapshot(connection, 4711, SNAPSHOT),
        ledger.plan_tables(connection, 4711, [TABLE], CHUNKS),
        ledger.finish_run(connection, 4711, {}),
        ledger.restart(connection, 4711),
    ):
        with pytest.raises(Permanent, match=r"[Rr]un 4711"):
            await call


# ---------------------------------------------------------------- the plan


async def test_a_plan_comes_back_exactly(connection, planned_run):
    assert await ledger.planned_tables(connection, planned_run.id) == (TABLE,)
    found = await ledger.planned_chunks(connection, planned_run.id)
    assert found == CHUNKS
    assert [repr(chunk) for chunk in found] == [repr(chunk) for chunk in CHUNKS], "-0.0 and 0.0 are equal in Python"


async def test_the_same_plan_again_changes_nothing(connection, planned_run):
    await record(connection, planned_run, CHUNKS[0])
    await ledger.plan_tables(connection, planned_run.id, [TABLE], CHUNKS)
    assert list(await ledger.loaded_chunks(connection, planned_run.id)) == [("Items", 0)]


@pytest.mark.parametrize(
    ("tables", "chunks", "named"),
    [
        ([TABLE], CHUNKS[:2], "chunk 2 of table Items"),
        ([TABLE], (*CHUNKS, Chunk("Items", 3, 1)), "chunk 3 of table Items"),
        ([TABLE], (*CHUNKS[:2], Chunk("Items", 2, 11, (5e-324,), None)), "chunk 2 of table Items"),
        ([], (), "table Items"),
        ([ledger.PlannedTable("Items", "public", "things", 30, TABLE.columns, 0, "f1")], CHUNKS, "table Items"),
    ],
)
async def test_another_plan_for_the_same_run_is_refused(connection, planned_run, tables, chunks, named):
    with pytest.raises(Permanent, match=named):
        await ledger.plan_tables(connection, planned_run.id, tables, chunks)
    assert await ledger.planned_chunks(connection, planned_run.id) == CHUNKS


async def test_a_plan_with_a_chunk_of_no_table_leaves_nothing(connection, run):
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await ledger.plan_tables(connection, run.id, [TABLE], [Chunk("Nowhere", 0, 1)])
    assert await ledger.planned_tables(connection, run.id) == ()


# ---------------------------------------------------------------- chunks


async def test_a_chunk_and_its_rows_commit_together(connection, planned_run):
    await connection.execute("CREATE TABLE items (id integer)")

    async def load(fail: bool) -> None:
        async with connection.transaction():
            await connection.copy_records_to_table("items", records=[(1,), (2,)])
            await ledger.record_chunk(connection, planned_run.id, loaded(CHUNKS[0], 2))
            await ledger.record_quarantine(connection, planned_run.id, [QUARANTINED] * 2)
            assert not fail

    with pytest.raises(AssertionError):
        await load(fail=True)
    assert await ledger.loaded_chunks(connection, planned_run.id) == {}
    assert await ledger.quarantine_counts(connection, planned_run.id) == {}
    await load(fail=False)
    assert await ledger.loaded_chunks(connection, planned_run.id) == {("Items", 0): loaded(CHUNKS[0], 2)}
    assert await ledger.quarantine_counts(connection, planned_run.id) == {"Items": 2}
    assert await connection.fetchval("SELECT count(*) FROM items") == 2


async def test_a_chunk_is_recorded_once(connection, planned_run):
    await record(connection, planned_run, CHUNKS[1])
    with pytest.raises(ledger.AlreadyLoaded, match="Chunk 1 of table Items"):
        await record(connection, planned_run, CHUNKS[1])


async def test_a_second_writer_waits_for_the_first_and_is_then_refused(connection, other, planned_run):
    first = connection.transaction()
    await first.start()
    await ledger.record_chunk(connection, planned_run.id, loaded(CHUNKS[0]))
    second = asyncio.create_task(record(other, planned_run, CHUNKS[0]))
    await asyncio.sleep(0.2)
    assert not second.done()
    await first.commit()
    with pytest.raises(ledger.AlreadyLoaded):
        await second


async def test_a_second_writer_goes_on_when_the_first_one_fails(connection, other, planned_run):
    first = connection.transaction()
    await first.start()
    await ledger.record_chunk(connection, planned_run.id, loaded(CHUNKS[0]))
    second = asyncio.create_task(record(other, planned_run, CHUNKS[0]))
    await asyncio.sleep(0.1)
    await first.rollback()
    await second
    assert list(await ledger.loaded_chunks(connection, planned_run.id)) == [("Items", 0)]


async def test_a_chunk_that_does_not_add_up_is_a_loss(connection, planned_run):
    short = LoadedChunk(CHUNKS[0], 8, 1, 1, "", 1, 0, 0)
    with pytest.raises(LossError, match="10 rows in the snapshot, but 8 were loaded and 1 quarantined"):
        async with connection.transaction():
            await ledger.record_chunk(connection, planned_run.id, short)
    assert await ledger.loaded_chunks(connection, planned_run.id) == {}


async def test_a_chunk_that_was_never_planned_is_refused(connection, planned_run):
    with pytest.raises(Permanent, match="never planned"):
        await record(connection, planned_run, Chunk("Items", 9, 1))


async def test_recording_outside_a_transaction_is_a_mistake_in_the_code(connection, planned_run):
    with pytest.raises(RuntimeError, match="record_chunk"):
        await ledger.record_chunk(connection, planned_run.id, loaded(CHUNKS[0]))
    with pytest.raises(RuntimeError, match="record_quarantine"):
        await ledger.record_quarantine(connection, planned_run.id, [])


async def test_only_a_loaded_chunk_is_verified(connection, planned_run):
    with pytest.raises(Permanent, match="not loaded"):
        await ledger.mark_verified(connection, planned_run.id, [("Items", 0)], 0)
    await record(connection, planned_run, CHUNKS[0])
    await ledger.mark_verified(connection, planned_run.id, [("Items", 0)], 3)
    assert await ledger.verified_chunks(connection, planned_run.id) == {("Items", 0): 3}
    with pytest.raises(Permanent, match=r"Chunk 1 of table Items .* not loaded"):
        await ledger.mark_verified(connection, planned_run.id, [("Items", 0), ("Items", 1)], 0)
    assert await ledger.verified_chunks(connection, planned_run.id) == {("Items", 0): 3}, "all or none"


# ---------------------------------------------------------------- quarantine

QUARANTINED = QuarantinedRow(
    "Items", (1, "k\x00", b"\x00"), "name", StorageClass.TEXT, b"a\x00\xff", "has \x00 and \ud800"
)


async def test_a_quarantined_row_keeps_its_bytes(connection, planned_run):
    async with connection.transaction():
        await ledger.record_quarantine(connection, planned_run.id, [QUARANTINED])
    row = await connection.fetchrow("SELECT * FROM pgferry.quarantine")
    assert row["key"] == '[1, "k\\u0000", {"blob": "00"}]'
    assert (row["value"], row["storage_class"], row["column_name"]) == (b"a\x00\xff", "text", "name")
    assert row["reason"] == "has \\x00 and \\ud800"
    assert row["replayed_at"] is None


async def test_a_hundred_thousand_rows_are_quarantined_by_copy(connection, planned_run):
    rows = [QuarantinedRow("Items", (n,), "name", StorageClass.BLOB, b"%d" % n, "no text") for n in range(100_000)]
    began = time.perf_counter()
    async with connection.transaction():
        await ledger.record_quarantine(connection, planned_run.id, rows)
    assert time.perf_counter() - began < 30, "one INSERT a row takes minutes"
    assert await ledger.quarantine_counts(connection, planned_run.id) == {"Items": 100_000}
    assert await connection.fetchval("SELECT count(DISTINCT value) FROM pgferry.quarantine") == 100_000


# ---------------------------------------------------------------- restart


def target(name: str) -> ledger.PlannedTable:
    return ledger.PlannedTable(name, "public", name, 1, (("id", "id"),))


async def load_into(connection, run, *names: str, only: tuple[str, ...] | None = None) -> None:
    """Plan one chunk for each table and load a row into each of `only`."""
    await ledger.plan_tables(connection, run.id, [target(n) for n in names], [Chunk(n, 0, 1) for n in names])
    for name in names if only is None else only:
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {quote(name)} (id) VALUES (1)")
            await ledger.record_chunk(connection, run.id, loaded(Chunk(name, 0, 1)))


async def rows_in(connection, *names: str) -> list[int]:
    return [await connection.fetchval(f"SELECT count(*) FROM {quote(name)}") for name in names]


async def test_restart_empties_the_tables_that_the_run_loaded_and_no_other(connection, run):
    await connection.execute("""
        CREATE TABLE "A b" (id integer PRIMARY KEY); CREATE TABLE loaded_child (id integer REFERENCES "A b");
        CREATE TABLE untouched (id integer); INSERT INTO untouched VALUES (1);
        CREATE TABLE not_loaded (id integer); INSERT INTO not_loaded VALUES (1);
        CREATE TABLE heir () INHERITS ("A b"); INSERT INTO heir VALUES (5)""")
    await load_into(connection, run, "A b", "loaded_child", "not_loaded", only=("A b", "loaded_child"))
    await ledger.restart(connection, run.id)
    assert await rows_in(connection, "loaded_child", "untouched", "not_loaded", "heir") == [0, 1, 1, 1]
    assert await connection.fetchval('SELECT count(*) FROM ONLY "A b"') == 0


async def test_restart_refuses_when_another_table_s_rows_point_at_a_loaded_one(connection, run):
    await connection.execute("CREATE TABLE items (id integer PRIMARY KEY)")
    await load_into(connection, run, "items")
    await connection.execute("""
        CREATE TABLE audit (item integer CONSTRAINT audit_item REFERENCES items ON DELETE CASCADE);
        INSERT INTO audit VALUES (1)""")
    with pytest.raises(Permanent, match=r"items cannot be emptied: public\.audit has rows .* audit_item"):
        await ledger.restart(connection, run.id)
    assert await rows_in(connection, "items", "audit") == [1, 1]
    assert (await ledger.read_run(connection, run.id)).status == "running"


async def test_restart_passes_over_empty_tables_that_point_at_a_loaded_one(connection, run):
    await connection.execute("""
        CREATE TABLE items (id integer PRIMARY KEY); CREATE TABLE child (id integer PRIMARY KEY REFERENCES items);
        CREATE TABLE grandchild (id integer REFERENCES child);
        CREATE TABLE parted (id integer REFERENCES items) PARTITION BY LIST (id);
        CREATE TABLE part PARTITION OF parted DEFAULT""")
    await load_into(connection, run, "items")
    await ledger.restart(connection, run.id)
    assert await rows_in(connection, "items") == [0]


async def test_restart_brings_back_what_was_dropped(connection, run):
    await connection.execute("""
        CREATE TABLE items (id integer PRIMARY KEY, variant_of integer REFERENCES items);
        CREATE TABLE audit (id integer, item integer REFERENCES items); INSERT INTO audit VALUES (1, NULL);
        CREATE INDEX items_variant ON items (variant_of)""")
    before = await schema_of(connection)
    await defer(connection, run.id, [table for table in await read_tables(connection) if table.name == "items"])
    await load_into(connection, run, "items")
    assert await schema_of(connection) == []
    await connection.execute("INSERT INTO audit VALUES (2, 1)")
    with pytest.raises(Permanent, match="audit_item_fkey"):
        await ledger.restart(connection, run.id)
    assert await rows_in(connection, "items", "audit") == [1, 2]
    await connection.execute("DELETE FROM audit WHERE id = 2")
    await ledger.restart(connection, run.id)
    assert await schema_of(connection) == before
    assert await rows_in(connection, "items", "audit") == [0, 1]
    assert await pending(connection, run.id) == ()


async def test_restart_passes_over_a_table_that_is_gone(connection, run):
    await connection.execute("CREATE TABLE items (id integer PRIMARY KEY); CREATE TABLE other (id integer PRIMARY KEY)")
    await defer(connection, run.id, await read_tables(connection))
    await load_into(connection, run, "items", "other")
    await connection.execute("DROP TABLE other")
    await ledger.restart(connection, run.id)
    assert await rows_in(connection, "items") == [0]
    assert len(await schema_of(connection)) == 1
    assert await pending(connection, run.id) == ()


async def test_restart_empties_a_partitioned_table(connection, run):
    await connection.execute("""
        CREATE TABLE parted (id integer) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parted DEFAULT""")
    await load_into(connection, run, "parted")
    await ledger.restart(connection, run.id)
    await ledger.restart(connection, run.id)
    assert await rows_in(connection, "part") == [0]


async def schema_of(connection) -> list[str]:
    return await connection.fetchval("""
        SELECT coalesce(array_agg(d ORDER BY d), '{}') FROM (
            SELECT conname || pg_get_constraintdef(oid) || convalidated FROM pg_constraint
             WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
            UNION ALL
            SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
               AND indexname NOT IN (SELECT conname FROM pg_constraint)) AS all_of_it (d)""")
