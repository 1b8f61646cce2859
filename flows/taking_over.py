"""The last steps of every switch: PostgreSQL takes over, the application follows, or nothing has happened.

A plain function, shared by `switch` and by the maintenance window of `migrate`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from prefect import get_run_logger

from flows.futures import call
from pgferry.errors import FerryError, Permanent, UsageError
from pgferry.live.model import Live, Phase
from pgferry.live.switch import TakenOver
from pgferry.progress import reporter
from tasks.application import restart_application, run_application_tests, wait_until_healthy
from tasks.ends import target_url
from tasks.live import judge_quarantine
from tasks.switch import approach, drain, finish, show_switch, take_over, validate_foreign_keys
from tasks.turning import take_back, told


@dataclass(frozen=True, slots=True)
class Switched:
    """A switch that was made. `frozen` is in seconds, by step, from the fence until the application is well again."""

    taken: TakenOver
    frozen: dict[str, float]
    tests: float | None
    foreign_keys: tuple[str, ...]
    """What stands against the validation of foreign keys; they hold for every new row all the same."""

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "drained": self.taken.drained,
            "compared": self.taken.compared,
            "foreign_keys_added": self.taken.foreign_keys,
            "frozen_seconds": round(sum(self.frozen.values()), 3),
            "frozen": {name: round(seconds, 3) for name, seconds in self.frozen.items()},
            "tests_seconds": None if self.tests is None else round(self.tests, 3),
            "foreign_key_problems": list(self.foreign_keys),
        }


def take_the_application_over(live: Live, fenced_at: float | None = None) -> Switched:
    """Put PostgreSQL in front; whatever fails, or Ctrl-C, puts everything back as it was before it is raised.

    `fenced_at` (time.monotonic) says since when SQLite is fenced already, in a maintenance window.
    """
    url = target_url(live.target)
    began = time.monotonic() if fenced_at is None else fenced_at
    try:
        # 1. Compare what changed since the last validation, and learn in which forms values go back.
        reporter().step("compare what changed since the last validation")
        if fenced_at is not None:
            call(drain, live)
            call(judge_quarantine, live)
        call(approach, live)

        # 2. Fence, drain, compare, identities, foreign keys, reverse capture, environment: nobody can write.
        reporter().step("fence SQLite, drain, compare, point the application at PostgreSQL")
        window = {} if fenced_at is None else {"copy": time.monotonic() - fenced_at}
        began = time.monotonic() if fenced_at is None else fenced_at
        taken = call(take_over, live)

        # 3. The application follows.
        reporter().step("restart the application")
        frozen = {**window, **taken.frozen, "restart": call(restart_application, url)}
        reporter().step("wait until it is healthy")
        frozen["health"] = call(wait_until_healthy)

        # 4. Its own tests have the last word.
        reporter().step("run its tests")
        tests = call(run_application_tests, url)

        # 5. Decided: the way back is a rollback from here on.
        call(finish, live, taken)
    except BaseException as error:
        failure = _put_back(live, error, began)
        if failure is error:
            raise
        raise failure from error

    # 6. Beside the application's work.
    reporter().step("validate foreign keys")
    switched = Switched(taken, frozen, tests, call(validate_foreign_keys, live))
    call(show_switch, switched.to_json())
    return switched


def _put_back(live: Live, error: BaseException, began: float) -> BaseException:
    """Take the switch back and return what is to be raised: the error, with how long nobody could write."""
    log = get_run_logger()
    log.error("The switch failed and is taken back: %s", _said(error))
    reporter().step("the switch failed; take it back")
    try:
        back = take_back(live, "the switch failed")
    except Exception as second:
        log.error("Taking it back failed, too: %s", _said(second))  # noqa: TRY400  the message is the whole of it
        action = "When that is mended, run `python -m flows rollback`: it goes on from here."
        if isinstance(second, UsageError):
            action = second.action
        return Permanent(f"The switch failed ({_said(error)}), and so did its way back: {_said(second)}", action)
    seconds = time.monotonic() - began
    log.info("In phase %s: %s. Writes were frozen for %.2f s.", back.phase, told(back.returned), seconds)
    if not isinstance(error, Exception):
        return error  # Ctrl-C stays what it is
    action = error.action if isinstance(error, FerryError) else "SQLite is in front; nothing is lost."
    if back.phase is Phase.SWITCHED:
        return Permanent(f"The switch is made, but its end failed: {_said(error)}", action)
    message = f"The switch failed and was taken back, after {seconds:.2f} s without writes: {_said(error)}"
    return Permanent(message, action, frozen_seconds=seconds)


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, FerryError) else f"{type(error).__name__}: {error}"
