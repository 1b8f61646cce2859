"""The folder of held copies: what a killed validation left in it goes with the next one, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pgferry.live.holding import swept

HOLDS = """
import sys
from pathlib import Path
from pgferry.live.holding import swept
folder = Path(sys.argv[1])
with swept(folder):
    (folder / "app-1.db").write_text("a whole copy")
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> set[str]:
    """Return what lies in the folder besides the lock."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_copies_of_a_killed_process_are_removed_and_those_of_a_live_one_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "held"
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with swept(folder):
                assert names(folder) == {"app-1.db"}
        finally:
            other.kill()
    (folder / "app-1.db-wal").write_text("")
    (folder / "app-2.part").write_text("half a copy")
    with swept(folder):
        assert names(folder) == set()
        (folder / "app-3.db").write_text("mine")
        with swept(folder):
            assert names(folder) == {"app-3.db"}
