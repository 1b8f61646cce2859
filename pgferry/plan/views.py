"""Translates views: sqlglot writes the frame of a query, and each expression in it is translated as in a CHECK.

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
from pgferry.plan.translate import KnownColumn, Typed, Untranslatable, either, parse, typed_column
from pgferry.plan.view_terms import ViewTranslator, ordered
from pgferry.quoting import literal, quote
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
    return translated_view(sql, relations)[0]


def translated_view(sql: str, relations: Mapping[str, Relation]) -> tuple[str, bool]:
    """Return what `translate_view` does, and whether the view's own columns compare as they do in SQLite."""
    tree = parse(ddl.parse_view(sql).select)
    names = _Names(tree, relations)
    try:
        names.rewrite(tree)
        return str(tree.sql(dialect="postgres", identify=True)), not names.shows_unlike
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
        self._many = False
        self._terms = ViewTranslator(self._value)
        self.shows_unlike = False
        """Whether a column of the result compares in another way than in SQLite."""
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
        selects = list(tree.find_all(exp.Select))
        self._many = len(selects) > 1
        if not isinstance(tree, exp.Select | exp.SetOperation):
            raise Untranslatable("it is no plain SELECT")
        nodes: list[Any] = list(tree.walk())
        for node in nodes:
            _refuse_strange_parts(node)
        for select in selects:
            self._select(select)
        for operation in tree.find_all(exp.SetOperation):
            if operation.args.get("order"):
                raise Untranslatable("it sorts what UNION, EXCEPT or INTERSECT yields")
        for table in list(tree.find_all(exp.Table)):
            self._table(table)

    def _select(self, select: exp.Select) -> None:
        plain = not self._many and not select.args.get("distinct") and not select.args.get("group")
        outputs = [self._projection(node, plain=plain) for node in list(select.expressions)]
        for clause in (select.args.get("where"), select.args.get("having")):
            if clause is not None:
                clause.set("this", _raw(self._terms.truth(clause.this)))
        for join in select.args.get("joins") or ():
            self._join(join)
        group, order = select.args.get("group"), select.args.get("order")
        for node in list(group.expressions) if group else ():
            if not isinstance(node, exp.Literal):
                node.replace(_raw(self._terms.term(node).sql))
        for node in order.expressions if order else ():
            node.set("this", self._sorted(node.this, outputs))

    def _projection(self, node: exp.Expression, *, plain: bool) -> tuple[str, Typed | None]:
        """Translate a column of the result; return its name and what it yields, None of what may not be compared."""
        value: Any = node.this if isinstance(node, exp.Alias) else node
        if isinstance(value, exp.Star) or (isinstance(value, exp.Column) and isinstance(value.this, exp.Star)):
            self._all_columns(value, plain=plain)
            return "", None
        try:
            found = self._terms.term(value)
        except Untranslatable:
            # What NOCASE or several classes compare differently can be shown all the same.
            if not plain or not isinstance(value, exp.Column) or all(column.binary for column in self._known(value)):
                raise
            self.shows_unlike = True
            value.replace(_raw(self._name(value)))
            return node.alias_or_name.lower(), None
        value.replace(_raw(found.sql))
        return (node.alias.lower() if isinstance(node, exp.Alias) else ""), found

    def _all_columns(self, node: exp.Expression, *, plain: bool) -> None:
        alias = getattr(node, "table", "").lower()
        shown = [columns for (of, _), columns in self._of_alias.items() if not alias or of == alias]
        if any(not column.binary for columns in shown for column in columns):
            self.shows_unlike = True
            if not plain:
                raise Untranslatable("it takes all columns, some of which compare by a collation of SQLite's")
        if alias:
            node.set("table", exp.to_identifier(self._aliases.get(alias, alias), quoted=True))

    def _join(self, join: exp.Join) -> None:
        if join.args.get("method"):
            raise Untranslatable("NATURAL JOIN")
        if join.args.get("on"):
            join.set("on", _raw(self._terms.truth(join.args["on"])))
        for column in join.args.get("using") or ():
            found = self._columns.get(column.name.lower(), set())
            kinds = {known.type.kind for known in found}
            if len(kinds) != 1 or PgKind.UNSUPPORTED in kinds or not all(known.binary for known in found):
                raise Untranslatable(f"it joins using {column.name!r}, which may compare differently")
            column.set("this", _one_name(column.name, {known.name for known in found}))

    def _sorted(self, node: exp.Expression, outputs: list[tuple[str, Typed | None]]) -> exp.Expression:
        """Return what ORDER BY sorts by, in SQLite's order."""
        if isinstance(node, exp.Literal):
            place = int(node.name) - 1 if node.name.isdigit() else -1
            found = outputs[place][1] if 0 <= place < len(outputs) and all(o is not None for _, o in outputs) else None
            if found is None:
                raise Untranslatable("it sorts by the number of a column")
            return node if ordered(found) == found.sql else _raw(ordered(found))
        if isinstance(node, exp.Column) and not node.table:
            named = [found for name, found in outputs if name == node.name.lower()]
            if named:
                if named[0] is None:
                    raise Untranslatable(f"it sorts by {node.name!r}, which compares by a collation of SQLite's")
                plain = ordered(named[0]) == named[0].sql
                return _raw(quote(self._made[node.name.lower()]) if plain else ordered(named[0]))
        return _raw(ordered(self._terms.term(node)))

    def _value(self, node: exp.Column) -> Typed:
        """Return what a column yields; raises Untranslatable when its values compare differently in PostgreSQL."""
        found = self._known(node)
        for column in found:
            if not column.binary:
                raise Untranslatable(f"{column.name!r} compares by a collation, or by classes of values, of SQLite's")
        if not found and node.name.lower() not in self._made and node.this.quoted and not node.table:
            return Typed(literal(node.name), "text", node.name)  # SQLite takes "x" for a text when there is no column
        sql = self._name(node)
        values = [typed_column(sql, column) for column in found]
        ambiguous = self._many and node.name.lower() in self._made
        if not values or ambiguous or len({value.kind for value in values}) > 1:
            return Typed(sql, "of a type that is not known")
        return either(sql, values)

    def _table(self, node: exp.Table) -> None:
        key = node.name.lower()
        name = self._ctes.get(key) or self._relations[key].name
        node.set("this", exp.to_identifier(name, quoted=True))
        node.set("db", None)

    def _name(self, node: exp.Column) -> str:
        """Return a column's name in the target; raises Untranslatable."""
        key, table = node.name.lower(), node.table.lower()
        found = self._known(node)
        if not found and key not in self._made:
            raise Untranslatable(f"it names {node.name!r}, which is no column of what it reads")
        name = _one_name(node.name, {column.name for column in found}) if found else self._made[key]
        return f"{quote(self._aliases.get(table, node.table))}.{quote(name)}" if table else quote(name)

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


