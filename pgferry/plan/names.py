"""Turns SQLite's names into names that PostgreSQL takes, the same way each time; nearly all stay as they are."""

from __future__ import annotations

import hashlib

LONGEST = 63
"""Bytes that PostgreSQL keeps of an identifier (NAMEDATALEN - 1)."""

SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""Columns that every PostgreSQL table has already (https://www.postgresql.org/docs/current/ddl-system-columns.html)."""

_HASH_DIGITS = 8


class Namespace:
    """Names that must differ from each other: a schema's relations, a table's columns, or its constraints.

    Names differ by case, as quoted names in PostgreSQL do.
    """

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self._reserved = reserved
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """Return the name itself when PostgreSQL takes it and it is free, else one made from it; and keep it taken."""
        name = wanted or "_"
        if name in self._reserved:
            name += "_"
        if len(name.encode()) > LONGEST or name in self._taken:
            name = self._free(wanted)
        self._taken.add(name)
        return name

    def take_all(self, wanted: list[str]) -> dict[str, str]:
        """Take several names; those that can stay as they are go first, so that none of them gives way to another."""
        stay = [name for name in wanted if self._stays(name)]
        rest = [name for name in wanted if not self._stays(name)]
        taken = {name: self.take(name) for name in stay + rest}
        return {name: taken[name] for name in wanted}

    def _stays(self, name: str) -> bool:
        return bool(name) and name not in self._reserved and len(name.encode()) <= LONGEST

    def _free(self, wanted: str) -> str:
        attempt = 0
        while (name := shorten(wanted, attempt)) in self._taken:
            attempt += 1
        return name


def shorten(name: str, attempt: int = 0) -> str:
    """Return the name's first characters and a hash of the whole, within 63 bytes; another `attempt`, another hash."""
    digest = hashlib.sha256(f"{name}\x00{attempt}".encode() if attempt else name.encode()).hexdigest()
    room = LONGEST - _HASH_DIGITS - 1
    start = name.encode()[:room].decode("utf-8", "ignore")
    return f"{start}_{digest[:_HASH_DIGITS]}"
