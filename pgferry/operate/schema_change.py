"""A change of the target's schema by the application's revisions: what waits, whether it may be now, a dump before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from pgferry.errors import Permanent, UsageError
from pgferry.live.model import Phase
from pgferry.live.pairs import prepare_live
from pgferry.live.phases import meaning, next_action
from pgferry.operate.dump import Dump, Programs, find_programs, take_dump
from pgferry.operate.revision_files import RevisionFile, in_order, pending, read_revisions, version_table
from pgferry.operate.revision_lint import Finding, lint
from pgferry.operate.run_revisions import live_move
from pgferry.postgres import capture
from pgferry.postgres.connection import Connection
from pgferry.postgres.environment import Heads, read_config
from pgferry.postgres.ledger import Run
from pgferry.postgres.schema import SchemaState
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified, quote
from pgferry.report import markdown_cell, markdown_table
from pgferry.settings import Rules

SQL = statements("schema_change")

_SETTLED = frozenset({Phase.NONE, Phase.CLEANED})
RESUME = "Change SQLite in the same way, then run `python -m flows dual-write --resume` and `python -m flows validate`."
"""What follows a change of PostgreSQL while SQLite is in front."""

MEND = (
    "What the downgrade took away from rows is still in SQLite: run `python -m flows dual-write --resume` and "
    "`python -m flows validate --repair`."
)
"""What follows a downgrade while SQLite is in front: a resume copies only tables that SQLite has changed."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A revision that the target has not had."""

    revision: str
    doc: str
    path: Path


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the target's schema stands, and what is going on in it."""

    applied: Heads
    waiting: tuple[Waiting, ...]
    """In an order in which they can be applied."""
    findings: tuple[Finding, ...]
    """What is wrong with those that wait."""
    rows: bool
    """Whether any table of the application holds a row."""
    server: int
    """The server's major version."""
    loading: tuple[str, ...]
    """Sources whose move to this target is not finished: indexes and constraints are put aside."""
    move: Run | None
    """The move without downtime that is under way."""
    phase: Phase


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change of the schema did, with the dump from before and what a person must know."""

    state: SchemaState
    dump: Dump | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "before": list(self.state.before),
            "after": list(self.state.after),
            "config": str(self.state.config),
            "dump": self.dump.to_json() if self.dump else None,
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }


# ---------------------------------------------------------------- before


async def stand(connection: Connection, config: Path) -> Standing:
    """Read where the target stands; changes nothing, and runs neither env.py nor any revision.

    Raises UsageError for a configuration that is not there, or when several live moves are under way.
    """
    migrations = read_config(config)
    revisions = read_revisions(migrations)
    applied = await applied_revisions(connection, *version_table(migrations))
    waiting = pending(revisions, applied)
    move, phase = await live_move(connection)
    return Standing(
        applied=applied,
        waiting=tuple(Waiting(file.revision, file.doc, file.path) for file in in_order(waiting)),
        findings=lint(revisions, waiting),
        rows=await _has_rows(connection),
        server=connection.get_server_version().major,
        loading=await _loading(connection),
        move=move,
        phase=phase,
    )


async def applied_revisions(connection: Connection, schema_name: str | None, table: str) -> Heads:
    """Return the revisions that Alembic has noted in the target, none when it never ran there."""
    name = qualified(schema_name, table) if schema_name else quote(table)
    if await connection.fetchval("SELECT to_regclass($1) IS NULL", name):
        return ()
    return tuple(sorted(row[0] for row in await connection.fetch(f"SELECT version_num FROM {name}")))


def refuse_untimely(standing: Standing, *, after_switch: bool) -> None:
    """Raise UsageError when the schema must stay as it is at the moment, with the reason and what to do instead."""
    if standing.loading and standing.move is None:
        raise UsageError(
            f"The move of {' and '.join(standing.loading)} to this database is not finished, and its indexes and "
            "constraints are put aside.",
            "Finish it first: `python -m flows migrate`.",
        )
    if standing.phase is Phase.SWITCHED and not after_switch:
        raise UsageError(
            "PostgreSQL is in front and SQLite is kept level as the way back: until the cleanup the schema stays as it "
            "was at the switch.",
            "Wait for `python -m flows cleanup`; a revision that leaves every column as it is (an index) may go on with"
            " --after-switch.",
        )
    if standing.phase not in _SETTLED | {Phase.DUAL_WRITE, Phase.SWITCHED}:
        raise UsageError(
            f"This database is in phase {standing.phase}: {meaning(standing.phase)}. Its schema stays as it is now.",
            next_action(standing.phase),
        )


def refuse_unconfirmed(url: URL, confirm: str, revision: str) -> None:
    """Raise UsageError unless `confirm` is the database's name: a downgrade takes away what its revisions made."""
    if confirm != url.database:
        raise UsageError(
            f"A downgrade to {revision} takes away what the revisions after it made in database {url.database!r}, rows "
            "included.",
            f"Confirm it by name: --confirm {url.database}",
        )


