"""`python -m flows schema`: the application's revisions on the target. Only up and down need Prefect."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.command import Debug, Json, NoUi, Target, choose_prefect, confirm_database, errors_in_words, quiet_prefect
from flows.display import display, say
from pgferry.errors import UsageError
from pgferry.postgres.connection import Connection
from pgferry.postgres.place import find_place
from pgferry.settings import Settings, load_settings

schema = typer.Typer(
    help="The target's schema: run the application's revisions, look at them first, make new ones.",
    no_args_is_help=True,
)

AlembicConfig = Annotated[
    Path | None, typer.Option("--alembic-config", help="The Alembic configuration; by default PGFERRY_ALEMBIC_CONFIG.")
]
NoDump = Annotated[bool, typer.Option("--no-dump", help="Take no dump before.")]
SchemaOnly = Annotated[bool, typer.Option("--schema-only-dump", help="Leave the rows out of the dump.")]
AfterSwitch = Annotated[
    bool, typer.Option("--after-switch", help="Go on although SQLite is kept level; a changed column ends that.")
]
LockTimeout = Annotated[
    float, typer.Option(min=0, help="Seconds a statement waits for a lock before it is tried again; 0 is for ever.")
]
Confirm = Annotated[str, typer.Option(help="The target database's name, to confirm without a prompt.")]
Message = Annotated[str, typer.Option("--message", "-m", help="What the revision changes.")]
Autogenerate = Annotated[
    bool, typer.Option("--autogenerate", help="Write what differs between the models of env.py and the target.")
]
All = Annotated[
    bool, typer.Option("--all", help="Look at all revisions, not only at those that the target has not had.")
]

R = TypeVar("R")


@schema.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="The revision to go up to.")] = "head",
    target: Target = None,
    alembic_config: AlembicConfig = None,
    no_dump: NoDump = False,
    schema_only_dump: SchemaOnly = False,
    after_switch: AfterSwitch = False,
    lock_timeout: LockTimeout = 0.0,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Run the revisions that wait, with a dump from before where the target holds rows."""
    with errors_in_words(debug):
        settings = _settings(target, alembic_config)

        def run() -> Any:
            from flows.schema import schema_upgrade as flow

            return flow(
                revision=revision,
                dump=not no_dump,
                schema_only_dump=schema_only_dump,
                after_switch=after_switch,
                lock_timeout=lock_timeout,
            )

        _run(run, settings, as_json=as_json, no_ui=no_ui, debug=debug)


