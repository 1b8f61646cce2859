"""What the commands of the move without downtime print at the end: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Result = Mapping[str, Any]


def print_result(
    result: Result, show: Callable[[Console, Result], None], ui_url: str | None, run_id: str, *, as_json: bool
) -> None:
    """Print the result as JSON, or as `show` does it, and then where the flow run is."""
    if as_json:
        print(json.dumps(result, indent=2, default=str))
        return
    console = Console()
    show(console, result)
    if ui_url and run_id:
        tell(console, [f"Run:      {ui_url}/runs/flow-run/{run_id}"])


def tell(console: Console, lines: Iterable[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def show_dual_write(console: Console, result: Result) -> None:
    """Show what was copied and carried, and what to do next."""
    if "removed" in result:
        tell(console, [f"Dual-write is left; {len(result['removed'])} objects were removed from the SQLite file."])
        return
    if "report" in result:
        tables = result["report"]["tables"]
        console.print(_table("First copy", ("table", "rows", "loaded", "kept aside"), [
            (row["table"], row["source_rows"], row["loaded"], row["quarantined"]) for row in tables
        ]))  # fmt: skip
    if "copied" in result:
        tell(console, [f"Copied again: {', '.join(result['copied']) or 'nothing'}"])
    show_sync(console, result)
    tell(
        console,
        [
            "SQLite is in front, PostgreSQL is kept level by the sync: the deployment of that name, or",
            "  python -m flows sync --follow",
            "Next: validate nightly, then switch: python -m flows status",
        ],
    )


def show_sync(console: Console, result: Result) -> None:
    """Show what was carried, and how far both sides are level."""
    carried = result["carried"]
    if carried is None:
        tell(console, [f"Phase {result['phase']}: another command is at work; nothing was carried."])
        return
    kept = f", {carried['quarantined']:,} kept aside" if carried["quarantined"] else ""
    tell(
        console,
        [
            f"{carried['direction']}: {carried['rows']:,} rows written, {carried['deleted']:,} removed{kept} "
            f"in {carried['cycles']:,} cycles",
            f"Level with {carried['moment']}",
        ],
    )


def show_validation(console: Console, result: Result) -> None:
    """Show what was compared, the first differences, and the application's queries with their latencies."""
    rows = [
        (row["table"], row["source_rows"], row["target_rows"], row["quarantined"], row["compared"], row["differences"],
         row["verdict"])
        for row in result["tables"]
    ]  # fmt: skip
    columns = ("table", "SQLite", "PostgreSQL", "quarantined", "compared", "differences", "verdict")
    title = f"{result['direction']}, both sides as of {result['moment']}"
    console.print(_table(title, columns, rows))
    if result["queries"]:
        asked = [
            (item["name"], "equal" if item["equal"] else "DIFFERS", f"{item['sqlite_ms']:.2f}",
             f"{item['postgres_ms']:.2f}", "slower" if item["slower"] else "")
            for item in result["queries"]
        ]  # fmt: skip
        console.print(_table("Queries", ("query", "answer", "SQLite ms", "PostgreSQL ms", ""), asked))
    if "repaired" in result:
        tell(console, [f"{result['repaired']['rows']:,} rows were mended, and validated again."])
    tell(
        console,
        [
            f"Differs: {item['table']} {item['key']} {item['column'] or '(row)'}: {item['source']} / {item['target']}"
            for item in result["first_differences"]
        ],
    )
    verdict = "every compared cell is equal" if result["passed"] else f"{result['differences']:,} differences"
    tell(console, [f"Validation {result['validation']}: {verdict} ({result['cells']:,} cells, {result['seconds']} s)"])


def show_switch(console: Console, result: Result) -> None:
    """Show the gates, and how long nobody could write."""
    show_gates(console, result["gates"])
    if "frozen" not in result:
        return
    _show_freeze(console, result)
    tell(console, ["PostgreSQL is in front. The way back: python -m flows rollback"])
    tell(console, [f"Note: {problem}" for problem in result["foreign_key_problems"]])


