"""The move of a snapshot to PostgreSQL, whole and verified: the part that `migrate` and `dual-write` share.

A plain function and not a flow of its own, so that its steps are tasks of the flow that calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.futures import PrefectFuture

from flows.futures import call, results, submit
from flows.runner import begun_elsewhere, told_elsewhere
from pgferry.building import foreign_key_work, index_work, key_work, waiting
from pgferry.copying import units_to_read
from pgferry.finishing import finished_report, judge_report
from pgferry.live.model import Phase
from pgferry.live.phases import require
from pgferry.model import OrphanedKey, Snapshot, TableVerdict
from pgferry.move import Group, Move, accepted_tables, tolerated_tables
from pgferry.plan.outcome import merged_rules, plan_folder
from pgferry.postgres.deferred import Deferred
from pgferry.postgres.ledger import Run
from pgferry.progress import reporter
from pgferry.replay import replay_rules
from pgferry.report import Report, Stopwatch
from pgferry.settings import Rules, Settings, read_rules
from tasks.backup import back_up, check_backup
from tasks.capture import undo
from tasks.chunks import export, judge, load, read_back
from tasks.ends import target_url
from tasks.finish import analyze, report, settle, validate_again
from tasks.indexes import build, validate
from tasks.plan import defer_indexes, pair_and_cut
from tasks.planning import propose, try_plan, write_schema
from tasks.progress import Work, progress
from tasks.run import read_phase
from tasks.schema import upgrade_schema


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved: the snapshot that was read, by which rules, and what came out."""

    snapshot: Snapshot
    rules: Rules
    """Those of the configuration, and with them those of the plan, where there is one."""
    report: Report


def move_snapshot(
    file: Path, target: str, run: Run, settings: Settings, rules: Rules, *, plan: bool = False, revisions: str = ""
) -> Moved:
    """Move the source as it is now to the target, or go on where an earlier call of the run stopped.

    The steps are those of `migrate`, after the run is found; see there for `plan` and `revisions`. The caller holds the
    run lock, and judges the report.
    """
    watch = Stopwatch()

    # 1. Back up the source; everything after reads the backup, which SQLite checks meanwhile.
    reporter().step("back up")
    with watch.step("backup"):
        snapshot = back_up(file, target, run)
    checked = submit(check_backup, snapshot)

    # 2. Make the schema: by the application's migrations, or by a plan from the data.
    reporter().step("make the schema")
    with watch.step("schema"):
        schema = settings.alembic_config
        if plan:
            proposed = call(try_plan, propose(snapshot, rules), target)
            folder = Path(revisions).absolute() if revisions else plan_folder(settings.home, file)
            written = call(write_schema, proposed, folder)
            schema, rules = written.alembic_config, merged_rules(rules, read_rules(written.rules))
        upgrade_schema(target, schema)

    # 3. Say what goes where, and put indexes and constraints aside.
    reporter().step("pair tables and cut chunks")
    with watch.step("plan"):
        move = pair_and_cut(run, snapshot, target, rules)
        put_aside = call(defer_indexes, move)
        deferred = waiting(put_aside)

    # 4. Export and load, side by side; a unit of chunks is loaded while later ones are exported.
    reporter().step("export and load")
    with watch.step("export and load"), progress(move, Work.LOAD) as speed:
        loads = {group.name: _copy(move, group) for group in move.groups}
        for group in move.groups:
            _loaded(group, loads[group.name])

    # 5. Build the indexes and keys, gather statistics for the planner, and read every row back beside it.
    reporter().step("build indexes and verify")
    with watch.step("indexes and verification"), progress(move, Work.VERIFY):
        judged = [_finish_group(move, group, deferred) for group in move.groups]
        verdicts = [verdict for group, future in zip(move.groups, judged, strict=True)
                    for verdict in _judged(group, future)]  # fmt: skip

    # 6. Foreign keys, when every key that they refer to is there; rows without a parent leave theirs NOT VALID.
    not_valid: tuple[OrphanedKey, ...] = ()
    if move.live:
        reporter().step("foreign keys wait until the switch")
        get_run_logger().info("Foreign keys wait until the switch: the sync carries rows in no order that they allow.")
    else:
        reporter().step("add foreign keys")
        with watch.step("foreign keys"):
            not_valid = _add_foreign_keys(move, deferred, settings.parallelism)

    # 7. Identities past every id ever used.
    reporter().step("set identities")
    with watch.step("identities"):
        call(settle, move)

    # 8. Say what came out.
    return Moved(
        snapshot, rules, call(report, move, tuple(verdicts), checked.result(), watch.seconds, speed, not_valid)
    )


