"""A look at the server as a page for people: what is wrong, charts over time, tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from html import escape as escape_html

from pgferry.chart import MOST_LINES, Chart, Line, picture, shown_bytes, shown_count, shown_percent, shown_seconds
from pgferry.operate.watched import Listing, Look
from pgferry.postgres.metrics import POINTS, Series
from pgferry.report import markdown_cell, markdown_table
from pgferry.settings import Settings

SPAN = timedelta(days=7)
"""How far back the charts go."""

DRAWN = (
    "connections_used",
    "connections_limit",
    "cache_hit_percent",
    "lag_seconds",
    "lag_rows",
    "database_bytes",
    "table_bytes",
)
"""The metrics that the charts need."""

_GAP = 1200.0
"""Seconds without a look that are a gap in a chart: four times the deployment's interval."""


def page(look: Look, series: Series, settings: Settings) -> str:
    """Return the look as Markdown, with its charts as pictures inside."""
    lines = [
        f"## {conclusion(look)}",
        "",
        f"Database `{look.database}` at `{look.server}`, PostgreSQL {look.version}, {look.at:%Y-%m-%d %H:%M:%S} UTC.",
        "",
        *(f"- **{_escaped(breach.sentence)}** {_escaped(breach.action)}" for breach in look.breaches),
        *(f"- {_escaped(note)}" for note in look.notes),
    ]
    for chart in charts(series, settings):
        lines += ["", picture(chart)]
    for listing in look.listings:
        lines += ["", f"### {_escaped(listing.title)}", "", _table(listing)]
    return "\n".join(lines)


def conclusion(look: Look) -> str:
    """Return what came out, in a sentence."""
    if not look.breaches:
        return f"{look.database}: within all thresholds"
    return f"{look.database}: {', '.join(breach.name for breach in look.breaches)}"


def charts(series: Series, settings: Settings) -> Iterator[Chart]:
    """Return the charts of connections, cache, lag and size over time; lag only where something is carried."""
    gap = max(_GAP, 4 * _span(series) / POINTS)
    used = _lines(series, {("connections_used", ""): "in use", ("connections_limit", ""): "max_connections"})
    yield Chart("Connections", used, shown_count, gap=gap)
    yield Chart(
        "Block reads that the cache answered",
        _lines(series, {("cache_hit_percent", ""): "cache"}),
        shown_percent,
        top=100.0,
        limit=settings.monitor_cache_hit_percent,
        gap=gap,
    )
    if behind := _labelled(series, "lag_seconds"):
        yield Chart(
            "Lag of the sync in time",
            behind,
            shown_seconds,
            limit=settings.monitor_lag_seconds,
            gap=gap,
        )
        yield Chart("Lag of the sync in changes that wait", _labelled(series, "lag_rows"), shown_count, gap=gap)
    sizes = _lines(series, {("database_bytes", ""): "database"}) + _labelled(series, "table_bytes")[: MOST_LINES - 1]
    yield Chart("Size", sizes, shown_bytes, gap=gap)


def _span(series: Series) -> float:
    return max([(points[-1][0] - points[0][0]).total_seconds() for points in series.values() if points], default=0.0)


def _lines(series: Series, names: Mapping[tuple[str, str], str]) -> list[Line]:
    return [Line(said, series.get(name, ())) for name, said in names.items()]


def _labelled(series: Series, name: str) -> list[Line]:
    """Return a line for each label of a metric, the highest first."""
    found = [Line(label, points) for (metric, label), points in series.items() if metric == name and points]
    return sorted(found, key=lambda line: (-line.points[-1][1], line.name))


def _escaped(text: str) -> str:
    return escape_html(text, quote=False)


def _table(listing: Listing) -> str:
    return markdown_table(listing.head, [_row(listing.head, row) for row in listing.rows])


def _row(head: Sequence[str], row: Sequence[object]) -> list[str]:
    return [_cell(name, value) for name, value in zip(head, row, strict=True)]


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and value and name.endswith("query"):
        return f"`{markdown_cell(value.replace('`', chr(39)))}`"  # What a query multiplies is not to be in italics.
    return markdown_cell(_escaped(value) if isinstance(value, str) else value)
