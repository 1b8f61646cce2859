"""The gates before switch and cleanup: each one alone closes for its reason, with what was measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pgferry.live.gates import CleanupFacts, Gate, Lag, SwitchFacts, cleanup_gates, closed, switch_gates
from pgferry.live.model import Change, ChangeKind, Direction, Phase, PhaseRecord, ValidationRecord
from pgferry.settings import Settings

NOW = datetime(2024, 3, 10, 12, 0, tzinfo=UTC)
PASSED = ValidationRecord(Direction.FORWARD, "cells", NOW, NOW, NOW - timedelta(hours=2), True, 3, 100, 400, 0, 1.0)
FAILED = replace(PASSED, passed=False, differences=1, orphans=2, moment=NOW - timedelta(hours=26))
SWITCH = SwitchFacts(PhaseRecord(Phase.DUAL_WRITE, NOW), NOW, (PASSED,) * 3, Lag(1000, 10.0))
CLEANUP = CleanupFacts(PhaseRecord(Phase.SWITCHED, NOW - timedelta(days=7)), NOW, (PASSED,), Lag(0, 0.0))


@pytest.fixture
def settings(monkeypatch, tmp_path) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings()


def the_closed(gates: tuple[Gate, ...]) -> Gate:
    (gate,) = closed(gates)
    return gate


def test_all_gates_of_the_switch_are_open_at_their_limits(settings):
    gates = switch_gates(SWITCH, settings)
    assert closed(gates) == ()
    assert [(gate.name, gate.measured, gate.needed) for gate in gates] == [
        (
            "phase",
            "dual-write since 2024-03-10 12:00:00 UTC: SQLite is in front and PostgreSQL is kept level",
            "dual-write",
        ),
        ("validations passed", "3 in a row", "3 in a row, of every cell"),
        ("age of the latest validation", "2.0 hours old", "at most 24 hours old"),
        ("lag in rows", "1,000 rows", "at most 1,000"),
        ("lag in time", "10.0 s", "at most 10 s"),
        ("schema of the source", "unchanged", "unchanged"),
        ("quarantine", "no rows", "no rows except in accepted tables"),
        ("writes left behind", "none", "none"),
        ("preflight", "all checks passed", "all checks passed"),
    ]
    assert all(gate.action.endswith(".") for gate in gates)


@pytest.mark.parametrize(
    ("facts", "name", "measured", "action"),
    [
        ({"phase": PhaseRecord(Phase.LOADING, NOW)}, "phase", "loading since", "flows dual-write"),
        ({"phase": PhaseRecord(Phase.SWITCHED, NOW)}, "phase", "switched since", "flows rollback"),
        ({"validations": (PASSED, PASSED)}, "validations passed", "2 in a row", "flows validate`"),
        (
            {"validations": (PASSED, PASSED, FAILED, PASSED)},
            "validations passed",
            "2 in a row; the one of 2024-03-09 10:00 failed with 1 difference and 2 orphans",
            "flows validate`",
        ),
        (
            {"validations": (replace(FAILED, moment=NOW), PASSED, PASSED, PASSED)},
            "validations passed",
            "0 in a row; the one of 2024-03-10 12:00 failed",
            "validate --repair",
        ),
        (
            {"validations": (replace(PASSED, moment=NOW - timedelta(hours=24, seconds=1)), PASSED, PASSED)},
            "age of the latest validation",
            "24.0 hours old",
            "flows validate`",
        ),
        ({"lag": Lag(1001, 0)}, "lag in rows", "1,001 rows", "flows sync"),
        ({"lag": Lag(1, 10.1)}, "lag in time", "10.1 s", "flows sync"),
        (
            {"changes": (Change(ChangeKind.ALTERED, "Items", "x"), Change(ChangeKind.REPLACED, "", "y"))},
            "schema of the source",
            "Items altered, the file replaced by another file",
            "dual-write --resume",
        ),
        (
            {"quarantined": {"b": 1, "a": 2000, "c": 0}},
            "quarantine",
            "2,000 rows of a, 1 row of b",
            "accept_quarantined",
        ),
        ({"uncarried": 1}, "writes left behind", "1 row", "rollback --carry"),
        (
            {"failed_checks": tuple(f"check {number}" for number in range(7))},
            "preflight",
            "check 0, check 1, check 2, check 3, check 4, and 2 more",
            "Correct",
        ),
    ],
)
def test_a_gate_of_the_switch_closes_alone_and_says_why(settings, facts, name, measured, action):
    gate = the_closed(switch_gates(replace(SWITCH, **facts), settings))
    assert gate.name == name
    assert gate.measured.startswith(measured)
    assert action in gate.action


def test_without_any_validation_both_gates_of_validations_are_closed(settings):
    gates = closed(switch_gates(replace(SWITCH, validations=()), settings))
    assert [gate.measured for gate in gates] == ["0 in a row", "there is none of every cell"]


def test_a_lag_that_cannot_be_told_closes_both_gates_of_lag(settings):
    gates = closed(switch_gates(replace(SWITCH, lag=None), settings))
    assert [(gate.name, gate.measured) for gate in gates] == [("lag in rows", "unknown"), ("lag in time", "unknown")]


def test_accepted_tables_may_have_quarantined_rows(settings):
    facts = replace(SWITCH, quarantined={"a": 5}, accepted=frozenset({"a"}))
    assert closed(switch_gates(facts, settings)) == ()


def test_the_settings_are_the_limits(settings):
    limits = settings.model_copy(
        update={"validations_needed": 4, "validation_max_age_hours": 1.5, "max_lag_rows": 999, "max_lag_seconds": 9.5}
    )
    gates = closed(switch_gates(SWITCH, limits))
    assert [gate.needed for gate in gates] == [
        "4 in a row, of every cell",
        "at most 1.5 hours old",
        "at most 999",
        "at most 9.5 s",
    ]


def test_all_gates_of_the_cleanup_are_open_at_their_limits(settings):
    gates = cleanup_gates(CLEANUP, settings)
    assert closed(gates) == ()
    assert [(gate.name, gate.measured) for gate in gates][1:3] == [
        ("time since the switch", "7.0 days"),
        ("validation since the switch", "the one of 2024-03-10 10:00 passed"),
    ]


@pytest.mark.parametrize(
    ("facts", "name", "measured"),
    [
        ({"phase": PhaseRecord(Phase.SWITCHED, NOW - timedelta(hours=5))}, "time since the switch", "5.0 hours"),
        ({"validations": ()}, "validation since the switch", "there is none"),
        ({"validations": (FAILED,)}, "validation since the switch", "the one of 2024-03-09 10:00 failed with 1 diff"),
        ({"lag": Lag(1001, 0)}, "lag in rows", "1,001 rows"),
        ({"uncarried": 12345}, "writes left behind", "12,345 rows"),
    ],
)
def test_a_gate_of_the_cleanup_closes_alone_and_says_why(settings, facts, name, measured):
    gate = the_closed(cleanup_gates(replace(CLEANUP, **facts), settings))
    assert gate.name == name
    assert gate.measured.startswith(measured)


def test_before_the_switch_there_is_no_time_since_it(settings):
    facts = replace(CLEANUP, phase=PhaseRecord(Phase.DUAL_WRITE, NOW - timedelta(days=100)))
    assert [gate.measured[:12] for gate in closed(cleanup_gates(facts, settings))] == ["dual-write s", "PostgreSQL i"]
