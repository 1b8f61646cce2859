"""Where settings come from, in which order, and how a wrong one is told."""

from __future__ import annotations

import os
from pathlib import Path
from traceback import format_exception

import pytest

from pgferry.errors import UsageError
from pgferry.model import ColumnRule
from pgferry.settings import (
    Rules,
    Settings,
    load_settings,
    parse_target,
    read_rules,
    safe_url,
    sqlite_path,
)

SECRET = "hunter2-Zx81q"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no settings in the environment."""
    for name in os.environ:
        if name.startswith("PGFERRY_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dotenv(place: Path, *lines: str) -> None:
    (place / ".env").write_text("\n".join(lines) + "\n", "utf-8")


def rules_of(place: Path, text: str) -> Rules:
    (place / "rules.toml").write_text(text, "utf-8")
    return read_rules(place / "rules.toml")


# ---------------------------------------------------------------- sources, and their order


def test_the_defaults_hold_where_nothing_is_said() -> None:
    settings = load_settings()
    assert (settings.chunk_rows, settings.chunk_bytes, settings.parallelism) == (250_000, 64 * 1024 * 1024, 2)
    assert (settings.pool_size, settings.pool_overflow, settings.pool_pre_ping) == (20, 10, True)
    assert settings.pool_recycle == 3600
    assert settings.target_url() is None
    assert settings.staging_url == str(Path(".pgferry").absolute() / "staging")
    assert settings.alembic_config == Path("alembic.ini")


def test_an_argument_goes_before_the_environment_and_that_before_dotenv(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv(place, "PGFERRY_CHUNK_ROWS=10", "PGFERRY_PARALLELISM=10", "PGFERRY_SAMPLE_ROWS=10")
    monkeypatch.setenv("PGFERRY_CHUNK_ROWS", "20")
    monkeypatch.setenv("PGFERRY_PARALLELISM", "20")
    settings = load_settings(chunk_rows=30)
    assert (settings.chunk_rows, settings.parallelism, settings.sample_rows) == (30, 20, 10)


def test_an_argument_of_none_is_none_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_SOURCE", "app.db")
    assert load_settings(source=None).source_path() == Path("app.db")


def test_what_else_is_in_dotenv_is_the_applications(place: Path) -> None:
    dotenv(place, "SECRET_KEY=abc", "PREFECT_API_URL=http://somewhere/api", "PGFERRY_HOME=here")
    assert load_settings().home == Path("here")


def test_staging_is_below_home_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_HOME", "there")
    assert load_settings().staging_url == str(Path("there").absolute() / "staging")
    monkeypatch.setenv("PGFERRY_STAGING", "s3://bucket/move")
    assert load_settings().staging_url == "s3://bucket/move"


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite+aiosqlite:///./osrs_tool_hub.db", "osrs_tool_hub.db"),
        ("sqlite:///osrs_tool_hub.db", "osrs_tool_hub.db"),
        ("sqlite:///data/app.db", "data/app.db"),
        ("sqlite+aiosqlite:////var/lib/app/app.db", "/var/lib/app/app.db"),
        ("sqlite+pysqlite:///app.db?timeout=5", "app.db"),
    ],
)
def test_the_source_is_the_applications_database_url(place: Path, url: str, path: str) -> None:
    dotenv(place, f"DATABASE_URL={url}")
    assert load_settings().source_path() == Path(path)
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'"])
def test_dotenv_may_quote_it_and_export_it(place: Path, quoted: str) -> None:
    dotenv(place, "export DATABASE_URL=" + quoted.format("sqlite:///my app.db") + "  # the database")
    assert load_settings().source_path() == Path("my app.db")


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://u:p@h/d", "no url at all", "mysql://h/d"]
)
def test_a_url_that_names_no_file_is_no_source(place: Path, url: str) -> None:
    dotenv(place, f"DATABASE_URL={url}")
    assert sqlite_path(url) is None
    with pytest.raises(UsageError, match="--source FILE, or set PGFERRY_SOURCE, or DATABASE_URL"):
        load_settings().source_path()


def test_a_source_that_is_named_goes_before_the_applications(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(place, "DATABASE_URL=sqlite:///app.db")
    monkeypatch.setenv("PGFERRY_SOURCE", "other.db")
    assert load_settings().source_path() == Path("other.db")
    assert load_settings(source=Path("third.db")).source_path() == Path("third.db")


# ---------------------------------------------------------------- the target


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2", "postgresql+psycopg"]
)
def test_whichever_driver_a_target_names_asyncpg_is_used(scheme: str) -> None:
    url = parse_target(f"{scheme}://me:{SECRET}@db.example:5433/app?sslmode=require")
    assert url.drivername == "postgresql+asyncpg"
    assert (url.username, url.password, url.host, url.port) == ("me", SECRET, "db.example", 5433)
    assert (url.database, dict(url.query)) == ("app", {"sslmode": "require"})


def test_a_password_with_special_characters_arrives_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_TARGET", "postgresql://me:a%2Fb%40c%25$d@h/app")
    url = load_settings().target_url()
    assert url is not None
    assert url.password == "a/b@c%$d"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (f"me:{SECRET}@h/app", "no database URL"),
        (f"postgresql://me:{SECRET}@h:port/app", "no database URL"),
        (f"mysql://me:{SECRET}@h/app", "mysql database, not PostgreSQL"),
        (f"sqlite:///{SECRET}", "sqlite database, not PostgreSQL"),
        (f"postgresql://me:{SECRET}@h", "names no database"),
        (f"postgresql://me:{SECRET}@h/", "names no database"),
        ("", "no database URL"),  # as of an unset variable: never silently another server
        (f"nonsense+driver://me:{SECRET}@h/app", "not PostgreSQL"),
    ],
)
def test_a_wrong_target_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch, target: str, told: str) -> None:
    monkeypatch.setenv("PGFERRY_TARGET", target)
    with pytest.raises(UsageError, match=told) as caught:
        load_settings().target_url()
    assert SECRET not in str(caught.value)
    assert caught.value.exit_code == 2


def test_settings_do_not_show_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_TARGET", f"postgresql://me:{SECRET}@h/app")
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_the_shown_url_has_no_password_wherever_it_was() -> None:
    shown = safe_url(parse_target(f"postgresql://me:{SECRET}@h/app?sslpassword={SECRET}&password={SECRET}&sslmode=on"))
    assert SECRET not in shown
    assert shown.startswith("postgresql+asyncpg://me:***@h/app?")
    assert "sslmode=on" in shown


# ---------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHUNK_ROWS", "0"),
        ("CHUNK_ROWS", "many"),
        ("CHUNK_BYTES", "-1"),
        ("PARALLELISM", "0"),
        ("PARALLELISM", "65"),
        ("SAMPLE_ROWS", "-1"),
        ("POOL_SIZE", "0"),
        ("POOL_OVERFLOW", "-1"),
        ("POOL_PRE_PING", "perhaps"),
        ("CONNECT_TIMEOUT", "soon"),
        ("STATEMENT_TIMEOUT", "never"),
    ],
)
def test_a_wrong_value_is_told_by_the_settings_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PGFERRY_{name}", value)
    with pytest.raises(UsageError, match=name.lower()):
        load_settings()
    monkeypatch.delenv(f"PGFERRY_{name}")
    dotenv(place, f"PGFERRY_{name}={value}")
    with pytest.raises(UsageError, match=name.lower()):
        load_settings()


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_TARGET", f"postgresql://me:{SECRET}@h/app")
    monkeypatch.setenv("PGFERRY_CHUNK_ROWS", "many")
    with pytest.raises(UsageError, match="chunk_rows") as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="target") as caught:
        load_settings(target=[SECRET])
    assert SECRET not in str(caught.value)


def test_settings_do_not_change_under_a_running_move() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.parallelism = 3  # type: ignore[misc]


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# ---------------------------------------------------------------- pgferry.toml


def test_without_a_file_the_rules_are_the_defaults() -> None:
    rules = load_settings().rules()
    assert rules == Rules()
    assert rules.column("items", "name") == ColumnRule()


def test_the_file_is_found_by_its_name_or_as_it_is_named(place: Path) -> None:
    (place / "pgferry.toml").write_text("[tables.items]\nexclude = true\n", "utf-8")
    (place / "other.toml").write_text("[tables.items]\nrename = 'things'\n", "utf-8")
    assert load_settings().rules().table("items").exclude
    assert load_settings(config=Path("other.toml")).rules().table("items").rename == "things"


def test_a_named_file_must_be_there() -> None:
    with pytest.raises(UsageError, match=r"no configuration file missing\.toml"):
        load_settings(config=Path("missing.toml")).rules()


def test_every_rule_arrives_at_its_column(place: Path) -> None:
    rules = rules_of(
        place,
        """
