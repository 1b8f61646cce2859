"""Interval arithmetic: what numbers an expression can yield, given what its columns hold.

SQLite turns an integer that overflows into a REAL; PostgreSQL stops with an error, and with it a COPY or an index
build. So arithmetic is carried only where the data shows that no step of it leaves its type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Number = int | float

LEAST_BIGINT, GREATEST_BIGINT = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`; those that are not zero are at least `least` away from it.

    Edges that are both `int` say that all numbers between them are whole.
    """

    low: Number
    high: Number
    least: Number = 1
    """0 when not known. Whole numbers are at least 1 away."""

    @classmethod
    def of(cls, value: Number) -> Range:
        """Return the range of one number."""
        return cls(value, value, abs(value) or 1)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high, self._least_sum(other))

    def __sub__(self, other: Range) -> Range:
        return self + -other

    def __neg__(self) -> Range:
        return Range(-self.high, -self.low, self.least)

    def __mul__(self, other: Range) -> Range:
        edges = [_product(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        return Range(min(edges), max(edges), _product(self._nearest, other._nearest))

    def __abs__(self) -> Range:
        greatest = max(abs(self.low), abs(self.high))
        return Range(0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high)), greatest, self.least)

    def __or__(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high), min(self.least, other.least))

    def _least_sum(self, other: Range) -> Number:
        edges = (self.low, self.high, other.low, other.high)
        if all(isinstance(edge, int) for edge in edges):
            return 1
        # A double is a multiple of its last digit, and so is a sum of two doubles of the smaller of theirs.
        return min(math.ulp(self._nearest), math.ulp(other._nearest)) if self._nearest and other._nearest else 0

    @property
    def _nearest(self) -> Number:
        if self.low > 0 or self.high < 0:
            return max(self.least, min(abs(self.low), abs(self.high)))
        return self.least

    def as_reals(self) -> Range:
        """Return the range of the same numbers as doubles."""
        return Range(_real(self.low), _real(self.high), _real(self.least))

    @property
    def is_bigint(self) -> bool:
        """Whether every number in it is within 64 bits."""
        return self.low >= LEAST_BIGINT and self.high <= GREATEST_BIGINT

    @property
    def is_finite(self) -> bool:
        """Whether no number in it is an infinity."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


ANYTHING = Range(-math.inf, math.inf, 0)
NOTHING = Range(0, 0)
"""The range of a column without a value: arithmetic with it yields NULL."""


def _real(number: Number) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _product(first: Number, second: Number) -> Number:
    # 0 times infinity is no number in Python, and would hide every other edge.
    return 0 if not first or not second else first * second
