"""Measures the move without downtime on the sample database, and writes the figures to docs/benchmarks.md.

    .venv/bin/python -m benchmarks.live

What a write costs the application with the capture and without; how far PostgreSQL is behind while the sync follows;
how long the switch freezes writes, at two sizes; how fast both sides are compared. The server is the embedded one with
its default settings, in a temporary folder that is removed. `--quick` tries it all in a minute; with it, or with
`--only`, the figures are printed and the page stays as it is.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.live_cost import measure_costs
from benchmarks.live_lag import measure_lag
from benchmarks.live_move import Place
from benchmarks.live_page import PAGE, Costs, Figures, Freeze, Lag, Rate, machine, placed, render
from benchmarks.live_switch import measure_freeze
from benchmarks.live_validation import measure_validation
from pgferry.postgres import embedded

PARTS = ("cost", "lag", "switch", "validation")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; each is an option of the command line. Rows are trades."""

    cost_rows: int = 100_000
    cost_rounds: int = 15
    cost_single: int = 100
    cost_grouped: int = 2_000
    lag_rows: int = 100_000
    lag_rate: int = 500
    lag_seconds: int = 30
    rows_small: int = 100_000
    rows_large: int = 5_000_000
    writes: int = 1_000
    switches: int = 3
    validation_rows: int = 2_000_000
    row_wise: int = 200_000
    passes: int = 3


QUICK = Sizes(
    cost_rows=5_000,
    cost_rounds=3,
    cost_single=30,
    cost_grouped=300,
    lag_rows=5_000,
    lag_seconds=3,
    rows_small=5_000,
    rows_large=25_000,
    switches=2,
    validation_rows=40_000,
    row_wise=5_000,
    passes=1,
)

HELP = {
    "cost_rows": "trades in the file whose writes are timed",
    "cost_rounds": "rounds of them; the figures are medians",
    "cost_single": "writes of each kind a round, each a transaction of its own",
    "cost_grouped": "writes of each kind a round, in transactions of 100",
    "lag_rows": "trades in the file that is followed",
    "lag_rate": "commits a second",
    "lag_seconds": "seconds of them",
    "rows_small": "trades of the first switch",
    "rows_large": "trades of the second one",
    "writes": "writes between the approach and the fence",
    "switches": "switches at each size; the figures are medians",
    "validation_rows": "trades that are compared",
    "row_wise": "trades that are compared row by row",
    "passes": "comparisons in each way; the figures are medians",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    sizes = _sizes(options)
    # Ended from outside it still stops its server and removes its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Below the home of nobody else: the embedded server's data must be reachable for an unprivileged user.
    with tempfile.TemporaryDirectory(prefix="pgferry-benchmark-") as folder:
        Path(folder).chmod(0o755)
        figures = _measure(Path(folder), sizes, options.only or PARTS)
    command = " ".join(["python -m benchmarks.live", *given])
    section = render(figures, f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, by `{command}`")
    print(section)
    if not (options.quick or options.only):
        PAGE.write_text(placed(PAGE.read_text("utf-8"), section), "utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; the page stays as it is")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given more than once")
    for size in fields(Sizes):
        text = f"{HELP[size.name]} ({size.default:,})"
        parser.add_argument(f"--{size.name.replace('_', '-')}", type=int, metavar="N", help=text)
    return parser


def _sizes(options: argparse.Namespace) -> Sizes:
    given = {size.name: getattr(options, size.name) for size in fields(Sizes)}
    return replace(QUICK if options.quick else Sizes(), **{name: value for name, value in given.items() if value})


def _measure(folder: Path, sizes: Sizes, parts: Sequence[str]) -> Figures:
    # The cost before there is a server: so nothing else is at work for these figures.
    costs = _costs(folder, sizes) if "cost" in parts else None
    if set(parts) == {"cost"}:
        return Figures(costs)
    home = folder / "home"
    place = Place(embedded.start(home), folder)
    try:
        return Figures(
            costs,
            _lag(place, sizes) if "lag" in parts else None,
            _freezes(place, sizes) if "switch" in parts else (),
            _rates(place, sizes) if "validation" in parts else (),
        )
    finally:
        embedded.stop(home)


def _costs(folder: Path, sizes: Sizes) -> Costs:
    with _told("cost of a write"):
        return measure_costs(
            folder, sizes.cost_rows, sizes.cost_rounds, {1: sizes.cost_single, 100: sizes.cost_grouped}
        )


def _lag(place: Place, sizes: Sizes) -> Lag:
    with _told("lag"):
        return measure_lag(place, sizes.lag_rows, sizes.lag_rate, sizes.lag_seconds)


def _freezes(place: Place, sizes: Sizes) -> list[Freeze]:
    freezes = []
    for rows in (sizes.rows_small, sizes.rows_large):
        with _told(f"switch at {rows:,} trades"):
            freezes.append(measure_freeze(place, rows, sizes.writes, sizes.switches))
    return freezes


def _rates(place: Place, sizes: Sizes) -> list[Rate]:
    with _told("validation"):
        return measure_validation(place, sizes.validation_rows, sizes.row_wise, sizes.passes)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say on stderr what is measured, and how long that took."""
    began = time.monotonic()
    print(f"{name} …", file=sys.stderr, flush=True)
    yield
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
