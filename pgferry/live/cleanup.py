"""The end: capture, outboxes, hidden columns and staging go, and a checked archive of the SQLite file stays."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.live import phases
from pgferry.live.model import HIDDEN, Live, Phase
from pgferry.live.reverse import Forms, sync_back
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import forget_live, sync_lock
from pgferry.quoting import quote
from pgferry.settings import Settings
from pgferry.sqlite import capture as captures
from pgferry.sqlite import snapshot as snapshots
from pgferry.sqlite.connect import open_read_only
from pgferry.staging import Staging

READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Archive:
    """The final SQLite file, compressed; `sha256` and `bytes` are of the database in it."""

    path: str
    sha256: str
    bytes: int
    packed_bytes: int


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What the cleanup removed and what it kept."""

    removed: tuple[str, ...]
    archive: Archive


async def planned(connection: Connection, live: Live, settings: Settings) -> tuple[str, ...]:
    """Return in words what `clean_up` would remove; changes nothing."""
    with closing(open_read_only(Path(live.source))) as source:
        objects = captures.own_objects(source)
    words = [f"{name} in {live.source}" for name in objects]
    words += [f"{name} in PostgreSQL" for name in await target_capture.objects(connection, live)]
    words += [f"column {HIDDEN} of {table.pair.target.name}" for table in live.tables if table.hidden]
    return (
        *words,
        *(f"folder {path}" for path in Staging(settings.staging_url, settings.store_options).run_folders(live.run_id)),
    )


async def clean_up(connection: Connection, live: Live, settings: Settings, forms: Forms) -> Cleaned:
    """Carry the last changes back, remove everything of pgferry but its record, and archive the SQLite file.

    There is no way back from the first step on: the phase becomes `cleaned` before anything is removed, and a run that
    was cut off is finished by the same command. The SQLite file stays where it is, read-only.
    """
    path = Path(live.source)
    if (await phases.current(connection, live.run_id)).phase is not Phase.CLEANED:
        async with sync_lock(connection):
            while not (await sync_back(connection, live, forms)).idle:
                pass
            await phases.enter(connection, live.run_id, Phase.CLEANED, "cleaned up", {})
    removed = [f"{name} in PostgreSQL" for name in await target_capture.remove(connection, live)]
    await target_fence.unfence(connection, live)
    removed += await _drop_hidden(connection, live)
    path.chmod(path.stat().st_mode | 0o200)
    removed += [f"{name} in {path}" for name in captures.remove(path)]
    archive = archived(path, settings.home.absolute() / "archive")
    path.chmod(path.stat().st_mode & ~0o222)
    staging = Staging(settings.staging_url, settings.store_options)
    for folder in staging.run_folders(live.run_id):
        staging.remove_folder(folder)
        removed.append(f"folder {folder}")
    async with connection.transaction():
        await forget_live(connection, live.run_id)
    return Cleaned(tuple(removed), archive)


def archived(path: Path, folder: Path) -> Archive:
    """Keep a copy of the SQLite file in `folder`: checked by SQLite, compressed, read back, and read-only.

    Atomic: the archive appears whole or not at all. Raises Permanent when the file is damaged.
    """
    snapshot = snapshots.take(path, folder)
    plain = Path(snapshot.path)
    try:
        snapshots.check(snapshot, indexes=True)
        packed = plain.with_suffix(".db.gz")
        part = packed.with_suffix(".part")
        part.touch(mode=0o600)
        with plain.open("rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, READ_BYTES)
        if _digest_of(part) != snapshot.sha256:
            raise Permanent(f"The archive {packed} does not read back as it was written.", "Check the disk; try again.")
        part.chmod(0o400)
        part.replace(packed)
    finally:
        plain.unlink(missing_ok=True)
    return Archive(str(packed), snapshot.sha256, snapshot.bytes, packed.stat().st_size)


def _digest_of(packed: Path) -> str:
    hashed = hashlib.sha256()
    with gzip.open(packed, "rb") as file:
        while data := file.read(READ_BYTES):
            hashed.update(data)
    return hashed.hexdigest()


async def _drop_hidden(connection: Connection, live: Live) -> list[str]:
    hidden = [table.pair.target for table in live.tables if table.hidden]
    for target in hidden:
        await connection.execute(f"ALTER TABLE {rows_of(target)} DROP COLUMN IF EXISTS {quote(HIDDEN)}")
    return [f"column {HIDDEN} of {target.name}" for target in hidden]
