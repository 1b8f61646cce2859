"""The steps of a validation: what is compared at a held moment, what came out, and what the ledger keeps of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgferry.errors import UsageError
from pgferry.live.compare import (
    CompareUnit,
    Level,
    TableComparison,
    UnitComparison,
    combine,
    compare_unit,
    plan_units,
)
from pgferry.live.holding import Held, hold, joined
from pgferry.live.model import Live, LiveTable
from pgferry.live.validation import Differs, Validation, markdown, numbered, refuse_differences
from pgferry.model import Key, QuarantinedRow
from pgferry.postgres.catalog import count_rows as count_target_rows
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import forget_touched, sync_lock
from pgferry.postgres.quarantine import PAGE_ROWS, open_rows
from pgferry.postgres.validations import record_validation, refresh_quarantine
from pgferry.postgres.waiting_keys import dangling
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import count_rows as count_source_rows
from pgferry.sqlite.connect import reading

__all__ = [
    "Differs",
    "Held",
    "TablePlan",
    "Validation",
    "ValidationPlan",
    "conclude",
    "hold",
    "joined",
    "judge",
    "markdown",
    "numbered",
    "plan_validation",
    "refuse_differences",
    "validate",
]

USUAL_PERCENT = 10.0
"""What a sample takes where nothing else is said."""

# The row of the catalog is of the moment that is held, the function tells of now.
_REWRITTEN = """
SELECT oid FROM pg_catalog.pg_class
 WHERE oid = ANY ($1::oid[]) AND relfilenode <> 0 AND relfilenode IS DISTINCT FROM pg_relation_filenode(oid)
"""

_CARRIED_SINCE = "SELECT DISTINCT source_table FROM pgferry.touched WHERE run_id = $1 AND at > $2"


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What is to be compared of one table, and what is counted already."""

    table: LiveTable
    source_rows: int
    target_rows: int
    aside: frozenset[Key]
    """Addresses of the rows that the ledger has in quarantine."""
    units: tuple[CompareUnit, ...]


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """What is to be compared of a held moment. Can be pickled."""

    level: Level
    percent: float | None
    tables: tuple[TablePlan, ...]
    excluded: Mapping[str, int]
    """Excluded table -> its rows in the source."""

    @property
    def units(self) -> tuple[CompareUnit, ...]:
        """All units, those with the most rows first."""
        units = [unit for table in self.tables for unit in table.units]
        return tuple(sorted(units, key=lambda unit: -unit.rows))


# ---------------------------------------------------------------- the steps


async def plan_validation(
    holder: Connection, held: Held, live: Live, level: Level, *, percent: float | None = None, seed: str = ""
) -> ValidationPlan:
    """Count both sides and cut the comparison into units. Reads only; `holder` is the connection that holds.

    `percent` is for a sample; without a `seed` each validation takes another one. Raises UsageError for a percentage
    that cannot be.
    """
    share = _share(level, percent)
    tables = []
    with reading(held.path) as source:
        for table in live.tables:
            aside = await _aside(holder, live.run_id, table.name)
            units = plan_units(
                source,
                table,
                level,
                percent=share or 100.0,
                seed=seed or held.moment.isoformat(),
                aside=aside,
            )
            (target_rows,) = await count_target_rows(holder, [table.pair.target])
            tables.append(TablePlan(table, count_source_rows(source, table.pair.source), target_rows, aside, units))
        left = [table for table in read_catalog(source).tables if table.name in live.excluded]
        excluded = {table.name: count_source_rows(source, table) for table in left}
    return ValidationPlan(level, share, tuple(tables), excluded)


def _share(level: Level, percent: float | None) -> float | None:
    if level is not Level.SAMPLE:
        return None
    share = USUAL_PERCENT if percent is None else percent
    if not 0 < share <= 100:
        raise UsageError(f"A sample of {share:g} % cannot be taken.", "Give more than 0 and at most 100.")
    return share


async def judge(
    holder: Connection,
    held: Held,
    live: Live,
    plan: ValidationPlan,
    found: Iterable[UnitComparison],
    started_at: datetime,
) -> Validation:
    """Bring together what all units found, and look for rows that waiting foreign keys would refuse. Reads only."""
    emptied = await _emptied(holder, plan)
    by_table: dict[str, list[UnitComparison]] = {}
    for result in found:
        by_table.setdefault(result.table, []).append(result)
    tables = [
        combine(
            item.table,
            plan.level,
            item.source_rows,
            item.target_rows,
            by_table.get(item.table.name, []),
            len(item.aside),
        )
        if item.table.name not in emptied
        else _unsaid(item, plan.level)
        for item in plan.tables
    ]
    tables += [_excluded(name, rows, plan.level) for name, rows in sorted(plan.excluded.items())]
    return Validation(
        run_id=held.run_id,
        direction=held.direction,
        level=plan.level,
        percent=plan.percent,
        moment=held.moment,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        tables=tuple(tables),
        dangling=await dangling(holder, held.run_id),
        accepted=live.accepted,
    )


