"""Connections are cut at any byte, or stay open and pass nothing on: what came over is kept, the rest comes again."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest

from pgferry.errors import Transient
from pgferry.postgres.watched import Stalled
from tests.acceptance.victim import Place, Victim
from tests.proxy import Link, Proxy, simple

SCHEMA = b"CREATE TABLE trades"
LOAD = b'COPY "public"."trades"("id"'
READ = b"COPY (SELECT"

BYTES = 6_000_000
"""What a move of the place's source sends and receives, about."""


def url_of(proxy: Proxy) -> str:
    return proxy.url.render_as_string(hide_password=False)


async def cut_again_and_again(victim: Victim, proxy: Proxy, chance: random.Random, cuts: int) -> list[str]:
    """Move with a connection cut at a random byte each time, then undisturbed; return what was told of the cuts."""
    told = []
    for _ in range(cuts):
        # Half of them early on: what is loaded already is not sent again.
        proxy.cut_after(chance.choice((chance.randrange(BYTES // 4), chance.randrange(BYTES))))
        failed = await victim.attempt(proxy.url)
        if failed is None:
            break
        assert isinstance(failed, Transient), failed
        told.append(failed.message)
        await asyncio.to_thread(victim.wait_until_alone)
        await asyncio.to_thread(victim.assert_rows_are_those_of_the_ledger)
    proxy.cut_after()
    assert await victim.attempt(proxy.url) is None
    return told


def test_a_connection_that_is_cut_is_told_of_and_the_next_run_goes_on(place: Place) -> None:
    victim = place.victim()
    with Proxy(victim.url) as proxy:
        told = asyncio.run(cut_again_and_again(victim, proxy, random.Random(4), cuts=4))
    assert len(told) >= 2
    assert all(re.search(r"connection to 127\.0\.0\.1:\d+ was lost", message) for message in told), told
    victim.assert_like_undisturbed()


@pytest.mark.parametrize("word", [SCHEMA, LOAD, READ], ids=["schema", "load", "read back"])
def test_a_connection_that_stalls_is_given_up_and_the_next_run_goes_on(word: bytes, place: Place) -> None:
    victim = place.victim()
    with Proxy(victim.url) as proxy:
        proxy.when(word, Link.stall, after=100_000 if word == LOAD else 0)
        failed = asyncio.run(asyncio.wait_for(victim.attempt(proxy.url, stall=0.5), 120))
        assert isinstance(failed, Stalled)
        assert "nothing has passed for 0.5 seconds" in failed.message
        proxy.cut()
        victim.wait_until_alone()
        victim.assert_rows_are_those_of_the_ledger()
        assert asyncio.run(victim.attempt(proxy.url)) is None
    victim.assert_like_undisturbed()


@pytest.mark.slow
def test_the_command_goes_on_by_itself_when_a_connection_stalls_or_is_cut(place: Place) -> None:
    victim = place.victim(PGFERRY_STALL_TIMEOUT="1")
    met: list[str] = []

    def stall(link: Link) -> None:
        met.append("stalled")
        link.stall()

    def cut(link: Link) -> None:
        met.append("cut")
        link.cut()

    with Proxy(victim.url) as proxy:
        proxy.when(LOAD, stall, after=50_000)
        proxy.when(simple(b"CREATE INDEX ix_trades_timestamp ON public.trades USING"), cut)
        victim.goes_on(PGFERRY_TARGET=url_of(proxy))
    assert met == ["stalled", "cut"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_connections_that_are_cut_at_two_hundred_bytes(place: Place, tmp_path: Path) -> None:
    chance = random.Random(200)
    cuts = 0
    while cuts < 200:
        victim = place.victim()
        with Proxy(victim.url) as proxy:
            cuts += len(asyncio.run(cut_again_and_again(victim, proxy, chance, cuts=12)))
        victim.assert_like_undisturbed()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_command_under_cuts(place: Place) -> None:
    chance = random.Random(31)
    for _ in range(10):
        victim = place.victim()
        with Proxy(victim.url) as proxy:
            proxy.cut_after(*(chance.randrange(BYTES) for _ in range(4)))
            ended = victim.migrate(seconds=300, PGFERRY_TARGET=url_of(proxy))
            if ended.returncode:
                assert re.search(r"\nError: .*(lost|did not answer|run lock)", ended.stderr), ended.stderr
            victim.wait_until_alone()
            victim.assert_rows_are_those_of_the_ledger()
            if ended.returncode:
                proxy.cut_after()
                victim.finishes(PGFERRY_TARGET=url_of(proxy))
        victim.assert_like_undisturbed()
