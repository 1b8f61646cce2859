"""Every setting of pgferry, in one place, checked before anything is touched.

Values come from arguments, then `PGFERRY_*` in the environment, then `.env` in the working directory. Rules about
tables and columns come from `pgferry.toml`.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pgferry.errors import UsageError
from pgferry.model import ColumnRule

MEBIBYTE = 1024 * 1024

_PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]*@")


class ColumnRules(BaseModel):
    """`[tables.NAME.columns.NAME]` of pgferry.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rename: str | None = Field(None, description="the column's name in the target")
    exclude: bool = Field(False, description="leave the column out")
    on_empty: Literal["quarantine", "null"] = Field("quarantine", description="an empty string where no text belongs")
    on_nul: Literal["quarantine", "strip"] = Field("quarantine", description="a NUL character in text or JSON")
    on_zero_date: Literal["quarantine", "null"] = Field("quarantine", description="0 or 0000-00-00 as a date")
    epoch: Literal["s", "ms", "us", "julian"] | None = Field(None, description="unit of numbers in a date column")
    timezone: str | None = Field(None, description="zone of naive values for timestamptz")
    blob_as_text: bool = Field(False, description="a BLOB that is valid UTF-8 becomes text")
    number_as_bytes: bool = Field(False, description="a number becomes the bytes of its digits in a bytea column")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is not None:
            _check_zone(name)
        return name


class TableRules(BaseModel):
    """`[tables.NAME]` of pgferry.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rename: str | None = Field(None, description="the table's name in the target, `schema.name` or `name`")
    exclude: bool = Field(False, description="leave the table out; its rows count as excluded")
    accept_quarantined: bool = Field(False, description="end with exit code 0 although rows are quarantined")
    orphans: Literal["refuse", "not_valid"] = Field(
        "refuse", description="rows whose foreign key finds no parent leave the key NOT VALID: end with exit code 3"
    )
    columns: dict[str, ColumnRules] = Field(default_factory=dict)


class Rules(BaseModel):
    """pgferry.toml: what a person has decided about tables and columns. Names are the source's, exact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timezone: str = Field("UTC", description="zone of naive values for timestamptz, where no column says otherwise")
    tables: dict[str, TableRules] = Field(default_factory=dict)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        _check_zone(name)
        return name

    def table(self, name: str) -> TableRules:
        """Return the rules of a table; the defaults where there are none."""
        return self.tables.get(name, TableRules())

    def column(self, table: str, column: str) -> ColumnRule:
        """Return the value rules of a column."""
        rules = self.table(table).columns.get(column, ColumnRules())
        return ColumnRule(
            on_empty=rules.on_empty,
            on_nul=rules.on_nul,
            on_zero_date=rules.on_zero_date,
            epoch=rules.epoch,
            timezone=rules.timezone or (self.timezone if self.timezone != "UTC" else None),
            blob_as_text=rules.blob_as_text,
            number_as_bytes=rules.number_as_bytes,
        )


