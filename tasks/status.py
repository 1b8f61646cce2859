"""Where a live move stands, read and shown."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from sqlalchemy.engine import URL

from pgferry.live.gates import Gate
from pgferry.live.status import Status, markdown, read_status
from pgferry.live.which import known_run
from pgferry.postgres.ledger import Run
from pgferry.replay import replay_rules
from pgferry.settings import Settings, load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT
from tasks.switch import show_gates


def status_now(url: URL, settings: Settings, source: Path | None) -> Status:
    """Read where the move of this source, or the only one, stands. Needs no Prefect server."""

    async def work() -> Status:
        async with session(url, settings) as connection:
            run = await known_run(connection, source)
            return await read_status(connection, run, settings, replay_rules(settings, Path(run.source)))

    return wait_for(work())


@task(name="read status", task_run_name="read where the move stands", **TRANSIENT)
def show_status(source: Path | None, target: str, config: str) -> Status:
    """Read where the move stands, and keep it as an artifact."""
    status = status_now(target_url(target), load_settings(config=config or None), source)
    create_markdown_artifact(
        markdown(status), key="status", description=f"{Path(status.source).name} is in phase {status.phase.phase}"
    )
    get_run_logger().info("%s is in phase %s. %s", status.source, status.phase.phase, status.next_action)
    return status


@task(name="measure gates", task_run_name="measure the gates", **TRANSIENT)
def measure_gates(run: Run, target: str, config: str, key: str) -> tuple[Gate, ...]:
    """Measure the gates of the phase's next step, and show each with its value."""
    url, settings = target_url(target), load_settings(config=config or None)

    async def work() -> tuple[Gate, ...]:
        async with session(url, settings) as connection:
            rules = replay_rules(settings, Path(run.source))
            return (await read_status(connection, run, settings, rules)).gates

    gates = wait_for(work())
    show_gates(gates, key)
    return gates
