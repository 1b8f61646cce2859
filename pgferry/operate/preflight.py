"""The checklist before a move, executed: each line measured, judged, and with what to do about it.

Nothing is changed on either side: the trial copies go to temporary tables of a transaction that is rolled back, and
the copy of the SQLite file is removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent
from pgferry.operate import key_checks, plan_checks, room, size_checks, source_checks
from pgferry.operate.check import Check, Verdict, failed, failed_check, megabytes, warned
from pgferry.operate.estimate import Estimate, measure
from pgferry.operate.migration_checks import check_migrations, check_revision
from pgferry.operate.source_checks import FileFacts
from pgferry.operate.standing import UNEXPECTED, broken, guarded, look_at_source, look_at_target
from pgferry.operate.target_checks import Paired
from pgferry.postgres.connection import Connection
from pgferry.report import markdown_cell
from pgferry.settings import Rules, Settings
from pgferry.sqlite.snapshot import take

__all__ = ["Check", "Verdict", "failed", "judge", "markdown", "run_checks", "summary", "to_json"]


async def run_checks(
    connection: Connection | None,
    settings: Settings,
    rules: Rules,
    source: Path,
    *,
    url: URL | None = None,
    problem: FerryError | None = None,
    named: bool = True,
) -> tuple[Check, ...]:
    """Go through the whole checklist; changes nothing, and never raises for what it finds.

    By `url` a second connection is made where a pooler is to be tried. Without a connection what is wrong with the
    server is `problem`. `named` says that the target is a server of the
    user's, not the embedded one. Reads the whole SQLite file, by a copy in PGFERRY_HOME that is removed again.
    """
    facts, checks = look_at_source(source)
    if connection is None:
        checks.append(_unreachable(problem))
        paired = Paired()
    else:
        paired, found = await look_at_target(connection, settings, rules, source if facts else None, url)
        checks += found
        checks.append(await guarded("target's revision", check_revision(connection, settings)))
    checks.append(await guarded("Alembic head", check_migrations(settings)))
    if facts is not None:
        checks += await _deep(connection, settings, rules, facts, paired, named=named)
    checks += [plan_checks.check_environment_file(settings, source), plan_checks.check_way_back(settings)]
    return tuple(checks)


def summary(checks: Iterable[Check]) -> str:
    """Return how many checks came out how."""
    found = [check.verdict for check in checks]
    return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in Verdict)


_MARKS = {Verdict.PASS: "✓", Verdict.WARN: "! **WARN**", Verdict.FAIL: "✗ **FAIL**"}


def judge(checks: Sequence[Check]) -> None:
    """Raise Permanent naming every check that stands in the way; the checklist is its detail `result`."""
    wrong = failed(checks)
    if wrong:
        words = "; ".join(f"{check.name}: {check.measured}" for check in wrong)
        raise Permanent(
            f"The preflight fails: {words}.", "What to do stands beside each check.", result=to_json(checks)
        )


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checklist as JSON-able values."""
    return {"passed": not failed(checks), "checks": [asdict(check) for check in checks]}


def markdown(checks: Sequence[Check]) -> str:
    """Return the checklist as Markdown: what stands in the way first, then what is to be weighed, then the rest."""
    ready = "NOT READY" if failed(checks) else "ready"
    lines = [f"## Preflight: {ready} ({summary(checks)})", ""]
    for check in sorted(checks, key=lambda check: list(Verdict).index(check.verdict), reverse=True):
        # No checkboxes: one of the two UIs shows Markdown's signs as they are behind those.
        advice = f" *{markdown_cell(check.advice)}*" if check.advice else ""
        lines.append(f"- {_MARKS[check.verdict]} **{check.name}**: {markdown_cell(check.measured)}.{advice}")
    return "\n".join(lines)


# ---------------------------------------------------------------- the groups


async def _deep(
    connection: Connection | None, settings: Settings, rules: Rules, facts: FileFacts, paired: Paired, *, named: bool
) -> list[Check]:
    """Check what takes a copy of the file: its integrity, its size in PostgreSQL, the time that the copy takes."""
    here = room.check_home(settings, facts)
    if here.verdict is Verdict.FAIL:
        advice = "Make room, then run this again."
        return [here, warned("SQLite integrity", "not looked at: there is no room for a copy of the file", advice)]
    started = time.monotonic()
    try:
        snapshot = take(facts.path, settings.home / "preflight")
    except UNEXPECTED as error:
        return [here, broken("SQLite integrity", error)]
    copy, seconds = Path(snapshot.path), time.monotonic() - started
    try:
        checks = [here, *_of_copy(copy, f"on a copy of {megabytes(snapshot.bytes)}, taken in {seconds:.1f} s")]
        if not failed(checks):
            checks += _of_rows(copy, facts, rules, paired)
            if connection is not None and paired.pairs:
                keys = key_checks.check_unique_keys(connection, copy, paired)
                checks.append(await guarded("unique keys", keys))
        if connection is not None:
            checks += await _reckoned(connection, settings, rules, facts, paired, copy, seconds, named=named)
        return checks
    finally:
        copy.unlink(missing_ok=True)


def _of_copy(copy: Path, taken: str) -> list[Check]:
    try:
        integrity = source_checks.check_integrity(copy, taken)
        if integrity.verdict is Verdict.FAIL:
            return [integrity]
        return [integrity, source_checks.check_foreign_keys(copy)]
    except UNEXPECTED as error:
        return [broken("SQLite integrity", error)]


def _of_rows(copy: Path, facts: FileFacts, rules: Rules, paired: Paired) -> list[Check]:
    """Look for what the rows hold that PostgreSQL cannot: each by itself, that one failure hides no other."""
    looks: dict[str, Callable[[], Check]] = {
        "long values": lambda: size_checks.check_long_values(copy, facts, paired, rules),
        "wide rows": lambda: size_checks.check_wide_rows(copy, paired, rules),
    }
    found = []
    for name, look in looks.items():
        try:
            found.append(look())
        except UNEXPECTED as error:
            found.append(broken(name, error))
    return found


async def _reckoned(
    connection: Connection,
    settings: Settings,
    rules: Rules,
    facts: FileFacts,
    paired: Paired,
    copy: Path,
    seconds: float,
    *,
    named: bool,
) -> list[Check]:
    estimate: Estimate | None = None
    why = "there is no row that could be tried"
    try:
        estimate = await measure(connection, copy, paired.pairs, rules)
    except UNEXPECTED as error:
        why = str(error).partition("\n")[0]
    return [
        room.check_estimate(facts, estimate, why),
        await guarded("disk of the server", room.check_target_room(connection, settings, facts, estimate, named=named)),
        room.check_duration(estimate, seconds, settings, why),
    ]


def _unreachable(problem: FerryError | None) -> Check:
    if problem is None:
        return failed_check("server", "there is no connection to it", "Check PGFERRY_TARGET.")
    return failed_check("server", problem.message, problem.action)
