"""A soak: the application writes for minutes while the sync follows, and one fault comes after the other.

    .venv/bin/python -m benchmarks.soak --minutes 30

The follower and steps of the move are killed, the server dies and recovers, connections are cut and stalled, the
source is locked; validations run all along, and now and then the application is switched to PostgreSQL, or back, with a
fault in the midst. While nobody writes, and at the end, both sides are compared by a comparison that shares no code
with the project, and with the journals of what was acknowledged. The figures go to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.live_page import machine
from benchmarks.soak_faults import FAULTS, Fault, kill_follower
from benchmarks.soak_page import PAGE, Soak, placed, render
from benchmarks.soak_stage import PATIENCE, Stage, stage
from pgferry.live.model import Phase
from tests.acceptance.workload import equal
from tests.acceptance.workload_schema import misshapen

WRITES_A_SECOND = 100.0

QUIET_SECONDS = 60.0
"""How often the writers pause, and both sides are compared."""

TURN_SECONDS = 45.0
"""How often the application changes sides."""

LAST_LIFE = 0.6
"""After this part of the time the follower is killed no more, so that its memory can be seen to stay."""


@dataclass
class Soaked:
    """One soak at work."""

    stage: Stage
    seconds: float
    started: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    longest_lag: float = 0.0
    longest_recovery: float = 0.0
    memory_begin: int = 0
    differences: list[str] = field(default_factory=list)
    validation: subprocess.Popen[bytes] | None = None

    def run(self) -> Soak:
        """Go through it all; raises Lost when the move does not come back from a fault."""
        quiet = turned = time.monotonic()
        while time.monotonic() - self.started < self.seconds and not self.differences:
            time.sleep(self.stage.dice.uniform(0.5, 3))
            self.stage.keep_following()
            self.validate_beside()
            self.disturb()
            if time.monotonic() - turned > min(TURN_SECONDS, self.seconds / 4):
                self.turn()
                turned = time.monotonic()
            if time.monotonic() - quiet > min(QUIET_SECONDS, self.seconds / 2):
                self.compare()
                quiet = time.monotonic()
        self.end_validation()
        memory_end = self.stage.memory()
        self.compare()
        return self.told(memory_end)

    # ------------------------------------------------------------ faults

    def disturb(self) -> None:
        """Let one fault come, and wait until the side behind has what was written before its end."""
        name, fault = self.choose()
        before, began = self.stage.newest(), time.monotonic()
        fault(self.stage)
        self.faults[name] += 1
        ended = time.monotonic()
        self.stage.await_arrival(before)
        self.longest_lag = max(self.longest_lag, time.monotonic() - began)
        self.stage.await_arrival(self.stage.newest())
        self.longest_recovery = max(self.longest_recovery, time.monotonic() - ended)
        if self.is_last_life and not self.memory_begin:
            self.memory_begin = self.stage.memory()

    @property
    def is_last_life(self) -> bool:
        """Whether the follower is killed no more."""
        return time.monotonic() - self.started > self.seconds * LAST_LIFE

    def choose(self) -> tuple[str, Fault]:
        """Return a fault by weight; each kind comes once before any comes twice."""
        known = [name for name in FAULTS if FAULTS[name][0] is not kill_follower or not self.is_last_life]
        fresh = [name for name in known if not self.faults[name]]
        name = self.stage.dice.choices(fresh or known, [FAULTS[name][1] for name in fresh or known])[0]
        return name, FAULTS[name][0]

    # ------------------------------------------------------------ validations

    def validate_beside(self) -> None:
        """Let a validation run beside all this; start the next one when it has ended."""
        if self.validation is not None and self.validation.poll() is None:
            return
        self.end_validation()
        self.validation = self.stage.step("validate")

    def end_validation(self) -> None:
        """Wait for the validation, and judge how it ended."""
        if self.validation is None:
            return
        code = self.stage.ended(self.validation, time.monotonic() + PATIENCE)
        self.validation = None
        self.counts["validations" if code == 0 else "interrupted"] += 1
        if code not in (0, 75):
            self.differences.append(f"a validation ended with {code}: {self.stage.log()}")

    # ------------------------------------------------------------ the two sides

    def turn(self) -> None:
        """Let the application change sides; every other time a fault comes in the midst."""
        self.end_validation()
        there = self.stage.phase() is Phase.DUAL_WRITE
        step = "switch" if there else "roll_back"
        if self.stage.dice.random() < 0.5:
            self.turn_disturbed(step)
        if (self.stage.phase() is Phase.DUAL_WRITE) is there:
            self.stage.finish(step)
        self.counts[step] += 1
        self.stage.load.run_until(20, PATIENCE)

    def turn_disturbed(self, step: str) -> None:
        """Begin to change sides, and let a fault come; the step itself is killed now and then."""
        process = self.stage.step(step)
        time.sleep(self.stage.dice.uniform(1.0, 3.0))
        if self.stage.dice.random() < 0.5:
            self.faults[f"{step.replace('_', ' ')} killed (SIGKILL)"] += process.poll() is None
            process.kill()
        else:
            self.disturb_now()
        if self.stage.ended(process, time.monotonic() + PATIENCE) not in (0, 75, -9):
            self.differences.append(f"{step}: {self.stage.log()}")
        # What it left half-way is undone, as by the next command.
        self.stage.finish("recover")

    def disturb_now(self) -> None:
        """Let one fault come, and wait for nothing."""
        name, fault = self.choose()
        fault(self.stage)
        self.faults[name] += 1

    # ------------------------------------------------------------ what came of it

    def compare(self) -> None:
        """Let nobody write, carry what is left, and compare."""
        stage = self.stage
        stage.load.pause()
        self.end_validation()
        stage.await_arrival(stage.newest())
        stage.finish("carry")
        url = stage.crashing.server.url("app")
        found = [*stage.load.errors, *stage.load.lost(stage.move.source), *stage.load.lost_in(url)]
        self.differences += [*found, *equal(stage.move.source, url), *misshapen(stage.move.source)]
        self.counts["comparisons"] += 1
        stage.load.resume()

    def told(self, memory_end: int) -> Soak:
        """Return the figures."""
        carried = self.stage.in_postgres("SELECT array[cycles, rows] FROM pgferry.position")
        cycles, rows = carried if isinstance(carried, list) else (0, 0)
        return Soak(
            seconds=time.monotonic() - self.started,
            writes=self.stage.load.total("acknowledged"),
            cycles=cycles,
            rows=rows,
            faults=dict(self.faults),
            validations=self.counts["validations"],
            interrupted=self.counts["interrupted"],
            switches=self.counts["switch"],
            rollbacks=self.counts["roll_back"],
            longest_lag=self.longest_lag,
            longest_recovery=self.longest_recovery,
            memory_begin=self.memory_begin,
            memory_end=memory_end,
            comparisons=self.counts["comparisons"],
            differences=tuple(self.differences),
        )


def soak(folder: Path, minutes: float, seed: int = 1, rate: float = WRITES_A_SECOND) -> Soak:
    """Run a soak of so many minutes in an empty folder, and return its figures."""
    with stage(folder, seed, rate) as made:
        return Soaked(made, minutes * 60).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; returns 1 when anything was lost, doubled or different."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=WRITES_A_SECOND, help="transactions a second that are wanted")
    parser.add_argument("--print-only", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="pgferry-soak-") as folder:
        Path(folder).chmod(0o755)
        figures = soak(Path(folder), options.minutes, options.seed, options.rate)
    command = " ".join(["python -m benchmarks.soak", *given])
    section = render(figures, f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, by `{command}`")
    print(section)
    print(*figures.differences[:50], sep="\n", file=sys.stderr)
    if not (options.print_only or figures.differences):
        PAGE.write_text(placed(PAGE.read_text("utf-8"), section), "utf-8")
    return 1 if figures.differences else 0


if __name__ == "__main__":
    sys.exit(main())
