"""What a look at the server gives: numbers, tables for people, and what is beyond its threshold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pgferry.postgres.metrics import Metric

LAG = "lag"
"""The name of the breach that is an event of its own."""

# What of a statement is passed over as a whole: names and comments, which may hold an apostrophe, and its strings, of
# which the server may have cut off the end.
_WHOLES = re.compile(
    r"""(?P<name>"(?:[^"]|"")*(?:"|\Z))
      | (?P<comment>--[^\n]* | /\*.*?(?:\*/|\Z))
      | \bE'(?:[^'\\]|\\.|'')*(?:'|\Z)
      | '(?:[^']|'')*(?:'|\Z)
      | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)

SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Listing:
    """A table for people; `key` names it for programs."""

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    def records(self) -> list[dict[str, object]]:
        """Return a dictionary a row."""
        return [dict(zip(self.head, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Breach:
    """A number beyond its threshold; `setting` is the threshold's name, `again` says that the look before found it."""

    name: str
    subject: str
    measured: str
    allowed: str
    setting: str
    action: str
    value: float
    again: bool = False

    @property
    def sentence(self) -> str:
        """What is wrong, in a sentence."""
        return f"{self.measured}; allowed are {self.allowed}."


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a look gives."""

    metrics: tuple[Metric, ...] = ()
    listings: tuple[Listing, ...] = ()
    breaches: tuple[Breach, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a server and its database; `server` is host and port."""

    at: datetime
    server: str
    database: str
    version: str
    metrics: tuple[Metric, ...]
    listings: tuple[Listing, ...]
    breaches: tuple[Breach, ...]
    notes: tuple[str, ...]
    """What could not be measured, or not be kept, and why."""

    def value(self, name: str, label: str = "") -> float | None:
        """Return a metric's value, or None when it was not measured."""
        return next((metric.value for metric in self.metrics if (metric.name, metric.label) == (name, label)), None)

    def to_json(self) -> dict[str, Any]:
        """Return the look as JSON-able values."""
        return {
            "at": self.at.isoformat(),
            "server": self.server,
            "database": self.database,
            "version": self.version,
            "breaches": [{**asdict(breach), "sentence": breach.sentence} for breach in self.breaches],
            "metrics": [asdict(metric) for metric in self.metrics],
            "tables": {listing.key: listing.records() for listing in self.listings},
            "notes": list(self.notes),
        }


def together(parts: Iterable[Part]) -> Part:
    """Return the parts as one."""
    parts = tuple(parts)
    return Part(
        metrics=tuple(metric for part in parts for metric in part.metrics),
        listings=tuple(listing for part in parts for listing in part.listings),
        breaches=tuple(breach for part in parts for breach in part.breaches),
        notes=tuple(note for part in parts for note in part.notes),
    )


def listing(key: str, title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Listing:
    """Return a listing of any rows."""
    return Listing(key, title, tuple(head), tuple(tuple(row) for row in rows))


def without_literals(statement: str) -> str:
    """Return a statement in one line, short, without comments and strings: a string may be a secret."""
    line = " ".join(_WHOLES.sub(_replacement, statement).split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _replacement(whole: re.Match[str]) -> str:
    if whole["name"] is not None:
        return whole[0]
    return " " if whole["comment"] is not None else "'…'"
