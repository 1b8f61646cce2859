"""Text, bytes, labels, UUIDs, JSON and arrays: kept character by character, or rejected with the reason."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.convert.elements import parse_array, render_array
from pgferry.convert.jsonb import canonical_jsonb, comparable_json
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType, UndecodableText

RULE = ColumnRule()
STRIP = ColumnRule(on_nul="strip")
AS_TEXT = ColumnRule(blob_as_text=True)
TEXT, BYTEA, UUID = PgType(PgKind.TEXT), PgType(PgKind.BYTEA), PgType(PgKind.UUID)
JSON, JSONB = PgType(PgKind.JSON), PgType(PgKind.JSONB)
COLOUR = PgType(PgKind.ENUM, labels=("red", "dark green"), name="colour")
ANY_TEXT = st.text(st.characters(exclude_categories=[]))
HELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


def reason(value: Any, type: PgType, rule: ColumnRule = RULE) -> str:
    answer = convert(value, type, rule)
    assert isinstance(answer, Rejected), f"{value!r} became {answer!r}"
    return answer.reason


def array_of(kind: PgKind, **more: Any) -> PgType:
    return PgType(PgKind.ARRAY, element=PgType(kind, **more))


# ---------------------------------------------------------------- text


@given(ANY_TEXT)
def test_text_is_kept_unless_postgresql_cannot_hold_it(text: str) -> None:
    answer = convert(text, TEXT, RULE)
    if isinstance(answer, Rejected):
        assert "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text)
    else:
        assert answer == text


@given(HELD, st.integers(1, 12))
def test_length_counts_characters(text: str, length: int) -> None:
    varchar = convert(text, PgType(PgKind.VARCHAR, length=length), RULE)
    char = convert(text, PgType(PgKind.CHAR, length=length), RULE)
    if len(text) > length:
        assert varchar == Rejected(f"text of {len(text)} characters in varchar({length})")
        assert char == Rejected(f"text of {len(text)} characters in char({length})")
    else:
        assert varchar == text
        assert char == text + " " * (length - len(text))


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False))
def test_a_number_in_text_reads_back_as_itself(value: float) -> None:
    text = convert(value, TEXT, RULE)
    assert isinstance(text, str)
    assert repr(type(value)(text)) == repr(value)


@given(st.binary())
def test_a_blob_is_text_only_by_rule_and_as_valid_utf_8(raw: bytes) -> None:
    assert "blob_as_text" in reason(raw, TEXT)
    answer = convert(raw, TEXT, AS_TEXT)
    if isinstance(answer, str):
        assert answer.encode() == raw
    else:
        assert "not valid UTF-8" in reason(raw, TEXT, AS_TEXT) or b"\x00" in raw


@given(HELD, HELD)
def test_strip_takes_nul_out_and_nothing_else(before: str, after: str) -> None:
    assert convert(f"{before}\x00{after}\x00", TEXT, STRIP) == before + after
    assert "NUL" in reason(f"{before}\x00{after}", TEXT)


def test_text_reasons() -> None:
    assert reason("ab\x00c", TEXT).startswith("a NUL character at position 3 of 'ab\\x00c'")
    assert reason(UndecodableText(b"caf\xe9"), TEXT) == "text of 4 bytes that is not valid UTF-8: 63 61 66 e9"
    assert "surrogate" in reason("a\ud800", TEXT)
    assert convert(float("inf"), TEXT, RULE) == "Infinity"
    assert len(reason("x" * 1000, PgType(PgKind.INTEGER))) < 80


@pytest.mark.parametrize("kind", [kind for kind in PgKind if kind is not PgKind.BYTEA])
def test_undecodable_text_is_rejected_by_every_type_but_bytea(kind: PgKind) -> None:
    assert "not valid UTF-8" in reason(UndecodableText(b"\xff"), PgType(kind))
    assert convert(None, PgType(kind), RULE) is None


# ---------------------------------------------------------------- bytes, labels, UUIDs


@given(st.binary())
def test_bytes_are_kept(raw: bytes) -> None:
    assert convert(raw, BYTEA, RULE) == raw
    assert convert(UndecodableText(raw), BYTEA, RULE) == raw


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_in_bytea_is_its_own_bytes(text: str) -> None:
    assert convert(text, BYTEA, RULE) == text.encode()


def test_numbers_are_no_bytes() -> None:
    assert reason(5, BYTEA) == "5 is no bytea"
    assert reason(5.5, BYTEA) == "5.5 is no bytea"


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_the_bytes_of_their_digits_by_rule(value: float) -> None:
    written = convert(value, BYTEA, ColumnRule(number_as_bytes=True))
    assert isinstance(written, bytes)
    assert repr(type(value)(written.decode())) == repr(value)


def test_a_label_is_exact() -> None:
    assert convert("dark green", COLOUR, RULE) == "dark green"
    assert reason("Red", COLOUR) == "'Red' is no label of colour (red, dark green)"
    assert "empty" in reason("", COLOUR)
    assert convert("", COLOUR, ColumnRule(on_empty="null")) is None
    assert convert("", PgType(PgKind.ENUM, labels=("",)), ColumnRule(on_empty="null")) == ""
    assert convert(7, PgType(PgKind.ENUM, labels=("7",)), RULE) == "7"
    assert "20 in all" in reason("x", PgType(PgKind.ENUM, labels=tuple(map(str, range(20)))))


@given(st.uuids())
def test_a_uuid_in_any_of_its_forms_is_the_dashed_one(value: uuid.UUID) -> None:
    for form in (str(value), value.hex, str(value).upper(), value.bytes):
        assert convert(form, UUID, RULE) == str(value)


@given(st.text("0123456789abcdefABCDEF-{}", max_size=40) | st.binary(max_size=20))
def test_no_other_text_is_a_uuid(value: Any) -> None:
    answer = convert(value, UUID, ColumnRule())
    if isinstance(answer, str):
        assert uuid.UUID(answer) == (uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value))
        assert len(value) in (16, 32, 36)


def test_a_damaged_uuid_is_never_guessed() -> None:
    assert "NUMERIC affinity" in reason(1.2345678901234568e31, UUID)
    assert "NUMERIC affinity" in reason(123, UUID)
    for text in (
        "{6f9619ff-8b86-d011-b42d-00c04fc964ff}",
        "urn:uuid:6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "x" * 32,
        "6f9619ff8b86-d011-b42d-00c04fc964ff-",
    ):
        assert reason(text, UUID).endswith("is no uuid")


# ---------------------------------------------------------------- JSON

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | HELD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HELD, inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("type", [JSON, JSONB], ids=lambda type: type.kind.value)
@given(document=DOCUMENTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_text_is_kept_as_it_is(type: PgType, document: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert convert(text, type, RULE) == text
    assert comparable_json(canonical_jsonb(text)) == comparable_json(text)


@given(st.text('{}[]",:0123456789.eE+-ntf \\u', max_size=12))
def test_no_other_text_is_json(text: str) -> None:
    answer = convert(text, JSON, RULE)
    if isinstance(answer, str):
        json.loads(text, parse_constant=pytest.fail)
    elif text:
        with pytest.raises(ValueError, match=r"."):
            json.loads(text)


def test_what_jsonb_cannot_hold() -> None:
    assert convert(r'{"a":"\u0000"}', JSON, RULE) == r'{"a":"\u0000"}'
    assert r"\u0000 in JSON" in reason(r'{"a":"\u0000"}', JSONB)
    assert r"\u0000 in JSON" in reason(r'{"\u0000":1}', JSONB)
    assert convert(r'["x\u0000y","\\u0000","\\\u0000"]', JSONB, STRIP) == r'["xy","\\u0000","\\"]'
    assert "surrogate" in reason(r'["\ud800"]', JSONB)
    assert convert(r'["\ud83d\ude00"]', JSONB, RULE) == r'["\ud83d\ude00"]'
    assert "1e999999 is larger than jsonb holds" in reason("[1e999999]", JSONB)
    assert convert("[1e999999]", JSON, RULE) == "[1e999999]"


def test_json_forms() -> None:
    assert convert(5, JSON, RULE) == "5"
    assert convert(1.5, JSONB, RULE) == "1.5"
    assert "is no JSON" in reason(float("inf"), JSON)
    assert "is no JSON" in reason('{"a": NaN}', JSON)
    assert "is no JSON at character 5" in reason("[1, 'a']", JSON)
    assert "empty" in reason("", JSON)
    assert convert("", JSON, ColumnRule(on_empty="null")) is None
    assert "BLOB" in reason(b'{"a":1}', JSON)
    assert convert(b'{"a":1}', JSON, AS_TEXT) == '{"a":1}'
    assert "no JSON text" in reason(b"\xff", JSON, AS_TEXT)
    assert "NUL" in reason('{"a":1}\x00', JSON)
    assert convert('{"a":1}\x00', JSON, STRIP) == '{"a":1}'
    assert convert('{"a":1,"a":2}', JSON, RULE) == '{"a":1,"a":2}'
    for deep in ("[" * 301 + "]" * 301, "[" * 100_000, '{"a":' * 100_000):
        assert "levels deep" in reason(deep, JSON)
    assert convert('"' + "[" * 1000 + '"', JSON, RULE) == '"' + "[" * 1000 + '"'


def test_the_canonical_form_of_jsonb() -> None:
    text = '{"bb":1.50,"a":[1e2,-0,-0.00,1E-3,true,null],"é":"\\u00e9\\/\\u001f\\u007f","ab":{},"a":2}'
    assert canonical_jsonb(text) == '{"a": 2, "ab": {}, "bb": 1.50, "é": "é/\\u001f\x7f"}'
    assert canonical_jsonb("[1e2,-0,-0.00,1E-3,true,null]") == "[100, 0, 0.00, 0.001, true, null]"


# ---------------------------------------------------------------- arrays


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)))
def test_an_array_of_integers(items: list[int | None]) -> None:
    text = convert(json.dumps(items), array_of(PgKind.INTEGER), RULE)
    assert isinstance(text, str)
    assert parse_array(text, PgType(PgKind.INTEGER)) == items


@given(st.lists(st.none() | HELD))
def test_an_array_of_texts(items: list[str | None]) -> None:
    text = convert(json.dumps(items), array_of(PgKind.TEXT), RULE)
    assert isinstance(text, str)
    assert parse_array(text, PgType(PgKind.TEXT)) == items


@given(st.lists(st.decimals(-(10**30), 10**30, places=5)))
def test_an_array_of_numerics_keeps_its_digits(items: list[Decimal]) -> None:
    source = "[" + ",".join(format(item, "f") for item in items) + "]"
    text = convert(source, array_of(PgKind.NUMERIC), RULE)
    assert isinstance(text, str)
    assert parse_array(text, PgType(PgKind.NUMERIC)) == items


@given(st.lists(st.floats(allow_nan=False) | st.none()))
def test_rendered_floats_parse_to_the_same_bits(items: list[float | None]) -> None:
    assert repr(parse_array(render_array(items), PgType(PgKind.DOUBLE))) == repr(items)


def test_array_forms() -> None:
    integers = array_of(PgKind.INTEGER)
    assert convert('[1, 2.0, null, "3"]', integers, RULE) == "[1,2,null,3]"
    assert reason("[1, 2.5]", integers) == "element 2: 2.5 is no whole number, for integer"
    assert reason("[1, [2]]", integers) == "element 2: a nested array"
    assert reason("[{}]", integers) == "element 1: a nested object"
    assert reason("[true]", integers) == "element 1: true is no integer"
    assert reason("{1,2}", integers) == "'{1,2}' is no JSON array, for integer[]"
    assert reason('{"a":1}', integers) == "'{\"a\":1}' is no JSON array, for integer[]"
    assert "is no integer[]" in reason(5, integers)
    assert "does not fit" in reason("[99999999999999999999999]", array_of(PgKind.BIGINT))
    assert convert("[true, 0]", array_of(PgKind.BOOLEAN), RULE) == "[true,false]"
    assert convert('[{"b": 1, "a": [1e2]}, null]', array_of(PgKind.JSONB), RULE) == r'["{\"a\": [100], \"b\": 1}",null]'
    assert convert("[1e99999999]", array_of(PgKind.JSON), RULE) == '["1e99999999"]'
    assert "element 1" in reason("[1e99999999]", array_of(PgKind.JSONB))
    assert "is no JSON array" in reason("[" * 100_000, array_of(PgKind.JSONB))
    assert "not known" in reason("[1]", PgType(PgKind.ARRAY))


def test_an_unsupported_type_takes_nothing() -> None:
    for value in (1, 1.5, "x", b"x"):
        assert reason(value, PgType(PgKind.UNSUPPORTED, name="tsvector")) == "pgferry does not write the type tsvector"
