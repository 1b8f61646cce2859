"""Each check of the preflight is provoked: to pass, to warn, to fail; and the checklist as a whole changes nothing."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.live.status import read_status
from pgferry.operate import migration_checks, plan_checks, room, source_checks, target_checks
from pgferry.operate.check import Verdict
from pgferry.operate.estimate import Estimate, measure
from pgferry.operate.preflight import failed, judge, markdown, run_checks, summary, to_json
from pgferry.operate.source_checks import FileFacts
from pgferry.operate.standing import standing_checks
from pgferry.operate.target_checks import Paired
from pgferry.postgres.connection import Connection
from pgferry.postgres.embedded import EmbeddedServer
from pgferry.postgres.journal import live_run
from pgferry.postgres.ledger import install
from pgferry.settings import Settings, load_settings
from tests.acceptance.moving import Mover, alembic_project
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.integration.checklist import (
    FAIL,
    PASS,
    RULES,
    TARGET,
    WARN,
    durable,
    made,
    reached,
    role,
    settings,
    source,
    target,
    verdict,
)
from tests.live import LiveMove

__all__ = ["durable", "settings", "source", "target"]


# ---------------------------------------------------------------- migrations

SECOND = 'revision, down_revision, branch_labels, depends_on = "{0}", "{1}", None, None\ndef upgrade(): pass\n'


async def test_alembic_leads_to_one_head(tmp_path: Path, settings: Settings) -> None:
    assert verdict(await migration_checks.check_migrations(settings)) is WARN
    config = alembic_project(tmp_path / "p", "SELECT 1")
    given = settings.model_copy(update={"alembic_config": config})
    found = await migration_checks.check_migrations(given)
    assert (verdict(found), found.measured) == (PASS, "0001")
    versions = tmp_path / "p" / "migrations" / "versions"
    for name in ("0002a", "0002b"):
        (versions / f"{name}.py").write_text(SECOND.format(name, "0001"))
    found = await migration_checks.check_migrations(given)
    assert (verdict(found), found.measured) == (FAIL, "2 heads: 0002a, 0002b")
    (versions / "broken.py").write_text("revision =")
    assert verdict(await migration_checks.check_migrations(given)) is FAIL


async def test_the_target_is_at_a_revision_that_is_known(
    connection: Connection, tmp_path: Path, settings: Settings
) -> None:
    given = settings.model_copy(update={"alembic_config": alembic_project(tmp_path / "p", "SELECT 1")})
    (tmp_path / "p" / "migrations" / "versions" / "0002.py").write_text(SECOND.format("0002", "0001"))
    assert verdict(await migration_checks.check_revision(connection, given)) is PASS
    await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    for revision, expected in (("0001", WARN), ("0002", PASS), ("abcd", FAIL)):
        await connection.execute("TRUNCATE alembic_version")
        await connection.execute("INSERT INTO alembic_version VALUES ($1)", revision)
        assert verdict(await migration_checks.check_revision(connection, given)) is expected
    assert verdict(await migration_checks.check_revision(connection, settings)) is WARN


# ---------------------------------------------------------------- tables


async def test_tables_and_columns_have_partners(connection: Connection, source: Path) -> None:
    assert verdict(target_checks.check_pairs(await target_checks.pair(connection, source, RULES))) is WARN
    await connection.execute(TARGET[0])
    found = target_checks.check_pairs(await target_checks.pair(connection, source, RULES))
    assert (verdict(found), found.measured) == (FAIL, "table 'children' has no table of that name in the target")
    await connection.execute(TARGET[1])
    assert verdict(target_checks.check_pairs(await target_checks.pair(connection, source, RULES))) is PASS


async def test_rows_of_others_in_the_target_fail(target: Connection, source: Path) -> None:
    paired = await target_checks.pair(target, source, RULES)
    assert verdict(await target_checks.check_rows(target, paired, source)) is PASS
    await target.execute("INSERT INTO parents VALUES (1, 'not from here', 0, '')")
    assert verdict(await target_checks.check_rows(target, paired, source)) is FAIL


async def test_triggers_that_would_fire_for_carried_rows(target: Connection, source: Path) -> None:
    paired = await target_checks.pair(target, source, RULES)
    assert verdict(await target_checks.check_triggers(target, paired)) is PASS
    await target.execute("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    for name in ("touched", "_pgferry_capture"):
        await target.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION nothing()")
    found = await target_checks.check_triggers(target, paired)
    assert (verdict(found), found.measured) == (WARN, "touched on public.parents")
    await target.execute("ALTER TABLE parents DISABLE TRIGGER touched")
    assert verdict(await target_checks.check_triggers(target, paired)) is PASS


@pytest.mark.parametrize(
    ("sqlite", "postgres", "expected"),
    [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id bigint PRIMARY KEY)", PASS),
        ("CREATE TABLE t (a, b, PRIMARY KEY (a, b))", "CREATE TABLE t (a text, b text, PRIMARY KEY (b, a))", PASS),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id bigint)", WARN),
        ("CREATE TABLE t (a TEXT)", "CREATE TABLE t (a text PRIMARY KEY)", WARN),
        ("CREATE TABLE t (a TEXT PRIMARY KEY, b) WITHOUT ROWID", "CREATE TABLE t (a text, b text)", FAIL),
    ],
)
async def test_keys_that_find_a_row_on_both_sides(
    connection: Connection, tmp_path: Path, sqlite: str, postgres: str, expected: Verdict
) -> None:
    await connection.execute(postgres)
    paired = await target_checks.pair(connection, made(tmp_path / "k.db", sqlite), RULES)
    found = target_checks.check_keys(paired)
    assert verdict(found) is expected, found
    assert ("_pgferry_rowid" in found.advice) == (expected is WARN)


# ---------------------------------------------------------------- the SQLite file


def test_journal_mode_and_free_pages(source: Path) -> None:
    facts = source_checks.read_facts(source)
    assert (verdict(source_checks.check_journal(facts)), verdict(source_checks.check_free_pages(facts))) == (WARN, PASS)
    made(source, "PRAGMA journal_mode = wal; DELETE FROM children; DROP TABLE children")
    facts = source_checks.read_facts(source)
    assert (verdict(source_checks.check_journal(facts)), verdict(source_checks.check_free_pages(facts))) == (PASS, WARN)
    assert facts.used_bytes < facts.bytes == source.stat().st_size


def test_integrity(source: Path) -> None:
    assert verdict(source_checks.check_integrity(source, "")) is PASS
    made(source, "CREATE TABLE odd (n TEXT); INSERT INTO odd VALUES (NULL)")
    text = "CREATE TABLE odd (n TEXT NOT NULL)"
    made(source, f"PRAGMA writable_schema = on; UPDATE sqlite_schema SET sql = '{text}' WHERE name = 'odd'")
    assert verdict(source_checks.check_integrity(source, "")) is WARN
    damaged = bytearray(source.read_bytes())
    damaged[3 * 4096 : 4 * 4096] = b"\x07" * 4096
    source.write_bytes(damaged)
    assert verdict(source_checks.check_integrity(source, "")) is FAIL


def test_foreign_keys(source: Path) -> None:
    assert verdict(source_checks.check_foreign_keys(source)) is PASS
    made(source, "DELETE FROM parents WHERE id <= 7")
    found = source_checks.check_foreign_keys(source)
    assert (verdict(found), found.measured) == (WARN, "7 rows without a parent")


# ---------------------------------------------------------------- room and time


def large(free: float) -> FileFacts:
    """A file whose backup and Parquet need that many bytes."""
    return FileFacts(Path("app.db"), 4096, int(free / 2 / 4096), 0, "wal", "UTF-8")


def test_room_for_backup_and_parquet(settings: Settings, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    found = [verdict(room.check_home(settings, large(free * share))) for share in (0.01, 0.8, 1.2)]
    assert found == [PASS, WARN, FAIL]


async def test_room_of_the_server(durable: EmbeddedServer, connection: Connection, source: Path) -> None:
    home = durable.data.parents[1] if durable.data.parent.name == "postgres" else None
    given = load_settings(home=home or durable.password_file.parents[1])
    facts, free = source_checks.read_facts(source), shutil.disk_usage(durable.data).free
    async with reached(durable.url()) as other:
        small, huge = Estimate(1, 1, 1, 1, 1), Estimate(1, 1, free * 1.1, 1, 1)
        assert verdict(await room.check_target_room(other, given, facts, small, named=False)) is PASS
        assert verdict(await room.check_target_room(other, given, facts, huge, named=False)) is FAIL
    found = await room.check_target_room(connection, given, facts, None, named=True)
    assert (verdict(found), "free room cannot be asked" in found.measured) == (WARN, True)


def test_the_time_that_a_move_takes(settings: Settings, source: Path) -> None:
    short, long = Estimate(10, 1, 1, 2.0, 1), Estimate(10, 1, 1, 1e6, 1)
    assert verdict(room.check_duration(short, 0.1, settings, "")) is PASS
    assert verdict(room.check_duration(long, 0.1, settings, "")) is WARN
    assert verdict(room.check_duration(None, 0.1, settings, "no table")) is WARN
    facts = source_checks.read_facts(source)
    assert verdict(room.check_estimate(facts, short, "")) is PASS
    assert verdict(room.check_estimate(facts, None, "no table")) is WARN


async def test_the_estimate_is_near_what_the_move_takes(
    target: Connection, database_url: URL, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgferry.operate.estimate.SAMPLE_ROWS", 1000)
    paired = await target_checks.pair(target, source, RULES)
    found = await measure(target, source, paired.pairs, RULES)
    before = await measure(target, source, (), RULES)
    assert found is not None and before is not None
    assert (found.rows, found.sampled_rows, found.by_class, before.by_class) == (6000, 2000, False, True)
    await Mover(target, database_url, source, tmp_path / "home", chunk_rows=2000).run()
    real = await target.fetchval(
        "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest($1::text[]) name", ["parents", "children"]
    )
    assert 0.6 < found.target_bytes / float(real) < 1.7
    assert 0.5 < before.target_bytes / float(real) < 2
    assert 0 < found.seconds < 60


async def test_rows_that_the_target_refuses_are_not_tried(target: Connection, source: Path) -> None:
    await target.execute("CREATE UNIQUE INDEX ON parents ((length(name)))")
    paired = await target_checks.pair(target, source, RULES)
    found = await measure(target, source, paired.pairs, RULES)
    assert found is not None
    assert (found.rows, found.sampled_rows) == (6000, 3000)
    empty = made(source.with_name("empty.db"), "CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    assert await measure(target, empty, (), RULES) is None


# ---------------------------------------------------------------- the plan


def test_the_environment_file(settings: Settings, source: Path) -> None:
    assert verdict(plan_checks.check_environment_file(settings, source)) is WARN
    settings.application_env.write_text("DATABASE_URL=sqlite:///other.db\n")
    assert verdict(plan_checks.check_environment_file(settings, source)) is FAIL
    settings.application_env.write_text(f"DATABASE_URL=sqlite:///{source}\n")
    assert verdict(plan_checks.check_environment_file(settings, source)) is PASS


def test_the_way_back(settings: Settings) -> None:
    found = plan_checks.check_way_back(settings)
    assert (verdict(found), found.measured) == (WARN, "not set: PGFERRY_RESTART_COMMAND, PGFERRY_HEALTH_URL")
    told = {"restart_command": "systemctl restart app", "health_url": "http://127.0.0.1/health"}
    assert verdict(plan_checks.check_way_back(settings.model_copy(update=told))) is PASS


async def test_monitoring(connection: Connection) -> None:
    assert verdict(await plan_checks.check_monitoring(connection)) is WARN
    await install(connection)
    assert verdict(await plan_checks.check_monitoring(connection)) is WARN
    insert = "INSERT INTO pgferry.metric (at, name, value, unit) VALUES (now() - $1::interval, 'x', 1, 'y')"
    await connection.execute(insert.replace("$1", "'3 hours'"))
    found = await plan_checks.check_monitoring(connection)
    assert (verdict(found), "3.0 hours ago" in found.measured) == (WARN, True)
    await connection.execute(insert.replace("$1", "'1 minute'"))
    assert verdict(await plan_checks.check_monitoring(connection)) is PASS


# ---------------------------------------------------------------- the whole


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_the_checklist_changes_nothing(target: Connection, source: Path, settings: Settings) -> None:
    before = digest(source)
    objects = "SELECT count(*) FROM pg_class"
    count = await target.fetchval(objects)
    checks = await run_checks(target, settings, RULES, source)
    assert failed(checks) == ()
    assert len(checks) == len({check.name for check in checks}) == 35
    assert (digest(source), await target.fetchval(objects)) == (before, count)
    assert list((settings.home / "preflight").iterdir()) == []
    assert all(verdict(check) in Verdict for check in checks)


async def test_it_is_told_as_json_and_as_a_list(target: Connection, source: Path, settings: Settings) -> None:
    checks = await run_checks(target, settings.model_copy(update={"pool_size": 10_000}), RULES, source)
    (wrong,) = failed(checks)
    told = to_json(checks)
    assert (told["passed"], len(told["checks"])) == (False, len(checks))
    assert "1 fail" in summary(checks)
    lines = markdown(checks).splitlines()
    assert lines[0].startswith("## Preflight: NOT READY")
    assert lines[2].startswith("- ✗ **FAIL** **connections**: 10017 needed")
    assert sum(line.startswith("- ✓ ") for line in lines) == sum(check.verdict is PASS for check in checks)
    with pytest.raises(Permanent, match="connections: 10017 needed") as caught:
        judge(checks)
    assert caught.value.details["result"] == told
    assert wrong.name == "connections"
    judge([check for check in checks if check is not wrong])


async def test_without_a_server_the_file_is_looked_at_all_the_same(source: Path, settings: Settings) -> None:
    problem = Permanent("PostgreSQL at db:5432 does not accept the password of user app.", "Check it.")
    checks = await run_checks(None, settings, RULES, source, problem=problem)
    (wrong,) = failed(checks)
    assert (wrong.name, f"{wrong.measured}.", wrong.advice) == ("server", problem.message, "Check it.")
    assert {"SQLite integrity", "disk here", "rollback plan"} <= {check.name for check in checks}


@pytest.mark.parametrize(
    "content", [None, b"this is no database at all, but text", b"SQLite format 3\x00" + b"\xff" * 200]
)
async def test_without_a_readable_file_the_server_is_looked_at_all_the_same(
    connection: Connection, settings: Settings, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.db"
    if content is not None:
        path.write_bytes(content)
    checks = await run_checks(connection, settings, RULES, path)
    assert [check.name for check in failed(checks)] == ["SQLite file"]
    assert {"server", "right to make tables", "rollback plan"} <= {check.name for check in checks}


async def test_a_damaged_file_is_told(target: Connection, source: Path, settings: Settings) -> None:
    damaged = bytearray(source.read_bytes())
    damaged[20 * 4096 : 24 * 4096] = b"\x07" * 4 * 4096
    source.write_bytes(damaged)
    checks = await run_checks(target, settings, RULES, source)
    assert [check.name for check in failed(checks)] == ["SQLite integrity"]
    assert list((settings.home / "preflight").iterdir()) == []


async def test_a_role_without_rights_is_told_of_each(target: Connection, source: Path, settings: Settings) -> None:
    async with role(target):
        checks = await run_checks(target, settings, RULES, source)
    names = {check.name for check in failed(checks)}
    expected = {"right to schema pgferry", "right to alter tables"}
    if target.get_server_version().major >= 15:
        expected.add("right to make tables")
    assert expected <= names <= {*expected, "rows in the target"}


async def test_after_the_move_the_rows_are_its_own(
    target: Connection, database_url: URL, source: Path, settings: Settings
) -> None:
    await Mover(target, database_url, source, settings.home, chunk_rows=2000).run()
    checks = await standing_checks(target, settings, RULES, source)
    assert failed(checks) == ()
    assert "those of this source's move" in [check.measured for check in checks]


async def test_a_failed_check_closes_the_gate_of_the_switch(
    connection: Connection, database_url: URL, tmp_path: Path
) -> None:
    create_sqlite(tmp_path / "app.db")
    for statement in POSTGRES:
        await connection.execute(statement)
    move = LiveMove(database_url, tmp_path / "app.db", tmp_path / "home", chunk_rows=500)
    await move.dual_write()
    run = await live_run(connection, str(move.source))

    async def gate(settings: Settings) -> Any:
        gates = (await read_status(connection, run, settings, RULES)).gates
        return next(gate for gate in gates if gate.name == "preflight")

    assert (await gate(move.settings)).passed
    shut = await gate(move.settings.model_copy(update={"pool_size": 10_000}))
    assert (shut.passed, shut.measured.startswith("connections: 10017 needed")) == (False, True)
    move.env_file.unlink()
    assert not (await gate(move.settings)).passed


def test_nothing_paired_has_no_tables() -> None:
    assert Paired(empty=True).oids == []
    assert replace(large(8192), free_pages=1).used_bytes == 0
