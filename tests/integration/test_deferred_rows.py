"""Rows that stand in the way of an index or a constraint are named, and its definition stays."""

from __future__ import annotations

from types import SimpleNamespace

import asyncpg
import pytest

from pgferry.errors import Permanent, UsageError
from pgferry.live.switch import validate_foreign_keys
from pgferry.postgres.deferred import OrphansLeft, defer, pending, rebuild_one, recorded
from pgferry.postgres.definitions import Kind
from pgferry.postgres.validated_keys import validate_keys, validate_left
from tests.integration.deferred_objects import (
    MEMORY,
    SMALL,
    begin,
    everything,
    rebuild_all,
    tables_of,
)

# ---------------------------------------------------------------- rows that stand in the way


async def test_a_duplicate_is_named_and_the_definition_stays(connection):
    await connection.execute(SMALL)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("INSERT INTO p VALUES (1, 2)")
    with pytest.raises(Permanent, match=r"p_pkey of public\.p .*Key \(id\)=\(1\) is duplicated"):
        await rebuild_all(connection, run_id)
    owed = {step.name: step.error for step in await pending(connection, run_id) if step.kind is Kind.CONSTRAINT_INDEX}
    assert "(id)=(1)" in (owed["p_pkey"] or "")
    await connection.execute("DELETE FROM p WHERE n = 2")
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before
    assert [step.error for step in await recorded(connection, run_id)] == [None] * len(
        await recorded(connection, run_id)
    )


async def test_orphans_are_counted_and_the_first_is_named(connection):
    await connection.execute(SMALL)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("INSERT INTO c SELECT 7 FROM generate_series(1, 25); INSERT INTO c VALUES (NULL)")
    with pytest.raises(Permanent, match=r"c_id_fkey of public\.c .*25 rows point at .* public\.p .* id = 7") as caught:
        await rebuild_all(connection, run_id)
    assert caught.value.details["orphans"].count == 25
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("INSERT INTO c VALUES (8)")
    await connection.execute("DELETE FROM c WHERE id = 7")
    await rebuild_all(connection, run_id)
    assert await everything(connection) == before


async def test_orphans_of_several_columns_follow_the_match_rule(connection):
    await connection.execute("""
        SET search_path = public; CREATE TABLE "P {0}" (a integer, b text, PRIMARY KEY (a, b));
        CREATE TABLE simple (x integer, y text, FOREIGN KEY (x, y) REFERENCES "P {0}");
        CREATE TABLE whole (x integer, y text, FOREIGN KEY (x, y) REFERENCES "P {0}" MATCH FULL)""")
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    for table in ("simple", "whole"):
        await connection.execute(f"INSERT INTO {table} VALUES (1, NULL), (NULL, NULL), (NULL, 'b'), (1, 'b')")
    counts = {}
    for step in await pending(connection, run_id):
        try:
            await rebuild_one(connection, step, memory=MEMORY)
        except Permanent as error:
            counts[step.table] = error.details["orphans"].count
    assert counts == {"simple": 1, "whole": 3}


async def test_a_foreign_key_with_orphans_stays_not_valid_until_they_are_gone(connection):
    await connection.execute(SMALL)
    before = await everything(connection)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("INSERT INTO c VALUES (7), (7), (NULL)")
    steps = await pending(connection, run_id)
    for step in steps[:-1]:
        await rebuild_one(connection, step, memory=MEMORY)

    (left,) = await validate_keys(connection, steps[-1:], memory=MEMORY)

    assert (left.table, left.name, left.parent, left.orphans, left.first) == (
        "public.c", "c_id_fkey", "public.p", 2, "id = 7"
    )  # fmt: skip
    (waiting,) = await pending(connection, run_id)
    assert "2 rows point at rows that public.p does not hold" in waiting.error
    assert await connection.fetchval("SELECT convalidated FROM pg_constraint WHERE conname = 'c_id_fkey'") is False
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("INSERT INTO c VALUES (8)")

    assert await validate_left(connection, run_id, memory=MEMORY) == (left,)
    await connection.execute("DELETE FROM c WHERE id = 7")
    assert await validate_left(connection, run_id, memory=MEMORY) == ()
    assert await pending(connection, run_id) == ()
    assert await everything(connection) == before


async def test_a_switch_tells_the_orphans_and_the_statement_that_validates_their_key(connection):
    await connection.execute(SMALL)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("INSERT INTO c VALUES (7)")
    with pytest.raises(OrphansLeft):
        await rebuild_all(connection, run_id)
    live = SimpleNamespace(run_id=run_id)
    (told,) = await validate_foreign_keys(connection, live)
    assert "1 rows point at rows that public.p does not hold, the first of them with id = 7" in told
    await connection.execute("DELETE FROM c")
    await connection.execute(told.rpartition("let the target run: ")[2])
    assert await validate_foreign_keys(connection, live) == ()
    assert await pending(connection, run_id) == ()


async def test_a_foreign_key_that_somebody_drops_is_validated_no_more(connection):
    await connection.execute(SMALL)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    await connection.execute("INSERT INTO c VALUES (7)")
    with pytest.raises(OrphansLeft):
        await rebuild_all(connection, run_id)
    await connection.execute("ALTER TABLE c DROP CONSTRAINT c_id_fkey")
    assert await validate_left(connection, run_id, memory=MEMORY) == ()
    assert await pending(connection, run_id) == ()
    assert "c_id_fkey of public.c is gone" in (await recorded(connection, run_id))[-1].error


async def test_wrong_memory_is_a_wrong_setting(connection):
    await connection.execute(SMALL)
    run_id = await begin(connection)
    await defer(connection, run_id, await tables_of(connection))
    with pytest.raises(UsageError, match="'much' as memory"):
        await rebuild_one(connection, (await pending(connection, run_id))[0], memory="much")
