"""The operations of a revision's `upgrade`, read from its syntax tree: nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pgferry.operate.operations import Kind, Operation
from pgferry.operate.revision_sql import Place, is_volatile
from pgferry.operate.revision_sql import operations as operations_of_sql

_EXECUTE = frozenset({"execute", "exec_driver_sql"})
_CONSTRAINTS: Mapping[str, str] = {
    "create_foreign_key": "foreign key",
    "create_check_constraint": "check",
    "create_unique_constraint": "unique",
    "create_primary_key": "primary key",
    "create_exclude_constraint": "exclusion",
}


def operations(module: ast.Module) -> list[Operation]:
    """Return what `upgrade` does, in order, with the functions of the module that it calls.

    Seen are calls of `op` and of a batch, and SQL that is handed to an `execute` as text: literals, module constants,
    and the items of a literal sequence that a loop runs through.
    """
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    reader = _Reader(functions, _assignments(module.body))
    if "upgrade" in functions:
        reader.call_function(functions["upgrade"])
    return reader.found


def _assignments(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    values: dict[str, list[ast.expr]] = {}
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = [node.value]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values[node.target.id] = [node.value]
    return values


@dataclass
class _Reader(ast.NodeVisitor):
    """Walks through statements as they would run, and notes what they do."""

    functions: Mapping[str, ast.FunctionDef]
    values: dict[str, list[ast.expr]]
    """Name -> the values that it may have."""
    found: list[Operation] = field(default_factory=list)
    batches: dict[str, str] = field(default_factory=dict)
    """Name of a batch -> its table."""
    autocommit: bool = False
    _entered: set[str] = field(default_factory=set)

    def call_function(self, function: ast.FunctionDef) -> None:
        """Read a function's body; one that calls itself is read once."""
        if function.name not in self._entered:
            self._entered.add(function.name)
            for statement in function.body:
                self.visit(statement)
            self._entered.discard(function.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Note the value of a name."""
        self.generic_visit(node)
        self.values |= _assignments([node])

    def visit_For(self, node: ast.For) -> None:
        """Let the loop's name have each of the values."""
        if isinstance(node.target, ast.Name):
            items = [item for value in self._known(node.iter) for item in getattr(value, "elts", [])]
            self.values[node.target.id] = items
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        """Know a batch's table, and what runs outside of the transaction."""
        before = self.autocommit
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                self.autocommit |= call.func.attr == "autocommit_block"
                if call.func.attr == "batch_alter_table" and isinstance(item.optional_vars, ast.Name):
                    self.batches[item.optional_vars.id] = self._text(_argument(call, 0, "table_name"))
        for statement in node.body:
            self.visit(statement)
        self.autocommit = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A function does something only where it is called."""

    def visit_Call(self, node: ast.Call) -> None:
        """Note what a call does."""
        if isinstance(node.func, ast.Name) and node.func.id in self.functions:
            self.call_function(self.functions[node.func.id])
        if isinstance(node.func, ast.Attribute):
            self._method(node, node.func)
        self.generic_visit(node)

    def _method(self, node: ast.Call, function: ast.Attribute) -> None:
        if function.attr in _EXECUTE and node.args:
            place = Place(node.lineno, node.end_lineno or node.lineno, self.autocommit)
            for sql in self._texts(node.args[0]):
                self.found += operations_of_sql(sql, place)
        elif isinstance(function.value, ast.Name) and function.value.id in self.batches:
            self.found += self._operations(node, function.attr, self.batches[function.value.id], 0)
        elif isinstance(function.value, ast.Name) and function.value.id == "op":
            self.found += self._operations(node, function.attr, None, 1)

    # ------------------------------------------------------------ calls of op and of a batch

    def _operations(self, node: ast.Call, method: str, batch: str | None, shift: int) -> Iterator[Operation]:
        """Return what one method does; its first arguments are `shift` further back where the table is one of them."""

        def table(position: int, name: str = "table_name") -> str:
            return batch if batch is not None else self._text(_argument(node, position, name))

        if method == "create_table":
            yield self._made(Kind.CREATE_TABLE, node, table(0))
        elif method == "create_index":
            index, concurrent = self._text(_argument(node, 0, "index_name")), _flag(node, "postgresql_concurrently")
            yield self._made(Kind.CREATE_INDEX, node, table(1), name=index, concurrently=concurrent)
        elif method == "add_column":
            yield from self._added(node, table(0), _argument(node, shift, "column"))
        elif method == "alter_column":
            yield from self._altered(node, table(0), self._text(_argument(node, shift, "column_name")))
        elif method in _CONSTRAINTS:
            yield self._made(
                Kind.ADD_CONSTRAINT,
                node,
                table(1, "source_table" if method == "create_foreign_key" else "table_name"),
                name=self._text(_argument(node, 0, "constraint_name")),
                constraint=_CONSTRAINTS[method],
                not_valid=_flag(node, "postgresql_not_valid"),
            )
        elif method == "drop_table":
            yield self._made(Kind.DROP, node, table(0), name=f"table {table(0)}")
        elif method == "drop_column":
            column = self._text(_argument(node, shift, "column_name"))
            yield self._made(Kind.DROP, node, table(0), name=f"column {table(0)}.{column}")
        elif method == "rename_table":
            old = table(0, "old_table_name")
            yield self._made(Kind.RENAME, node, old, name=f"table {old}")

    def _added(self, node: ast.Call, table: str, given: ast.expr | None) -> Iterator[Operation]:
        column = next((value for value in self._known(given) if isinstance(value, ast.Call)), None)
        if column is None:
            return
        name, parts = self._text(_argument(column, 0, "name")), {_called(argument) for argument in column.args}
        default = _keyword(column, "server_default")
        generated = bool(parts & {"Identity", "Computed"})
        filled = default is not None and not _is_none(default)
        key = _flag(column, "primary_key")
        yield self._made(
            Kind.ADD_COLUMN,
            node,
            table,
            name=name,
            not_null=key or _flag(column, "nullable", False),
            filled=filled or generated,
            computed=generated or (default is not None and filled and is_volatile(_spelled(default))),
        )
        constraints = {"foreign key": "ForeignKey" in parts, "unique": _flag(column, "unique"), "primary key": key}
        for constraint, wanted in constraints.items():
            if wanted:
                yield self._made(Kind.ADD_CONSTRAINT, node, table, name=f"of column {name}", constraint=constraint)
        if _flag(column, "index"):
            yield self._made(Kind.CREATE_INDEX, node, table, name=f"ix_{table}_{name}")

    def _altered(self, node: ast.Call, table: str, column: str) -> Iterator[Operation]:
        if _keyword(node, "type_") is not None and not _only_longer(node):
            yield self._made(Kind.CHANGE_TYPE, node, table, name=column)
        if _flag(node, "nullable", False):
            yield self._made(Kind.SET_NOT_NULL, node, table, name=column)
        if _keyword(node, "new_column_name") is not None:
            yield self._made(Kind.RENAME, node, table, name=f"column {table}.{column}")

    def _made(self, kind: Kind, node: ast.Call, table: str, **details: str | bool) -> Operation:
        end = node.end_lineno or node.lineno
        return Operation(kind, table, node.lineno, end, autocommit=self.autocommit, **details)  # type: ignore[arg-type]

    # ------------------------------------------------------------ values

    def _known(self, node: ast.expr | None, depth: int = 0) -> list[ast.expr]:
        """Return what an expression may be, names replaced by their values."""
        if isinstance(node, ast.Name) and node.id in self.values and depth < 5:
            return [value for each in self.values[node.id] for value in self._known(each, depth + 1)]
        return [] if node is None else [node]

    def _text(self, node: ast.expr | None) -> str:
        return next(iter(self._texts(node)), "(unknown)")

    def _texts(self, node: ast.expr | None) -> Iterator[str]:
        """Return the texts that an expression may be; parts of a f-string that are not known are a name."""
        for value in self._known(node):
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value
            elif isinstance(value, ast.Call) and _called(value) in ("text", "DDL", "f") and value.args:
                yield from self._texts(value.args[0])
            elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
                yield self._text(value.left) + self._text(value.right)
            elif isinstance(value, ast.JoinedStr):
                yield "".join(self._piece(piece) for piece in value.values)

    def _piece(self, piece: ast.expr) -> str:
        if isinstance(piece, ast.FormattedValue):
            return next(iter(self._texts(piece.value)), "unknown")
        return self._text(piece)


def _argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    named = _keyword(call, name)
    return named if named is not None else call.args[position] if position < len(call.args) else None


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _flag(call: ast.Call, name: str, value: bool = True) -> bool:
    """Say whether a keyword is given with that very value."""
    given = _keyword(call, name)
    return isinstance(given, ast.Constant) and given.value is value


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _called(node: ast.expr) -> str:
    """Return the last name of what is called: `ForeignKey` of `sa.ForeignKey(…)`."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _spelled(node: ast.expr) -> str:
    return ast.unparse(node)


def _only_longer(call: ast.Call) -> bool:
    """Say whether the change of type only lets a text be longer, for which PostgreSQL rewrites nothing."""
    before, after = (_length(_keyword(call, name)) for name in ("existing_type", "type_"))
    return before is not None and after is not None and after >= before


def _length(node: ast.expr | None) -> float | None:
    if node is None:
        return None
    name = _called(node) or (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", ""))
    if name.upper() == "TEXT":
        return float("inf")
    if name.upper() not in ("STRING", "VARCHAR"):
        return None
    length = _argument(node, 0, "length") if isinstance(node, ast.Call) else None
    return float(length.value) if isinstance(length, ast.Constant) and isinstance(length.value, int) else float("inf")
