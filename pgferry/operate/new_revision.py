"""Makes a new revision file in the application's folder of migrations."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from pathlib import Path

from alembic.autogenerate.api import RevisionContext
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, UsageError
from pgferry.live.model import Phase
from pgferry.operate.schema_change import Standing
from pgferry.postgres.environment import FirstError, Heads, read_config, read_scripts, run
from pgferry.settings import safe_url


def write_empty(config: Path, message: str) -> Path:
    """Write a revision whose upgrade and downgrade are for a person to fill; needs no server. Returns its file.

    Raises UsageError without a message or with several heads.
    """
    migrations = read_config(config)
    return _write(_context(migrations, message, autogenerate=False), config)


async def write_compared(url: URL, config: Path, message: str, standing: Standing) -> Path:
    """Write what differs between the application's models, as env.py names them, and the target; returns its file.

    Nothing is changed in the target. Raises UsageError while a live move is under way, since the target then has hidden
    columns and no foreign keys, and Permanent when env.py fails.
    """
    if standing.phase not in (Phase.NONE, Phase.CLEANED):
        raise UsageError(
            f"This database is in phase {standing.phase}: it has hidden columns, and foreign keys are put aside, so "
            "that a comparison would propose to undo that.",
            "Compare with another database at the same revision (--target), or leave out --autogenerate.",
        )
    migrations = read_config(config)
    context = _context(migrations, message, autogenerate=True)
    await asyncio.to_thread(_compare, url, migrations, context, config)
    return _write(context, config)


def _compare(url: URL, migrations: Config, context: RevisionContext, config: Path) -> None:
    def look(scripts: ScriptDirectory, heads: Heads, migration: MigrationContext) -> Iterable[MigrationStep]:
        context.run_autogenerate(heads, migration)
        return ()

    try:
        run(
            migrations,
            url,
            look,
            FirstError(),
            template_args=context.template_args,
            revision_context=context,
        )
    except FerryError:
        raise
    except Exception as error:
        raise Permanent(
            f"The models of {config} cannot be compared with {safe_url(url)}: {error}",
            "Bring the target to the newest revision first, and let env.py set target_metadata.",
        ) from error


def _context(migrations: Config, message: str, *, autogenerate: bool) -> RevisionContext:
    if not message.strip():
        raise UsageError("A revision needs a message.", "Give -m 'what it changes'.")
    arguments = {
        "message": message,
        "autogenerate": autogenerate,
        "sql": False,
        "head": "head",
        "splice": False,
        "branch_label": None,
        "version_path": None,
        "rev_id": None,
        "depends_on": None,
    }
    migrations.cmd_opts = argparse.Namespace(quiet=True)  # Else Alembic tells of the file on stdout, where we do.
    return RevisionContext(migrations, read_scripts(migrations), arguments)


def _write(context: RevisionContext, config: Path) -> Path:
    try:
        (script,) = context.generate_scripts()
    except CommandError as error:
        raise UsageError(f"No revision can be added to {config}: {error}.", "`alembic heads` shows why.") from error
    if script is None:
        raise Permanent(f"No revision was added to {config}.", "Look at process_revision_directives in env.py.")
    return Path(script.path)
