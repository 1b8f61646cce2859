"""Brings the target's schema to the application's newest Alembic revision, or to any other one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import quote, quote_plus

import asyncpg
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, Transient, UsageError, is_transient
from pgferry.postgres.connection import STALL_SECONDS, Connection, connection
from pgferry.postgres.environment import FirstError, Heads, chain, read_config, read_scripts, run
from pgferry.postgres.fence import PASS, is_fenced
from pgferry.postgres.ownership import hand_over
from pgferry.postgres.problems import explain
from pgferry.settings import safe_url

WAIT_SECONDS = 60.0
"""How long an upgrade waits for another one of the same database."""

_LOCK = (0x70676665, 0x72727901)
"""The advisory lock that an upgrade holds in the target: two keys that no one else is likely to use."""

# Tried again and again instead of waited for: a statement that waits holds a snapshot, and a CREATE INDEX CONCURRENTLY
# in the other upgrade would wait for that snapshot to end while we wait for the upgrade.
TRY_LOCK = "SELECT pg_try_advisory_lock($1, $2)"


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What a change did: the target's revisions before and after (none in an empty database), and by which file."""

    before: Heads
    after: Heads
    config: Path


async def upgrade(
    url: URL,
    config: Path,
    *,
    revision: str = "head",
    lock_timeout: float = 0.0,
    stall_timeout: float = STALL_SECONDS,
) -> SchemaState:
    """Run the migrations of an Alembic configuration on the target, up to `revision`.

    env.py decides about transactions (one a migration, or one for all); PostgreSQL rolls a failed one back whole. At
    most one upgrade of a database runs at a time; another waits for WAIT_SECONDS. A cancelled call lets the migration
    that is running come to its end. A statement waits `lock_timeout` seconds for a lock; 0 is for ever. A connection on
    which nothing passes is given up after `stall_timeout` seconds, as `connection.connect` says; one that env.py has
    made itself is not looked after. Where a live move has fenced the target, the migrations pass the fence, so that
    they can write to rows. Where the schema belongs to the application's role, so does what was made (`ownership`).
    Raises UsageError for a configuration or revision that is not there, Permanent for several heads, for a database at
    a revision that the scripts do not know, and for a migration that fails (naming it, its first error and where the
    target stands), Transient when another try may succeed.
    """
    migrations = read_config(config)
    expected = await asyncio.to_thread(_expected, migrations, config, revision)
    async with _alone(url, stall_timeout) as guard:
        work = _Work(config, revision, safe_url(url), await _session(guard, lock_timeout))
        before = await _apply(url, migrations, work, stall_timeout)
        await hand_over(guard)
        after = await _read_current(url, migrations, config, stall_timeout)
    if expected is not None and set(after) != {expected}:
        raise Permanent(
            f"The migrations of {config} ran, but {safe_url(url)} is at revision {_listed(after)}, not {expected}.",
            'Let env.py run them on config.attributes["connection"], inside context.begin_transaction().',
        )
    return SchemaState(before, after, config)


async def downgrade(
    url: URL, config: Path, revision: str, *, lock_timeout: float = 0.0, stall_timeout: float = STALL_SECONDS
) -> SchemaState:
    """Run the downgrades of an Alembic configuration on the target, down to `revision`; `base` is an empty schema.

    As `upgrade` in all else, the errors too.
    """
    migrations = read_config(config)
    async with _alone(url, stall_timeout) as guard:
        work = _Work(config, revision, safe_url(url), await _session(guard, lock_timeout), down=True)
        before = await _apply(url, migrations, work, stall_timeout)
        await hand_over(guard)
        return SchemaState(before, await _read_current(url, migrations, config, stall_timeout), config)


async def current(url: URL, config: Path) -> Heads:
    """Return the revisions that the target is at; changes nothing. The configuration tells the version table's name.

    Raises as `upgrade` does; a revision that the scripts do not know is returned as it is.
    """
    migrations = read_config(config)
    async with connection(url):  # Where the server is the trouble, not env.py, its own words are the better ones.
        return await _read_current(url, migrations, config)


def head(config: Path) -> str:
    """Return the newest revision of a configuration; raises Permanent unless there is exactly one."""
    return _only_head(read_scripts(read_config(config)), config)


# ---------------------------------------------------------------- revisions


def _expected(migrations: Config, config: Path, revision: str) -> str | None:
    """Return where an upgrade has to end, or None where only Alembic can tell (`+1`, `heads`, …)."""
    scripts = read_scripts(migrations)
    if revision == "head":
        return _only_head(scripts, config)
    return None


def _only_head(scripts: ScriptDirectory, config: Path) -> str:
    heads = scripts.get_heads()
    if not heads:
        raise Permanent(f"The migrations of {config} hold no revision.", "Make one: alembic revision --autogenerate.")
    if len(heads) > 1:
        raise Permanent(
            f"The migrations of {config} have {len(heads)} heads: {_listed(heads)}.",
            f"Join them: alembic merge heads -m 'merge {' and '.join(sorted(heads))}'.",
        )
    return heads[0]


def _listed(revisions: Iterable[str]) -> str:
    return ", ".join(sorted(revisions)) or "(none)"


# ---------------------------------------------------------------- the work


