"""The reader that gives SQLite's rows as Arrow batches, in C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection, Cursor


_DRIVER = "adbc_driver_sqlite.dbapi"


def load_driver_beside() -> None:
    """Begin to load the driver on a thread of its own; a failure is told where the driver is needed.

    It brings pandas along: half a second, in which a backup can be copied.
    """
    Thread(target=_load_driver, name="load driver", daemon=True).start()


def _load_driver() -> None:
    with suppress(Exception):
        import_module(_DRIVER)


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
            # Not at the top: half a second for whoever exports nothing.
            self._connection = import_module(_DRIVER).connect(self.path.absolute().as_uri() + "?mode=ro&immutable=1")
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
            yield cursor

    def __enter__(self) -> ArrowReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
