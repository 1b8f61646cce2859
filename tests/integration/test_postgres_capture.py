"""While PostgreSQL is in front, the key of every row that is written is logged, whatever wrote it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import asyncpg
import pytest

from pgferry.errors import Permanent, Transient
from pgferry.live.model import HIDDEN, Capture, CapturedTable, Live
from pgferry.live.pairs import add_hidden_columns, live_tables
from pgferry.pairing import pair_tables
from pgferry.postgres import capture, ledger, patience
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.connection import connect
from pgferry.quoting import quote
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only

TABLE = "CREATE TABLE t (id integer PRIMARY KEY, n text)"


async def make_live(connection, path, sqlite_schema: str, target_schema: str | None = None, numbers=()) -> Live:
    """Make the schema on both sides, and tell how its tables pair; nothing is installed in the file."""
    with closing(sqlite3.connect(path)) as source:
        source.executescript(sqlite_schema)
    await connection.execute(target_schema or sqlite_schema)
    await ledger.install(connection)
    return await read_live(connection, path, numbers)


async def read_live(connection, path, numbers=()) -> Live:
    with closing(open_read_only(path)) as source:
        catalog = read_catalog(source)
    captured = tuple(
        CapturedTable(
            number=numbers[place] if numbers else place,
            name=table.name,
            rowid=table.rowid_name,
            key=() if table.rowid_column else table.key,
            fingerprint="",
        )
        for place, table in enumerate(catalog.tables)
    )
    rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'")
    schemas = [row["nspname"] for row in rows]
    pairs = pair_tables(catalog, await read_tables(connection, schemas), Rules()).pairs
    tables = live_tables(pairs, Capture("", captured, 0))
    await add_hidden_columns(connection, tables)
    return Live(1, str(path), "target", tables, Capture("", captured, 0), catalog.sequences, frozenset())


@pytest.fixture
async def live(connection, tmp_path) -> Live:
    made = await make_live(connection, tmp_path / "a.db", TABLE)
    await capture.install(connection, made)
    return made


async def logged(connection, number: int = 0) -> list[tuple]:
    """What the outbox holds, in the order of its ids: keys, or `whole`."""
    rows = await connection.fetch(f"SELECT * FROM pgferry.outbox_{number} ORDER BY id")
    return ["whole" if row["whole"] else tuple(row.values())[2:] for row in rows]


# ---------------------------------------------------------------- what is logged


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("INSERT INTO t VALUES (7, 'x'), (8, 'y')", [(7,), (8,)]),
        ("UPDATE t SET n = 'z' WHERE id = 2", [(2,)]),
        ("UPDATE t SET n = n", [(1,), (2,)]),
        ("UPDATE t SET id = id + 10 WHERE id = 1", [(1,), (11,)]),
        ("DELETE FROM t", [(1,), (2,)]),
        ("INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET n = 'again'", [(1,)]),
        ("INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING", []),
        ("TRUNCATE t", ["whole"]),
        ("UPDATE t SET n = 'z' WHERE id = 99", []),
        ("WITH gone AS (DELETE FROM t WHERE id = 2 RETURNING n) INSERT INTO t SELECT 3, n FROM gone", [(2,), (3,)]),
    ],
)
async def test_every_way_of_writing_logs_the_keys(connection, tmp_path, statement, keys):
    live = await make_live(connection, tmp_path / "a.db", TABLE)
    await connection.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await capture.install(connection, live)
    await connection.execute(statement)
    assert sorted(await logged(connection), key=str) == sorted(keys, key=str)
    assert await capture.pending(connection, live) == ({"t": len(keys)} if keys else {})


async def test_merge_logs_what_it_did(connection, live):
    if connection.get_server_version().major < 15:
        pytest.skip("MERGE is new in PostgreSQL 15")
    await connection.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await connection.execute("DELETE FROM pgferry.outbox_0")
    await connection.execute("""
        MERGE INTO t USING (VALUES (1, 'new'), (2, NULL), (3, 'made')) AS s (id, n) ON s.id = t.id
         WHEN MATCHED AND s.n IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.n
         WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.n)""")
    assert sorted(await logged(connection)) == [(1,), (2,), (3,)]


async def test_copy_logs_every_row(connection, live):
    await connection.copy_records_to_table("t", records=[(number, "x") for number in range(1000)])
    assert await logged(connection) == [(number,) for number in range(1000)]


async def test_cascades_and_triggers_of_the_application_are_logged(connection, tmp_path):
    schema = """
        CREATE TABLE p (id integer PRIMARY KEY);
        CREATE TABLE c (id integer PRIMARY KEY, p integer REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE log (id integer PRIMARY KEY, what text);"""
    live = await make_live(connection, tmp_path / "a.db", schema)
    await connection.execute("""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO log VALUES (OLD.id + 100, 'x'); RETURN OLD; END $$;
        CREATE TRIGGER z AFTER DELETE ON c FOR EACH ROW EXECUTE FUNCTION note();
        INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (10, 1), (11, 1), (20, 2)""")
    await capture.install(connection, live)
    await connection.execute("DELETE FROM p WHERE id = 1; UPDATE p SET id = 5 WHERE id = 2")
    assert await logged(connection, 0) == [(1,), (2,), (5,)]
    assert await logged(connection, 1) == [(10,), (11,), (20,)]
    assert await logged(connection, 2) == [(110,), (111,)]
    await connection.execute("TRUNCATE p CASCADE")
    assert [await logged(connection, number) for number in (0, 1)] == [
        [(1,), (2,), (5,), "whole"],
        [(10,), (11,), (20,), "whole"],
    ]


async def test_the_key_is_the_one_that_a_trigger_before_has_made(connection, live):
    await connection.execute("""
        CREATE FUNCTION shift() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.id := NEW.id + 1000; RETURN NEW; END $$;
        CREATE TRIGGER b BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION shift();
        INSERT INTO t VALUES (1, 'x')""")
    assert await logged(connection) == [(1001,)]


async def test_what_is_rolled_back_is_not_logged(connection, live):
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1, 'x')")
            raise ZeroDivisionError
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (2, 'x'); SAVEPOINT s; INSERT INTO t VALUES (3, 'x')")
        await connection.execute("ROLLBACK TO SAVEPOINT s; INSERT INTO t VALUES (4, 'x')")
    assert await logged(connection) == [(2,), (4,)]


async def test_entries_may_commit_out_of_order(connection, database_url, live):
    other = await connect(database_url)
    try:
        slow = connection.transaction()
        await slow.start()
        await connection.execute("INSERT INTO t VALUES (1, 'slow')")
        await other.execute("INSERT INTO t VALUES (2, 'quick')")
        assert await logged(other) == [(2,)]
        await slow.commit()
        rows = await other.fetch("SELECT id, k0 FROM pgferry.outbox_0 ORDER BY id")
        assert [tuple(row) for row in rows] == [(1, 1), (2, 2)]
    finally:
        await other.close()


async def test_a_role_without_rights_on_pgferry_writes_as_before(connection, database_url, tmp_path):
    live = await make_live(
        connection, tmp_path / "a.db", "CREATE TABLE t (id integer PRIMARY KEY, n text); CREATE TABLE bare (n text)"
    )
    await capture.install(connection, live)
    role = f"app_{database_url.database[-8:]}"
    await connection.execute(f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t, bare TO {role}")
    try:
        await connection.execute(f"SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM pgferry.outbox_0")
        # Names of its own that a careless function would take for the system's.
        await connection.execute("CREATE FUNCTION pg_temp.now() RETURNS integer LANGUAGE sql AS 'SELECT 1/0'")
        await connection.execute("SET search_path = pg_temp; CREATE TEMP TABLE outbox_0 (k0 integer)")
        await connection.execute(
            "INSERT INTO public.t VALUES (1, 'x'); UPDATE public.t SET id = 2; INSERT INTO public.bare VALUES ('b')"
        )
        await connection.execute("TRUNCATE public.t")
    finally:
        await connection.execute(f"RESET ROLE; RESET search_path; DROP OWNED BY {role}; DROP ROLE {role}")
    assert await logged(connection) == [(1,), (1,), (2,), "whole"]
    assert await logged(connection, 1) == [(1,)]


async def test_replicated_and_restored_rows_are_logged(connection, live):
    await connection.execute("SET session_replication_role = replica; INSERT INTO t VALUES (1, 'x'); TRUNCATE t")
    assert await logged(connection) == [(1,), "whole"]


# ---------------------------------------------------------------- keys of every kind


async def test_names_that_need_quoting(connection, tmp_path):
    table, column = """O'Hara "x".$pgferry$""", """new.k'0"$$\\"""
    schema = f"CREATE TABLE {quote(table)} ({quote(column)} integer, OLD text, PRIMARY KEY ({quote(column)}, OLD))"
    live = await make_live(connection, tmp_path / "a.db", schema, schema.replace("OLD", '"OLD"'))
    await capture.install(connection, live)
    await connection.execute(f"INSERT INTO {quote(table)} VALUES (1, 'a'); UPDATE {quote(table)} SET \"OLD\" = 'b'")
    assert await logged(connection) == [(1, "a"), (1, "a"), (1, "b")]
    await capture.check(connection, live)
    assert len(await capture.remove(connection, live)) == 4


async def test_key_columns_are_typed_as_the_target_s(connection, tmp_path):
    await connection.execute("""
        CREATE SCHEMA other; CREATE TYPE other.mood AS ENUM ('sad', 'glad');
        CREATE DOMAIN other.short AS varchar(5) COLLATE "C" NOT NULL CHECK (VALUE <> 'no');
        CREATE COLLATION other."loose one" FROM "POSIX" """)
    live = await make_live(
        connection,
        tmp_path / "a.db",
        "CREATE TABLE t (a text, b text, c text, d text, e blob, f text, PRIMARY KEY (c, b, a, d, e, f)) WITHOUT ROWID",
        """CREATE TABLE other.t (a other.mood, b other.short, c text COLLATE other."loose one", d timestamptz(3),
                                 e bytea, f numeric(10, 2), PRIMARY KEY (c, b, a, d, e, f))""",
    )
    await capture.install(connection, live)
    await connection.execute(
        "INSERT INTO other.t VALUES ('sad', 'x', 'Ä', '2024-05-06 07:08:09.123456+02', '\\x00ff', 1.5)"
    )
    await connection.execute("UPDATE other.t SET c = 'ä'; TRUNCATE other.t")
    columns = await connection.fetch("""
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), c.collname
          FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
         WHERE attrelid = 'pgferry.outbox_0'::regclass AND attnum > 2 ORDER BY attnum""")
    assert [tuple(row) for row in columns] == [
        ("k0", "text", "loose one"),
        ("k1", "character varying(5)", "C"),
        ("k2", "other.mood", None),
        ("k3", "timestamp(3) with time zone", None),
        ("k4", "bytea", None),
        ("k5", "numeric(10,2)", None),
    ]
    entries = await logged(connection)
    assert [entry if entry == "whole" else entry[0] for entry in entries] == ["Ä", "Ä", "ä", "whole"]
    await capture.check(connection, live)


async def test_a_hidden_column_fills_itself_past_every_rowid(connection, tmp_path):
    live = await make_live(connection, tmp_path / "a.db", "CREATE TABLE t (n text)")
    await connection.execute(f"INSERT INTO t (n, {HIDDEN}) VALUES ('a', 5), ('b', 7)")
    await connection.execute(
        "INSERT INTO pgferry.quarantine (run_id, source_table, key, column_name, storage_class, value, reason)"
        " VALUES (1, 't', '[41]', 'n', 'text', '', ''), (1, 'u', '[99]', 'n', 'text', '', '')"
    )
    await capture.install(connection, live)
    await connection.execute(
        "INSERT INTO t VALUES ('c'); UPDATE t SET n = 'B' WHERE n = 'b'; DELETE FROM t WHERE n = 'a'"
    )
    assert await logged(connection) == [(42,), (7,), (5,)]
    await capture.install(connection, live)
    await connection.execute("INSERT INTO t VALUES ('d')")
    assert (await logged(connection))[-1] == (43,)
    await connection.execute(f"ALTER TABLE t ALTER COLUMN {HIDDEN} DROP DEFAULT")
    with pytest.raises(Permanent, match="lost its default"):
        await capture.check(connection, live)


# ---------------------------------------------------------------- partitions

PARTITIONED = """
    CREATE TABLE t (id integer, n text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);
    CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE) PARTITION BY RANGE (id);
    CREATE TABLE higher PARTITION OF high FOR VALUES FROM (100) TO (1000)"""


@pytest.fixture
async def partitioned(connection, tmp_path) -> Live:
    made = await make_live(connection, tmp_path / "a.db", TABLE, PARTITIONED)
    await capture.install(connection, made)
    return made


async def test_partitions_are_captured_by_whichever_name_they_are_written(connection, partitioned):
    await connection.execute("INSERT INTO t VALUES (1, 'x'); INSERT INTO higher VALUES (150, 'y')")
    await connection.execute("UPDATE t SET id = 160 WHERE id = 1; TRUNCATE low")
    entries = await logged(connection)
    assert entries[:2] == [(1,), (150,)]
    assert {(1,), (160,)} <= set(entries[2:])
    assert entries[-1] == "whole"
    await capture.check(connection, partitioned)


async def test_partitions_that_come_or_go_are_noticed_and_the_table_is_carried_whole(connection, partitioned):
    await connection.execute("CREATE TABLE loose (id integer NOT NULL, n text); INSERT INTO loose VALUES (2000, 'z')")
    await connection.execute("ALTER TABLE high ATTACH PARTITION loose FOR VALUES FROM (1000) TO (3000)")
    with pytest.raises(Permanent, match=r"partitions of .* are others"):
        await capture.check(connection, partitioned)
    await capture.install(connection, partitioned)
    await capture.check(connection, partitioned)
    assert await logged(connection) == ["whole"]
    await connection.execute("INSERT INTO loose VALUES (2001, 'z'); TRUNCATE loose")
    assert await logged(connection) == ["whole", (2001,), "whole"]
    await connection.execute("ALTER TABLE t DETACH PARTITION low")
    with pytest.raises(Permanent, match=r"partitions of .* are others"):
        await capture.check(connection, partitioned)


async def test_a_partition_s_disabled_trigger_is_noticed(connection, partitioned):
    await connection.execute("ALTER TABLE higher DISABLE TRIGGER _pgferry_capture")
    with pytest.raises(Permanent, match=r"trigger _pgferry_capture of public\.higher is missing or disabled"):
        await capture.check(connection, partitioned)
    await capture.install(connection, partitioned)
    await capture.check(connection, partitioned)
    assert len(await capture.remove(connection, partitioned)) == 1 + 4 + 2
    assert not await capture.installed(connection)


# ---------------------------------------------------------------- installing, checking, removing


async def test_installing_again_keeps_the_entries(connection, live):
    await connection.execute("INSERT INTO t VALUES (1, 'x')")
    await capture.install(connection, live)
    assert await logged(connection) == [(1,)]
    assert await capture.installed(connection)
    await connection.execute("INSERT INTO t VALUES (2, 'x')")
    assert await logged(connection) == [(1,), (2,)]


async def test_installing_is_all_or_nothing(connection, tmp_path):
    live = await make_live(connection, tmp_path / "a.db", TABLE + "; CREATE TABLE u (id integer PRIMARY KEY)")
    await connection.execute("DROP TABLE u")
    with pytest.raises(Permanent, match=r'Table "public"\."u" is gone'):
        await capture.install(connection, live)
    assert not await capture.installed(connection)


async def test_installing_waits_for_writers_without_a_deadlock(connection, database_url, tmp_path, monkeypatch):
    live = await make_live(connection, tmp_path / "a.db", TABLE + "; CREATE TABLE u (id integer PRIMARY KEY)")
    other = await connect(database_url)
    try:
        await other.execute("BEGIN; INSERT INTO u VALUES (1)")
        task = asyncio.create_task(capture.install(connection, live))
        await asyncio.sleep(0.2)  # it holds t, and waits for u
        await asyncio.wait_for(other.execute("INSERT INTO t VALUES (1, 'x'); COMMIT"), 5)
        await task
        await other.execute("BEGIN; INSERT INTO u VALUES (2)")
        monkeypatch.setattr(patience, "PATIENCE", 0.1)
        with pytest.raises(Transient, match=r"server process \d+ \(pgferry\)"):
            await patience.patiently(connection, lambda: lock(connection), '"public"."u"', patience=0.1)
    finally:
        await other.close()


async def lock(connection) -> None:
    await connection.execute("LOCK TABLE u IN SHARE ROW EXCLUSIVE MODE")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DROP TRIGGER _pgferry_capture ON t", r"trigger _pgferry_capture of public\.t is missing"),
        ("ALTER TABLE t DISABLE TRIGGER ALL", r"trigger _pgferry_capture_all of public\.t is missing or disabled"),
        ("ALTER TABLE t ENABLE REPLICA TRIGGER _pgferry_capture", "missing or disabled"),
        ("DROP TABLE pgferry.outbox_0", r"outbox pgferry\.outbox_0 .* is missing"),
        ("DROP FUNCTION pgferry.capture_0 CASCADE", r"function pgferry\.capture_0\(\) .* is missing or altered"),
        ("ALTER FUNCTION pgferry.capture_0 SECURITY INVOKER", "is missing or altered"),
        (
            "CREATE OR REPLACE FUNCTION pgferry.capture_0() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " AS 'BEGIN RETURN NULL; END'",
            "is missing or altered",
        ),
        ("ALTER TABLE t ADD more text", r'column "public"\."t"\."more" is new'),
        ("ALTER TABLE t DROP n", r'column "public"\."t"\."n" is gone'),
        ("ALTER TABLE t RENAME n TO m", r'"n" is gone; column "public"\."t"\."m" is new'),
        ("ALTER TABLE t ALTER id TYPE bigint", r'column "public"\."t"\."id" was integer and is bigint'),
        ("DROP TABLE t", r'table "public"\."t" is gone'),
        ("ALTER TABLE t RENAME TO u", r'table "public"\."t" is gone'),
        ("DROP TABLE t; CREATE TABLE t (id integer PRIMARY KEY, n text)", "is missing or disabled"),
    ],
)
async def test_what_is_missing_disabled_or_altered_is_named(connection, live, change, message):
    await capture.check(connection, live)
    await connection.execute(change)
    with pytest.raises(Permanent, match=message):
        await capture.check(connection, live)


