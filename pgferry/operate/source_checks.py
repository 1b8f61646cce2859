"""What a preflight looks at in the SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.operate.check import Check, failed_check, megabytes, passed, warned
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.orphans import foreign_key_violations
from pgferry.sqlite.snapshot import complaints_of

FREE_SHARE = 0.25
"""Share of free pages from which on it is worth a word."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the file's header tells; sizes in bytes."""

    path: Path
    page_bytes: int
    pages: int
    free_pages: int
    journal: str
    encoding: str

    @property
    def bytes(self) -> int:
        """The size of a copy."""
        return self.pages * self.page_bytes

    @property
    def used_bytes(self) -> int:
        """The size without free pages."""
        return (self.pages - self.free_pages) * self.page_bytes


def read_facts(path: Path) -> FileFacts:
    """Read what the file says of itself; reads no table. Raises as `open_read_only`, and sqlite3.Error."""
    with closing(open_read_only(path)) as connection:
        return FileFacts(
            path=path,
            page_bytes=int(_pragma(connection, "page_size")),
            pages=int(_pragma(connection, "page_count")),
            free_pages=int(_pragma(connection, "freelist_count")),
            journal=_pragma(connection, "journal_mode").lower(),
            encoding=_pragma(connection, "encoding"),
        )


def check_file(facts: FileFacts) -> Check:
    """Tell that the file can be read, and how large it is."""
    return passed("SQLite file", f"{facts.path}: {megabytes(facts.bytes)}, {facts.encoding}")


def check_journal(facts: FileFacts) -> Check:
    """Look at the journal mode: without WAL, readers and writers wait for each other."""
    name = "SQLite journal mode"
    if facts.journal == "wal":
        return passed(name, "WAL: readers and writers do not wait for each other")
    return warned(
        name,
        f"{facts.journal}: while the sync or a backup reads, the application's commits wait",
        "Let the application run PRAGMA journal_mode=WAL once, before dual-write; it is kept in the file.",
    )


def check_free_pages(facts: FileFacts) -> Check:
    """Look at the free pages: they are copied by every backup, and moved by none."""
    name, share = "SQLite free pages", facts.free_pages / max(facts.pages, 1)
    measured = f"{facts.free_pages:,} of {facts.pages:,} pages ({share:.0%})"
    if share < FREE_SHARE:
        return passed(name, measured)
    return warned(
        name,
        measured,
        "VACUUM before dual-write makes the file and its backups smaller. Not later: it may renumber rows.",
    )


def check_integrity(copy: Path, taken: str) -> Check:
    """Run SQLite's whole check, indexes included, on a copy of the file; `taken` says how the copy was got."""
    name = "SQLite integrity"
    with closing(open_read_only(copy, immutable=True)) as connection:
        connection.execute("PRAGMA cache_size = -32768")
        complaints = complaints_of(connection, "integrity_check", most=5)
    if not complaints:
        return passed(name, f"integrity_check found nothing ({taken})")
    said = f"integrity_check: {complaints[0]}"
    if all(_is_content(text) for text in complaints):
        return warned(name, said, "Such rows move if the target takes their values, and are kept aside otherwise.")
    return failed_check(name, said, "Recover the file first: the sqlite3 shell's `.recover`, or a backup.")


def check_foreign_keys(copy: Path) -> Check:
    """Count the rows of a copy whose foreign key has no parent."""
    name = "SQLite foreign keys"
    with closing(open_read_only(copy, immutable=True)) as connection:
        orphans = foreign_key_violations(connection)
    if not orphans:
        return passed(name, "every row has its parents")
    return warned(
        name,
        f"{orphans:,} rows without a parent",
        "They move; the foreign key then stays NOT VALID, and the move ends with exit code 3 unless pgferry.toml says "
        '`orphans = "not_valid"` for their table. Correct the rows: PRAGMA foreign_key_check lists them.',
    )


def _pragma(connection: sqlite3.Connection, name: str) -> str:
    return str(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_content(complaint: str) -> bool:
    # The values break a rule of their own table, and the file's structure is sound.
    return any(word in complaint for word in ("value in", "non-"))
