"""The application's triggers that keep a search index: they alone go on while rows come back from PostgreSQL.

Any other trigger has done its work in PostgreSQL, or its application has, and the rows that it wrote come back by
themselves. But a virtual table (FTS5, R-Tree) is not in PostgreSQL: it stays current only if its triggers see the rows.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pgferry.model import SourceObject
from pgferry.quoting import quote
from pgferry.sqlite import ddl

_TRIGGERS = "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' AND sql IS NOT NULL ORDER BY rowid"
_VIRTUAL = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'"

_log = logging.getLogger(__name__)


def search_triggers(source: sqlite3.Connection, tables: Iterable[str]) -> tuple[SourceObject, ...]:
    """Return the triggers on these tables that write to virtual tables and to nothing else; reads only.

    Left out, with a warning, are those of a virtual table that this program's SQLite cannot open, and those that
    write to other tables as well: such an index must be rebuilt before SQLite is in front again.
    """
    wanted = {table.lower() for table in tables}
    virtual = {name.lower(): name for (name,) in source.execute(_VIRTUAL) if isinstance(name, str)}
    if not virtual:
        return ()
    found = []
    for name, table, sql in source.execute(_TRIGGERS).fetchall():
        if isinstance(name, str) and isinstance(sql, str) and str(table).lower() in wanted:
            written = written_tables(sql)
            indexes = [virtual[item] for item in sorted(written & virtual.keys())]
            if indexes and (problem := _problem(source, indexes, written)):
                _log.warning("Trigger %r does not see the rows that come back: %s", name, problem)
            elif indexes:
                found.append(SourceObject("trigger", name, sql, table=table))
    return tuple(found)


@contextmanager
def at_work(target: sqlite3.Connection, triggers: Sequence[SourceObject]) -> Iterator[None]:
    """Let triggers that were taken off fire during the block. Joins the caller's transaction."""
    for trigger in triggers:
        target.execute(trigger.sql)
    yield
    for trigger in triggers:
        target.execute(f"DROP TRIGGER {quote(trigger.name)}")


def written_tables(trigger: str) -> set[str]:
    """Return the tables that a trigger's own statements write to, in lower case."""
    words = ddl.tokens(trigger)
    begin = next((place for place, token in enumerate(words) if token.keyword == "BEGIN"), len(words))
    body = words[begin + 1 :]
    return {body[place].name.lower() for place in _targets(body) if place < len(body)}


def _targets(body: Sequence[ddl.Token]) -> Iterator[int]:
    """Yield the places of the tables' names: each statement of a trigger stands behind BEGIN or a semicolon."""
    starts = [0, *(place + 1 for place, token in enumerate(body) if token.text == ";")]
    for start in starts:
        verb = body[start].keyword if start < len(body) else ""
        if verb in ("INSERT", "REPLACE"):
            yield next((n + 1 for n in range(start, len(body)) if body[n].keyword == "INTO"), len(body))
        elif verb == "DELETE":
            yield start + 2
        elif verb == "UPDATE":
            choice = start + 1 < len(body) and body[start + 1].keyword == "OR"
            yield start + (3 if choice else 1)


def _problem(source: sqlite3.Connection, indexes: Sequence[str], written: set[str]) -> str:
    others = sorted(written - {name.lower() for name in indexes})
    if others:
        return f"it writes to {', '.join(others)} as well; rebuild {', '.join(indexes)} after a rollback"
    for name in indexes:
        try:
            source.execute(f"SELECT 1 FROM {quote(name)} LIMIT 0")
        except sqlite3.Error as error:
            return f"this program's SQLite cannot open {name} ({error}); rebuild it after a rollback"
    return ""
