"""The end of a move: identities, statistics, the report, and the ledger's word that it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import URL

from pgferry.copying import excluded_verdicts
from pgferry.errors import FerryError, LossError
from pgferry.model import OrphanedKey, Snapshot, TableVerdict
from pgferry.move import Group, Move, accepted_tables, tolerated_tables
from pgferry.postgres.connection import Connection
from pgferry.postgres.encryption import Way, way_of
from pgferry.postgres.identity import analyze, set_identities
from pgferry.postgres.ledger import Run, finish_run, loaded_chunks
from pgferry.postgres.quarantine import lock_finished_run, write_report
from pgferry.postgres.validated_keys import validate_left
from pgferry.report import Report, conclusion
from pgferry.settings import Rules, safe_url
from pgferry.sqlite.snapshot import SnapshotCheck, written_since


class NotAccepted(FerryError):
    """The move came to its end, but rows differ, are kept aside or lack a parent, and no configuration accepts it."""

    exit_code = 3


async def settle(connection: Connection, move: Move) -> dict[str, int]:
    """Set identities past every id ever used; safe to repeat. Returns the sequences' next values by column."""
    return await set_identities(connection, move.pairs, move.sequences)


async def analyze_group(connection: Connection, move: Move, group: Group) -> None:
    """Let the planner know the tables of a group; safe to repeat. To be called when their indexes are there."""
    await analyze(connection, [move.reads[table].pair.target for table in group.tables])


async def conclude(
    connection: Connection,
    move: Move,
    verdicts: Sequence[TableVerdict],
    check: SnapshotCheck,
    url: URL,
    steps: dict[str, float],
    not_valid: Sequence[OrphanedKey] = (),
) -> Report:
    """Put the report together and keep it in the ledger; the run counts as finished when every cell is equal.

    `not_valid` are the foreign keys that could not be validated; `validate_again` tries them once more. A run with
    differences stays unfinished: the same command looks at it again.
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
        not_valid=tuple(not_valid),
        tolerated=move.tolerated,
    )
    if report.verified:
        await finish_run(connection, move.run_id, report.to_json())
    return report


async def validate_again(connection: Connection, run: Run, url: URL, rules: Rules, *, memory: str) -> Report:
    """Validate the foreign keys that a finished run has left NOT VALID; return its report of now, kept in the ledger.

    To be called under the run lock, for a run whose foreign keys are in place.
    """
    left = await validate_left(connection, run.id, memory=memory)
    async with connection.transaction():
        run = await lock_finished_run(connection, run.id)
        assert run.report is not None
        report = replace(finished_report(run, url, accepted_tables(rules), tolerated_tables(rules)), not_valid=left)
        # As they were told then: what is to be said of the source by now is no part of the record.
        await write_report(connection, replace(report, notes=tuple(run.report["notes"]), again=False))
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


def finished_report(
    run: Run, url: URL, accepted: frozenset[str] = frozenset(), tolerated: frozenset[str] = frozenset()
) -> Report:
    """Return the report of a run that an earlier command finished, as the ledger has it.

    `accepted` are the tables whose quarantined rows are accepted by now, `tolerated` those whose foreign keys may stay
    NOT VALID, both besides those of then.
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
        not_valid=tuple(map(_orphaned_key, _keys_then(run.report))),
        tolerated=tolerated | {key["table"] for key in _keys_then(run.report) if key["accepted"]},
        again=True,
    )


def _accepted_then(report: dict[str, Any]) -> frozenset[str]:
    return frozenset(table["table"] for table in report["tables"]) if report["complete"] else frozenset()


def _keys_then(report: dict[str, Any]) -> list[dict[str, Any]]:
    # Reports of earlier versions of pgferry have none: then such a run did not come to its end.
    keys: list[dict[str, Any]] = report.get("foreign_keys_not_valid", [])
    return keys


def _orphaned_key(key: dict[str, Any]) -> OrphanedKey:
    return OrphanedKey(key["table"], key["foreign_key"], key["parent"], key["orphans"], key["first"])


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
    return " ".join(_open_ends(report))


def _open_ends(report: Report) -> Iterator[str]:
    if report.kept_aside:
        yield (
            "Look at them: python -m flows quarantine list. Say in pgferry.toml how they are to be read, or ease what "
            "refuses them in the target, and load them: python -m flows quarantine replay; or accept them in "
            "pgferry.toml with `accept_quarantined = true`."
        )
    if report.refused_keys:
        tables = ", ".join(dict.fromkeys(key.table for key in report.refused_keys))
        yield (
            "New rows are held to the foreign key. Mend the rows in the target and run the same command again: it "
            f'validates the key; or accept it in pgferry.toml with `orphans = "not_valid"` for {tables}.'
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
