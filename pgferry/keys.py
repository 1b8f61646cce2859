"""A row's key as one line of JSON, and back, without losing a bit.

Integers, text and NULL are written as JSON writes them (`[42]`, `["abc"]`, `[null]`). What JSON cannot say exactly is
an object with one member: `{"real": "-0.0"}` (Python's shortest exact form), `{"blob": "00ff"}` and, for text whose
bytes do not decode, `{"text": "ff"}`, both in hexadecimal. The line is plain ASCII and holds no NUL character, so
every PostgreSQL text column takes it, whatever the database's encoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256

from pgferry.model import Key, SqliteValue, UndecodableText


def encode_key(key: Key) -> str:
    """Return the key as one line of JSON, equal for equal keys. Raises TypeError for what SQLite cannot store."""
    return json.dumps([_encode(value) for value in key])


def decode_key(text: str) -> Key:
    """Return the key that `encode_key` wrote. Raises ValueError for any other text."""
    members = json.loads(text)
    if not isinstance(members, list):
        raise ValueError(f"{text!r} is no key: it must be a JSON array")  # noqa: TRY004
    return tuple(_decode(member) for member in members)


def key_digests(texts: Iterable[str]) -> list[bytes]:
    """Return, for keys that `encode_key` wrote, 16 bytes each that stand for them in an index."""
    # An index of PostgreSQL takes no value of more than 2.7 kB, and a key written as JSON can be six times as long.
    return [sha256(text.encode("ascii")).digest()[:16] for text in texts]


def _encode(value: object) -> object:
    if isinstance(value, bool):
        raise TypeError("SQLite has no boolean: a key holds 0 or 1")
    if isinstance(value, float):
        return {"real": repr(value)}
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, UndecodableText):
        return {"text": value.raw.hex()}
    if value is None or isinstance(value, int | str):
        return value
    raise TypeError(f"a key cannot hold a {type(value).__name__}")


def _decode(member: object) -> SqliteValue:
    match member:
        case bool() | float():
            raise ValueError(f"{member!r} is no member of a key")
        case None | int() | str():
            return member
        case {"real": str(text), **others} if not others:
            return float(text)
        case {"blob": str(text), **others} if not others:
            return bytes.fromhex(text)
        case {"text": str(text), **others} if not others:
            # A key that could not be decoded still addresses its row; `Key` names only the five storage classes.
            return UndecodableText(bytes.fromhex(text))  # type: ignore[return-value]
    raise ValueError(f"{member!r} is no member of a key")
