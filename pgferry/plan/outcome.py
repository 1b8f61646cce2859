"""A plan as JSON-able values, where it is written by default, and the rules that a move by it follows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pgferry.plan.files import WrittenPlan
from pgferry.plan.infer import type_sql
from pgferry.plan.model import ColumnPlan, SchemaPlan, TablePlan
from pgferry.settings import ColumnRules, Rules, TableRules


def plan_folder(home: Path, source: Path) -> Path:
    """Return the default folder of a source's plan: one for each path, under a readable name."""
    mark = hashlib.sha256(str(source).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return home.absolute() / "plans" / f"{source.stem}-{mark}"


def merged_rules(given: Rules, planned: Rules) -> Rules:
    """Return a person's rules with the plan's new names and exclusions in them."""
    tables = dict(given.tables)
    for name, rule in planned.tables.items():
        tables[name] = _merged_table(given.table(name), rule)
    return given.model_copy(update={"tables": tables})


def plan_json(plan: SchemaPlan, written: WrittenPlan | None) -> dict[str, Any]:
    """Return the plan for programs: tables with their columns and evidence, what stays behind, questions, files."""
    return {
        "tables": [_table(table) for table in plan.tables],
        "views": [view.name for view in plan.views],
        "not_carried": [
            {"kind": item.kind, "table": item.table, "name": item.name, "reason": item.reason, "sql": item.sql}
            for item in plan.not_carried
        ],
        "questions": [
            {
                "table": item.table,
                "column": item.column,
                "setting": item.setting,
                "value": item.value,
                "reason": item.reason,
            }
            for item in plan.questions
        ],
        "files": None if written is None else _files(written),
    }


def _merged_table(given: TableRules, planned: TableRules) -> TableRules:
    columns = dict(given.columns)
    for name, rule in planned.columns.items():
        mine = columns.get(name)
        columns[name] = rule if mine is None else _merged_column(mine, rule)
    return given.model_copy(
        update={
            "rename": given.rename or planned.rename,
            "exclude": given.exclude or planned.exclude,
            "columns": columns,
        }
    )


def _merged_column(given: ColumnRules, planned: ColumnRules) -> ColumnRules:
    number_as_bytes = given.number_as_bytes or planned.number_as_bytes
    return given.model_copy(update={"rename": given.rename or planned.rename, "number_as_bytes": number_as_bytes})


def _table(table: TablePlan) -> dict[str, Any]:
    return {
        "table": table.source,
        "name": table.name,
        "rows": table.rows,
        "key": list(table.key.columns) if table.key else [],
        "uniques": len(table.uniques),
        "indexes": len(table.indexes),
        "foreign_keys": len(table.foreign_keys),
        "checks": len(table.checks),
        "stays_whole": table.stays_whole,
        "columns": [_column(column) for column in table.columns],
    }


def _column(column: ColumnPlan) -> dict[str, Any]:
    return {
        "column": column.source.name,
        "name": column.name,
        "type": type_sql(column.type),
        "not_null": column.not_null,
        "evidence": column.evidence,
        "notes": list(column.notes),
    }


def _files(written: WrittenPlan) -> dict[str, Any]:
    return {
        "folder": str(written.folder),
        "alembic_config": str(written.alembic_config),
        "revision": str(written.revision),
        "rules": str(written.rules),
        "report": str(written.report),
        "kept": [str(path) for path in written.kept],
    }
