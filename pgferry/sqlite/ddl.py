"""Reads what only the CREATE text of a SQLite object says: checks, collations, generated columns, DEFERRABLE.

The text is cut into tokens first (comments, the four ways to quote a name, nested parentheses), as
https://www.sqlite.org/lang_createtable.html draws it. Text that does not parse yields what was found before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_CLOSING = {'"': '"', "'": "'", "`": "`", "[": "]"}
_SPACE = " \t\n\r\f"
_TABLE_CONSTRAINTS = ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN")


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its text as written, and where it lies. `quote` is the opening quote of a quoted one."""

    text: str
    start: int
    end: int
    quote: str = ""

    @property
    def keyword(self) -> str:
        """The word in capitals; empty for anything quoted."""
        return "" if self.quote else self.text.upper()

    @property
    def name(self) -> str:
        """The name that the token writes, without its quotes."""
        if not self.quote:
            return self.text
        closing = _CLOSING[self.quote]
        inner = self.text[1:-1]
        return inner if closing == "]" else inner.replace(closing * 2, closing)


@dataclass(slots=True)
class ForeignKeyText:
    """A REFERENCES clause."""

    columns: tuple[str, ...]
    parent: str
    deferrable: bool = False
    initially_deferred: bool = False


@dataclass(slots=True)
class ColumnText:
    """A column definition."""

    name: str
    collation: str = "BINARY"
    generated: str | None = None
    """The expression of a generated column."""


