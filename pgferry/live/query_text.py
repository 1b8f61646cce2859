"""The application's own SELECTs: files of one statement each, checked, and translated from SQLite to PostgreSQL.

The grammar is sqlglot's. It knows how the dialects spell a thing; what it cannot know is what SQLite's looseness means:
that `LIKE` ignores case, that a boolean is a number, that NULLs sort first. Those are rewritten here. What has no
translation passes as it is, and the server says that it does not know it; `NAME.postgres.sql` beside `NAME.sql` then
holds the statement that the application uses on PostgreSQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pgferry.errors import UsageError

Value = None | bool | int | float | str | bytes
Node = Any
"""A node of sqlglot's tree; its own types say less than they could about what a node holds."""

OWN_SUFFIX = ".postgres.sql"
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME = re.compile(r"^\s*--\s*name\s*:\s*(?P<name>.+?)\s*$", re.MULTILINE | re.IGNORECASE)
_PARAMETER = re.compile(r"^\s*--\s*:(?P<name>\w+)\s*=\s*(?P<literal>.+?)\s*$", re.MULTILINE)
_START = re.compile(r"[\s(]*(SELECT|WITH|VALUES)\b", re.IGNORECASE)
_WORDS: Mapping[str, Value] = {"null": None, "true": True, "false": False}
_WRITES = (exp.DML, exp.Into, exp.DDL, exp.Command)


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT of the application, as a file names it."""

    name: str
    file: str
    """The file's name, for messages."""
    sql: str
    """The statement for SQLite, with parameters as `:name`."""
    own: str | None = None
    """The statement that the application uses on PostgreSQL, where a translation would not do."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """What is bound to each parameter."""


@dataclass(frozen=True, slots=True)
class TargetColumns:
    """What the translation needs to know of the target: column names that mean the same in every table."""

    booleans: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    """Columns that are NOT NULL."""


def folder_of(folder: Path, source: Path) -> Path:
    """Return where a source's queries are: the subfolder of its name (without .db) if there is one, else `folder`."""
    own = folder / source.stem
    return own if own.is_dir() else folder


def read_queries(folder: Path) -> tuple[Query, ...]:
    """Read every `*.sql` of a folder, sorted by file name; none when there is no such folder.

    A file holds one SELECT, WITH or VALUES. Comment lines `-- name: …` name it (else the file's name does) and
    `-- :parameter = literal` give its parameters' values. Raises UsageError naming the file and what is wrong in it.
    """
    files = sorted(folder.glob("*.sql")) if folder.is_dir() else []
    return tuple(_read_query(path) for path in files if not path.name.endswith(OWN_SUFFIX))


def _read_query(path: Path) -> Query:
    text = _text(path)
    own = path.with_name(path.name.removesuffix(".sql") + OWN_SUFFIX)
    named = _NAME.search(text)
    query = Query(
        named["name"] if named else path.stem,
        path.name,
        text,
        _text(own) if own.is_file() else None,
        {match["name"]: _literal(path.name, match["literal"]) for match in _PARAMETER.finditer(text)},
    )
    _check(query)
    return query


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The query {path.name} cannot be read: {error}.", "Check the file.") from error


def _literal(file: str, text: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"'(?:[^']|'')*'", text):
        return text[1:-1].replace("''", "'")
    if re.fullmatch(r"[xX]'(?:[0-9a-fA-F]{2})*'", text):
        return bytes.fromhex(text[2:-1])
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{file}: {text} is no literal.", "Write a number, 'text', x'00', true, false or null."
        ) from None