class Settings(BaseSettings):
    """The settings; each can be given as `PGFERRY_<NAME>` in the environment or in `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="PGFERRY_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    source: Path | None = Field(
        None, description="the SQLite file; by default the DATABASE_URL of .env when that names a SQLite file"
    )
    target: SecretStr | None = Field(
        None, description="the PostgreSQL URL; by default the embedded server, started when needed"
    )
    config: Path | None = Field(None, description="rules for tables and columns; by default pgferry.toml if it exists")
    home: Path = Field(Path(".pgferry"), description="folder of the embedded server, logs, backups and staging")
    staging: str | None = Field(None, description="folder or fsspec URL of the Parquet files; default HOME/staging")
    staging_options: SecretStr | None = Field(
        None, description="JSON object with what the store of a staging URL needs: endpoint, credentials, timeouts"
    )
    task_runner: Literal["threads", "dask", "ray"] = Field(
        "threads", description="what runs the tasks: threads of one process, or the processes of a dask or ray cluster"
    )
    task_runner_address: str | None = Field(
        None, description="the cluster's address; by default a temporary one here, a process for each in parallelism"
    )
    backup_check: Literal["quick", "full"] = Field(
        "quick", description="how SQLite checks the backup: quick_check, or integrity_check, which looks at indexes too"
    )
    chunk_rows: Annotated[int, Field(ge=1)] = Field(250_000, description="rows a chunk holds at the most")
    chunk_bytes: Annotated[int, Field(ge=1)] = Field(64 * MEBIBYTE, description="bytes a chunk holds, about")
    parallelism: Annotated[int, Field(ge=1, le=64)] = Field(2, description="chunks and indexes in work at once")
    sample_rows: Annotated[int, Field(ge=0)] = Field(
        200, description="rows per table that verification reads again through another reader"
    )
    index_memory: str = Field("256MB", description="maintenance_work_mem of an index build")
    connect_timeout: float = Field(15.0, description="seconds to wait for a connection")
    statement_timeout: float = Field(0.0, description="seconds a statement may take; 0 is no limit")
    stall_timeout: Annotated[float, Field(ge=0)] = Field(
        60.0, description="seconds without a byte before the server is asked whether it still works; 0 is never"
    )
    pool_size: Annotated[int, Field(ge=1)] = Field(20, description="connections that the pool keeps")
    pool_overflow: Annotated[int, Field(ge=0)] = Field(10, description="connections beyond pool_size in a peak")
    pool_pre_ping: bool = Field(True, description="test a pooled connection before it is used")
    pool_recycle: int = Field(3600, description="seconds after which a pooled connection is replaced")
    alembic_config: Path = Field(Path("alembic.ini"), description="the Alembic configuration that makes the schema")
    application_env: Path = Field(
        Path(".env"), description="the file in which the switch points the application at the other database"
    )
    application_variable: str = Field(
        "DATABASE_URL", description="the variable of that file that holds the application's database URL"
    )
    application_url: SecretStr | None = Field(
        None, description="what that variable becomes at the switch; by default the target's URL"
    )
    restart_command: str | None = Field(None, description="shell command that restarts the application, and returns")
    restart_timeout: Annotated[float, Field(gt=0)] = Field(60.0, description="seconds the restart command may take")
    health_url: str | None = Field(None, description="HTTP URL that answers with 2xx when the application is well")
    health_timeout: Annotated[float, Field(gt=0)] = Field(
        60.0, description="seconds the application may take to answer so after a restart"
    )
    test_command: str | None = Field(
        None, description="shell command that tests the application after the switch; it must end with 0"
    )
    test_timeout: Annotated[float, Field(gt=0)] = Field(600.0, description="seconds the test command may take")
    validations_needed: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="validations of every cell that must have passed in a row before the switch"
    )
    validation_max_age_hours: Annotated[float, Field(gt=0)] = Field(
        24.0, description="hours since the latest validation, at the most, at the switch"
    )
    max_lag_rows: Annotated[int, Field(ge=0)] = Field(
        1000, description="changes not yet carried, at the most, at the switch and at the cleanup"
    )
    max_lag_seconds: Annotated[float, Field(ge=0)] = Field(
        10.0, description="seconds one side is behind the other, at the most, at the switch and at the cleanup"
    )
    cleanup_days: Annotated[float, Field(ge=0)] = Field(
        7.0, description="days after the switch before the way back may be removed"
    )
    approval_timeout: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="seconds the switch waits for a person's approval"
    )
    monitor_connections_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        80.0, description="percent of max_connections that may be in use"
    )
    monitor_cache_hit_percent: Annotated[float, Field(ge=0, le=100)] = Field(
        90.0, description="percent of block reads that the server's cache must answer, since the look before"
    )
    monitor_query_seconds: Annotated[float, Field(gt=0)] = Field(5.0, description="seconds a query may be active")
    monitor_lock_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="seconds a session may wait for another one's lock"
    )
    monitor_dead_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        30.0, description="percent of a large table's rows that may be dead"
    )
    monitor_lag_seconds: Annotated[float, Field(gt=0)] = Field(
        600.0, description="seconds the side behind may be behind in a live move"
    )
    metric_days: Annotated[float, Field(gt=0)] = Field(30.0, description="days that the monitor's numbers are kept")
    artifact_days: Annotated[float, Field(gt=0)] = Field(
        2.0, description="days that the monitor's artifacts are kept in the Prefect UI"
    )
    alert_block: str | None = Field(
        None, description="the notification block that alerts are sent through, as type/name (slack-webhook/ops)"
    )

    admin_url: SecretStr | None = Field(None, description="an administrator's PostgreSQL URL; only `provision` uses it")
    provision_database: str = Field("app", description="the database that `provision` makes")
    application_role: str = Field("app", description="the role that owns the application's tables, for `provision`")
    application_password: SecretStr | None = Field(
        None, description="that role's password; by default `provision` makes one"
    )
    ferry_role: str = Field("pgferry", description="the role that pgferry itself connects with, for `provision`")
    ferry_password: SecretStr | None = Field(None, description="that role's password; by default `provision` makes one")
    backup_tool: str | None = Field(
        None, description="what backs the target up where archive_mode does not tell, in words; for `preflight`"
    )

    @field_validator("staging")
    @classmethod
    def _holds_no_password(cls, url: str | None) -> str | None:
        if url is not None and _PASSWORD_IN_URL.search(url):
            # The place is shown, and kept in the ledger.
            raise ValueError("the URL holds a password; give it in PGFERRY_STAGING_OPTIONS instead")
        return url

    @field_validator("staging_options")
    @classmethod
    def _is_object(cls, options: SecretStr | None) -> SecretStr | None:
        if options is not None:
            _read_options(options)
        return options

    @field_validator("task_runner_address")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        if address and _PASSWORD_IN_URL.search(address):
            raise ValueError("it holds a password, and is shown; protect the cluster with certificates instead")
        return address or None

    @model_validator(mode="after")
    def _shares_staging(self) -> Self:
        if self.task_runner != "threads" and (self.staging or "").startswith("memory:"):
            raise ValueError(
                f"staging: {self.staging} is the memory of one process, and task_runner={self.task_runner} works in"
                " several; name a folder or a store that all of them reach"
            )
        if self.task_runner == "threads" and self.task_runner_address:
            raise ValueError("task_runner_address: threads have no address; set task_runner to dask or ray")
        return self

    @field_validator("application_variable")
    @classmethod
    def _is_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is no name of a variable")
        return name

    @field_validator("restart_command", "test_command")
    @classmethod
    def _says_something(cls, command: str | None) -> str | None:
        if command is not None and not command.strip():
            raise ValueError("it is empty; leave it away if there is none")
        return command

    @field_validator("health_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"https?://[^/\s]", url):
            raise ValueError("it is no HTTP URL")
        return url

    @property
    def staging_url(self) -> str:
        """The staging area's absolute folder, or its URL."""
        if self.staging and ("://" in self.staging or "::" in self.staging):
            return self.staging
        return str(Path(self.staging).absolute() if self.staging else self.home.absolute() / "staging")

    @property
    def store_options(self) -> dict[str, Any]:
        """What the staging area's store is opened with, beside its URL; may hold secrets."""
        return {} if self.staging_options is None else _read_options(self.staging_options)

    def source_path(self) -> Path:
        """Return the SQLite file to read; raises UsageError when none is named anywhere."""
        if self.source is not None:
            return self.source
        url = dotenv_values(".env").get("DATABASE_URL") or ""
        path = sqlite_path(url)
        if path is None:
            raise UsageError(
                "No source is named.", "Give --source FILE, or set PGFERRY_SOURCE, or DATABASE_URL to a SQLite URL."
            )
        return path

    def target_url(self) -> URL | None:
        """Return the target's URL in SQLAlchemy's form, or None for the embedded server; raises UsageError."""
        return None if self.target is None else parse_target(self.target.get_secret_value())

    def rules(self) -> Rules:
        """Read pgferry.toml; raises UsageError naming the key that is wrong. No file named and none there: defaults."""
        if self.config is not None:
            return read_rules(self.config)
        default = Path("pgferry.toml")
        return read_rules(default) if default.exists() else Rules()


