"""Holds both sides at one moment, so that they can be compared at leisure while the application goes on writing."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgferry.live import phases
from pgferry.live.forms import from_json
from pgferry.live.forward import sync_once
from pgferry.live.model import Direction, Live, Phase
from pgferry.live.reverse import sync_back
from pgferry.model import Snapshot
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import PATIENCE, read_forms, server_time, sync_lock
from pgferry.private import make_folder
from pgferry.quoting import literal
from pgferry.sqlite.snapshot import take

# A policy that hides rows would make them look missing; with this off, the server raises instead.
_SEE_ALL = "SET LOCAL row_security = off"

_LOCK = ".lock"

_EXPORT = "SELECT pg_export_snapshot() AS name, statement_timestamp() AS moment"


@dataclass(frozen=True, slots=True)
class Held:
    """Both sides at one moment: a file, and a snapshot of PostgreSQL that `joined` sees. Can be pickled."""

    run_id: int
    direction: Direction
    snapshot: Snapshot
    target_snapshot: str
    """PostgreSQL's name for it; known as long as the holding transaction is open."""
    moment: datetime
    """The moment of which both sides are."""
    carried_until: datetime
    """The server's clock: what is recorded as carried before is part of what is held."""

    @property
    def path(self) -> Path:
        """The file that holds SQLite's side."""
        return Path(self.snapshot.path)


@asynccontextmanager
async def hold(
    connection: Connection, holder: Connection, live: Live, folder: Path, *, patience: float = PATIENCE
) -> AsyncIterator[Held]:
    """Bring both sides to one moment and hold them for the block; the side in front is not disturbed.

    `connection` carries what is pending, under the sync lock, and is free again in the block. `holder` is in a
    REPEATABLE READ, READ ONLY transaction all along. The copy of the SQLite file lies in `folder` and is removed at the
    end. Raises UsageError when the phase allows no validation, Transient when the lock is not got within `patience`
    seconds, and whatever stops the sync.
    """
    async with holder.transaction(isolation="repeatable_read", readonly=True):
        held: Held | None = None
        try:
            async with sync_lock(connection, patience):
                record = await phases.current(connection, live.run_id)
                phases.require(record, "validate")
                forward = record.phase is Phase.DUAL_WRITE
                held = await (_hold_forward if forward else _hold_reverse)(connection, holder, live, folder)
            yield held
        finally:
            if held is not None:
                _remove(held.path)


@asynccontextmanager
async def joined(connection: Connection, held: Held) -> AsyncIterator[Connection]:
    """Let another session see the target as it is held, for the block; reads only.

    The driver's error passes through when the holding transaction has ended.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(f"SET TRANSACTION SNAPSHOT {literal(held.target_snapshot)}")
        await connection.execute(_SEE_ALL)
        yield connection


async def _hold_forward(connection: Connection, holder: Connection, live: Live, folder: Path) -> Held:
    snapshot = await asyncio.to_thread(take, Path(live.source), folder)
    try:
        await sync_once(connection, live, path=Path(snapshot.path), taken_at=snapshot.taken_at)
        name, _ = await _export(holder)
        until = await server_time(connection)
    except BaseException:
        _remove(Path(snapshot.path))
        raise
    # By the server's clock, as the phases are that the validation is held against: this machine's may be another.
    return Held(live.run_id, Direction.FORWARD, snapshot, name, until, until)


async def _hold_reverse(connection: Connection, holder: Connection, live: Live, folder: Path) -> Held:
    # PostgreSQL is written to all the time: first its moment is fixed, then SQLite is brought to just that.
    name, moment = await _export(holder)
    forms = from_json(await read_forms(connection, live.run_id))
    await sync_back(connection, live, forms, at=name)
    until = await server_time(connection)
    snapshot = await asyncio.to_thread(take, Path(live.source), folder)
    return Held(live.run_id, Direction.REVERSE, snapshot, name, moment, until)


async def _export(holder: Connection) -> tuple[str, datetime]:
    await holder.execute(_SEE_ALL)
    row = await holder.fetchrow(_EXPORT)
    assert row is not None
    return row["name"], row["moment"]


@contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Use a folder that is for held copies only; first, remove what processes that were killed have left in it.

    Nothing is removed while another process uses the folder in this way. The lock is the kernel's, so it ends with its
    process, however that ends.
    """
    make_folder(folder)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH)
        else:
            for left in folder.iterdir():
                if left.name != _LOCK and left.is_file():
                    left.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _remove(path: Path) -> None:
    # A reader of a file in WAL mode leaves the other two beside it.
    for suffix in ("", "-shm", "-wal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
