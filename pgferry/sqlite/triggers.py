"""The triggers that note each touched row of a SQLite table, as SQL made from what the catalog says of the table.

AFTER triggers note the row that was written. BEFORE triggers note the rows that the statement would remove through a
unique index, for SQLite fires no delete trigger for a row that REPLACE removes (lang_conflict.html). They note too
much when nothing is removed in the end, which does no harm: a noted row is read again, not guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pgferry.errors import Permanent
from pgferry.live.model import CapturedTable
from pgferry.model import Affinity, SourceColumn, SourceIndex, SourceTable
from pgferry.quoting import literal, quote
from pgferry.sqlite import ddl
from pgferry.sqlite.catalog import PREFIX
from pgferry.sqlite.collations import BUILT_IN_COLLATIONS

OUTBOX = PREFIX + "outbox"
"""The table of notes: id, t (the table's number), r (the rowid), k0, k1, … (the declared key)."""

_NO_NAMES = frozenset({"TRUE", "FALSE", "NULL", "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP"})
_EXACT = (Affinity.INTEGER, Affinity.TEXT)
"""Affinities under which values that SQLite finds equal (by BINARY) are the same values."""


@dataclass(frozen=True, slots=True)
class CaptureObject:
    """A trigger or table that pgferry makes in the file; `table` is the one that it belongs to."""

    name: str
    table: str
    sql: str


@dataclass(frozen=True, slots=True)
class _Lookup:
    """How the row is found that a new row would replace; `watched` are the columns that decide about it."""

    condition: str
    watched: tuple[str, ...]


def describe(table: SourceTable, number: int, generation: int = 0) -> CapturedTable:
    """Return what the outbox records of a table's rows.

    `generation` is counted up when writes may have gone unnoticed, so that the fingerprint tells.
    Raises Permanent for a table whose rows nothing addresses.
    """
    key = () if table.rowid_column else table.key
    if table.rowid_name is None and not key:
        raise Permanent(
            f"Table {table.name!r} has columns named rowid, _rowid_ and oid and no primary key: nothing addresses its "
            "rows, so their changes cannot be followed.",
            "Give it a primary key, or move it in a maintenance window with `python -m flows migrate`.",
        )
    stable = bool(table.rowid_column or key)
    return CapturedTable(number, table.name, table.rowid_name, key, _fingerprint(table, generation), stable)


def capture_objects(table: SourceTable, captured: CapturedTable) -> tuple[CaptureObject, ...]:
    """Return the triggers of one table, in the order in which they are made, after the helper table they may need."""
    return tuple(_Writer(table, captured).objects())


def outbox_columns(captured: CapturedTable) -> tuple[str, ...]:
    """Return the columns of the outbox that hold a table's key."""
    return tuple(f"k{place}" for place in range(len(captured.key)))


def trigger_name(number: int, purpose: str) -> str:
    """Return the name of a trigger of the table of that number."""
    return f"{PREFIX}{number}_{purpose}"


def _fingerprint(table: SourceTable, generation: int) -> str:
    made = [index for index in table.indexes if index.unique and index.origin == "c"]
    parts = [table.sql, sorted(json.dumps(_shape(index)) for index in made), generation]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _shape(index: SourceIndex) -> list[object]:
    text = ddl.parse_index(index.sql or "")
    return [text.terms, [term.collation for term in index.terms], text.where]


class _Writer:
    """Writes the SQL of one table's capture."""

    def __init__(self, table: SourceTable, captured: CapturedTable) -> None:
        self.table = table
        self.captured = captured
        self.address = ((captured.rowid,) if captured.rowid else ()) + captured.key
        self.helper = f"{PREFIX}new_{captured.number}"
        self.reckoned = _reckoned_columns(table)
        self.lookups = tuple(dict.fromkeys(self._lookups()))

    def objects(self) -> Iterator[CaptureObject]:
        if self._needs_helper():
            yield CaptureObject(self.helper, self.helper, self._helper_table())
        yield self._trigger("insert", "AFTER INSERT", "", [self._note("NEW")])
        yield self._trigger("delete", "AFTER DELETE", "", [self._note("OLD")])
        moved = " OR ".join(self._differs(name) for name in self.address)
        after = [self._note("OLD"), f"{self._into_outbox()} SELECT {self._values('NEW')} WHERE {moved}"]
        yield self._trigger("update", "AFTER UPDATE", "", after)
        if self.lookups:
            yield self._trigger("replace_insert", "BEFORE INSERT", "", [*self._fill_helper(), *self._found(False)])
            watched = _unique(name for lookup in self.lookups for name in lookup.watched)
            changed = " OR ".join(self._differs(name) for name in watched)
            body = [*self._fill_helper(), *self._found(len(self.lookups) > 1)]
            yield self._trigger("replace_update", "BEFORE UPDATE", changed, body)

    def _trigger(self, purpose: str, event: str, when: str, body: list[str]) -> CaptureObject:
        name = trigger_name(self.captured.number, purpose)
        condition = f"\nWHEN {when}" if when else ""
        statements = "".join(f"\n  {statement};" for statement in body)
        sql = f"CREATE TRIGGER {quote(name)} {event} ON {quote(self.table.name)}{condition}\nBEGIN{statements}\nEND"
        return CaptureObject(name, self.table.name, sql)

    # ------------------------------------------------------------ notes

    def _into_outbox(self) -> str:
        columns = ["t", *(["r"] if self.captured.rowid else []), *outbox_columns(self.captured)]
        return f"INSERT INTO {quote(OUTBOX)} ({', '.join(columns)})"

    def _values(self, row: str) -> str:
        values = [f"{row}.{quote(name)}" for name in self.address]
        return ", ".join([str(self.captured.number), *values])

    def _note(self, row: str) -> str:
        return f"{self._into_outbox()} VALUES ({self._values(row)})"

    def _differs(self, name: str) -> str:
        """Say whether the update changes a value, be it only its letter case or from 1 to 1.0."""
        new, old = f"NEW.{quote(name)}", f"OLD.{quote(name)}"
        differs = f"{new} IS NOT {old} COLLATE BINARY"
        column = _column(self.table, name)
        if column is None or column.affinity is not Affinity.BLOB:
            return differs
        return f"{differs} OR typeof({new}) <> typeof({old})"

    # ------------------------------------------------------------ rows that would be replaced

    def _found(self, guarded: bool) -> Iterator[str]:
        # Within FROM "new", NEW would be that table, not the row.
        alias = f" AS {quote(PREFIX)}" if self.table.name.lower() in ("new", "old") else ""
        rows = ", ".join([str(self.captured.number), *(quote(name) for name in self.address)])
        for lookup in self.lookups:
            changed = " OR ".join(self._differs(name) for name in lookup.watched)
            only = f" AND ({changed})" if guarded and changed else ""
            source = f"FROM {quote(self.table.name)}{alias} WHERE {lookup.condition}{only}"
            yield f"{self._into_outbox()} SELECT {rows} {source}"

    def _lookups(self) -> Iterator[_Lookup]:
        rowid = self.captured.rowid
        if rowid and self.captured.key:
            yield _Lookup(f"{quote(rowid)} = NEW.{quote(rowid)}", (rowid,))
        for index in self.table.indexes:
            if index.unique and not self._is_implied(index):
                yield self._lookup(index)

    def _is_implied(self, index: SourceIndex) -> bool:
        """Whether the row that it finds is noted anyway: it has the very address that the new row has."""
        if any(self._is_rowid(term.column) for term in index.terms):
            return True
        if not self.table.without_rowid or index.origin != "pk":
            return False
        columns = [_column(self.table, term.column) for term in index.terms]
        exact = all(column is not None and column.affinity in _EXACT for column in columns)
        return exact and all(term.collation == "BINARY" for term in index.terms)

    def _is_rowid(self, name: str | None) -> bool:
        # The catalog calls the INTEGER PRIMARY KEY "rowid" among an index's terms.
        return name is not None and (
            name == self.table.rowid_column or (name == "rowid" and _column(self.table, name) is None)
        )

    def _lookup(self, index: SourceIndex) -> _Lookup:
        text = ddl.parse_index(index.sql) if index.sql else None
        conditions: list[str] = []
        watched: list[str] = []
        for place, term in enumerate(index.terms):
            if term.column is not None:
                left, right = quote(term.column), self._new_value(term.column)
                watched += self._behind([term.column])
            else:
                written = self._verbatim(text.terms[place] if text else "")
                left, right = f"({written})", f"(SELECT {written} FROM {quote(self.helper)})"
                watched += self._behind(_mentioned(self.table, written))
            conditions.append(f"{left} COLLATE {quote(term.collation)} = {right}")
        if text and text.where:
            # Word for word, or SQLite would not use the partial index.
            conditions.append(_in_parentheses(self._verbatim(text.where)))
            watched += self._behind(_mentioned(self.table, text.where))
        return _Lookup(" AND ".join(conditions), _unique(watched))

    def _new_value(self, name: str) -> str:
        if name in self.reckoned:
            return f"(SELECT {quote(name)} FROM {quote(self.helper)})"
        column = _column(self.table, name)
        return _given(column) if column else f"NEW.{quote(name)}"

    def _verbatim(self, text: str) -> str:
        """Return an expression of the schema as a trigger may hold it.

        A name in double quotes that names nothing is text in the schema, but an error in a trigger
        where SQLite is built without that leniency (quirks.html#dblquote).
        """
        known = {column.name.lower() for column in self.table.columns} | {self.table.name.lower()}
        parts, end = [], 0
        words = ddl.tokens(text)
        for place, token in enumerate(words):
            called = place + 1 < len(words) and words[place + 1].text in ("(", ".")
            if token.quote == '"' and token.name.lower() not in known and not called:
                parts += [text[end : token.start], literal(token.name)]
                end = token.end
        return "".join([*parts, text[end:]])

    # ------------------------------------------------------------ the helper table

    def _needs_helper(self) -> bool:
        return any(quote(self.helper) in lookup.condition for lookup in self.lookups)

    def _helper_columns(self) -> list[SourceColumn]:
        names: list[str] = []
        for index in self.table.indexes:
            text = ddl.parse_index(index.sql) if index.unique and index.sql else None
            for place, term in enumerate(index.terms if index.unique else ()):
                if term.column is None and text:
                    names += self._behind(_mentioned(self.table, text.terms[place]))
                elif term.column in self.reckoned:
                    names += self._behind([term.column])
        wanted = set(names)
        return [column for column in self.table.columns if column.name in wanted]

    def _helper_table(self) -> str:
        # Expressions are reckoned from its columns, which have the table's own affinities and collations: NEW.x has
        # no affinity, so `x = '1'` may be false of it where it is true of the column.
        columns = ['"_pgferry" INTEGER', *(self._helper_column(column) for column in self._helper_columns())]
        return f"CREATE TABLE {quote(self.helper)} ({', '.join(columns)})"

    def _helper_column(self, column: SourceColumn) -> str:
        words = [quote(column.name), column.affinity.value]
        if column.collation in BUILT_IN_COLLATIONS:
            words.append(f"COLLATE {column.collation}")
        if column.generated:
            words.append(f"AS {_in_parentheses(self._verbatim(column.generated_expression or 'NULL'))}")
        return " ".join(words)

    def _fill_helper(self) -> Iterator[str]:
        if not self._needs_helper():
            return
        plain = [column for column in self._helper_columns() if not column.generated]
        names = ", ".join(['"_pgferry"', *(quote(column.name) for column in plain)])
        values = ", ".join(["1", *(_given(column) for column in plain)])
        yield f"DELETE FROM {quote(self.helper)}"
        yield f"INSERT INTO {quote(self.helper)} ({names}) VALUES ({values})"

    def _behind(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return these columns and those that they are reckoned from."""
        return _behind(self.table, names)


# ---------------------------------------------------------------- columns


def _column(table: SourceTable, name: str | None) -> SourceColumn | None:
    return next((column for column in table.columns if column.name == name), None)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _behind(table: SourceTable, names: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        column = _column(table, name)
        if name not in found:
            found.append(name)
            if column and column.generated_expression:
                waiting += _mentioned(table, column.generated_expression)
    return tuple(found)


def _mentioned(table: SourceTable, text: str) -> tuple[str, ...]:
    """Return the columns that an expression may speak of."""
    words: set[str] = set()
    for token in ddl.tokens(text):
        words |= {token.name.lower()} if token.quote else set(token.text.lower().split("."))
    return tuple(column.name for column in table.columns if column.name.lower() in words)


def _reckoned_columns(table: SourceTable) -> frozenset[str]:
    """Return the generated columns whose NEW value may not be the one that is stored.

    REPLACE puts the default in place of a NULL that a NOT NULL column is given, after the BEFORE triggers.
    """
    filled = {column.name for column in table.columns if _default(column)}
    made = [column.name for column in table.columns if column.generated]
    return frozenset(name for name in made if filled & set(_behind(table, [name])))


def _given(column: SourceColumn) -> str:
    """Return the value that a row to be written will have in a column."""
    default = _default(column)
    return f"coalesce(NEW.{quote(column.name)}, {default})" if default else f"NEW.{quote(column.name)}"


def _default(column: SourceColumn) -> str | None:
    """Return the default that REPLACE puts in place of NULL, as SQL; None when there is none."""
    if not column.not_null or column.default is None or column.generated:
        return None
    words = ddl.tokens(column.default)
    if len(words) == 1 and _is_name(words[0]):
        return literal(words[0].name)  # SQLite takes a lone name for text.
    return _in_parentheses(column.default)


def _is_name(token: ddl.Token) -> bool:
    if token.quote:
        return token.quote != "'"
    return token.keyword not in _NO_NAMES and not token.text[0].isdigit() and token.text[0] != "."


def _in_parentheses(text: str) -> str:
    # The line's end closes a comment that the text may end with.
    return f"({text}\n)" if "--" in text else f"({text})"
