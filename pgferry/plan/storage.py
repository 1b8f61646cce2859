"""How the rows of a proposed table lie on PostgreSQL's pages.

A row of more than about 2,000 bytes is taken apart: value after value, the largest first, goes to the table's TOAST
table (https://www.postgresql.org/docs/current/storage-toast.html). That is made for large values. Where all of a row's
values are small it scatters the row over dozens of entries, each larger than what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgferry.convert.row_width import FIXED, HEAD
from pgferry.model import PgKind, PgType
from pgferry.sqlite.profile import TableProfile

TAKEN_APART_FROM = 2_000
"""Bytes of a row, about, from which on PostgreSQL takes it apart: a quarter of a page."""

SMALL = 256
"""Bytes of a value that is better read with its row."""

_NUMERIC = 16
"""Bytes of a number with up to twenty digits, about."""


def stays_whole(profile: TableProfile, types: Mapping[str, PgType]) -> bool:
    """Say whether the rows of a table should stay whole, up to what a page holds: they may be wide, no value is large.

    `types` are those of the columns that are carried, by their names in the source.
    """
    sizes = [_most(profile, column, type) for column, type in types.items()]
    return HEAD + sum(sizes) > TAKEN_APART_FROM and max(sizes) <= SMALL


def _most(profile: TableProfile, column: str, type: PgType) -> int:
    if type.kind in FIXED:
        return FIXED[type.kind][0]
    octets = profile.column(column).max_octets
    return max(octets, _NUMERIC) if type.kind is PgKind.NUMERIC else octets + 1
