"""Killed by SIGKILL at any moment, the same command goes on, and what comes out is what an undisturbed run makes."""

from __future__ import annotations

import random

import pytest

from tests.acceptance.moving import ask
from tests.acceptance.victim import STEPS, Place, Victim

KILLS = 100


def test_undisturbed_it_tells_its_steps_in_their_order(place: Place) -> None:
    victim = place.victim()
    ended = victim.migrate()
    assert ended.returncode == 0, ended.stderr
    steps = [line.removesuffix(" …") for line in ended.stderr.splitlines() if line.endswith(" …")]
    assert steps[-len(STEPS) :] == [*STEPS]
    victim.assert_like_undisturbed()


def test_killed_when_a_step_begins_and_in_the_next_run_at_the_next_step(place: Place) -> None:
    victim = place.victim()
    for step in STEPS:
        assert victim.killed_at(step)
    victim.finishes()


def test_killed_in_the_midst_of_the_load_and_of_the_builds(place: Place) -> None:
    chance = random.Random(20261122)
    victim = place.victim()
    for _ in range(3):
        victim.killed_at("export and load", chance.uniform(0.05, 0.8))
    victim.killed_at("build indexes and verify", chance.uniform(0.05, 0.5))
    victim.finishes()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_a_hundred_times(place: Place) -> None:
    chance = random.Random(100)
    kills = 0
    for _ in range(KILLS):
        kills += killed_up_to_four_times(place.victim(), chance)
        if kills >= KILLS:
            break
    assert kills >= KILLS


def killed_up_to_four_times(victim: Victim, chance: random.Random) -> int:
    """Kill a move at random moments and let it finish; return how often it was alive when it was killed."""
    kills = 0
    for _ in range(4):
        # Each run has the steps that are left; a step of an earlier run is said again.
        kills += victim.killed_at(chance.choice(STEPS), chance.uniform(0, 2))
        if victim_is_done(victim):
            return kills
    victim.finishes()
    return kills


def victim_is_done(victim: Victim) -> bool:
    """Say whether the last run had come to its end when it was killed, or before."""
    if not ask(victim.url, "SELECT 1 WHERE to_regclass('pgferry.run') IS NOT NULL"):
        return False
    done = bool(ask(victim.url, "SELECT 1 FROM pgferry.run WHERE status = 'finished'"))
    if done:
        victim.assert_like_undisturbed()
    return done
