"""The move without downtime on the command line: `python -m flows dual-write | sync | switch | rollback | …`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.command import (
    Config,
    Debug,
    Json,
    NoUi,
    Source,
    Target,
    check_migrations,
    check_target,
    checked_settings,
    choose_prefect,
    confirm_database,
    errors_in_words,
    quiet_prefect,
)
from flows.display import display, say
from flows.results_live import (
    Result,
    print_result,
    show_cleanup,
    show_dual_write,
    show_rollback,
    show_status,
    show_switch,
    show_sync,
    show_validation,
)
from pgferry.errors import FerryError, UsageError
from pgferry.postgres.place import find_place
from pgferry.settings import Settings, load_settings, named_source

live = typer.Typer()

RESTART = "--restart empties the tables that an earlier run loaded"
"""What is said before a name is asked for."""

CLEANUP = "The cleanup takes away the way back to SQLite"

LEVELS = ("counts", "sample", "cells")

Level = Annotated[str, typer.Option(help="counts, sample or cells; only cells counts for the switch.")]
Sample = Annotated[float, typer.Option(min=0.001, max=100.0, help="Percent of each table that a sample compares.")]
Repair = Annotated[bool, typer.Option("--repair", help="Mend differing rows from the side in front, and look again.")]
Queries = Annotated[Path, typer.Option(help="Folder of the application's SELECTs, which are run on both sides.")]
Plan = Annotated[bool, typer.Option("--plan", help="Propose the schema from the data; no migrations needed.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on after the schema changed: copy only the tables concerned.")
]
Undo = Annotated[bool, typer.Option("--undo", help="Leave dual-write: remove what was installed in SQLite.")]
Restart = Annotated[bool, typer.Option("--restart", help="Empty what an earlier run loaded, and begin anew.")]
Confirm = Annotated[str, typer.Option(help="The target database's name, to confirm without a prompt.")]
Follow = Annotated[bool, typer.Option("--follow", help="Stay, and carry each change within moments of its commit.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only measure the gates and say what would be done.")]
Approve = Annotated[bool, typer.Option("--approve", help="Wait until a person approves in the Prefect UI.")]
Emergency = Annotated[
    bool, typer.Option("--emergency", help="Point back at once, without PostgreSQL; list what stays behind.")
]
Carry = Annotated[bool, typer.Option("--carry", help="After an emergency: carry what was left behind.")]
Prefer = Annotated[str, typer.Option(help="With --carry, who is right about a row written on both sides.")]


@live.command("dual-write")
def dual_write(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    plan: Plan = False,
    resume: Resume = False,
    undo: Undo = False,
    restart: Restart = False,
    confirm: Confirm = "",
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Begin the move without downtime: copy the database while the application writes on, then become level."""
    with errors_in_words(debug):
        _refuse_several(plan=plan and (resume or undo), resume=resume, undo=undo, restart=restart)
        settings = checked_settings(source, target, config)
        if restart:
            confirm_database(settings, RESTART, "--restart", confirm)
        if not (plan or undo):
            check_migrations(settings)
        check_target(settings)

        def run() -> Any:
            from flows.dual_write import dual_write as flow

            return flow(
                source=str(settings.source_path()),
                config=str(config or ""),
                plan=plan,
                resume=resume,
                undo=undo,
                restart=restart,
            )

        _run(run, show_dual_write, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@live.command()
def sync(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    follow: Follow = False,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Carry what was written to the side in front to the other one; --follow stays until Ctrl-C."""
    with errors_in_words(debug):
        settings = given(source, target, config)

        def run() -> Any:
            from flows.sync import sync as flow

            return flow(source=_named(settings), config=str(config or ""), follow=follow)

        _run(run, show_sync, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@live.command()
def validate(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    level: Level = "cells",
    sample: Sample = 10.0,
    repair: Repair = False,
    queries: Queries = Path("queries"),
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Compare both sides, held at one moment while the application writes on; exit code 3 when anything differs."""
    with errors_in_words(debug):
        if level not in LEVELS:
            raise UsageError(f"There is no level {level!r}.", f"Give --level {', '.join(LEVELS)}.")
        settings = given(source, target, config)

        def run() -> Any:
            from flows.validate import validate as flow

            return flow(
                source=_named(settings),
                config=str(config or ""),
                level=level,
                sample=sample,
                repair=repair,
                queries=str(queries),
            )

        _run(run, show_validation, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@live.command()
def switch(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    dry_run: DryRun = False,
    approve: Approve = False,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Put PostgreSQL in front: gates, fence, drain, compare, .env, restart, health check, tests; or nothing at all."""
    with errors_in_words(debug):
        if approve and no_ui:
            raise UsageError("Nobody can approve without a Prefect server.", "Leave out --no-ui.")
        settings = given(source, target, config)

        def run() -> Any:
            from flows.switch import switch as flow

            return flow(source=_named(settings), config=str(config or ""), dry_run=dry_run, approve=approve)

        _run(run, show_switch, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@live.command()
def rollback(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    emergency: Emergency = False,
    carry: Carry = False,
    prefer: Prefer = "",
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Put SQLite in front again, with every write that PostgreSQL has taken since."""
    with errors_in_words(debug):
        _refuse_several(emergency=emergency, carry=carry)
        if prefer not in ("", "postgres", "sqlite") or (prefer and not carry):
            raise UsageError("--prefer goes with --carry.", "Give --prefer postgres or --prefer sqlite.")
        settings = given(source, target, config)
        if emergency:
            _leave_postgres_first(settings)

        def run() -> Any:
            from flows.rollback import rollback as flow

            return flow(
                source=_named(settings), config=str(config or ""), emergency=emergency, carry=carry, prefer=prefer
            )

        _run(run, show_rollback, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@live.command()
def cleanup(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    dry_run: DryRun = False,
    confirm: Confirm = "",
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """End the move: remove what it left in both databases, and archive the SQLite file."""
    with errors_in_words(debug):
        settings = given(source, target, config)
        named = "" if dry_run else confirm_database(settings, CLEANUP, "", confirm)

        def run() -> Any:
            from flows.cleanup import cleanup as flow

            return flow(source=_named(settings), config=str(config or ""), dry_run=dry_run, confirm=named)

        _run(run, show_cleanup, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@live.command()
def status(
    source: Source = None,
    target: Target = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the phase, the lag, the last validations, the gates and the next action; needs no Prefect server."""
    with errors_in_words(debug):
        settings = given(source, target, config)
        result = asyncio.run(_read_status(settings))
        print_result(result, show_status, None, "", as_json=as_json)


def given(source: Path | None, target: str | None, config: Path | None) -> Settings:
    """Put the options where every part finds them. After the switch no source need be named: the ledger knows it."""
    if target is not None:
        os.environ["PGFERRY_TARGET"] = target
    settings = load_settings(source=source, config=config)
    settings.rules()
    if settings.target_url() is None and not find_place(settings.home).data.exists():
        raise UsageError(
            f"No target is named, and {settings.home} holds no embedded server: no move was begun from here.",
            "Set PGFERRY_TARGET, or PGFERRY_HOME to the folder of the move, or run `python -m flows dual-write`.",
        )
    return settings


def _named(settings: Settings) -> str:
    return str(named_source(settings) or "")


def _run(
    flow: Callable[[], Any],
    show: Callable[[Console, Result], None],
    settings: Settings,
    *,
    as_json: bool,
    no_ui: bool,
    debug: bool,
) -> None:
    """Run a flow and print what it returns; with a result in its error, that is printed before the error is told."""
    server = choose_prefect(settings, no_ui=no_ui)
    failure: FerryError | None = None
    with display(silent=as_json) as clock, quiet_prefect(debug):
        try:
            result = flow()
        except FerryError as error:
            result, failure = error.details.get("result"), error
    if result is not None:
        print_result(result, show, server, clock.run_id, as_json=as_json)
    if failure is not None:
        raise failure


def _refuse_several(**chosen: bool) -> None:
    names = [f"--{name}" for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} do not go together.", "Give one of them.")


def _leave_postgres_first(settings: Settings) -> None:
    """Put SQLite in front before anything else is started; the flow then does the same once more, for the record."""
    from pgferry.live import application
    from pgferry.live.emergency import emergency
    from pgferry.live.front import restarted
    from pgferry.live.which import emergency_source

    file = emergency_source(settings)
    done = emergency(settings, file)
    say(f"SQLite is in front: {file}.")
    if done.turned:
        seconds = application.restart(settings, settings.target_url())
        restarted(file)
        say("Restart the application now." if seconds is None else "The application was restarted.")


async def _read_status(settings: Settings) -> dict[str, Any]:
    # No Prefect here: its import alone takes longer than the answer.
    from pgferry.live.status import read_status
    from pgferry.live.which import known_run
    from pgferry.postgres import embedded
    from pgferry.postgres.connection import connection
    from pgferry.replay import replay_rules

    url = settings.target_url()
    if url is None:
        url = await embedded.create_database(embedded.start(settings.home), embedded.DATABASE)
    async with connection(url, timeout=settings.connect_timeout) as opened:
        run = await known_run(opened, named_source(settings))
        read = await read_status(opened, run, settings, replay_rules(settings, Path(run.source)))
        return read.to_json()
