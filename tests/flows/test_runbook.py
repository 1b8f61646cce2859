"""The runbook's commands are real: all of them are run, day by day, on a small move; the tests are in its order."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from dotenv import dotenv_values
from sqlalchemy.engine import URL, make_url
from typer.main import get_command

from flows.cli import app
from pgferry.settings import Settings
from tests.flows.live_place import (
    Place,
    approve,
    assert_equal,
    listening,
    make_application,
    plant,
    provisioned,
    settings_for,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "docs" / "runbook.md", ROOT / "docs" / "schema-changes.md")
COMMANDS: Any = get_command(app)

ELSEWHERE = {
    "make ui": ("tests/stack.py", '"flows", "ui"'),
    "make down": ("tests/stack.py", '"flows", "down"'),
    "python -m flows serve": ("tests/flows/test_serve.py", '"flows", "serve"'),
    "python -m flows sync --follow": ("tests/flows/test_cli_live.py", '"flows", "sync", "--follow"'),
    "prefect deployment run 'switch/switch' --watch": (
        "tests/flows/test_deployed_life.py",
        '"prefect", "deployment", "run", "switch/switch", "--watch"',
    ),
    "python -m flows schema check": ("tests/flows/test_schema_flow.py", 'place.command("check")'),
    "python -m flows schema history": ("tests/flows/test_schema_flow.py", '"history"'),
    'python -m flows schema revision -m "add a colour to items"': (
        "tests/flows/test_schema_flow.py",
        '"revision", "-m"',
    ),
}
"""What runs beside the others, for as long as it is let, or with what this place has not -> where it is run."""


def lines() -> list[tuple[str, str]]:
    """Return page and text of every line of a shell block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.S):
            found += [(page.name, line) for line in block.splitlines() if line.strip() and not line.startswith("#")]
    return found


def parse(words: list[str]) -> None:
    """Take a command line apart as the program does, without running it; raises what click raises."""
    command = COMMANDS
    parent = None
    while hasattr(command, "commands"):
        name, words = words[0], words[1:]
        assert name in command.commands, f"there is no command {name}"
        parent = COMMANDS.context_class(command, parent=parent, info_name=name)
        command = command.commands[name]
    command.make_context(command.name, list(words), parent=parent).close()


