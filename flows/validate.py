"""The validation: every cell of both sides, held at one moment while the application writes on."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.choices import LevelName, Percent
from flows.futures import call, results, submit, with_result
from flows.names import live_run_name
from flows.runner import lanes
from pgferry.errors import Transient, UsageError
from pgferry.live.compare import Level
from pgferry.live.model import Live
from pgferry.live.queries import QueryComparison
from pgferry.live.queries import to_json as queries_json
from pgferry.live.query_text import folder_of
from pgferry.live.validation import Differs, Validation, refuse_differences
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.settings import load_settings, named_source
from tasks.ends import target_url
from tasks.holding import holding
from tasks.live import find_move, read_live, refuse_nowhere
from tasks.validation import (
    batches,
    compare,
    judge,
    mend,
    plan,
    record,
    repaired_json,
    run_queries,
    show_history,
    tell,
)

TRIES = 3
"""How often both sides are held anew when the connection that holds is lost."""

TRY_SECONDS = 10.0

LOCK_SECONDS = 60.0
"""How long a validation waits for a command that is at work."""


@flow(name="validate", flow_run_name=live_run_name, task_runner=lanes())
def validate(
    source: str = "",
    target: str = "",
    config: str = "",
    level: LevelName = "cells",
    sample: Percent = 10.0,
    repair: bool = False,
    queries: str = "queries",
    scheduled: bool = False,
) -> dict[str, Any] | State[Any]:
    """Compare both sides of a live move, in the direction of its phase; exact while both are written to.

    Args:
        source: the SQLite file; empty for the settings' own, or the only one that is kept level with the target.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        level: `counts`, `sample` or `cells`; only `cells` counts for the gates of the switch.
        sample: percent of each table that a sample compares.
        repair: mend differing rows from the side in front, and validate once more.
        queries: a folder of the application's own SELECTs, one a file, which are run on both sides; a subfolder that
            is named as the SQLite file (without .db) goes before it.
        scheduled: where nothing is kept level, say so and end Completed instead of Failed.

    Returns:
        What was compared and found. The run fails when anything differs.
    """
    reporter().run(str(flow_run.id))

    # 1. The move, and where it stands.
    settings = load_settings(source=source or None, config=config or None)
    chosen = _level(level)
    try:
        refuse_nowhere(target, settings)
        found = call(find_move, named_source(settings), target, "validate")
    except UsageError as error:
        if not scheduled:
            raise
        return Completed(message=f"Nothing to compare. {error.message}")

    with RunLock(target_url(target), found.run.source, patience=LOCK_SECONDS):
        live = call(read_live, found.run, target, config)
        asked = folder_of(Path(queries).absolute(), Path(found.run.source))

        # 2. Hold both sides, compare, record; see below.
        validation, answers = _held_validation(live, chosen, sample, asked)
        result = {**validation.to_json(), "queries": queries_json(answers)}

        # 3. Mend what differs, where that is wanted, and look again.
        if repair and not validation.equal:
            reporter().step("mend differing rows")
            result["repaired"] = repaired_json(call(mend, live, validation))
            validation, answers = _held_validation(live, chosen, sample, asked)
            result |= {**validation.to_json(), "queries": queries_json(answers)}

    # 4. Tell, and fail when anything differs.
    call(show_history, live)
    call(tell, live.source, validation, str(flow_run.id))
    with with_result(result):
        _refuse(validation)
    return result


def _held_validation(
    live: Live, level: Level, percent: float, folder: Path
) -> tuple[Validation, tuple[QueryComparison, ...]]:
    for tries in range(1, TRIES + 1):
        try:
            return _compared(live, level, percent, folder)
        except Transient as error:
            if tries == TRIES:
                raise
            get_run_logger().warning("%s Both sides are held anew in %.0f s.", error, TRY_SECONDS)
            time.sleep(TRY_SECONDS)
    raise AssertionError


def _compared(live: Live, level: Level, percent: float, folder: Path) -> tuple[Validation, tuple[QueryComparison, ...]]:
    started_at = datetime.now(UTC)

    # a. Carry to one moment, and hold it on both sides; the application writes on.
    reporter().step("hold both sides")
    with holding(live) as held:
        # b. Count, and cut the comparison into units.
        reporter().step("compare")
        planned = call(plan, held, live, level, percent)

        # c. Compare the units side by side, each on a connection that sees the held moment; the queries beside them.
        compared = [submit(compare, held, live.target, name, units) for name, units in batches(planned.units)]
        answers = submit(run_queries, held, live.target, folder)
        found = tuple(unit for batch in results(compared) for unit in batch)

        # d. Judge what was found.
        validation = call(judge, held, live, planned, found, started_at)
        answered = results([answers])[0]
        wrong = tuple(answer.name for answer in answered if not answer.equal)

    # e. Keep it.
    return call(record, held, live.target, planned, replace(validation, wrong_queries=wrong)), answered


def _level(name: str) -> Level:
    try:
        return Level(name)
    except ValueError as error:
        raise UsageError(f"There is no level {name!r}.", f"Give one of {', '.join(Level)}.") from error


def _refuse(validation: Validation) -> None:
    """Raise Differs when cells or answers differ."""
    refuse_differences(validation)
    wrong = len(validation.wrong_queries)
    if wrong:
        raise Differs(
            f"Every compared cell is equal, but {wrong} of the application's queries answer differently.",
            "Look at the artifact of the queries; a translation may be given as NAME.postgres.sql beside it.",
        )