async def _emptied(holder: Connection, plan: ValidationPlan) -> frozenset[str]:
    """Return the tables that were truncated or rewritten since the moment that is held.

    To a snapshot of before they look empty (https://www.postgresql.org/docs/current/mvcc-caveats.html). A lock would
    keep that from happening, and make the application wait behind its own TRUNCATE for as long as the validation takes.
    """
    oids = {item.table.pair.target.oid: item.table.name for item in plan.tables}
    return frozenset(oids[row["oid"]] for row in await holder.fetch(_REWRITTEN, list(oids)))


def _unsaid(item: TablePlan, level: Level) -> TableComparison:
    return TableComparison(
        table=item.table.name,
        level=level,
        source_rows=item.source_rows,
        target_rows=item.target_rows,
        quarantined=len(item.aside),
        compared=0,
        cells=0,
        difference_count=0,
        emptied=True,
    )


async def conclude(connection: Connection, held: Held, plan: ValidationPlan, validation: Validation) -> int:
    """Record the validation and return its number; in the same transaction, what follows from it.

    After a comparison of every cell the quarantine is what was found, and where that was equal, rows that were carried
    before need no further look. `connection` is not the one that holds.
    """
    async with sync_lock(connection), connection.transaction():
        number = await record_validation(connection, held.run_id, validation.record())
        if validation.level is Level.CELLS:
            await _correct_quarantine(connection, held, plan, validation)
            if validation.equal and not any(table.emptied for table in validation.tables):
                await forget_touched(connection, held.run_id, held.carried_until)
    return number


async def validate(
    connection: Connection,
    holder: Connection,
    live: Live,
    folder: Path,
    level: Level = Level.CELLS,
    *,
    percent: float | None = None,
    seed: str = "",
) -> Validation:
    """Hold both sides, compare them, record what came out, and return it: all steps, one after the other.

    Raises what `hold` raises; differences are no error here (see `refuse_differences`).
    """
    started_at = datetime.now(UTC)
    async with hold(connection, holder, live, folder) as held:
        plan = await plan_validation(holder, held, live, level, percent=percent, seed=seed)
        found = [await compare_unit(holder, held.path, unit) for unit in plan.units]
        validation = await judge(holder, held, live, plan, found, started_at)
    return numbered(validation, await conclude(connection, held, plan, validation))


# ---------------------------------------------------------------- the quarantine


async def _aside(holder: Connection, run_id: int, table: str) -> frozenset[Key]:
    found: set[Key] = set()
    after = 0
    while rows := await open_rows(holder, run_id, table, after=after, limit=PAGE_ROWS):
        found.update(row.key for row in rows)
        after = rows[-1].id
    return frozenset(found)


async def _correct_quarantine(connection: Connection, held: Held, plan: ValidationPlan, validation: Validation) -> None:
    """Bring the quarantine to what was found, where the ledger knew otherwise.

    Tables of which rows were carried since are left as they are: their quarantine is newer than what was found.
    """
    rows = await connection.fetch(_CARRIED_SINCE, held.run_id, held.carried_until)
    newer = {row["source_table"] for row in rows}
    known = {item.table.name: item.aside for item in plan.tables}
    for table in validation.tables:
        if table.table in known and table.table not in newer and not table.emptied:
            gone, rejected = _surplus(table, known[table.table])
            if gone or rejected:
                addresses = [*gone, *(row.key for row in rejected)]
                await refresh_quarantine(connection, held.run_id, table.table, addresses, rejected)


def _surplus(table: TableComparison, known: frozenset[Key]) -> tuple[frozenset[Key], Sequence[QuarantinedRow]]:
    """Return the entries that are no longer true, and the rows that are not among the entries."""
    found = {row.key for row in table.rejected} | set(table.aside)
    return known - found, [row for row in table.rejected if row.key not in known]


def _excluded(name: str, rows: int, level: Level) -> TableComparison:
    return TableComparison(name, level, rows, 0, 0, 0, 0, 0, excluded=rows)
