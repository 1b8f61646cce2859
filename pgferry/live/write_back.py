"""Writes rows of PostgreSQL into the SQLite file, in one transaction there, as the application would have written them.

All touched rows of a table are deleted before the first is inserted, so unique values may move between rows. A cell
whose value in SQLite already means what PostgreSQL holds keeps its own form, and columns that PostgreSQL does not have
keep their values; a row keeps its rowid.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from pgferry.convert.back import Writer, reads_as, writer
from pgferry.convert.fields import encode_field
from pgferry.convert.outcome import Rejected
from pgferry.convert.rules import convert
from pgferry.convert.wire import decode_field, decode_rows
from pgferry.errors import Permanent, Transient
from pgferry.live.forms import Forms
from pgferry.live.model import LiveTable
from pgferry.model import Affinity, ColumnPair, Key, PgKind, SourceObject, SqliteValue, StorageClass, UndecodableText
from pgferry.quoting import quote
from pgferry.sqlite.binding import bound, marks
from pgferry.sqlite.capture import notes, set_note
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.fence import writing
from pgferry.sqlite.lexical import LexicalForm
from pgferry.sqlite.outbox import last_id, mark_of
from pgferry.sqlite.search_triggers import at_work, search_triggers

FRONT = "front"
"""The note of the SQLite file that says which side is in front: `sqlite` or `postgres`."""

CARRIED_AT = "carried_at"
"""The note of the moment up to which PostgreSQL's writes are in the file (ISO)."""

_TICKET = "carried"
_UNIFORM = "uniform_keys"
_IN_MEMORY = 32 * 1024 * 1024
_READ = 1024 * 1024

Begin = Callable[[sqlite3.Connection], None]
Raw = tuple[bytes | None, ...]
Old = tuple[SqliteValue, ...]
_WHOLE_NUMBERS = (PgKind.SMALLINT, PgKind.INTEGER, PgKind.BIGINT)


class Spool:
    """Bytes or values that are kept for a while: in memory while few, else in a file without a name."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, prefix="pgferry-")  # noqa: SIM115
        self.count = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)

    def append(self, value: object) -> None:
        """Append a value."""
        pickle.dump(value, self._file, pickle.HIGHEST_PROTOCOL)
        self.count += 1

    def rows(self) -> Iterator[Raw]:
        """Yield the rows of the COPY binary stream that was written."""
        self._file.seek(0)
        return decode_rows(iter(lambda: self._file.read(_READ), b""))

    def values(self) -> Iterator[Any]:
        """Yield what was appended."""
        self._file.seek(0)
        for _ in range(self.count):
            yield pickle.load(self._file)

    def batches(self, size: int) -> Iterator[list[Any]]:
        """Yield what was appended, in lists of at most `size`."""
        values = self.values()
        while batch := list(islice(values, size)):
            yield batch

    def close(self) -> None:
        """Give memory and disk back."""
        self._file.close()


def new_spool(held: ExitStack) -> Spool:
    """Return a spool that is closed with `held`."""
    return held.enter_context(closing(Spool()))


@dataclass(frozen=True, slots=True)
class TableRows:
    """The touched rows of a table. The stream's fields: the key's, whether the row exists, and the pair's columns."""

    table: LiveTable
    stream: Spool
    whole: bool = False
    """Whether the stream has all rows that exist, and every other one is gone."""


@dataclass(slots=True)
class TableWritten:
    """What became of a table's rows; `keys` are all that were touched, as SQLite has them."""

    table: LiveTable
    keys: Spool
    rows: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction has written; `outbox_id` is the last entry of SQLite's outbox, this transaction's own."""

    tables: tuple[TableWritten, ...]
    outbox_id: int
    mark: str | None
    """What that entry is, as `outbox.mark_of` tells it."""


def read_ticket(source: sqlite3.Connection) -> int:
    """Return the number of transactions that have carried PostgreSQL's writes into the file."""
    return int(notes(source).get(_TICKET, "0"))


def require_front(source: sqlite3.Connection, path: str) -> None:
    """Raise Permanent unless the file says that PostgreSQL is in front of it."""
    front = notes(source).get(FRONT, "sqlite")
    if front != "postgres":
        raise Permanent(
            f"{path} says that {front} is in front: changes of PostgreSQL are not carried into it any more.",
            "Look at `python -m flows status`; after an emergency rollback it says how to carry what was left behind.",
        )


