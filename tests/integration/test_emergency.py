"""An emergency that PostgreSQL hears of late or never, and its settling: every write is kept, or is named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg
import pytest

from pgferry.errors import Transient, UsageError
from pgferry.live import emergency as emergencies
from pgferry.live import phases, switch
from pgferry.live.approach import approach
from pgferry.live.emergency import Carried, carry, emergency
from pgferry.live.front import lower_fence, read_noted, restarted
from pgferry.live.model import Phase
from pgferry.live.status import read_status
from pgferry.live.switch import finish_switch, take_over
from pgferry.live.turning import recover, roll_back, turn_back
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.journal import live_run, open_uncarried
from pgferry.postgres.patience import patiently
from pgferry.settings import Settings, load_settings
from tests.acceptance.workload import equal
from tests.integration.small_move import Server, environment, move, phase, read, write
from tests.live import LiveMove

__all__ = ["move"]

SWITCHING, SWITCHED, ROLLING_BACK = Phase.SWITCHING, Phase.SWITCHED, Phase.ROLLING_BACK


async def take(move: LiveMove) -> switch.TakenOver:
    """Let PostgreSQL take over, and die before the phase is `switched`."""
    async with move.session() as server, move.session() as holder:
        live = await move.live(server)
        await approach(server, holder, live, move.home)
        return await take_over(server, live, move.settings, move.url)


async def bring_to(move: LiveMove, wanted: Phase) -> None:
    """Bring the move to a phase in which PostgreSQL is in front."""
    if wanted is SWITCHING:
        await take(move)
        return
    await move.switch()
    if wanted is ROLLING_BACK:
        async with move.session() as server:
            await phases.enter(server, (await live_run(server, str(move.source))).id, ROLLING_BACK, "killed", {})


async def settle(move: LiveMove, prefer: str = "") -> Carried:
    """Carry what was left behind."""
    async with move.session() as server:
        live = await move.live(server)
        return await carry(server, live, move.settings, await move.forms(server, live), prefer)


async def captured(move: LiveMove) -> tuple[str, ...]:
    """Return what there is of the capture in PostgreSQL."""
    async with move.session() as server:
        return await target_capture.objects(server, await move.live(server))


def elsewhere(move: LiveMove) -> Settings:
    """Return settings that see another environment file, which names SQLite: another shell's."""
    other = move.home / "another.env"
    other.write_text(f"DATABASE_URL=sqlite:///{move.source}\n")
    return load_settings(home=move.home, application_env=other)


# ---------------------------------------------------------------- nothing is dropped unheard


@pytest.mark.parametrize(
    ("at", "way"),
    [
        (SWITCHING, recover),
        (SWITCHED, recover),
        (ROLLING_BACK, recover),
        (SWITCHED, roll_back),
        (SWITCHED, partial(turn_back, reason="the test")),
    ],
)
async def test_no_way_back_drops_what_an_untold_emergency_left(
    move: LiveMove, connection: Server, at: Phase, way: Callable[..., Awaitable[object]]
) -> None:
    await bring_to(move, at)
    await connection.execute("INSERT INTO items (name) VALUES ('left behind')")
    emergency(move.settings, move.source)
    async with move.session() as server:
        live = await move.live(server)
        with pytest.raises(UsageError, match=r"left with 1 rows.*rollback --carry"):
            await way(server, live, move.settings, await move.forms(server, live))
        assert await open_uncarried(server, live.run_id) == {"items": [(21,)]}
    assert await phase(move) is Phase.EMERGENCY
    assert (await settle(move)).carried == 1
    assert read(move, "SELECT name FROM items WHERE id = 21") == [("left behind",)]
    await move.sync()
    assert equal(move.source, move.url) == []


async def test_a_rollback_drains_whatever_an_environment_file_says(move: LiveMove, connection: Server) -> None:
    await move.switch()
    await connection.execute("INSERT INTO items (name) VALUES ('acknowledged')")
    async with move.session() as server:
        live = await move.live(server)
        returned = await roll_back(server, live, elsewhere(move), await move.forms(server, live))
    assert returned.carried == 1
    assert read(move, "SELECT name FROM items WHERE id = 21") == [("acknowledged",)]


async def test_a_cut_off_switch_is_drained_whatever_an_environment_file_says(
    move: LiveMove, connection: Server
) -> None:
    await take(move)
    await connection.execute("INSERT INTO items (name) VALUES ('acknowledged')")
    async with move.session() as server:
        live = await move.live(server)
        returned = await recover(server, live, elsewhere(move), await move.forms(server, live))
    assert returned is not None
    assert (returned.carried, await phase(move)) == (1, Phase.DUAL_WRITE)
    assert read(move, "SELECT name FROM items WHERE id = 21") == [("acknowledged",)]


async def test_a_fence_that_fell_by_another_environment_file_is_an_emergency(
    move: LiveMove, connection: Server
) -> None:
    await take(move)
    await connection.execute("INSERT INTO items (name) VALUES ('acknowledged')")
    assert lower_fence(elsewhere(move), move.source)
    write(move, "UPDATE items SET name = 'meanwhile' WHERE id = 2")
    with pytest.raises(UsageError, match="rollback --carry"):
        await move.recover()
    assert (await settle(move)).carried == 1
    await move.sync()
    assert read(move, "SELECT name FROM items WHERE id IN (2, 21)") == [("meanwhile",), ("acknowledged",)]
    assert equal(move.source, move.url) == []


