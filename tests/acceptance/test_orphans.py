"""Rows without the row that they refer to: all of them move, the foreign key stays NOT VALID, with a way out."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.finishing import NotAccepted, judge_report, validate_again
from pgferry.move import rules_fingerprint
from pgferry.plan.files import write_plan
from pgferry.plan.outcome import merged_rules
from pgferry.plan.plan import make_plan
from pgferry.plan.trial import tried
from pgferry.postgres.ledger import find_run
from pgferry.postgres.schema import upgrade
from pgferry.replay import conclude_replay, prepare_replay, replay_table
from pgferry.settings import Rules, read_rules
from tests.acceptance.independent import differences
from tests.acceptance.moving import MEMORY, Mover, alembic_project, ask, environment, migrate

Server = asyncpg.Connection

SCHEMA = (
    "CREATE TABLE parent (id integer PRIMARY KEY, name text)",
    "CREATE TABLE child (id integer PRIMARY KEY, p integer CONSTRAINT child_parent REFERENCES parent)",
)
VALID = "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
TOLD = (
    "the foreign key child_parent of child stays NOT VALID: 2 rows point at rows that public.parent does not hold, the "
    "first of them with p = 77"
)


def orphaned(path: Path) -> Path:
    """Make a file with 20 parents and 40 children, two of which point at nothing."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(
            """CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
               CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent);
               WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
               INSERT INTO child
               SELECT i, CASE WHEN i IN (7, 30) THEN 77 WHEN i = 8 THEN NULL ELSE i % 20 + 1 END FROM n;
               INSERT INTO parent SELECT id, 'n' || id FROM child WHERE id <= 20;"""
        )
    return path


def test_the_users_schema_with_orphans(tmp_path: Path, database_url: URL, prefect_server: str) -> None:
    source = orphaned(tmp_path / "app.db")
    env = environment(
        database_url,
        tmp_path / "home",
        PREFECT_API_URL=prefect_server,
        PGFERRY_ALEMBIC_CONFIG=str(alembic_project(tmp_path, *SCHEMA)),
    )

    def run() -> tuple[int, str, dict[str, object]]:
        done = migrate("--source", source, "--json", env=env, cwd=tmp_path)
        return done.returncode, done.stderr, json.loads(done.stdout)

    # All rows are there and compared; the key holds for new rows; a person is told, and the exit code says so.
    code, said, report = run()
    assert code == 3, said
    assert TOLD in said
    assert 'orphans = "not_valid"` for child' in said
    assert (report["verified"], report["complete"]) == (True, False)
    (key,) = report["foreign_keys_not_valid"]
    assert (key["table"], key["foreign_key"], key["orphans"], key["accepted"]) == ("child", "child_parent", 2, False)
    assert [tuple(row) for row in ask(database_url, VALID)] == [("child_parent", False)]
    assert ask(database_url, "SELECT status, finished_at IS NOT NULL FROM pgferry.run")[0][0] == "finished"
    ledger = ask(database_url, "SELECT error FROM pgferry.deferred WHERE kind = 'validation'")
    assert "2 rows point at" in ledger[0]["error"]

    # Once more: nothing moves, nothing is forgotten.
    code, said, report = run()
    assert (code, report["already_migrated"]) == (3, True)
    assert TOLD in said

    # Accepted by configuration.
    (tmp_path / "pgferry.toml").write_text('[tables.child]\norphans = "not_valid"\n')
    code, said, report = run()
    assert (code, said, report["complete"]) == (0, "", True)
    assert [item["accepted"] for item in report["foreign_keys_not_valid"]] == [True]

    # Mended in the target: the key becomes valid.
    ask(database_url, "INSERT INTO parent VALUES (77, 'late')")
    code, said, report = run()
    assert (code, said, report["foreign_keys_not_valid"]) == (0, "", [])
    assert [tuple(row) for row in ask(database_url, VALID)] == [("child_parent", True)]
    assert ask(database_url, "SELECT count(*) AS n FROM child")[0]["n"] == 40
    kept = ask(database_url, "SELECT report->'foreign_keys_not_valid' = '[]' AS none FROM pgferry.run")
    assert kept[0]["none"] is True


