"""Revisions are looked at as text: what would stop writers is found where it stands, and the rest is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent, indent

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pgferry.operate.revision_files import RevisionFile, heads, in_order, pending, read_revisions, version_table
from pgferry.operate.revision_lint import Finding, lint
from pgferry.postgres.environment import read_config

ROOT = Path(__file__).resolve().parents[2]


def project(folder: Path, **revisions: str) -> Path:
    """Write an Alembic project with these files in it; return its configuration."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text("raise RuntimeError('env.py must not run')\n")
    for name, text in revisions.items():
        (versions / f"{name}.py").write_text(text)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    return folder / "alembic.ini"


def revision(upgrade: str, name: str = "a", down: str | None = None, downgrade: str = "op.execute('SELECT 1')") -> str:
    """Return a revision's text, which fails when it is run."""
    return (
        f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision: str = {name!r}\ndown_revision = {down!r}\n"
        "raise RuntimeError('a revision must not run')\n\n\n"
        f"def upgrade() -> None:\n{indent(dedent(upgrade), '    ')}\n\n\n"
        f"def downgrade() -> None:\n{indent(dedent(downgrade), '    ')}\n"
    )


def findings(folder: Path, **revisions: str) -> list[Finding]:
    read = read_revisions(read_config(project(folder, **revisions)))
    return list(lint(read, read))


def rules(folder: Path, upgrade: str) -> list[str]:
    return [str(finding.rule) for finding in findings(folder, a=revision(upgrade))]


BLOCKING = [
    ("op.create_index('i', 't', ['x'])", "index"),
    ("op.create_index('i', 't', ['x'], postgresql_concurrently=True)", "index"),
    ("with op.batch_alter_table('t') as batch:\n    batch.create_index('i', ['x'])", "index"),
    ("op.add_column('t', sa.Column('x', sa.Integer(), index=True))", "index"),
    ("op.execute('CREATE INDEX i ON t (x)')", "index"),
    ("op.execute(sa.text('SELECT 1; CREATE UNIQUE INDEX i ON public.t (x)'))", "index"),
    ("op.get_bind().exec_driver_sql('CREATE INDEX i ON t (x)')", "index"),
    ("for sql in ('SELECT 1', 'CREATE INDEX i ON t (x)'):\n    op.execute(sql)", "index"),
    ("table = 't'\nop.execute(f'CREATE INDEX i ON {table} (x)')", "index"),
    ("op.add_column('t', sa.Column('x', sa.Integer(), nullable=False))", "not-null"),
    (
        "with op.batch_alter_table('t') as b:\n    b.add_column(sa.Column('x', sa.Integer(), nullable=False))",
        "not-null",
    ),
    ("op.execute('ALTER TABLE t ADD COLUMN x int NOT NULL')", "not-null"),
    ("op.alter_column('t', 'x', nullable=False)", "not-null"),
    ("op.execute('ALTER TABLE t ALTER COLUMN x SET NOT NULL')", "not-null"),
    ("op.alter_column('t', 'x', type_=sa.BigInteger())", "rewrite"),
    ("op.alter_column('t', 'x', existing_type=sa.String(9), type_=sa.String(5))", "rewrite"),
    ("op.execute('ALTER TABLE t ALTER x TYPE bigint')", "rewrite"),
    ("op.add_column('t', sa.Column('x', sa.Uuid(), server_default=sa.text('gen_random_uuid()')))", "rewrite"),
    ("op.execute('ALTER TABLE t ADD COLUMN x uuid DEFAULT gen_random_uuid()')", "rewrite"),
    ("op.create_foreign_key('f', 't', 'u', ['x'], ['id'])", "constraint"),
    ("op.add_column('t', sa.Column('x', sa.Integer(), sa.ForeignKey('u.id')))", "constraint"),
    ("op.create_foreign_key('f', 't', 'u', ['x'], ['id'], postgresql_not_valid=True)", "constraint"),
    ("op.create_check_constraint('c', 't', 'x > 0')", "constraint"),
    ("op.create_unique_constraint('u', 't', ['x'])", "constraint"),
    ("op.create_primary_key('p', 't', ['x'])", "constraint"),
    ("op.execute('ALTER TABLE t ADD CONSTRAINT c CHECK (x > 0)')", "constraint"),
    ("op.execute('ALTER TABLE t ADD UNIQUE (x)')", "constraint"),
    ("op.execute('ALTER TABLE t ADD CONSTRAINT e EXCLUDE USING gist (x WITH &&)')", "constraint"),
    ("op.drop_column('t', 'x')", "drop"),
    ("op.drop_table('t')", "drop"),
    ("op.execute('DROP TABLE IF EXISTS t, u CASCADE')", "drop drop"),
    ("op.execute('ALTER TABLE t DROP COLUMN x')", "drop"),
    ("op.rename_table('t', 'u')", "rename"),
    ("op.alter_column('t', 'x', new_column_name='y')", "rename"),
    ("op.execute('ALTER TABLE t RENAME COLUMN x TO y')", "rename"),
]

