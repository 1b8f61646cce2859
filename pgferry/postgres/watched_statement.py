"""Prepared statements and cursors of which every call is watched by their connection, see `watched`."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
from asyncpg.prepared_stmt import PreparedStatement

if TYPE_CHECKING:
    import asyncpg

    from pgferry.postgres.watched import WatchedConnection

    _Statement = PreparedStatement[asyncpg.Record]
    _Factory = CursorFactory[asyncpg.Record]
    _Cursor = Cursor[asyncpg.Record]
    _Rows = CursorIterator[asyncpg.Record]
else:
    _Statement, _Factory, _Cursor, _Rows = PreparedStatement, CursorFactory, Cursor, CursorIterator


ROWS_AT_ONCE = 50
"""What a cursor that is iterated fetches in one turn, unless it was told otherwise; asyncpg's own default."""


class WatchedStatement(_Statement):
    """A prepared statement of asyncpg, watched; to be made by a connection that has `watching`."""

    @classmethod
    def of(cls, statement: Any) -> WatchedStatement:
        """Return the same statement, watched."""
        return cls(statement._connection, statement._query, statement._state)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does; what the cursor waits for is watched."""
        return _WatchedFactory.of(super().cursor(*arguments, **options))

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with _connection_of(self).watching():
            return await super().fetch(*arguments, **options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with _connection_of(self).watching():
            return await super().fetchval(*arguments, **options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with _connection_of(self).watching():
            return await super().fetchrow(*arguments, **options)

    async def fetchmany(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with _connection_of(self).watching():
            return await super().fetchmany(*arguments, **options)

    async def executemany(self, *arguments: Any, **options: Any) -> Any:
        """Do what asyncpg's method does, watched."""
        with _connection_of(self).watching():
            return await super().executemany(*arguments, **options)


class _WatchedFactory(_Factory):
    """What `cursor` returns, to be awaited for a cursor or iterated for the rows."""

    @classmethod
    def of(cls, factory: Any) -> _WatchedFactory:
        """Return the same, watched."""
        given = (factory._connection, factory._query, factory._state, factory._args)
        return cls(*given, factory._prefetch, factory._timeout, factory._record_class)

    def __await__(self) -> Generator[Any, None, Any]:
        own: Any = self
        return _opened(_WatchedCursor(*self._parts()), own._timeout).__await__()

    def __aiter__(self) -> Any:
        own: Any = self
        prefetch = ROWS_AT_ONCE if own._prefetch is None else own._prefetch
        arguments: Any = (*self._parts(), prefetch, own._timeout)
        return _WatchedRows(*arguments)

    def _parts(self) -> Any:
        own: Any = self
        return own._connection, own._query, own._state, own._args, own._record_class


class _WatchedCursor(_Cursor):
    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        with _connection_of(self).watching():
            return await super().fetch(*arguments, **options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        with _connection_of(self).watching():
            return await super().fetchrow(*arguments, **options)

    async def forward(self, *arguments: Any, **options: Any) -> Any:
        with _connection_of(self).watching():
            return await super().forward(*arguments, **options)


class _WatchedRows(_Rows):
    # Not by __anext__: most rows are here already, and a watch for each would cost more than the row.
    async def _bind_exec(self, *arguments: Any) -> Any:
        with _connection_of(self).watching():
            return await super()._bind_exec(*arguments)  # type: ignore[misc]

    async def _exec(self, *arguments: Any) -> Any:
        with _connection_of(self).watching():
            return await super()._exec(*arguments)  # type: ignore[misc]


async def _opened(cursor: Any, timeout: float | None) -> Any:
    with _connection_of(cursor).watching():
        return await cursor._init(timeout)


def _connection_of(resource: Any) -> WatchedConnection:
    connection: WatchedConnection = resource._connection
    return connection
