"""The end: capture, outboxes, hidden columns and staging go, and a checked archive of the SQLite file stays."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.live import phases
from pgferry.live.model import HIDDEN, Live, Phase
from pgferry.live.reverse import Forms, sync_back
from pgferry.postgres import capture as target_capture
from pgferry.postgres import fence as target_fence
from pgferry.postgres.connection import Connection
from pgferry.postgres.journal import forget_live, sync_lock
from pgferry.postgres.ledger import Run, read_run
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


async def planned(connection: Connection, run: Run, settings: Settings) -> tuple[str, ...]:
    """Return in words what `clean_up` would remove; changes nothing."""
    with closing(open_read_only(Path(run.source))) as source:
        objects = captures.own_objects(source)
    words = [f"{name} in {run.source}" for name in objects if not name.startswith(captures.FENCE)]
    words += [f"{name} in PostgreSQL" for name in await target_capture.objects(connection)]
    words += [f"column {HIDDEN} of {table}" for table in await _hidden(connection)]
    return (
        *words,
        *(f"folder {path}" for path in Staging(settings.staging_url, settings.store_options).run_folders(run.id)),
    )


async def clean_up(connection: Connection, live: Live, settings: Settings, forms: Forms) -> Cleaned:
    """Carry the last changes back, remove everything of pgferry but its record, and archive the SQLite file.

    There is no way back from the first step on: the phase becomes `cleaned` before anything is removed, and a run that
    was cut off is finished by `finish`. The SQLite file stays where it is, fenced and read-only.
    """
    if (await phases.current(connection, live.run_id)).phase is not Phase.CLEANED:
        async with sync_lock(connection):
            while not (await sync_back(connection, live, forms)).idle:
                pass
            await phases.enter(connection, live.run_id, Phase.CLEANED, "cleaned up", {})
    return await finish(connection, await read_run(connection, live.run_id), settings)


async def finish(connection: Connection, run: Run, settings: Settings) -> Cleaned:
    """Archive and remove what is left of a move in phase `cleaned`; safe to repeat wherever it was cut off.

    It finds everything by its name, whatever has happened to the schemas. The archive comes first, and the file stays
    fenced: a process that still has it open can never write what would be neither there nor in PostgreSQL.
    """
    path = Path(run.source)
    archive = await _archive_once(connection, run, settings)
    removed = [f"{name} in PostgreSQL" for name in await target_capture.remove(connection)]
    await target_fence.unfence(connection)
    removed += await _drop_hidden(connection)
    path.chmod(path.stat().st_mode | 0o200)
    removed += [f"{name} in {path}" for name in captures.remove(path, but_fence=True)]
    path.chmod(path.stat().st_mode & ~0o222)
    staging = Staging(settings.staging_url, settings.store_options)
    for folder in staging.run_folders(run.id):
        staging.remove_folder(folder)
        removed.append(f"folder {folder}")
    async with connection.transaction():
        await forget_live(connection, run.id)
    return Cleaned(tuple(removed), archive)


async def _archive_once(connection: Connection, run: Run, settings: Settings) -> Archive:
    """Return the archive that an earlier call has made and noted, else make it."""
    noted = ((await phases.current(connection, run.id)).details or {}).get("archive")
    if isinstance(noted, dict) and Path(noted["path"]).exists():
        return Archive(**noted)
    archive = await asyncio.to_thread(archived, Path(run.source), settings.home.absolute() / "archive")
    await phases.amend(connection, run.id, Phase.CLEANED, {"archive": asdict(archive)})
    return archive


def archived(path: Path, folder: Path) -> Archive:
    """Keep a copy of the SQLite file, without pgferry's objects: checked by SQLite, compressed, read back, read-only.

    The file itself is only read. Atomic: the archive appears in `folder` whole or not at all. Raises Permanent when the
    file is damaged.
    """
    snapshot = snapshots.take(path, folder)
    plain = Path(snapshot.path)
    try:
        plain.chmod(0o600)
        captures.remove(plain)
        sha256, size = snapshots.digest(plain)
        snapshots.check(snapshot, indexes=True)
        packed = plain.with_suffix(".db.gz")
        part = packed.with_suffix(".part")
        part.touch(mode=0o600)
        with plain.open("rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, READ_BYTES)
        if _digest_of(part) != sha256:
            raise Permanent(f"The archive {packed} does not read back as it was written.", "Check the disk; try again.")
        part.chmod(0o400)
        part.replace(packed)
    finally:
        for suffix in ("", "-wal", "-shm"):
            plain.with_name(plain.name + suffix).unlink(missing_ok=True)
    return Archive(str(packed), sha256, size, packed.stat().st_size)


def _digest_of(packed: Path) -> str:
    hashed = hashlib.sha256()
    with gzip.open(packed, "rb") as file:
        while data := file.read(READ_BYTES):
            hashed.update(data)
    return hashed.hexdigest()


async def _drop_hidden(connection: Connection) -> list[str]:
    hidden = await _hidden(connection)
    for table in hidden:
        await connection.execute(f"ALTER TABLE {table} DROP COLUMN IF EXISTS {quote(HIDDEN)}")
    return [f"column {HIDDEN} of {table}" for table in hidden]


async def _hidden(connection: Connection) -> list[str]:
    return [row["name"] for row in await connection.fetch(target_capture.SQL["hidden_columns"], HIDDEN)]
