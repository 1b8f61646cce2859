"""`python -m flows`."""

from __future__ import annotations

import gc

from flows.leaving import Ending

NEW_OBJECTS = 100_000
"""New objects after which Python looks for garbage among them.

What is imported stays: looking through it after every 700 took a tenth of the time until a command begins.
"""


def run() -> None:
    """Run the command line."""
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    ending = Ending()
    from flows.cli import app

    try:
        app(prog_name="python -m flows")
    except SystemExit as end:
        ending.with_code(end.code)
        raise


if __name__ == "__main__":
    run()
