"""How long cycles of the sync are carried one after the other: until little is left, or no less comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from pgferry.errors import Transient
from pgferry.live.level import NO_SHORTER, until_level
from pgferry.live.model import Direction, Synced


def synced(rows: int, seconds: float) -> Synced:
    tables = {"t": rows} if rows else {}
    return Synced(Direction.FORWARD, rows, 0, 0, 0, datetime.now(UTC), seconds, tables)


async def carried(cycles: Sequence[tuple[int, float]], *, near: int = 500, soon: float = 2.0) -> list[Synced]:
    """Return the cycles of which was told."""
    coming, told = iter(cycles), []

    async def cycle() -> Synced:
        return synced(*next(coming))

    last = await until_level(cycle, "app.db", told.append, near=near, soon=soon)
    assert told[-1] is last
    return told


async def test_it_ends_with_a_cycle_that_carries_little() -> None:
    assert len(await carried([(90_000, 60.0), (9_000, 8.0), (500, 2.5), (400, 2.0)])) == 3


async def test_it_ends_with_a_short_cycle_whatever_that_carries() -> None:
    """An application that writes thousands of rows a second never leaves few, and yet is followed closely."""
    assert len(await carried([(90_000, 60.0), (20_000, 8.0), (9_000, 1.9)])) == 3


async def test_nothing_left_is_what_ends_it_where_that_is_asked_for() -> None:
    assert len(await carried([(100, 0.2), (1, 0.1), (0, 0.1), (0, 0.1)], near=0, soon=0)) == 3


async def test_cycles_that_grow_shorter_now_and_then_go_on() -> None:
    slow = [(10_000, 100.0 - step + other) for step in range(30) for other in (0, 30, 40)]
    assert len(await carried([*slow, (10, 3.0)])) == len(slow) + 1


async def test_an_application_that_writes_faster_than_it_is_followed_is_told() -> None:
    cycles = [(1_000 + n, 3.0 + n / 10) for n in range(100)]
    with pytest.raises(
        Transient, match=r"app\.db come as fast .* none was shorter than 3\.0 s, .* 1020 rows in 5\.0 s"
    ):
        await carried(cycles)


async def test_it_is_told_after_so_many_cycles() -> None:
    told: list[Synced] = []

    async def cycle() -> Synced:
        return synced(1_000, 3.0)

    with pytest.raises(Transient):
        await until_level(cycle, "app.db", told.append)
    assert len(told) == NO_SHORTER + 1
