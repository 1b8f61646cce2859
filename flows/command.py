"""What the commands of the command line share: options, settings, the choice of a Prefect server, errors in words."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.engine import URL

from flows.display import say
from pgferry.errors import FerryError, Transient, UsageError
from pgferry.interrupts import hides_interrupt
from pgferry.postgres.connection import connection
from pgferry.postgres.embedded import DATABASE
from pgferry.private import make_folder
from pgferry.settings import Settings, load_settings, safe_url
from pgferry.sqlite.connect import open_read_only

LOCK_SECONDS = 60.0
"""How long a source that another program has locked is waited for before anything is begun."""

Source = Annotated[Path | None, typer.Option(help="The SQLite file; by default that of the settings or of .env.")]
Target = Annotated[
    str | None,
    typer.Option(help="The PostgreSQL URL; by default PGFERRY_TARGET, else the embedded server. A password is seen in "
                 "the process list: better in PGFERRY_TARGET."),
]  # fmt: skip
Config = Annotated[
    Path | None, typer.Option(help="Rules for tables and columns; by default pgferry.toml if it exists.")
]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
NoUi = Annotated[bool, typer.Option("--no-ui", help="Run without a Prefect server: task records are not kept.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]


def checked_settings(source: Path | None, target: str | None, config: Path | None) -> Settings:
    """Put the options where every part of the move finds them, and check them before anything starts."""
    if target is not None:
        os.environ["PGFERRY_TARGET"] = target
    settings = load_settings(source=source, config=config)
    settings.rules()
    settings.target_url()
    _open_source(settings.source_path())
    return settings


def _open_source(path: Path) -> None:
    """Open the source and leave; one that another program has locked is waited for, in pieces that Ctrl-C can end."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            open_read_only(path, busy_seconds=1.0).close()
        except Transient:
            if time.monotonic() > deadline:
                raise
        else:
            return


def check_migrations(settings: Settings) -> None:
    """Raise UsageError when there is no Alembic environment to make the schema with."""
    # Alembic's import takes a third of a second, which commands that only look need not wait for.
    from pgferry.postgres.environment import read_config

    read_config(settings.alembic_config)


def check_target(settings: Settings) -> None:
    """Connect to the named target and leave: what is wrong there is told before a Prefect server is started."""
    url = settings.target_url()
    if url is not None:
        asyncio.run(_connect_once(url, settings.connect_timeout))


async def _connect_once(url: URL, timeout: float) -> None:
    async with connection(url, timeout=timeout):
        pass


def choose_prefect(settings: Settings, *, no_ui: bool) -> str | None:
    """Choose the Prefect server of this process, before anything imports Prefect; returns the UI's address."""
    if no_ui:
        say("Running without a Prefect server: task records are not kept.")
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop("PREFECT_PROFILE", None)
        home = settings.home.absolute() / "prefect-without-server"
        # Prefect makes the last folder only, and without it its server fails again and again for minutes.
        make_folder(home)
        os.environ |= {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        return None
    from flows.prefect_server import connect_environment, ensure_server

    server = ensure_server(settings.home, say)
    connect_environment(server)
    return server.ui_url


def confirm_database(settings: Settings, what: str, option: str, confirm: str) -> str:
    """Let a person name the target's database before something is taken away; raises UsageError for any other name.

    `what` says what is taken away; `option` is what to give besides `--confirm`.
    """
    url = settings.target_url()
    database = DATABASE if url is None else str(url.database)
    where = "the embedded server" if url is None else safe_url(url)
    if not confirm and sys.stdin.isatty():
        confirm = typer.prompt(f"{what} on {where}. Type the database's name to go on", err=True)
    if confirm != database:
        raise UsageError(
            f"{what} in database {database!r} on {where}.", f"Confirm it by name: {option} --confirm {database}".strip()
        )
    return confirm


@contextmanager
def quiet_prefect(debug: bool) -> Iterator[None]:
    """Keep Prefect's log off the screen: its lines go to the server, and errors are told in words at the end.

    It stays off when the block has ended: what is left to be sent is told of then, until the process ends.
    """
    if not debug:
        import logging

        # For the processes of a cluster, which this one starts; read by Prefect when it is imported there.
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        from prefect import flow  # noqa: F401  the console handler is there only once this is imported

        for handler in logging.getLogger().handlers:
            if type(handler).__name__ == "PrefectConsoleHandler":
                handler.setLevel(logging.CRITICAL + 1)
    with _ended_at_once():
        yield


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Let flow runs end without the thread that tells Prefect of their life: its end takes up to a second.

    It is for automations, which look for runs that fell silent; whoever has set how often it tells is not overruled.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings

    chosen = "heartbeat_frequency" in get_current_settings().flows.model_fields_set
    with nullcontext() if chosen else temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@contextmanager
def errors_in_words(debug: bool) -> Iterator[None]:
    """Tell an error in one line on stderr, and end with its exit code; `debug` shows where it happened, too."""
    try:
        yield
    except FerryError as error:
        if debug:
            traceback.print_exc()
        say(f"Error: {error}")
        raise typer.Exit(error.exit_code) from error
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        say(_said(error))
        raise typer.Exit(1) from error


def _said(error: BaseException) -> str:
    if hides_interrupt(error):
        return "Interrupted. Nothing is lost: the same command goes on from here."
    return f"Error: {_prefect_is_away(error) or _unforeseen(error)}"


def _prefect_is_away(error: BaseException) -> str | None:
    """Return what to say when Prefect's client has given its server up; None for any other error."""
    # By its name: importing httpx takes time that commands which end well need not spend.
    if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
        return None
    server = re.sub(r"//[^/@]*@", "//", os.environ.get("PREFECT_API_URL", "its address"))
    return (
        f"The Prefect server at {server} does not answer any more ({str(error) or type(error).__name__}). "
        "What is done is recorded in the target. Start that server, or give --no-ui, and run the same command again: "
        "it goes on from here."
    )


def _unforeseen(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}. This was not foreseen; --debug shows where it happened."