@pytest.mark.parametrize(("page", "line"), lines(), ids=[line for _, line in lines()])
def test_every_line_is_a_real_command_with_real_options(page: str, line: str) -> None:
    words = shlex.split(line)
    if line.startswith("python -m flows "):
        parse(words[3:])
    elif words[0] in ("export", "unset"):
        name = words[1].partition("=")[0]
        assert name.removeprefix("PGFERRY_").lower() in Settings.model_fields, name
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:.*##", (ROOT / "Makefile").read_text("utf-8"), re.M), page
    else:
        assert words[:3] == ["prefect", "deployment", "run"], f"{page}: nobody knows what {line} does"
        deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
        assert words[3] in [f"{each['entrypoint'].rpartition('.')[2]}/{each['name']}" for each in deployments]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("switch --try", "No such option: --try"),
        ("schema downgrade", "Missing parameter: revision"),
        ("sync --follow now", "unexpected extra argument"),
        ("migrates", "there is no command migrates"),
    ],
)
def test_a_command_that_is_none_is_seen(command: str, problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        parse(shlex.split(command))


def test_every_line_is_run_here_or_elsewhere() -> None:
    elsewhere = {line for _, line in lines() if line in ELSEWHERE}
    assert elsewhere == ELSEWHERE.keys(), "what is run elsewhere stands in the pages"
    for file, words in ELSEWHERE.values():
        assert words in (ROOT / file).read_text("utf-8"), f"{file} does not run {words}"
    here = {line for heading in DAYS for line in days()[heading] if line not in ELSEWHERE}
    others = {line for _, line in lines() if not line.startswith(("export ", "unset "))}
    assert others - here == ELSEWHERE.keys()
    assert list(days()) == list(DAYS)


# ---------------------------------------------------------------- on a small move

LATER = """
from alembic import op
revision, down_revision = "{}", "{}"
def upgrade():
    op.execute("{}")
def downgrade():
    op.execute("{}")
"""


@dataclass
class Site:
    """The application that is moved, and the settings of its move in the environment."""

    place: Place
    patch: pytest.MonkeyPatch
    new_folder: Callable[[str], Path]
    new_database: Callable[[], URL]
    health_port: int
    reachable: str = ""
    """What PGFERRY_TARGET was before PostgreSQL went away."""

    def begin(self, name: str, target: URL) -> None:
        """Make another application, which is the one of everything that follows."""
        folder = self.new_folder(name)
        make_application(folder)
        (folder / "queries").mkdir()
        (folder / "queries" / "prices.sql").write_text("SELECT name, price FROM items WHERE active ORDER BY name")
        self.place = replace(self.place, folder=folder, target=target)
        settings = settings_for(folder, self.health_port) | {"PGFERRY_BACKUP_TOOL": "none is needed here"}
        for name_, value in settings.items():
            self.patch.setenv(name_, value)
        self.patch.chdir(folder)

    def revise(self, number: int, upgrade: str, downgrade: str) -> None:
        """Write a revision, as the application's developers do."""
        text = LATER.format(number, number - 1, upgrade, downgrade)
        (self.place.folder / "schema" / "versions" / f"{number}.py").write_text(text)

    def run(self, line: str) -> str:
        """Run a command of the runbook, with the name of this target's database; it must end well."""
        line = line.replace("--confirm app", f"--confirm {self.place.target.database}")
        done = self.place.command(*shlex.split(line.removeprefix("python -m flows ")))
        assert done.exit_code == 0, f"{line}\n{done.output}"
        assert done.output.strip()
        return done.output


@pytest.fixture(scope="module")
def site(
    prefect_api: str,
    server_url: URL,
    new_database: Callable[[], URL],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """An application, and an empty server."""
    mark = uuid4().hex[:10]
    with listening() as port, provisioned(server_url, mark) as names, pytest.MonkeyPatch.context() as patch:
        target = server_url.set(database=names["PGFERRY_PROVISION_DATABASE"])
        place = Place(tmp_path_factory.getbasetemp(), target, prefect_api)
        found = Site(place, patch, tmp_path_factory.mktemp, new_database, port)
        found.begin("runbook", target)
        patch.setenv("PREFECT_API_URL", prefect_api)
        patch.setenv("COLUMNS", "200")
        patch.setenv("PGFERRY_ADMIN_URL", server_url.render_as_string(hide_password=False))
        for name, value in names.items():
            patch.setenv(name, value)
        yield found


def take_over_the_urls(site: Site) -> None:
    made = dotenv_values(site.place.folder / "home" / "provision.env")
    for name in ("PGFERRY_TARGET", "PGFERRY_APPLICATION_URL"):
        site.patch.setenv(name, str(made[name]))
    site.patch.delenv("PGFERRY_ADMIN_URL")


def begin_anew(site: Site) -> None:
    assert site.place.phase == "none"
    site.run("dual-write --restart --confirm app")


def somebody_writes_to_postgres(site: Site) -> None:
    plant(site.place, "UPDATE items SET price = 99 WHERE id = 2")


def a_column_is_wanted(site: Site) -> None:
    site.revise(2, "ALTER TABLE notes ADD COLUMN extra text", "ALTER TABLE notes DROP COLUMN extra")


def sqlite_has_it_too(site: Site) -> None:
    site.place.sqlite("ALTER TABLE notes ADD COLUMN extra TEXT", "UPDATE notes SET extra = 'x'")


def somebody_approves(site: Site) -> None:
    approve(site.place.api, str(site.place.target.database))


def switch_again(site: Site) -> None:
    site.run("validate")
    site.run("switch")


def an_index_is_wanted(site: Site) -> None:
    site.revise(3, "CREATE INDEX trades_item ON trades (item_id)", "DROP INDEX trades_item")


def postgres_goes_away(site: Site) -> None:
    site.place.postgres("INSERT INTO trades VALUES (900, 1, '2024-01-01', 'its last write')")
    site.reachable = os.environ["PGFERRY_TARGET"]
    gone = make_url(site.reachable).set(port=1).render_as_string(hide_password=False)
    site.patch.setenv("PGFERRY_TARGET", gone)


def postgres_comes_back(site: Site) -> None:
    site.place.sqlite("INSERT INTO trades VALUES (901, 1, '2024-01-01 00:00:00.000000', 'written meanwhile')")
    site.patch.setenv("PGFERRY_TARGET", site.reachable)


def another_application(site: Site) -> None:
    url = site.new_database()
    site.begin("window", url)
    site.patch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
    site.patch.delenv("PGFERRY_APPLICATION_URL", raising=False)


Happens = Callable[[Site], None]

DAYS: dict[str, dict[str, Happens]] = {
    "Day 1: the target, and the settings": {"unset PGFERRY_ADMIN_URL": take_over_the_urls},
    "Day 2: the checklist, and a rehearsal": {},
    "Day 3: into dual-write": {},
    "Days 4 to 10: a week of nights": {
        "python -m flows status": begin_anew,
        "python -m flows validate --repair": somebody_writes_to_postgres,
        "python -m flows schema upgrade": a_column_is_wanted,
        "python -m flows dual-write --resume": sqlite_has_it_too,
    },
    "Day 11: the switch, dry": {},
    "Day 12: the switch": {"python -m flows switch --approve": somebody_approves},
    "Days 13 to 20: PostgreSQL in front": {
        "python -m flows status": switch_again,
        "python -m flows schema upgrade --after-switch": an_index_is_wanted,
        "python -m flows rollback --emergency": postgres_goes_away,
        "python -m flows rollback --carry --prefer sqlite": postgres_comes_back,
    },
    "Day 21: the end": {"python -m flows validate": switch_again},
    "The other way: a maintenance window": {
        "python -m flows preflight": another_application,
        "python -m flows migrate": another_application,
    },
}
"""The days -> what happens before one of their lines is run."""

SAID = {
    "python -m flows provision": "application: postgresql",
    "python -m flows export": "rows",
    "python -m flows switch --dry-run": "age of the latest validation",
    "python -m flows switch --approve": "Writes were frozen for",
    "python -m flows rollback": "SQLite is in front: 0 rows carried",
    "python -m flows rollback --emergency": "carry what stayed there",
    "python -m flows rollback --carry --prefer sqlite": "1 rows carried, 0 given up",
    "python -m flows cleanup --dry-run": "_pgferry",
    "python -m flows migrate --cut-over": "Writes were frozen for",
}
"""A line -> what a person reads after it, among others."""

AFTERWARDS = {
    "Day 3: into dual-write": "none",
    "Days 4 to 10: a week of nights": "dual-write",
    "Day 11: the switch, dry": "dual-write",
    "Day 12: the switch": "dual-write",
    "Days 13 to 20: PostgreSQL in front": "dual-write",
    "Day 21: the end": "cleaned",
}
"""The days -> the phase at their end; on most of them the way back is taken at last."""


def days() -> dict[str, list[str]]:
    """Return the headings of the runbook that have commands, and these in their order."""
    found = {}
    for section in PAGES[0].read_text("utf-8").split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
        if listed := [line for block in blocks for line in block.splitlines() if line.strip()]:
            found[heading] = listed
    return found


@pytest.mark.parametrize("heading", DAYS)
def test_the_day_is_lived(site: Site, heading: str) -> None:
    happens = dict(DAYS[heading])
    for line in days()[heading]:
        with beside(happens.pop(line, None), site):
            if line.startswith("python -m flows ") and line not in ELSEWHERE:
                assert SAID.get(line, "") in site.run(line), line
    assert not happens, "what happens before a line that is not there"
    if heading in AFTERWARDS:
        assert site.place.phase == AFTERWARDS[heading]
    if AFTERWARDS.get(heading) == "dual-write":
        site.run("sync")
        assert_equal(site.place)


@contextmanager
def beside(happens: Happens | None, site: Site) -> Iterator[None]:
    """Let happen what happens before the block; an approval, which is waited for, beside it."""
    if happens is not somebody_approves:
        if happens is not None:
            happens(site)
        yield
        return
    with ThreadPoolExecutor(1) as others:
        approving = others.submit(happens, site)
        yield
        approving.result()
