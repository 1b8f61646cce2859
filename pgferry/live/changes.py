"""What happened to a captured file besides writes to its rows; it stops the sync before anything is applied."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence, Set
from dataclasses import replace

from pgferry.errors import Permanent
from pgferry.live.model import Capture, Change, ChangeKind
from pgferry.sqlite import capture as captures

REMEMBERED = 100
"""Schema versions that are remembered as harmless."""

_HARMLESS: set[tuple[Capture, int]] = set()


class SchemaChanged(Permanent):
    """The file was changed otherwise than by writes to rows: nothing more is applied until a person has looked."""


def refuse_changes(
    source: sqlite3.Connection,
    name: str,
    known: Capture,
    excluded: Set[str] = frozenset(),
    at_least: int = 0,
    mark: str | None = None,
) -> None:
    """Raise SchemaChanged when the file `name` is not as it was captured; to be called inside a read transaction.

    Changes of the tables in `excluded` do not count. `at_least` is the last entry of the outbox that was applied, and
    `mark` what it was.
    """
    version = captures.schema_version(source)
    seen = replace(known, schema_version=version) if (known, version) in _HARMLESS else known
    everything = captures.changes(source, seen, at_least, mark)
    found = tuple(change for change in everything if change.table not in excluded)
    if found:
        raise SchemaChanged(f"{name}: {'; '.join(map(said, found))}.", _advice(found), changes=found)
    if not everything and seen.schema_version != version:
        _remember(known, version)


def _remember(known: Capture, version: int) -> None:
    # An index or ANALYZE changes the version and nothing that matters: looked at once, not at each cycle of the sync.
    if len(_HARMLESS) >= REMEMBERED:
        _HARMLESS.clear()
    _HARMLESS.add((known, version))


def refuse_replaced(name: str, changes: Sequence[Change]) -> None:
    """Raise SchemaChanged when another file stands in the captured one's place; not when that one has lost writes."""
    replaced = tuple(change for change in changes if change.kind is ChangeKind.REPLACED and not change.lost)
    if replaced:
        raise SchemaChanged(f"{name}: {said(replaced[0])}.", _advice(replaced), changes=replaced)


def said(change: Change) -> str:
    """Return the change in words."""
    return f"table {change.table!r} is {change.kind} ({change.detail})" if change.table else change.detail


def _advice(changes: Sequence[Change]) -> str:
    if any(change.kind is ChangeKind.REPLACED and not change.lost for change in changes):
        return (
            "Nothing was applied. If the file was restored on purpose, begin anew: `python -m flows dual-write "
            "--undo`, then `python -m flows dual-write --restart`."
        )
    if any(change.lost for change in changes):
        return (
            "Nothing was applied. After a power loss SQLite may lack its last commits; or the file was restored on "
            "purpose. Look at what PostgreSQL has more, if that matters: `python -m flows dual-write --resume` copies "
            "all tables again, as the file has them now."
        )
    return (
        "Nothing was applied. Make the same change in PostgreSQL by a migration, then run "
        "`python -m flows dual-write --resume`: it copies only the tables concerned again."
    )
