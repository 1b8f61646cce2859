"""What a validation found, as a value, for the ledger and for people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgferry.errors import FerryError
from pgferry.live.compare import DifferingRow, Level, TableComparison
from pgferry.live.model import Direction, ValidationRecord
from pgferry.model import CellDifference
from pgferry.postgres.waiting_keys import Dangling
from pgferry.report import markdown_cell, markdown_data, markdown_table

SHOWN = 100
"""Differences that a validation shows and records; all are counted."""


class Differs(FerryError):
    """Both sides were held at one moment, and are not equal."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found."""

    run_id: int
    direction: Direction
    level: Level
    percent: float | None
    moment: datetime
    """The moment at which both sides were held."""
    started_at: datetime
    finished_at: datetime
    tables: tuple[TableComparison, ...]
    dangling: tuple[Dangling, ...] = ()
    """Foreign keys that wait and could not be valid: the application's own data breaks them."""
    accepted: frozenset[str] = frozenset()
    id: int = 0
    """Its number in the ledger, 0 before it is there."""
    wrong_queries: tuple[str, ...] = ()
    """The application's own queries that answer differently on both sides."""

    @property
    def passed(self) -> bool:
        """Whether both sides are equal, and the application's own queries answer the same."""
        return self.equal and not self.wrong_queries

    @property
    def equal(self) -> bool:
        """Whether nothing differs and every row is accounted for. What is in quarantine, or dangles, is told apart."""
        return all(table.passed for table in self.tables)

    @property
    def rows(self) -> int:
        """Rows of the source that were compared, cell by cell."""
        return sum(table.compared for table in self.tables)

    @property
    def source_rows(self) -> int:
        """Rows of the source."""
        return sum(table.source_rows for table in self.tables)

    @property
    def cells(self) -> int:
        """Cells that were compared."""
        return sum(table.cells for table in self.tables)

    @property
    def difference_count(self) -> int:
        """Differing cells, plus one for each row that exists on one side only."""
        return sum(table.difference_count for table in self.tables)

    @property
    def differences(self) -> tuple[CellDifference, ...]:
        """The first of them."""
        return tuple(difference for table in self.tables for difference in table.differences)[:SHOWN]

    @property
    def differing(self) -> tuple[DifferingRow, ...]:
        """The rows that are not equal, as far as they are named; a repair mends them."""
        return tuple(row for table in self.tables for row in table.differing)

    @property
    def quarantined(self) -> int:
        """Rows of the source that PostgreSQL cannot hold."""
        return sum(table.quarantined for table in self.tables)

    @property
    def orphans(self) -> int:
        """Rows that waiting foreign keys would refuse."""
        return sum(key.orphans.count for key in self.dangling)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.finished_at - self.started_at).total_seconds()

    def record(self) -> ValidationRecord:
        """Return the validation as the ledger keeps it."""
        shown = {"tables": [_table_json(table) for table in self.tables], **_findings_json(self)}
        return ValidationRecord(
            direction=self.direction,
            level=str(self.level),
            started_at=self.started_at,
            finished_at=self.finished_at,
            moment=self.moment,
            passed=self.passed,
            tables=len(self.tables),
            rows=self.rows if self.level is not Level.COUNTS else self.source_rows,
            cells=self.cells,
            differences=self.difference_count,
            seconds=self.seconds,
            orphans=self.orphans,
            quarantined=self.quarantined,
            sample_percent=self.percent,
            detail=shown,
            id=self.id,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the validation as JSON-able values."""
        return {
            "validation": self.id,
            "run": self.run_id,
            "direction": str(self.direction),
            "level": str(self.level),
            "sample_percent": self.percent,
            "moment": self.moment.isoformat(),
            "started_at": self.started_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "passed": self.passed,
            "rows": self.rows,
            "cells": self.cells,
            "differences": self.difference_count,
            "quarantined": self.quarantined,
            "orphans": self.orphans,
            "tables": [_table_json(table) for table in self.tables],
            **_findings_json(self),
        }


def numbered(validation: Validation, number: int) -> Validation:
    """Return the validation with its number in the ledger."""
    return replace(validation, id=number)


def refuse_differences(validation: Validation) -> None:
    """Raise Differs, with the first difference, unless both sides are equal."""
    if validation.equal:
        return
    first = validation.differences[0] if validation.differences else None
    where = "" if first is None else f"; the first: {_said(first)}"
    raise Differs(
        f"{validation.difference_count} differences between {validation.direction.replace(' to ', ' and ')} as of "
        f"{validation.moment:%Y-%m-%d %H:%M:%S} UTC{where}.",
        "Look at what the validation found; `python -m flows validate --repair` mends rows from the side in front.",
        validation=validation,
    )


def _said(item: CellDifference) -> str:
    column = f"column {item.column}: " if item.column else ""
    return f"table {item.table}, {item.key}, {column}{item.source} in SQLite, {item.target} in PostgreSQL"


# ---------------------------------------------------------------- telling


def markdown(validation: Validation) -> str:
    """Return the validation for people: the verdict, the tables, and the first differences."""
    head = ["table", "SQLite rows", "PostgreSQL rows", "quarantined", "excluded", "compared", "differences", "verdict"]
    lines = [
        f"## {conclusion(validation)}",
        "",
        f"{validation.direction}, both sides as of {validation.moment:%Y-%m-%d %H:%M:%S} UTC; "
        f"{_how_much(validation)} in {validation.seconds:.1f} s.",
        "",
        markdown_table(head, [[markdown_cell(cell) for cell in table_row(table)] for table in validation.tables]),
    ]
    if validation.differences:
        shown = [
            [item.table, item.key, item.column or "(row)", item.source, item.target] for item in validation.differences
        ]
        cells = [[markdown_data(cell) for cell in row] for row in shown]
        lines += ["", "### First differences", ""]
        lines += [markdown_table(["table", "key", "column", "SQLite", "PostgreSQL"], cells)]
    lines += [f"\n- {note}" for note in _notes(validation)]
    return "\n".join(lines)


def conclusion(validation: Validation) -> str:
    """Return what came out, in a sentence."""
    what = f"Validation {validation.id}" if validation.id else "Validation"
    wrong = len(validation.wrong_queries)
    queries = f"; queries that answer differently: {wrong}" if wrong else ""
    if not validation.equal:
        return f"{what}: {validation.difference_count:,} differences{queries}"
    cells = f"{validation.cells:,} cells are equal" if validation.cells else "the counts agree"
    return f"{what}: {cells}{queries}"


def table_row(table: TableComparison) -> list[object]:
    """Return a table's name, counts and verdict, as the tables of the report show them."""
    return [
        table.table,
        table.source_rows,
        table.target_rows,
        table.quarantined,
        table.excluded,
        table.compared,
        table.difference_count,
        verdict(table),
    ]


def verdict(table: TableComparison) -> str:
    """Return a table's verdict in a word or two."""
    if table.excluded or table.emptied:
        return "excluded" if table.excluded else "truncated meanwhile"
    return "equal" if table.passed else "DIFFERS"


def _how_much(validation: Validation) -> str:
    if validation.level is Level.COUNTS:
        return f"{validation.source_rows:,} rows counted"
    part = f" (a sample of {validation.percent:g} %)" if validation.level is Level.SAMPLE else ""
    return f"{validation.rows:,} of {validation.source_rows:,} rows compared cell by cell{part}"


def _notes(validation: Validation) -> list[str]:
    aside = [
        f"{table.quarantined:,} rows of `{table.table}` are in quarantine: PostgreSQL cannot hold them as they are."
        for table in validation.tables
        if table.quarantined and table.table not in validation.accepted
    ]
    aside += [
        f"`{table.table}` was truncated or rewritten while it was compared; nothing is said of it this time."
        for table in validation.tables
        if table.emptied
    ]
    return aside + [
        f"{key.orphans.count:,} rows of `{key.table}` point at rows that `{key.orphans.parent}` does not hold (foreign "
        f"key `{key.name}`, the first with {key.orphans.shown}): it will stay NOT VALID."
        for key in validation.dangling
    ]


def _table_json(table: TableComparison) -> dict[str, Any]:
    return {
        "table": table.table,
        "source_rows": table.source_rows,
        "target_rows": table.target_rows,
        "quarantined": table.quarantined,
        "excluded": table.excluded,
        "compared": table.compared,
        "cells": table.cells,
        "differences": table.difference_count,
        "passed": table.passed,
        "verdict": verdict(table),
        "seconds": round(table.seconds, 3),
    }


def _findings_json(validation: Validation) -> dict[str, Any]:
    return {
        "first_differences": [
            {"table": item.table, "key": item.key, "column": item.column, "source": item.source, "target": item.target}
            for item in validation.differences
        ],
        "wrong_queries": list(validation.wrong_queries),
        "dangling": [
            {"table": key.table, "foreign_key": key.name, "parent": key.orphans.parent, "rows": key.orphans.count}
            for key in validation.dangling
        ],
    }
