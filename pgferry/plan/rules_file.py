"""Writes pgferry.toml for a plan: new names and exclusions, and behind a `#` each rule that needs a person's yes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pgferry.plan.model import ColumnPlan, Question, SchemaPlan, TablePlan

_HEAD = (
    "# Rules for tables and columns, proposed from the data. A line behind a `#` is a question:",
    "# remove the `#` to say yes, then plan again.",
)


def render_rules(plan: SchemaPlan) -> str:
    """Return the text of pgferry.toml. The same plan gives the same text."""
    lines = list(_HEAD)
    for table in plan.tables:
        lines += _table(table, [question for question in plan.questions if question.table == table.source])
    for name in plan.excluded:
        lines += ["", f"[tables.{toml_text(name)}]", "exclude = true"]
    return "\n".join(lines) + "\n"


def toml_text(text: str) -> str:
    """Return a TOML basic string (https://toml.io/en/v1.0.0#string)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _table(table: TablePlan, questions: list[Question]) -> Iterator[str]:
    if table.name != table.source:
        yield from ("", f"[tables.{toml_text(table.source)}]", f"rename = {toml_text(table.name)}")
    for column in table.columns:
        asked = [question for question in questions if question.column == column.source.name]
        yield from _column(table, column, asked)


def _column(table: TablePlan, column: ColumnPlan, asked: list[Question]) -> Iterator[str]:
    source = column.source.name
    if column.name == source and not asked and not column.number_as_bytes:
        return
    yield from ("", f"[tables.{toml_text(table.source)}.columns.{toml_text(source)}]")
    if column.name != source:
        yield f"rename = {toml_text(column.name)}"
    if column.number_as_bytes:
        yield "number_as_bytes = true"
    for question in asked:
        value = question.value if question.value == "true" else toml_text(question.value)
        yield f"# {' '.join(question.reason.split())}"
        yield f"# {question.setting} = {value}"
