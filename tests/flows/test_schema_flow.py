"""schema upgrade, downgrade, base, revision and history, as a person and as a deployment run them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.prefect_server import get_json
from pgferry.errors import UsageError
from pgferry.postgres.connection import connect

ENVIRONMENT = """
import sqlalchemy as sa
from alembic import context

metadata = sa.MetaData()
sa.Table("t", metadata, sa.Column("id", sa.Integer(), primary_key=True), sa.Column("x", sa.Integer()))
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
"""
TEMPLATE = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = ${repr(up_revision)}, ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
"""
FIRST = '''"""The first table."""
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.execute("CREATE TABLE t (id int PRIMARY KEY)")
def downgrade():
    op.execute("DROP TABLE t")
'''


@dataclass(frozen=True)
class Place:
    """An Alembic project, and the database that settings name."""

    folder: Path
    target: URL
    api: str

    def command(self, *arguments: str) -> Result:
        """Run `python -m flows schema …` as a person does."""
        return CliRunner().invoke(app, ["schema", *arguments])

    def postgres(self, statement: str) -> list[tuple[Any, ...]]:
        """Return what the target answers."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await connect(self.target)
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def place(
    prefect_api: str, new_database: Callable[[], URL], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("schema")
    (folder / "m" / "versions").mkdir(parents=True)
    (folder / "m" / "versions" / "0001.py").write_text(FIRST)
    (folder / "m" / "env.py").write_text(ENVIRONMENT)
    (folder / "m" / "script.py.mako").write_text(TEMPLATE)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/m\n")
    made = Place(folder, new_database(), prefect_api)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PREFECT_API_URL", prefect_api)
        patch.setenv("PGFERRY_TARGET", made.target.render_as_string(hide_password=False))
        patch.setenv("PGFERRY_HOME", str(folder / "home"))
        yield made


def history(place: Place) -> dict[str, str]:
    done = place.command("history", "--json")
    assert done.exit_code == 0, done.output
    return {row["revision"]: "applied" if row["applied"] else "waits" for row in json.loads(done.stdout)["revisions"]}


def test_an_empty_target_is_upgraded_without_a_dump(place: Place) -> None:
    assert history(place) == {"0001": "waits"}
    done = place.command("upgrade", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["before"], result["after"], result["dump"], result["notes"]) == ([], ["0001"], None, [])
    assert history(place) == {"0001": "applied"}


def test_a_revision_is_written_by_comparison_and_a_target_with_rows_is_dumped_first(place: Place) -> None:
    place.postgres("INSERT INTO t VALUES (1), (2)")
    done = place.command("revision", "-m", "add x", "--autogenerate")
    assert done.exit_code == 0, done.output
    written = Path(done.stdout.strip())
    assert "add_column('t', sa.Column('x'" in written.read_text()
    checked = place.command("check")
    assert (checked.exit_code, "[leftover]" in checked.stdout) == (1, True)

    done = place.command("upgrade", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["before"] == ["0001"]
    dump = Path(result["dump"]["path"])
    assert dump.parent == place.folder / "home" / "dumps"
    assert dump.name.startswith(f"{place.target.database}-0001-")
    assert [finding["rule"] for finding in result["findings"]] == ["leftover", "leftover"]
    assert place.postgres("SELECT id, x FROM t ORDER BY id") == [(1, None), (2, None)]
    run = get_json(f"{place.api}/flow_runs/filter", payload={"limit": 1, "sort": "START_TIME_DESC"})[0]
    artifacts = get_json(f"{place.api}/artifacts/filter", payload={"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert run["name"].startswith(f"schema-upgrade head, {place.target.database} at ")
    assert {each["key"] for each in artifacts} >= {"schema-change", "schema-check"}


def test_nothing_to_do_takes_no_dump(place: Place) -> None:
    done = place.command("upgrade")
    assert done.exit_code == 0, done.output
    assert "nothing to do" in done.stdout
    assert "Dump:" not in done.stdout


def test_a_downgrade_asks_for_the_databases_name(place: Place) -> None:
    from flows.schema import schema_downgrade

    done = place.command("downgrade", "-1")
    assert (done.exit_code, f"--confirm {place.target.database}" in done.output) == (2, True)
    with pytest.raises(UsageError, match=rf"takes away what .*--confirm {place.target.database}"):
        schema_downgrade(revision="0001", confirm="another")
    assert len(history(place)) == 2
    done = place.command("downgrade", "-1", "--confirm", str(place.target.database), "--schema-only-dump", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["after"], result["dump"]["schema_only"]) == (["0001"], True)
    assert list(history(place).values()) == ["applied", "waits"]


def test_base_takes_everything_back(place: Place) -> None:
    done = place.command("base", "--confirm", str(place.target.database), "--no-dump", "--json")
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["after"], json.loads(done.stdout)["dump"]) == ([], None)
    assert place.postgres("SELECT to_regclass('t')::text") == [(None,)]


def test_an_empty_revision_needs_no_server(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_TARGET", "postgresql://nobody:pw@127.0.0.1:1/none")
    done = place.command("revision", "-m", "by hand")
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).name.endswith("_by_hand.py")
    refused = place.command("revision", "-m", " ")
    assert (refused.exit_code, "needs a message" in refused.output) == (2, True)


def test_a_lock_that_is_not_got_in_time_is_told_as_what_may_pass(place: Place) -> None:
    from pgferry.errors import Transient
    from pgferry.operate.run_revisions import change

    async def locked() -> None:
        await change(place.target, place.folder / "alembic.ini", "0001")
        holder = await connect(place.target)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE t IN ACCESS SHARE MODE")
                with pytest.raises(Transient, match=r"downgrade of 0001 .*lock timeout"):
                    await change(place.target, place.folder / "alembic.ini", "base", down=True, lock_timeout=0.2)
        finally:
            await holder.close()

    asyncio.run(locked())
    assert place.postgres("SELECT count(*) FROM t") == [(0,)]
