"""How long a move of any size takes on given machines, reckoned from rates that were measured on one small one.

`python -m benchmarks.scale` prints the table of docs/scale.md. It is a model: nothing of that size was ever run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

MEGABYTE = 1e6
HOUR = 3600.0


@dataclass(frozen=True)
class Rates:
    """CPU seconds for each megabyte of the SQLite file, by the part of the work; and what a byte of it becomes."""

    snapshot: float = 1.5 / 522
    """Of the whole step, by the clock: one reader, one writer."""
    check: float = 1.2 / 477
    export: float = 4.5 / 522
    load_client: float = 2.0 / 522
    load_server: float = 3.5 / 522
    index_server: float = 9.0 / 522
    """One key and three indexes, of 2,000,000 rows."""
    read_client: float = 1.2 / 522
    read_server: float = 3.5 / 522
    indexed_rows: float = 2e6
    parquet: float = 0.24
    copied: float = 0.94
    stored: float = 1.18
    """Bytes of tables and indexes in PostgreSQL."""


MEASURED = Rates()


@dataclass(frozen=True)
class Machines:
    """What works on a move: cores of the workers together, cores of the server, and megabytes a second."""

    name: str
    worker_cores: int
    server_cores: int
    network: float
    """Between the workers and the server."""
    server_disk: float
    """Writing, the WAL included."""
    snapshot_disk: float
    """Reading the snapshot, all workers together: the disk, or the network to it."""


@dataclass(frozen=True)
class Hours:
    """What each step takes, and which part of it is the slowest."""

    snapshot: float
    load: float
    load_limit: str
    index: float
    index_limit: str

    @property
    def total(self) -> float:
        """The whole move; the check of the snapshot and the exports run beside the rest."""
        return self.snapshot + self.load + self.index


def reckon(size: float, table_rows: float, machines: Machines, rates: Rates = MEASURED) -> Hours:
    """Return the hours for `size` megabytes of SQLite whose larger tables have `table_rows` rows each."""
    workers, server = machines.worker_cores, machines.server_cores
    # Sorting n rows takes n log n comparisons.
    growth = max(log2(table_rows) / log2(rates.indexed_rows), 1.0)
    load = {
        "workers' CPU": size * (rates.export + rates.load_client) / workers,
        "server's CPU": size * rates.load_server / server,
        "reading the snapshot": size / machines.snapshot_disk,
        "network": size * (rates.copied + 2 * rates.parquet) / machines.network,
        # The rows, and once more as WAL.
        "server's disk": size * 2 * rates.copied / machines.server_disk,
        "check of the snapshot": size * rates.check,
    }
    index = {
        "workers' CPU": size * rates.read_client / workers,
        "server's CPU": size * (rates.index_server * growth + rates.read_server) / server,
        "network": size * rates.copied / machines.network,
        # What a sort writes and reads again, the index, and its WAL.
        "server's disk": size * 4 * (rates.stored - rates.copied) / machines.server_disk,
    }
    slowest_load, slowest_index = max(load, key=load.__getitem__), max(index, key=index.__getitem__)
    return Hours(
        size * rates.snapshot / HOUR,
        load[slowest_load] / HOUR,
        slowest_load,
        index[slowest_index] / HOUR,
        slowest_index,
    )


EXAMPLES = (
    Machines("one machine, 2 cores for both sides", 1, 1, 10_000, 500, 500),
    Machines("one machine of 16 cores, a server of 16", 16, 16, 1_250, 1_000, 2_000),
    Machines("4 machines of 16 cores, a server of 64", 64, 64, 3_000, 2_000, 1_250),
    Machines("16 machines of 16 cores, a server of 64", 256, 64, 3_000, 2_000, 1_250),
)

SIZES = ((0.1e6, 4e8), (1e6, 4e7), (10e6, 4e8))
"""Megabytes, and rows of a table: 100 GB in one table, 1 TB and 10 TB in 100 tables of 250 bytes a row."""


def table(machines: Iterable[Machines] = EXAMPLES) -> list[str]:
    """Return the lines of the table in Markdown."""
    lines = [
        "| size | machines | snapshot | export and load | limited by | indexes and comparison | limited by | in all |",
        "| ---: | --- | ---: | ---: | --- | ---: | --- | ---: |",
    ]
    for size, rows in SIZES:
        for each in machines:
            hours = reckon(size, rows, each)
            spent = (f"{hours.load:.1f} h", hours.load_limit, f"{hours.index:.1f} h", hours.index_limit)
            cells = (f"{size / 1e6:g} TB", each.name, f"{hours.snapshot:.1f} h", *spent, f"{hours.total:.1f} h")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the table, or the hours for one size and one set of machines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, help="size of the SQLite file")
    parser.add_argument("--rows", type=float, default=4e8, help="rows of the larger tables")
    parser.add_argument("--workers", type=int, default=16, help="cores of the workers together")
    parser.add_argument("--server", type=int, default=16, help="cores of the server")
    parser.add_argument("--network", type=float, default=1_250, help="MB/s between workers and server")
    parser.add_argument("--disk", type=float, default=1_000, help="MB/s that the server's disk writes")
    parser.add_argument("--snapshot", type=float, default=1_000, help="MB/s at which all workers read the snapshot")
    given = parser.parse_args()
    if given.gigabytes is None:
        print("\n".join(table()))
        return
    machines = Machines("", given.workers, given.server, given.network, given.disk, given.snapshot)
    hours = reckon(given.gigabytes * 1e3, given.rows, machines)
    print(
        f"snapshot {hours.snapshot:.1f} h, export and load {hours.load:.1f} h ({hours.load_limit}), indexes and"
        f" comparison {hours.index:.1f} h ({hours.index_limit}): {hours.total:.1f} h in all"
    )


if __name__ == "__main__":
    main()