HARMLESS = [
    "with op.get_context().autocommit_block():\n    op.create_index('i', 't', ['x'], postgresql_concurrently=True)",
    "with op.get_context().autocommit_block():\n    op.execute('CREATE INDEX CONCURRENTLY i ON t (x)')",
    "op.create_table('t', sa.Column('x', sa.Integer()))\nop.create_index('i', 't', ['x'])\nop.drop_column('t', 'x')",
    "op.execute('CREATE TABLE t (x int)')\nop.execute('CREATE INDEX i ON t (x)')",
    "op.add_column('t', sa.Column('x', sa.Integer(), nullable=False, server_default='0'))",
    "op.add_column('t', sa.Column('x', sa.DateTime(), nullable=False, server_default=sa.text('now()')))",
    "op.add_column('t', sa.Column('x', sa.Integer()))",
    "op.execute('ALTER TABLE t ADD COLUMN x int NOT NULL DEFAULT 0')",
    "op.alter_column('t', 'x', existing_type=sa.String(5), type_=sa.String(9))",
    "op.alter_column('t', 'x', existing_type=sa.VARCHAR(length=5), type_=sa.Text())",
    "op.alter_column('t', 'x', nullable=True)",
    "op.execute('UPDATE t SET x = 1 WHERE id < 100')",
    "op.execute('ALTER TABLE t ADD CONSTRAINT u UNIQUE USING INDEX i')",
    "op.execute('this is no SQL at all (')",
    "op.drop_table('t')  # pgferry: allow drop",
    "# pgferry: allow rename, drop\nop.drop_table('t')",
    """
    with op.get_context().autocommit_block():
        op.execute('ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES u (id) NOT VALID')
        op.execute('ALTER TABLE t VALIDATE CONSTRAINT f')
    """,
]


@pytest.mark.parametrize(("upgrade", "expected"), BLOCKING, ids=[upgrade for upgrade, _ in BLOCKING])
def test_what_stops_writers_is_found(tmp_path: Path, upgrade: str, expected: str) -> None:
    assert rules(tmp_path, upgrade) == expected.split()


@pytest.mark.parametrize("upgrade", HARMLESS)
def test_what_stops_nobody_is_not(tmp_path: Path, upgrade: str) -> None:
    assert rules(tmp_path, upgrade) == []


def test_a_finding_names_file_and_line_and_what_to_do(tmp_path: Path) -> None:
    text = revision("x = 1\nop.create_index('i', 't', ['x'])")
    (found,) = findings(tmp_path, a=text)
    assert text.splitlines()[found.line - 1].strip() == "op.create_index('i', 't', ['x'])"
    assert str(found) == (
        f"{tmp_path}/migrations/versions/a.py:{found.line}: Index i on t is built while nobody can write to the table. "
        "Build it with postgresql_concurrently=True inside `with op.get_context().autocommit_block():`. [index]"
    )


def test_a_constraint_is_validated_in_a_later_revision(tmp_path: Path) -> None:
    add = revision("op.create_foreign_key('f', 't', 'u', ['x'], ['id'], postgresql_not_valid=True)")
    check = revision("op.execute('ALTER TABLE t VALIDATE CONSTRAINT f')", "b", "a")
    assert findings(tmp_path / "both", a=add, b=check) == []
    (found,) = findings(tmp_path / "one", a=add)
    assert "no revision validates it" in found.message
    once = "op.execute('ALTER TABLE t ADD CONSTRAINT f CHECK (x > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT f')"
    (found,) = findings(tmp_path / "same", a=revision(once))
    assert "in the transaction that adds it" in found.message


def test_a_checked_column_becomes_not_null_in_no_time(tmp_path: Path) -> None:
    add = "op.create_check_constraint('c', 't', 'x IS NOT NULL', postgresql_not_valid=True)"
    check = "op.execute('ALTER TABLE t VALIDATE CONSTRAINT c')"
    last = "op.alter_column('t', 'x', nullable=False)"
    files = {"a": revision(add), "b": revision(check, "b", "a"), "c": revision(last, "c", "b")}
    assert findings(tmp_path, **files) == []


def test_a_function_of_the_module_is_read_where_it_is_called(tmp_path: Path) -> None:
    helper = "\n\ndef helper():\n    op.drop_table('t')\n    helper()\n"
    assert [str(each.rule) for each in findings(tmp_path / "called", a=revision("helper()") + helper)] == ["drop"]
    assert findings(tmp_path / "not_called", a=revision("op.execute('SELECT 1')") + helper) == []


