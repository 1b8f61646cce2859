"""The move without downtime by its flows, from the first copy to the cleanup, with an application that writes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pgferry.errors import Permanent, UsageError
from pgferry.live.validation import Differs
from tests.flows.live_place import Health, Place, assert_equal, flow_run_of, make_place, plant

__all__ = ["make_place"]


@pytest.fixture(scope="module")
def place(make_place: Callable[[], Place]) -> Place:
    """The application whose whole move is made, test by test."""
    return make_place()


def test_dual_write_copies_and_carries(place: Place) -> None:
    from flows.dual_write import dual_write

    state = dual_write(return_state=True)
    result = state.result()
    assert (result["phase"], result["report"]["verified"]) == ("dual-write", True)
    assert_equal(place)
    place.sqlite("INSERT INTO items (name, active, price) VALUES ('oak', 0, 7.25)", "DELETE FROM notes WHERE n = 2")
    again = dual_write()
    assert (again["run"], again["report"]["already_migrated"]) == (result["run"], True)
    assert (again["carried"]["rows"], again["carried"]["deleted"]) == (1, 1)
    assert_equal(place)


def test_sync_carries_in_the_direction_of_the_phase(place: Place) -> None:
    from flows.sync import sync

    place.sqlite("UPDATE trades SET note = 'changed' WHERE id = 1", "INSERT INTO notes VALUES ('c', 3)")
    result = sync()
    assert (result["carried"]["direction"], result["carried"]["rows"]) == ("SQLite to PostgreSQL", 2)
    assert_equal(place)


def test_a_move_in_one_go_is_refused_meanwhile(place: Place) -> None:
    from flows.migrate import migrate

    with pytest.raises(UsageError, match=r"phase dual-write.*Run `python -m flows switch`"):
        migrate()
    with pytest.raises(UsageError, match=r"rollback.*none is made"):
        from flows.rollback import rollback

        rollback()


def test_the_switch_is_refused_before_a_validation(place: Place) -> None:
    from flows.switch import switch

    gates = {gate["gate"]: gate for gate in switch(dry_run=True)["gates"]}
    assert gates["phase"]["open"]
    assert not gates["validations passed"]["open"]
    assert gates["preflight"]["open"]
    with pytest.raises(UsageError, match=r"switch is refused: validations passed: 0 in a row"):
        switch()


def test_a_planted_difference_fails_the_validation_and_is_mended(place: Place) -> None:
    from flows.validate import validate

    plant(place, "UPDATE items SET price = 99 WHERE id = 2", "DELETE FROM trades WHERE id = 2")
    state = validate(return_state=True)
    with pytest.raises(Differs, match=r"2 differences") as caught:
        state.result()
    found = caught.value.details["result"]["first_differences"]
    assert {(item["table"], item["key"], item["column"]) for item in found} == {
        ("items", "id=2", "price"),
        ("trades", "id=2", None),
    }
    artifacts = {each["key"]: each for each in place.ask("artifacts", flow_run_of(state)) if each["key"]}
    assert {"validation", "validation-tables", "validation-history"} <= artifacts.keys()
    assert artifacts["validation-history"]["data"].startswith("![The validations](data:image/svg+xml;base64,")
    assert "| items | id=2 | price |" in artifacts["validation"]["data"]
    (told,) = place.events("pgferry.validation.failed")
    assert (told["payload"]["differences"], told["payload"]["flow_run"]) == (2, flow_run_of(state))
    mended = validate(repair=True)
    assert (mended["passed"], mended["repaired"]["rows"], mended["repaired"]["left"]) == (True, 2, [])
    assert_equal(place)


def test_queries_of_the_application_are_compared(place: Place) -> None:
    from flows.validate import validate

    (place.folder / "queries").mkdir()
    (place.folder / "queries" / "prices.sql").write_text("SELECT name, price FROM items WHERE active ORDER BY name")
    state = validate(level="sample", sample=50.0, return_state=True)
    result = state.result()
    assert [(query["name"], query["equal"]) for query in result["queries"]] == [("prices", True)]
    (artifact,) = [each for each in place.ask("artifacts", flow_run_of(state)) if each["key"] == "queries"]
    assert "1 of 1 queries answer the same" in artifact["data"]


def test_queries_that_answer_differently_fail_the_validation(place: Place) -> None:
    from flows.switch import switch
    from flows.validate import validate

    asked = place.folder / "queries" / "dear.sql"
    asked.parent.mkdir(exist_ok=True)
    asked.write_text("SELECT name, price FROM items ORDER BY name")
    asked.with_name("dear.postgres.sql").write_text("SELECT name, price + 1 FROM items ORDER BY name")
    state = validate(return_state=True)
    with pytest.raises(Differs, match=r"1 of the application's queries answer differently"):
        state.result()
    asked.unlink()
    asked.with_name("dear.postgres.sql").unlink()
    latest = "SELECT passed, differences, detail -> 'wrong_queries' FROM pgferry.validation ORDER BY id DESC LIMIT 1"
    assert place.postgres(latest) == [(False, 0, '["dear"]')]
    gates = {gate["gate"]: gate for gate in switch(dry_run=True)["gates"]}
    assert not gates["validations passed"]["open"]
    assert "1 of the application's queries answer differently" in gates["validations passed"]["measured"]
    assert validate()["passed"]


def test_a_failing_health_check_turns_everything_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.switch import switch

    env = place.env
    monkeypatch.setattr(Health, "status", 503)
    with pytest.raises(Permanent, match=r"taken back, after [\d.]+ s without writes: The application is not healthy"):
        switch()
    assert place.env == env
    assert place.restarts == 2
    place.sqlite("UPDATE items SET price = 4 WHERE id = 2")
    assert place.phase == "dual-write"


def test_the_switch_puts_postgres_in_front(place: Place) -> None:
    from flows.switch import switch

    state = switch(return_state=True)
    result = state.result()
    assert result["phase"] == "switched"
    assert {"fence", "drain", "compare", "restart", "health"} <= result["frozen"].keys()
    assert 0 < result["frozen_seconds"] < 30
    assert result["foreign_key_problems"] == []
    assert "DATABASE_URL=postgresql+asyncpg://" in place.env
    with pytest.raises(sqlite3.IntegrityError, match="this database has moved to PostgreSQL"):
        place.sqlite("DELETE FROM notes")
    assert {"switch", "switch-gates"} <= {each["key"] for each in place.ask("artifacts", flow_run_of(state))}
    assert_equal(place)


def test_sync_carries_back_and_validates_after_the_switch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.sync import sync
    from flows.validate import validate

    monkeypatch.delenv("PGFERRY_SOURCE")
    place.postgres(
        "INSERT INTO items (name, active, price) VALUES ('magic', true, 1.5)",
        "UPDATE trades SET at = '2024-05-06 07:08:09.25' WHERE id = 1",
        "DELETE FROM notes WHERE n = 3",
    )
    carried = sync()["carried"]
    assert (carried["direction"], carried["rows"], carried["deleted"]) == ("PostgreSQL to SQLite", 2, 1)
    assert place.sqlite("SELECT active, typeof(active) FROM items WHERE name = 'magic'") == [(1, "integer")]
    assert place.sqlite("SELECT at FROM trades WHERE id = 1") == [("2024-05-06 07:08:09.250000",)]
    assert_equal(place)
    assert validate()["direction"] == "PostgreSQL to SQLite"


def test_the_rollback_keeps_every_write(place: Place) -> None:
    from flows.rollback import rollback

    place.postgres("INSERT INTO notes VALUES ('late', 9)")
    env, restarts = place.env, place.restarts
    result = rollback()
    assert (result["phase"], result["carried"]) == ("dual-write", 1)
    assert place.env != env
    assert "DATABASE_URL=sqlite+aiosqlite:///" in place.env
    assert place.restarts == restarts + 1
    place.sqlite("INSERT INTO notes VALUES ('back', 10)")
    from flows.sync import sync

    sync()
    assert_equal(place)


def test_the_second_switch_and_the_cleanup(place: Place) -> None:
    from flows.cleanup import cleanup
    from flows.switch import switch
    from flows.validate import validate

    validate()
    assert switch()["phase"] == "switched"
    with pytest.raises(UsageError, match=r"cleanup is refused: .*validation since the switch"):
        cleanup(confirm=str(place.target.database))
    validate()
    planned = cleanup(dry_run=True)["planned"]
    assert any("_pgferry_outbox" in name for name in planned)
    with pytest.raises(UsageError, match=f"--confirm {place.target.database}"):
        cleanup()
    done = cleanup(confirm=str(place.target.database))
    assert Path(done["archive"]["path"]).stat().st_mode & 0o222 == 0
    assert place.postgres("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgferry%'") == [(0,)]
    with pytest.raises(UsageError, match="Nothing is left to clean up"):
        cleanup(confirm=str(place.target.database))
