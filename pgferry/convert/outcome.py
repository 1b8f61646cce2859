"""What a conversion answers when a value does not fit, and how reasons name values and types."""

from __future__ import annotations

from dataclasses import dataclass

from pgferry.model import ColumnRule, PgKind, PgType

_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Rejected:
    """A value that the target's type cannot hold as it is; `reason` is for the person who runs the move."""

    reason: str


def shown(value: object) -> str:
    """Return a value as reasons name it: quoted text, or the number; cut when it is long."""
    if isinstance(value, bytes):
        return f"a BLOB of {len(value)} bytes"
    text = value[: _SHOWN_CHARACTERS + 1] if isinstance(value, str) else str(value)
    cut = len(text) > _SHOWN_CHARACTERS
    text = text[:_SHOWN_CHARACTERS]
    quoted = repr(text) if isinstance(value, str) else text
    return f"{quoted}…" if cut else quoted


def type_name(type: PgType) -> str:
    """Return a type as reasons name it."""
    if type.kind is PgKind.ARRAY and type.element is not None:
        return f"{type_name(type.element)}[]"
    if type.kind is PgKind.ENUM:
        return type.name or "the enum"
    if type.kind is PgKind.UNSUPPORTED:
        return type.name or "a type that pgferry does not write"
    return _SHORT_NAMES.get(type.kind, type.kind.value) + _modifier(type)


_SHORT_NAMES = {
    PgKind.VARCHAR: "varchar",
    PgKind.CHAR: "char",
    PgKind.TIMESTAMP: "timestamp",
    PgKind.TIMESTAMPTZ: "timestamptz",
    PgKind.TIME: "time",
}


def _modifier(type: PgType) -> str:
    if type.length is not None:
        return f"({type.length})"
    if type.precision is None:
        return ""
    return f"({type.precision},{type.scale or 0})" if type.kind is PgKind.NUMERIC else f"({type.precision})"


def unlike(value: object, type: PgType) -> Rejected:
    """Reject a value that does not look like the type at all."""
    if isinstance(value, bytes):
        return Rejected(f"{shown(value)} where {type_name(type)} is expected")
    return Rejected(f"{shown(value)} is no {type_name(type)}")


def empty(type: PgType, rule: ColumnRule) -> Rejected | None:
    """Answer for an empty string in a column that is not text: NULL when the rule says so."""
    if rule.on_empty == "null":
        return None
    return Rejected(f"an empty text where {type_name(type)} is expected")