def show_cut_over(console: Console, result: Result) -> None:
    """Show how long nobody could write in a maintenance window."""
    _show_freeze(console, result["switch"])
    tell(console, ["PostgreSQL is in front. The way back: python -m flows rollback"])
    tell(console, [f"Note: {problem}" for problem in result["switch"]["foreign_key_problems"]])


def show_rollback(console: Console, result: Result) -> None:
    """Show what was carried, and what was left behind."""
    if "given_up" in result:
        tell(console, [f"{result['carried']:,} rows carried, {result['given_up']:,} given up. SQLite is in front."])
    elif "frozen_seconds" in result:
        tell(
            console,
            [
                f"SQLite is in front: {result['carried']:,} rows carried, {result['compared']:,} compared, "
                f"{result['frozen_seconds']:.2f} s without writes."
            ],
        )
    else:
        _show_emergency(console, result)


def show_cleanup(console: Console, result: Result) -> None:
    """Show the gates, and what is removed."""
    show_gates(console, result["gates"])
    if "planned" in result:
        tell(console, ["To be removed:", *(f"  {name}" for name in result["planned"])])
    if "removed" in result:
        archive = result["archive"]
        tell(console, ["Removed:", *(f"  {name}" for name in result["removed"])])
        tell(console, [f"Archive: {archive['path']} (SHA-256 of the database in it {archive['sha256']})"])


def show_status(console: Console, result: Result) -> None:
    """Show where the move stands."""
    lag = (
        "not measured" if result["lag_rows"] is None else f"{result['lag_rows']:,} rows, {result['lag_seconds']:.1f} s"
    )
    tell(
        console,
        [
            f"Source:  {result['source']}",
            f"Phase:   {result['phase']} since {result['since']}: {result['meaning']}",
            f"Behind:  {lag}",
            *(["Fence:   writes to SQLite are refused"] if result["fenced"] else []),
            *(f"Problem: {problem}" for problem in result["problems"]),
        ],
    )
    if result["validations"]:
        rows = [
            (item["moment"], item["level"], _passed(item["passed"]), item["rows"], item["differences"])
            for item in result["validations"]
        ]
        console.print(_table("Validations", ("moment", "level", "result", "rows", "differences"), rows))
    gates = [
        {"gate": gate["name"], "open": gate["passed"], "measured": gate["measured"], "needed": gate["needed"]}
        for gate in result["gates"]
    ]
    show_gates(console, gates)
    tell(console, [f"Next:    {result['next']}"])


def show_gates(console: Console, gates: Sequence[Result]) -> None:
    """Show each gate with its measured value."""
    if gates:
        rows = [
            (gate["gate"], "open" if gate["open"] else "CLOSED", gate["measured"], gate["needed"]) for gate in gates
        ]
        console.print(_table("Gates", ("gate", "state", "measured", "needed"), rows))


def _show_freeze(console: Console, switched: Result) -> None:
    rows = [(name, f"{seconds:.3f}") for name, seconds in switched["frozen"].items()]
    title = f"Writes were frozen for {switched['frozen_seconds']:.2f} s"
    console.print(_table(title, ("step", "seconds"), rows))


def _show_emergency(console: Console, result: Result) -> None:
    until = result["carried_until"] or "none"
    tell(console, [f"SQLite is in front: {result['source']}. It has PostgreSQL's writes up to {until}."])
    if result["left"] is None:
        tell(
            console, ["When PostgreSQL can be reached again, carry what stayed there: python -m flows rollback --carry"]
        )
        return
    if not result["phase"]:
        tell(console, ["Nothing was left behind. When PostgreSQL can be reached: python -m flows status"])
        return
    count = sum(map(len, result["left"].values()))
    tell(console, [f"{count:,} rows were left behind; to carry them: python -m flows rollback --carry"])
    tell(console, [f"  {table} {key}" for table, keys in result["left"].items() for key in keys])


def _passed(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    listed = list(rows)
    for place, name in enumerate(columns):
        numbers = bool(listed) and isinstance(listed[0][place], int)
        table.add_column(name, justify="right" if numbers else "left")
    for row in listed:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in row))
    return table