def write_back(
    path: Path,
    tables: Sequence[TableRows],
    forms: Forms,
    moment: datetime,
    ticket: int,
    held: ExitStack,
    *,
    behind: bool = True,
    begin: Begin | None = None,
) -> Written:
    """Write the rows in one transaction of SQLite that passes the fence, or change nothing at all.

    The spools of the answer are closed with `held`. `ticket` was read (`read_ticket`) before the rows were: Transient
    when somebody has written since, for these rows may be older than theirs. With `behind` the file must be behind
    PostgreSQL (`require_front`). Raises Permanent naming table and key when SQLite refuses a row, or no form in SQLite
    reads back the same. `begin` is called first in the transaction: nobody else writes any more; what it writes
    commits with the rows, and what it raises passes through.
    """
    triggers = _search_triggers(path, tables)
    with writing(path) as target, at_work(target, triggers):
        if behind:
            require_front(target, str(path))
        if read_ticket(target) != ticket:
            raise Transient(f"Another process has carried changes into {path} meanwhile.", "Try again.")
        if begin is not None:
            begin(target)
        uniform = _Uniform.read(target)
        written = tuple(_TableWriter(target, rows, forms, uniform, held).write() for rows in tables)
        set_note(target, _TICKET, str(ticket + 1))
        if behind:
            set_note(target, CARRIED_AT, moment.isoformat())
        uniform.save(target)
        last = last_id(target)
        return Written(written, last, mark_of(target, last))


def _search_triggers(path: Path, tables: Sequence[TableRows]) -> tuple[SourceObject, ...]:
    try:
        with closing(open_read_only(path)) as source:
            return search_triggers(source, [rows.table.name for rows in tables])
    except sqlite3.Error as error:
        raise explain(error, path) from error


# ---------------------------------------------------------------- one table


