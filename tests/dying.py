"""Lets a command die behind its n-th statement, as a kill does: what was done is done, and nothing more happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgferry.live import environment
from pgferry.postgres.watched import WatchedConnection
from pgferry.sqlite import fence

_STATEMENTS = ("execute", "fetch", "fetchrow", "fetchval", "copy_from_query", "copy_to_table")


class Died(BaseException):
    """The process is gone; no handler of the command can do anything."""


class Dying:
    """Counts statements to PostgreSQL, transactions of SQLite and changes of the environment file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        """Steps that may still be done; None: as many as there are."""
        self.done = 0
        for name in _STATEMENTS:
            patch.setattr(WatchedConnection, name, self._statement(getattr(WatchedConnection, name)))
        patch.setattr(fence, "write_transaction", self._transaction(fence.write_transaction))
        patch.setattr(environment, "replace_variable", self._function(environment.replace_variable))

    @contextmanager
    def after(self, steps: int) -> Iterator[None]:
        """Let whatever runs in the block die behind that many steps."""
        self.left, self.done = steps, 0
        try:
            yield
        finally:
            self.left = None

    def _begin(self) -> None:
        if self.left == 0:
            raise Died

    def _end(self) -> None:
        self.done += 1
        if self.left is not None:
            self.left -= 1
            self._begin()

    def _statement(self, real: Any) -> Any:
        async def call(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self._begin()
            answer = await real(connection, *args, **kwargs)
            self._end()
            return answer

        return call

    def _transaction(self, real: Any) -> Any:
        @contextmanager
        def hold(path: Path, **options: Any) -> Iterator[Any]:
            self._begin()
            with real(path, **options) as opened:
                yield opened
            self._end()

        return hold

    def _function(self, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._begin()
            answer = real(*args, **kwargs)
            self._end()
            return answer

        return call
