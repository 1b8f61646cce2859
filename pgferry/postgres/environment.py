"""Runs an application's Alembic environment (its `env.py`) inside this process, on one target and on no other.

An `env.py` is the application's own program and comes in several usual forms. All of them work here as they are:

- it takes `config.attributes["connection"]` (the cookbook's form): that is a connection to the target;
- it makes an engine from the option `sqlalchemy.url`, plain or with `asyncio.run` (the stock templates): that option is
  set to the target, in memory only;
- it connects by settings of its own. Before the switch those name the live SQLite file, so the connection that it gives
  to `context.configure` is exchanged for one to the target. Migrations can never touch another database.

So neither the process environment nor any file has to hold the target's URL.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging.config
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from greenlet import greenlet  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pgferry.errors import Permanent, UsageError
from pgferry.postgres.connection import STALL_SECONDS, connect

_T = TypeVar("_T")
Heads = tuple[str, ...]
Work = Callable[[ScriptDirectory, Heads, MigrationContext], Iterable[MigrationStep]]
"""Gets the scripts, the revisions that the target is at, and Alembic's context; gives the steps to take."""

_ONE_AT_A_TIME = threading.Lock()
"""`alembic.context`, `alembic.op` and `sys.path` belong to the whole process, so one environment runs at a time."""

_ABORTED = "25P02"  # in_failed_sql_transaction: a consequence, never the cause


def read_config(path: Path) -> Config:
    """Read an Alembic configuration (alembic.ini, or a pyproject.toml with `[tool.alembic]`).

    Its relative paths count from its own folder, and from the working directory only where nothing is found there.
    Raises UsageError when it is missing, unreadable, or names no folder of migrations.
    """
    if not path.is_file():
        raise UsageError(f"There is no Alembic configuration {path}.", "Set PGFERRY_ALEMBIC_CONFIG to the right file.")
    path = path.absolute()
    config = Config(None if path.suffix == ".toml" else path, toml_file=path.with_name("pyproject.toml"))
    try:
        _anchor(config, path.parent)
    except Exception as error:
        raise UsageError(f"{path} is no Alembic configuration: {error}.", "Correct the file.") from error
    location = config.get_main_option("script_location", "")
    if Path(location).is_absolute() and not (Path(location) / "env.py").is_file():
        raise UsageError(f"{path} names the migrations {location}, which hold no env.py.", "Correct script_location.")
    return config


def read_scripts(config: Config) -> ScriptDirectory:
    """Read the revisions, which are the application's code; raises Permanent naming the configuration."""
    with _ONE_AT_A_TIME, _sys_path_kept():
        return _read_scripts(config)


def run(
    config: Config,
    url: URL,
    work: Work,
    first_error: FirstError,
    *,
    session: Sequence[str] = (),
    stall_timeout: float = STALL_SECONDS,
    **options: object,
) -> None:
    """Run `env.py` with `work` on the target; `options` are those of Alembic's EnvironmentContext.

    `session` are statements that each session runs first, also one that env.py brings. A session that is opened here
    is watched, see `connect`. Blocks, and needs a thread without a running event loop. Raises whatever env.py, a
    migration or a driver raises; `first_error` then knows the database error that came first. Logging stays as the
    caller has set it up.
    """
    with _ONE_AT_A_TIME, _sys_path_kept(), _logging_kept():
        _drive(lambda: _run_env(config, url, work, first_error, session, stall_timeout, options))


class FirstError:
    """The database error that started a failure; those that follow in the aborted transaction say nothing."""

    def __init__(self) -> None:
        self.seen: BaseException | None = None

    def watch(self, engine: Engine) -> None:
        """Note the errors of an engine from now on."""
        event.listen(engine, "handle_error", self._note)

    def cause_of(self, error: BaseException) -> BaseException:
        """Return the error to show for `error`."""
        aborted = any(getattr(link, "sqlstate", None) == _ABORTED for link in chain(error))
        return self.seen if aborted and self.seen is not None else error

    def _note(self, context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) != _ABORTED:
            self.seen = context.original_exception


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


# ---------------------------------------------------------------- the configuration


def _anchor(config: Config, folder: Path) -> None:
    # Alembic puts the folder's name into its options as it is, and a % in it would begin another one's.
    config.file_config.set("DEFAULT", "here", folder.as_posix().replace("%", "%%"))
    location = config.get_alembic_option("script_location")
    if not location:
        raise CommandError("it has no script_location")
    paths = config.get_prepend_sys_paths_list()
    versions = config.get_version_locations_list()
    _set(config, "script_location", _found(location, folder))
    if paths:
        _set(config, "prepend_sys_path", os.pathsep.join(_found(each, folder) for each in paths))
    if versions:
        _set(config, "version_locations", os.pathsep.join(_found(each, folder) for each in versions))
    _set(config, "path_separator", "os")


def _found(path: str, folder: Path) -> str:
    # `package:folder` is Alembic's form for migrations inside an installed package.
    if ":" in path and not Path(path).is_absolute():
        return path
    return path if not (folder / path).exists() and Path(path).exists() else str(folder / path)


def _set(config: Config, option: str, value: str) -> None:
    config.set_main_option(option, value.replace("%", "%%"))


def _read_scripts(config: Config) -> ScriptDirectory:
    try:
        scripts = ScriptDirectory.from_config(config)
        scripts.get_heads()
    except Exception as error:
        raise Permanent(
            f"The migrations of {config.config_file_name or config.toml_file_name} cannot be read:"
            f" {type(error).__name__}: {error}.",
            "Correct them until `alembic heads` works.",
        ) from error
    return scripts


# ---------------------------------------------------------------- the run


