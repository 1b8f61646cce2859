"""The move without downtime as a whole: which run it is, where it stands, and what it carries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task

from pgferry.errors import UsageError
from pgferry.live import front
from pgferry.live.aside import refuse_quarantined
from pgferry.live.model import Live, PhaseRecord
from pgferry.live.pairs import prepare_live
from pgferry.live.phases import current
from pgferry.postgres.journal import live_run
from pgferry.postgres.ledger import Run
from pgferry.postgres.place import find_place
from pgferry.replay import replay_rules
from pgferry.settings import Settings, load_settings
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@dataclass(frozen=True, slots=True)
class Found:
    """A run that is in a live phase, and the phase."""

    run: Run
    record: PhaseRecord

    @property
    def file(self) -> Path:
        """The live SQLite file."""
        return Path(self.run.source)


def refuse_nowhere(target: str, settings: Settings) -> None:
    """Raise UsageError when no target is named and no embedded server was ever started: nothing is there to look at.

    Without this, a look at an empty home would make a server in it.
    """
    if not target and settings.target_url() is None and not find_place(settings.home).data.exists():
        raise UsageError(
            f"No target is named, and {settings.home} holds no embedded server: no move was begun from here.",
            "Set PGFERRY_TARGET, or PGFERRY_HOME to the folder of the move, or run `python -m flows dual-write`.",
        )


@task(name="find move", task_run_name="find the move", **TRANSIENT)
def find_move(source: Path | None, target: str, command: str = "") -> Found:
    """Find the run of this source, or the only one, that is in a live phase; refuse a command that is out of order.

    After the switch the settings may name no SQLite file any more: then the ledger knows it.
    """
    url, settings = target_url(target), load_settings()

    async def work() -> Found:
        async with session(url, settings) as connection:
            run = await live_run(connection, None if source is None else str(source))
            return Found(run, await current(connection, run.id))

    found = wait_for(work())
    if command:
        front.require(found.record, found.file, command)
    get_run_logger().info("Run %d of %s is in phase %s.", found.run.id, found.run.source, found.record.phase)
    return found


@task(name="judge quarantine", task_run_name="look for rows that were kept aside", **TRANSIENT)
def judge_quarantine(live: Live) -> int:
    """Fail when rows are in quarantine that no configuration accepts."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> int:
        async with session(url, settings) as connection:
            return await refuse_quarantined(connection, live)

    rows = wait_for(work())
    get_run_logger().info("%d rows are in quarantine, in tables where that is accepted.", rows)
    return rows


@task(name="pair live tables", task_run_name="pair tables as they are now", **TRANSIENT)
def read_live(run: Run, target: str, config: str) -> Live:
    """Pair the live file's tables with the target's, by the rules of now and those of the plan."""
    url, settings = target_url(target), load_settings(config=config or None)
    rules = replay_rules(settings, Path(run.source))

    async def work() -> Live:
        async with session(url, settings) as connection:
            return await prepare_live(connection, run, rules, target)

    live = wait_for(work())
    hidden = sum(table.hidden for table in live.tables)
    get_run_logger().info("%d tables are kept level, %d of them by a hidden column.", len(live.tables), hidden)
    return live
