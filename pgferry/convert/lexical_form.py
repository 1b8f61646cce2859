"""The form in which an application writes a column in SQLite, so that values can go back in that form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pgferry.model import Affinity, ColumnRule, PgKind, PgType, SqliteValue, StorageClass

MINIMAL = -1
"""Six digits of a second's fraction, or none when it is zero: Python's isoformat()."""
TRIMMED = -2
"""As many digits of a second's fraction as it needs."""

_NO_RULE = ColumnRule()

MOMENTS = (PgKind.DATE, PgKind.TIME, PgKind.TIMESTAMP, PgKind.TIMESTAMPTZ)


@dataclass(frozen=True, slots=True)
class MomentForm:
    """How the text of a date, time or timestamp is written."""

    between: str = " "
    """What stands between date and time; empty when the date stands alone."""
    seconds: bool = True
    digits: int = 6
    """Digits of the second's fraction, `MINIMAL` or `TRIMMED`."""
    suffix: str = ""
    """The offset as it is written (`Z`, `+00:00`, ` UTC`, `+0530`); empty when there is none."""
    in_zone: bool = False
    """Whether the offset is the one that the rule's zone has at that moment, written like `suffix`."""


@dataclass(frozen=True, slots=True)
class JsonForm:
    """How JSON text is written. The defaults are those of Python's `json.dumps`."""

    comma: str = ", "
    colon: str = ": "
    ascii: bool = True
    """Whether other characters are escaped."""
    in_order: bool = False
    """Whether the keys of each object are sorted."""
    keys: tuple[str, ...] = ()
    """The order in which the application writes keys; others come after these. Empty when no order is known."""


@dataclass(frozen=True, slots=True)
class LexicalForm:
    """The form of a column in SQLite. The styles that each type knows stand beside its writer in `back`."""

    storage: StorageClass
    affinity: Affinity = Affinity.BLOB
    column: str = ""
    """The column's name, for messages."""
    only: StorageClass | None = None
    """The one storage class that the column takes: in a STRICT table, and where it is the rowid."""
    null: SqliteValue = None
    """What stands for NULL: an empty text or a zero date, where the rule reads that as NULL."""
    style: str = ""
    words: tuple[str, str] = ("false", "true")
    """The texts of a boolean."""
    moment: MomentForm = MomentForm()
    json: JsonForm = JsonForm()
    element: LexicalForm | None = None
    """The form of an array's elements within its JSON; their affinity is BLOB."""

    def to_json(self) -> dict[str, Any]:
        """Return the form as values that JSON holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LexicalForm:
        """Read what `to_json` returned, also after it went through JSON."""
        only, element, words = values["only"], values["element"], values["words"]
        return cls(
            storage=StorageClass(values["storage"]),
            affinity=Affinity(values["affinity"]),
            column=values["column"],
            only=None if only is None else StorageClass(only),
            null=values["null"],
            style=values["style"],
            words=(words[0], words[1]),
            moment=MomentForm(**values["moment"]),
            json=JsonForm(**{**values["json"], "keys": tuple(values["json"]["keys"])}),
            element=None if element is None else cls.from_json(element),
        )


def default_form(
    type: PgType,
    rule: ColumnRule = _NO_RULE,
    *,
    affinity: Affinity = Affinity.BLOB,
    declared: str = "",
    column: str = "",
    only: StorageClass | None = None,
) -> LexicalForm:
    """Return the form that SQLAlchemy writes for a type on SQLite (https://docs.sqlalchemy.org/dialects/sqlite.html).

    Where the rule names a unit of numbers, moments are such numbers unless the column's affinity is TEXT.
    """
    form = LexicalForm(only or _storage(type, rule, affinity, declared), affinity, column, only)
    if type.kind is PgKind.DATE:
        return replace(form, moment=MomentForm(between=""))
    if type.kind is PgKind.UUID:
        return replace(form, style="dashes" if "36" in declared else "hex")
    if type.kind is PgKind.INTERVAL:
        return replace(form, style="moment" if form.storage is StorageClass.TEXT else "number")
    if type.kind is PgKind.ARRAY and type.element is not None:
        return replace(form, element=default_form(type.element, declared="TEXT"))
    return replace(form, style=_STYLES.get(type.kind, ""))


_STYLES = {PgKind.REAL: "shortest", PgKind.NUMERIC: "fixed", PgKind.CHAR: "trimmed"}
_CLASSES = {
    PgKind.SMALLINT: StorageClass.INTEGER,
    PgKind.INTEGER: StorageClass.INTEGER,
    PgKind.BIGINT: StorageClass.INTEGER,
    PgKind.BOOLEAN: StorageClass.INTEGER,
    PgKind.REAL: StorageClass.REAL,
    PgKind.DOUBLE: StorageClass.REAL,
    PgKind.NUMERIC: StorageClass.REAL,
    PgKind.BYTEA: StorageClass.BLOB,
}


def _storage(type: PgType, rule: ColumnRule, affinity: Affinity, declared: str) -> StorageClass:
    if type.kind is PgKind.BYTEA and declared == "TEXT":
        return StorageClass.TEXT
    if type.kind is PgKind.UUID and affinity is Affinity.BLOB and ("BLOB" in declared.upper()):
        return StorageClass.BLOB
    if type.kind in (PgKind.DATE, PgKind.TIMESTAMP, PgKind.TIMESTAMPTZ, PgKind.INTERVAL):
        return _storage_of_moments(rule, affinity)
    storage = _CLASSES.get(type.kind, StorageClass.TEXT)
    if affinity is Affinity.TEXT and storage is not StorageClass.BLOB:
        return StorageClass.TEXT
    return storage


def _storage_of_moments(rule: ColumnRule, affinity: Affinity) -> StorageClass:
    if rule.epoch is None or affinity is Affinity.TEXT:
        return StorageClass.TEXT
    if rule.epoch == "julian" or affinity is Affinity.REAL:
        return StorageClass.REAL
    return StorageClass.INTEGER