def test_orphans_that_are_accepted_from_the_beginning(tmp_path: Path, database_url: URL, prefect_server: str) -> None:
    source = orphaned(tmp_path / "app.db")
    env = environment(
        database_url,
        tmp_path / "home",
        PREFECT_API_URL=prefect_server,
        PGFERRY_ALEMBIC_CONFIG=str(alembic_project(tmp_path, *SCHEMA)),
    )
    (tmp_path / "pgferry.toml").write_text('[tables.child]\norphans = "not_valid"\n')
    done = migrate("--source", source, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Note:     {TOLD}" in done.stdout


async def test_the_children_of_a_quarantined_parent_are_level_after_its_replay(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source)) as file:
        file.executescript(
            """CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
               CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent);"""
        )
        file.executemany("INSERT INTO parent VALUES (?, ?)", [(n, f"n{n}") for n in range(1, 301)])
        file.execute("UPDATE parent SET name = ? WHERE id = 150", ("a\x00b",))
        file.executemany("INSERT INTO child VALUES (?, ?)", [(n, n % 300 + 1) for n in range(1, 601)])
        file.commit()
    plan = await tried(make_plan(source, Rules()), connection)
    written = write_plan(plan, tmp_path / "plan")
    await upgrade(database_url, written.alembic_config)
    rules = merged_rules(Rules(), read_rules(written.rules))

    report = await Mover(connection, database_url, source, tmp_path / "home", rules).run()
    assert report.verified
    assert [(key.table, key.orphans) for key in report.not_valid] == [("child", 2)]
    with pytest.raises(NotAccepted, match=r"rows of parent are in quarantine; the foreign key .* of child stays"):
        judge_report(report)

    stripping = Rules.model_validate({"tables": {"parent": {"columns": {"name": {"on_nul": "strip"}}}}})
    run = await find_run(connection, str(source))
    assert run is not None
    work = await prepare_replay(connection, run, merged_rules(stripping, rules), "")
    for table in work.reads:
        await replay_table(connection, work, table)
    replayed = await conclude_replay(connection, work)

    assert (replayed.not_valid, replayed.complete) == ((), True)
    assert [row["convalidated"] for row in await connection.fetch(VALID)] == [True]
    assert await connection.fetchval("SELECT count(*) FROM parent") == 300
    run = await find_run(connection, str(source))
    assert run is not None
    assert run.report is not None
    assert (run.report["complete"], run.report["foreign_keys_not_valid"]) == (True, [])


async def test_a_cut_off_move_ends_with_the_key_not_valid_too(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    source = orphaned(tmp_path / "app.db")
    for statement in SCHEMA:
        await connection.execute(statement)
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=7)
    await mover.check(await mover.load())
    report = await mover.run()
    assert [str(key) for key in report.not_valid] == [TOLD]
    assert await differences(source, database_url) == []

    # What is mended in the meantime is valid in the report that the ledger keeps.
    await connection.execute("UPDATE child SET p = 1 WHERE p = 77")
    run = await find_run(connection, str(source))
    assert run is not None
    again = await validate_again(connection, run, database_url, Rules(), memory=MEMORY)
    assert (again.not_valid, again.complete, again.again) == ((), True, True)


def test_what_is_accepted_at_the_end_is_no_other_rule() -> None:
    accepting = Rules.model_validate({"tables": {"child": {"orphans": "not_valid"}}})
    assert rules_fingerprint(accepting) == rules_fingerprint(Rules())
    renamed = {"tables": {"child": {"rename": "kid"}}}
    both = {"tables": {"child": {"rename": "kid", "orphans": "not_valid"}}}
    assert rules_fingerprint(Rules.model_validate(renamed)) == rules_fingerprint(Rules.model_validate(both))
