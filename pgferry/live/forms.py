"""In which form each column's values go back to SQLite: learnt while SQLite is in front, kept in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pgferry.live.model import Live
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.lexical import LexicalForm, learn

Forms = Mapping[str, Mapping[str, LexicalForm]]
"""Source table -> source column -> form."""


def learn_forms(path: Path, live: Live) -> Forms:
    """Look at the values of every column in a snapshot of the source; reads only."""
    with closing(open_read_only(path, immutable=True)) as source:
        return {
            table.name: {
                pair.source.name: learn(source, table.pair.source, pair)
                for pair in table.pair.columns
                if not (table.hidden and pair in table.key)
            }
            for table in live.tables
        }


def to_json(forms: Forms) -> dict[str, Any]:
    """Return the forms as JSON-able values."""
    return {table: {name: form.to_json() for name, form in columns.items()} for table, columns in forms.items()}


def from_json(stored: Mapping[str, Any]) -> Forms:
    """Return the forms that `to_json` wrote."""
    return {
        table: {name: LexicalForm.from_json(form) for name, form in columns.items()}
        for table, columns in stored.items()
    }
