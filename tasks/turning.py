"""The ways back to SQLite: after what failed, after what was killed, and by a person's wish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from sqlalchemy.engine import URL

from pgferry.live import turning
from pgferry.live.forms import from_json
from pgferry.live.front import lower_fence, restarted
from pgferry.live.model import Live, Phase
from pgferry.live.pairs import prepare_live
from pgferry.live.phases import current
from pgferry.live.turning import Returned
from pgferry.live.window import give_window_up
from pgferry.postgres.journal import read_forms
from pgferry.postgres.ledger import Run
from pgferry.replay import replay_rules
from pgferry.settings import load_settings
from tasks.application import restart_now
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="recover", task_run_name="undo what was cut off", **TRANSIENT)
def recover(run: Run, target: str, config: str) -> Returned | None:
    """Undo a switch or a rollback whose process was killed; the caller holds the run lock. None: nothing was open."""
    url, settings = target_url(target), load_settings(config=config or None)

    async def work() -> Returned | None:
        async with session(url, settings) as connection:
            if await give_window_up(connection, run, settings):
                return None
            live = await prepare_live(connection, run, replay_rules(settings, Path(run.source)), target)
            forms = from_json(await read_forms(connection, run.id))
            return await turning.recover(connection, live, settings, forms)

    returned = wait_for(work())
    restart_when_turned(returned, url, Path(run.source))
    get_run_logger().info("Undone: %s.", told(returned))
    return returned


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Where a failed switch has ended: the phase, and what the way back did, where there was something to do."""

    phase: Phase
    returned: Returned | None


def take_back(live: Live, reason: str) -> TakenBack:
    """Undo a switch that fails, whatever the reason; one that turns out to be made stays.

    No task: a Prefect server that is away must not keep the fence up. Where the application was not turned yet, the
    fence falls before PostgreSQL is spoken to. Raises what stands against the rest; the next command goes on with it.
    """
    url, settings = target_url(live.target), load_settings()

    async def work() -> TakenBack:
        async with session(url, settings) as connection:
            phase = (await current(connection, live.run_id)).phase
            if phase is not Phase.SWITCHING:
                return TakenBack(phase, None)
            forms = from_json(await read_forms(connection, live.run_id))
            returned = await turning.turn_back(connection, live, settings, forms, reason)
            return TakenBack(Phase.DUAL_WRITE, returned)

    lower_fence(settings, Path(live.source))
    back = wait_for(work())
    restart_when_turned(back.returned, url, Path(live.source))
    return back


def restart_when_turned(returned: Returned | None, url: URL, file: Path) -> None:
    """Restart the application when its environment file was changed; a restart that fails is due still."""
    if returned is not None and returned.turned:
        restart_now(url)
        restarted(file)


def told(returned: Returned | None) -> str:
    """Return what a way back did, in words."""
    if returned is None:
        return "nothing had to be carried"
    turned = ", the application was pointed back" if returned.turned else ""
    return f"{returned.carried} rows carried, {returned.compared} compared, {returned.seconds:.2f} s frozen{turned}"
