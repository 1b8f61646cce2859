"""Ctrl-C comes through, whatever the work that it interrupts makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from pgferry.interrupts import hides_interrupt, run


async def interrupted(then: str) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if then == "goes on":
            return "done"
        if then == "fails":
            raise ConnectionError("reset") from None
        raise
    return "never interrupted"


@pytest.mark.parametrize("then", ["goes on", "fails", "stops"])
def test_it_is_raised_whatever_the_work_makes_of_it(then: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(interrupted(then))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(asyncio.sleep(0, "the next work is not concerned")) == "the next work is not concerned"


def test_without_it_results_and_errors_are_those_of_the_work() -> None:
    async def fail() -> None:
        raise ConnectionError("reset")

    assert run(asyncio.sleep(0, 1)) == 1
    with pytest.raises(ConnectionError, match="reset"):
        run(fail())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_on_another_thread_and_beside_another_listener_nothing_is_listened_to() -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run(asyncio.sleep(0, 1))))
    thread.start()
    thread.join()

    def own(*_: object) -> None:
        """Count nothing: it must only stay."""

    before = signal.signal(signal.SIGINT, own)
    try:
        results.append(run(asyncio.sleep(0, 2)))
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert results == [1, 2]


def test_an_error_that_was_raised_while_one_was_handled_hides_it() -> None:
    inner, outer = IndexError(), ValueError()
    outer.__cause__ = inner
    assert not hides_interrupt(outer)
    inner.__context__ = KeyboardInterrupt()
    assert hides_interrupt(outer)
    assert not hides_interrupt(None)