def find_dump_programs(standing: Standing) -> Programs | str:
    """Return what dumps this server, or a sentence that says why nothing does."""
    found = find_programs(standing.server)
    return f"No dump was taken. {found}" if isinstance(found, str) else found


def dump_target(url: URL, programs: Programs, standing: Standing, home: Path, *, schema_only: bool = False) -> Dump:
    """Dump the target into HOME/dumps, named by database and revision; raises Permanent when that fails."""
    name = "-".join((str(url.database), *(standing.applied or ("none",))))
    safe = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
    return take_dump(url, programs, home / "dumps", safe, schema_only=schema_only)


# ---------------------------------------------------------------- after


async def follow_up(connection: Connection, standing: Standing, rules: Rules, *, down: bool = False) -> tuple[str, ...]:
    """Return what a person must do after a change while a live move is under way; none without one."""
    if standing.move is None or standing.phase in _SETTLED:
        return ()
    if standing.phase is Phase.DUAL_WRITE:
        return (MEND if down else RESUME,)
    try:
        await capture.check(connection, await prepare_live(connection, standing.move, rules, ""))
    except Permanent as error:
        return (f"SQLite can no longer be kept level. {error}",)
    return ("The columns are as they were: SQLite is kept level as before.",)


def changed_markdown(changed: Changed) -> str:
    """Return what was done as Markdown."""
    kept: list[tuple[str, str]] = []
    if (dump := changed.dump) is not None:
        size = f"{dump.bytes / 1e6:,.1f} MB, {dump.entries} entries, {dump.seconds:.1f} s"
        kept = [("dump", f"`{dump.path}` ({size})"), ("restore", f"`{dump.to_json()['restore']}`")]
    rows = [
        ("before", ", ".join(changed.state.before) or "(empty)"),
        ("after", ", ".join(changed.state.after) or "(empty)"),
        *kept,
        *(("note", note) for note in changed.notes),
        *(("found", str(finding)) for finding in changed.findings),
    ]
    return markdown_table(("what", "found"), [(name, markdown_cell(value)) for name, value in rows])


# ---------------------------------------------------------------- reading


async def _has_rows(connection: Connection) -> bool:
    for row in await connection.fetch(SQL["tables"]):
        if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {qualified(row['schema'], row['table'])})"):
            return True
    return False


async def _loading(connection: Connection) -> tuple[str, ...]:
    if not await connection.fetchval(SQL["has_runs"]):
        return ()
    return tuple(row["source"] for row in await connection.fetch(SQL["running"]))


def all_files(config: Path) -> tuple[RevisionFile, ...]:
    """Return the revisions of a configuration, in an order in which they can be applied."""
    return in_order(read_revisions(read_config(config)))


def judged(
    revisions: Sequence[RevisionFile], applied: Sequence[str]
) -> tuple[tuple[RevisionFile, ...], Sequence[Finding]]:
    """Return the revisions that a database at `applied` has not had, and what is wrong with them."""
    waiting = pending(revisions, applied)
    return waiting, lint(revisions, waiting)
