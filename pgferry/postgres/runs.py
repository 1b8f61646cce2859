"""Which run of the ledger a command goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.move import rules_fingerprint
from pgferry.postgres.connection import Connection
from pgferry.postgres.ledger import Run, adopt_rules, begin_run, find_run, install, planned_tables
from pgferry.postgres.restart import restart as restart_run
from pgferry.settings import Rules
from pgferry.sqlite.snapshot import still_current


async def open_run(connection: Connection, source: Path, rules: Rules, *, restart: bool) -> Run:
    """Return the run of this source: the one that is there, unfinished or finished, or a new one.

    Installs or upgrades the ledger first. With `restart` the one that is there is emptied and a new one begun. A run
    that planned nothing yet, because source and schema did not fit, takes the rules of now, and loses its snapshot
    when the source may have changed since. Raises Permanent when any other unfinished run was begun with other rules.
    """
    await install(connection)
    name, fingerprint = str(source), rules_fingerprint(rules)
    run = await find_run(connection, name)
    if run is not None and restart:
        await restart_run(connection, run.id)
        run = None
    if run is None:
        return await begin_run(connection, name, fingerprint)
    if run.status == "running" and not await planned_tables(connection, run.id):
        return await _begun_anew(connection, run, fingerprint)
    if run.status == "running" and run.fingerprint != fingerprint:
        raise Permanent(
            f"Run {run.id} of {name} was begun with other rules than pgferry.toml has now.",
            "Put the rules back to finish it, or begin anew with --restart.",
        )
    return run


async def _begun_anew(connection: Connection, run: Run, fingerprint: str) -> Run:
    await adopt_rules(connection, run.id, fingerprint)
    snapshot = run.snapshot if run.snapshot is not None and still_current(run.snapshot) else None
    return replace(run, fingerprint=fingerprint, snapshot=snapshot)
