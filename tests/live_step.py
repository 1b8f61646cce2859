"""One step of a live move as a process of its own, to be killed: `python -m tests.live_step SETTINGS STEP`.

SETTINGS is a JSON file with the target's URL and the folders. Like every command, a step first undoes what a killed
one has left, under the run lock.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import signal
import sys
from asyncio.events import _get_running_loop
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from pgferry.errors import FerryError, is_transient
from pgferry.live.follow import follow
from pgferry.live.front import restarted
from pgferry.live.model import Phase, Synced
from pgferry.live.phases import current
from pgferry.live.reverse import sync_back
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import live_run, sync_lock
from pgferry.postgres.lock import RunLock
from tests.live import LiveMove

STEPS = ("dual_write", "follow", "stay", "sync", "carry", "validate", "lag", "switch", "roll_back", "recover")


def write_settings(path: Path, move: LiveMove, restart: Path) -> None:
    """Write the settings file of the steps of a move; `restart` is the file whose touch restarts the application."""
    url = move.url.render_as_string(hide_password=False)
    path.write_text(json.dumps([url, str(move.source), str(move.home), move.chunk_rows, move.stall, str(restart)]))


async def run(step: str, move: LiveMove, restart: Path) -> None:
    """Run a step to its end."""
    if step == "dual_write":
        await move.dual_write()
    elif step == "follow":
        await _follow(move)
    elif step == "stay":
        await move.follow(asyncio.Event())
    elif step == "sync":
        await move.sync()
    elif step == "carry":
        forward = await phase_of(move) is Phase.DUAL_WRITE
        await (move.sync() if forward else move.sync_back())
    elif step == "validate":
        assert (await move.validate()).passed
    elif step == "lag":
        print(json.dumps(await move.lag()))
    elif step == "switch" and await phase_of(move) is not Phase.SWITCHED:
        await move.switch(restart.touch)
    elif step == "roll_back" and await phase_of(move) is not Phase.DUAL_WRITE:
        await move.roll_back()
        restart.touch()
        restarted(move.source)


async def _follow(move: LiveMove) -> None:
    async with move.session() as server:
        live = await move.live(server)

        async def back(connection: Connection) -> Synced:
            async with sync_lock(connection):
                return await sync_back(connection, live, await move.forms(connection, live))

        await follow(server, live, back, lambda synced: None, asyncio.Event())


async def phase_of(move: LiveMove) -> Phase:
    """Return where the move stands."""
    async with move.session() as server:
        return (await current(server, (await live_run(server, str(move.source))).id)).phase


async def recover(move: LiveMove, restart: Path) -> None:
    """Undo what was left half-way; the application follows when it was turned."""
    phase = await phase_of(move)
    if phase in (Phase.SWITCHING, Phase.ROLLING_BACK, Phase.DUAL_WRITE):
        returned = await move.recover()
        if returned is not None and returned.turned:
            restart.touch()
            restarted(move.source)


def tell_where(*_: object) -> None:
    """Print where each task stands, for whoever sees that the step does not end."""
    loop = _get_running_loop()
    if loop is None:
        faulthandler.dump_traceback()
        return
    for task in asyncio.all_tasks(loop):
        print(f"{task.get_name()}:", *_awaited(task.get_coro()), sep="\n  ", file=sys.stderr)
    sys.stderr.flush()


def _awaited(waiting: Any) -> Iterator[str]:
    """Yield the place of a coroutine and of each that it waits for; a task's own stack ends at the first."""
    while waiting is not None:
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(waiting, f"{kind}_frame")), None)
        if kind is None:
            # The step of an asynchronous generator tells of its generator to the garbage collector only.
            waiting = next((each for each in gc.get_referents(waiting) if hasattr(each, "ag_frame")), None)
            continue
        frame = getattr(waiting, f"{kind}_frame")
        if frame is not None:
            yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
        waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def main() -> None:
    """Run the step that the command line names, with the lock that its flow holds."""
    signal.signal(signal.SIGUSR1, tell_where)
    url, source, home, rows, stall, touched = json.loads(Path(sys.argv[1]).read_text())
    move = LiveMove(make_url(url), Path(source), Path(home), chunk_rows=rows, stall=stall)
    restart, step = Path(touched), sys.argv[2]
    if step in ("follow", "stay", "sync", "carry", "validate", "lag"):
        asyncio.run(run(step, move, restart))
        return
    with RunLock(move.url, source, patience=20):
        if step != "dual_write":
            asyncio.run(recover(move, restart))
        asyncio.run(run(step, move, restart))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        if not (isinstance(error, FerryError) or is_transient(error)):
            raise
        print(error, file=sys.stderr)
        sys.exit(75 if is_transient(error) else 1)
