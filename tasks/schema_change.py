"""A change of the target's schema by the application's revisions, up or down, with a dump from before."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task

from pgferry.operate import schema_change
from pgferry.operate.dump import Dump
from pgferry.operate.revision_lint import lint_markdown
from pgferry.operate.run_revisions import change
from pgferry.operate.schema_change import Changed, Standing
from pgferry.postgres.schema import SchemaState
from pgferry.replay import replay_rules
from pgferry.settings import Settings, load_settings
from tasks.artifacts import create_markdown_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT


@task(name="look at the schema", task_run_name="look at the schema and at what waits", **TRANSIENT)
def look(target: str, config: Path) -> Standing:
    """Read where the target's schema stands, which revisions wait, and what is wrong with them."""
    url, settings = target_url(target), load_settings()

    async def work() -> Standing:
        async with session(url, settings) as connection:
            return await schema_change.stand(connection, config)

    standing = wait_for(work())
    log = get_run_logger()
    log.info("At %s; %d revisions wait.", ", ".join(standing.applied) or "(empty)", len(standing.waiting))
    if standing.findings:
        text = lint_markdown(standing.findings, len(standing.waiting))
        create_markdown_artifact(text, key="schema-check", description="What would stop writers")
        for finding in standing.findings:
            log.warning("%s", finding)
    return standing


@task(name="dump", task_run_name="dump the target", **TRANSIENT)
def dump_target(target: str, standing: Standing, schema_only: bool) -> tuple[Dump | None, str]:
    """Dump the target with pg_dump and read the dump's contents; without a fitting pg_dump, say why there is none."""
    programs = schema_change.find_dump_programs(standing)
    if isinstance(programs, str):
        get_run_logger().warning("%s", programs)
        return None, programs
    settings = load_settings()
    dump = schema_change.dump_target(target_url(target), programs, standing, settings.home, schema_only=schema_only)
    get_run_logger().info("%s: %.1f MB in %.1f s.", dump.path, dump.bytes / 1e6, dump.seconds)
    return dump, ""


@task(name="run revisions", task_run_name="alembic {direction} {revision}", **TRANSIENT)
def run_revisions(target: str, config: Path, revision: str, direction: str, lock_timeout: float) -> SchemaState:
    """Run the revisions up or down; nothing is carried meanwhile."""
    url = target_url(target)
    limits = {"lock_timeout": lock_timeout, "stall_timeout": load_settings().stall_timeout}
    state = wait_for(change(url, config, revision, down=direction == "downgrade", **limits))
    get_run_logger().info(
        "The schema is at revision %s (it was at %s).",
        ", ".join(state.after) or "(empty)",
        ", ".join(state.before) or "(empty)",
    )
    return state


@task(name="conclude schema change", task_run_name="say what follows", **TRANSIENT)
def conclude(
    target: str, rules_file: str, standing: Standing, state: SchemaState, dump: Dump | None, note: str, direction: str
) -> Changed:
    """Say what a person must do next, and keep it all as an artifact."""
    settings = load_settings(config=rules_file or None)
    notes = (*([note] if note else []), *_follow_up(target, settings, standing, state, direction))
    changed = Changed(state, dump, standing.findings, notes)
    create_markdown_artifact(
        schema_change.changed_markdown(changed), key="schema-change", description="A change of the target's schema"
    )
    for line in changed.notes:
        get_run_logger().info("%s", line)
    return changed


def _follow_up(
    target: str, settings: Settings, standing: Standing, state: SchemaState, direction: str
) -> tuple[str, ...]:
    move = standing.move
    if move is None or state.before == state.after:
        return ()
    url, rules = target_url(target), replay_rules(settings, Path(move.source))

    async def work() -> tuple[str, ...]:
        async with session(url, settings) as connection:
            return await schema_change.follow_up(connection, standing, rules, down=direction == "downgrade")

    return wait_for(work())
