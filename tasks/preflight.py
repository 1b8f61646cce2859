"""The checklist before a move, gone through and shown."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from sqlalchemy.engine import URL

from pgferry.errors import FerryError
from pgferry.live.begin import refuse_unwritable
from pgferry.live.model import Phase
from pgferry.live.phases import current
from pgferry.operate.preflight import Check, failed, judge, markdown, run_checks, summary, to_json
from pgferry.operate.standing import standing_checks
from pgferry.postgres.connection import connection
from pgferry.postgres.ledger import Run
from pgferry.settings import Rules, Settings, load_settings
from tasks.artifacts import create_markdown_artifact, create_table_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


def checks_now(target: str, settings: Settings, rules: Rules, source: Path) -> tuple[Check, ...]:
    """Go through the checklist. Needs no Prefect server; a server that cannot be reached is a failed check."""
    url, problem = _reachable(target)
    named = bool(target) or settings.target_url() is not None

    async def work() -> tuple[Check, ...]:
        if url is None:
            return await run_checks(None, settings, rules, source, problem=problem, named=named)
        try:
            async with connection(
                url, timeout=settings.connect_timeout, statement_timeout=settings.statement_timeout
            ) as opened:
                return await run_checks(opened, settings, rules, source, url=url, named=named)
        except FerryError as error:
            return await run_checks(None, settings, rules, source, problem=error, named=named)

    return wait_for(work())


def _reachable(target: str) -> tuple[URL | None, FerryError | None]:
    try:
        return target_url(target), None
    except FerryError as error:
        return None, error


@task(name="look ahead", task_run_name="look for what stands in the way", **TRANSIENT)
def look_ahead(run: Run, target: str, config: str) -> tuple[Check, ...]:
    """Go through the quick checks before a live move begins; raises what stands in its way. One begun is let go on."""
    url, settings = target_url(target), load_settings(config=config or None)

    async def work() -> tuple[Check, ...]:
        async with session(url, settings) as opened:
            if (await current(opened, run.id)).phase is not Phase.NONE or run.snapshot is not None:
                return ()
            refuse_unwritable(Path(run.source), settings.rules())
            return await standing_checks(opened, settings, settings.rules(), Path(run.source), url)

    checks = wait_for(work())
    judge(checks)
    get_run_logger().info("%d checks; none stands in the way.", len(checks))
    return checks


@task(name="preflight", task_run_name="go through the checklist", **TRANSIENT)
def go_through(source: Path, target: str, config: str) -> tuple[Check, ...]:
    """Go through the checklist, and keep it as a table and as a list with what to do."""
    settings = load_settings(source=source, config=config or None)
    checks = checks_now(target, settings, settings.rules(), source)
    create_table_artifact(
        to_json(checks)["checks"], key="preflight-checks", description="Each check, what was measured, what to do"
    )
    create_markdown_artifact(markdown(checks), key="preflight", description=f"The checklist: {summary(checks)}")
    log = get_run_logger()
    for check in checks:
        tell = log.warning if check.advice else log.info
        tell("%s: %s: %s. %s", check.verdict, check.name, check.measured, check.advice)
    log.info("%d checks: %s; %d stand in the way.", len(checks), summary(checks), len(failed(checks)))
    return checks
