"""Translates views: sqlglot writes the query for PostgreSQL, with the target's exact names in it.

Whether the result runs there, only a server can say (`pgferry.plan.trial`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from pgferry.model import PgKind
from pgferry.plan.translate import KnownColumn, Untranslatable, glob_to_regex, parse
from pgferry.sqlite import ddl


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view that a view may read; `columns` by their lower-case SQLite names."""

    name: str
    columns: Mapping[str, KnownColumn]


def translate_view(sql: str, relations: Mapping[str, Relation]) -> str:
    """Return a CREATE VIEW's query as PostgreSQL's SQL; `relations` by their lower-case SQLite names.

    Raises Untranslatable with the reason.
    """
    tree = parse(ddl.parse_view(sql).select)
    names = _Names(tree, relations)
    try:
        names.rewrite(tree)
        return str(tree.sql(dialect="postgres", identify=True))
    except (SqlglotError, RecursionError, ValueError) as error:
        raise Untranslatable(f"it does not translate: {error}") from error


class _Names:
    """The names of one query, and what becomes of its nodes."""

    def __init__(self, tree: exp.Expression, relations: Mapping[str, Relation]) -> None:
        self._relations = relations
        self._aliases: dict[str, str] = {}
        self._columns: dict[str, set[KnownColumn]] = defaultdict(set)
        self._of_alias: dict[tuple[str, str], set[KnownColumn]] = defaultdict(set)
        self._made: dict[str, str] = {}
        self._ctes = {cte.alias.lower(): cte.alias for cte in tree.find_all(exp.CTE)}
        for alias in tree.find_all(exp.Alias):
            self._made.setdefault(alias.alias.lower(), alias.alias)
        for table_alias in tree.find_all(exp.TableAlias):
            self._aliases[table_alias.name.lower()] = table_alias.name
            self._made.update({column.name.lower(): column.name for column in table_alias.columns})
        for table in tree.find_all(exp.Table):
            self._read(table)

    def _read(self, table: exp.Table) -> None:
        key = table.name.lower()
        if key in self._ctes:
            self._aliases[(table.alias or key).lower()] = table.alias or self._ctes[key]
            return
        relation = self._relations.get(key)
        if relation is None:
            raise Untranslatable(f"it reads {table.name!r}, which is not carried")
        alias = (table.alias or key).lower()
        self._aliases[alias] = table.alias or relation.name
        for name, column in relation.columns.items():
            self._columns[name].add(column)
            self._of_alias[alias, name].add(column)

    def rewrite(self, tree: exp.Expression) -> None:
        """Change the query in place; raises Untranslatable."""
        comparisons: list[Any] = list(tree.find_all(exp.EQ, exp.NEQ))
        for comparison in comparisons:
            self._compare_booleans(comparison)
        for column in list(tree.find_all(exp.Column)):
            self._compare_words(column)
        for collate in tree.find_all(exp.Collate):
            raise Untranslatable(f"it sorts or compares by {collate.args['expression'].name}")
        for table in list(tree.find_all(exp.Table)):
            self._table(table)
        for column in list(tree.find_all(exp.Column)):
            column.replace(self._column(column))
        matches: list[Any] = list(tree.find_all(exp.Like, exp.Glob))
        for match in matches:
            match.replace(_like(match) if isinstance(match, exp.Like) else _glob(match))

    def _compare_booleans(self, node: exp.Expression) -> None:
        """Compare a boolean column with true and false instead of 1 and 0."""
        left, right = node.args["this"], node.args["expression"]
        if not isinstance(left, exp.Column) or not isinstance(right, exp.Literal):
            return
        boolean = {column.type.kind for column in self._known(left)} == {PgKind.BOOLEAN}
        if boolean and right.name in ("0", "1"):
            node.set("expression", exp.Boolean(this=right.name == "1"))

    def _compare_words(self, column: Any) -> None:
        """Compare a boolean column with true and false instead of the words that it holds."""
        truths = {word: truth for known in self._known(column) for word, truth in known.truths}
        beside = column.parent if truths and isinstance(column.parent, exp.Binary | exp.In) else None
        literals = [node for node in beside.iter_expressions() if isinstance(node, exp.Literal)] if beside else []
        for literal in literals:
            if literal.name not in truths:
                raise Untranslatable(f"it compares {column.name!r} with {literal.name!r}, a word that it does not hold")
            literal.replace(exp.Boolean(this=truths[literal.name]))

    def _table(self, node: exp.Table) -> None:
        key = node.name.lower()
        name = self._ctes.get(key) or self._relations[key].name
        node.set("this", exp.to_identifier(name, quoted=True))
        node.set("db", None)

    def _column(self, node: exp.Column) -> exp.Expression:
        if isinstance(node.this, exp.Star):
            return node
        key, table = node.name.lower(), node.table.lower()
        found = self._known(node)
        if found:
            name = _one_name(node.name, {column.name for column in found})
        elif key in self._made:
            name = self._made[key]
        elif node.this.quoted and not table:
            return exp.Literal.string(node.name)
        else:
            raise Untranslatable(f"it names {node.name!r}, which is no column of what it reads")
        node.set("this", exp.to_identifier(name, quoted=True))
        if table and table in self._aliases:
            node.set("table", exp.to_identifier(self._aliases[table], quoted=True))
        return node

    def _known(self, node: exp.Column) -> set[KnownColumn]:
        """Return the source columns that a name may mean."""
        key, table = node.name.lower(), node.table.lower()
        return self._of_alias.get((table, key), set()) if table else self._columns.get(key, set())


def _one_name(written: str, names: set[str]) -> str:
    if len(names) == 1:
        return next(iter(names))
    if written in names:
        return written
    raise Untranslatable(f"{written!r} may be {' or '.join(sorted(map(repr, names)))}")


def _like(node: exp.Like) -> exp.Expression:
    pattern = node.args["expression"]
    if not isinstance(pattern, exp.Literal) or "\\" in pattern.name:
        raise Untranslatable("LIKE with a pattern that is no plain text")
    # SQLite's LIKE ignores case.
    return exp.ILike(**node.args)


def _glob(node: exp.Glob) -> exp.Expression:
    pattern = node.args["expression"]
    if not isinstance(pattern, exp.Literal):
        raise Untranslatable("GLOB with a pattern that is no plain text")
    return exp.RegexpLike(this=node.this, expression=exp.Literal.string(glob_to_regex(pattern.name)))
