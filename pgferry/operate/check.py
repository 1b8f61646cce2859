"""A line of the checklist: what was looked at, the verdict, what was measured, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

NAMED = 5
"""How many of the things in the way a check names."""


class Verdict(StrEnum):
    """How a check came out. `warn` is for a person to weigh; only `fail` stands in the way."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `measured` in words, `advice` what to do about it; no advice where nothing is to be done."""

    name: str
    verdict: Verdict
    measured: str
    advice: str = ""


def passed(name: str, measured: str) -> Check:
    """Return a check that found all well."""
    return Check(name, Verdict.PASS, measured)


def warned(name: str, measured: str, advice: str) -> Check:
    """Return a check that found something to weigh."""
    return Check(name, Verdict.WARN, measured, advice)


def failed_check(name: str, measured: str, advice: str) -> Check:
    """Return a check that found what stands in the way; `measured` may be an error's sentence."""
    return Check(name, Verdict.FAIL, measured.rstrip("."), advice)


def failed(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks that stand in the way."""
    return tuple(check for check in checks if check.verdict is Verdict.FAIL)


def megabytes(size: float) -> str:
    """Return a size in words, in units of 1000."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
