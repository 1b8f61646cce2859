"""What a move did, as numbers for programs and as tables for people."""

from __future__ import annotations

import re
import textwrap
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from pgferry.chart import Chart, Line, picture, shown_count
from pgferry.model import CellDifference, OrphanedKey, Snapshot, TableVerdict

if TYPE_CHECKING:
    import pandas as pd

WRAPPED = 44
"""Characters that a line of a table's cell holds, about."""

_NUMBER = re.compile(r"[-+]?[\d,]+(\.\d+)?( (%|s|ms|kB|MB|GB|B))?")
_SIGNS = re.compile(r"[*`\[\]~]|(?<!\w)_|_(?!\w)")

SPEED_SPANS = 60
"""Points of the chart of the rows per second, at the most."""


@dataclass(slots=True)
class Stopwatch:
    """Times the steps of a runbook, in order; a step may be entered again and its time adds up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block as (a part of) the step `name`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True, slots=True)
class Report:
    """What a migration did; `to_json` is the command line's and the ledger's form of it."""

    run_id: int
    tables: tuple[TableVerdict, ...]
    steps: dict[str, float]
    snapshot: Snapshot
    bytes: int
    """Bytes sent to the server."""
    staging: str
    target: str
    """The target's URL without its password."""
    accepted: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    """What a person should know: complaints of SQLite's check, …"""
    not_valid: tuple[OrphanedKey, ...] = ()
    """Foreign keys that rows without a parent leave NOT VALID."""
    tolerated: frozenset[str] = frozenset()
    """Tables for whose foreign keys that is accepted by configuration."""
    again: bool = False
    """Whether the move was done earlier and nothing was left to do."""

    @property
    def verified(self) -> bool:
        """Whether every row is accounted for and every compared cell is equal."""
        return all(table.closed and table.difference_count == 0 for table in self.tables)

    @property
    def complete(self) -> bool:
        """Whether, besides, no row is in quarantine and no foreign key NOT VALID unless configuration accepts it."""
        return self.verified and not self.kept_aside and not self.refused_keys

    @property
    def kept_aside(self) -> tuple[str, ...]:
        """Tables with quarantined rows that are not accepted."""
        return tuple(table.table for table in self.tables if table.quarantined and table.table not in self.accepted)

    @property
    def refused_keys(self) -> tuple[OrphanedKey, ...]:
        """Foreign keys that stay NOT VALID, of tables where that is not accepted."""
        return tuple(key for key in self.not_valid if key.table not in self.tolerated)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {
            "run": self.run_id,
            "tables": [_table_json(table) for table in self.tables],
            "steps": [{"step": name, "seconds": round(seconds, 3)} for name, seconds in self.steps.items()],
            "backup": {"path": self.snapshot.path, "sha256": self.snapshot.sha256, "bytes": self.snapshot.bytes},
            "bytes_sent": self.bytes,
            "staging": self.staging,
            "target": self.target,
            "notes": list(self.notes),
            "foreign_keys_not_valid": [_key_json(key, self.tolerated) for key in self.not_valid],
            "already_migrated": self.again,
            "complete": self.complete,
            "verified": self.verified,
        }


def frame(report: Report) -> pd.DataFrame:
    """Return a row a table: names, counts and the verdict."""
    import pandas as pd  # its import alone takes as long as a command that only looks may take

    return pd.DataFrame(
        {
            "table": [table.table for table in report.tables],
            "source rows": [table.source_rows for table in report.tables],
            "loaded": [table.loaded for table in report.tables],
            "quarantined": [table.quarantined for table in report.tables],
            "excluded": [table.excluded for table in report.tables],
            "cells compared": [table.cells_compared for table in report.tables],
            "differences": [table.difference_count for table in report.tables],
            "verdict": [verdict_word(table) for table in report.tables],
        }
    )


def verdict_word(table: TableVerdict) -> str:
    """Return the verdict on a table in a word or two."""
    if not table.closed:
        return "ROWS MISSING"
    if table.difference_count:
        return "DIFFERS"
    if table.quarantined:
        return "equal, some kept aside"
    return "excluded" if table.excluded else "equal"


def markdown(report: Report, load_times: Sequence[tuple[datetime, int]] = ()) -> str:
    """Return the report for the Prefect UI; with `load_times` it has a chart of the rows per second.

    They are moments, and how many rows were loaded since the one before: see `per_second`.
    """
    data = frame(report)
    lines = [
        f"## Run {report.run_id}: {conclusion(report)}",
        "",
        f"Target `{report.target}` — backup `{report.snapshot.path}` ({report.snapshot.bytes / 1e6:,.1f} MB, "
        f"SHA-256 `{report.snapshot.sha256}`)",
        "",
        markdown_table(
            list(data.columns), [[markdown_cell(value) for value in row] for row in data.itertuples(index=False)]
        ),
        "",
        markdown_table(["step", "seconds"], [[name, f"{seconds:.1f}"] for name, seconds in report.steps.items()]),
    ]
    if speed := per_second(load_times):
        lines += ["", picture(Chart("Rows loaded per second", [Line("rows", speed)], shown_count))]
    differences = [difference for table in report.tables for difference in table.differences]
    if differences:
        lines += ["", "### First differences", "", _markdown_differences(differences)]
    lines += [f"\n- {note}" for note in report.notes]
    lines += [f"\n- {markdown_data(str(key))}" for key in report.not_valid]
    return "\n".join(lines)


