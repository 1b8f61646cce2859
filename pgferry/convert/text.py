"""Text, bytes, enum labels and UUIDs."""

from __future__ import annotations

import re

from pgferry.convert.outcome import Rejected, empty, shown, type_name, unlike
from pgferry.model import ColumnRule, PgKind, PgType, UndecodableText

_UUID = re.compile(
    r"([0-9a-fA-F]{8})-([0-9a-fA-F]{4})-([0-9a-fA-F]{4})-([0-9a-fA-F]{4})-([0-9a-fA-F]{12})"
    r"|([0-9a-fA-F]{8})([0-9a-fA-F]{4})([0-9a-fA-F]{4})([0-9a-fA-F]{4})([0-9a-fA-F]{12})"
)
_LABELS_SHOWN = 8
_TEXT = PgType(PgKind.TEXT)

# ---------------------------------------------------------------- text


def text_from_text(value: str, type: PgType, rule: ColumnRule) -> str | Rejected:
    """Accept text without NUL, no longer than the type; char(n) is filled with blanks, as PostgreSQL returns it."""
    clean = without_nul(value, rule)
    if isinstance(clean, Rejected):
        return clean
    broken = surrogate(clean)
    return broken if broken is not None else _fit(clean, type)


def text_from_integer(value: int, type: PgType, rule: ColumnRule) -> str | Rejected:
    """Write an integer in decimal digits."""
    return _fit(str(value), type)


def text_from_real(value: float, type: PgType, rule: ColumnRule) -> str | Rejected:
    """Write a double in the shortest digits that read back as the same double; infinities in PostgreSQL's spelling."""
    return _fit(repr(value).replace("inf", "Infinity"), type)


def text_from_blob(value: bytes, type: PgType, rule: ColumnRule) -> str | Rejected:
    """Accept valid UTF-8 when the rule says that the column's BLOBs are text."""
    if not rule.blob_as_text:
        return Rejected(f"{shown(value)} in a text column; blob_as_text = true takes valid UTF-8 as text")
    try:
        return text_from_text(value.decode("utf-8"), type, rule)
    except UnicodeDecodeError as error:
        return Rejected(f"{shown(value)} that is not valid UTF-8 (at byte {error.start}), in a text column")


def reject_undecodable(value: UndecodableText, type: PgType, rule: ColumnRule) -> Rejected:
    """Reject text that is not valid in the file's encoding, quoting its bytes."""
    raw = value.raw[:20].hex(" ") + (" …" if len(value.raw) > 20 else "")
    return Rejected(f"text of {len(value.raw)} bytes that is not valid UTF-8: {raw}")


def without_nul(value: str, rule: ColumnRule) -> str | Rejected:
    """Answer for NUL characters, which PostgreSQL's text cannot hold."""
    at = value.find("\x00")
    if at < 0:
        return value
    if rule.on_nul == "strip":
        return value.replace("\x00", "")
    return Rejected(f'a NUL character at position {at + 1} of {shown(value)}; on_nul = "strip" takes it out')


def surrogate(value: str) -> Rejected | None:
    """Reject text with half of a surrogate pair, which UTF-8 cannot hold; None when there is none."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return Rejected(f"half of a surrogate pair at position {error.start + 1}: not valid UTF-8")
    return None


def _fit(text: str, type: PgType) -> str | Rejected:
    if type.length is None:
        return text
    if len(text) > type.length:
        return Rejected(f"text of {len(text)} characters in {type_name(type)}")
    return text.ljust(type.length) if type.kind is PgKind.CHAR else text


# ---------------------------------------------------------------- bytes


def bytes_from_blob(value: bytes, type: PgType, rule: ColumnRule) -> bytes:
    """Accept every BLOB."""
    return value


def bytes_from_text(value: str, type: PgType, rule: ColumnRule) -> bytes | Rejected:
    """Take the text's own bytes; nothing is decoded from it."""
    broken = surrogate(value)
    return value.encode("utf-8") if broken is None else broken


def bytes_from_number(value: float, type: PgType, rule: ColumnRule) -> bytes | Rejected:
    """Take the bytes of a number's digits (those of `text_from_real` for a double) when the rule says so."""
    if not rule.number_as_bytes:
        return unlike(value, type)
    digits = text_from_real(value, _TEXT, rule) if isinstance(value, float) else str(value)
    return digits if isinstance(digits, Rejected) else digits.encode()


def bytes_from_undecodable(value: UndecodableText, type: PgType, rule: ColumnRule) -> bytes:
    """Take the bytes as they are."""
    return value.raw


# ---------------------------------------------------------------- labels and UUIDs


def label_from_text(value: str, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept an enum's label, exact in case and blanks."""
    if value in type.labels:
        return value
    if not value:
        return empty(type, rule)
    return Rejected(f"{shown(value)} is no label of {type_name(type)} ({_labels(type)})")


def label_from_integer(value: int, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept a label that is a number."""
    return label_from_text(str(value), type, rule)


def _labels(type: PgType) -> str:
    more = f", … {len(type.labels)} in all" if len(type.labels) > _LABELS_SHOWN else ""
    return ", ".join(type.labels[:_LABELS_SHOWN]) + more


def uuid_from_text(value: str, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept 32 hexadecimal digits, with the usual dashes or none."""
    if not value:
        return empty(type, rule)
    match = _UUID.fullmatch(value)
    if match is None:
        return unlike(value, type)
    return "-".join(group for group in match.groups() if group is not None).lower()


def uuid_from_blob(value: bytes, type: PgType, rule: ColumnRule) -> str | Rejected:
    """Accept a BLOB of 16 bytes."""
    if len(value) != 16:
        return Rejected(f"{shown(value)} where uuid is expected (16 bytes)")
    digits = value.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def uuid_from_number(value: float, type: PgType, rule: ColumnRule) -> Rejected:
    """Reject: NUMERIC affinity has made a number of a UUID of digits, and its own digits are not known any more."""
    return Rejected(f"{shown(value)} is a number: a UUID of digits only was damaged by the column's NUMERIC affinity")