class _TableWriter:
    """Writes one table. Passes over the stream: take the old rows out; then insert, those with a rowid of old first."""

    def __init__(
        self, target: sqlite3.Connection, rows: TableRows, forms: Forms, uniform: _Uniform, held: ExitStack
    ) -> None:
        table, source = rows.table, rows.table.pair.source
        self._target, self._rows, self._uniform = target, rows, uniform
        self._done = TableWritten(table, new_spool(held))
        of_table = forms.get(table.name, {})
        self._pairs = [(n, pair) for n, pair in enumerate(table.pair.columns) if pair.source.generated is None]
        self._writers = [(n, key_writer(pair, of_table)) for n, pair in self._pairs]
        self._key = Keys(table, forms)
        paired = {pair.source.name for pair in table.pair.columns}
        others = [c.name for c in source.columns if c.name not in paired and c.generated is None]
        names = [pair.source.name for _, pair in self._pairs]
        self._key_places = [names.index(pair.source.name) for pair in table.key]
        self._rowid = None if table.by_rowid else table.captured.rowid
        self._sql = _Statements(table, names, others, self._rowid)
        self._highest = 0
        self._kept = Spool()
        self._found: dict[int, Old] = {}

    def write(self) -> TableWritten:
        with closing(self._kept):
            self._take_out()
            if self._rows.whole:
                self._take_out_rest()
            if self._rowid is None:
                self._insert((True, False))
            else:
                self._insert((True,))
                self._insert((False,))  # SQLite chooses their rowids, which must not be those of old rows
        if self._rows.table.pair.source.autoincrement:
            self._raise_sequence()
        return self._done

    # ------------------------------------------------------------ what was there

    def _take_out(self) -> None:
        missed: dict[tuple[object, ...], int] = {}
        for place, (fields, exists, _) in enumerate(self._stream()):
            key = self._key.stored(fields)
            old = self._take(key)
            if exists:
                self._kept.append(old)
            else:
                self._done.deleted += 1
                self._done.keys.append(key)
            self._note_highest(key)
            if old is None and not self._key.exact:
                missed[self._key.meaning(fields)] = place
        if missed and not self._uniform.known(self._key):
            self._search(missed)

    def _take(self, key: Key) -> Old | None:
        """Remove the row of a key and return it: its rowid (or None), then all columns that are written."""
        rows: list[Old] = self._target.execute(self._sql.take, (*key, *key)).fetchall()
        return rows[0] if rows else None

    def _search(self, missed: Mapping[tuple[object, ...], int]) -> None:
        """Find the rows whose keys mean the same in another form, be it '2024-01-01 00:00' for '2024-01-01'."""
        uniform, found = True, []
        for key in self._target.execute(self._sql.keys):
            meaning, plain = self._key.look_at(key)
            uniform = uniform and plain
            if meaning is not None and meaning in missed:
                found.append((missed[meaning], key))
        for place, key in found:
            old = self._take(key)
            if old is not None:
                self._found[place] = old
        if uniform:
            self._uniform.learn(self._key)

    def _take_out_rest(self) -> None:
        for key in self._target.execute(self._sql.keys):
            self._done.keys.append(tuple(key))
            self._done.deleted += 1
            self._note_highest(key)
        self._target.execute(self._sql.delete_all)

    # ------------------------------------------------------------ what is to be there

    def _insert(self, with_old: Sequence[bool]) -> None:
        kept = self._kept.values()
        for place, (_, exists, fields) in enumerate(self._stream()):
            if not exists:
                continue
            old = next(kept)
            old = self._found.get(place, old)
            if (old is not None) not in with_old:
                continue
            row = self._row(fields, old)
            key = tuple([row[n] for n in self._key_places])
            if old is None:
                self._execute(self._sql.insert, row, key)
            else:
                self._execute(self._sql.insert_at, (old[0], *row) if self._rowid else row, key)
            self._done.rows += 1
            self._done.keys.append(key)

    def _row(self, fields: Sequence[bytes | None], old: Old | None) -> tuple[SqliteValue, ...]:
        if old is None:
            return tuple([write(fields[n]) for n, write in self._writers])
        cells = [
            _cell(write, fields[n], was, pair)
            for (n, write), (_, pair), was in zip(self._writers, self._pairs, old[1:], strict=False)
        ]
        return (*cells, *old[1 + len(cells) :])

    def _execute(self, statement: _Insert, row: tuple[SqliteValue, ...], key: Key) -> None:
        try:
            if UndecodableText in map(type, row):
                self._target.execute(statement.marked(marks(row)), bound(row))
            else:
                self._target.execute(statement.text, row)
        except sqlite3.IntegrityError as error:
            raise Permanent(
                f"SQLite refuses the row {_shown(key)} of table {self._rows.table.name!r}: {error}.",
                "Change the row in PostgreSQL so that SQLite's constraint holds, then run the same command again.",
                table=self._rows.table.name,
                key=key,
            ) from error

    def _stream(self) -> Iterator[tuple[Raw, bool, Raw]]:
        members = len(self._rows.table.key)
        for row in self._rows.stream.rows():
            yield row[:members], row[members] == b"\x01", row[members + 1 :]

    # ------------------------------------------------------------ AUTOINCREMENT

    def _note_highest(self, key: Key) -> None:
        if len(key) == 1 and isinstance(key[0], int):
            self._highest = max(self._highest, key[0])

    def _raise_sequence(self) -> None:
        """Keep SQLite from giving a number again that PostgreSQL gave to a row that is gone."""
        name = self._rows.table.name
        raised = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?"
        if not self._target.execute(raised, (self._highest, name)).rowcount:
            self._target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, self._highest))


def _cell(write: Writer, field: bytes | None, old: SqliteValue, pair: ColumnPair) -> SqliteValue:
    try:
        new = write(field)
    except Permanent:
        if reads_as(old, field, pair.target.type, pair.rule):
            return old
        raise
    if new == old and new.__class__ is old.__class__:
        return new
    return old if reads_as(old, field, pair.target.type, pair.rule) else new


def _shown(key: Key) -> str:
    return repr(key[0]) if len(key) == 1 else repr(key)


# ---------------------------------------------------------------- statements


class _Insert:
    def __init__(self, into: str, columns: Sequence[str]) -> None:
        self._head = f"{into} ({', '.join(columns)})"
        self.text = self.marked(["?"] * len(columns))

    def marked(self, each: Sequence[str]) -> str:
        return f"{self._head} VALUES ({', '.join(each)})"


class _Statements:
    """The SQL of one table. A key stands twice in it: by the column's collation, for the index, and byte by byte."""

    def __init__(self, table: LiveTable, names: Sequence[str], others: Sequence[str], rowid: str | None) -> None:
        name = quote(table.name)
        key = [quote(pair.source.name) for pair in table.key]
        where = " AND ".join([f"{k} = ?" for k in key] + [f"{k} = ? COLLATE BINARY" for k in key])
        plain = [*map(quote, names)]
        columns = [*plain, *map(quote, others)]
        # OR ABORT: a constraint may say ON CONFLICT REPLACE, which would remove another row in silence.
        into = f"INSERT OR ABORT INTO {name}"
        returned = ", ".join([quote(rowid) if rowid else "NULL", *columns])
        self.take = f"DELETE FROM {name} WHERE {where} RETURNING {returned}"
        self.keys = f"SELECT {', '.join(key)} FROM {name}"
        self.delete_all = f"DELETE FROM {name}"
        self.insert = _Insert(into, plain)
        self.insert_at = _Insert(into, [quote(rowid), *columns] if rowid else columns)