def _check(query: Query) -> None:
    """Refuse a file that is no single SELECT, or whose parameters and values do not match."""
    wanted = set(parameters(query.sql, file=query.file))
    if query.own is not None:
        own = query.file.removesuffix(".sql") + OWN_SUFFIX
        wanted |= set(parameters(query.own, file=own, dialect="postgres"))
    if missing := sorted(wanted - set(query.values)):
        line = f"Add a line `-- :{missing[0]} = …` with a literal."
        raise UsageError(f"{query.file}: no value for the parameter :{missing[0]}.", line)
    if unknown := sorted(set(query.values) - wanted):
        raise UsageError(f"{query.file}: there is no parameter :{unknown[0]}.", "Correct its name, or drop the line.")


def parse(sql: str, *, file: str = "The query", dialect: str = "sqlite") -> Node:
    """Parse one SELECT, WITH or VALUES that only reads. Raises UsageError naming `file` for anything else."""
    action = "One file holds one SELECT, WITH or VALUES."
    if not _START.match(_COMMENT.sub(" ", sql)):
        raise UsageError(f"{file} does not begin with SELECT, WITH or VALUES.", action)
    try:
        statements = [node for node in sqlglot.parse(sql, read=dialect) if node is not None]
    except SqlglotError as error:
        raise UsageError(f"{file} cannot be understood{_where(error)}.", "Correct the statement.") from error
    if len(statements) != 1:
        raise UsageError(f"{file} holds {len(statements)} statements.", action)
    tree: Any = statements[0]
    if not isinstance(tree, exp.Query | exp.Values) or any(tree.find_all(*_WRITES)):
        raise UsageError(f"{file} does more than read.", action)
    return tree


def _where(error: SqlglotError) -> str:
    first = next(iter(getattr(error, "errors", ())), None)
    return f" (line {first['line']}, near {first['highlight']!r})" if first else ""


def parameters(sql: str, *, file: str = "The query", dialect: str = "sqlite") -> tuple[str, ...]:
    """Return the names of the parameters; the first is `$1` in the translation. Raises UsageError as `parse`."""
    return _parameters(parse(sql, file=file, dialect=dialect), file)


def _parameters(tree: Node, file: str) -> tuple[str, ...]:
    found = list(tree.find_all(exp.Placeholder))
    dollars = [node for node in tree.find_all(exp.Identifier) if node.name.startswith("$") and not node.quoted]
    if any(tree.find_all(exp.Parameter)) or dollars or any(not isinstance(node.this, str) for node in found):
        raise UsageError(f"{file} has a parameter without a name.", "Write parameters as :name.")
    return tuple(sorted({node.name for node in found}))


# ---------------------------------------------------------------- translation


def translated(sql: str, columns: TargetColumns | None = None, *, dialect: str = "sqlite") -> str:
    """Return the statement for PostgreSQL, with `$1` for the first name of `parameters(sql)`, and so on.

    `columns` says what is known of the target. With `dialect` "postgres" only the parameters are rewritten. Raises
    UsageError as `parse`.
    """
    tree = parse(sql, dialect=dialect).copy()
    names = _parameters(tree, "The query")
    known = columns or TargetColumns()
    # The deepest first: a node that is replaced takes its finished parts along.
    for node in reversed(list(tree.walk(bfs=True))):
        if isinstance(node, exp.Placeholder):
            node.replace(exp.Parameter(this=exp.Literal.number(names.index(node.name) + 1)))
        elif dialect == "sqlite" and (rewrite := _REWRITES.get(type(node))):
            rewrite(node, known)
    return str(tree.sql(dialect="postgres", comments=False))


Rewrite = Callable[[Node, TargetColumns], None]


def _is_boolean(node: object, known: TargetColumns) -> bool:
    return isinstance(node, exp.Column) and node.name.lower() in known.booleans


def _equality(node: Node, known: TargetColumns) -> None:
    """`flag = 1` compares a boolean with a number; `a = b COLLATE NOCASE` names a collation of SQLite's."""
    for side, other in (("this", "expression"), ("expression", "this")):
        constant = node.args[other]
        if _is_boolean(node.args[side], known) and constant.sql() in ("0", "1"):
            constant.replace(exp.Boolean(this=constant.sql() == "1"))
    sides = [node.args["this"], node.args["expression"]]
    if any(_is_nocase(side) for side in sides):
        for side in sides:
            side.replace(exp.Lower(this=_without_collation(side)))


