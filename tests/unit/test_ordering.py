"""Digests of rows in order, of many streams in one, and of rows in any order."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.convert.wire import encode
from pgferry.model import PgKind, PgType
from pgferry.ordering import (
    COPY_HEADER,
    COPY_TRAILER,
    MultisetDigest,
    RowOrder,
    SplitDigests,
    StreamDigest,
    combined,
    ordered_batches,
)

TYPES = [PgType(PgKind.BIGINT), PgType(PgKind.TEXT)]


def _stream(rows: list[tuple[int, str]]) -> bytes:
    columns = [pa.array([row[0] for row in rows], pa.int64()), pa.array([row[1] for row in rows], pa.string())]
    batch = pa.record_batch(columns, names=["a", "b"])
    return b"".join(encode([batch], TYPES))


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[low:high] for low, high in pairwise(places)]


ROWS = st.lists(st.tuples(st.integers(0, 9), st.text("ab", max_size=3)), min_size=1, max_size=6)


@given(st.lists(ROWS, min_size=1, max_size=5), st.lists(st.integers(0, 500), max_size=8))
def test_one_stream_is_split_into_the_digests_of_its_parts(parts: list[list[tuple[int, str]]], cuts: list[int]) -> None:
    streams = [_stream(rows) for rows in parts]
    whole = _stream([row for rows in parts for row in rows])
    splitter = SplitDigests([len(stream) for stream in streams])
    for piece in _pieces(whole, cuts):
        splitter.take(piece)
    assert splitter.results() == [hashlib.sha256(stream).hexdigest() for stream in streams]


@pytest.mark.parametrize("change", ["short", "long"])
def test_a_stream_of_another_length_matches_nothing(change: str) -> None:
    rows = [(1, "a"), (2, "b")]
    other = rows[:1] if change == "short" else [*rows, (3, "c")]
    splitter = SplitDigests([len(_stream(rows))])
    splitter.take(_stream(other))
    assert splitter.results() == [""]


@given(ROWS, st.integers(0, 99))
def test_a_multiset_digest_knows_no_order_but_counts(rows: list[tuple[int, str]], seed: int) -> None:
    def digest(some: list[tuple[int, str]]) -> str:
        made = MultisetDigest()
        made.take(_stream(some))
        return made.result()

    shuffled = rows[:]
    random.Random(seed).shuffle(shuffled)
    assert digest(shuffled) == digest(rows)
    assert digest([*rows, rows[0]]) != digest(rows)
    half = len(rows) // 2
    if half:
        assert combined([digest(rows[:half]), digest(rows[half:])]) == digest(rows)


def test_a_stream_digest_is_that_of_the_bytes() -> None:
    digest = StreamDigest()
    for piece in (COPY_HEADER, COPY_TRAILER):
        digest.take(piece)
    assert digest.result() == hashlib.sha256(COPY_HEADER + COPY_TRAILER).hexdigest()
    assert digest.bytes == len(COPY_HEADER) + len(COPY_TRAILER)


def test_batches_are_sorted_only_where_their_order_is_not_there_already() -> None:
    batches = [pa.record_batch([pa.array([3, 1])], names=["a"]), pa.record_batch([pa.array([2])], names=["a"])]

    def values(order: RowOrder, *, sorted_already: bool) -> list[int]:
        made = ordered_batches(order, batches, sorted_already=sorted_already)
        return [value for batch in made for value in batch.column(0).to_pylist()]

    natural = RowOrder(("a",), '"a"', natural=True)
    assert values(natural, sorted_already=True) == [3, 1, 2]
    assert values(natural, sorted_already=False) == [1, 2, 3]
    assert values(RowOrder(("a",), '"a"'), sorted_already=True) == [1, 2, 3]
    assert values(RowOrder(), sorted_already=False) == [3, 1, 2]
