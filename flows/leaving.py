"""How the process of a command ends: soon after the command, with its exit code."""

from __future__ import annotations

import atexit
import os
import sys
import threading

LEAVE_SECONDS = 30.0
"""How long a command that has come to its end may still tell Prefect of it."""


class Ending:
    """The end of this process; to be made before anything registers what is to be called at the exit."""

    def __init__(self) -> None:
        self._code: int | None = None
        # The first that is registered is the last that is called.
        atexit.register(self._leave)

    def with_code(self, code: object) -> None:
        """See to it that the process ends soon, whatever Prefect still wants to tell its server.

        Where that is away, Prefect's client waits seven seconds for each event, and a run has hundreds of them. `code`
        is SystemExit's.
        """
        self._code = code if isinstance(code, int) else int(code is not None)
        timer = threading.Timer(LEAVE_SECONDS, self._leave)
        timer.daemon = True
        timer.start()

    def _leave(self) -> None:
        """Leave without taking hundreds of thousands of objects down one by one, which took half a second."""
        if self._code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)
