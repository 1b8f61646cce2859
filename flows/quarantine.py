"""The rows that a move kept aside, tried again after a rule was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.futures import call
from flows.names import run_name
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.replay import Replay, TableReplay, judge_replay, replay_rules
from pgferry.settings import load_settings, named_source
from tasks.ends import target_url
from tasks.quarantine import conclude, find_finished_run, prepare, replay_table


@flow(name="quarantine-replay", flow_run_name=run_name)
def quarantine_replay(
    source: str = "", target: str = "", config: str = "", tables: list[str] | None = None
) -> dict[str, Any]:
    """Load quarantined rows that fit by the rules of now, each exactly once.

    Killed at any moment, the same call goes on where it was. Rows that still do not fit stay, with the reason of now.

    Args:
        source: the SQLite file that was moved; empty for the settings' own, or the only one in the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        tables: the source's names of the tables to replay; all when empty.

    Returns:
        What was loaded and what stays, per table, and the run's report. The run fails when rows stay that are not
        accepted by configuration.
    """
    reporter().run(str(flow_run.id))

    # 1. Where from, where to.
    reporter().step("find the finished run")
    settings = load_settings(source=source or None, config=config or None)
    file, url = named_source(settings), target_url(target)

    with RunLock(url, str(file or "quarantine")):
        # 2. The run, and its snapshot: everything is read from that.
        run = call(find_finished_run, file, target)

        # 3. The tables with quarantined rows, paired as the run did it, with the value rules of now.
        reporter().step("pair tables by the rules of now")
        work = call(prepare, run, replay_rules(settings, Path(run.source)), target, tuple(tables or ()))

        # 4. Try the rows again, table by table; those whose parents were missing once more, as long as parents come.
        reporter().step("replay")
        done = {table: call(replay_table, work, table) for table in work.reads}
        while waiting := [table for table, result in done.items() if result.orphans]:
            later = _once_more(work, waiting)
            done |= {table: done[table].then(result) for table, result in later.items()}
            if not any(result.loaded for result in later.values()):
                break

        # 5. Statistics, the books, the report; rows that stay are a failure unless they are accepted.
        reporter().step("conclude")
        result = call(conclude, work, tuple(done.values()))
        judge_replay(result)
        return result.to_json()


def _once_more(work: Replay, tables: list[str]) -> dict[str, TableReplay]:
    return {table: call(replay_table, work, table, True) for table in tables}
