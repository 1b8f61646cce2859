"""The rollback: SQLite takes over again, and no write is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.approval import ask_for_approval
from flows.choices import SideName
from flows.futures import call
from flows.names import live_run_name
from pgferry.errors import FerryError
from pgferry.live.front import restarted
from pgferry.live.model import Phase
from pgferry.live.turning import Returned
from pgferry.live.which import emergency_source
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.settings import Settings, load_settings, named_source
from tasks.application import restart_application, wait_until_healthy
from tasks.ends import target_url
from tasks.live import find_move, read_live, refuse_nowhere
from tasks.rollback import carry as carry_left
from tasks.rollback import declare, leave_postgres, left_json, roll_back
from tasks.turning import recover


@flow(name="rollback", flow_run_name=live_run_name)
def rollback(
    source: str = "",
    target: str = "",
    config: str = "",
    emergency: bool = False,
    carry: bool = False,
    prefer: SideName = "",
    approve: bool = False,
) -> dict[str, Any]:
    """Put SQLite in front again: fence PostgreSQL, carry and compare what is left, `.env`, restart, health check.

    Args:
        source: the SQLite file; empty for the settings' own, or the only one that is kept level with the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        emergency: point back at once, without PostgreSQL; what it holds that was not carried is listed and kept.
        carry: after an emergency, carry what was left behind, and go back to dual-write.
        prefer: with carry, which side is right where a row was written on both: `postgres` or `sqlite`.
        approve: pause until a person approves in the Prefect UI; an emergency is not kept waiting.

    Returns:
        The phase, what was carried and compared, and how long nobody could write.
    """
    reporter().run(str(flow_run.id))
    settings = load_settings(source=source or None, config=config or None)
    if emergency:
        return _emergency(target, config, settings)

    # 1. The move, and where it stands.
    refuse_nowhere(target, settings)
    url = target_url(target)
    command = "rollback --carry" if carry else "rollback"
    found = call(find_move, named_source(settings), target, command)

    # 2. A person's word, where it is asked for; the move may stand elsewhere by then.
    approved: dict[str, Any] = {}
    if approve:
        what = f"{found.run.source} is about to be in front again, with every write that PostgreSQL has taken."
        approved = {"approved_by": ask_for_approval("rollback", what, str(url.database), settings.approval_timeout)}
        found = call(find_move, Path(found.run.source), target, command)
    result = {"run": found.run.id, **approved}

    with RunLock(url, found.run.source):
        if carry:
            # 3. What an emergency left behind; a row that was written on both sides needs a person's word.
            reporter().step("carry what was left behind")
            done = call(carry_left, call(read_live, found.run, target, config), prefer)
            return {**result, "phase": "dual-write", "carried": done.carried, "given_up": done.given_up}

        # 3. What a killed command left half-way is put in order first; that may be all there is to do.
        reporter().step("put in order what was cut off")
        returned = call(recover, found.run, target, config)
        found = call(find_move, Path(found.run.source), target)

        # 4. Fence PostgreSQL, carry what is left, compare, `.env`, free SQLite; or PostgreSQL stays in front.
        if found.record.phase is Phase.SWITCHED:
            reporter().step("fence PostgreSQL, carry what is left, point the application back")
            returned = call(roll_back, call(read_live, found.run, target, config))

            # 5. The application follows.
            reporter().step("restart the application")
            call(restart_application, url)
            restarted(Path(found.run.source))
            call(wait_until_healthy)
        return {**result, **_told(returned)}


def _emergency(target: str, config: str, settings: Settings) -> dict[str, Any]:
    # 1. SQLite in front, without a word to PostgreSQL.
    reporter().step("put SQLite in front at once")
    file = emergency_source(settings)
    done = call(leave_postgres, file)
    if done.turned:
        call(restart_application, settings.target_url())
        restarted(file)
        call(wait_until_healthy)
    result = {"source": str(file), "carried_until": done.carried_until}
    if not done.left_behind:
        # No switch was decided. The ledger is put in order by the next command that can reach it.
        return {**result, "phase": "", "left": {}}
    result |= {"phase": str(Phase.EMERGENCY), "left": None}

    # 2. Where PostgreSQL can be reached after all: list what it was left with, and keep that.
    reporter().step("list what was left behind")
    try:
        # Not tried again: who is in an emergency does not wait for PostgreSQL.
        found = call(find_move.with_options(retries=0), file, target, "rollback --emergency")
        left = call(declare, call(read_live.with_options(retries=0), found.run, target, config))
    except FerryError as error:
        get_run_logger().warning("What was left behind is listed when PostgreSQL can be reached: %s", error.message)
        return {**result, "unreachable": error.message}
    return {**result, "run": found.run.id, "left": left_json(left)}


def _told(returned: Returned | None) -> dict[str, Any]:
    if returned is None:
        return {"phase": str(Phase.DUAL_WRITE), "carried": 0, "compared": 0, "frozen_seconds": 0.0}
    return {
        "phase": str(Phase.DUAL_WRITE),
        "carried": returned.carried,
        "compared": returned.compared,
        "frozen_seconds": round(returned.seconds, 3),
    }
