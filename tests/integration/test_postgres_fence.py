"""The fence: no write gets through, reads do, and whoever was writing is waited for."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import asyncpg
import pytest

from pgferry.errors import Transient
from pgferry.live.model import Capture, CapturedTable, Live
from pgferry.live.pairs import live_tables
from pgferry.pairing import pair_tables
from pgferry.postgres import fence as fences
from pgferry.postgres import ledger, patience
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.connection import connect
from pgferry.postgres.fence import PASS, fence, is_fenced, unfence
from pgferry.quoting import quote
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only

NAMES = ("t", "u", """O'Hara "x".%s""")
MESSAGE = "it's 100% SQLite's turn \\ again"
WRITES = (
    "INSERT INTO t VALUES (5)",
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
    "UPDATE t SET id = id",
    "UPDATE t SET id = 1 WHERE false",
    "DELETE FROM t WHERE id = 99",
    "TRUNCATE t",
    "TRUNCATE u CASCADE",
    "COPY t FROM PROGRAM 'echo 9'",
    "WITH w AS (INSERT INTO t VALUES (6) RETURNING id) SELECT * FROM w",
    "MERGE INTO t USING (VALUES (9)) AS s (id) ON s.id = t.id WHEN NOT MATCHED THEN INSERT VALUES (s.id)",
)


@pytest.fixture
async def live(connection, tmp_path) -> Live:
    path = tmp_path / "a.db"
    schema = "; ".join(f"CREATE TABLE {quote(name)} (id integer PRIMARY KEY)" for name in NAMES)
    with closing(sqlite3.connect(path)) as source:
        source.executescript(schema)
    await connection.execute(f"{schema}; INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (1)")
    await ledger.install(connection)
    with closing(open_read_only(path)) as source:
        catalog = read_catalog(source)
    capture = Capture("", tuple(CapturedTable(n, t.name, "rowid", (), "") for n, t in enumerate(catalog.tables)), 0)
    pairs = pair_tables(catalog, await read_tables(connection), Rules()).pairs
    return Live(1, str(path), "target", live_tables(pairs, capture), capture, {}, frozenset())


@pytest.fixture
async def other(database_url):
    opened = await connect(database_url, application_name="the application")
    try:
        yield opened
    finally:
        await opened.close()


@pytest.mark.parametrize("write", WRITES)
async def test_every_write_raises_and_reads_work(connection, other, live, write):
    if write.startswith("MERGE") and connection.get_server_version().major < 15:
        pytest.skip("MERGE is new in PostgreSQL 15")
    await fence(connection, live, MESSAGE)
    assert await is_fenced(connection)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
        await other.execute(write)
    assert str(caught.value).partition("\n")[0] == f"pgferry: {MESSAGE}"
    assert await other.fetchval("SELECT count(*) FROM t") == 2
    await unfence(connection, live)
    assert not await is_fenced(connection)
    await other.execute(write)


async def test_every_table_is_fenced_whatever_its_name_and_others_are_not(connection, other, live):
    await connection.execute("CREATE TABLE elsewhere (id integer)")
    await fence(connection, live, "no")
    for name in NAMES:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await other.execute(f"INSERT INTO {quote(name)} VALUES (7)")
    await other.execute("INSERT INTO elsewhere VALUES (7)")


async def test_replication_and_cascades_do_not_get_through(connection, other, live):
    await connection.execute("CREATE TABLE parent (id integer PRIMARY KEY); INSERT INTO parent VALUES (1), (2)")
    await connection.execute("ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES parent ON DELETE CASCADE")
    await fence(connection, live, "no")
    for write in ("DELETE FROM parent", "TRUNCATE parent CASCADE"):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await other.execute(write)
    await other.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await other.execute("INSERT INTO t VALUES (5)")
    assert await other.fetchval("SELECT count(*) FROM parent JOIN t USING (id)") == 2


async def test_a_session_that_means_to_passes(connection, other, live):
    await fence(connection, live, "no")
    await connection.execute(PASS)
    await connection.execute("INSERT INTO t VALUES (5)")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await other.execute("SET pgferry.pass = off; INSERT INTO t VALUES (6)")


async def test_partitions_are_fenced_by_their_own_names_too(connection, other, live):
    await connection.execute("""
        DROP TABLE t; CREATE TABLE t (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF t DEFAULT""")
    await fence(connection, live, "no")
    for name in ("t", "part"):
        for write in (f"INSERT INTO {name} VALUES (1)", f"TRUNCATE {name}"):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await other.execute(write)
    await unfence(connection, live)
    await other.execute("INSERT INTO part VALUES (1)")


