"""The figures of a soak, and the section of docs/benchmarks.md that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


@dataclass(frozen=True, slots=True)
class Soak:
    """What happened in a soak; times in seconds, memory in bytes."""

    seconds: float
    writes: int
    """Transactions of the application whose commit returned."""
    cycles: int
    """Transactions of the sync while SQLite was in front."""
    rows: int
    """Rows it carried."""
    faults: Mapping[str, int]
    validations: int
    """That came to their end and found both sides equal."""
    interrupted: int
    """Validations that a fault ended."""
    switches: int
    rollbacks: int
    longest_lag: float
    """From the last write before a fault until it had arrived on the side behind."""
    longest_recovery: float
    """From the end of a fault until both sides were level with that moment."""
    memory_begin: int
    """Of the last process that followed, when it had caught up."""
    memory_end: int
    comparisons: int
    """Of both sides, cell by cell, by the independent comparison, while nobody wrote."""
    differences: tuple[str, ...] = field(default=())


def render(soak: Soak, measured: str) -> str:
    """Return the figures in Markdown; `measured` says when, where and how."""
    mebibytes = (soak.memory_begin / 2**20, soak.memory_end / 2**20)
    rows = {
        "minutes": f"{soak.seconds / 60:.1f}",
        "transactions of the application, acknowledged": f"{soak.writes:,}",
        "transactions of the sync to PostgreSQL, and rows carried": f"{soak.cycles:,}, {soak.rows:,}",
        "faults": f"{sum(soak.faults.values()):,}",
        **{f"— {name}": f"{count:,}" for name, count in sorted(soak.faults.items())},
        "validations passed, and ended by a fault": f"{soak.validations:,}, {soak.interrupted:,}",
        "switches to PostgreSQL, rollbacks to SQLite": f"{soak.switches:,}, {soak.rollbacks:,}",
        "longest lag, the fault included": f"{soak.longest_lag:.1f} s",
        "longest recovery after a fault's end": f"{soak.longest_recovery:.1f} s",
        "memory of the follower, begin and end of its last life": f"{mebibytes[0]:.0f} MiB, {mebibytes[1]:.0f} MiB",
        "independent comparisons of every cell": f"{soak.comparisons:,}",
        "writes lost, doubled or out of nowhere; cells that differ": f"{len(soak.differences):,}",
    }
    lines = ["| what | figure |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join([*lines, "", f"Measured on {measured}."])


def placed(page: str, section: str) -> str:
    """Return the page with the section in place of what is between its marks; raises ValueError without these."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{section}\n{END}{tail}"