def _run_env(
    config: Config,
    url: URL,
    work: Work,
    first_error: FirstError,
    session: Sequence[str],
    stall_timeout: float,
    options: Mapping[str, object],
) -> None:
    scripts = _read_scripts(config)
    target = _engine(url, stall_timeout)
    first_error.watch(target)
    _set(config, "sqlalchemy.url", _for_option(url).render_as_string(hide_password=False))
    environment = EnvironmentContext(
        config, scripts, fn=lambda heads, context: work(scripts, _tuple(heads), context), **options
    )
    with target.connect() as connection, environment, _Pin(environment, target, url, first_error, session):
        config.attributes["connection"] = connection
        try:
            scripts.run_env()
        except SystemExit as error:
            raise RuntimeError(f"it ended with exit({error.code!r})") from error


def _engine(url: URL, stall_timeout: float) -> Engine:
    """Connections as everywhere in pgferry: a URL may have options that SQLAlchemy refuses."""
    creator = functools.partial(connect, url, stall_timeout=stall_timeout)
    return create_async_engine(url.set(query={}), async_creator=creator, poolclass=NullPool).sync_engine


def _for_option(url: URL) -> URL:
    """The URL for `sqlalchemy.url`: of libpq's options SQLAlchemy takes encryption alone, under another name."""
    mode = url.query.get("sslmode") or url.query.get("ssl")
    return url.set(query={"ssl": mode} if mode else {})


def _tuple(heads: Any) -> Heads:
    return (heads,) if isinstance(heads, str) else tuple(heads or ())


class _Pin:
    """Holds an environment to the target, whatever connection its env.py brings."""

    def __init__(
        self, environment: EnvironmentContext, target: Engine, url: URL, first_error: FirstError, session: Sequence[str]
    ) -> None:
        self._session = session
        self._configure = environment.configure
        self._begin = environment.begin_transaction
        self._environment = environment
        self._target = target
        self._url = url
        self._first_error = first_error
        self._opened = ExitStack()
        self._brought: URL | None = None

    def __enter__(self) -> None:
        # Attributes of the object, no subclass: Alembic finds the module proxies to fill by the exact class.
        vars(self._environment).update(configure=self.configure, begin_transaction=self.begin_transaction)

    def __exit__(self, *error: object) -> None:
        # Only for an env.py that began no transaction. Its event loop may have ended, and the connection with it.
        with suppress(Exception):
            self._opened.close()

    def configure(self, connection: Connection | None = None, **options: Any) -> None:
        """Stand in for `context.configure`."""
        if connection is not None:
            self._refuse_second_database(connection.engine.url)
        if connection is None or not self._is_target(connection.engine):
            # Opened here and not before: inside an `asyncio.run` of env.py it has to belong to that loop.
            connection = self._opened.enter_context(self._target.connect())
        elif connection.engine is not self._target:
            self._first_error.watch(connection.engine)
        self._prepare(connection)
        self._configure(connection=connection, **options)

    @contextmanager
    def begin_transaction(self) -> Iterator[Any]:
        """Stand in for `context.begin_transaction`; what `configure` opened is closed at its end."""
        with self._opened, self._begin() as transaction:
            yield transaction

    def _prepare(self, connection: Connection) -> None:
        if not self._session:
            return
        own = not connection.in_transaction()
        for statement in self._session:
            connection.exec_driver_sql(statement)
        if own:  # Else Alembic takes the transaction that this began for one of env.py's, and never commits.
            connection.commit()

    def _refuse_second_database(self, url: URL) -> None:
        if self._brought is not None and self._brought != url:
            raise Permanent(
                "env.py migrates more than one database.",
                "Name an Alembic configuration that makes the schema of this one.",
            )
        self._brought = url

    def _is_target(self, engine: Engine) -> bool:
        # With options in the URL env.py cannot have connected in quite the same way.
        same = engine.url.set(drivername="") == self._url.set(drivername="")
        return engine is self._target or (same and not self._url.query)


# ---------------------------------------------------------------- async drivers in synchronous code


class _Provider(greenlet):  # type: ignore[misc]
    """A greenlet in which SQLAlchemy lets synchronous code use an async driver."""

    __sqlalchemy_greenlet_provider__ = True


def _drive(work: Callable[[], _T]) -> _T:
    """Run synchronous code; whenever an async driver has to wait, run the event loop for just that long.

    SQLAlchemy's own greenlet_spawn runs the code inside a running loop, in which an env.py could not call asyncio.run.
    """
    with asyncio.Runner() as runner:
        provider = _Provider(work)
        provider.gr_context = contextvars.copy_context()
        outcome: Any = provider.switch()
        while not provider.dead:
            try:
                value = runner.run(_await(outcome))
            except BaseException:
                outcome = provider.throw(*sys.exc_info())
            else:
                outcome = provider.switch(value)
        result: _T = outcome
        return result


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable


# ---------------------------------------------------------------- what an env.py must not change for others


@contextmanager
def _sys_path_kept() -> Iterator[None]:
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Let fileConfig and dictConfig do nothing in this thread.

    The stock env.py calls fileConfig, which closes the handlers and disables the loggers of the whole process.
    """
    thread = threading.get_ident()
    file_config, dict_config = logging.config.fileConfig, logging.config.dictConfig

    def elsewhere(original: Callable[..., None]) -> Callable[..., None]:
        def configure(*arguments: Any, **options: Any) -> None:
            if threading.get_ident() != thread:
                original(*arguments, **options)

        return configure

    logging.config.fileConfig, logging.config.dictConfig = elsewhere(file_config), elsewhere(dict_config)
    try:
        yield
    finally:
        logging.config.fileConfig, logging.config.dictConfig = file_config, dict_config
