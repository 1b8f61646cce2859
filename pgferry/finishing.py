"""The end of a move: identities, statistics, the report, and the ledger's word that it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import URL

from pgferry.copying import excluded_verdicts
from pgferry.errors import FerryError, LossError
from pgferry.model import Snapshot, TableVerdict
from pgferry.move import Group, Move
from pgferry.postgres.connection import Connection
from pgferry.postgres.encryption import Way, way_of
from pgferry.postgres.identity import analyze, set_identities
from pgferry.postgres.ledger import Run, finish_run, loaded_chunks
from pgferry.report import Report, conclusion
from pgferry.settings import safe_url
from pgferry.sqlite.snapshot import SnapshotCheck, written_since


class NotAccepted(FerryError):
    """The move came to its end, but rows differ or are in quarantine, and no configuration accepts that."""

    exit_code = 3


async def settle(connection: Connection, move: Move) -> dict[str, int]:
    """Set identities past every id ever used; safe to repeat. Returns the sequences' next values by column."""
    return await set_identities(connection, move.pairs, move.sequences)


async def analyze_group(connection: Connection, move: Move, group: Group) -> None:
    """Let the planner know the tables of a group; safe to repeat. To be called when their indexes are there."""
    for table in group.tables:
        await analyze(connection, move.reads[table].pair.target)


async def conclude(
    connection: Connection,
    move: Move,
    verdicts: Sequence[TableVerdict],
    check: SnapshotCheck,
    url: URL,
    steps: dict[str, float],
) -> Report:
    """Put the report together and keep it in the ledger; the run counts as finished when every cell is equal.

    A run with differences stays unfinished: the same command looks at it again.
    """
    loaded = await loaded_chunks(connection, move.run_id)
    report = Report(
        run_id=move.run_id,
        tables=(*verdicts, *excluded_verdicts(move)),
        steps=dict(steps),
        snapshot=move.snapshot,
        bytes=sum(chunk.payload_bytes for chunk in loaded.values()),
        staging=move.staging,
        target=safe_url(url),
        accepted=move.accepted,
        notes=_notes(move, check, way_of(connection)),
    )
    if report.verified:
        await finish_run(connection, move.run_id, report.to_json())
    return report


def judge_report(report: Report) -> None:
    """Raise what stands against the report: LossError when rows are unaccounted for, NotAccepted for the rest."""
    open_tables = [table for table in report.tables if not table.closed]
    if open_tables:
        first = open_tables[0]
        raise LossError(
            f"Table {first.table!r} has {first.source_rows} rows, but {first.loaded} were loaded, "
            f"{first.quarantined} quarantined and {first.excluded} excluded.",
            "Keep the source in front; run again, or begin anew with --restart.",
            report=report,
        )
    if not report.complete:
        raise NotAccepted(f"{conclusion(report)}.", _advice(report), report=report)


def finished_report(run: Run, url: URL, accepted: frozenset[str] = frozenset()) -> Report:
    """Return the report of a run that an earlier command finished, as the ledger has it.

    `accepted` are the tables whose quarantined rows are accepted by now, besides those that were then.
    """
    assert run.report is not None
    assert run.snapshot is not None
    return Report(
        run_id=run.id,
        tables=tuple(_verdict(table) for table in run.report["tables"]),
        steps={step["step"]: step["seconds"] for step in run.report["steps"]},
        snapshot=run.snapshot,
        bytes=run.report["bytes_sent"],
        staging=run.report["staging"],
        target=safe_url(url),
        accepted=accepted | _accepted_then(run.report),
        notes=tuple(dict.fromkeys([*run.report["notes"], *_left_behind(run.snapshot)])),
        again=True,
    )


def _accepted_then(report: dict[str, Any]) -> frozenset[str]:
    return frozenset(table["table"] for table in report["tables"]) if report["complete"] else frozenset()


def _left_behind(snapshot: Snapshot) -> tuple[str, ...]:
    if not written_since(snapshot):
        return ()
    return ("what was written to the source after its snapshot is not in the target; --restart moves it all anew",)


def _verdict(table: dict[str, Any]) -> TableVerdict:
    return TableVerdict(
        table=table["table"],
        source_rows=table["source_rows"],
        loaded=table["loaded"],
        quarantined=table["quarantined"],
        excluded=table["excluded"],
        cells_compared=table["cells_compared"],
        difference_count=table["differences"],
        bytes_sent=table["bytes_sent"],
        sampled=table["sampled"],
    )


def _advice(report: Report) -> str:
    if not report.verified:
        return "Look at the first differences; run again, or begin anew with --restart."
    return (
        "Look at them: python -m flows quarantine list. Say in pgferry.toml how they are to be read and load them: "
        "python -m flows quarantine replay; or accept them there with `accept_quarantined = true`."
    )


def _notes(move: Move, check: SnapshotCheck, way: Way) -> tuple[str, ...]:
    notes: list[str] = list(move.notes)
    if way.exposed:
        notes.append(way.warning)
    if check.complaints:
        notes.append(f"SQLite's check of the file has {len(check.complaints)} complaints, first: {check.complaints[0]}")
    if check.unchecked:
        notes.append(
            f"the order of {', '.join(check.unchecked)} was not checked: only the application has its collation"
        )
    if check.foreign_key_violations:
        notes.append(f"{check.foreign_key_violations} rows of the source break a foreign key of the source")
    if written_since(move.snapshot):
        notes.append(f"the source was written to after its snapshot of {move.snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC")
    return tuple(notes)
