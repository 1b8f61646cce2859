"""The reader that gives SQLite's rows as Arrow batches, in C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection, Cursor


class ArrowReader:
    """A connection to a snapshot, opened when it is first asked and kept until the end of its `with` block.

    Kept, because opening it reads the whole schema: of a thousand tables that takes longer than a small table's rows.
    Not to be shared by threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: Connection | None = None

    @contextmanager
    def cursor(self, batch_rows: int) -> Iterator[Cursor]:
        """Hold a cursor that gives batches of so many rows at the most."""
        if self._connection is None:
            # It brings pandas along, half a second for whoever exports nothing.
            from adbc_driver_sqlite.dbapi import connect

            self._connection = connect(self.path.absolute().as_uri() + "?mode=ro&immutable=1")
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
            yield cursor

    def __enter__(self) -> ArrowReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
