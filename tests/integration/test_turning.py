"""The ways back to SQLite: after a switch that fails, by a rollback, in an emergency; every write is kept."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.live import forward, switch
from pgferry.live.approach import approach
from pgferry.live.emergency import carry, emergency
from pgferry.live.forward import sync_once
from pgferry.live.front import lower_fence
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.live.status import read_status
from pgferry.live.switch import take_over
from pgferry.live.turning import turn_back
from pgferry.postgres import deferred
from pgferry.postgres.definitions import Stage
from pgferry.postgres.journal import live_run, open_uncarried, read_position, set_position
from pgferry.postgres.lock import SYNC_LOCK
from pgferry.postgres.patience import patiently
from tests.acceptance.workload import equal
from tests.integration.small_move import Server, environment, move, phase, read, write
from tests.live import LiveMove

__all__ = ["move"]


async def test_after_the_switch_the_application_is_in_postgresql(move: LiveMove, connection: Server) -> None:
    write(move, "INSERT INTO items (name) VALUES ('late')")
    taken = await move.switch()
    assert await phase(move) is Phase.SWITCHED
    assert (taken.drained, environment(move)) == (0, "postgresql+asyncpg")
    assert await connection.fetchval("INSERT INTO items (name) VALUES ('first in front') RETURNING id") == 22
    with pytest.raises(sqlite3.IntegrityError, match="pgferry: this database has moved to PostgreSQL"):
        write(move, "DELETE FROM items")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("INSERT INTO trades (item_id, price) VALUES (999, 1)")
    validated = "SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'f' AND conname LIKE 'trades%'"
    assert await connection.fetchval(validated)


async def test_a_rollback_keeps_every_write(move: LiveMove, connection: Server) -> None:
    before = move.env_file.read_bytes()
    await move.switch()
    await connection.execute("INSERT INTO items (name, at) VALUES ('new', '2026-03-04 05:06:07.5')")
    await connection.execute("UPDATE items SET name = name || '!' WHERE id < 4")
    await connection.execute("DELETE FROM trades WHERE id > 18")
    returned = await move.roll_back()
    assert await phase(move) is Phase.DUAL_WRITE
    assert (returned.carried, returned.turned, move.env_file.read_bytes()) == (6, True, before)
    assert read(move, "SELECT name, at FROM items WHERE id > 20") == [("new", "2026-03-04 05:06:07.500000")]
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("DELETE FROM items")
    write(move, "INSERT INTO items (name) VALUES ('again')")
    assert read(move, "SELECT id FROM items WHERE name = 'again'") == [(22,)]
    await move.sync()
    assert equal(move.source, move.url) == []


async def test_foreign_keys_wait_for_a_reader_no_longer_than_is_said(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move.switch()
    keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'trades'::regclass"
    monkeypatch.setattr(deferred, "patiently", partial(patiently, patience=0.2))
    async with move.session() as server:
        run = await live_run(server, str(move.source))
        async with connection.transaction():
            await connection.fetch("SELECT * FROM trades")
            with pytest.raises(Transient, match=r'Table "public"."trades" was locked for 0.2 seconds'):
                await deferred.put_foreign_keys_away(server, run.id)
        async with connection.transaction():
            await connection.fetch("SELECT * FROM items")  # the parent
            await asyncio.sleep(0.6)  # for as long as an attempt
            with pytest.raises(Transient, match=r"Held now: public\.items by server process \d+ \(.+\)"):
                await deferred.put_foreign_keys_away(server, run.id)
        assert await connection.fetchval(keys) == 1
        assert await deferred.put_foreign_keys_away(server, run.id) == 1
        assert await deferred.put_foreign_keys_away(server, run.id) == 0
        waiting = [step.name for step in await deferred.pending(server, run.id) if step.stage is Stage.FOREIGN_KEY]
    assert (await connection.fetchval(keys), len(waiting)) == (0, 1)


async def test_a_switch_does_not_keep_everybody_from_writing_for_as_long_as_a_vacuum(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "patiently", partial(patiently, patience=0.2))
    async with connection.transaction():
        await connection.execute("LOCK TABLE trades IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(Transient, match=r'Table "public"."trades" was locked for 0.2 seconds'):
            await move.switch()
    await move.recover()
    write(move, "INSERT INTO items (name) VALUES ('written on')")
    await move.switch()
    assert await phase(move) is Phase.SWITCHED


async def test_a_sync_beside_a_quicker_one_gets_its_turn(move: LiveMove, monkeypatch: pytest.MonkeyPatch) -> None:
    # A follower of a busy application carries between this one's reading and its applying, whenever it can.
    overtaken = 0
    apply = forward._apply
    async with move.session() as server, move.session() as follower:
        live = await move.live(server)

        async def overtake(connection: Server, *arguments: object) -> bool:
            nonlocal overtaken
            if connection is server and await follower.fetchval("SELECT pg_try_advisory_lock($1)", SYNC_LOCK):
                await follower.execute("SELECT pg_advisory_unlock($1)", SYNC_LOCK)
                overtaken += 1
                await sync_once(follower, live)
                write(move, f"INSERT INTO items (name) VALUES ('busy {overtaken}')")
            return await apply(connection, *arguments)

        monkeypatch.setattr(forward, "_apply", overtake)
        write(move, "INSERT INTO items (name) VALUES ('first')")
        async with asyncio.timeout(20):
            synced = await sync_once(server, live)
        assert (overtaken, synced.rows) == (1, 1)
        assert await follower.fetchval("SELECT pg_try_advisory_lock($1)", SYNC_LOCK)
    assert equal(move.source, move.url) == []


@pytest.mark.parametrize("step", ["drain", "compare_touched", "set_identities", "_add_foreign_keys", "point_at"])
async def test_a_switch_that_fails_did_not_happen(
    move: LiveMove, connection: Server, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = move.env_file.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise Permanent("The test made this fail.", "")

    async with move.session() as server, move.session() as holder:
        live = await move.live(server)
        await approach(server, holder, live, move.home)
        monkeypatch.setattr(switch, step, fail)
        with pytest.raises(Permanent, match="made this fail"):
            await take_over(server, live, move.settings, move.url)
        with pytest.raises(sqlite3.IntegrityError, match="pgferry"):
            write(move, "DELETE FROM items")
        monkeypatch.undo()
        await turn_back(server, live, move.settings, await move.forms(server, live), "the switch failed")
    assert await phase(move) is Phase.DUAL_WRITE
    assert move.env_file.read_bytes() == before
    write(move, "DELETE FROM trades WHERE id = 1")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("DELETE FROM items")
    await move.sync()
    assert equal(move.source, move.url) == []
    await move.switch()
    assert equal(move.source, move.url) == []


async def test_writes_between_a_restart_and_its_failing_health_check_are_kept(
    move: LiveMove, connection: Server
) -> None:
    async with move.session() as server, move.session() as holder:
        live = await move.live(server)
        await approach(server, holder, live, move.home)
        await take_over(server, live, move.settings, move.url)
        await connection.execute("INSERT INTO items (name) VALUES ('in between')")
        assert lower_fence(move.settings, move.source) is False
        returned = await turn_back(server, live, move.settings, await move.forms(server, live), "unhealthy")
    assert (returned.carried, returned.turned) == (1, True)
    assert read(move, "SELECT count(*) FROM items WHERE name = 'in between'") == [(1,)]


async def test_the_fence_falls_without_postgresql_while_the_application_was_not_turned(move: LiveMove) -> None:
    async with move.session() as server, move.session() as holder:
        live = await move.live(server)
        await approach(server, holder, live, move.home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(switch, "point_at", lambda *_: (_ for _ in ()).throw(OSError("no disk")))
            with pytest.raises(OSError, match="no disk"):
                await take_over(server, live, move.settings, move.url)
    assert lower_fence(move.settings, move.source)
    write(move, "DELETE FROM trades WHERE id = 2")
    await move.recover()
    assert await phase(move) is Phase.DUAL_WRITE
    await move.sync()
    assert equal(move.source, move.url) == []


async def test_an_emergency_leaves_writes_behind_and_carries_them_later(move: LiveMove, connection: Server) -> None:
    await move.switch()
    await connection.execute("INSERT INTO items (name) VALUES ('carried')")
    await move.sync_back()
    await connection.execute("INSERT INTO items (name) VALUES ('left behind')")
    await connection.execute("UPDATE items SET name = 'in postgres' WHERE id = 3")
    await connection.execute("DELETE FROM trades WHERE id = 4")
    done = emergency(move.settings, move.source)
    assert done.turned
    assert done.carried_until is not None
    assert environment(move) == "sqlite+aiosqlite"
    assert read(move, "SELECT name FROM items WHERE id > 20") == [("carried",)]
    async with move.session() as server:
        run = await live_run(server, str(move.source))
        status = await read_status(server, run, move.settings, move.rules)
    assert "rollback --carry" in status.next_action
    assert "emergency rollback" in status.problems[0]
    write(move, "UPDATE items SET name = 'in sqlite' WHERE id = 3")
    write(move, "INSERT INTO items (id, name) VALUES (500, 'meanwhile')")
    with pytest.raises(Permanent, match="sqlite is in front"):
        await move.sync_back()
    async with move.session() as server:
        live = await move.live(server)
        forms = await move.forms(server, live)
        with pytest.raises(UsageError, match=r"1 rows were written.*items \(3,\)"):
            await carry(server, live, move.settings, forms)
        assert await open_uncarried(server, live.run_id) == {"items": [(22,), (3,)], "trades": [(4,)]}
        assert (await current(server, live.run_id)).phase is Phase.EMERGENCY
        carried = await carry(server, live, move.settings, forms, "sqlite")
        assert (carried.carried, carried.given_up) == (2, 1)
        assert await open_uncarried(server, live.run_id) == {}
    assert read(move, "SELECT name FROM items WHERE id IN (3, 22) ORDER BY id") == [("in sqlite",), ("left behind",)]
    assert read(move, "SELECT count(*) FROM trades WHERE id = 4") == [(0,)]
    await move.sync()
    assert equal(move.source, move.url) == []
    await move.switch()
    assert equal(move.source, move.url) == []


async def test_postgresqls_row_can_be_preferred(move: LiveMove, connection: Server) -> None:
    await move.switch()
    await connection.execute("UPDATE items SET name = 'in postgres' WHERE id = 3")
    emergency(move.settings, move.source)
    write(move, "UPDATE items SET name = 'in sqlite' WHERE id = 3")
    async with move.session() as server:
        live = await move.live(server)
        await carry(server, live, move.settings, await move.forms(server, live), "postgres")
    await move.sync()
    assert read(move, "SELECT name FROM items WHERE id = 3") == [("in postgres",)]
    assert equal(move.source, move.url) == []


async def test_an_emergency_needs_a_switch(move: LiveMove) -> None:
    with pytest.raises(UsageError, match="in front already"):
        emergency(move.settings, move.source)


async def test_a_quiet_hour_is_no_lag(move: LiveMove) -> None:
    async with move.session() as server:
        live = await move.live(server)
        before = await read_position(server, live.run_id)
        assert before is not None
        async with server.transaction():
            await set_position(server, live.run_id, before.outbox_id, before.moment - timedelta(hours=1))
        await sync_once(server, live)
        write(move, "INSERT INTO items (name) VALUES ('waits')")
        run = await live_run(server, str(move.source))
        lag = (await read_status(server, run, move.settings, move.rules)).lag
    assert lag is not None
    assert (lag.rows, lag.seconds < 60) == (1, True)


async def test_status_tells_where_it_stands(move: LiveMove) -> None:
    write(move, "INSERT INTO items (name) VALUES ('waits')")
    async with move.session() as server:
        run = await live_run(server, str(move.source))
        status = (await read_status(server, run, move.settings, move.rules)).to_json()
        assert (status["phase"], status["lag_rows"], status["fenced"]) == ("dual-write", 1, False)
        assert status["lag_seconds"] > 0
        assert {gate["name"]: gate["passed"] for gate in status["gates"]}["validations passed"] is False
        write(move, "ALTER TABLE items ADD COLUMN colour TEXT")
        status = (await read_status(server, run, move.settings, move.rules)).to_json()
        assert "'items' is altered" in status["problems"][0]
    move.source.rename(move.source.with_suffix(".gone"))
    async with move.session() as server:
        status = (await read_status(server, run, move.settings, move.rules)).to_json()
    assert status["lag_rows"] is None
    assert "There is no file" in status["problems"][0]