def move_once(
    file: Path, target: str, run: Run, settings: Settings, rules: Rules, *, plan: bool = False, revisions: str = ""
) -> Moved:
    """Move the source, or return what an earlier call has moved: what was written since is the sync's to carry."""
    if run.status != "finished":
        return move_snapshot(file, target, run, settings, rules, plan=plan, revisions=revisions)
    assert run.snapshot is not None
    known = replay_rules(settings, file)
    return Moved(run.snapshot, known, _finished(run, target, known))


def moved_already(run: Run, target: str, rules: Rules) -> Report:
    """Return the report of a run that an earlier call has finished; foreign keys that were left are tried once more."""
    report = _finished(run, target, rules)
    return call(validate_again, run, target, rules) if report.not_valid else report


def _finished(run: Run, target: str, rules: Rules) -> Report:
    return finished_report(run, target_url(target), accepted_tables(rules), tolerated_tables(rules))


def refuse_unverified(moved: Moved) -> None:
    """Raise what stands against the first copy of a live move; rows kept aside are judged when the rest is carried."""
    if not moved.report.verified:
        judge_report(moved.report)


def leave_earlier(file: Path, target: str, command: str) -> None:
    """Leave a dual-write that is to begin anew: its capture belongs to the run that is given up."""
    record = call(read_phase, file, target)
    if record is not None and record.phase is not Phase.NONE:
        require(record, command)
        call(undo, file, target)


def _copy(move: Move, group: Group) -> list[PrefectFuture[Any]]:
    part = move.only(group.tables)
    begun_elsewhere(group.tables)
    return [submit(load, part, unit, submit(export, part, unit)) for unit in group.units]


def _loaded(group: Group, loads: Sequence[PrefectFuture[Any]]) -> None:
    for unit, load_of_it in zip(group.units, loads, strict=True):
        results([load_of_it])
        told_elsewhere(unit.chunks, reporter().exported)
        told_elsewhere(unit.chunks, reporter().loaded)


def _judged(group: Group, future: PrefectFuture[tuple[TableVerdict, ...]]) -> tuple[TableVerdict, ...]:
    (verdicts,) = results([future])
    told_elsewhere((chunk for unit in group.units for chunk in unit.chunks), reporter().verified)
    return verdicts


def _finish_group(move: Move, group: Group, deferred: tuple[Deferred, ...]) -> PrefectFuture[tuple[TableVerdict, ...]]:
    part = move.only(group.tables)
    works = index_work(move, group, deferred)
    builds = [submit(build, part, work.name, work.steps) for work in works]
    key_builds = [built for built, work in zip(builds, works, strict=True) if work.key]
    read = [submit(read_back, part, unit, after=key_builds) for unit in units_to_read(move, group)]
    analyzed = submit(analyze, part, group, after=builds)
    keys = key_work(move, group, deferred)
    attached = submit(build, part, keys.name, keys.steps, after=[*builds, *read, analyzed])
    return submit(judge, part, group, read, after=[attached])


def _add_foreign_keys(move: Move, deferred: tuple[Deferred, ...], parallelism: int) -> tuple[OrphanedKey, ...]:
    nothing = move.only(())
    added, checks = foreign_key_work(deferred, parallelism)
    call(build, nothing, added.name, added.steps)
    left = results([submit(validate, nothing, work.name, work.steps) for work in checks])
    return tuple(key for part in left for key in part)
