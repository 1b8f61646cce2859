"""Before the fence: what was written since the last validation is compared, and the way back learns its forms.

So little is left to compare while nobody can write, however long ago the last validation was.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.live.forms import learn_forms, to_json
from pgferry.live.holding import hold
from pgferry.live.level import level
from pgferry.live.model import Live, Phase
from pgferry.live.phases import current
from pgferry.live.switch import compare_touched
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import forget_touched, record_forms, sync_lock
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.snapshot import take


@dataclass(frozen=True, slots=True)
class Approached:
    """What was done before the fence: rows compared, and columns whose form was learnt."""

    compared: int
    columns: int


async def approach(connection: Connection, holder: Connection, live: Live, folder: Path) -> Approached:
    """Compare the rows that were carried since the last validation, at a moment that is held; learn and record forms.

    The application goes on writing. In a maintenance window, where SQLite is fenced, only the forms are learnt: the
    comparison under the fence is the whole of it. Copies of the file lie in `folder` meanwhile. Raises Permanent with
    the first differences.
    """
    if (await current(connection, live.run_id)).phase is Phase.SWITCHING:
        return Approached(0, await _learn_still(connection, live, folder))
    await level(connection, live)
    async with hold(connection, holder, live, folder) as held:
        forms = learn_forms(held.path, live)
        with closing(open_read_only(held.path, immutable=True)) as source:
            compared = await compare_touched(holder, live, source)
        await record_forms(connection, live.run_id, to_json(forms))
        async with sync_lock(connection):  # the sync marks rows in another order: without it the two deadlock
            await forget_touched(connection, live.run_id, held.carried_until)
    return Approached(compared, sum(map(len, forms.values())))


async def _learn_still(connection: Connection, live: Live, folder: Path) -> int:
    snapshot = take(Path(live.source), folder)
    try:
        forms = learn_forms(Path(snapshot.path), live)
    finally:
        Path(snapshot.path).unlink(missing_ok=True)
    await record_forms(connection, live.run_id, to_json(forms))
    return sum(map(len, forms.values()))
