"""The rounds of the contest: the ways take turns on a file, each run into a fresh database."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.contest_figures import Figure, Run
from benchmarks.contest_place import Place, Prepared, missing_rows, prepared, with_files
from benchmarks.shapes import Source
from benchmarks.ways import FLOOR, UNVERIFIED, WAYS, Failed, Way, find_way, psql, run


@dataclass(frozen=True, slots=True)
class Course:
    """What is to be measured: a file to be made, moved in so many rounds."""

    make: Callable[[Path], Source]
    rounds: int
    row_wise: bool = False
    """Whether the row-wise ways are run, too; without that they are extrapolated from a smaller course."""


@dataclass(slots=True)
class Rounds:
    """The runs of each way on one file, and the failures: a way that fails is not tried again."""

    place: Place
    ready: Prepared
    ways: Sequence[Way]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Note which ways cannot be run here, and make the floor's files if it is among the ways."""
        self.failures |= {way.key: "not installed" for way in self.ways if way.program(self.place) is None}
        if FLOOR in {way.key for way in self.ways} - self.failures.keys():
            try:
                self.ready = _with_files(self.place, self.ready)
            except Failed as error:
                self.failures[FLOOR] = f"its files could not be made: {error}"

    def run(self, number: int) -> None:
        """Run each way once. Each round begins with another one: none always follows the same."""
        first = number % max(len(self.ways), 1)
        for way in (*self.ways[first:], *self.ways[:first]):
            if way.key not in self.failures:
                self._run(way)

    def figures(self, left_out: Sequence[Way]) -> Iterator[Figure]:
        """Yield the figures in the order of WAYS, with empty ones of ways that were left out as too slow."""
        present = {way.key for way in (*self.ways, *left_out)}
        for key in (way.key for way in WAYS if way.key in present):
            failure = self.failures.get(key, "")
            yield Figure(key, self.ready.source.data, () if failure else tuple(self.runs.get(key, ())), failure)

    def _run(self, way: Way) -> None:
        try:
            done = run_once(self.place, way, self.ready)
        except Failed as error:
            self.failures[way.key] = str(error)
            tell(f"  {way.key}: {error}")
            return
        self.runs.setdefault(way.key, []).append(done)
        tell(f"  {way.key}: {done.seconds:.2f} s, {done.peak_bytes / 1e6:,.0f} MB")


def run_course(place: Place, course: Course, ways: Sequence[Way]) -> list[Figure]:
    """Measure the ways on a file."""
    with made(place, course.make) as ready:
        # The row-wise ways are written for the sample's models.
        here = [way for way in ways if not (way.row_wise and ready.source.planned)]
        slow = [way for way in here if way.row_wise and not course.row_wise]
        rounds = Rounds(place, ready, [way for way in here if way not in slow])
        rounds.prepare()
        for number in range(course.rounds):
            tell(f"{ready.source.data.label}, round {number + 1} of {course.rounds}")
            rounds.run(number)
        return list(rounds.figures(slow))


def run_once(place: Place, way: Way, ready: Prepared) -> Run:
    """Run a way into a fresh database, which is dropped. Raises Failed, also when a row did not arrive."""
    with _fresh(place, way, ready) as (database, folder):
        job = way.job(place, ready, database, folder)
        place.settle()
        done = run(job, folder)
        if lost := missing_rows(database, ready.source.rows):
            raise Failed(f"rows are missing: {lost}")
        return done


@contextmanager
def made(place: Place, make: Callable[[Path], Source]) -> Iterator[Prepared]:
    """Make a file and the databases to begin with; all are removed after the block."""
    path = place.folder / "source.db"
    try:
        source = make(path)
        tell(f"{source.data.label}: {source.data.bytes / 1e6:,.0f} MB")
        with prepared(place, source) as ready:
            yield ready
    finally:
        path.unlink(missing_ok=True)


def tell(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


def _with_files(place: Place, ready: Prepared) -> Prepared:
    program = psql(place)
    assert program is not None
    way = find_way(UNVERIFIED)
    with _fresh(place, way, ready) as (database, folder):
        run(way.job(place, ready, database, folder), folder)
        return with_files(place, ready, program, database)


@contextmanager
def _fresh(place: Place, way: Way, ready: Prepared) -> Iterator[tuple[URL, Path]]:
    name, folder = "contest", place.folder / "run"
    folder.mkdir()
    try:
        yield place.create(name, way.begins_with(ready).value), folder
    finally:
        shutil.rmtree(folder)
        place.drop(name)