_STRUCTURE: dict[type[exp.Expression], frozenset[str]] = {
    exp.Select: frozenset(
        {"with_", "expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset", "distinct"}
    ),
    exp.Table: frozenset({"this", "alias", "db"}),
    exp.Group: frozenset({"expressions"}),
    exp.Join: frozenset({"this", "side", "kind", "on", "using", "method"}),
    exp.Ordered: frozenset({"this", "desc", "nulls_first"}),
    exp.Distinct: frozenset({"expressions"}),
    exp.Subquery: frozenset({"this", "alias"}),
    exp.SetOperation: frozenset({"this", "expression", "distinct", "order", "limit", "offset", "with_"}),
}
"""The parts of a query that are looked at. Any other would be carried with a meaning that is not known."""


def _refuse_strange_parts(node: exp.Expression) -> None:
    if isinstance(node, exp.Limit | exp.Offset) and not _is_count(node.args["expression"]):
        raise Untranslatable("LIMIT or OFFSET that is no plain number")
    for kind, known in _STRUCTURE.items():
        unknown = [name for name, value in node.args.items() if value and name not in known]
        if isinstance(node, kind) and unknown:
            raise Untranslatable(f"its {unknown[0]} is not known to mean the same in PostgreSQL")
    if isinstance(node, exp.Table) and not isinstance(node.this, exp.Identifier):
        raise Untranslatable("it reads what a function yields")


def _is_count(node: exp.Expression) -> bool:
    return isinstance(node, exp.Literal) and node.name.isdigit()


def _raw(sql: str) -> exp.Expression:
    return exp.Var(this=sql)