async def test_installing_again_mends_and_carries_a_table_whose_key_changed_whole(connection, tmp_path, live):
    await connection.execute("INSERT INTO t VALUES (1, 'x'); ALTER TABLE t ALTER id TYPE bigint")
    again = await read_live(connection, tmp_path / "a.db")
    await capture.install(connection, again)
    await capture.check(connection, again)
    assert await logged(connection) == ["whole"]
    await connection.execute("INSERT INTO t VALUES (5000000000, 'x'); DROP TRIGGER _pgferry_capture ON t")
    await capture.install(connection, again)
    await connection.execute("INSERT INTO t VALUES (5000000001, 'x')")
    assert await logged(connection) == ["whole", (5000000000,), (5000000001,)]


async def test_removing_leaves_nothing_and_says_what_it_was(connection, tmp_path):
    live = await make_live(connection, tmp_path / "a.db", TABLE + "; CREATE TABLE bare (n text)", numbers=(3, 14))
    before = await objects(connection)
    await capture.install(connection, live)
    made = await objects(connection)
    named = await capture.objects(connection, live)
    assert await objects(connection) == made
    assert await capture.remove(connection, live) == named
    assert named == (
        "trigger _pgferry_capture on public.bare",
        "trigger _pgferry_capture_all on public.bare",
        "trigger _pgferry_capture on public.t",
        "trigger _pgferry_capture_all on public.t",
        "default of public.bare._pgferry_rowid",
        "sequence pgferry.rowid_14",
        "function pgferry.capture_14",
        "function pgferry.capture_3",
        "table pgferry.outbox_14",
        "table pgferry.outbox_3",
    )
    assert await objects(connection) == before != made
    assert await capture.remove(connection, live) == ()
    assert not await capture.installed(connection)
    assert await capture.pending(connection, live) == {}


async def objects(connection) -> list[str]:
    rows = await connection.fetch("""
        SELECT 'c ' || relname FROM pg_class WHERE relnamespace = ANY ('{pgferry,public}'::regnamespace[])
         UNION SELECT 'f ' || proname FROM pg_proc WHERE pronamespace = ANY ('{pgferry,public}'::regnamespace[])
         UNION SELECT 't ' || tgname || tgrelid FROM pg_trigger WHERE NOT tgisinternal
         UNION SELECT 'd ' || adrelid FROM pg_attrdef""")
    return sorted(row[0] for row in rows)
