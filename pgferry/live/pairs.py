"""How each table of a captured file is carried: its pairs, and the columns that find a row again on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pgferry.errors import Permanent, UsageError
from pgferry.live.changes import refuse_changes
from pgferry.live.model import HIDDEN, Capture, CapturedTable, Live, LiveTable
from pgferry.model import Affinity, ColumnPair, PgKind, PgType, SourceColumn, SourceTable, TablePair, TargetColumn
from pgferry.pairing import pair_tables
from pgferry.postgres.catalog import read_tables, rows_of
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import read_recorded_capture
from pgferry.postgres.ledger import Run
from pgferry.quoting import quote
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import TableSample
from pgferry.sqlite.collations import indexed_by_own
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.guard import TableRead, plan_read

_SEARCH_PATH = "SELECT nspname::text FROM unnest(current_schemas(false)) AS nspname WHERE nspname <> 'pgferry'"


async def prepare_live(
    connection: Connection, run: Run, rules: Rules, target: str, *, capture: Capture | None = None
) -> Live:
    """Pair the tables of the live file with the target's, as they are now; changes nothing.

    `capture` is by default the one that the ledger has. Raises Permanent when the run has no capture, SchemaChanged
    when the file's tables are not those that were captured, UsageError naming everything that does not fit.
    """
    known = capture or await read_recorded_capture(connection, run.id)
    if known is None:
        raise Permanent(f"Run {run.id} of {run.source} has no capture.", "Run `python -m flows dual-write` first.")
    left_out = frozenset(name for name, rule in rules.tables.items() if rule.exclude)
    with closing(open_read_only(Path(run.source))) as source:
        source.execute("BEGIN")
        refuse_changes(source, run.source, known, left_out)
        catalog = read_catalog(source)
    captured = tuple(table for table in catalog.tables if _is_captured(known, table.name))
    targets = await read_tables(connection, await target_schemas(connection, rules))
    pairing = pair_tables(replace(catalog, tables=captured), targets, _about(rules, captured))
    return Live(
        run_id=run.id,
        source=run.source,
        target=target,
        tables=live_tables(pairing.pairs, known),
        capture=known,
        sequences=dict(catalog.sequences),
        accepted=frozenset(name for name, rule in rules.tables.items() if rule.accept_quarantined),
        excluded=left_out | {item.table for item in pairing.excluded},
    )


async def target_schemas(connection: Connection, rules: Rules) -> list[str]:
    """Return the schemas in which the target's tables are looked for: the search path, and those the rules name."""
    schemas: list[str] = [row["nspname"] for row in await connection.fetch(_SEARCH_PATH)]
    for rule in rules.tables.values():
        schema = (rule.rename or "").partition(".")[0] if "." in (rule.rename or "") else None
        if schema and schema not in schemas:
            schemas.append(schema)
    return schemas


def live_tables(pairs: Sequence[TablePair], capture: Capture) -> tuple[LiveTable, ...]:
    """Return how each pair is carried, with a hidden column where the target has no key that the source knows.

    Raises UsageError naming the WITHOUT ROWID tables whose key the target does not have.
    """
    problems = [problem for pair in pairs if (problem := _without_key(pair, capture.table(pair.source.name)))]
    if problems:
        raise UsageError(
            f"These tables cannot be kept level: {'; '.join(problems)}.",
            "Give the target tables the same primary key by a migration, or exclude them in pgferry.toml.",
        )
    return tuple(_live_table(pair, capture.table(pair.source.name)) for pair in pairs)


def refuse_own_collations(tables: Iterable[SourceTable]) -> None:
    """Raise Permanent naming the tables that the sync back could not write to, for want of an index's collation."""
    names = sorted(table.name for table in tables if indexed_by_own(table))
    if names:
        raise Permanent(
            f"{', '.join(names)} cannot be kept level: a key or index is in the order of a collation that only the "
            "application has, and without it nobody writes to the table.",
            "Drop such indexes, exclude the tables in pgferry.toml, or move in a maintenance window with "
            "`python -m flows migrate`.",
            tables=tuple(names),
        )


async def add_hidden_columns(connection: Connection, tables: Iterable[LiveTable]) -> None:
    """Give the target tables without a usable key their hidden column and its unique index; idempotent."""
    for table in tables:
        if table.hidden:
            target, index = rows_of(table.pair.target), quote(hidden_index(table))
            async with connection.transaction():
                await connection.execute(f"ALTER TABLE {target} ADD COLUMN IF NOT EXISTS {quote(HIDDEN)} bigint")
                await connection.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {target} ({quote(HIDDEN)})")


def hidden_index(table: LiveTable) -> str:
    """Return the name of the unique index on a table's hidden column."""
    return f"{HIDDEN}_{table.captured.number}"


def bare_read(pair: TablePair) -> TableRead:
    """Return how single rows of a table are read: raw, for conversion value by value."""
    return plan_read(pair, TableSample(0, 0, 0.0, 0, tuple({} for _ in pair.source.columns)))


def _is_captured(capture: Capture, name: str) -> bool:
    return any(table.name == name for table in capture.tables)


def _about(rules: Rules, captured: Sequence[object]) -> Rules:
    names = {getattr(table, "name", "") for table in captured}
    return rules.model_copy(update={"tables": {name: rule for name, rule in rules.tables.items() if name in names}})


def _without_key(pair: TablePair, captured: CapturedTable) -> str:
    if _declared_key(pair, captured) or captured.rowid is not None:
        return ""
    key = ", ".join(captured.key)
    return f"{pair.source.name} (WITHOUT ROWID, key {key}; the target's key is {', '.join(pair.target.key) or 'none'})"


def _live_table(pair: TablePair, captured: CapturedTable) -> LiveTable:
    key = _declared_key(pair, captured)
    if key:
        return LiveTable(pair, key, captured)
    hidden = _hidden_pair(captured)
    target = replace(pair.target, key=(HIDDEN,), columns=(*_plain(pair.target.columns), hidden.target))
    return LiveTable(TablePair(pair.source, target, (*pair.columns, hidden)), (hidden,), captured, hidden=True)


def _declared_key(pair: TablePair, captured: CapturedTable) -> tuple[ColumnPair, ...]:
    """Return the pairs of the target's key, if they are just the source's key; else nothing."""
    by_target = {column.target.name: column for column in pair.columns}
    key = tuple(by_target[name] for name in pair.target.key if name in by_target)
    wanted = set(captured.key) if captured.key else {pair.source.rowid_column}
    whole = len(key) == len(pair.target.key) and {column.source.name for column in key} == wanted
    return key if whole else ()


def _hidden_pair(captured: CapturedTable) -> ColumnPair:
    assert captured.rowid is not None
    source = SourceColumn(captured.rowid, "INTEGER", Affinity.INTEGER)
    return ColumnPair(source, TargetColumn(HIDDEN, PgType(PgKind.BIGINT, name="bigint")))


def _plain(columns: Iterable[TargetColumn]) -> Iterable[TargetColumn]:
    return (column for column in columns if column.name != HIDDEN)
