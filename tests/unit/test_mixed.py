"""A column of mixed classes is converted as its values are one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.convert.arrow import from_values
from pgferry.convert.mixed import convert_values
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType, UndecodableText

TYPES = [
    PgType(PgKind.SMALLINT), PgType(PgKind.BIGINT), PgType(PgKind.DOUBLE), PgType(PgKind.NUMERIC),
    PgType(PgKind.NUMERIC, precision=6, scale=2), PgType(PgKind.BOOLEAN), PgType(PgKind.TEXT),
    PgType(PgKind.VARCHAR, length=3), PgType(PgKind.BYTEA), PgType(PgKind.DATE), PgType(PgKind.TIME),
    PgType(PgKind.TIMESTAMP), PgType(PgKind.TIMESTAMPTZ), PgType(PgKind.UUID), PgType(PgKind.JSONB),
    PgType(PgKind.ENUM, labels=("a", "b")),
]  # fmt: skip
RULES = [ColumnRule(), ColumnRule(on_empty="null", on_nul="strip", epoch="s", blob_as_text=True)]

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 1_700_000_000]),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["", "1", "-2.50", "true", "a", "2024-01-02", "2024-01-02 03:04:05", "[1]", "\x00", "12:00:00"]),
    st.binary(max_size=20),
    st.uuids().map(lambda value: value.bytes),
    st.uuids().map(str),
    st.just(UndecodableText(b"\xff")),
)


@pytest.mark.parametrize("rule", RULES, ids=["plain", "lenient"])
@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.kind.name)
@given(values=st.lists(VALUES, max_size=12))
def test_a_mixed_column_answers_as_its_values(type_: PgType, rule: ColumnRule, values: list[Any]) -> None:
    array, wrong = convert_values(values, type_, rule)
    answers = [convert(value, type_, rule) for value in values]
    rejected = [isinstance(answer, Rejected) for answer in answers]
    assert ([False] * len(values) if wrong is None else wrong.to_pylist()) == rejected
    fitting = [None if isinstance(answer, Rejected) else answer for answer in answers]
    expected = from_values(fitting, type_)
    assert array.type == expected.type
    assert repr(array.to_pylist()) == repr(expected.to_pylist())
