"""Record batches that are read at one moment and sent a little later: in memory while few, else in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import pyarrow as pa

IN_MEMORY = 64 * 1024 * 1024
"""Bytes of batches that stay in memory."""


class Spool:
    """An append-only list of record batches of one schema; `count` is its number of rows.

    It can be read as often as wanted, but not be added to once it was read. The file has no name and goes with it.
    """

    def __init__(self, schema: pa.Schema, in_memory: int = IN_MEMORY) -> None:
        self.schema = schema
        self.count = 0
        self._room = in_memory
        self._batches: list[pa.RecordBatch] = []
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Append a batch; an empty one is passed over."""
        if not batch.num_rows:
            return
        self.count += batch.num_rows
        self._batches.append(batch)
        self._room -= batch.nbytes
        if self._room < 0:
            self._spill()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches in the order in which they came."""
        if self._file is not None:
            self._spill()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._file.seek(0)
            with pa.ipc.open_stream(self._file) as reader:
                yield from reader
        else:
            yield from self._batches

    def close(self) -> None:
        """Let go of the file; the batches are gone."""
        if self._writer is not None:
            self._writer.close()
        if self._file is not None:
            self._file.close()
        self._batches, self._writer, self._file = [], None, None

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="pgferry-")  # noqa: SIM115  lives as long as the spool
            self._writer = pa.ipc.new_stream(self._file, self.schema)
        for batch in self._batches:
            assert self._writer is not None
            self._writer.write_batch(batch)
        self._batches = []
