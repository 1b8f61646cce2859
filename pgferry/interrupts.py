"""Ctrl-C: nothing that is run here may swallow it, and no error may hide it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar, cast

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run async work to its end in a loop of its own, as asyncio.run does; a Ctrl-C is raised in any case.

    asyncio cancels the work when a first SIGINT comes. Where the work goes on all the same, as a driver's may whose
    answer came at that moment, or ends with another error, asyncio forgets the signal; here KeyboardInterrupt is raised
    at the end. On other threads than the main one, and where somebody else listens to SIGINT, it is asyncio.run.
    """
    listening = threading.current_thread() is threading.main_thread()
    if not listening or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return asyncio.run(work)
    heard = False

    async def hearing() -> T:
        # asyncio's own handler is there only now.
        cancel = cast("Any", signal.getsignal(signal.SIGINT))

        def note(number: int, frame: FrameType | None) -> None:
            nonlocal heard
            heard = True
            cancel(number, frame)

        signal.signal(signal.SIGINT, note)
        return await work

    try:
        result = asyncio.run(hearing())
    except Exception as error:
        if heard:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if heard:
        raise KeyboardInterrupt
    return result


def hides_interrupt(error: BaseException | None) -> bool:
    """Say whether the error came of a Ctrl-C: whether one was being handled when it, or a cause of it, was raised."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