async def test_twice_is_as_good_as_once_and_the_last_message_holds(connection, other, live):
    await fence(connection, live, "first")
    await fence(connection, live, "second")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError, match="pgferry: second"):
        await other.execute("DELETE FROM t")
    await unfence(connection, live)
    await unfence(connection, live)
    await other.execute("DELETE FROM t")
    left = "SELECT count(*) FROM pg_trigger WHERE tgname = '_pgferry_fence'"
    assert await connection.fetchval(left) == 0
    assert await connection.fetchval("SELECT to_regproc('pgferry.fence')") is None


async def test_it_waits_for_a_transaction_that_has_written(connection, other, live):
    await other.execute("BEGIN; INSERT INTO u VALUES (5)")
    task = asyncio.create_task(fence(connection, live, "no"))
    await asyncio.sleep(0.7)  # longer than one attempt
    assert not task.done()
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await other.execute("DELETE FROM t")  # t was fenced first
    await other.execute("ROLLBACK")
    await asyncio.wait_for(task, 5)


async def test_a_transaction_that_began_before_and_has_not_written_yet_is_kept_out(connection, other, live):
    await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await other.execute("SELECT * FROM t")
    await fence(connection, live, "no")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await other.execute("INSERT INTO t VALUES (9)")
    await other.execute("ROLLBACK")


async def test_writers_of_many_tables_never_deadlock_with_it(connection, database_url, live):
    stop = asyncio.Event()
    orders = enumerate((NAMES, NAMES[::-1]))
    tasks = [asyncio.create_task(write_on(database_url, stop, order, place)) for place, order in orders]
    await asyncio.sleep(0.3)
    for _ in range(5):
        await fence(connection, live, "no")
        await unfence(connection, live)
        await asyncio.sleep(0.05)
    stop.set()
    written, fenced = (sum(counts) for counts in zip(*await asyncio.gather(*tasks), strict=True))
    assert written > 0
    assert fenced > 0


async def write_on(url, stop, order, place) -> tuple[int, int]:
    """Write to all tables in one transaction, again and again; any error but the fence's own fails the test."""
    writer = await connect(url)
    written = fenced = 0
    try:
        while not stop.is_set():
            try:
                async with writer.transaction():
                    for name in order:
                        await writer.execute(f"INSERT INTO {quote(name)} VALUES ({100 + 2 * written + place})")
                written += 1
            except asyncpg.ReadOnlySQLTransactionError:
                fenced += 1
                await asyncio.sleep(0.01)
    finally:
        await writer.close()
    return written, fenced


async def test_a_table_that_stays_locked_is_named_with_its_holder(connection, other, live, monkeypatch):
    monkeypatch.setattr(fences, "patiently", impatient)
    await other.execute("BEGIN; INSERT INTO u VALUES (5)")
    with pytest.raises(Transient, match=r"Table public\.u was locked .* by server process \d+ \(the application\)"):
        await fence(connection, live, "no")
    await other.execute("COMMIT")
    await fence(connection, live, "no")


async def test_unfencing_frees_writers_at_once_though_a_reader_is_in_the_way(connection, other, live, monkeypatch):
    monkeypatch.setattr(fences, "patiently", impatient)
    await fence(connection, live, "no")
    await other.execute("BEGIN; SELECT * FROM t")
    with pytest.raises(Transient, match=r"public\.t was locked"):
        await unfence(connection, live)
    assert not await is_fenced(connection)
    await other.execute("INSERT INTO t VALUES (5); COMMIT")
    await unfence(connection, live)
    assert await connection.fetchval("SELECT to_regproc('pgferry.fence')") is None


async def impatient(conn, work, relation) -> None:
    await patience.patiently(conn, work, relation, patience=0.1)


async def test_it_takes_no_part_in_a_transaction(connection, live):
    async with connection.transaction():
        for call in (fence(connection, live, "no"), unfence(connection, live)):
            with pytest.raises(RuntimeError, match="inside a transaction"):
                await call


SLOW = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
VACUUMED = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 't'::regclass"


@pytest.fixture
async def eager_autovacuum(connection):
    async def set_by(statement: str) -> None:
        await connection.execute(statement)
        await connection.execute("SELECT pg_reload_conf()")

    await set_by("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    yield
    await set_by("ALTER SYSTEM RESET autovacuum_naptime")


async def test_an_autovacuum_gives_way(live, connection, eager_autovacuum) -> None:
    # Slowed down, it would go on for minutes.
    await connection.execute("INSERT INTO t SELECT n FROM generate_series(10, 50000) AS n")
    await connection.execute(
        f"ALTER TABLE t SET ({SLOW}, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)"
    )
    await connection.execute("DELETE FROM t WHERE id % 2 = 0")
    async with asyncio.timeout(120):
        while not await connection.fetchval(VACUUMED):
            await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        await fence(connection, live, MESSAGE)
    assert await is_fenced(connection)
