"""Numerics encoded a column at a time have the bytes of numerics encoded one by one."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pgferry.convert.numeric_wire import decode_numeric, encode_numeric, encode_numerics

_SHORT = st.builds(
    lambda unscaled, places: format(Decimal(f"{unscaled}E-{places}"), "f"),
    st.integers(-(10**15), 10**15) | st.integers(-100, 100) | st.sampled_from([10**power for power in range(16)]),
    st.integers(0, 16),
)
_LONG = st.builds(
    lambda unscaled, places: format(Decimal(f"{unscaled}E-{places}"), "f"), st.integers(), st.integers(0, 40)
)
_TEXTS = (_SHORT | _LONG).map(lambda text: text if Decimal(text) else text.lstrip("-"))


@settings(max_examples=300)
@given(st.lists(st.none() | _TEXTS, max_size=30))
def test_a_column_has_the_bytes_of_its_values(texts: list[str | None]) -> None:
    fields = encode_numerics(pa.array(["0", *texts], pa.string()).slice(1))
    assert fields.to_pylist() == [None if text is None else encode_numeric(Decimal(text)) for text in texts]


@given(_TEXTS)
def test_a_numeric_decodes_to_the_digits_that_went_in(text: str) -> None:
    assert format(decode_numeric(encode_numeric(Decimal(text))), "f") == text
