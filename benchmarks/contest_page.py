"""The section of docs/benchmarks.md on whole moves, and its picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.contest_figures import Contest, Data, Figure, times
from benchmarks.contest_picture import Bars, svg
from benchmarks.live_page import PAGE, machine
from benchmarks.ways import FLOOR, GUIDE, LIBRARY, MIGRATE, PANDAS, PGLOADER, UNVERIFIED, WAYS

BEGIN, END = "<!-- move: begin -->", "<!-- move: end -->"
PICTURE = PAGE.parent / "pictures" / "benchmarks.svg"
NAMES = {way.key: way.name for way in WAYS}
OURS = frozenset({MIGRATE, LIBRARY, UNVERIFIED})
MILLION = 1_000_000


def render(contest: Contest, measured: str) -> str:
    """Return the figures in Markdown; `measured` says when, where and how."""
    trades = _trades(contest)
    parts = [
        [f"![Rows a second of whole jobs, by way]({PICTURE.parent.name}/{PICTURE.name})"] if trades else [],
        list(_in_short(contest)),
        *(_table_of(contest, data) for data in contest.data),
        _legend(contest),
        _over_sizes(contest, trades) if trades else [],
        *(_steps(contest, way) for way in (MIGRATE, LIBRARY, FLOOR)),
        [f"Measured on {measured}."],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def write(contest: Contest, measured: str, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Put the section into the page and the picture beside it; raises ValueError when the page has no place for it."""
    text = placed(page.read_text("utf-8"), render(contest, measured))
    trades = _trades(contest)
    if trades:
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(draw(contest), "utf-8")
    page.write_text(text, "utf-8")


def draw(contest: Contest) -> str:
    """Return the picture, as SVG, of the moves of trades."""
    names = {key: name.replace("`", "") for key, name in NAMES.items()}
    return svg(Bars({data: contest.of(data) for data in _trades(contest)}, names, OURS, FLOOR))


def placed(page: str, section: str) -> str:
    """Return the page with the section in place of what is between its marks; raises ValueError without these."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{section}\n{END}{tail}"


def measured_by(server: str, command: str) -> str:
    """Return when, where and how: the date, the machine's size, the server, the command."""
    return f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, PostgreSQL {server}, by `{command}`"


def _trades(contest: Contest) -> list[Data]:
    return [data for data in contest.data if data.shape == "trades"]


# ---------------------------------------------------------------- in short


def _in_short(contest: Contest) -> Iterator[str]:
    for data in contest.data:
        found = {way: contest.find(way, data) for way in NAMES}
        ours, floor = found[MIGRATE], times(found[MIGRATE], found[FLOOR])
        said = [] if floor is None else [f"took {floor:.2f} times as long as the floor"]
        for way in (PGLOADER, GUIDE, PANDAS):
            ratio = times(found[way], ours)
            if ratio is not None:
                said.append(f"was {ratio:.1f} times as fast as {NAMES[way]}{_mark(found[way])}")
        if said:
            yield f"- {data.label}: {NAMES[MIGRATE]} {', '.join(said)}."


def _mark(figure: Figure | None) -> str:
    return " (extrapolated)" if figure is not None and figure.measured is not None else ""


# ---------------------------------------------------------------- tables


def _table_of(contest: Contest, data: Data) -> list[str]:
    floor = contest.find(FLOOR, data)
    heads = ["way", "seconds", "min–max", "rows/s", "MB/s", "× floor", "peak memory", "rounds"]
    rows = [_row(figure, floor) for figure in contest.of(data)]
    size = f"{data.bytes / 1e6:,.1f} MB of SQLite, {data.rows:,} rows in {_tables(data.tables)}"
    return [f"### {data.label}", "", f"{size}.", "", *_table(heads, rows, left=1)]


def _tables(count: int) -> str:
    return f"{count:,} tables" if count > 1 else "one table"


def _row(figure: Figure, floor: Figure | None) -> list[str]:
    name = NAMES[figure.way]
    if not figure.is_known:
        return [name, f"{_cell(figure.failure) or 'not measured'}", *[""] * 6]
    ratio = times(figure, floor)
    shared = [f"{figure.rate:,.0f}", f"{figure.bytes_per_second / 1e6:,.1f}", "" if ratio is None else f"{ratio:.2f}"]
    if figure.measured is not None:
        base = figure.measured.data.label
        return [name, f"about {_seconds(figure.seconds)}", "", *shared, "", f"extrapolated from {base}"]
    spread = "–".join(_seconds(seconds) for seconds in figure.spread) if len(figure.runs) > 1 else ""
    return [name, _seconds(figure.seconds), spread, *shared, _megabytes(figure), f"{len(figure.runs)}"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _megabytes(figure: Figure) -> str:
    return f"{figure.peak_bytes / 1e6:,.0f} MB"


def _legend(contest: Contest) -> list[str]:
    present = {figure.way for figure in contest.figures}
    lines = [f"- {way.name}: {way.says}." for way in WAYS if way.key in present]
    return [
        "### What the ways are",
        "",
        *lines,
        "",
        "Seconds are medians of the rounds, in which the ways took turns; MB/s are bytes of the SQLite file; peak "
        "memory is the largest of the client, without the server's. Rows were counted after each run. Schemas were "
        "made before the clock started, except pgloader's and, for files other than the sample, that of `migrate`, "
        "which ran with `--plan`. What is extrapolated was measured on fewer rows, each taken to last as long.",
    ]


def _over_sizes(contest: Contest, trades: Sequence[Data]) -> list[str]:
    heads = ["trades", "seconds a million rows", "peak memory", "Prefect's own cost, seconds", "percent of the move"]
    rows = [row for data in trades if (row := _size_row(contest, data))]
    if not rows:
        return []
    started = contest.prefect_start
    start = "" if started is None else f" The one-time start of Prefect's server took {started:.1f} s and is in none."
    return [
        f"### {NAMES[MIGRATE]} over sizes",
        "",
        *_table(heads, rows),
        "",
        f"Prefect's own cost is {NAMES[MIGRATE]} less {NAMES[LIBRARY]}, imports included, its server running already."
        + start,
    ]


def _size_row(contest: Contest, data: Data) -> list[str]:
    ours, library = contest.find(MIGRATE, data), contest.find(LIBRARY, data)
    if ours is None:
        return []
    row = [f"{data.label.split()[0]}", f"{ours.seconds / data.rows * MILLION:.1f}", _megabytes(ours)]
    if library is None:
        return [*row, "", ""]
    cost = ours.seconds - library.seconds
    return [*row, f"{cost:.1f}", f"{100 * cost / ours.seconds:.1f}"]


def _steps(contest: Contest, way: str) -> list[str]:
    found = {data: figure.steps for data in contest.data if (figure := contest.find(way, data))}
    names = list(dict.fromkeys(name for steps in found.values() for name in steps))
    if not names:
        return []
    rows = [[name, *(_step(steps.get(name)) for steps in found.values())] for name in names]
    heads = ["step", *(data.label for data in found)]
    return [f"### Steps in seconds: {NAMES[way]}", "", *_table(heads, rows, left=1)]


def _step(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    rules = ["---"] * left + ["---:"] * (len(heads) - left)
    return [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
