"""What the contest measured: single runs, and the figures of a way, which are medians of them or extrapolated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median


@dataclass(frozen=True, slots=True)
class Data:
    """What was moved: the size of a SQLite file. Figures of one `shape` are comparable, of two are not."""

    shape: str
    label: str
    tables: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a way took."""

    seconds: float
    peak_bytes: int
    steps: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """What a way takes for the data: the runs, or why there are none."""

    way: str
    data: Data
    runs: tuple[Run, ...] = ()
    failure: str = ""
    measured: Figure | None = None
    """Where nothing was run: the figure of fewer rows that this one is extrapolated from, each row as long."""

    @property
    def is_known(self) -> bool:
        """Whether there are seconds, measured or extrapolated."""
        return bool(self.runs) or self.measured is not None

    @property
    def seconds(self) -> float:
        """The median of the runs. Raises ValueError when nothing is known."""
        if self.measured is not None:
            return self.measured.seconds * self.data.rows / self.measured.data.rows
        if not self.runs:
            raise ValueError(f"nothing is known of {self.way} on {self.data.label}")
        return median(run.seconds for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The shortest and the longest of the runs."""
        seconds = [run.seconds for run in self.runs]
        return min(seconds), max(seconds)

    @property
    def peak_bytes(self) -> int:
        """The largest resident set of the runs; 0 where nothing was run."""
        return max((run.peak_bytes for run in self.runs), default=0)

    @property
    def rate(self) -> float:
        """Rows a second, of the whole job."""
        return self.data.rows / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes of the SQLite file a second."""
        return self.data.bytes / self.seconds

    @property
    def steps(self) -> dict[str, float]:
        """The median seconds of each step that the way tells of."""
        names = dict.fromkeys(name for run in self.runs for name in run.steps)
        return {name: median(run.steps.get(name, 0.0) for run in self.runs) for name in names}


@dataclass(frozen=True, slots=True)
class Contest:
    """All figures of one run of the benchmark."""

    figures: tuple[Figure, ...]
    prefect_start: float | None = None
    """Seconds of the one-time start of the Prefect server; None where none was started."""

    @property
    def data(self) -> tuple[Data, ...]:
        """What was moved, in the order of the run."""
        return tuple(dict.fromkeys(figure.data for figure in self.figures))

    def of(self, data: Data) -> tuple[Figure, ...]:
        """Return the figures of some data, in the order of the ways."""
        return tuple(figure for figure in self.figures if figure.data == data)

    def find(self, way: str, data: Data) -> Figure | None:
        """Return what is known of a way on some data, or None."""
        found = (figure for figure in self.figures if figure.way == way and figure.data == data and figure.is_known)
        return next(found, None)


def extrapolated(figures: Sequence[Figure]) -> tuple[Figure, ...]:
    """Return the figures, those that were left out as too large extrapolated from the largest measured one.

    Left out is what has neither runs nor a failure. Extrapolated is only within a way and a shape, and to more rows.
    """
    return tuple(_extrapolated(figure, figures) for figure in figures)


def times(figure: Figure | None, other: Figure | None) -> float | None:
    """Return how many times as long the first takes as the other; None unless both are known."""
    if figure is None or other is None or not (figure.is_known and other.is_known):
        return None
    return figure.seconds / other.seconds


def _extrapolated(figure: Figure, figures: Sequence[Figure]) -> Figure:
    if figure.runs or figure.failure:
        return figure
    base = max(_smaller(figure, figures), key=lambda other: other.data.rows, default=None)
    return figure if base is None else replace(figure, measured=base)


def _smaller(figure: Figure, figures: Sequence[Figure]) -> Iterator[Figure]:
    for other in figures:
        same = other.way == figure.way and other.data.shape == figure.data.shape
        if same and other.runs and other.data.rows < figure.data.rows:
            yield other
