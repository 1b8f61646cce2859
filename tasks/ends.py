"""Where a move comes from and where it goes: names in, files and URLs out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncpg
from prefect.blocks.system import Secret
from sqlalchemy.engine import URL

from pgferry.errors import UsageError
from pgferry.interrupts import run
from pgferry.postgres import embedded
from pgferry.postgres.connection import Connection, connection
from pgferry.postgres.embedded import DATABASE
from pgferry.postgres.pooling import refuse_shared_session
from pgferry.postgres.problems import explain
from pgferry.settings import Settings, load_settings, parse_target
from tasks.worker import cluster_process

SECRET = "secret/"
"""What the name of a target begins with when it is a Prefect Secret block."""

T = TypeVar("T")


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run async work of the library to its end, in a loop of its own: sync tasks run on threads without one."""
    return run(work)


def source_path(name: str) -> Path:
    """Return the SQLite file that a flow's `source` parameter names; empty means the settings' own."""
    return (Path(name) if name else load_settings().source_path()).resolve()


def target_url(name: str) -> URL:
    """Return the URL that a flow's `target` parameter names.

    A name is an environment variable's, or `secret/BLOCK` for a Prefect Secret block; empty means PGFERRY_TARGET, and
    without that the embedded server, which is started when it does not run. A URL itself is refused: Prefect keeps
    parameters in plain text. Raises UsageError.
    """
    if "://" in name:
        raise UsageError(
            "A connection URL is no parameter: Prefect stores and shows parameters in plain text.",
            f"Give the name of an environment variable that holds it, or {SECRET}NAME for a Prefect Secret block.",
        )
    if name.startswith(SECRET):
        return parse_target(_secret(name.removeprefix(SECRET)))
    if name and name != "PGFERRY_TARGET":
        text = os.environ.get(name)
        if not text:
            raise UsageError(
                f"The environment variable {name} is not set{_in_process()}.",
                "Set it to the target's URL, and in the environment of a cluster's workers, too.",
            )
        return parse_target(text)
    settings = load_settings()
    return settings.target_url() or _embedded_url(settings)


@asynccontextmanager
async def session(url: URL, settings: Settings) -> AsyncIterator[Connection]:
    """Hold a connection to the target; a driver's error inside the block becomes pgferry's own, with its cure.

    Raises SharedSession behind a pooler that gives no session of one's own.
    """
    async with connection(
        url,
        timeout=settings.connect_timeout,
        statement_timeout=settings.statement_timeout,
        stall_timeout=settings.stall_timeout,
    ) as opened:
        try:
            await refuse_shared_session(opened, url, settings.connect_timeout)
            yield opened
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise explain(error, url) from error


def _secret(block: str) -> str:
    try:
        loaded = cast("Secret[str]", Secret.load(block))
        return loaded.get()
    except ValueError as error:
        raise UsageError(
            f"There is no Prefect Secret block {block!r}.", "Create it: `prefect block create secret`, or in the UI."
        ) from error


def _in_process() -> str:
    process = cluster_process()
    return f" in the cluster's process {process}" if process else ""


def _embedded_url(settings: Settings) -> URL:
    if settings.task_runner_address:
        raise UsageError(
            f"The cluster at {settings.task_runner_address} cannot reach the embedded server, which is this machine's.",
            "Name a server with PGFERRY_TARGET, here and in the environment of each worker.",
        )
    if cluster_process() is not None and embedded.running(settings.home) is None:
        # Starting one would be worse: rows would go to a server that nobody meant.
        raise UsageError(
            f"The cluster's process {cluster_process()} knows no target, and no embedded server runs here.",
            "Set PGFERRY_TARGET in the environment of each worker.",
        )
    server = embedded.start(settings.home)
    return wait_for(embedded.create_database(server, DATABASE))
