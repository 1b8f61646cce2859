"""A command's process ends with its exit code, and not before what was registered for its end was called."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

PROGRAM = """
import atexit, sys, threading, time
from flows import leaving

leaving.LEAVE_SECONDS = {patience}
ending = leaving.Ending()
atexit.register(print, "registered later")
threading.Thread(target=lambda: (time.sleep({work}), print("thread"))).start()
print("command")
try:
    sys.exit({code!r})
except SystemExit as end:
    ending.with_code(end.code)
    raise
"""


def left(code: object, *, work: float = 0.1, patience: float = 30.0) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(code=code, work=work, patience=patience)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("code", "number"), [(None, 0), (0, 0), (3, 3), ("what went wrong", 1)])
def test_the_exit_code_is_kept_and_all_is_called_before(code: object, number: int) -> None:
    done = left(code)
    assert (done.returncode, done.stdout) == (number, "command\nthread\nregistered later\n")
    assert done.stderr == ("what went wrong\n" if isinstance(code, str) else "")


def test_what_would_go_on_for_long_is_left_behind() -> None:
    began = time.monotonic()
    done = left(3, work=60.0, patience=0.5)
    assert (done.returncode, done.stdout) == (3, "command\n")
    assert time.monotonic() - began < 30


def test_nothing_is_left_in_a_hurry_after_an_error() -> None:
    program = 'from flows.leaving import Ending; Ending(); print("command"); raise RuntimeError("unforeseen")'
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "command\n")
    assert done.stderr.endswith("RuntimeError: unforeseen\n")