def per_second(load_times: Sequence[tuple[datetime, int]]) -> list[tuple[datetime, float]]:
    """Return how many rows a second were loaded, over equal spans of the time from the first commit to the last.

    The rows of a commit count as loaded evenly since the one before; of the first moment's rows nothing is known.
    Nothing comes of commits that are all at one moment.
    """
    moments = [moment.timestamp() for moment, _ in load_times]
    if not moments or moments[-1] <= moments[0]:
        return []
    sums = [0, *accumulate(rows for _, rows in load_times[1:])]
    spans = min(len(moments) - 1, SPEED_SPANS)
    step = (moments[-1] - moments[0]) / spans
    loaded = [_loaded_until(moments[0] + step * number, moments, sums) for number in range(spans)] + [sums[-1]]
    return [
        (datetime.fromtimestamp(moments[0] + step * number, UTC), (after - before) / step)
        for number, (before, after) in enumerate(pairwise(loaded), 1)
    ]


def _loaded_until(moment: float, moments: Sequence[float], sums: Sequence[int]) -> float:
    place = bisect_right(moments, moment)
    if place == len(moments):
        return sums[-1]
    part = (moment - moments[place - 1]) / (moments[place] - moments[place - 1])
    return sums[place - 1] + part * (sums[place] - sums[place - 1])


def conclusion(report: Report) -> str:
    """Return what came out, in a sentence."""
    rows, cells = sum(table.loaded for table in report.tables), sum(table.cells_compared for table in report.tables)
    moved = f"{rows:,} rows moved, {cells:,} cells compared"
    if not report.verified:
        return f"{moved}: NOT EQUAL"
    left = [f"rows of {', '.join(report.kept_aside)} are in quarantine"] if report.kept_aside else []
    left += map(str, report.refused_keys[:1])
    if others := report.refused_keys[1:]:
        left.append(f"so do {len(others)} more: {', '.join(f'{key.name} of {key.table}' for key in others)}")
    return f"{moved} and equal; {'; '.join(left)}" if left else f"{moved}, all equal"


def _markdown_differences(differences: Sequence[CellDifference]) -> str:
    rows = [[item.table, item.key, item.column or "(row)", item.source, item.target] for item in differences[:20]]
    return markdown_table(
        ["table", "key", "column", "source", "target"], [[markdown_data(cell) for cell in row] for row in rows]
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the cells are Markdown already (see `markdown_cell`).

    Columns of numbers stand right, and long cells are wrapped: the Prefect UI does neither by itself.
    """
    rules = ["---:" if _is_numeric([row[place] for row in rows]) else "---" for place in range(len(head))]
    lines = [head, rules, *([wrapped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def wrapped(cell: str) -> str:
    """Return a table's cell with line breaks between its words where it is long; code stays on one line."""
    if len(cell) <= WRAPPED or "`" in cell or "<br>" in cell:
        return cell
    return "<br>".join(textwrap.wrap(cell, WRAPPED, break_long_words=False, break_on_hyphens=False))


def _is_numeric(cells: Sequence[str]) -> bool:
    return any(cells) and all(_NUMBER.fullmatch(cell) for cell in cells if cell)


def markdown_cell(value: object) -> str:
    """Return a value as a table's cell shows it."""
    return shown(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def shown(value: object) -> str:
    """Return a value as a person reads it: the thousands of an integer stand apart."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown_data(value: str) -> str:
    """Return a value out of a database as a table's cell shows it: nothing in it is a sign of Markdown or HTML."""
    shown = markdown_cell(escape(value, quote=False))
    return _SIGNS.sub(r"\\\g<0>", shown)


def _key_json(key: OrphanedKey, tolerated: frozenset[str]) -> dict[str, Any]:
    return {
        "table": key.table,
        "foreign_key": key.name,
        "parent": key.parent,
        "orphans": key.orphans,
        "first": key.first,
        "accepted": key.table in tolerated,
        "told": str(key),
    }


def _table_json(table: TableVerdict) -> dict[str, Any]:
    return {
        "table": table.table,
        "source_rows": table.source_rows,
        "loaded": table.loaded,
        "quarantined": table.quarantined,
        "excluded": table.excluded,
        "cells_compared": table.cells_compared,
        "differences": table.difference_count,
        "bytes_sent": table.bytes_sent,
        "sampled": table.sampled,
        "first_differences": [
            {
                "key": item.key,
                "column": item.column,
                "source": item.source,
                "target": item.target,
            }
            for item in table.differences
        ],
    }
