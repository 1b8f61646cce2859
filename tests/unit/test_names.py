"""Names stay as they are where PostgreSQL takes them, and change the same way each time where it does not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.errors import UsageError
from pgferry.plan.names import LONGEST, SYSTEM_COLUMNS, Namespace, shorten
from pgferry.plan.plan import make_plan
from pgferry.settings import ColumnRules, Rules, TableRules

names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=90)


def test_ordinary_names_stay() -> None:
    space = Namespace()
    for name in ("Items", "items", "with space", 'quo"te', "n" * 63, "é" * 31, "oid"):
        assert space.take(name) == name


def test_long_names_are_cut_at_a_character() -> None:
    assert shorten("é" * 50) == "é" * 27 + "_" + shorten("é" * 50)[-8:]
    assert shorten("n" * 99 + "a") != shorten("n" * 99 + "b")
    assert shorten("n" * 99) == shorten("n" * 99)


def test_system_columns() -> None:
    assert Namespace(SYSTEM_COLUMNS).take_all(["xmin", "xmin_", "Xmin", "oid"]) == {
        "xmin": Namespace(SYSTEM_COLUMNS).take_all(["xmin", "xmin_"])["xmin"],
        "xmin_": "xmin_",
        "Xmin": "Xmin",
        "oid": "oid",
    }
    assert Namespace(SYSTEM_COLUMNS).take("ctid") == "ctid_"


def test_a_name_that_can_stay_never_gives_way() -> None:
    long = "n" * 70
    assert Namespace().take_all([long, shorten(long)])[shorten(long)] == shorten(long)


@given(st.lists(names, unique=True, max_size=8))
def test_names_fit_and_differ(wanted: list[str]) -> None:
    taken = Namespace(SYSTEM_COLUMNS).take_all(wanted)
    assert list(taken) == wanted
    assert len(set(taken.values())) == len(wanted)
    assert all(0 < len(name.encode()) <= LONGEST and name not in SYSTEM_COLUMNS for name in taken.values())
    assert taken == Namespace(SYSTEM_COLUMNS).take_all(wanted)


@given(names)
def test_shortened_names_keep_their_start(name: str) -> None:
    short = shorten(name)
    assert len(short.encode()) <= LONGEST
    assert name.startswith(short[:-9])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"a": TableRules(rename="shop.items")}, "'a' is renamed to 'shop.items'"),
        ({"a": TableRules(rename="c"), "b": TableRules(rename="c")}, "'a' and 'b' would all be named 'c'"),
        ({"a": TableRules(rename="b")}, "'a' and 'b' would all be named 'b'"),
        ({"a": TableRules(columns={"x": ColumnRules(rename="y")})}, "Columns of 'a', 'x' and 'y'"),
    ],
)
def test_new_names_that_plan_cannot_give(tmp_path: Path, rules: dict[str, TableRules], words: str) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.executescript('CREATE TABLE a (x, y); CREATE TABLE b (x); CREATE TABLE "dot.ted" (x);')
    assert make_plan(tmp_path / "a.db").table("dot.ted").name == "dot.ted"
    with pytest.raises(UsageError) as raised:
        make_plan(tmp_path / "a.db", Rules(tables=rules))
    assert words in str(raised.value)
