"""The values of the move without downtime: what is captured, what is carried how, where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pgferry.model import ColumnPair, Key, TablePair

HIDDEN = "_pgferry_rowid"
"""The hidden target column that carries the rowid of a table without a usable key, until cleanup."""


class Phase(StrEnum):
    """Where a move without downtime stands; see `phases` for what leads where."""

    NONE = "none"
    LOADING = "loading"
    """Capture is being installed and the first copy made; SQLite is in front."""
    DUAL_WRITE = "dual-write"
    """SQLite is in front, PostgreSQL is kept level."""
    SWITCHING = "switching"
    """Writes to SQLite are fenced; nothing is decided yet."""
    SWITCHED = "switched"
    """PostgreSQL is in front, SQLite is kept level."""
    ROLLING_BACK = "rolling-back"
    """Writes to PostgreSQL are fenced; nothing is decided yet."""
    EMERGENCY = "emergency"
    """SQLite is in front again, and PostgreSQL may hold writes that were not carried back."""
    CLEANED = "cleaned"
    """PostgreSQL is in front for good; nothing of pgferry is left but its record and the fence of the SQLite file."""


class Direction(StrEnum):
    """Which way changes are carried."""

    FORWARD = "SQLite to PostgreSQL"
    REVERSE = "PostgreSQL to SQLite"


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A table of the SQLite file with capture triggers.

    What the outbox records of a touched row: the rowid (NULL for a WITHOUT ROWID table) and the values of `key`.
    """

    number: int
    """Its number in the outbox."""
    name: str
    rowid: str | None
    """The name by which the rowid is read; None for a WITHOUT ROWID table."""
    key: tuple[str, ...]
    """The primary key's columns in key order; empty when the key is the rowid, or there is none."""
    fingerprint: str
    """A digest of the table's SQL and of its unique indexes: when it changes, the table must be looked at again."""
    stable: bool = True
    """Whether VACUUM keeps its rows' addresses: False only where the rowid is no column and there is no other key."""


@dataclass(frozen=True, slots=True)
class Capture:
    """The capture that is installed in a SQLite file."""

    token: str
    """A random name; the ledger has the same, so that another file is not taken for this one."""
    tables: tuple[CapturedTable, ...]
    schema_version: int
    """`PRAGMA schema_version` when the fingerprints were taken."""

    def table(self, name: str) -> CapturedTable:
        """Return the captured table of that exact name; raises KeyError."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(name)


class ChangeKind(StrEnum):
    """What happened to a captured file besides writes to its rows."""

    ALTERED = "altered"
    DROPPED = "dropped"
    NEW = "new"
    UNCAPTURED = "lost its capture triggers"
    RENUMBERED = "renumbered by VACUUM"
    REPLACED = "replaced by another file"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a captured file that stops the sync. `table` is empty when the whole file is concerned."""

    kind: ChangeKind
    table: str
    detail: str
    lost: bool = False
    """Whether it is the captured file after all, but without writes that were carried: tables can be copied again."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A row that was written: its rowid, None in a WITHOUT ROWID table, and the values of its declared key."""

    rowid: int | None
    key: Key


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table that is kept level: how its rows pair, and which columns find a row again on both sides."""

    pair: TablePair
    """Its columns include the hidden one where there is one."""
    key: tuple[ColumnPair, ...]
    """The columns of the target's key, in key order; the only one is the hidden column where `hidden`."""
    captured: CapturedTable
    hidden: bool = False

    @property
    def name(self) -> str:
        """The source table's name."""
        return self.pair.source.name

    @property
    def by_rowid(self) -> bool:
        """Whether a touched row is found in the target by its rowid, not by its declared key."""
        return not self.captured.key or self.hidden


@dataclass(frozen=True, slots=True)
class Live:
    """Everything that a step of the live move needs to know; holds no secret and can be pickled."""

    run_id: int
    source: str
    """The live SQLite file."""
    target: str
    """The name of the setting that holds the target's URL."""
    tables: tuple[LiveTable, ...]
    capture: Capture
    sequences: Mapping[str, int]
    accepted: frozenset[str]
    """Tables whose quarantined rows are accepted by configuration."""
    excluded: frozenset[str] = frozenset()
    """Tables that stay behind by configuration."""

    def table(self, name: str) -> LiveTable:
        """Return the table of that exact source name; raises KeyError."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Position:
    """How far PostgreSQL is level with SQLite; commits with the rows that it speaks of."""

    run_id: int
    outbox_id: int
    """The last entry of SQLite's outbox that is applied."""
    moment: datetime
    """The moment of which both sides are equal, as far as this direction has carried."""
    mark: str | None = None
    """What that entry is, as `outbox.mark_of` tells it; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What one cycle of the sync carried. `rows` were written, `deleted` are touched rows that exist no more."""

    direction: Direction
    rows: int
    deleted: int
    quarantined: int
    position: int
    moment: datetime
    seconds: float
    tables: Mapping[str, int]
    """Table -> rows written or deleted."""

    @property
    def idle(self) -> bool:
        """Whether there was nothing to carry."""
        return not self.tables


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """A validation as the ledger has it. `id` is 0 until it is recorded."""

    direction: Direction
    level: str
    """`counts`, `sample` or `cells`."""
    started_at: datetime
    finished_at: datetime
    moment: datetime
    """The moment at which both sides were held."""
    passed: bool
    tables: int
    rows: int
    cells: int
    differences: int
    seconds: float
    orphans: int = 0
    quarantined: int = 0
    sample_percent: float | None = None
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON: the verdicts of the tables and the first differences."""
    id: int = 0


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """A phase as the ledger has it."""

    phase: Phase
    since: datetime
    reason: str = ""
    details: Mapping[str, object] | None = None