@pytest.mark.parametrize("downgrade", ["pass", "...", "'''There is none.'''\nreturn"])
def test_an_empty_downgrade_is_found(tmp_path: Path, downgrade: str) -> None:
    (found,) = findings(tmp_path, a=revision("op.execute('SELECT 1')", downgrade=downgrade))
    assert (found.rule, found.message) == ("downgrade", "The downgrade is empty.")


def test_a_missing_downgrade_is_found_and_one_that_says_why_not_is_left_alone(tmp_path: Path) -> None:
    text = revision("op.execute('SELECT 1')")
    (found,) = findings(tmp_path / "missing", a=text[: text.index("def downgrade")])
    assert (found.rule, found.message) == ("downgrade", "There is no downgrade.")
    assert findings(tmp_path / "raises", a=revision("op.execute('SELECT 1')", downgrade="raise ValueError('no')")) == []
    assert findings(tmp_path / "merge", a=revision("pass", downgrade="pass")) == []


def test_leftovers_of_autogenerate_are_found_in_comments_only(tmp_path: Path) -> None:
    stock = "# ### commands auto generated by Alembic - please adjust! ###\nop.execute('SELECT 1')\n# ### end ###"
    found = findings(tmp_path / "stock", a=revision(stock))
    assert [str(each.rule) for each in found] == ["leftover"]
    assert findings(tmp_path / "text", a=revision("op.execute('SELECT 1')\nx = '# please adjust'")) == []


def test_several_heads_are_found_in_each_of_them(tmp_path: Path) -> None:
    one = "op.execute('SELECT 1')"
    found = findings(tmp_path, a=revision(one), b=revision(one, "b", "a"), c=revision(one, "c", "a"))
    assert [(each.file.name, str(each.rule)) for each in found] == [("b.py", "heads"), ("c.py", "heads")]
    assert "alembic merge -m 'merge' b c" in found[0].action


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, a="revision = 'a'\ndef upgrade(:\n")
    assert (found.rule, found.line) == ("unreadable", 2)


def test_what_a_database_has_had_is_not_pending(tmp_path: Path) -> None:
    down = "revision, down_revision, branch_labels, depends_on = 'm', ('b', 'c'), None, None\n"
    one = "op.execute('SELECT 1')"
    files = {"z": revision(one), "b": revision(one, "b", "a"), "c": revision(one, "c", "a"), "d": down}
    read = read_revisions(read_config(project(tmp_path, **files, helper="x = 1\n")))

    def names(files: tuple[RevisionFile, ...]) -> list[str]:
        return [file.revision for file in files]

    assert names(heads(read)) == ["m"]
    assert names(in_order(read)) == ["a", "b", "c", "m"]
    assert names(pending(read, ())) == ["b", "c", "m", "a"]
    assert names(pending(read, ("b",))) == ["c", "m"]
    assert names(pending(read, ("b", "c"))) == ["m"]
    assert names(pending(read, ("m",))) == []


def test_the_version_table_is_read_from_env_without_running_it(tmp_path: Path) -> None:
    config = project(tmp_path, a=revision("pass"))
    assert version_table(read_config(config)) == (None, "alembic_version")
    (tmp_path / "migrations" / "env.py").write_text("context.configure(version_table='v', version_table_schema='s')")
    assert version_table(read_config(config)) == ("s", "v")


def test_this_projects_own_revisions_are_found_fault_with_only_where_they_build_indexes() -> None:
    read = read_revisions(read_config(ROOT / "alembic.ini"))
    assert {str(finding.rule) for finding in lint(read, read)} == {"index"}


def test_the_command_ends_with_1_when_something_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = project(tmp_path, a=revision("op.drop_table('t')"))
    monkeypatch.setenv("PGFERRY_ALEMBIC_CONFIG", str(config))
    monkeypatch.setenv("PGFERRY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PGFERRY_TARGET", raising=False)
    done = CliRunner().invoke(app, ["schema", "check", "--all"])
    assert done.exit_code == 1
    assert f"{tmp_path}/migrations/versions/a.py:10: Table t is dropped" in done.stdout.replace("\n", "")
    done = CliRunner().invoke(app, ["schema", "check", "--json"])  # No server was ever started here: all are pending.
    assert (done.exit_code, [each["rule"] for each in json.loads(done.stdout)["findings"]]) == (1, ["drop"])
    assert not (tmp_path / "home").exists()
    (tmp_path / "migrations" / "versions" / "a.py").write_text(revision("op.execute('SELECT 1')"))
    done = CliRunner().invoke(app, ["schema", "check", "--all"])
    assert (done.exit_code, done.stdout) == (0, "1 revision: nothing found.\n")
