"""Moves the same files in several ways, side by side in one run, and writes the figures to docs/benchmarks.md.

    .venv/bin/python -m benchmarks.contest

Each way is a whole process that gets a fresh database of the same server; the ways take turns, round by round, with a
checkpoint before each, outside of its time. Peak memory is the largest resident set of the process, as
`/usr/bin/time -v` tells it; the server is not in it. `--quick` tries everything small and only prints; so does a run of
a part (`--shape`, `--way`) unless `--write` is given.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.contest_figures import Contest, extrapolated
from benchmarks.contest_page import measured_by, render, write
from benchmarks.contest_place import Place
from benchmarks.contest_rounds import Course, made, run_course, run_once, tell
from benchmarks.shapes import Source, make_blobs, make_tables, make_trades, make_wide
from benchmarks.ways import MIGRATE, WAYS, find_way
from flows.prefect_server import ensure_server, server_environment, stop_server
from pgferry.postgres import embedded

SIZES = (200_000, 2_000_000, 10_000_000)
QUICK_SIZES = (5_000, 20_000)
ROW_WISE, QUICK_ROW_WISE = 200_000, 5_000
ROUNDS, LARGE = 3, 5_000_000
SHAPES = ("trades", "tables", "wide", "blobs")
SYSTEM = Path("/usr/lib/postgresql")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    # Ended from outside it still stops its servers and removes its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ways = [way for way in WAYS if way.key in (options.way or [way.key for way in WAYS])]
    with _folder() as folder, _place(folder, options.server, prefect=MIGRATE in {way.key for way in ways}) as begun:
        place, prefect_start = begun
        figures = [figure for course in _courses(options) for figure in run_course(place, course, ways)]
        measured = measured_by(place.version(), " ".join(["python -m benchmarks.contest", *given]))
    contest = Contest(extrapolated(figures), prefect_start)
    print(render(contest, measured))
    if options.write or not (options.quick or options.shape or options.way):
        write(contest, measured)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small files, one round; only prints")
    parser.add_argument("--size", type=int, action="append", metavar="N", help=f"trades ({_listed(SIZES)})")
    parser.add_argument("--row-wise", type=int, metavar="N", help=f"trades of the row-wise ways at most ({ROW_WISE:,})")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this; may be given more than once")
    parser.add_argument("--way", choices=[way.key for way in WAYS], action="append", help="only this; likewise")
    rounds = f"of trades up to {LARGE:,} ({ROUNDS}); of more, and of other shapes, there is one"
    parser.add_argument("--rounds", type=int, metavar="N", help=rounds)
    parser.add_argument("--server", choices=("embedded", "system"), default="embedded", help="whose PostgreSQL")
    parser.add_argument("--write", action="store_true", help="write the page although only a part was measured")
    return parser


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _courses(options: argparse.Namespace) -> Iterator[Course]:
    shapes = options.shape or SHAPES
    most = options.row_wise or (QUICK_ROW_WISE if options.quick else ROW_WISE)
    if "trades" in shapes:
        for size in sorted(set(options.size or (QUICK_SIZES if options.quick else SIZES))):
            yield Course(partial(make_trades, rows=size), _rounds(options, size), size <= most)
    makers = _makers(quick=options.quick)
    for shape in (shape for shape in SHAPES if shape in shapes and shape in makers):
        yield Course(makers[shape], 1)


def _makers(*, quick: bool) -> dict[str, Callable[[Path], Source]]:
    if not quick:
        return {"tables": make_tables, "wide": make_wide, "blobs": make_blobs}
    return {
        "tables": partial(make_tables, tables=20),
        "wide": partial(make_wide, rows=1_000),
        "blobs": partial(make_blobs, rows=20),
    }


def _rounds(options: argparse.Namespace, size: int) -> int:
    return 1 if options.quick or size > LARGE else options.rounds or ROUNDS


# ---------------------------------------------------------------- the place


@contextmanager
def _folder() -> Iterator[Path]:
    # Below the home of nobody else: the embedded server's data must be reachable for an unprivileged user.
    with tempfile.TemporaryDirectory(prefix="pgferry-benchmark-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def _place(folder: Path, server: str, *, prefect: bool) -> Iterator[tuple[Place, float | None]]:
    """Give the place, and the seconds that the start of the Prefect server took."""
    if server == "system":
        os.environ["PG_BIN_DIR"] = str(_newest_of_the_system())
    home = folder / "home"
    try:
        started = embedded.start(home)
        began = time.monotonic()
        environment = server_environment(ensure_server(home)) if prefect else {}
        took = time.monotonic() - began if prefect else None
        place = Place(started, folder, environment)
        if prefect:
            _warm_up(place)
        yield place, took
    finally:
        stop_server(home)
        embedded.stop(home)


def _newest_of_the_system() -> Path:
    found = sorted(SYSTEM.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        sys.exit(f"There is no PostgreSQL in {SYSTEM}.")
    return found[-1].parent


def _warm_up(place: Place) -> None:
    """Let Prefect's server serve a first flow: it runs already for those that are timed."""
    tell("a first flow, not timed")
    with made(place, partial(make_trades, rows=1_000)) as ready:
        run_once(place, find_way(MIGRATE), ready)


if __name__ == "__main__":
    main()
