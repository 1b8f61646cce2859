"""Puts the plan of one table together: its columns, keys, indexes, checks and foreign keys, and what is not carried."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pgferry.model import Affinity, PgKind, PgType, SourceColumn, SourceIndex, SourceTable
from pgferry.plan.defaults import translate_default
from pgferry.plan.infer import Proposal, Use
from pgferry.plan.model import (
    CheckPlan,
    ColumnPlan,
    IndexPlan,
    KeyPlan,
    NotCarried,
    TablePlan,
)
from pgferry.plan.names import Namespace
from pgferry.plan.ranges import NOTHING, Range
from pgferry.plan.storage import stays_whole
from pgferry.plan.translate import KnownColumn, Translator, Typed, Untranslatable
from pgferry.quoting import quote
from pgferry.sqlite import ddl, facts
from pgferry.sqlite.collations import is_own
from pgferry.sqlite.forms import SORTED_FORMS
from pgferry.sqlite.profile import ColumnProfile, TableProfile

MOST_TERMS = 32
"""Columns of a key or an index in PostgreSQL (https://www.postgresql.org/docs/current/limits.html)."""

_A_TERM = 16
"""Bytes that another term of an index row takes at the most besides its text: a number, a length, padding."""

LONGEST_KEY = 2600
"""Bytes of text that an index row surely takes: a B-tree's limit is 2,704 with its own overhead."""

_INTEGERS = (PgKind.SMALLINT, PgKind.INTEGER, PgKind.BIGINT)
_TEXTUAL = (PgKind.TEXT, PgKind.BYTEA, PgKind.JSONB, PgKind.NUMERIC)
_KEPT_APART = ("integer", "float", "text", "boolean", "bytea")
"""Kinds of expressions whose values are equal in PostgreSQL just when they are in SQLite."""


@dataclass(slots=True)
class Draft:
    """What is known of a table while its plan is made."""

    source: SourceTable
    name: str
    column_names: Mapping[str, str]
    """Source column -> target column, of the columns that are carried."""
    profile: TableProfile
    proposals: dict[str, Proposal]
    uses: Mapping[str, Use] = field(default_factory=dict)
    """How columns are used, by their lower-case names."""
    not_carried: list[NotCarried] = field(default_factory=list)

    def type(self, column: str) -> PgType:
        """Return the type proposed for a source column."""
        return self.proposals[column].type

    def exact(self, column: str) -> str:
        """Return the column's name as the table spells it: keys and indexes may spell it in another case."""
        wanted = column.lower()
        return next((name for name in self.column_names if name.lower() == wanted), column)

    def leave(self, kind: str, name: str, reason: str, sql: str = "") -> None:
        """Note what is not carried."""
        self.not_carried.append(NotCarried(kind, self.source.name, name, reason, sql))


class TablePlanner:
    """Plans one table; `relations` are the names of the target's schema, shared by all tables.

    `multiplied` says whether a view multiplies: then how near to zero reals come is measured.
    """

    def __init__(
        self, connection: sqlite3.Connection, draft: Draft, relations: Namespace, *, multiplied: bool = False
    ) -> None:
        self._connection = connection
        self._draft = draft
        self._relations = relations
        self._multiplied = multiplied or _multiplies(draft.source)
        self._least: dict[str, float] = {}
        self._constraints = Namespace()
        self._translator = Translator(self._known(generated=True))

    def plan(self) -> TablePlan:
        """Return the table's plan, foreign keys apart; what is not carried is noted in the draft."""
        draft = self._draft
        key, uniques = self._key(), []
        if key is None and draft.source.key:
            uniques = self._key_as_unique()
        indexes: list[IndexPlan] = []
        for index in draft.source.indexes:
            unique, plain = self._index(index)
            uniques += unique
            indexes += plain
        uniques = [unique for unique in uniques if not self._repeats_key(unique, key)]
        return TablePlan(
            source=draft.source.name,
            name=draft.name,
            rows=draft.profile.rows,
            columns=tuple(self._column(column) for column in draft.source.columns if column.name in draft.column_names),
            key=key,
            uniques=tuple(uniques),
            checks=tuple(self._checks()),
            indexes=tuple(indexes),
            stays_whole=stays_whole(draft.profile, {name: draft.type(name) for name in draft.column_names}),
        )

    def _repeats_key(self, unique: KeyPlan, key: KeyPlan | None) -> bool:
        # PostgreSQL makes one index of the two, without a word.
        repeats = key is not None and unique.columns == key.columns
        if repeats:
            self._draft.leave("unique", unique.name, "the primary key says the same")
        return repeats

    def known(self) -> Mapping[str, KnownColumn]:
        """Return the columns as views see them."""
        return self._known(generated=True)

    def _known(self, *, generated: bool) -> dict[str, KnownColumn]:
        draft = self._draft
        return {
            column.name.lower(): self._known_column(column)
            for column in draft.source.columns
            if column.name in draft.column_names and (generated or not column.generated)
        }

    def _known_column(self, column: SourceColumn) -> KnownColumn:
        draft, kind = self._draft, self._draft.type(column.name).kind
        profile = draft.profile.column(column.name)
        return KnownColumn(
            draft.column_names[column.name],
            draft.type(column.name),
            binary=self._is_plain(column),
            truths=tuple(sorted(profile.truths.items())),
            range=self._range(profile, kind),
            one_class=not _of_another_class(profile, kind),
            sorts=bool(profile.forms & SORTED_FORMS) and profile.min_chars == profile.max_chars and not profile.empties,
        )

    def _range(self, profile: ColumnProfile, kind: PgKind) -> Range | None:
        if profile.texts or profile.blobs:
            return None
        edges = [
            edge
            for edge in (profile.integer_min, profile.integer_max, profile.real_min, profile.real_max)
            if edge is not None
        ]
        if not edges:
            return NOTHING
        if profile.reals:
            edges = [float(edge) for edge in edges]
        return Range(min(edges), max(edges), self._nearest_to_zero(profile.name) if kind is PgKind.DOUBLE else 1)

    def _nearest_to_zero(self, column: str) -> float:
        if not self._multiplied:
            return 0
        if column not in self._least:
            self._least[column] = facts.least_magnitude(self._connection, self._draft.source.name, column)
        return self._least[column]

    def _is_plain(self, column: SourceColumn) -> bool:
        # A column of several storage classes compares by class first in SQLite, and has one class in PostgreSQL.
        # Numbers that are written as text are compared, measured and printed in another way than before.
        profile, kind = self._draft.profile.column(column.name), self._draft.type(column.name).kind
        written = kind in (PgKind.TEXT, PgKind.BYTEA) and bool(profile.integers + profile.reals)
        # Text that becomes numbers sorts as text in SQLite: '10' before '9'.
        read = kind in (*_INTEGERS, PgKind.DOUBLE, PgKind.NUMERIC, PgKind.BOOLEAN) and bool(profile.texts)
        # Not so where each truth is one word: conditions that name the words are translated, no other compares them.
        read = read and not (kind is PgKind.BOOLEAN and profile.truths)
        return column.collation == "BINARY" and not _is_mixed(profile) and not written and not read

    # ------------------------------------------------------------ columns

    def _column(self, column: SourceColumn) -> ColumnPlan:
        draft = self._draft
        proposal = draft.proposals[column.name]
        identity = column.name == draft.source.rowid_column
        generated = self._generated(column, proposal.type)
        default = self._default(column, proposal.type, identity=identity)
        return ColumnPlan(
            source=column,
            name=draft.column_names[column.name],
            type=proposal.type,
            evidence=proposal.evidence,
            notes=(*proposal.notes, *_of_collation(column)),
            not_null=identity or self._not_null(column),
            identity=identity,
            default=default,
            generated=generated,
            number_as_bytes=proposal.number_as_bytes,
        )

    def _not_null(self, column: SourceColumn) -> bool:
        if not column.not_null:
            return False
        nulls = self._draft.profile.column(column.name).nulls
        if nulls:
            self._draft.leave("not null", column.name, f"{nulls:,} rows hold NULL all the same")
        return not nulls

    def _default(self, column: SourceColumn, type: PgType, *, identity: bool) -> str | None:
        if column.default is None:
            return None
        if identity and column.default.upper().strip("() ") != "NULL":
            self._draft.leave("default", column.name, "SQLite never uses it: the key is a row number", column.default)
            return None
        try:
            return translate_default(column.default, type)
        except Untranslatable as error:
            self._draft.leave("default", column.name, str(error), column.default)
            return None

    def _generated(self, column: SourceColumn, type: PgType) -> str | None:
        if not column.generated:
            return None
        try:
            # A generated column may not use another one in PostgreSQL.
            value = Translator(self._known(generated=False)).value(column.generated_expression or "")
            return _assignable(value, type, column, self._draft.profile.column(column.name))
        except Untranslatable as error:
            reason = f"a plain column with the values instead: {error}"
            self._draft.leave("generated", column.name, reason, column.generated_expression or "")
            return None

    # ------------------------------------------------------------ keys and indexes

    def _key(self) -> KeyPlan | None:
        draft = self._draft
        columns = draft.source.key
        if not columns:
            return None
        reason = self._why_no_key(columns)
        if reason:
            draft.leave("primary key", ", ".join(columns), reason)
            return None
        name = self._relations.take(f"{draft.name}_pkey")
        return KeyPlan(name, tuple(draft.column_names[column] for column in columns))

    def _why_no_key(self, columns: Sequence[str]) -> str:
        draft = self._draft
        if any(column not in draft.column_names for column in columns):
            return "one of its columns is left out"
        nulls = [column for column in columns if draft.profile.column(column).nulls]
        if nulls:
            count = max(draft.profile.column(column).nulls for column in nulls)
            return f"{count:,} rows hold NULL in {', '.join(nulls)}, which SQLite allows; made a unique key instead"
        return self._why_not_unique(columns)

    def _key_as_unique(self) -> list[KeyPlan]:
        draft = self._draft
        columns = draft.source.key
        if any(column not in draft.column_names for column in columns) or self._why_not_unique(columns):
            return []
        return [self._unique(columns)]

    def _unique(self, columns: Sequence[str]) -> KeyPlan:
        names = tuple(self._draft.column_names[column] for column in columns)
        return KeyPlan(self._relations.take("_".join((self._draft.name, *names, "key"))), names)

    def _why_not_unique(self, columns: Sequence[str]) -> str:
        return self._why_no_index(columns) or self._why_equal([(column, "BINARY") for column in columns], [], "")

    def _why_equal(self, columns: Sequence[tuple[str, str]], expressions: Sequence[str], where: str) -> str:
        """Say why terms, unique in SQLite, are not in the target; `columns` with their collations."""
        mixed = [column for column, _ in columns if _is_mixed(self._draft.profile.column(column))]
        if not mixed:
            return ""
        terms = [self._as_target_sees(column, collation) for column, collation in columns]
        terms += [f"({expression}\n)" for expression in expressions]
        if facts.has_duplicates(self._connection, self._draft.source.name, terms, where):
            return f"values that SQLite keeps apart by their class (1 and '1') are equal in {', '.join(mixed)}"
        return ""

    def _as_target_sees(self, column: str, collation: str) -> str:
        known = collation if collation in ("NOCASE", "RTRIM") else "BINARY"
        if not _is_mixed(self._draft.profile.column(column)):
            return f"{quote(column)} COLLATE {known}"
        as_type = "BLOB" if self._draft.type(column).kind is PgKind.BYTEA else "TEXT"
        return f"{facts.written(column, as_type)} COLLATE {known}"

    def _why_no_index(self, columns: Sequence[str], expressions: Sequence[str] = ()) -> str:
        """Say why a B-tree cannot hold these terms: there are too many, or a row of them is too long; else ''."""
        terms = len(columns) + len(expressions)
        if terms > MOST_TERMS:
            return f"it has {terms} columns; a key or index in PostgreSQL has {MOST_TERMS} at the most"
        room = LONGEST_KEY - _A_TERM * (terms - 1)
        bound = sum(self._draft.profile.column(c).max_octets for c in columns if c in self._draft.column_names)
        if bound <= room and not expressions:
            return ""
        length = self._length(columns, expressions)
        if length > room:
            return f"its values take up to {length:,} bytes in a row, more than an index row can hold"
        return ""

    def _length(self, columns: Sequence[str], expressions: Sequence[str]) -> int:
        carried = [column for column in columns if column in self._draft.column_names]
        long = [quote(column) for column in carried if self._draft.type(column).kind in _TEXTUAL]
        terms = [*long, *(f"({expression}\n)" for expression in expressions)]
        return facts.longest(self._connection, self._draft.source.name, terms) if terms else 0

    def _index(self, index: SourceIndex) -> tuple[list[KeyPlan], list[IndexPlan]]:
        """Return what becomes of an index: a unique constraint, an index, or nothing that is not noted."""
        if index.origin == "pk" and all(term.collation == "BINARY" for term in index.terms):
            return [], []
        try:
            return self._carried_index(index)
        except Untranslatable as error:
            kind = "unique" if index.unique else "index"
            self._draft.leave(kind, index.name, str(error), index.sql or "")
            return [], []

    def _carried_index(self, index: SourceIndex) -> tuple[list[KeyPlan], list[IndexPlan]]:
        columns = [self._draft.exact(term.column) for term in index.terms if term.column is not None]
        missing = [column for column in columns if column not in self._draft.column_names]
        if missing:
            raise Untranslatable(f"it uses {', '.join(missing)}, which the target does not have")
        text = ddl.parse_index(index.sql) if index.sql else ddl.IndexText(())
        # Only what translates can be measured: other functions may be the application's own.
        where = self._translator.condition(text.where) if text.where else None
        expressions = self._expressions(index, text)
        reason = self._why_no_index(columns, expressions)
        if index.unique and not reason:
            terms = [
                (self._draft.exact(term.column), term.collation) for term in index.terms if term.column is not None
            ]
            reason = self._why_equal(terms, expressions, text.where or "")
        if reason:
            raise Untranslatable(reason)
        plain = len(columns) == len(index.terms) and all(term.collation == "BINARY" for term in index.terms)
        if index.origin == "u" and plain:
            return [self._unique(columns)], []
        return [], [self._made_index(index, text, where)]

    def _expressions(self, index: SourceIndex, text: ddl.IndexText) -> list[str]:
        """Return the index's terms that are expressions; raises when one of them is not carried."""
        found = [written for term, written in zip(index.terms, text.terms, strict=False) if term.column is None]
        for written in found:
            kind = self._translator.value(written).kind
            if index.unique and kind not in _KEPT_APART:
                raise Untranslatable(f"it yields {kind}, where different values may become equal")
        return found

    def _made_index(self, index: SourceIndex, text: ddl.IndexText, where: str | None) -> IndexPlan:
        terms = tuple(
            self._term(index, place, text.terms[place] if place < len(text.terms) else "")
            for place in range(len(index.terms))
        )
        if index.partial and where is None:
            raise Untranslatable("its predicate could not be read")
        columns = [self._draft.column_names[self._draft.exact(t.column)] for t in index.terms if t.column]
        automatic = index.name.startswith("sqlite_autoindex_")
        wanted = "_".join((self._draft.name, *columns, "key")) if automatic else index.name
        return IndexPlan(self._relations.take(wanted), index.name, terms, index.unique, where)

    def _term(self, index: SourceIndex, place: int, written: str) -> str:
        term = index.terms[place]
        if term.column is None:
            if term.collation != "BINARY":
                raise Untranslatable(f"an expression under the collation {term.collation}")
            sql = f"({self._translator.value(written).sql})"
        else:
            sql = self._collated(self._draft.exact(term.column), term.collation)
        return f"{sql} DESC" if term.descending else sql

    def _collated(self, column: str, collation: str) -> str:
        name = quote(self._draft.column_names[column])
        if collation == "BINARY" or self._draft.type(column).kind is not PgKind.TEXT:
            return name
        if collation == "NOCASE":
            # NOCASE folds ASCII letters only; plain lower() folds more, and could make unequal values equal.
            ascii_only = not self._draft.profile.column(column).not_ascii
            return f"lower({name})" if ascii_only else f'lower({name} COLLATE "C")'
        if collation == "RTRIM":
            return f"rtrim({name})"
        raise Untranslatable(
            f"the collation {collation} is the application's own, and PostgreSQL gets no index of that order"
        )

    # ------------------------------------------------------------ checks

    def _checks(self) -> Iterator[CheckPlan]:
        for check in self._draft.source.checks:
            try:
                sql = self._check(check)
            except Untranslatable as error:
                self._draft.leave("check", "", str(error), check)
                continue
            yield CheckPlan(self._constraints.take(f"{self._draft.name}_check"), sql, check)

    def _check(self, check: str) -> str:
        sql = self._translator.condition(check)
        broken = facts.violations(self._connection, self._draft.source.name, check)
        if broken:
            raise Untranslatable(f"{broken:,} rows break it")
        return sql


def _of_collation(column: SourceColumn) -> tuple[str, ...]:
    if not is_own(column.collation):
        return ()
    return (
        f"its collation {column.collation} is the application's own: PostgreSQL compares by the database's instead",
    )


def _multiplies(table: SourceTable) -> bool:
    generated = [column.generated_expression or "" for column in table.columns]
    return any("*" in text for text in (*table.checks, *generated, *(index.sql or "" for index in table.indexes)))


def _of_another_class(profile: ColumnProfile, kind: PgKind) -> int:
    """Count the values of another class than the type's, with which SQLite reckons, or which it measures, otherwise."""
    if kind in _INTEGERS:
        return profile.reals
    if kind is PgKind.DOUBLE:
        return profile.integers
    if kind is PgKind.BYTEA:
        return profile.texts
    return profile.blobs


def _is_mixed(profile: ColumnProfile) -> bool:
    return sum(bool(count) for count in (profile.integers + profile.reals, profile.texts, profile.blobs)) > 1


def _assignable(value: Typed, type: PgType, column: SourceColumn, profile: ColumnProfile) -> str:
    """Return the expression as a value of the column's type; raises when that could change it."""
    if value.kind in ("integer", "boolean") and profile.reals and column.affinity is not Affinity.REAL:
        raise Untranslatable(f"it yields {value.kind}, and {profile.reals:,} of its values are REAL")
    if value.kind == "text" and profile.values != profile.texts:
        raise Untranslatable("it yields text, and some of its values are not")
    integers = (PgKind.INTEGER, PgKind.BIGINT)
    if value.kind == "boolean" and type.kind in integers:
        return f"CAST({value.sql} AS integer)"
    fits = {
        "integer": (*integers, PgKind.DOUBLE, PgKind.NUMERIC),
        "float": (PgKind.DOUBLE,),
        "text": (PgKind.TEXT,),
        "boolean": (PgKind.BOOLEAN,),
    }
    if type.kind not in fits.get(value.kind, ()):
        raise Untranslatable(f"it yields {value.kind}, and its values are {type.kind.value}")
    return value.sql
