"""The figures of the move without downtime, and the section of docs/benchmarks.md that shows them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- live: begin -->", "<!-- live: end -->"


@dataclass(frozen=True, slots=True)
class WriteCost:
    """What one write costs the application, in microseconds, without the capture and with it."""

    journal: str
    together: int
    """Writes in a transaction."""
    table: str
    statement: str
    without: float
    captured: float
    pages_without: float = 0.0
    """Pages that go into the WAL; 0 where there is none."""
    pages_captured: float = 0.0

    @property
    def ratio(self) -> float:
        """With the capture, in times of without."""
        return self.captured / self.without


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of all kinds of writes, each the median of so many rounds on a file with so many trades."""

    rows: int
    rounds: int
    writes: tuple[WriteCost, ...]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far PostgreSQL was behind SQLite, in milliseconds from a commit's return until the row was seen."""

    rows: int
    """Trades before the first write."""
    rate: float
    """Writes a second that were wanted."""
    writes: int
    seconds: float
    """Time from the first commit to the last."""
    median: float
    p99: float
    longest: float
    cpu: float
    """CPU seconds of the process that follows."""

    @property
    def reached(self) -> float:
        """Writes a second that were committed."""
        return (self.writes - 1) / self.seconds


@dataclass(frozen=True, slots=True)
class Freeze:
    """How long nobody could write anywhere, in seconds: medians of several switches, and the longest one."""

    rows: int
    """Trades before the first switch."""
    switches: int
    drained: int
    """Rows carried under the fence."""
    compared: int
    steps: Mapping[str, float]
    total: float
    longest: float


@dataclass(frozen=True, slots=True)
class Rate:
    """A comparison of both sides; rows of one side, seconds as the median of so many passes."""

    way: str
    rows: int
    seconds: float
    passes: int

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of the benchmark measured; None and empty for what was left out."""

    costs: Costs | None = None
    lag: Lag | None = None
    freezes: Sequence[Freeze] = ()
    rates: Sequence[Rate] = ()


def render(figures: Figures, measured: str) -> str:
    """Return the figures in Markdown; `measured` says when, where and how."""
    parts = [
        _costs(figures.costs) if figures.costs else [],
        _lag(figures.lag) if figures.lag else [],
        _freezes(figures.freezes) if figures.freezes else [],
        _rates(figures.rates) if figures.rates else [],
        [f"Measured on {measured}."],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def placed(page: str, section: str) -> str:
    """Return the page with the section in place of what is between its marks; raises ValueError without these."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{section}\n{END}{tail}"


def machine() -> str:
    """Return the machine's size and programs, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


# ---------------------------------------------------------------- the parts


def _costs(costs: Costs) -> list[str]:
    sizes = list(dict.fromkeys((cost.journal, cost.together) for cost in costs.writes))
    logged = list(dict.fromkeys((cost.journal, cost.together) for cost in costs.writes if cost.pages_without))
    heads = [f"µs: {journal}, {together} a transaction" for journal, together in sizes]
    heads += [f"pages: {journal}, {together} a transaction" for journal, together in logged]
    found = {(cost.table, cost.statement, cost.journal, cost.together): cost for cost in costs.writes}
    rows = [
        [*kind, *(_cost(found[*kind, *size]) for size in sizes), *(_pages(found[*kind, *size]) for size in logged)]
        for kind in dict.fromkeys((cost.table, cost.statement) for cost in costs.writes)
    ]
    return [
        "### Cost of a write with the capture",
        "",
        *_table(["table", "statement", *heads], rows, left=2),
        "",
        "Microseconds a write, and pages a write that go into the WAL, without → with the capture (ratio): medians of "
        f"{costs.rounds} rounds, in which two copies of a file with {costs.rows:,} trades took turns. WAL with "
        "synchronous=NORMAL, the rollback journal with synchronous=FULL. BEGIN and COMMIT are in it; checkpoints, of "
        "which there are more as more pages are written, were made between the rounds and are not.",
    ]


def _cost(cost: WriteCost) -> str:
    return f"{_microseconds(cost.without)} → {_microseconds(cost.captured)} (×{cost.ratio:.2f})"


def _pages(cost: WriteCost) -> str:
    return f"{cost.pages_without:.1f} → {cost.pages_captured:.1f}"


def _microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _lag(lag: Lag) -> list[str]:
    heads = ["writes", "writes/s", "median ms", "p99 ms", "longest ms", "CPU seconds of the follower"]
    figures = (lag.median, lag.p99, lag.longest, lag.cpu)
    row = [f"{lag.writes:,}", f"{lag.reached:.0f}", *(f"{figure:.1f}" for figure in figures)]
    return [
        "### Lag of the sync that follows",
        "",
        *_table(heads, [row]),
        "",
        f"From the return of a commit in SQLite (WAL, {lag.rate:.0f} commits a second wanted, {lag.seconds:.0f} s, a "
        f"file with {lag.rows:,} trades) until another session saw the row in PostgreSQL, which it asked about every "
        "2 ms. Writer, follower and observer are processes of their own on the one machine.",
    ]


def _freezes(freezes: Sequence[Freeze]) -> list[str]:
    steps = list(dict.fromkeys(step for freeze in freezes for step in freeze.steps))
    heads = ["trades", "rows drained", "rows compared", *steps, "frozen in all", "longest"]
    return [
        "### Write freeze of the switch",
        "",
        *_table(heads, [_freeze(freeze, steps) for freeze in freezes]),
        "",
        f"Milliseconds, the medians of {freezes[0].switches} switches with a rollback after each but the last; "
        "`longest` is the longest of these freezes. Nothing followed between the approach and the fence, so all that "
        "was written then was carried under the fence. Restart and health check are the application's and not in it.",
        *_growth(freezes),
    ]


def _freeze(freeze: Freeze, steps: Sequence[str]) -> list[str]:
    seconds = [*(freeze.steps.get(step, 0.0) for step in steps), freeze.total, freeze.longest]
    counts = [f"{count:,}" for count in (freeze.rows, freeze.drained, freeze.compared)]
    return [*counts, *(f"{second * 1000:.0f}" for second in seconds)]


def _growth(freezes: Sequence[Freeze]) -> Iterator[str]:
    first, last = freezes[0], freezes[-1]
    if last.rows > first.rows:
        times = last.total / first.total
        yield f"At {last.rows / first.rows:.0f} times the rows the freeze was {times:.2f} times as long."


def _rates(rates: Sequence[Rate]) -> list[str]:
    rows = [
        [item.way, f"{item.rows:,}", f"{item.passes}", f"{item.seconds:.2f}", f"{item.rate:,.0f}"] for item in rates
    ]
    return [
        "### Validation",
        "",
        *_table(["what", "rows", "passes", "seconds", "rows/s"], rows, left=1),
        "",
        "Rows of one side; the median of the passes. Rows of another number than the first were read by themselves, "
        "for comparison.",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    rules = ["---"] * left + ["---:"] * (len(heads) - left)
    return [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
