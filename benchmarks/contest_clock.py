"""Runs a command to its end, and writes its seconds, peak memory in bytes and exit code to a file.

    python -I -S benchmarks/contest_clock.py RESULT COMMAND [ARGUMENT ...]

A program of its own that imports next to nothing: Linux counts the memory of the process that started a command into
the peak of that command, so a large one would make every small command look large.
"""

import os
import sys
import time


def main() -> None:
    """Time the command of the command line."""
    result, *command = sys.argv[1:]
    began = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ)
    # wait4 tells of this child and those that it waited for; RUSAGE_CHILDREN would do so only after it, too.
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open(result, "w", encoding="utf-8") as file:  # noqa: PTH123  pathlib would be the largest import
        file.write(f"{seconds} {peak} {os.waitstatus_to_exitcode(status)}")


main()
