"""The work on the chunks: export, load, read back."""

from __future__ import annotations

from prefect import get_run_logger, task

from pgferry import copying
from pgferry.memory import keep_flat
from pgferry.model import ExportedChunk, LoadedChunk, TableVerdict
from pgferry.move import Group, Move, Unit
from pgferry.settings import load_settings
from pgferry.verify import ChunkVerdict
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT
from tasks.worker import by_whom, require_snapshot

# Here, since every process that imports this works on chunks, whatever runs its tasks.
keep_flat()


@task(name="export", task_run_name="export {unit.name}", **TRANSIENT)
def export(move: Move, unit: Unit) -> tuple[ExportedChunk, ...]:
    """Write the unit's chunks to Parquet."""
    require_snapshot(move.snapshot)
    exported = copying.export_unit(move, unit)
    rows, size = sum(chunk.rows for chunk in exported), sum(chunk.bytes for chunk in exported)
    get_run_logger().info("%s: %s rows in %.1f MB of Parquet.%s", unit.name, f"{rows:,}", size / 1e6, by_whom())
    return exported


@task(name="load", task_run_name="load {unit.name}", **TRANSIENT)
def load(move: Move, unit: Unit, exported: tuple[ExportedChunk, ...]) -> tuple[LoadedChunk, ...]:
    """COPY the unit's chunks into the target, each in one transaction with its ledger row."""
    require_snapshot(move.snapshot)
    url, settings = target_url(move.target), load_settings()

    async def work() -> tuple[LoadedChunk, ...]:
        async with session(url, settings) as connection:
            return await copying.load_unit(connection, move, unit, exported)

    loaded = wait_for(work())
    rows, quarantined = sum(chunk.rows for chunk in loaded), sum(chunk.quarantined for chunk in loaded)
    get_run_logger().info(
        "%s: %s rows loaded, %s quarantined.%s", unit.name, f"{rows:,}", f"{quarantined:,}", by_whom()
    )
    return loaded


@task(name="read back", task_run_name="read back {unit.name}", **TRANSIENT)
def read_back(move: Move, unit: Unit) -> tuple[ChunkVerdict, ...]:
    """Read the unit's rows back from the target and compare their bytes with those that were sent."""
    url, settings = target_url(move.target), load_settings()

    async def work() -> tuple[ChunkVerdict, ...]:
        async with session(url, settings) as connection:
            return await copying.read_back_unit(connection, move, unit, settings.index_memory)

    verdicts = wait_for(work())
    equal = sum(verdict.equal for verdict in verdicts)
    get_run_logger().info("%s: %d of %d chunks read back byte for byte.%s", unit.name, equal, len(verdicts), by_whom())
    return verdicts


@task(name="judge", task_run_name="judge {group.name}", **TRANSIENT)
def judge(move: Move, group: Group, read: list[tuple[ChunkVerdict, ...]]) -> tuple[TableVerdict, ...]:
    """Compare the counts of both sides and a random sample, and name what differs."""
    require_snapshot(move.snapshot)
    url, settings = target_url(move.target), load_settings()

    async def work() -> tuple[TableVerdict, ...]:
        async with session(url, settings) as connection:
            chunks = [verdict for unit in read for verdict in unit]
            return await copying.judge_group(connection, move, group, chunks, settings.sample_rows)

    verdicts = wait_for(work())
    differences = sum(verdict.difference_count for verdict in verdicts)
    cells = sum(verdict.cells_compared for verdict in verdicts)
    get_run_logger().info("%s: %s cells compared, %s differences.", group.name, f"{cells:,}", f"{differences:,}")
    return verdicts
