"""Passwords of new roles: made here, sent to the server only as SCRAM verifiers, kept in one file of mode 600."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pgferry.errors import Permanent, UsageError
from pgferry.live.env_file import read_variable
from pgferry.private import make_folder

ITERATIONS = 4096
"""The server's own default (scram_iterations)."""

_PRIVATE = 0o600
_HEADER = "# Written by `python -m flows provision`. It holds passwords."


def new_password() -> str:
    """Return a password of 32 characters that mean nothing in a URL, in a shell or in an .env file."""
    return secrets.token_urlsafe(24)


def verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password (RFC 5803), so that its log never sees the password itself.

    Raises UsageError for a password that is not ASCII: what is to be kept of it depends on a normalisation.
    """
    if not password.isascii() or not password.isprintable() or not password:
        raise UsageError("A given password has characters other than printable ASCII.", "Give another, or none.")
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(_keyed(salted, b"Client Key")).digest()
    keys = f"{_text(stored)}:{_text(_keyed(salted, b'Server Key'))}"
    return f"SCRAM-SHA-256${ITERATIONS}:{_text(salt)}${keys}"


def kept_url(path: Path, name: str) -> URL | None:
    """Return the database URL that a file made by `keep` has under a name; None when it has none."""
    text = read_variable(path, name) if path.exists() else None
    if not text:
        return None
    try:
        return make_url(text)
    except ArgumentError as error:
        raise UsageError(f"{name} in {path} is no database URL.", "Remove the file, or name another.") from error


def keep(path: Path, urls: Mapping[str, URL]) -> bool:
    """Write the URLs, passwords and all, as lines of an .env file that only this account may read.

    Atomic, and on disk when it returns. Returns whether there was anything to write. Raises UsageError for a file
    with other lines, Permanent when the file cannot be written.
    """
    lines = [f"{name}={url.render_as_string(hide_password=False)}" for name, url in urls.items()]
    text = "\n".join([_HEADER, *lines, ""])
    try:
        before = path.read_text("utf-8") if path.exists() else _HEADER
        if before == text and path.stat().st_mode & 0o777 == _PRIVATE:
            return False
        if not before.startswith(_HEADER):
            raise UsageError(f"{path} holds other lines, which would be lost.", "Name a file of its own.")
        _replace(path, text)
    except OSError as error:
        raise Permanent(f"{path} cannot be written: {error.strerror or error}.", "Name another file.") from error
    return True


def _replace(path: Path, text: str) -> None:
    make_folder(path.parent)
    handle, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mkstemp makes it with mode 600.
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _keyed(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