def load_settings(**given: Any) -> Settings:
    """Return the settings with the given ones in front; None means not given. Raises UsageError, naming the setting."""
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(f"A setting is wrong: {_explain(error)}.", "Correct it in the environment or .env.") from error


def named_source(settings: Settings) -> Path | None:
    """Return the absolute path of the SQLite file that the settings name, or None when none is named anywhere."""
    try:
        return settings.source_path().resolve()
    except UsageError:
        return None


def read_rules(path: Path) -> Rules:
    """Read a pgferry.toml. Raises UsageError when it is missing, no TOML, or says something unknown."""
    try:
        return Rules.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise UsageError(f"There is no configuration file {path}.", "Check --config.") from error
    except OSError as error:
        raise UsageError(f"The configuration file {path} cannot be read: {error.strerror}.", "Check it.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}.", "Correct the file.") from error
    except ValidationError as error:
        raise UsageError(f"{path} is wrong: {_explain(error)}.", "Correct the file.") from error


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLAlchemy SQLite URL (`sqlite+aiosqlite:///./app.db`), or None for any other URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def parse_target(text: str) -> URL:
    """Parse a PostgreSQL URL, whichever driver it names; raises UsageError without repeating the password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "The target is no database URL." if text else "The target is no database URL: it is empty.",
            "Give postgresql+asyncpg://user:password@host:5432/database.",
        ) from error
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise UsageError(
            f"The target is a {url.get_backend_name()} database, not PostgreSQL.",
            "Give postgresql+asyncpg://user:password@host:5432/database.",
        )
    if not url.database:
        raise UsageError(f"The target {safe_url(url)} names no database.", "Add /DATABASE to the URL.")
    return url.set(drivername="postgresql+asyncpg")


def safe_url(url: URL) -> str:
    """Return the URL without its password: the only form that is ever shown or logged."""
    hidden = {name: "***" if "password" in name.lower() else value for name, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True)


def _read_options(options: SecretStr) -> dict[str, Any]:
    try:
        found = json.loads(options.get_secret_value())
    except ValueError:
        # `from None`: the cause repeats what may be a secret.
        raise ValueError("it is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  Pydantic takes no TypeError
    return found


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{name!r} is no time zone that this machine knows") from error


def _explain(error: ValidationError) -> str:
    # Never `input`: it may be the target's URL with its password.
    # Without a place for what is wrong with several settings together: their names are in the message.
    return "; ".join(": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"])))
                     for item in error.errors(include_input=False))  # fmt: skip
