"""The ways back and the end of a switch die behind each of their statements; the same command goes on from there.

`make test` dies behind some of the statements, the long variant behind each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from pgferry.live.approach import approach
from pgferry.live.emergency import carry, emergency
from pgferry.live.front import read_noted, restarted
from pgferry.live.model import Phase
from pgferry.live.switch import TakenOver, finish_switch, take_over
from pgferry.postgres import capture, fence
from tests.acceptance.workload import equal
from tests.dying import Died, Dying
from tests.integration.small_move import Server, environment, move, phase, read, write
from tests.live import LiveMove

__all__ = ["move"]

Work = Callable[[], Awaitable[object]]

SOME = 13
"""In `make test` it dies behind each thirteenth statement; the last ones of each command are among the tests, too."""

STRIDES = [SOME, pytest.param(1, marks=pytest.mark.slow)]


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Dying:
    """Counts what is done."""
    return Dying(monkeypatch)


async def dies(dying: Dying, steps: int, work: Work) -> bool:
    """Run it until it dies behind so many steps; returns whether it did."""
    with dying.after(steps):
        try:
            await work()
        except Died:
            return True
    return False


def places(stride: int, steps: int) -> list[int]:
    """Return behind which steps it dies: by the stride, and behind the last three."""
    return sorted({*range(stride, steps + 1, stride), steps - 2, steps - 1, steps})


async def clean(move: LiveMove) -> None:
    """Assert that dual-write is as it should be: no capture, a fence, no note, both sides equal."""
    assert await phase(move) is Phase.DUAL_WRITE
    async with move.session() as server:
        assert await capture.objects(server, await move.live(server)) == ()
        assert await fence.is_fenced(server)
    assert read_noted(move.source).emergency is None
    assert environment(move) == "sqlite+aiosqlite"
    await move.sync()
    assert equal(move.source, move.url) == []


def names(move: LiveMove, like: str) -> list[str]:
    """Return the names of items in SQLite."""
    return [str(name) for (name,) in read(move, f"SELECT name FROM items WHERE name LIKE '{like}' ORDER BY id")]


@pytest.mark.parametrize("stride", STRIDES)
async def test_a_rollback_dies_anywhere(move: LiveMove, connection: Server, dying: Dying, stride: int) -> None:
    written: list[str] = []

    async def prepare() -> None:
        await move.switch()
        written.append(f"written {len(written):03}")
        await connection.execute("INSERT INTO items (name) VALUES ($1)", written[-1])
        await connection.execute("UPDATE parcels SET note = $1", written[-1])

    async def again() -> None:
        """Do as the command does that is run again."""
        returned = await move.recover()
        if await phase(move) is Phase.SWITCHED:
            returned = await move.roll_back()
        assert returned is not None
        assert returned.turned, "the application must be restarted"
        restarted(move.source)

    await prepare()
    with dying.after(10**6):
        await move.roll_back()
    steps = dying.done
    restarted(move.source)
    for place in places(stride, steps):
        await prepare()
        await dies(dying, place, move.roll_back)
        await again()
        await clean(move)
        assert names(move, "written %") == written
        assert read(move, "SELECT note FROM parcels") == [(written[-1],)]


@pytest.mark.parametrize("prefer", ["sqlite", "postgres"])
@pytest.mark.parametrize("stride", STRIDES)
async def test_a_carrying_dies_anywhere(
    move: LiveMove, connection: Server, dying: Dying, stride: int, prefer: str
) -> None:
    written: list[str] = []

    async def prepare() -> None:
        await move.switch()
        written.append(f"left {len(written):03}")
        await connection.execute("INSERT INTO items (name) VALUES ($1)", written[-1])
        await connection.execute("UPDATE items SET name = 'in postgres ' || $1 WHERE id = 3", written[-1])
        emergency(move.settings, move.source)
        restarted(move.source)
        write(move, f"UPDATE items SET name = 'in sqlite {written[-1]}' WHERE id = 3")
        # By a number that PostgreSQL has not given away: else both sides would have written the row.
        number = 10_000 * len(written)
        write(move, f"INSERT INTO items (id, name) VALUES ({number}, 'since {written[-1]}')")

    async def work() -> None:
        async with move.session() as server:
            live = await move.live(server)
            await carry(server, live, move.settings, await move.forms(server, live), prefer)

    async def settled() -> None:
        await clean(move)
        front = "sqlite" if prefer == "sqlite" else "postgres"
        assert read(move, "SELECT name FROM items WHERE id = 3") == [(f"in {front} {written[-1]}",)]
        assert [name.removesuffix("!") for name in names(move, "left %")] == written
        assert names(move, "since %") == [f"since {name}" for name in written]

    await prepare()
    with dying.after(10**6):
        await work()
    steps = dying.done
    await settled()
    for place in places(stride, steps):
        await prepare()
        await dies(dying, place, work)
        # Where it is carried already, the application's next write to it is newer and stays.
        write(move, f"UPDATE items SET name = name || '!' WHERE name = '{written[-1]}'")
        marked = names(move, "%!")
        await work()
        await settled()
        assert names(move, "%!") == marked


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
async def test_the_end_of_a_switch_dies_anywhere(move: LiveMove, connection: Server, dying: Dying, stride: int) -> None:
    written: list[str] = []

    async def prepare() -> TakenOver:
        async with move.session() as server, move.session() as holder:
            live = await move.live(server)
            await approach(server, holder, live, move.home)
            taken = await take_over(server, live, move.settings, move.url)
        written.append(f"written {len(written):03}")
        await connection.execute("INSERT INTO items (name) VALUES ($1)", written[-1])
        return taken

    async def finish(taken: TakenOver) -> None:
        async with move.session() as server:
            await finish_switch(server, await move.live(server), taken)

    async def back() -> None:
        await move.recover()
        if await phase(move) is Phase.SWITCHED:
            await connection.execute("UPDATE parcels SET note = 'in front'")
            await move.roll_back()
        restarted(move.source)
        await clean(move)
        assert names(move, "written %") == written

    taken = await prepare()
    with dying.after(10**6):
        await finish(taken)
    steps = dying.done
    await back()
    for place in places(stride, steps):
        taken = await prepare()

        async def work(taken: TakenOver = taken) -> None:
            await finish(taken)

        await dies(dying, place, work)
        await back()
