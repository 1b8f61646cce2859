"""The phases of a live move: every pair of phase and command, every transition, and two who change it at once."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pgferry.errors import Permanent
from pgferry.live.gates import Lag, measure_cleanup, measure_switch
from pgferry.live.model import Direction, Phase, PhaseRecord, ValidationRecord
from pgferry.live.phases import (
    COMMANDS,
    TRANSITIONS,
    OutOfOrder,
    amend,
    current,
    enter,
    history,
    meaning,
    next_action,
    require,
)
from pgferry.model import QuarantinedRow, StorageClass
from pgferry.postgres import journal, ledger
from pgferry.postgres.connection import connect

SINCE = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)

ALLOWED = {
    "none": {"dual-write", "dual-write --undo", "migrate", "migrate --cut-over", "quarantine replay"},
    "loading": {"dual-write", "dual-write --undo", "dual-write --resume", "migrate --cut-over"},
    "dual-write": {
        "dual-write",
        "dual-write --undo",
        "dual-write --resume",
        "sync",
        "validate",
        "switch",
        "rollback --carry",
    },
    "switching": {"switch", "rollback", "rollback --emergency", "migrate --cut-over"},
    "switched": {"sync", "validate", "rollback", "rollback --emergency", "cleanup"},
    "rolling-back": {"rollback", "rollback --emergency"},
    "emergency": {"rollback --emergency", "rollback --carry"},
    "cleaned": {"cleanup"},
}
"""Phase -> commands, written down a second time, the other way round."""

LEADS = {
    ("none", "loading"),
    ("loading", "dual-write"),
    ("loading", "switching"),
    ("loading", "none"),
    ("dual-write", "switching"),
    ("dual-write", "loading"),
    ("dual-write", "none"),
    ("switching", "switched"),
    ("switching", "dual-write"),
    ("switching", "loading"),
    ("switching", "emergency"),
    ("switched", "rolling-back"),
    ("switched", "emergency"),
    ("switched", "cleaned"),
    ("rolling-back", "dual-write"),
    ("rolling-back", "switched"),
    ("rolling-back", "emergency"),
    ("emergency", "dual-write"),
    ("cleaned", "none"),
}

WAYS = {
    Phase.NONE: (),
    Phase.LOADING: (Phase.LOADING,),
    Phase.DUAL_WRITE: (Phase.LOADING, Phase.DUAL_WRITE),
    Phase.SWITCHING: (Phase.LOADING, Phase.DUAL_WRITE, Phase.SWITCHING),
    Phase.SWITCHED: (Phase.LOADING, Phase.DUAL_WRITE, Phase.SWITCHING, Phase.SWITCHED),
    Phase.ROLLING_BACK: (Phase.LOADING, Phase.DUAL_WRITE, Phase.SWITCHING, Phase.SWITCHED, Phase.ROLLING_BACK),
    Phase.EMERGENCY: (Phase.LOADING, Phase.DUAL_WRITE, Phase.SWITCHING, Phase.EMERGENCY),
    Phase.CLEANED: (Phase.LOADING, Phase.DUAL_WRITE, Phase.SWITCHING, Phase.SWITCHED, Phase.CLEANED),
}


@pytest.fixture
async def run(connection):
    await ledger.install(connection)
    return await ledger.begin_run(connection, "/data/app.db", "fingerprint")


@pytest.fixture
async def other(database_url):
    opened = await connect(database_url)
    yield opened
    await opened.close(timeout=5)


async def go(connection, run, *phases):
    for phase in phases:
        await enter(connection, run.id, phase)


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("phase", Phase)
def test_a_command_runs_in_its_phases_and_is_refused_in_all_others(phase, command):
    record = PhaseRecord(phase, SINCE)
    if command in ALLOWED[phase.value]:
        assert require(record, command) is None
        return
    with pytest.raises(OutOfOrder) as refused:
        require(record, command)
    message, action = refused.value.message, refused.value.action
    assert message.startswith(f"{command}: this database is in phase {phase} since 2024-02-29 12:30:00 UTC: ")
    assert meaning(phase) in message
    assert message.endswith(".")
    assert action.endswith(".")
    assert refused.value.exit_code == 2
    proposed = re.findall(r"`python -m flows ([^`]+)`", action)
    assert command not in proposed, "what is refused is not proposed"
    known = [name for name in proposed if name != "status"]
    assert all(name in ALLOWED[phase.value] for name in known), "what is proposed may run"


def test_the_words_of_a_refusal():
    with pytest.raises(OutOfOrder) as refused:
        require(PhaseRecord(Phase.LOADING, SINCE), "switch")
    assert str(refused.value) == (
        "switch: this database is in phase loading since 2024-02-29 12:30:00 UTC: the first copy is being made. The "
        "command needs SQLite in front and PostgreSQL level with it. Run `python -m flows dual-write` first; it goes "
        "on where it stopped."
    )


def test_the_table_of_commands_is_whole():
    assert set().union(*ALLOWED.values()) == set(COMMANDS)
    assert set(TRANSITIONS) == set(Phase)
    assert all(next_action(phase) and meaning(phase) for phase in Phase)


# ---------------------------------------------------------------- transitions


@pytest.mark.parametrize("phase", Phase)
async def test_a_phase_leads_where_the_table_says_and_nowhere_else(connection, run, phase):
    await go(connection, run, *WAYS[phase])
    for follower in Phase:
        trial = connection.transaction()
        await trial.start()
        if (phase.value, follower.value) in LEADS:
            assert (await enter(connection, run.id, follower)).phase is follower
        else:
            with pytest.raises(OutOfOrder, match=f"from phase {phase}, .* to phase {follower}"):
                await enter(connection, run.id, follower)
            assert (await current(connection, run.id)).phase is phase
        await trial.rollback()


async def test_a_run_without_phases_is_in_none_since_it_was_begun(connection, run):
    assert await current(connection, run.id) == PhaseRecord(Phase.NONE, run.started_at, "", {})
    assert await history(connection, run.id) == ()


async def test_the_history_is_kept_with_reasons_and_details(connection, run):
    details = {"path": "/data/.env", "odd": "a\x00b\ud800", "at": SINCE}
    entered = await enter(connection, run.id, Phase.LOADING, "by a person\x00", details)
    assert entered.details == {"path": "/data/.env", "odd": "a\\x00b\\ud800", "at": "2024-02-29 12:30:00+00:00"}
    assert entered.reason == "by a person\\x00"
    await go(connection, run, Phase.NONE, Phase.LOADING, Phase.DUAL_WRITE)
    past = await history(connection, run.id)
    assert [each.phase for each in past] == [Phase.LOADING, Phase.NONE, Phase.LOADING, Phase.DUAL_WRITE]
    assert past[0] == entered
    assert [each.since for each in past] == sorted(each.since for each in past)
    assert await current(connection, run.id) == past[-1]


async def test_runs_have_phases_of_their_own(connection, run):
    second = await ledger.begin_run(connection, "/data/b.db", "f")
    await go(connection, run, Phase.LOADING, Phase.DUAL_WRITE)
    assert (await current(connection, second.id)).phase is Phase.NONE


async def test_a_run_that_is_not_there_is_named(connection, run):
    for call in (current(connection, 4711), enter(connection, 4711, Phase.LOADING)):
        with pytest.raises(Permanent, match="no run 4711"):
            await call


async def test_details_are_added_only_while_the_phase_lasts(connection, run):
    with pytest.raises(Permanent, match="no phase whose details"):
        await amend(connection, run.id, Phase.NONE, {"a": 1})
    await enter(connection, run.id, Phase.LOADING, "why", {"a": 1, "b": 1})
    amended = await amend(connection, run.id, Phase.LOADING, {"b": 2, "c": 3})
    assert (amended.details, amended.reason) == ({"a": 1, "b": 2, "c": 3}, "why")
    with pytest.raises(OutOfOrder, match="in phase loading by now, not in phase switching"):
        await amend(connection, run.id, Phase.SWITCHING, {"a": 1})
    assert await history(connection, run.id) == (amended,)


async def test_of_two_that_enter_at_once_one_is_refused(connection, other, run):
    for _again in range(10):
        await go(connection, run, Phase.LOADING)
        ends = await asyncio.gather(
            *(enter(conn, run.id, Phase.DUAL_WRITE) for conn in (connection, other)), return_exceptions=True
        )
        assert sorted(type(end).__name__ for end in ends) == ["OutOfOrder", "PhaseRecord"]
        await go(connection, run, Phase.NONE)
    assert len(await history(connection, run.id)) == 30


async def test_whoever_waited_sees_what_the_first_one_did_whatever_the_default_isolation(connection, other, run):
    await go(connection, run, Phase.LOADING)
    await other.execute("SET default_transaction_isolation = 'repeatable read'")
    async with connection.transaction():
        await enter(connection, run.id, Phase.DUAL_WRITE)
        waiting = asyncio.create_task(enter(other, run.id, Phase.NONE))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    assert (await waiting).phase is Phase.NONE
    assert [each.phase for each in await history(connection, run.id)] == ["loading", "dual-write", "none"]


async def test_a_phase_commits_with_the_work_around_it(connection, other, run):
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await enter(connection, run.id, Phase.LOADING)
            assert (await current(other, run.id)).phase is Phase.NONE
            raise ZeroDivisionError
    assert (await current(connection, run.id)).phase is Phase.NONE
    async with connection.transaction(isolation="repeatable_read"):
        with pytest.raises(RuntimeError, match="before a transaction of that isolation"):
            await enter(connection, run.id, Phase.LOADING)


# ---------------------------------------------------------------- what the gates measure


def validation(moment, *, level="cells", passed=True):
    return ValidationRecord(Direction.FORWARD, level, moment, moment, moment, passed, 1, 1, 1, 0, 1.0)


async def test_the_facts_of_the_switch_are_those_since_the_first_copy(connection, run):
    now = await journal.server_time(connection)
    await journal.record_validation(connection, run.id, validation(now - timedelta(hours=1)))
    await go(connection, run, Phase.LOADING, Phase.DUAL_WRITE)
    later = await journal.server_time(connection)
    assert (await measure_switch(connection, run.id, lag=None)).validations == ()
    for record in (validation(later), validation(later, level="counts"), validation(later, passed=False)):
        await journal.record_validation(connection, run.id, record)
    row = QuarantinedRow("Items", (1,), "c", StorageClass.TEXT, b"x", "no date")
    async with connection.transaction():
        await journal.refresh_quarantine(connection, run.id, "Items", None, [row])
    await journal.record_uncarried(connection, run.id, "Items", [(1,)], "unreachable")
    facts = await measure_switch(
        connection, run.id, lag=Lag(3, 0.5), accepted=frozenset({"x"}), failed_checks=["no disk"]
    )
    assert [(each.level, each.passed) for each in facts.validations] == [("cells", False), ("cells", True)]
    assert (facts.phase.phase, facts.lag, facts.quarantined) == (Phase.DUAL_WRITE, Lag(3, 0.5), {"Items": 1})
    assert (facts.uncarried, facts.accepted, facts.failed_checks) == (1, frozenset({"x"}), ("no disk",))
    assert abs(facts.now - later) < timedelta(minutes=1)


async def test_a_failed_switch_keeps_its_validations_and_an_emergency_does_not(connection, run):
    await go(connection, run, Phase.LOADING, Phase.DUAL_WRITE)
    await journal.record_validation(connection, run.id, validation(await journal.server_time(connection)))
    await go(connection, run, Phase.SWITCHING, Phase.DUAL_WRITE)
    assert len((await measure_switch(connection, run.id, lag=None)).validations) == 1
    await go(connection, run, Phase.SWITCHING, Phase.EMERGENCY, Phase.DUAL_WRITE)
    assert (await measure_switch(connection, run.id, lag=None)).validations == ()


async def test_the_facts_of_the_cleanup_are_those_since_the_switch(connection, run):
    await go(connection, run, Phase.LOADING, Phase.DUAL_WRITE)
    await journal.record_validation(connection, run.id, validation(await journal.server_time(connection)))
    assert (await measure_cleanup(connection, run.id, lag=None)).validations == ()
    await go(connection, run, Phase.SWITCHING, Phase.SWITCHED)
    assert (await measure_cleanup(connection, run.id, lag=None)).validations == ()
    after = replace(validation(await journal.server_time(connection)), direction=Direction.REVERSE)
    await journal.record_validation(connection, run.id, after)
    facts = await measure_cleanup(connection, run.id, lag=Lag(0, 0.0))
    assert [each.direction for each in facts.validations] == [Direction.REVERSE]
    assert facts.phase.phase is Phase.SWITCHED
