"""Tables and columns find their partners, or what is missing is named before a row moves."""

from __future__ import annotations

import pytest

from pgferry.errors import UsageError
from pgferry.model import (
    Affinity,
    PgKind,
    PgType,
    SourceCatalog,
    SourceColumn,
    SourceTable,
    TargetColumn,
    TargetTable,
)
from pgferry.pairing import pair_tables
from pgferry.settings import Rules

TEXT = PgType(PgKind.TEXT, name="text")


def _source(name: str, *columns: str, generated: tuple[str, ...] = ()) -> SourceTable:
    made = tuple(
        SourceColumn(column, "TEXT", Affinity.TEXT, generated="virtual" if column in generated else None)
        for column in columns
    )
    return SourceTable(name, made, "")


def _target(name: str, *columns: TargetColumn | str, schema: str = "public") -> TargetTable:
    made = tuple(TargetColumn(column, TEXT) if isinstance(column, str) else column for column in columns)
    return TargetTable(schema, name, 1, made)


def _problems(source: list[SourceTable], target: list[TargetTable], rules: dict[str, object] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        pair_tables(SourceCatalog(tuple(source)), target, Rules.model_validate({"tables": rules or {}}))
    return str(caught.value)


def test_names_pair_exactly_before_they_pair_by_letter_case() -> None:
    source = SourceCatalog((_source("Items", "Name", "id"),))
    targets = [_target("items", "name", "id"), _target("Items", "NAME", "Name", "id")]
    (pair,) = pair_tables(source, targets, Rules()).pairs
    assert pair.target.name == "Items"
    assert [(column.source.name, column.target.name) for column in pair.columns] == [("Name", "Name"), ("id", "id")]

    (loose,) = pair_tables(source, targets[:1], Rules()).pairs
    assert [column.target.name for column in loose.columns] == ["name", "id"]


def test_columns_in_another_order_pair_by_name() -> None:
    (pair,) = pair_tables(SourceCatalog((_source("t", "a", "b"),)), [_target("t", "b", "a")], Rules()).pairs
    assert [(column.source.name, column.target.name) for column in pair.columns] == [("a", "a"), ("b", "b")]


def test_everything_without_a_partner_is_named_at_once() -> None:
    text = _problems(
        [_source("here", "a", "gone"), _source("lost", "a")],
        [_target("here", "a", TargetColumn("must", TEXT, not_null=True))],
    )
    assert "table 'lost' has no table" in text
    assert "column here.gone has no column" in text
    assert "target column here.must is NOT NULL, has no default, and nothing fills it" in text


def test_missing_columns_with_a_default_and_generated_columns_are_no_problem() -> None:
    target = _target(
        "t",
        "a",
        TargetColumn("filled", TEXT, not_null=True, has_default=True),
        TargetColumn("counted", TEXT, not_null=True, identity=True),
        TargetColumn("made", TEXT, generated=True),
    )
    source = _source("t", "a", "made", "derived", generated=("derived",))
    (pair,) = pair_tables(SourceCatalog((source,)), [target], Rules()).pairs
    assert [column.source.name for column in pair.columns] == ["a"]


def test_rules_rename_and_exclude() -> None:
    rules = Rules.model_validate(
        {
            "tables": {
                "old": {"rename": "other.new", "columns": {"a": {"rename": "b"}, "c": {"exclude": True}}},
                "junk": {"exclude": True},
            }
        }
    )
    source = SourceCatalog((_source("old", "a", "c"), _source("junk", "x"), _source("alembic_version", "version_num")))
    pairing = pair_tables(source, [_target("new", "a"), _target("new", "b", schema="other")], rules)
    assert [(pair.target.schema, pair.target.name) for pair in pairing.pairs] == [("other", "new")]
    assert [column.target.name for column in pairing.pairs[0].columns] == ["b"]
    assert [item.table for item in pairing.excluded] == ["junk", "alembic_version"]


def test_rules_for_what_is_not_there_and_types_that_cannot_be_written_are_named() -> None:
    odd = TargetColumn("a", PgType(PgKind.UNSUPPORTED, name="tsvector"))
    text = _problems([_source("t", "a")], [_target("t", odd)], {"nobody": {}, "t": {"columns": {"zzz": {}}}})
    assert "rules for table 'nobody'" in text
    assert "rules for column t.zzz" in text
    assert "column t.a goes to type tsvector, which pgferry cannot write" in text


def test_two_tables_or_columns_for_one_target_are_refused() -> None:
    text = _problems([_source("a", "x"), _source("b", "x")], [_target("a", "x")], {"b": {"rename": "a"}})
    assert "tables 'a' and 'b' both go to 'a'" in text
    text = _problems([_source("a", "x", "y")], [_target("a", "x")], {"a": {"columns": {"y": {"rename": "x"}}}})
    assert "two columns go to the same column of a" in text