async def test_an_emergency_takes_the_fence_of_a_killed_switch_down(
    move: LiveMove, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(switch, "set_identities", fail)
    with pytest.raises(ConnectionError):
        await take(move)
    monkeypatch.undo()
    done = emergency(move.settings, move.source)
    assert (done.left_behind, done.turned) == (False, False)
    write(move, "UPDATE items SET name = 'writes again' WHERE id = 1")
    assert emergency(move.settings, move.source) == done
    await move.recover()
    await move.sync()
    assert equal(move.source, move.url) == []
    with pytest.raises(UsageError, match="in front already"):
        emergency(move.settings, move.source)


async def test_a_switch_that_lost_its_fence_is_not_decided(move: LiveMove, monkeypatch: pytest.MonkeyPatch) -> None:
    real = target_capture.install

    async def late(*args: object) -> None:
        emergency(move.settings, move.source)
        await real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(target_capture, "install", late)
    with pytest.raises(Exception, match="not fenced any more"):
        await take(move)
    assert read_noted(move.source).front == "sqlite"
    assert environment(move) == "sqlite+aiosqlite"


# ---------------------------------------------------------------- conflicts


async def test_a_write_between_the_look_and_the_carrying_is_a_conflict(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move.switch()
    await connection.execute("UPDATE items SET name = 'in postgres' WHERE id = 3")
    emergency(move.settings, move.source)
    real, calls = emergencies.carry_keys, []

    async def late(*args: object, **options: object) -> object:
        if not calls:
            write(move, "UPDATE items SET name = 'in sqlite' WHERE id = 3")
        calls.append(1)
        return await real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(emergencies, "carry_keys", late)
    with pytest.raises(UsageError, match=r"1 rows were written.*items \(3,\)"):
        await settle(move)
    assert read(move, "SELECT name FROM items WHERE id = 3") == [("in sqlite",)]
    calls.clear()
    assert await settle(move, "sqlite") == Carried(0, 1)
    await move.sync()
    assert read(move, "SELECT name FROM items WHERE id = 3") == [("in sqlite",)]
    assert equal(move.source, move.url) == []


async def test_a_key_in_another_form_is_a_conflict(move: LiveMove, connection: Server) -> None:
    await move.switch()
    await connection.execute("UPDATE parcels SET note = 'in postgres'")
    emergency(move.settings, move.source)
    write(move, "DELETE FROM parcels")
    write(move, "INSERT INTO parcels VALUES ('0A0B0C0D-0000-4000-8000-00000000000F', 'in sqlite')")
    # The row of before is gone, in its form; what is there now is the same row in PostgreSQL.
    write(move, "DELETE FROM _pgferry_outbox WHERE k0 = '0a0b0c0d-0000-4000-8000-00000000000f'")
    with pytest.raises(UsageError, match="1 rows were written"):
        await settle(move)
    assert await settle(move, "sqlite") == Carried(0, 1)
    await move.sync()
    assert read(move, "SELECT note FROM parcels") == [("in sqlite",)]
    assert equal(move.source, move.url) == []


# ---------------------------------------------------------------- cut off, and gone on with


async def test_a_removal_that_fails_is_gone_on_with(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move.switch()
    await connection.execute("INSERT INTO items (name) VALUES ('left behind')")
    emergency(move.settings, move.source)

    async def busy(server: Server, live: object) -> None:
        await server.execute("DROP TRIGGER _pgferry_capture ON items")
        await server.execute("DROP TABLE pgferry.outbox_1")
        raise Transient("Table items was locked.", "")

    monkeypatch.setattr(target_capture, "remove", busy)
    with pytest.raises(Transient, match="was locked"):
        await settle(move)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="not settled"):
        await move.switch()
    write(move, "UPDATE items SET name = 'since' WHERE id = 21")
    await settle(move)
    assert (await captured(move), read_noted(move.source).emergency) == ((), None)
    await move.sync()
    assert read(move, "SELECT name FROM items WHERE id = 21") == [("since",)]
    assert equal(move.source, move.url) == []
    await move.switch()
    assert emergency(move.settings, move.source).left_behind


async def test_a_restart_is_due_until_it_was_made(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move.switch()

    async def busy(*_: object) -> None:
        raise Transient("Table items was locked.", "")

    monkeypatch.setattr(target_capture, "remove", busy)
    with pytest.raises(Transient, match="was locked"):
        await move.roll_back()
    monkeypatch.undo()
    assert environment(move) == "sqlite+aiosqlite"
    for _ in range(2):
        returned = await move.recover()
        assert returned is not None
        assert (returned.turned, await phase(move)) == (True, Phase.DUAL_WRITE)
    async with move.session() as server:
        run = await live_run(server, str(move.source))
        status = await read_status(server, run, move.settings, move.rules)
    assert "restarts the application" in status.next_action
    restarted(move.source)
    assert await move.recover() is None


async def test_a_restart_after_an_emergency_is_due_until_it_was_made(move: LiveMove) -> None:
    await move.switch()
    assert [emergency(move.settings, move.source).turned for _ in range(2)] == [True, True]
    restarted(move.source)
    assert emergency(move.settings, move.source).turned is False


async def test_a_long_reader_does_not_undo_a_switch(
    move: LiveMove, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await take(move)
    monkeypatch.setattr(target_fence, "patiently", partial(patiently, patience=0.2))
    async with connection.transaction():
        await connection.fetch("SELECT * FROM items")
        async with move.session() as server:
            await finish_switch(server, await move.live(server), taken)
    assert await phase(move) is SWITCHED
    await connection.execute("INSERT INTO items (name) VALUES ('in front')")
    assert (await move.roll_back()).carried == 1


async def test_a_switch_that_was_undone_meanwhile_leaves_the_fence_alone(move: LiveMove, connection: Server) -> None:
    taken = await take(move)
    await move.recover()
    async with move.session() as server:
        with pytest.raises(phases.OutOfOrder):
            await finish_switch(server, await move.live(server), taken)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("DELETE FROM items")
