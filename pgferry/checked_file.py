"""A local file that is read as it was when its checksum was taken, without being held in memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

BLOCK = 1 << 20
"""Bytes that are checked at once."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What a file held: the state of its SHA-256 at the start of each block and at the end."""

    states: tuple[Any, ...]
    size: int

    @property
    def sha256(self) -> str:
        """The checksum of the whole file."""
        return str(self.states[-1].hexdigest())

    def holds(self, number: int, block: bytes) -> bool:
        """Say whether the block of this number is what was hashed."""
        state = self.states[number].copy()
        state.update(block)
        return bool(state.digest() == self.states[number + 1].digest())


def marks_of(file: IO[bytes]) -> Marks:
    """Hash a file from where it stands to its end."""
    state, size = hashlib.sha256(), 0
    states = [state.copy()]
    while block := file.read(BLOCK):
        state.update(block)
        size += len(block)
        states.append(state.copy())
    return Marks(tuple(states), size)


class CheckedFile(io.RawIOBase):
    """Reads a file of which marks were taken; what is not what was hashed then raises what `altered` returns.

    A file may be changed in place after it was hashed, also by who holds it open: so the same bytes that are given out
    are hashed again, a block at a time, and one block is kept. Owns the file.
    """

    def __init__(self, file: IO[bytes], marks: Marks, altered: Callable[[], Exception]) -> None:
        self._file, self._marks, self._altered = file, marks, altered
        self._place = 0
        self._number, self._block = -1, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; the end is that of the file as it was hashed."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._marks.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def read(self, size: int | None = -1, /) -> bytes:
        """Return this many bytes, fewer at the end only."""
        rest = max(0, self._marks.size - self._place)
        wanted = rest if size is None or size < 0 else min(size, rest)
        pieces = []
        while wanted:
            number, start = divmod(self._place, BLOCK)
            piece = self._checked(number)[start : start + wanted]
            pieces.append(piece)
            self._place += len(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()

    def _checked(self, number: int) -> bytes:
        if number != self._number:
            self._file.seek(number * BLOCK)
            block = self._file.read(min(BLOCK, self._marks.size - number * BLOCK))
            if not self._marks.holds(number, block):
                raise self._altered()
            self._number, self._block = number, block
        return self._block
