"""A key survives its way into the ledger and back, bit for bit."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.keys import decode_key, encode_key
from pgferry.model import UndecodableText

MEMBERS = st.one_of(
    st.none(),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec=None)),
    st.binary(),
    st.binary().map(UndecodableText),
)


def exact(value: object) -> tuple[type, object]:
    return type(value), value.hex() if isinstance(value, float) else value


@given(st.lists(MEMBERS).map(tuple))
def test_a_key_comes_back_with_every_type_and_bit(key):
    assert [exact(value) for value in decode_key(encode_key(key))] == [exact(value) for value in key]


@given(st.lists(MEMBERS).map(tuple))
def test_a_written_key_is_plain_ascii_without_nul(key):
    text = encode_key(key)
    assert text.isascii()
    assert "\x00" not in text
    assert json.loads(text) is not None


@given(st.lists(MEMBERS).map(tuple), st.lists(MEMBERS).map(tuple))
def test_different_keys_are_written_differently(one, other):
    same = [exact(value) for value in one] == [exact(value) for value in other]
    assert (encode_key(one) == encode_key(other)) is same


def test_the_form_is_readable():
    assert encode_key((42, "abc", None, 1.5, b"\x00\xff")) == '[42, "abc", null, {"real": "1.5"}, {"blob": "00ff"}]'


@pytest.mark.parametrize(("value", "written"), [(-0.0, "-0.0"), (math.inf, "inf"), (5e-324, "5e-324"), (1.0, "1.0")])
def test_reals_keep_their_sign_and_are_no_integers(value, written):
    assert encode_key((value,)) == f'[{{"real": "{written}"}}]'
    assert exact(decode_key(encode_key((value,)))[0]) == exact(value)


@pytest.mark.parametrize("value", [True, 1 + 2j, object(), [1]])
def test_what_sqlite_cannot_store_is_refused(value):
    with pytest.raises(TypeError):
        encode_key((value,))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "1", "[true]", "[1.5]", "[[1]]", '[{"real": 1}]', '[{"blob": "0"}]', '[{"blob": "", "real": "1"}]'],
)
def test_other_text_is_no_key(text):
    with pytest.raises(ValueError):
        decode_key(text)
