"""How long nobody can write during a switch, at several sizes of the database."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from random import Random
from statistics import median

from benchmarks.live_move import LiveMove, Place, application
from benchmarks.live_page import Freeze
from pgferry.live.approach import approach
from pgferry.live.model import Live
from pgferry.live.switch import TakenOver, finish_switch, take_over, validate_foreign_keys
from pgferry.live.turning import roll_back
from pgferry.postgres.connection import Connection

TOGETHER = 10
"""Writes in a transaction."""

_COPY = """
INSERT INTO trades SELECT (SELECT max(id) + 1 FROM trades), item_id, timestamp, kind, high_price, low_price,
high_volume, low_volume, turnover, margin, is_flip, source, note FROM trades WHERE id = ?
"""
_UPDATE = "UPDATE trades SET high_volume = 1, note = 'changed' WHERE id = ?"
_REPLACE = "INSERT OR REPLACE INTO trades SELECT * FROM trades WHERE id = ?"
_DELETE = "DELETE FROM trades WHERE id = ?"

KINDS = (_COPY,) * 5 + (_UPDATE,) * 3 + (_REPLACE, _DELETE)
"""What the application does between the approach and the fence, by turns."""


def measure_freeze(place: Place, rows: int, writes: int, switches: int) -> Freeze:
    """Switch so often, with a rollback in between, and so many writes between each approach and its fence."""
    with place.moved(f"live_switch_{rows}", rows) as move:
        taken = asyncio.run(_switches(move, rows, writes, switches))
    steps = {step: median(one.frozen[step] for one in taken) for step in taken[0].frozen}
    totals = [one.seconds for one in taken]
    return Freeze(
        rows=rows,
        switches=switches,
        drained=round(median(one.drained for one in taken)),
        compared=round(median(one.compared for one in taken)),
        steps=steps,
        total=median(totals),
        longest=max(totals),
    )


async def _switches(move: LiveMove, rows: int, writes: int, switches: int) -> Sequence[TakenOver]:
    taken: list[TakenOver] = []
    async with move.session() as server:
        live = await move.live(server)
        for number in range(switches):
            if number:
                await roll_back(server, live, move.settings, await move.forms(server, live))
            # Each switch has rows of its own: so many writes are as many rows, at any size.
            ids = Random(number).sample(range(number + 1, rows + 1, switches), writes)
            taken.append(await _switch(move, server, live, ids))
        problems = await validate_foreign_keys(server, live)
        assert not problems, problems
    return taken


async def _switch(move: LiveMove, server: Connection, live: Live, ids: Sequence[int]) -> TakenOver:
    async with move.session() as holder:
        await approach(server, holder, live, move.home)
    with closing(application(move.source)) as opened:
        _write(opened, ids)
    taken = await take_over(server, live, move.settings, move.url)
    await finish_switch(server, live, taken)
    return taken


def _write(opened: sqlite3.Connection, ids: Sequence[int]) -> None:
    for first in range(0, len(ids), TOGETHER):
        opened.execute("BEGIN IMMEDIATE")
        for number, row in enumerate(ids[first : first + TOGETHER]):
            opened.execute(KINDS[number % len(KINDS)], (row,))
        opened.execute("COMMIT")
