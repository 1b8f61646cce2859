"""SQL for tables of more columns than one expression or one statement of SQLite takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

AT_ONCE = 500
"""Terms of one expression or statement: SQLite allows 2,000 results of a SELECT, and expressions 1,000 deep."""


def groups(terms: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the terms in groups of at most AT_ONCE."""
    for first in range(0, len(terms), AT_ONCE):
        yield terms[first : first + AT_ONCE]


def joined(terms: Sequence[str], operator: str) -> str:
    """Join terms by an associative operator; many of them nested, so that the expression stays shallow."""
    if len(terms) <= AT_ONCE:
        return operator.join(terms)
    return operator.join(f"({operator.join(group)})" for group in groups(terms))
