"""What the documentation says of settings, rules and commands is what the program does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from flows.cli import app
from pgferry.settings import MEBIBYTE, ColumnRules, Rules, Settings, TableRules

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def shown(value: Any) -> str:
    """Return a default as the documentation writes it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value % MEBIBYTE == 0 and value:
        return f"`{value}` ({value // MEBIBYTE} MiB)"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def expected(model: type[BaseModel], prefix: str = "") -> list[list[str]]:
    """Return the row that each field should have: name, default, and how the meaning begins."""
    return [
        [f"`{prefix}{name.upper() if prefix else name}`", shown(field.default), field.description or ""]
        for name, field in model.model_fields.items()
        if name not in ("tables", "columns")
    ]


@pytest.mark.parametrize(
    ("model", "prefix"), [(Settings, "PGFERRY_"), (Rules, ""), (TableRules, ""), (ColumnRules, "")]
)
def test_every_setting_and_rule_is_documented_with_its_default_and_meaning(model: type[BaseModel], prefix: str) -> None:
    documented = rows_of(CONFIGURATION)
    for name, default, meaning in expected(model, prefix):
        assert [row for row in documented if row[:2] == [name, default] and row[2].startswith(meaning)], (
            f"docs/configuration.md needs a row: | {name} | {default} | {meaning} |"
        )


def test_no_setting_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(r"`PGFERRY_([A-Z_]+)`", CONFIGURATION)) - {"TEST_TARGET"}
    assert named == {name.upper() for name in Settings.model_fields}
    rules = {name for model in (Rules, TableRules, ColumnRules) for name in model.model_fields}
    documented = {row[0].strip("`") for row in rows_of(CONFIGURATION)}
    assert {name for name in documented if name.islower()} <= rules


def test_each_setting_has_one_row() -> None:
    names = [row[0] for row in rows_of(CONFIGURATION) if row[0].startswith("`PGFERRY_")]
    assert [name for name in set(names) if names.count(name) > 1] == []


def toml_blocks() -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.S)
    ]


@pytest.mark.parametrize(("page", "block"), toml_blocks())
def test_every_example_of_rules_is_valid(page: str, block: str) -> None:
    assert Rules.model_validate(tomllib.loads(block)).tables, page


def test_the_example_shows_every_rule() -> None:
    example = next(block for page, block in toml_blocks() if page == "configuration.md")
    for model in (Rules, TableRules, ColumnRules):
        for name in model.model_fields:
            assert re.search(rf"^{name} =|^\[tables\..*{name}", example, re.M) or name == "tables", name


def test_the_readme_lists_every_command() -> None:
    commands: Any = get_command(app)
    listed = (ROOT / "README.md").read_text("utf-8").partition("## Commands")[2].partition("\n## ")[0]
    names = set(re.findall(r"^ +python -m flows ([a-z-]+)", listed, re.MULTILINE))
    assert names == {name for name, command in commands.commands.items() if not command.hidden}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_is_named_exists(page: Path) -> None:
    commands: Any = get_command(app)
    for line in re.findall(r"-m flows +([a-z].*)", page.read_text("utf-8")):
        words = line.split("`")[0].split("#")[0].split()
        command = commands.commands[words[0]]
        if hasattr(command, "commands"):
            assert all(name in command.commands for name in re.split(r"\\?\|", words[1])), line
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", " ".join(words))) <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
