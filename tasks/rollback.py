"""The rollback: the switch the other way, also without PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task

from pgferry.live import emergency, turning
from pgferry.live.emergency import Carried, Emergency
from pgferry.live.forms import from_json
from pgferry.live.model import Live
from pgferry.live.turning import Returned
from pgferry.model import Key
from pgferry.postgres.journal import read_forms
from pgferry.settings import load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT
from tasks.turning import told

SHOWN_KEYS = 200
"""Keys that were left behind that an artifact shows, at the most; the ledger has all of them."""


@task(name="roll back", task_run_name="put SQLite in front", persist_result=False)
def roll_back(live: Live) -> Returned:
    """Fence PostgreSQL, carry what is left, compare it, point the application back, and free SQLite."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Returned:
        async with session(url, settings) as connection:
            forms = from_json(await read_forms(connection, live.run_id))
            return await turning.roll_back(connection, live, settings, forms)

    returned = wait_for(work())
    create_markdown_artifact(
        f"## SQLite is in front\n\n{told(returned)}", key="rollback", description="The rollback, and its write freeze"
    )
    get_run_logger().info("SQLite is in front: %s.", told(returned))
    return returned


@task(name="emergency", task_run_name="put SQLite in front at once", **TRANSIENT)
def leave_postgres(file: Path) -> Emergency:
    """Put SQLite in front without speaking to PostgreSQL."""
    done = emergency.emergency(load_settings(), file)
    get_run_logger().warning("SQLite is in front. It has PostgreSQL's writes up to %s.", done.carried_until or "none")
    return done


@task(name="declare emergency", task_run_name="list what was left behind", persist_result=False)
def declare(live: Live) -> Mapping[str, Sequence[Key]]:
    """Tell PostgreSQL, and list the keys that were not carried; they are kept in the ledger."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Mapping[str, Sequence[Key]]:
        async with session(url, settings) as connection:
            return await emergency.declare_emergency(connection, live)

    left = wait_for(work())
    create_markdown_artifact(_left_markdown(left), key="left-behind", description="Rows that were not carried back")
    get_run_logger().warning("%d rows were left behind in PostgreSQL.", sum(map(len, left.values())))
    return left


@task(name="carry", task_run_name="carry what was left behind", **TRANSIENT)
def carry(live: Live, prefer: str) -> Carried:
    """Carry the rows that an emergency rollback left behind, and go back to dual-write."""
    url, settings = target_url(live.target), load_settings()

    async def work() -> Carried:
        async with session(url, settings) as connection:
            forms = from_json(await read_forms(connection, live.run_id))
            return await emergency.carry(connection, live, settings, forms, prefer)

    done = wait_for(work())
    get_run_logger().info("%d rows carried, %d given up.", done.carried, done.given_up)
    return done


def left_json(left: Mapping[str, Sequence[Key]]) -> dict[str, Any]:
    """Return keys for programs."""
    return {table: [[_plain(value) for value in key] for key in keys] for table, keys in left.items()}


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _left_markdown(left: Mapping[str, Sequence[Key]]) -> str:
    count = sum(map(len, left.values()))
    listed = [f"- {table}: {', '.join(map(str, key))}" for table, keys in left_json(left).items() for key in keys]
    more = [f"- … and {count - SHOWN_KEYS} more"] if count > SHOWN_KEYS else []
    return "\n".join([f"## {count:,} rows were left behind in PostgreSQL", "", *listed[:SHOWN_KEYS], *more])
