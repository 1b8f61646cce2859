"""Runs a module's main() under a clock that is wrong: `python -m tests.shifted SECONDS MODULE ARGUMENT…`.

What pgferry asks Python for the time of day is told another one; files, the server and monotonic clocks keep theirs.
"""

from __future__ import annotations

import importlib
import sys
import time
from datetime import UTC, datetime, tzinfo
from typing import Any

REAL_TIME = time.time


def shift(seconds: float) -> None:
    """Set the clock on or back for the modules of pgferry that are loaded; C code keeps the real class."""

    class Real(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class Shifted(datetime, metaclass=Real):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(REAL_TIME() + seconds, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(UTC).replace(tzinfo=None)

    time.time = lambda: REAL_TIME() + seconds
    for name, module in list(sys.modules.items()):
        if name.startswith("pgferry") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]


if __name__ == "__main__":
    wanted = importlib.import_module(sys.argv[2])
    shift(float(sys.argv[1]))
    sys.argv = sys.argv[2:]
    wanted.main()