@dataclass(slots=True)
class TableText:
    """What a CREATE TABLE says beyond the pragmas, in the order of the text."""

    columns: list[ColumnText] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    foreign_keys: list[ForeignKeyText] = field(default_factory=list)
    autoincrement: bool = False

    def column(self, name: str) -> ColumnText | None:
        """Return the column of that name, whatever its case."""
        wanted = name.lower()
        return next((column for column in self.columns if column.name.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class IndexText:
    """The terms of a CREATE INDEX, without COLLATE, ASC and DESC, and its WHERE expression."""

    terms: tuple[str, ...]
    where: str | None = None


@dataclass(frozen=True, slots=True)
class ViewText:
    """The column names (often none) and the SELECT of a CREATE VIEW."""

    columns: tuple[str, ...]
    select: str


def tokens(sql: str) -> list[Token]:
    """Cut SQL into tokens; comments and white space are left out. An unclosed quote or comment ends the text."""
    found: list[Token] = []
    position = 0
    while position < len(sql):
        end = _skip_blank(sql, position)
        if end == position:
            token = _token(sql, position)
            found.append(token)
            end = token.end
        position = end
    return found


def parse_table(sql: str) -> TableText:
    """Read a CREATE TABLE."""
    table = TableText()
    scan = _Scan(sql, tokens(sql))
    while scan.here and scan.here.text != "(":
        scan.step()
    for item in _split(scan.group()):
        _Definition(sql, item, table).read()
    return table


def parse_index(sql: str) -> IndexText:
    """Read a CREATE INDEX."""
    scan = _Scan(sql, tokens(sql))
    while scan.here and scan.here.keyword != "ON":
        scan.step()
    while scan.here and scan.here.text != "(":
        scan.step()
    terms = tuple(_term(sql, item) for item in _split(scan.group()))
    where = None
    if scan.here and scan.here.keyword == "WHERE":
        scan.step()
        where = _between(sql, scan.rest())
    return IndexText(terms, where)


def parse_view(sql: str) -> ViewText:
    """Read a CREATE VIEW."""
    scan = _Scan(sql, tokens(sql))
    columns: tuple[str, ...] = ()
    while scan.here and scan.here.keyword != "AS":
        if scan.here.text == "(":
            columns = tuple(item[0].name for item in _split(scan.group()) if item)
        else:
            scan.step()
    scan.step()
    return ViewText(columns, _between(sql, scan.rest()).rstrip(";").rstrip())


class _Scan:
    """A walk over tokens; `here` is None at the end."""

    def __init__(self, sql: str, found: list[Token]) -> None:
        self.sql = sql
        self.found = found
        self.position = 0

    @property
    def here(self) -> Token | None:
        return self.found[self.position] if self.position < len(self.found) else None

    def step(self) -> Token | None:
        token = self.here
        self.position += 1
        return token

    def at(self, *keywords: str) -> bool:
        """Whether the next tokens are these keywords; steps over them if so."""
        ahead = self.found[self.position : self.position + len(keywords)]
        if [token.keyword for token in ahead] != list(keywords):
            return False
        self.position += len(keywords)
        return True

    def group(self) -> list[Token]:
        """Step over a parenthesised group and return what is inside; nothing when there is none here."""
        if self.here is None or self.here.text != "(":
            return []
        depth, start = 0, self.position + 1
        while (token := self.step()) is not None:
            depth += _depth(token)
            if depth == 0:
                return self.found[start : self.position - 1]
        return self.found[start:]

    def name(self) -> str:
        token = self.step()
        return token.name if token else ""

    def rest(self) -> list[Token]:
        return self.found[self.position :]


class _Definition(_Scan):
    """One item of a CREATE TABLE's list: a column, or table constraints."""

    def __init__(self, sql: str, found: list[Token], table: TableText) -> None:
        super().__init__(sql, found)
        self.table = table
        self.column: ColumnText | None = None

    def read(self) -> None:
        if self.here and self.here.keyword not in _TABLE_CONSTRAINTS:
            self.column = ColumnText(self.name())
            self.table.columns.append(self.column)
        while self.here:
            self._constraint()

    def _constraint(self) -> None:
        if self.at("CONSTRAINT"):
            self.step()
        elif self.at("CHECK"):
            self.table.checks.append(_between(self.sql, self.group()))
        elif self.at("FOREIGN", "KEY"):
            self._references(tuple(item[0].name for item in _split(self.group()) if item))
        elif self.here and self.here.keyword == "REFERENCES" and self.column:
            self._references((self.column.name,))
        elif self.at("AUTOINCREMENT"):
            self.table.autoincrement = True
        elif self.here and self.here.text == "(":
            self._inside_key()
        elif not self._of_column():
            self.step()

    def _inside_key(self) -> None:
        # PRIMARY KEY (id AUTOINCREMENT) is allowed as a table constraint.
        words = [token.keyword for token in self.group()]
        self.table.autoincrement |= "AUTOINCREMENT" in words

    def _of_column(self) -> bool:
        if self.column is None:
            return False
        if self.at("COLLATE"):
            self.column.collation = self.name().upper()
        elif self.at("AS"):
            self.column.generated = _between(self.sql, self.group())
        elif self.at("DEFAULT"):
            self._skip_default()
        else:
            return False
        return True

    def _skip_default(self) -> None:
        if self.here and self.here.text == "(":
            self.group()
            return
        sign = self.step()
        if sign and sign.text in ("+", "-"):
            self.step()

    def _references(self, columns: tuple[str, ...]) -> None:
        self.at("REFERENCES")
        key = ForeignKeyText(columns, self.name())
        self.table.foreign_keys.append(key)
        self.group()
        while self.here:
            if self.at("ON") or self.at("MATCH"):
                self._action()
            elif self.at("NOT", "DEFERRABLE"):
                key.deferrable = False
                self._initially()
            elif self.at("DEFERRABLE"):
                key.deferrable = True
                key.initially_deferred = self._initially()
            else:
                return

    def _action(self) -> None:
        for words in (("SET", "NULL"), ("SET", "DEFAULT"), ("NO", "ACTION")):
            if self.at("DELETE", *words) or self.at("UPDATE", *words):
                return
        self.at("DELETE") or self.at("UPDATE")
        self.step()

    def _initially(self) -> bool:
        if self.at("INITIALLY", "DEFERRED"):
            return True
        self.at("INITIALLY", "IMMEDIATE")
        return False


def _skip_blank(sql: str, position: int) -> int:
    """Return where white space or a comment that starts here ends; `position` itself when there is none."""
    if sql[position] in _SPACE:
        return position + 1
    if sql.startswith("--", position):
        end = sql.find("\n", position)
        return len(sql) if end < 0 else end + 1
    if sql.startswith("/*", position):
        end = sql.find("*/", position + 2)
        return len(sql) if end < 0 else end + 2
    return position


def _token(sql: str, start: int) -> Token:
    first = sql[start]
    if first in _CLOSING:
        end = _quoted_end(sql, start)
        return Token(sql[start:end], start, end, first)
    end = start + 1
    if _in_word(first):
        while end < len(sql) and (_in_word(sql[end]) or _in_exponent(sql, start, end)):
            end += 1
    return Token(sql[start:end], start, end)


def _quoted_end(sql: str, start: int) -> int:
    closing = _CLOSING[sql[start]]
    position = start + 1
    while (position := sql.find(closing, position)) >= 0:
        doubled = closing != "]" and sql.startswith(closing, position + 1)
        if not doubled:
            return position + 1
        position += 2
    return len(sql)


def _in_word(character: str) -> bool:
    # SQLite counts every character beyond ASCII as a letter.
    return character.isalnum() or character in "_$." or ord(character) > 127


def _in_exponent(sql: str, start: int, position: int) -> bool:
    number = sql[start].isdigit() or sql[start] == "."
    return number and sql[position] in "+-" and sql[position - 1] in "eE" and not sql.startswith(("0x", "0X"), start)


def _depth(token: Token) -> int:
    return {"(": 1, ")": -1}.get(token.text, 0)


def _split(found: list[Token]) -> Iterator[list[Token]]:
    """Cut tokens at their top-level commas."""
    item: list[Token] = []
    depth = 0
    for token in found:
        depth += _depth(token)
        if token.text == "," and depth == 0:
            yield item
            item = []
        else:
            item.append(token)
    if item:
        yield item


def _between(sql: str, found: list[Token]) -> str:
    """Return the text from the first of these tokens to the last, comments inside included."""
    return sql[found[0].start : found[-1].end] if found else ""


def _term(sql: str, item: list[Token]) -> str:
    while item and item[-1].keyword in ("ASC", "DESC"):
        item = item[:-1]
    if len(item) > 2 and item[-2].keyword == "COLLATE":
        item = item[:-2]
    return _between(sql, item)