# Else `-1` would be taken for an option.
@schema.command(context_settings={"ignore_unknown_options": True})
def downgrade(
    revision: Annotated[str, typer.Argument(help="The revision to go down to; `base` is an empty schema.")],
    confirm: Confirm = "",
    target: Target = None,
    alembic_config: AlembicConfig = None,
    no_dump: NoDump = False,
    schema_only_dump: SchemaOnly = False,
    after_switch: AfterSwitch = False,
    lock_timeout: LockTimeout = 0.0,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Take revisions back, down to one; asks for the database's name, and takes a dump from before."""
    with errors_in_words(debug):
        settings = _settings(target, alembic_config)
        _refuse_nowhere(settings)
        named = confirm_database(settings, f"The downgrade to {revision} takes away tables and rows", "", confirm)

        def run() -> Any:
            from flows.schema import schema_downgrade as flow

            return flow(
                revision=revision,
                confirm=named,
                dump=not no_dump,
                schema_only_dump=schema_only_dump,
                after_switch=after_switch,
                lock_timeout=lock_timeout,
            )

        _run(run, settings, as_json=as_json, no_ui=no_ui, debug=debug)


@schema.command()
def base(
    confirm: Confirm = "",
    target: Target = None,
    alembic_config: AlembicConfig = None,
    no_dump: NoDump = False,
    as_json: Json = False,
    no_ui: NoUi = False,
    debug: Debug = False,
) -> None:
    """Take every revision back: `downgrade base`."""
    downgrade(
        "base",
        confirm=confirm,
        target=target,
        alembic_config=alembic_config,
        no_dump=no_dump,
        as_json=as_json,
        no_ui=no_ui,
        debug=debug,
    )


@schema.command()
def revision(
    message: Message,
    autogenerate: Autogenerate = False,
    target: Target = None,
    alembic_config: AlembicConfig = None,
    debug: Debug = False,
) -> None:
    """Make a new revision file, empty or with what differs between the models and the target."""
    with errors_in_words(debug):
        from pgferry.operate.new_revision import write_compared, write_empty
        from pgferry.operate.schema_change import stand

        settings = _settings(target, alembic_config)
        file = settings.alembic_config
        if not autogenerate:
            print(write_empty(file, message))
            return
        from tasks.ends import target_url, wait_for

        standing = _ask(settings, lambda connection: stand(connection, file))
        print(wait_for(write_compared(target_url(""), file, message, standing)))
        say("Read it, correct it, and take away what autogenerate says of itself; then: python -m flows schema check")


@schema.command()
def check(
    target: Target = None,
    alembic_config: AlembicConfig = None,
    everything: All = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at the revisions that wait: locks that stop writers, no way back, leftovers. Exit code 1 for a finding."""
    with errors_in_words(debug):
        # Here and not above: reading SQL takes a while to import, and other commands need it not.
        from pgferry.operate.revision_lint import lint
        from pgferry.operate.schema_change import all_files, judged

        settings = _settings(target, alembic_config)
        files = all_files(settings.alembic_config)
        looked_at, found = (files, lint(files, files)) if everything else judged(files, _applied(settings))
        if as_json:
            findings = [finding.to_json() for finding in found]
            print(json.dumps({"revisions": [file.revision for file in looked_at], "findings": findings}, indent=2))
        else:
            many = "1 revision" if len(looked_at) == 1 else f"{len(looked_at)} revisions"
            for finding in found:
                print(finding)
            print(f"{many}: {len(found) or 'nothing'} found.")
        if found:
            raise typer.Exit(1)


@schema.command()
def history(
    target: Target = None, alembic_config: AlembicConfig = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show the revisions in their order, and which of them the target has had."""
    with errors_in_words(debug):
        from pgferry.operate.revision_files import heads
        from pgferry.operate.schema_change import all_files, judged

        settings = _settings(target, alembic_config)
        files, applied = all_files(settings.alembic_config), _applied(settings)
        waiting = {file.revision for file in judged(files, applied)[0]}
        ends = {file.revision for file in heads(files)}
        rows = [
            {
                "revision": file.revision,
                "after": list(file.down),
                "doc": file.doc,
                "applied": file.revision not in waiting,
                "current": file.revision in applied,
                "head": file.revision in ends,
                "file": str(file.path),
            }
            for file in files
        ]
        unknown = sorted(set(applied) - {file.revision for file in files})
        if as_json:
            print(json.dumps({"revisions": rows, "unknown": unknown}, indent=2))
        else:
            _print_history(rows, unknown)


def _print_history(rows: list[dict[str, Any]], unknown: list[str]) -> None:
    table = Table(title="Revisions", title_justify="left")
    for name in ("revision", "after", "what", "target"):
        table.add_column(name)
    for row in rows:
        marks = ["applied" if row["applied"] else "waits", *(name for name in ("current", "head") if row[name])]
        table.add_row(*map(escape, (row["revision"], ", ".join(row["after"]), row["doc"], ", ".join(marks))))
    console = Console()
    console.print(table)
    for name in unknown:
        console.print(f"The target is at revision {name}, which is in no file here.", highlight=False, markup=False)


def _settings(target: str | None, alembic_config: Path | None) -> Settings:
    """Put the options where every part finds them, and see that there is an Alembic configuration."""
    if target is not None:
        os.environ["PGFERRY_TARGET"] = target
    if alembic_config is not None:
        os.environ["PGFERRY_ALEMBIC_CONFIG"] = str(alembic_config)
    settings = load_settings()
    settings.target_url()
    # Not above: Alembic's import takes a third of a second, which every other command would wait for.
    from pgferry.postgres.environment import read_config

    read_config(settings.alembic_config)
    return settings


def _is_somewhere(settings: Settings) -> bool:
    return settings.target_url() is not None or find_place(settings.home).data.exists()


def _refuse_nowhere(settings: Settings) -> None:
    if not _is_somewhere(settings):
        raise UsageError(
            f"No target is named, and {settings.home} holds no embedded server: there is nothing to take back.",
            "Set PGFERRY_TARGET, or PGFERRY_HOME to the folder of the move.",
        )


def _applied(settings: Settings) -> tuple[str, ...]:
    """Return what the target has had; a look starts no server where there never was one."""
    if not _is_somewhere(settings):
        return ()
    from pgferry.operate.revision_files import version_table
    from pgferry.operate.schema_change import applied_revisions
    from pgferry.postgres.environment import read_config

    schema_name, table = version_table(read_config(settings.alembic_config))
    return _ask(settings, lambda connection: applied_revisions(connection, schema_name, table))


def _ask(settings: Settings, question: Callable[[Connection], Awaitable[R]]) -> R:
    import asyncio

    from pgferry.postgres import embedded
    from pgferry.postgres.connection import connection

    async def ask() -> R:
        url = settings.target_url()
        if url is None:
            url = await embedded.create_database(embedded.start(settings.home), embedded.DATABASE)
        async with connection(url, timeout=settings.connect_timeout) as opened:
            return await question(opened)

    return asyncio.run(ask())


def _run(flow: Callable[[], Any], settings: Settings, *, as_json: bool, no_ui: bool, debug: bool) -> None:
    server = choose_prefect(settings, no_ui=no_ui)
    with display(silent=as_json) as clock, quiet_prefect(debug):
        result = flow()
    if as_json:
        print(json.dumps(result, indent=2))
        return
    _print_change(result)
    if server:
        print(f"Run:      {server}/runs/flow-run/{clock.run_id}")


def _print_change(result: dict[str, Any]) -> None:
    before, after = (", ".join(result[name]) or "(empty)" for name in ("before", "after"))
    print(f"Schema:   {before} -> {after}" if before != after else f"Schema:   {after}, nothing to do")
    if result["dump"]:
        print(f"Dump:     {result['dump']['path']} ({result['dump']['bytes'] / 1e6:,.1f} MB)")
        print(f"Restore:  {result['dump']['restore']}")
    for note in result["notes"]:
        print(f"Note:     {note}")
    for finding in result["findings"]:
        where = f"{Path(finding['file']).name}:{finding['line']}"
        print(f"Found:    {where}: {finding['message']} [{finding['rule']}]")