# ---------------------------------------------------------------- keys


class Keys:
    """The key of a table, between PostgreSQL's fields and SQLite's values."""

    def __init__(self, table: LiveTable, forms: Forms) -> None:
        of_table = forms.get(table.name, {})
        self.number = table.captured.number
        self.pairs = table.key
        self.exact = all(_is_exact(pair) for pair in table.key)
        self._writers = [key_writer(pair, of_table) for pair in table.key]
        described = repr([of_table.get(pair.source.name) for pair in table.key])
        self.digest = hashlib.sha256(described.encode()).hexdigest()[:16]

    def stored(self, fields: Sequence[bytes | None]) -> Key:
        """Return the key as it is written to SQLite."""
        return tuple([write(field) for write, field in zip(self._writers, fields, strict=True)])

    def meaning(self, fields: Sequence[bytes | None]) -> tuple[object, ...]:
        """Return the key's values in PostgreSQL, equal for equal keys."""
        return tuple(_meaning(field, pair) for field, pair in zip(fields, self.pairs, strict=True))

    def look_at(self, key: Key) -> tuple[tuple[object, ...] | None, bool]:
        """Return what a key of SQLite means in PostgreSQL, None when nothing, and whether it is in the usual form."""
        fields = []
        for value, pair in zip(key, self.pairs, strict=True):
            answer = convert(value, pair.target.type, pair.rule)
            if answer is None or isinstance(answer, Rejected):
                return None, True  # Not in PostgreSQL, so never touched there.
            fields.append(encode_field(answer, pair.target.type))
        usual = self.stored(fields)
        plain = usual == tuple(key) and all(a.__class__ is b.__class__ for a, b in zip(usual, key, strict=True))
        return self.meaning(fields), plain


def key_writer(pair: ColumnPair, forms: Mapping[str, LexicalForm]) -> Writer:
    """Return what writes a column's fields; the rowid of a hidden column has no form."""
    form = forms.get(pair.source.name)
    if form is None or (form.only is StorageClass.INTEGER and pair.target.type.kind in _WHOLE_NUMBERS):
        # Nothing but an integer can stand there: no form to try, and none to check.
        form = LexicalForm(StorageClass.INTEGER, Affinity.INTEGER, column=pair.source.name)
    return writer(pair.target.type, form, pair.rule)


def _is_exact(pair: ColumnPair) -> bool:
    """Whether a value of PostgreSQL can stand in SQLite in one form only, so that equal keys are equal there."""
    kind, affinity = pair.target.type.kind, pair.source.affinity
    if kind in _WHOLE_NUMBERS:
        return affinity in (Affinity.INTEGER, Affinity.NUMERIC, Affinity.REAL)
    plain = not pair.rule.blob_as_text and pair.rule.on_nul == "quarantine"
    return kind in (PgKind.TEXT, PgKind.VARCHAR) and affinity is Affinity.TEXT and plain


def _meaning(field: bytes | None, pair: ColumnPair) -> object:
    value = None if field is None else decode_field(field, pair.target.type)
    return value.rstrip(" ") if pair.target.type.kind is PgKind.CHAR and isinstance(value, str) else value


class _Uniform:
    """Which tables have all their keys in the usual form; true as long as nobody else writes to the file.

    Without it each new row of such a table would have to be looked for in every other form its key could have.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    @classmethod
    def read(cls, source: sqlite3.Connection) -> _Uniform:
        kept = json.loads(notes(source).get(_UNIFORM, "{}"))
        return cls(kept["tables"] if kept and kept["at"] == last_id(source) else {})

    def known(self, key: Keys) -> bool:
        return self._known.get(str(key.number)) == key.digest

    def learn(self, key: Keys) -> None:
        self._known[str(key.number)] = key.digest

    def save(self, target: sqlite3.Connection) -> None:
        if self._known:
            set_note(target, _UNIFORM, json.dumps({"at": last_id(target), "tables": self._known}))
