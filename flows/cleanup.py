"""The cleanup: the end of a move without downtime."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.approval import ask_for_approval
from flows.futures import call
from flows.names import live_run_name
from pgferry.errors import UsageError
from pgferry.live.model import Phase
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.settings import load_settings, named_source
from tasks.cleanup import clean_up, find_to_clean_up, finish_cleanup, plan_cleanup
from tasks.ends import target_url
from tasks.live import Found, read_live, refuse_nowhere
from tasks.status import measure_gates
from tasks.switch import gates_json, refuse_closed


@flow(name="cleanup", flow_run_name=live_run_name)
def cleanup(
    source: str = "",
    target: str = "",
    config: str = "",
    dry_run: bool = False,
    confirm: str = "",
    approve: bool = False,
) -> dict[str, Any]:
    """Remove triggers, outboxes, hidden columns and staging, and keep a checked archive of the final SQLite file.

    There is no way back to SQLite afterwards. Killed at any moment, the same call goes on.

    Args:
        source: the SQLite file; empty for the settings' own, or the only one that is kept level with the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        dry_run: measure the gates, list what would be removed, and do nothing more.
        confirm: the target database's name, without which nothing is removed; not needed where a person approves.
        approve: pause when the gates are open, until a person approves in the Prefect UI.

    Returns:
        The gates, what was removed, and where the archive is.
    """
    reporter().run(str(flow_run.id))

    # 1. The move, and where it stands.
    settings = load_settings(source=source or None, config=config or None)
    refuse_nowhere(target, settings)
    url = target_url(target)
    found = call(find_to_clean_up, named_source(settings), target)

    # 2. The gates, each with its measured value; a cleanup that was cut off has passed them.
    reporter().step("measure the gates")
    gates = call(measure_gates, found.run, target, config, "cleanup-gates")
    result: dict[str, Any] = {"run": found.run.id, "phase": str(found.record.phase), "gates": gates_json(gates)}
    if dry_run:
        with RunLock(url, found.run.source):
            planned = call(plan_cleanup, found.run, target)
            return {**result, "planned": list(planned)}
    refuse_closed(gates, "cleanup")

    # 3. A person's word: now in the Prefect UI, or given before.
    if approve:
        what = f"The move ends: what it left is removed, and there is no way back to {found.run.source}."
        result["approved_by"] = ask_for_approval("cleanup", what, str(url.database), settings.approval_timeout, gates)
    else:
        _refuse_unconfirmed(found, str(url.database), confirm)

    with RunLock(url, found.run.source):
        # 4. The gates once more, now that nothing else is at work.
        refuse_closed(call(measure_gates, found.run, target, config, "cleanup-gates"), "cleanup")

        # 5. Carry the last changes, archive, remove; of one that was cut off, do what is left of it.
        reporter().step("remove what is left of the move")
        if found.record.phase is Phase.CLEANED:
            done = call(finish_cleanup, found.run, target)
        else:
            done = call(clean_up, call(read_live, found.run, target, config))
        return {
            **result,
            "phase": str(Phase.CLEANED),
            "removed": list(done.removed),
            "archive": asdict(done.archive),
        }


def _refuse_unconfirmed(found: Found, database: str, confirm: str) -> None:
    if confirm != database:
        raise UsageError(
            f"The cleanup takes away the way back to {found.run.source}.",
            f"Confirm it by the database's name: --confirm {database}",
        )