class _Work:
    """The steps of one upgrade or downgrade, and how far it came."""

    def __init__(self, config: Path, revision: str, target: str, session: Sequence[str], *, down: bool = False) -> None:
        self.before: Heads | None = None
        self.step: MigrationStep | None = None
        self.config = config
        self.revision = revision
        self.session = session
        self._target = target
        self._down = down

    def steps(self, scripts: ScriptDirectory, heads: Heads, context: MigrationContext) -> Iterable[MigrationStep]:
        self.before = heads
        for known in heads:
            self._require_known(scripts, known)
        find = scripts._downgrade_revs if self._down else scripts._upgrade_revs
        try:
            steps = find(self.revision, heads)  # type: ignore[arg-type]  # as alembic.command does
        except CommandError as error:
            raise UsageError(
                f"{self.config} has no way to revision {self.revision}: {error}.",
                "Name one that `alembic history` lists.",
            ) from error
        for step in steps:
            self.step = step
            yield step
        self.step = None

    def _require_known(self, scripts: ScriptDirectory, revision: str) -> None:
        try:
            scripts.get_revisions(revision)
        except CommandError as error:
            raise Permanent(
                f"{self._target} is at revision {revision}, which the migrations of {self.config} do not know.",
                "Use the Alembic configuration that made this schema, or an empty database.",
            ) from error


async def _session(guard: Connection, lock_timeout: float) -> tuple[str, ...]:
    """Return what the migrations' session runs first; where the target is fenced, what lets it write to rows."""
    limit = (f"SET lock_timeout = '{int(lock_timeout * 1000)}ms'",) if lock_timeout else ()
    return (*limit, *((PASS,) if await is_fenced(guard) else ()))


async def _apply(url: URL, migrations: Config, work: _Work, stall_timeout: float) -> Heads:
    first = FirstError()
    apply = functools.partial(run, migrations, url, work.steps, first, session=work.session)
    try:
        await asyncio.to_thread(apply, stall_timeout=stall_timeout, destination_rev=work.revision)
    except FerryError:
        raise
    except Exception as error:
        place = _environment_of(work.config) if work.step is None else _name(work.step)
        stands = "" if work.step is None else await _where(url, migrations, work.config, stall_timeout)
        raise _failure(url, place, first.cause_of(error), stands) from error
    if work.before is None:
        raise Permanent(
            f"{_environment_of(work.config)} ended without running any migration.",
            "Let it call context.configure and context.run_migrations when it is not in offline mode.",
        )
    return work.before


async def _read_current(url: URL, migrations: Config, config: Path, stall_timeout: float = STALL_SECONDS) -> Heads:
    found: list[Heads] = []

    def note(scripts: ScriptDirectory, heads: Heads, context: MigrationContext) -> Iterable[MigrationStep]:
        found.append(heads)
        return ()

    first = FirstError()
    try:
        await asyncio.to_thread(run, migrations, url, note, first, stall_timeout=stall_timeout, dont_mutate=True)
    except FerryError:
        raise
    except Exception as error:
        raise _failure(url, _environment_of(config), first.cause_of(error), "") from error
    return found[-1] if found else ()


async def _where(url: URL, migrations: Config, config: Path, stall_timeout: float) -> str:
    try:
        revisions = await _read_current(url, migrations, config, stall_timeout)
    except FerryError:
        return ""
    return f" The target is at revision {_listed(revisions)}."


# ---------------------------------------------------------------- errors


def _environment_of(config: Path) -> str:
    return f"The env.py of {config}"


def _name(step: MigrationStep) -> str:
    revisions = step.to_revisions_no_deps if step.is_upgrade else step.from_revisions_no_deps
    return f"{'Revision' if step.is_upgrade else 'The downgrade of'} {', '.join(revisions)} ({step.doc})"


def _failure(url: URL, place: str, error: BaseException, stands: str) -> FerryError:
    if not stands and any(isinstance(link, asyncpg.InsufficientPrivilegeError) for link in chain(error)):
        return explain(error, url)
    kind = Transient if any(is_transient(link) for link in chain(error)) else Permanent
    action = "Try again." if kind is Transient else f"Correct it and run it again.{_advice(error)}"
    return kind(f"{place} failed on {safe_url(url)}: {_without_password(_text(error), url)}.{stands}", action)


def _advice(error: BaseException) -> str:
    if any(isinstance(link, ModuleNotFoundError) for link in chain(error)):
        return " Install what it imports beside pgferry, or let env.py take config.attributes['connection']."
    return ""


def _text(error: BaseException) -> str:
    """The server's own words where there are some: SQLAlchemy wraps them in the statement and a link."""
    shown = next((link for link in chain(error) if isinstance(link, asyncpg.PostgresError)), error)
    lines = str(shown).strip().splitlines() or ["no message"]
    return f"{type(shown).__name__}: {lines[0].rstrip('.')}"


def _without_password(text: str, url: URL) -> str:
    password = url.password or ""
    # As it is, and as SQLAlchemy and other tools write it in a URL.
    for form in {password, quote(password, safe=" +"), quote(password, safe=""), quote_plus(password)} - {""}:
        text = text.replace(form, "***")
    return text


# ---------------------------------------------------------------- one at a time


@asynccontextmanager
async def _alone(url: URL, stall_timeout: float) -> AsyncIterator[Connection]:
    """Hold the database's upgrade lock; it ends with the session, so also with a killed process."""
    async with connection(url, stall_timeout=stall_timeout) as guard:
        deadline = monotonic() + WAIT_SECONDS
        while not await guard.fetchval(TRY_LOCK, *_LOCK):
            if monotonic() > deadline:
                raise Transient(
                    f"Another upgrade of {safe_url(url)} has been running for over {WAIT_SECONDS:.0f} seconds.",
                    "Wait for it to end and try again.",
                )
            await asyncio.sleep(0.2)
        yield guard
