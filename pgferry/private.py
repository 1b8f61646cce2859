"""Folders and files for their owner only, whatever the umask says: they hold the database's rows, or its passwords."""

from __future__ import annotations

import os
from pathlib import Path

OWNER_ONLY = 0o600


def make_folder(folder: Path) -> None:
    """Make a folder for its owner only, and those above it that are missing; one that is there stays as it is.

    Those above it get mode 0700, too, but root's 0711: nobody may list them, and the account that runs the embedded
    server for root gets to its own folder. Raises OSError.
    """
    above = 0o711 if hasattr(os, "geteuid") and os.geteuid() == 0 else 0o700
    # Not mkdir(parents=True): it makes those above by the umask, whatever mode it is given.
    missing = [each for each in folder.absolute().parents if not each.exists()]
    for each in reversed(missing):
        each.mkdir(above, exist_ok=True)
    folder.mkdir(0o700, exist_ok=True)


def opener(path: str, flags: int) -> int:
    """Open a file, made for its owner only where it is new; for `open(…, opener=opener)`."""
    return os.open(path, flags, OWNER_ONLY)


def write_text(path: Path, text: str) -> None:
    """Write a file, made for its owner only where it is new. Raises OSError."""
    with open(path, "w", encoding="utf-8", opener=opener) as file:
        file.write(text)
