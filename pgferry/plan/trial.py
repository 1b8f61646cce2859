"""Tries a plan on a real server, in temporary tables and a transaction that is rolled back."""

from __future__ import annotations

from dataclasses import replace

import asyncpg

from pgferry.plan import sql
from pgferry.plan.infer import type_sql
from pgferry.plan.model import (
    CheckPlan,
    ColumnPlan,
    ForeignKeyPlan,
    IndexPlan,
    KeyPlan,
    NotCarried,
    SchemaPlan,
    TablePlan,
    ViewPlan,
)
from pgferry.postgres.connection import Connection
from pgferry.quoting import quote


async def tried(plan: SchemaPlan, connection: Connection) -> SchemaPlan:
    """Return the plan without what this server refuses, each refusal noted with the server's reason.

    Everything is made in the connection's temporary schema and rolled back; the database is not changed. Raises what
    the driver raises when the connection fails.
    """
    trial = _Trial(connection)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL search_path TO pg_temp")
        return await trial.schema(plan)
    finally:
        await transaction.rollback()


def untried(plan: SchemaPlan) -> SchemaPlan:
    """Return a plan for which no server is at hand: without its views, because only a server can say that they run."""
    if plan.tried:
        return plan
    reason = "there was no server to try it on; plan again with a target"
    left = [NotCarried("view", "", view.source, reason, view.source_sql) for view in plan.views]
    return replace(plan, views=(), not_carried=(*plan.not_carried, *left))


class _Trial:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._refused: list[NotCarried] = []
        self._excluded: list[str] = []

    async def schema(self, plan: SchemaPlan) -> SchemaPlan:
        tables = [made for table in plan.tables if (made := await self._table(table)) is not None]
        with_keys = [replace(table, foreign_keys=await self._foreign_keys(table)) for table in tables]
        views = [view for view in plan.views if await self._view(view)]
        return replace(
            plan,
            tables=tuple(with_keys),
            views=tuple(views),
            not_carried=(*plan.not_carried, *self._refused),
            excluded=(*plan.excluded, *self._excluded),
            tried=True,
        )

    async def _table(self, table: TablePlan) -> TablePlan | None:
        made = await self._with_keys(table)
        if made is None:
            return None
        table = made
        columns = [await self._column(table, column) for column in table.columns]
        checks = [check for check in table.checks if await self._check(table, check)]
        indexes = [index for index in table.indexes if await self._index(table, index)]
        # A server whose pages have another size than nearly all refuses it.
        whole = table.stays_whole and await self._error(sql.stay_whole(table)) is None
        return replace(table, columns=tuple(columns), checks=tuple(checks), indexes=tuple(indexes), stays_whole=whole)

    async def _with_keys(self, table: TablePlan) -> TablePlan | None:
        """Make the table, without the keys that are refused; None when it is refused without any, too."""
        if await self._error(sql.bare_table(table)) is None:
            return table
        error = await self._error(sql.bare_table(replace(table, key=None, uniques=())))
        if error is not None:
            self._refuse("table", table, table.source, error, "")
            self._excluded.append(table.source)
            return None
        key = table.key if table.key and await self._key(table, table.key, "PRIMARY KEY") else None
        uniques = [unique for unique in table.uniques if await self._key(table, unique, "UNIQUE")]
        return replace(table, key=key, uniques=tuple(uniques))

    async def _key(self, table: TablePlan, key: KeyPlan, kind: str) -> bool:
        error = await self._error(sql.key(table, key, kind))
        name = ", ".join(key.columns)
        return error is None or self._refuse(kind.lower(), table, name, error, sql.key(table, key, kind))

    async def _column(self, table: TablePlan, column: ColumnPlan) -> ColumnPlan:
        if column.default is not None:
            error = await self._error(sql.default(table, column))
            if error is not None:
                self._refuse("default", table, column.source.name, error, column.source.default or "")
                return replace(column, default=None)
        if column.generated is not None:
            error = await self._error(_generated(table, column), keep=False)
            if error is not None:
                self._refuse("generated", table, column.source.name, error, column.source.generated_expression or "")
                return replace(column, generated=None)
        return column

    async def _check(self, table: TablePlan, check: CheckPlan) -> bool:
        error = await self._error(sql.check(table, check))
        return error is None or self._refuse("check", table, check.name, error, check.source)

    async def _index(self, table: TablePlan, index: IndexPlan) -> bool:
        error = await self._error(sql.index(table, index))
        kind = "unique" if index.unique else "index"
        return error is None or self._refuse(kind, table, index.source, error, sql.index(table, index))

    async def _foreign_keys(self, table: TablePlan) -> tuple[ForeignKeyPlan, ...]:
        made = []
        for key in table.foreign_keys:
            error = await self._error(sql.foreign_key(table, key))
            if error is None:
                made.append(key)
            else:
                self._refuse("foreign key", table, key.name, error, sql.foreign_key(table, key))
        return tuple(made)

    async def _view(self, view: ViewPlan) -> bool:
        error = await self._error(sql.view(view))
        if error is not None:
            self._refused.append(NotCarried("view", "", view.source, f"PostgreSQL: {error}", view.source_sql))
        return error is None

    def _refuse(self, kind: str, table: TablePlan, name: str, error: str, text: str) -> bool:
        self._refused.append(NotCarried(kind, table.source, name, f"PostgreSQL: {error}", text))
        return False

    async def _error(self, statement: str, *, keep: bool = True) -> str | None:
        """Run a statement in a savepoint; return the server's refusal, None when it took it."""
        savepoint = self._connection.transaction()
        await savepoint.start()
        try:
            await self._connection.execute(statement)
        except asyncpg.PostgresError as error:
            await savepoint.rollback()
            return str(error).partition("\n")[0]  # the hints that follow are for whoever wrote the statement
        await (savepoint.commit() if keep else savepoint.rollback())
        return None


def _generated(table: TablePlan, column: ColumnPlan) -> str:
    return (
        f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote('pgferry trial')} {type_sql(column.type)}"
        f" GENERATED ALWAYS AS ({column.generated}) STORED"
    )