timezone = "Europe/Berlin"
[tables.trades]
accept_quarantined = true
[tables.trades.columns.sold]
on_empty = "null"
on_nul = "strip"
on_zero_date = "null"
epoch = "ms"
timezone = "America/New_York"
blob_as_text = true
[tables.trades.columns."a name with spaces"]
rename = "plain"
""",
    )
    assert rules.column("trades", "sold") == ColumnRule("null", "strip", "null", "ms", "America/New_York", True)
    assert rules.column("trades", "other").timezone == "Europe/Berlin"
    assert rules.table("trades").columns["a name with spaces"].rename == "plain"
    assert rules.table("trades").accept_quarantined
    assert not rules.table("Trades").accept_quarantined


def test_utc_is_said_by_nobody_so_that_offsets_are_not_turned(place: Path) -> None:
    assert rules_of(place, 'timezone = "UTC"').column("t", "c").timezone is None
    assert rules_of(place, '[tables.t.columns.c]\ntimezone = "UTC"').column("t", "c").timezone == "UTC"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("chunk_rows = 5", "chunk_rows"),
        ("[tables.items]\nexcluded = true", r"tables\.items\.excluded"),
        ("[tables.items.columns.name]\non_emtpy = 'null'", r"tables\.items\.columns\.name\.on_emtpy"),
        ("[tables.items.columns.name]\non_empty = 'drop'", r"tables\.items\.columns\.name\.on_empty"),
        ("[tables.items.columns.name]\nepoch = 'minutes'", r"tables\.items\.columns\.name\.epoch"),
        ("[tables.items]\nexclude = 'perhaps'", r"tables\.items\.exclude"),
        ("timezone = 'Mars/Olympus'", "Mars/Olympus.*no time zone"),
        ("timezone = '../etc/passwd'", "no time zone"),
        ("[tables.items.columns.name]\ntimezone = 'CEST+2'", r"tables\.items\.columns\.name\.timezone.*CEST\+2"),
        ("[tables.items", "is no TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_by_its_place(place: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        rules_of(place, text)
    assert "rules.toml" in str(caught.value)


def test_a_file_in_another_encoding_is_no_toml(place: Path) -> None:
    (place / "latin.toml").write_bytes("[tables.möbel]\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.toml is no TOML"):
        read_rules(place / "latin.toml")


def test_a_folder_is_no_configuration_file(place: Path) -> None:
    (place / "folder").mkdir()
    with pytest.raises(UsageError, match="folder cannot be read: Is a directory"):
        read_rules(place / "folder")


# ---------------------------------------------------------------- the live move


def test_the_limits_of_the_switch_hold_where_nothing_is_said() -> None:
    settings = load_settings()
    assert (settings.application_env, settings.application_variable) == (Path(".env"), "DATABASE_URL")
    assert (settings.restart_command, settings.health_url, settings.test_command) == (None, None, None)
    assert (settings.validations_needed, settings.validation_max_age_hours, settings.cleanup_days) == (3, 24, 7)
    assert (settings.max_lag_rows, settings.max_lag_seconds) == (1000, 10)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("application_variable", "DATABASE URL", "no name of a variable"),
        ("application_variable", "", "no name of a variable"),
        ("restart_command", "  ", "it is empty"),
        ("test_command", "", "it is empty"),
        ("health_url", "localhost:8000/health", "no HTTP URL"),
        ("health_url", "", "no HTTP URL"),
        ("restart_timeout", "0", "greater than 0"),
        ("health_timeout", "soon", "valid number"),
        ("validations_needed", "0", "greater than or equal to 1"),
        ("max_lag_rows", "-1", "greater than or equal to 0"),
        ("cleanup_days", "-0.5", "greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_of_the_live_move_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"PGFERRY_{name.upper()}", value)
    with pytest.raises(UsageError, match=rf"{name}: .*{words}"):
        load_settings()


def test_the_applications_url_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_APPLICATION_URL", f"postgresql://app:{SECRET}@db/app")
    settings = load_settings(restart_command="systemctl restart app", health_url="https://app.example/health")
    assert SECRET not in repr(settings)
    assert settings.application_url is not None
    assert SECRET in settings.application_url.get_secret_value()


# ---------------------------------------------------------------- beyond one machine


def test_staging_is_absolute_so_that_every_process_means_the_same(place: Path) -> None:
    assert load_settings(staging="files").staging_url == str(place / "files")


def test_the_options_of_a_store_are_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGFERRY_STAGING_OPTIONS", f'{{"secret": "{SECRET}", "anon": false}}')
    settings = load_settings()
    assert settings.store_options == {"secret": SECRET, "anon": False}
    assert SECRET not in repr(settings) + settings.model_dump_json()
    assert load_settings(staging_options="{}").store_options == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"staging": f"sftp://me:{SECRET}@host/files"}, r"staging: .*holds a password.*PGFERRY_STAGING_OPTIONS"),
        ({"staging_options": f"{{{SECRET}"}, "staging_options: .*no JSON"),
        ({"staging_options": f'["{SECRET}"]'}, "staging_options: .*no JSON object"),
        ({"task_runner": SECRET}, "task_runner: .*'threads', 'dask' or 'ray'"),
        ({"task_runner_address": "tcp://there:8786"}, "wrong: .*task_runner_address: threads have no address"),
        ({"staging": "memory://files", "task_runner": "dask"}, "wrong: .*memory of one process.*task_runner=dask"),
    ],
)
def test_what_does_not_go_together_is_told_and_no_secret_with_it(given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_settings(**given)
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(format_exception(caught.value))
