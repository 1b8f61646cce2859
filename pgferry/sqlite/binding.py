"""Binds the members of a key to a statement; text that does not decode is the one value that no driver binds."""

from __future__ import annotations

from pgferry.model import Key, SqliteValue, UndecodableText


def marks(key: Key) -> list[str]:
    """Return what stands for each member in SQL: `?`, or an expression for text that does not decode."""
    return [_text(member.raw) if isinstance(member, UndecodableText) else "?" for member in key]


def bound(key: Key) -> tuple[SqliteValue, ...]:
    """Return the values for the `?` of `marks`."""
    return tuple(member for member in key if not isinstance(member, UndecodableText))


def _text(raw: bytes) -> str:
    """Return text of these bytes as SQL, whichever encoding the file has.

    The plus takes the affinity away that CAST gives: with it, the numbers of the other side would be compared as text.
    """
    wide = _surrogates(raw)
    if wide is None:
        return f"+CAST(x'{raw.hex()}' AS TEXT)"
    cases = f"WHEN 'UTF-16le' THEN x'{wide[0].hex()}' WHEN 'UTF-16be' THEN x'{wide[1].hex()}' ELSE x'{raw.hex()}'"
    return f"+CAST(CASE (SELECT encoding FROM pragma_encoding) {cases} END AS TEXT)"


def _surrogates(raw: bytes) -> tuple[bytes, bytes] | None:
    """Return the bytes in UTF-16, little and big end first: SQLite hands half of a surrogate pair out as if UTF-8."""
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return text.encode("utf-16-le", "surrogatepass"), text.encode("utf-16-be", "surrogatepass")
