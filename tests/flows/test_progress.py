"""The progress that the Prefect UI shows: what a bar says, and that a Prefect server which is away stops nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.prefect_server import get_json
from pgferry.model import Snapshot
from pgferry.move import Group, Move
from pgferry.progress import reporter
from tasks.progress import OWN_ROWS, OWN_TABLES, SAMPLES, Bar, Work, bars, progress, thinned

NOWHERE = "http://127.0.0.1:9/api"
"""Nobody listens there."""


def move_of(folder: Path, rows: dict[str, int]) -> Move:
    return Move(
        run_id=1,
        target="",
        snapshot=Snapshot(path=str(folder / "app.db"), sha256="", bytes=0, source="", taken_at=datetime.now(UTC)),
        staging=str(folder),
        reads=dict.fromkeys(rows),
        source_rows=rows,
        excluded={},
        groups=(Group("all", tuple(rows), ()),),
        sequences={},
        done=frozenset(),
        notes=(),
        accepted=frozenset(),
    )


def bar(rows: int = 1_000, earlier: int = 0) -> Bar:
    return Bar(Work.LOAD, "trades", ("trades",), rows, earlier)


def test_a_bar_says_rows_speed_and_what_is_left() -> None:
    shown = bar()
    shown.move(0, 10.0)
    assert (shown.percent, str(shown)) == (0.0, "Loading trades: 0 of 1,000 rows")
    shown.move(250, 12.5)
    assert (shown.percent, str(shown)) == (25.0, "Loading trades: 250 of 1,000 rows, 100 rows/s, about 8 s left")
    shown.move(1_000, 20.0)
    assert (shown.percent, str(shown)) == (100.0, "Loading trades: done, 1,000 rows in 10 s, 100 rows/s")


def test_rows_of_an_earlier_try_say_nothing_of_the_speed() -> None:
    shown = bar(earlier=500)
    shown.move(0, 10.0)
    shown.move(600, 20.0)
    assert str(shown) == "Loading trades: 600 of 1,000 rows, 10 rows/s, about 40 s left"


def test_no_rows_are_all_rows() -> None:
    assert (bar(0).percent, str(bar(0))) == (100.0, "Loading trades: done, 0 rows")


def test_large_tables_have_a_bar_of_their_own_whatever_they_are_called(tmp_path: Path) -> None:
    rows = {f"Größe {n}": OWN_ROWS + n for n in range(20)} | {"small": 1}
    shown = bars(move_of(tmp_path, rows), Work.VERIFY)
    assert [each.name for each in shown] == ["all tables", *(f"Größe {n}" for n in range(19, 19 - OWN_TABLES, -1))]
    assert (shown[0].rows, shown[0].key, shown[1].key) == (
        sum(rows.values()),
        "verifying-all-tables",
        "verifying-gr-e-19",
    )


def test_a_thinned_speed_has_the_same_rows() -> None:
    for count in (SAMPLES, SAMPLES + 1):
        speed = [(datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=n), n) for n in range(count)]
        found = thinned(speed)
        assert sum(rows for _, rows in found) == sum(rows for _, rows in speed)
        assert (len(found), found[-1][0]) == (-(-count // 2), speed[-1][0])


def test_what_is_counted_is_told_and_comes_to_its_end(prefect_api: str, tmp_path: Path) -> None:
    from prefect import flow

    @flow(name="a move")
    def a_move() -> list[int]:
        with progress(move_of(tmp_path, {"a": 10, "b": 5}), Work.LOAD) as speed:
            reporter().loaded("a", 10)
            reporter().loaded("b", 3)
        return [rows for _, rows in speed]

    state = a_move(return_state=True)
    assert sum(state.result()) == 13
    run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    (told,) = get_json(f"{prefect_api}/artifacts/filter", payload=run)
    # Two rows of b are in quarantine: loaded or not, they are done.
    assert (told["key"], told["data"]) == ("loading-all-tables", 100)
    assert told["description"] == "Loading all tables: done, 15 rows"


def test_a_server_that_is_away_fails_nothing(prefect_api: str, tmp_path: Path) -> None:
    from prefect import flow
    from prefect.context import SyncClientContext
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    nowhere = {PREFECT_API_URL: NOWHERE, PREFECT_CLIENT_MAX_RETRIES: 0}

    @flow(name="a lonely move")
    def a_move() -> int:
        # With settings of its own, so that the flow run's client, which knows the real server, is not taken.
        other, away = SyncClientContext(httpx_settings={"timeout": 5}), temporary_settings(nowhere)
        with other, away, progress(move_of(tmp_path, {"a": 10}), Work.LOAD):
            reporter().loaded("a", 10)
        return 10

    state = a_move(return_state=True)
    assert state.result() == 10
    run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    assert get_json(f"{prefect_api}/artifacts/filter", payload=run) == []
