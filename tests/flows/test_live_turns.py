"""Turns that a move without downtime may take: a maintenance window, an approval, an emergency, a changed schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgferry.errors import Permanent, Transient, UsageError
from pgferry.finishing import NotAccepted
from pgferry.live.changes import SchemaChanged
from tests.flows.live_place import PATIENCE, Health, Place, approve, assert_equal, make_place

__all__ = ["make_place"]

SECOND_REVISION = """
from alembic import op
revision, down_revision = "2", "1"
def upgrade():
    op.execute("ALTER TABLE notes ADD COLUMN extra text")
"""


def answered(place: Place, flow: Callable[..., Any], confirm: str) -> Any:
    """Run a flow that asks for approval, answer it, and return its final state."""
    with ThreadPoolExecutor(1) as others:
        running = others.submit(lambda: flow(approve=True, return_state=True))
        approve(place.api, confirm)
        return running.result(timeout=PATIENCE)


@pytest.fixture(scope="module")
def window(make_place: Callable[[], Place]) -> Place:
    """An application that is moved in a maintenance window."""
    return make_place()


def test_a_window_whose_copy_fails_lets_the_application_write_again(window: Place) -> None:
    from flows.migrate import migrate

    window.sqlite("INSERT INTO items (id, name, active, price) VALUES (50, 'bad', 1, 'ten')")
    env = window.env
    with pytest.raises(Permanent, match=r"taken back.*in quarantine: 1 of items"):
        migrate(cut_over=True)
    assert window.env == env
    window.sqlite("UPDATE items SET price = 10 WHERE id = 50")
    assert window.phase == "dual-write"


def test_nothing_is_kept_level_before_dual_write(make_place: Callable[[], Place]) -> None:
    from flows.cleanup import cleanup
    from flows.migrate import migrate
    from flows.sync import sync
    from flows.validate import validate

    place = make_place()
    for flow in (sync, validate):
        with pytest.raises(UsageError, match="dual-write"):
            flow()
        state = flow(scheduled=True, return_state=True)
        assert state.is_completed()
        assert state.message.startswith("Nothing to ")

    result = migrate(cut_over=True)
    assert (result["phase"], result["verified"]) == ("switched", True)
    assert {"copy", "fence", "environment", "health"} <= result["switch"]["frozen"].keys()
    assert result["switch"]["foreign_keys_added"] == 1
    assert place.restarts == 1
    assert "DATABASE_URL=postgresql+asyncpg://" in place.env
    with pytest.raises(sqlite3.IntegrityError, match="moved to PostgreSQL"):
        place.sqlite("DELETE FROM notes")
    assert_equal(place)

    # The end of it, by a person's word.
    validate()
    done = answered(place, cleanup, str(place.target.database)).result()
    assert (done["phase"], done["approved_by"]) == ("cleaned", "Ada")
    assert place.phase == "cleaned"


@pytest.fixture(scope="module")
def place(make_place: Callable[[], Place]) -> Place:
    """An application in dual-write."""
    from flows.dual_write import dual_write

    found = make_place()
    dual_write()
    return found


def test_a_changed_schema_stops_the_sync_and_only_that_table_is_copied_again(place: Place) -> None:
    from flows.dual_write import dual_write
    from flows.sync import sync

    place.sqlite("ALTER TABLE notes ADD COLUMN extra TEXT", "UPDATE notes SET extra = 'x'")
    with pytest.raises(SchemaChanged, match=r"'notes' is altered.*dual-write --resume"):
        sync()
    (place.folder / "schema" / "versions" / "2.py").write_text(SECOND_REVISION)
    result = dual_write(resume=True)
    assert (result["phase"], result["copied"]) == ("dual-write", ["notes"])
    assert place.postgres("SELECT DISTINCT extra FROM notes") == [("x",)]
    assert_equal(place)


def test_rows_that_do_not_fit_are_told_and_everything_else_is_level(place: Place) -> None:
    from flows.dual_write import dual_write

    place.sqlite("INSERT INTO items (id, name, active, price) VALUES (60, 'bad', 1, 'ten')")
    with pytest.raises(NotAccepted, match="1 of items") as caught:
        dual_write()
    assert caught.value.details["result"]["phase"] == "dual-write"
    place.sqlite("UPDATE items SET price = 10 WHERE id = 60")
    dual_write()
    assert_equal(place)


def test_the_switch_waits_for_a_persons_word(place: Place) -> None:
    from flows.switch import switch
    from flows.validate import validate

    validate()
    wrong = answered(place, switch, "another")
    with pytest.raises(Permanent, match="Ada confirmed the database 'another'"):
        wrong.result()
    assert place.phase == "dual-write"
    right = answered(place, switch, str(place.target.database)).result()
    assert (right["phase"], right["approved_by"]) == ("switched", "Ada")
    assert place.phase == "switched"


def test_rollback_and_cleanup_wait_for_a_persons_word(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cleanup import cleanup
    from flows.rollback import rollback
    from flows.validate import validate

    validate()
    for step in (rollback, cleanup):
        wrong = answered(place, step, "another")
        with pytest.raises(Permanent, match=f"Ada confirmed the database 'another', but the {step.name} is of "):
            wrong.result()
        assert place.phase == "switched"
    monkeypatch.setenv("PGFERRY_APPROVAL_TIMEOUT", "1")
    with pytest.raises(Permanent, match="Nobody approved the rollback within 1 s"):
        rollback(approve=True)
    assert place.phase == "switched"


def test_an_emergency_lists_what_it_leaves_and_that_is_carried_later(place: Place) -> None:
    from flows.rollback import rollback

    place.postgres("INSERT INTO trades VALUES (70, 1, '2024-01-01', 'left behind')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGFERRY_TARGET", str(place.target.set(port=1)))
        unreachable = rollback(emergency=True)
    assert unreachable["left"] is None
    assert "DATABASE_URL=sqlite" in place.env
    place.sqlite("INSERT INTO trades VALUES (71, 1, '2024-01-02 00:00:00.000000', 'in SQLite')")

    listed = rollback(emergency=True)
    assert listed["left"] == {"trades": [[70]]}
    assert place.phase == "emergency"
    assert rollback(carry=True)["carried"] == 1
    assert place.phase == "dual-write"
    from flows.sync import sync

    sync()
    assert place.sqlite("SELECT id FROM trades WHERE id >= 70 ORDER BY id") == [(70,), (71,)]
    assert_equal(place)


def test_what_an_emergency_left_is_carried_though_postgresql_never_heard_of_it(place: Place) -> None:
    from flows.rollback import rollback
    from flows.switch import switch
    from flows.sync import sync
    from flows.validate import validate

    validate()
    switch()
    place.postgres("INSERT INTO trades VALUES (80, 1, '2024-01-01', 'left behind')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGFERRY_TARGET", str(place.target.set(port=1)))
        assert rollback(emergency=True)["left"] is None
    place.sqlite("INSERT INTO trades VALUES (81, 1, '2024-01-02 00:00:00.000000', 'in SQLite')")
    with pytest.raises(UsageError, match="rollback --carry"):
        rollback()
    assert rollback(carry=True, prefer="sqlite")["carried"] == 1
    sync()
    assert place.sqlite("SELECT id FROM trades WHERE id >= 80 ORDER BY id") == [(80,), (81,)]
    assert_equal(place)


def test_a_rollback_whose_end_failed_restarts_the_application_when_it_is_repeated(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.rollback import rollback
    from flows.switch import switch
    from flows.validate import validate
    from pgferry.postgres import capture

    async def busy(*_: object) -> None:
        raise Transient("Table items was locked.", "")

    validate()
    switch()
    before = place.restarts
    monkeypatch.setattr(capture, "remove", busy)
    with pytest.raises(Transient, match="was locked"):
        rollback()
    monkeypatch.undo()
    assert (place.restarts, "DATABASE_URL=sqlite" in place.env) == (before, True)
    monkeypatch.setenv("PGFERRY_RESTART_COMMAND", "false")
    with pytest.raises(Permanent, match="restart command"):
        rollback()
    monkeypatch.undo()
    assert place.phase == "dual-write"
    assert rollback()["phase"] == "dual-write"
    assert place.restarts == before + 1
    with pytest.raises(UsageError, match="none is made"):
        rollback()


def test_an_emergency_frees_sqlite_from_a_killed_switch_without_postgresql(place: Place) -> None:
    from flows.sync import sync
    from pgferry.sqlite.fence import fence

    place.postgres(
        "INSERT INTO pgferry.phase (run_id, phase, reason) SELECT max(id), 'switching', 'killed' FROM pgferry.run"
    )
    fence(place.source, "moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGFERRY_TARGET", str(place.target.set(port=1)))
        patch.setenv("PREFECT_API_URL", place.api)
        done = place.command("rollback", "--emergency")
    assert done.exit_code == 0, done.output
    assert "Nothing was left behind" in done.output
    place.sqlite("DELETE FROM trades WHERE id = 81")
    assert sync()["phase"] == "dual-write"
    assert_equal(place)


def test_what_a_killed_switch_left_is_undone_by_the_next_sync(place: Place) -> None:
    """Killed behind the fence: the phase is switching, and nobody holds the run lock."""
    from flows.sync import sync

    place.postgres(
        "INSERT INTO pgferry.phase (run_id, phase, reason) SELECT max(id), 'switching', 'killed' FROM pgferry.run"
    )
    from pgferry.sqlite.fence import fence

    fence(place.source, "moved")
    assert sync()["phase"] == "dual-write"
    place.sqlite("DELETE FROM trades WHERE id = 71")


def test_the_health_page_is_well() -> None:
    assert Health.status == 200
