"""Rows as multisets: a short mark for each row, equal for rows that hold equal values, in whatever order they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pgferry.convert.wire import canonical_field
from pgferry.model import PgType
from pgferry.ordering import row_hash

Fields = tuple[bytes | None, ...]
"""A row as COPY's binary format has it."""

Marks = np.ndarray
"""16 bytes a row, sorted."""


def mark(types: Sequence[PgType], row: Fields) -> bytes:
    """Return the 16 bytes that stand for a row; equal for rows whose values are equal, though their bytes differ."""
    # numpy's S16 ignores trailing zero bytes: they must not occur, or two marks could look alike.
    return row_hash(canonical_row(types, row)).replace(b"\x00", b"\x01")


def canonical_row(types: Sequence[PgType], row: Sequence[bytes | None]) -> Fields:
    """Return a row's fields, each in the one form that equal values share (see `wire.equal_field`)."""
    return tuple(
        None if value is None else canonical_field(value, kind) for kind, value in zip(types, row, strict=True)
    )


def marks(types: Sequence[PgType], rows: Iterable[Fields]) -> Marks:
    """Return the marks of all rows, sorted."""
    gathered = bytearray()
    for row in rows:
        gathered += mark(types, row)
    return np.sort(np.frombuffer(gathered, dtype="V16").view("S16"))


def subtract(left: Marks, right: Marks) -> Counter[bytes]:
    """Return the marks, with their counts, that `left` has more often than `right`."""
    names, counts = np.unique(left, return_counts=True)
    others, other_counts = np.unique(right, return_counts=True)
    if len(others) == 0:
        return Counter({bytes(name): int(count) for name, count in zip(names, counts, strict=True)})
    places = np.searchsorted(others, names)
    places[places == len(others)] = 0
    have = np.where(others[places] == names, other_counts[places], 0)
    surplus = counts - have
    return Counter(
        {bytes(name): int(count) for name, count in zip(names[surplus > 0], surplus[surplus > 0], strict=True)}
    )


def pick(types: Sequence[PgType], rows: Iterable[Fields], wanted: Counter[bytes], limit: int) -> list[Fields]:
    """Return the first `limit` of the rows that have the wanted marks, each mark as often as it is wanted."""
    left = Counter(wanted)
    picked: list[Fields] = []
    if not left:
        return picked
    for row in rows:
        name = mark(types, row)
        if left[name] > 0 and len(picked) < limit:
            left[name] -= 1
            picked.append(row)
    return picked