def _number_of_boolean(node: Node, known: TargetColumns) -> None:
    """`sum(flag)` and `sum(price > 5)` count in SQLite; PostgreSQL has no sum of booleans."""
    for inner in (node.args.get("this"), node.args.get("expression")):
        if _is_boolean(inner, known) or isinstance(inner, exp.Predicate | exp.Connector | exp.Not):
            inner.replace(exp.cast(inner.copy(), "int"))


def _function(node: Node, known: TargetColumns) -> None:
    """Functions that only SQLite has."""
    if len(node.expressions) != 1:
        return
    argument = node.expressions[0].copy()
    if node.name.upper() == "TOTAL":
        total = exp.cast(exp.Sum(this=argument), "double")
        node.replace(exp.Coalesce(this=total, expressions=[exp.Literal.number(0)]))
    elif node.name.upper() == "DATETIME":
        moment = exp.cast(argument, "timestamp")
        node.replace(exp.func("date_trunc", exp.Literal.string("second"), moment))


def _like(node: Node, known: TargetColumns) -> None:
    """SQLite's LIKE ignores case, and knows no escape character unless one is named."""
    like = exp.ILike(**{name: _copied(part) for name, part in node.args.items()})
    pattern = node.expression
    plain = isinstance(pattern, exp.Literal) and "\\" not in pattern.name
    if plain or isinstance(node.parent, exp.Escape):
        node.replace(like)
    else:
        node.replace(exp.Escape(this=like, expression=exp.Literal.string("")))


def _copied(part: object) -> object:
    return part.copy() if isinstance(part, exp.Expression) else part


def _round(node: Node, known: TargetColumns) -> None:
    """PostgreSQL rounds to a number of digits only what is numeric."""
    if node.args.get("decimals") is not None:
        node.this.replace(exp.cast(node.this.copy(), "decimal"))


def _integer(node: Node, known: TargetColumns) -> None:
    """Integers have 64 bits in SQLite."""
    if node.is_type("int") and isinstance(node.parent, exp.Cast):
        node.replace(exp.DataType.build("bigint"))


def _document(node: Node, known: TargetColumns) -> None:
    """Paths by operator: the functions have one name for json and another for jsonb."""
    path = node.expression
    steps = path.expressions if isinstance(path, exp.JSONPath) else []
    known_steps = (exp.JSONPathRoot, exp.JSONPathKey, exp.JSONPathSubscript)
    if not steps or not all(isinstance(step, known_steps) for step in steps):
        return
    # An array of text: names in double quotes, escaped as in an array literal.
    names = [str(step.this) for step in steps[1:]]
    array = ",".join('"' + re.sub(r'(["\\])', r"\\\1", name) + '"' for name in names)
    kind = exp.JSONBExtractScalar if isinstance(node, exp.JSONExtractScalar) else exp.JSONBExtract
    found = kind(this=node.this.copy(), expression=exp.Literal.string("{" + array + "}"))
    node.replace(exp.Paren(this=found))


def _is_nocase(node: object) -> bool:
    return isinstance(node, exp.Collate) and node.expression.name.upper() == "NOCASE"


def _without_collation(node: Node) -> Node:
    return node.this.copy() if _is_nocase(node) else node.copy()


def _ordered(node: Node, known: TargetColumns) -> None:
    """NULLs sort first in SQLite and last in PostgreSQL; where there are none, indexes serve the plain order only."""
    if _is_nocase(node.this):
        node.this.replace(exp.Lower(this=_without_collation(node.this)))
    elif isinstance(node.this, exp.Column) and _never_null(node.this, known):
        node.set("nulls_first", bool(node.args.get("desc")))


