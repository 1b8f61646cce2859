"""Indexes and constraints come back exactly as they were, wherever the work is cut off.

What is there is asked here by queries of the test's own, not by those of the module.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import asyncpg
import pytest

from pgferry.errors import Permanent
from pgferry.postgres.catalog import server_version
from pgferry.postgres.connection import connect
from pgferry.postgres.deferred import defer, pending, rebuild_one, recorded
from pgferry.postgres.definitions import Kind, Stage
from tests.integration.deferred_objects import (
    MEMORY,
    RICH,
    SMALL,
    begin,
    everything,
    objects,
    rebuild_all,
    tables_of,
)

# ---------------------------------------------------------------- there and back


async def test_every_definition_comes_back_exactly(connection):
    await connection.execute(RICH)
    before = await everything(connection)
    run_id = await begin(connection)
    steps = await defer(connection, run_id, await tables_of(connection, "items", "bookings"))
    assert [step.kept for step in steps if step.kept] == []
    assert await objects(connection) == 1, "only the index of the table outside stays"
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before
    assert await pending(connection, run_id) == ()


async def test_the_session_s_search_path_makes_no_difference_and_stays(connection):
    await connection.execute(RICH)
    before = await everything(connection)
    await connection.execute("SET search_path = tools, public")
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    assert await connection.fetchval("SHOW search_path") == "tools, public"
    await connection.execute("SET search_path = pg_temp")
    await rebuild_all(connection, run_id)
    assert await connection.fetchval("SHOW search_path") == "pg_temp"
    await connection.execute("SET search_path = public")
    assert await everything(connection) == before


async def test_checks_and_not_null_stay_during_the_load(connection):
    await connection.execute(RICH)
    await defer(connection, await begin(connection), await tables_of(connection))
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("INSERT INTO items (name, a, b, price) VALUES ('x', 1, 1, -1)")
    with pytest.raises(asyncpg.NotNullViolationError):
        await connection.execute("INSERT INTO items (id, name, a, b) VALUES (NULL, 'x', 1, 1)")


async def test_nulls_not_distinct_is_kept(connection):
    if (await server_version(connection))[0] < 15:
        pytest.skip("NULLS NOT DISTINCT came with PostgreSQL 15")
    await connection.execute("""
        SET search_path = public; CREATE TABLE t (a integer, b integer, UNIQUE NULLS NOT DISTINCT (a));
        CREATE UNIQUE INDEX t_b ON t (b) NULLS NOT DISTINCT""")
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO t VALUES (NULL, 1), (NULL, 2)")


async def test_temporal_keys_and_constraints_that_are_not_enforced_come_back(connection):
    if (await server_version(connection))[0] < 18:
        pytest.skip("they came with PostgreSQL 18")
    await connection.execute("""
        SET search_path = public;
        CREATE TABLE p (room int4range, at daterange, PRIMARY KEY (room, at WITHOUT OVERLAPS));
        CREATE TABLE c (room int4range, at daterange, FOREIGN KEY (room, PERIOD at) REFERENCES p (room, PERIOD at));
        CREATE TABLE q (id integer PRIMARY KEY); CREATE TABLE d (id integer REFERENCES q NOT ENFORCED)""")
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    assert await objects(connection) == 0
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def test_the_tablespace_is_kept(connection):
    space = f"pgferry_test_{uuid4().hex[:8]}"
    try:
        await connection.execute("SET allow_in_place_tablespaces = on")
        await connection.execute(f"CREATE TABLESPACE {space} LOCATION ''")
    except asyncpg.PostgresError as error:
        pytest.skip(f"no tablespace can be made here: {error}")
    try:
        await connection.execute(f"""
            SET search_path = public; CREATE TABLE t (id integer PRIMARY KEY USING INDEX TABLESPACE {space}, n integer);
            CREATE INDEX t_n ON t (n) TABLESPACE {space} WHERE n > 0; CREATE INDEX t_here ON t (n)""")
        before = await everything(connection)
        run_id = await begin(connection)
        await defer(connection, run_id, await tables_of(connection))
        await connection.execute(f"SET default_tablespace = {space}")
        await rebuild_all(connection, run_id)
        assert await everything(connection) == before
        assert len([line for line in before if space in line]) == 2
    finally:
        await connection.execute("DROP TABLE IF EXISTS t")
        await connection.execute(f"DROP TABLESPACE {space}")


# ---------------------------------------------------------------- what stays


async def test_what_a_view_depends_on_stays_and_is_reported(connection):
    await connection.execute(SMALL + "CREATE VIEW v AS SELECT p.*, count(*) FROM p GROUP BY p.id;")
    before = await everything(connection)
    run_id = await begin(connection)
    steps = await defer(connection, run_id, await tables_of(connection))
    assert [(step.name, step.kept) for step in steps if step.kept] == [
        ("p_pkey", "view v depends on constraint p_pkey on table p")
    ]
    assert await objects(connection) == 1
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def test_what_was_kept_goes_when_nothing_depends_on_it_any_more(connection):
    await connection.execute(SMALL + "CREATE VIEW v AS SELECT p.*, count(*) FROM p GROUP BY p.id;")
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("DROP VIEW v")
    steps = await defer(connection, run_id, await tables_of(connection))
    assert [step for step in steps if step.kept] == []
    assert await objects(connection) == 0
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def test_partitioned_tables_keep_theirs(connection):
    await connection.execute(
        SMALL
        + """
        CREATE TABLE parted (id integer PRIMARY KEY, p integer REFERENCES p (n)) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE INDEX parted_p ON parted (p);
        CREATE TABLE points (id integer REFERENCES parted);"""
    )
    before = await everything(connection)
    run_id = await begin(connection)
    steps = await defer(connection, run_id, await tables_of(connection))
    kept = {step.name: step.kept for step in steps if step.kept}
    assert kept.keys() == {"parted_pkey", "parted_p", "parted_p_fkey", "points_id_fkey", "p_n_key"}
    assert kept["parted_p"] == "its table is partitioned"
    assert kept["parted_p_fkey"] == "a partitioned table has part in it"
    assert "depends on" in kept["p_n_key"]
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def test_a_table_of_another_owner_keeps_what_it_has(connection):
    role = f"pgferry_test_{uuid4().hex[:8]}"
    await connection.execute(SMALL)
    before = await everything(connection)
    run_id = await begin(connection)
    await connection.execute(f"""
        CREATE ROLE {role}; GRANT ALL ON ALL TABLES IN SCHEMA pgferry TO {role};
        GRANT ALL ON SCHEMA public, pgferry TO {role}; ALTER TABLE c OWNER TO {role}""")
    try:
        await connection.execute(f"SET ROLE {role}")
        steps = await defer(connection, run_id, await tables_of(connection, "p", "c"))
        assert "must be owner" in {step.name: step.kept for step in steps}["p_n"]
    finally:
        await connection.execute(
            f"RESET ROLE; ALTER TABLE c OWNER TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
        )
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


# ---------------------------------------------------------------- again and again


async def test_a_resumed_run_drops_nothing_twice(connection):
    await connection.execute(RICH)
    before = await everything(connection)
    run_id = await begin(connection)
    tables = await tables_of(connection)
    first = await defer(connection, run_id, tables)
    assert await defer(connection, run_id, tables) == first
    for step in (await pending(connection, run_id))[:5]:
        await rebuild_one(connection, step, memory=MEMORY)
    built = await objects(connection)
    assert built >= 5
    await defer(connection, run_id, tables)
    assert await objects(connection) == built
    await rebuild_all(connection, run_id)
    await defer(connection, run_id, tables)
    for step in first:
        await rebuild_one(connection, step, memory=MEMORY)
    assert await everything(connection) == before


async def test_what_a_person_built_by_hand_is_taken_as_it_is(connection):
    await connection.execute(RICH)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    for step in await pending(connection, run_id):
        if step.kind is not Kind.VALIDATION:
            await connection.execute(step.definition)
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def test_another_object_of_that_name_is_not_taken_for_it(connection):
    await connection.execute(SMALL)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("CREATE INDEX p_n ON p (id)")
    step = next(step for step in await pending(connection, run_id) if step.name == "p_n")
    with pytest.raises(Permanent, match=r"index p_n of public\.p cannot be built: another object"):
        await rebuild_one(connection, step, memory=MEMORY)
    await connection.execute("DROP INDEX p_n")
    await rebuild_one(connection, step, memory=MEMORY)
    assert "another object" not in str([each.error for each in await recorded(connection, run_id)])


async def test_the_key_is_known_while_it_waits(connection):
    await connection.execute(RICH)
    before = {table.name: table.key for table in await tables_of(connection)}
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    assert {table.name: table.key for table in await tables_of(connection)} == before
    assert before["items"] == ("id",)


async def test_indexes_of_one_table_are_built_at_the_same_time(connection, database_url):
    await connection.execute(RICH)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    several = [await connect(database_url) for _ in range(4)]
    held = several[0].transaction()
    await held.start()
    await several[0].execute("LOCK TABLE items IN SHARE MODE")
    waiting = [step for step in await pending(connection, run_id) if step.stage is Stage.INDEX]
    assert len(waiting) > 6

    async def build(worker):
        while waiting:
            await rebuild_one(worker, waiting.pop(), memory=MEMORY)

    await asyncio.wait_for(asyncio.gather(*(build(worker) for worker in several[1:])), 30)
    await held.rollback()
    await rebuild_all(connection, run_id)
    for worker in several:
        await worker.close()
    assert await everything(connection) == before


async def test_two_that_build_the_same_step_build_it_once(connection, database_url):
    await connection.execute(SMALL)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    second = await connect(database_url)
    for step in await pending(connection, run_id):
        await asyncio.gather(*(rebuild_one(each, step, memory=MEMORY) for each in (connection, second)))
    await second.close()
    assert await everything(connection) == before


# ---------------------------------------------------------------- cut off anywhere


class Fragile(asyncpg.Connection):
    """A connection that is lost before its n-th statement."""

    left = 0

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.terminate()
            raise ConnectionError("lost")

    async def execute(self, *args, **options):
        self._spend()
        return await super().execute(*args, **options)

    async def fetch(self, *args, **options):
        self._spend()
        return await super().fetch(*args, **options)

    async def fetchrow(self, *args, **options):
        self._spend()
        return await super().fetchrow(*args, **options)

    async def fetchval(self, *args, **options):
        self._spend()
        return await super().fetchval(*args, **options)

    async def executemany(self, *args, **options):
        self._spend()
        return await super().executemany(*args, **options)


async def fragile(url, statements: int) -> Fragile:
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    opened = await asyncpg.connect(dsn, connection_class=Fragile)
    opened.left = statements
    return opened


async def test_cut_off_before_any_statement_of_dropping_nothing_is_lost(connection, database_url):
    await connection.execute(SMALL)
    before = await everything(connection)
    tables = await tables_of(connection)
    statements, lost = 0, True
    while lost:
        run_id = await begin(connection, f"source {statements}")
        weak = await fragile(database_url, statements)
        try:
            await defer(weak, run_id, tables)
            lost = False
            await weak.close()
        except (ConnectionError, asyncpg.InterfaceError):
            pass
        await settled(connection)
        # Every object is in the catalog or in the ledger, and going on ends where an undisturbed run ends.
        await defer(connection, run_id, tables)
        assert await objects(connection) == 0
        await rebuild_all(connection, run_id)
        assert await everything(connection) == before, f"after {statements} statements"
        statements += 1
    assert statements > 30


async def test_cut_off_before_any_statement_of_building_all_comes_back(connection, database_url):
    await connection.execute(SMALL)
    before = await everything(connection)
    tables = await tables_of(connection)
    statements, lost = 0, True
    while lost:
        run_id = await begin(connection, f"source {statements}")
        await defer(connection, run_id, tables)
        weak = await fragile(database_url, statements)
        try:
            await rebuild_all(weak, run_id)
            lost = False
            await weak.close()
        except (ConnectionError, asyncpg.InterfaceError):
            pass
        await settled(connection)
        await defer(connection, run_id, tables)
        await rebuild_all(connection, run_id)
        assert await everything(connection) == before, f"after {statements} statements"
        statements += 1
    assert statements > 40


async def test_a_killed_server_process_leaves_the_definition(connection, database_url):
    await connection.execute(RICH)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    blocker, builder = await connect(database_url), await connect(database_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        step = next(step for step in await pending(connection, run_id) if step.table == "items")
        building = asyncio.create_task(rebuild_one(builder, step, memory=MEMORY))
        await asyncio.sleep(0.3)
        assert await connection.fetchval("SELECT pg_terminate_backend($1)", builder.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await building
    await blocker.close()
    with suppress(Exception):
        await builder.close(timeout=1)
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def settled(connection) -> None:
    """Wait until no other session works in this database."""
    for _ in range(200):
        if not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a lost session is still there")
