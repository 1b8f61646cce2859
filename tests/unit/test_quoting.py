"""Names and text as SQL; what the databases make of them is seen in the acceptance tests."""

from __future__ import annotations

import pytest

from pgferry.quoting import literal, qualified, quote, without_dollars


def test_quotes_are_doubled_and_nothing_else_changes() -> None:
    assert quote('a"b\\c\n;$1') == '"a""b\\c\n;$1"'
    assert qualified('s"', "t.x") == '"s"""."t.x"'
    assert literal("it's \\ $1") == "'it''s \\ $1'"


@pytest.mark.parametrize("make", [quote, literal])
def test_a_nul_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="NUL"):
        make("a\x00b")  # type: ignore[operator]


def test_dollars_of_names_and_texts_are_escaped_and_those_of_parameters_stay() -> None:
    sql = f"SELECT {quote('$1')}, {quote('a')} FROM {quote(chr(92) + 'x$$')} WHERE k = {literal('it' + chr(39) + '$2')}"
    assert without_dollars(f"{sql} AND v = $1") == (
        'SELECT U&"\\00241", "a" FROM U&"\\\\x\\0024\\0024" WHERE k = U&\'it\'\'\\00242\' AND v = $1'
    )