def _never_null(column: exp.Column, known: TargetColumns) -> bool:
    root = column.root()
    renamed = any(alias.alias.lower() == column.name.lower() for alias in root.find_all(exp.Alias))
    outer = any(join.side for join in root.find_all(exp.Join))
    return column.name.lower() in known.required and not renamed and not outer


def _text_of_group(node: Node, known: TargetColumns) -> None:
    if not isinstance(node.this, exp.Distinct | exp.Order | exp.Literal):
        node.this.replace(exp.cast(node.this.copy(), "text"))


_REWRITES: dict[type[Node], Rewrite] = {
    exp.EQ: _equality,
    exp.NEQ: _equality,
    exp.Is: _equality,
    exp.NullSafeEQ: _equality,
    exp.NullSafeNEQ: _equality,
    exp.Sum: _number_of_boolean,
    exp.Avg: _number_of_boolean,
    exp.Min: _number_of_boolean,
    exp.Max: _number_of_boolean,
    exp.Add: _number_of_boolean,
    exp.Sub: _number_of_boolean,
    exp.Mul: _number_of_boolean,
    exp.Anonymous: _function,
    exp.Like: _like,
    exp.Round: _round,
    exp.DataType: _integer,
    exp.JSONExtract: _document,
    exp.JSONExtractScalar: _document,
    exp.Ordered: _ordered,
    exp.GroupConcat: _text_of_group,
}


# ---------------------------------------------------------------- what a statement says of its result


@dataclass(frozen=True, slots=True)
class ResultShape:
    """What is known of a result before it is there."""

    sort_keys: tuple[int, ...] | None
    """Places of the columns that it is sorted by; empty when it is not sorted, None when it is sorted by something
    that it does not show."""
    cut: bool
    """Whether LIMIT or OFFSET choose among rows that sort equally."""
    computed: tuple[bool, ...]
    """For each column whether it may be a computed number rather than a stored one."""


def shape(sql: str, names: Sequence[str]) -> ResultShape:
    """Return the shape of a statement's result whose columns have these names."""
    tree = parse(sql)
    order = tree.args.get("order")
    terms = order.expressions if order is not None else []
    places = [_place(term.this, tree, names) for term in terms]
    known = tuple(place for place in places if place is not None)
    cut = any(tree.args.get(part) is not None for part in ("limit", "offset"))
    return ResultShape(known if len(known) == len(places) else None, cut, tuple(_computed(tree, len(names))))


def without_limit(sql: str) -> str:
    """Return a SQLite statement without its LIMIT and OFFSET."""
    tree = parse(sql).copy()
    for part in ("limit", "offset"):
        tree.set(part, None)
    return str(tree.sql(dialect="sqlite", comments=False))


def _projections(tree: Node, count: int) -> list[Node] | None:
    """Return the output expressions, None when a star or VALUES stands for them."""
    if not isinstance(tree, exp.Query):
        return None
    found = list(tree.selects)
    return found if len(found) == count and not any(item.is_star for item in found) else None


def _place(term: Node, tree: Node, names: Sequence[str]) -> int | None:
    if _is_nocase(term):
        return None
    if isinstance(term, exp.Literal) and term.is_int:
        return int(term.name) - 1
    if (
        isinstance(term, exp.Column)
        and not term.table
        and [name.lower() for name in names].count(term.name.lower()) == 1
    ):
        return [name.lower() for name in names].index(term.name.lower())
    shown = [item.unalias() for item in _projections(tree, len(names)) or ()]
    return shown.index(term) if term in shown else None


def _computed(tree: Node, count: int) -> Iterator[bool]:
    nested = any(node is not tree for node in tree.find_all(exp.Select, exp.Values))
    shown = _projections(tree, count)
    for place in range(count):
        plain = shown is not None and isinstance(shown[place].unalias(), exp.Column)
        yield nested or not (plain or (shown is None and not any(tree.find_all(exp.AggFunc))))
