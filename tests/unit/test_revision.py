"""A written plan is the same each time, reads as Python and TOML, and never overwrites a person's work."""

from __future__ import annotations

import ast
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from pgferry.errors import Permanent, UsageError
from pgferry.plan.files import WrittenPlan, write_plan
from pgferry.plan.model import SchemaPlan
from pgferry.plan.plan import make_plan
from pgferry.plan.report import render_report
from pgferry.plan.revision import render_revision
from pgferry.settings import Rules, read_rules

SCRIPT = """
    CREATE TABLE "Order: :x" (id INTEGER PRIMARY KEY, xmin TEXT, at DATETIME, qty INTEGER CHECK (qty > 0),
                              note TEXT DEFAULT 'a: :b \\ ''c', doc JSON, price DECIMAL(10, 2), "q|" UUID);
    CREATE INDEX by_note ON "Order: :x" (note DESC) WHERE note <> ':b';
    CREATE TABLE child (o INTEGER REFERENCES "Order: :x", t TEXT UNIQUE);
    CREATE VIEW v AS SELECT id FROM "Order: :x";
    CREATE TRIGGER tr AFTER INSERT ON child BEGIN SELECT 1; END;
    INSERT INTO "Order: :x" (at, qty) VALUES (1727078780, 1);
    INSERT INTO child VALUES (9, 'x');
"""


def source(folder: Path, script: str = SCRIPT) -> Path:
    path = folder / "source.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def plan_of(folder: Path, script: str = SCRIPT, rules: Rules | None = None) -> SchemaPlan:
    return make_plan(source(folder, script), rules)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_planning_twice_writes_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second, second):
        written = write_plan(plan_of(tmp_path), folder)
        assert written.kept == ()
    assert contents(first) == contents(second)
    assert sorted(contents(first)) == [
        "alembic.ini", "env.py", "generated.json", "pgferry.toml", "report.md", "script.py.mako",
        f"versions/{written.revision_id}_schema.py",
    ]  # fmt: skip


def test_planning_leaves_the_source_alone(tmp_path: Path) -> None:
    path = source(tmp_path)
    before = contents(tmp_path)
    assert make_plan(path) == make_plan(path)
    assert contents(tmp_path) == before


def test_revision_is_found_by_alembic(tmp_path: Path) -> None:
    written = write_plan(plan_of(tmp_path), tmp_path / "plan")
    script = ScriptDirectory.from_config(Config(written.alembic_config))
    assert script.get_heads() == [written.revision_id]
    assert script.get_revision(written.revision_id).down_revision is None


def test_revision_text(tmp_path: Path) -> None:
    text = render_revision(plan_of(tmp_path)).text
    ast.parse(text)
    assert "sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False)" in text
    assert "sa.Column('xmin_', sa.Text(), autoincrement=False)" in text
    assert "sa.Column('price', sa.Numeric(10, 2), autoincrement=False)" in text
    assert "postgresql.JSONB()" in text
    assert "postgresql_where=" in text
    assert "NOT VALID" in text
    assert "\\\\:b" in text  # a colon that sa.text() would read as a parameter


def test_another_plan_has_another_revision(tmp_path: Path) -> None:
    first = write_plan(plan_of(tmp_path), tmp_path / "plan")
    second = write_plan(plan_of(tmp_path, SCRIPT + "CREATE TABLE more (a);"), tmp_path / "plan")
    assert first.revision_id != second.revision_id
    assert [path.name for path in (tmp_path / "plan" / "versions").iterdir()] == [second.revision.name]


def edited(written: WrittenPlan, path: Path) -> str:
    path.write_text(path.read_text("utf-8") + "\n# mine\n", "utf-8")
    return path.read_text("utf-8")


def test_what_a_person_changed_is_kept(tmp_path: Path) -> None:
    written = write_plan(plan_of(tmp_path), tmp_path / "plan")
    rules, revision = edited(written, written.rules), edited(written, written.revision)
    again = write_plan(plan_of(tmp_path), tmp_path / "plan")
    assert set(again.kept) == {written.rules, written.revision}
    assert (written.rules.read_text("utf-8"), written.revision.read_text("utf-8")) == (rules, revision)
    with pytest.raises(UsageError, match="was changed by hand"):
        write_plan(plan_of(tmp_path, "CREATE TABLE other (a)"), tmp_path / "plan")
    assert written.revision.read_text("utf-8") == revision


def test_rules_file(tmp_path: Path) -> None:
    script = SCRIPT + f'CREATE TABLE "{"n" * 70}" ("{"é" * 40}" TEXT, "a\n""b\x7f" INTEGER);'
    script += f"""INSERT INTO "{"n" * 70}" VALUES (NULL, 1), (NULL, '');"""
    plan = plan_of(tmp_path, script)
    written = write_plan(plan, tmp_path / "plan")
    rules = read_rules(written.rules)
    assert rules.table("n" * 70).rename == plan.table("n" * 70).name
    assert rules.table("n" * 70).columns["é" * 40].rename == plan.table("n" * 70).columns[0].name
    assert rules.table("Order: :x").columns["at"].epoch is None
    # Saying yes is taking the `#` away.
    text = written.rules.read_text("utf-8").replace("# epoch", "epoch").replace("# on_empty", "on_empty")
    written.rules.write_text(text, "utf-8")
    answered = plan_of(tmp_path, script, read_rules(written.rules))
    assert answered.table("Order: :x").column("at").type.kind.value == "timestamp without time zone"
    assert answered.table("n" * 70).columns[1].type.kind.value == "integer"
    assert answered.table("n" * 70).name == plan.table("n" * 70).name


def test_excluded_tables_are_not_planned(tmp_path: Path) -> None:
    rules = Rules.model_validate({"tables": {"child": {"exclude": True}}})
    plan = plan_of(tmp_path, SCRIPT, rules)
    assert [table.source for table in plan.tables] == ["Order: :x"]
    assert [(item.kind, item.reason) for item in plan.not_carried if item.name == "child"] == [
        ("table", "excluded in pgferry.toml")
    ]


def test_report(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    report = render_report(plan).replace("<br>", " ")
    assert "| DATETIME, 1 row, all integers from 1727078780 to 1727078780 → bigint |" in report
    assert "epoch = s" in report
    assert "as seconds since 1970 the last is 2024-09-23 08:06:20" in report
    assert "| trigger | child | tr |" in report
    assert "q\\|" in report
    assert "## Foreign keys that rows violate" in report
    assert "| Order: :x | xmin | xmin_ |" in report
    assert "No PostgreSQL server has tried this plan yet." in report


def test_views_wait_for_a_server(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert len(plan.views) == 1
    written = write_plan(plan, tmp_path / "plan")
    assert "CREATE VIEW" not in written.revision.read_text("utf-8")
    assert "there was no server to try it on" in written.report.read_text("utf-8")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Permanent, match="cannot be written"):
        write_plan(plan_of(tmp_path), tmp_path / "file" / "plan")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="is no SQLite database"):
        make_plan(tmp_path / "a.db")
