"""The switch: its gates, the approach, the taking over, and its end."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task

from pgferry.errors import UsageError
from pgferry.live import approach as approaching
from pgferry.live import switch as switching
from pgferry.live.approach import Approached
from pgferry.live.gates import Gate, closed
from pgferry.live.model import Live
from pgferry.live.switch import TakenOver
from pgferry.report import markdown_cell, markdown_table
from pgferry.settings import load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


def show_gates(gates: tuple[Gate, ...], key: str) -> None:
    """Show the gates as a page, and log those that are closed."""
    create_markdown_artifact(_gates_markdown(gates), key=key, description=_gates_said(gates))
    for gate in closed(gates):
        get_run_logger().warning("Closed: %s: %s; needed: %s. %s", gate.name, gate.measured, gate.needed, gate.action)
    get_run_logger().info("%s.", _gates_said(gates))


def _gates_said(gates: tuple[Gate, ...]) -> str:
    return f"{len(gates) - len(closed(gates))} of {len(gates)} gates are open"


def _gates_markdown(gates: tuple[Gate, ...]) -> str:
    rows = [(gate.name, "open" if gate.passed else "**CLOSED**", gate.measured, gate.needed) for gate in gates]
    table = markdown_table(
        ("gate", "state", "measured", "needed"), [[markdown_cell(cell) for cell in row] for row in rows]
    )
    actions = [f"- **{gate.name}**: {markdown_cell(gate.action)}" for gate in closed(gates)]
    return "\n".join([f"## {_gates_said(gates)}", "", table, "", *actions])


def gates_json(gates: tuple[Gate, ...]) -> list[dict[str, Any]]:
    """Return the gates for programs."""
    return [
        {
            "gate": gate.name,
            "open": gate.passed,
            "measured": gate.measured,
            "needed": gate.needed,
            "action": "" if gate.passed else gate.action,
        }
        for gate in gates
    ]


def refuse_closed(gates: tuple[Gate, ...], command: str) -> None:
    """Raise UsageError naming every closed gate with its measured value and what to do."""
    shut = closed(gates)
    if shut:
        words = "; ".join(f"{gate.name}: {gate.measured} (needed: {gate.needed})" for gate in shut)
        raise UsageError(
            f"{command} is refused: {words}.", " ".join(dict.fromkeys(gate.action for gate in shut)), gates=gates
        )


@task(name="drain", task_run_name="carry what was written before the fence", **TRANSIENT)
def drain(live: Live) -> int:
    """Carry what was written to SQLite before a maintenance window; returns the rows carried."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> int:
        async with session(url, settings) as connection:
            return await switching.drain(connection, live)

    rows = wait_for(work())
    get_run_logger().info("%d rows carried.", rows)
    return rows


@task(name="approach", task_run_name="compare what changed since the last validation", **TRANSIENT)
def approach(live: Live) -> Approached:
    """Compare the rows that were carried since the last validation, and learn in which forms values go back."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Approached:
        async with session(url, settings) as connection, session(url, settings) as holder:
            return await approaching.approach(connection, holder, live, settings.home.absolute() / "backups")

    done = wait_for(work())
    get_run_logger().info("%d rows compared before the fence, forms of %d columns learnt.", done.compared, done.columns)
    return done


# Not tried again: whatever fails behind the fence must take it down at once.
@task(name="take over", task_run_name="put PostgreSQL in front", persist_result=False)
def take_over(live: Live) -> TakenOver:
    """Fence SQLite, carry and compare what is left, and point the application at PostgreSQL."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> TakenOver:
        async with session(url, settings) as connection:
            return await switching.take_over(connection, live, settings, url)

    taken = wait_for(work())
    get_run_logger().info(
        "%d rows drained, %d compared, in %.2f s without writes.", taken.drained, taken.compared, taken.seconds
    )
    return taken


@task(name="finish switch", task_run_name="enter phase switched", persist_result=False)
def finish(live: Live, taken: TakenOver) -> None:
    """Record that PostgreSQL is in front."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> None:
        async with session(url, settings) as connection:
            await switching.finish_switch(connection, live, taken)

    wait_for(work())
    get_run_logger().info("PostgreSQL is in front.")


@task(name="validate foreign keys", task_run_name="validate foreign keys", **TRANSIENT)
def validate_foreign_keys(live: Live) -> tuple[str, ...]:
    """Validate the foreign keys that the switch has added; returns what stands against any."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> tuple[str, ...]:
        async with session(url, settings) as connection:
            return await switching.validate_foreign_keys(connection, live)

    problems = wait_for(work())
    for problem in problems:
        get_run_logger().warning("%s", problem)
    get_run_logger().info("Foreign keys are validated; %d are not.", len(problems))
    return problems


@task(name="show switch", task_run_name="report")
def show_switch(switched: dict[str, Any]) -> None:
    """Show how long nobody could write, step by step."""
    steps = [[name, f"{seconds:.3f}"] for name, seconds in switched["frozen"].items()]
    lines = [
        f"## PostgreSQL is in front; writes were frozen for {switched['frozen_seconds']:.2f} s",
        "",
        markdown_table(["step", "seconds"], steps),
        "",
        f"- {switched['drained']:,} rows were drained, {switched['compared']:,} compared once more",
        f"- {switched['foreign_keys_added']:,} foreign keys were added",
        *(f"- {markdown_cell(problem)}" for problem in switched["foreign_key_problems"]),
    ]
    create_markdown_artifact("\n".join(lines), key="switch", description="The switch, and its write freeze by step")
    get_run_logger().info("Writes were frozen for %.2f s.", switched["frozen_seconds"])
