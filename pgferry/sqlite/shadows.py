"""Tells shadow tables, in which a virtual table keeps what it holds, from ordinary tables with names like theirs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pgferry.sqlite import ddl

# Module -> suffix of the shadow table -> its first columns, as the module itself makes it in every version.
_Made = dict[str, tuple[str, ...]]
_FTS3: _Made = {
    "content": ("docid",),
    "segments": ("blockid", "block"),
    "segdir": ("level", "idx"),
    "docsize": ("docid", "size"),
    "stat": ("id", "value"),
}
_FTS5: _Made = {
    "data": ("id", "block"),
    "idx": ("segid", "term"),
    "content": ("id",),
    "docsize": ("id", "sz"),
    "config": ("k", "v"),
}
_RTREE: _Made = {"node": ("nodeno", "data"), "parent": ("nodeno", "parentnode"), "rowid": ("rowid", "nodeno")}
_MADE_BY: dict[str, _Made] = {
    "fts3": _FTS3,
    "fts4": _FTS3,
    "fts5": _FTS5,
    "rtree": _RTREE,
    "rtree_i32": _RTREE,
    "geopoly": _RTREE,
}

_FIRST_COLUMNS = "SELECT name FROM pragma_table_xinfo(?, 'main') ORDER BY cid LIMIT 2"
_KNOWN_MODULE = "SELECT 1 FROM pragma_module_list WHERE lower(name) = ?"


@dataclass(frozen=True, slots=True)
class VirtualTable:
    """A virtual table: its module in lower case, and what its `content=` names (empty text for contentless)."""

    name: str
    module: str
    content: str | None = None

    @property
    def keeps_text(self) -> bool:
        """Whether it keeps the only copy of its text or boxes, rather than an index of another table's."""
        return self.module in _MADE_BY and self.content is None


def read_virtual_table(name: str, sql: str) -> VirtualTable:
    """Read a CREATE VIRTUAL TABLE; the module is `unknown` where the text does not say it."""
    words = ddl.tokens(sql)
    using = next((place for place, token in enumerate(words) if token.keyword == "USING"), len(words))
    module = words[using + 1].name.lower() if using + 1 < len(words) else "unknown"
    return VirtualTable(name, module, _content(words[using + 2 :]))


def shadows(
    connection: sqlite3.Connection, virtual: Sequence[VirtualTable], kinds: Mapping[str, str]
) -> dict[str, VirtualTable]:
    """Return shadow table -> its virtual table; reads only. `kinds` is each table's type in `pragma table_list`.

    A table is one only by a name that the module gives and the columns that the module makes, and never when a
    `content=` names it: that is the application's own table. Where SQLite has the module, it must agree.
    """
    named = {table.content.lower() for table in virtual if table.content}
    loaded = {table.module: _is_loaded(connection, table.module) for table in virtual}
    found: dict[str, VirtualTable] = {}
    for name, kind in kinds.items():
        if kind == "virtual" or name.lower() in named:
            continue
        for owner, suffix in _owners(name, virtual):
            by_sqlite = kind == "shadow" or not loaded[owner.module]
            if by_sqlite and _made_by(connection, name, kind, owner, suffix):
                found[name] = owner
    return found


def _owners(name: str, virtual: Iterable[VirtualTable]) -> Iterator[tuple[VirtualTable, str]]:
    for table in virtual:
        start = table.name.lower() + "_"
        if name.lower().startswith(start):
            yield table, name.lower()[len(start) :]


def _made_by(connection: sqlite3.Connection, name: str, kind: str, owner: VirtualTable, suffix: str) -> bool:
    made = _MADE_BY.get(owner.module)
    if made is None:
        return kind == "shadow"
    if suffix not in made or (suffix == "content" and owner.content is not None):
        return False
    # fts5 with columnsize=0 makes no _docsize, yet SQLite calls any table of that name a shadow.
    columns = tuple(str(row[0]).lower() for row in connection.execute(_FIRST_COLUMNS, (name,)))
    return columns[: len(made[suffix])] == made[suffix]


def _is_loaded(connection: sqlite3.Connection, module: str) -> bool:
    return connection.execute(_KNOWN_MODULE, (module,)).fetchone() is not None


def _content(arguments: Sequence[ddl.Token]) -> str | None:
    """Return the value of the option `content=` among a module's arguments."""
    for place in range(1, len(arguments) - 1):
        key, sign = arguments[place], arguments[place + 1]
        begins = arguments[place - 1].text in ("(", ",")
        # FTS5 takes any beginning of an option's name for the option.
        if begins and sign.text == "=" and key.text and "content".startswith(key.text.lower()):
            value = arguments[place + 2] if place + 2 < len(arguments) else None
            return "" if value is None or value.text in (",", ")") else value.name
    return None
