"""The checklist before a move, executed."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.futures import call
from flows.names import run_name
from pgferry.operate.preflight import judge, to_json
from pgferry.progress import reporter
from tasks.ends import source_path
from tasks.preflight import go_through


@flow(name="preflight", flow_run_name=run_name)
def preflight(source: str = "", target: str = "", config: str = "") -> dict[str, Any]:
    """Measure and judge what a move needs, line by line: pass, warn or fail, and what to do; changes nothing.

    Args:
        source: the SQLite file; empty for the one that the settings name.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.

    Returns:
        The checks. The run fails when one of them does.
    """
    reporter().run(str(flow_run.id))

    # 1. Go through the checklist.
    reporter().step("go through the checklist")
    checks = call(go_through, source_path(source), target, config)

    # 2. A check that fails is a run that fails.
    judge(checks)
    return to_json(checks)
