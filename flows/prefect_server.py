"""The Prefect server that a run is recorded by: the configured one, or the project's own in the background.

Nothing here imports Prefect: its import takes seconds and fixes the address of the server for the process.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version as installed_version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flows import background
from flows.background import Record, Say, silent
from flows.prefect_settings import Found, find_setting
from pgferry.errors import FerryError, Permanent, Transient

NAME = "prefect-server"

START_PATIENCE = 240.0
"""Seconds until a starting server must answer; usual are 15, on a busy machine several times that."""

PORT_PATIENCE = 3.0
"""Seconds to wait for the port of the server before; one that was killed holds it for an instant longer."""

BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""What a server answers that has done nothing and wants to be asked again."""

BUSY_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the attempts at a busy server."""

SERVER_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # One commit for 50 task-run events instead of one for each: a quarter of the server's CPU time.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    }
)
"""What the project's own server is started with, beside its home and its address."""


_NOT_THE_SERVERS = ("PREFECT_", "PGFERRY_", "PG", "DATABASE_URL")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A Prefect server that answers."""

    url: str
    """The API's address, as PREFECT_API_URL takes it."""
    ui_url: str
    pid: int | None
    """The process of the project's own server; None for a configured one."""
    started: bool
    """Whether it was started just now."""
    home: Path | None = None
    """PREFECT_HOME of the project's own server; None for a configured one."""
    version: str = ""
    """The server's Prefect version; empty when it does not tell."""


def ensure_server(home: Path, say: Say = silent) -> ServerInfo:
    """Return the server to use, and start the project's own (in HOME/prefect) when none is configured and none runs.

    PREFECT_API_URL decides, wherever Prefect would find it. Raises Transient when the configured server does not
    answer, Permanent when it refuses the credentials or the project's own does not start. Several commands at once
    start one server.
    """
    folder = server_folder(home)
    configured = find_setting("PREFECT_API_URL")
    if configured is not None and not _is_own(configured.value, folder):
        return _configured_server(configured, say)
    with background.exclusively(folder, NAME, say):
        return _own_server(folder, say)


def running_server(home: Path) -> ServerInfo | None:
    """Return the project's own server if it runs and answers; starts nothing."""
    folder = server_folder(home)
    record = background.running(folder, NAME)
    return _own_info(folder, record, started=False) if record is not None and _answers(record.address) else None


def stop_server(home: Path) -> bool:
    """Stop the project's own server; returns whether it was running. A configured server is never touched."""
    folder = server_folder(home)
    if not folder.exists():
        return False
    with background.exclusively(folder, NAME):
        return background.stop(folder, NAME)


def server_folder(home: Path) -> Path:
    """Return the folder of the project's own server: its PREFECT_HOME, database, records and logs."""
    return home.absolute() / "prefect"


def server_environment(server: ServerInfo, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which a process talks to this server."""
    environment = {**base, "PREFECT_API_URL": server.url}
    if server.home is not None:
        # A profile of the user's own need not exist there, and Prefect warns of one that does not.
        environment.pop("PREFECT_PROFILE", None)
        environment |= {"PREFECT_HOME": str(server.home), "DO_NOT_TRACK": "1"}
        for name in ("NO_PROXY", "no_proxy"):
            environment[name] = _with_loopback(environment.get(name, ""))
    return environment


def connect_environment(server: ServerInfo) -> None:
    """Make this process use the server. Call it before anything imports Prefect, which reads its settings only once.

    Raises RuntimeError when Prefect is imported already and uses another server.
    """
    if "prefect" in sys.modules:
        from prefect.settings import get_current_settings

        if str(get_current_settings().api.url) != server.url:
            raise RuntimeError("Prefect was imported before connect_environment() and uses another server.")
    environment = server_environment(server)
    os.environ.pop("PREFECT_PROFILE" if server.home is not None else "", None)
    os.environ.update(environment)


def get_json(url: str, *, payload: Any = None) -> Any:
    """Return what the API answers at `url` (GET, or POST when there is a payload).

    A server that says that it is busy (429, 503: its database is locked) has done nothing; it is asked again, as
    Prefect's own client does. Raises Transient when nothing answers or the server stays busy, Permanent with `status`
    in its details when the answer is an error.
    """
    for pause in BUSY_PAUSES:
        with suppress(_Busy):
            return _ask(url, payload)
        time.sleep(pause)
    return _ask(url, payload)


class _Busy(Transient):
    """The server has turned a request away for now."""


def _ask(url: str, payload: Any) -> Any:
    headers = {"Accept": "application/json", "Content-Type": "application/json", **_authorization()}
    body = None if payload is None else json.dumps(payload).encode()
    try:
        request = urllib.request.Request(url, data=body, headers=headers)
        with _opener(url).open(request, timeout=15) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            kind = _Busy if error.code in BUSY else Permanent
            raise kind(f"{shown(url)} answers {error.code} {error.reason}.", status=error.code) from error
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Transient(f"{shown(url)} does not answer: {reason}.") from error


def shown(url: str) -> str:
    """Return the address without credentials."""
    return re.sub(r"//[^/@]*@", "//", url)


# ---------------------------------------------------------------- a configured server


def _configured_server(configured: Found, say: Say) -> ServerInfo:
    url = configured.value.rstrip("/")
    try:
        get_json(f"{url}/health")
    except FerryError as error:
        raise _unusable(url, configured.place, error) from error
    info = ServerInfo(url, _ui_url(url), None, started=False, version=_version(url))
    _compare_versions(info.version, f"The Prefect server at {shown(url)}", "", say)
    return info


def _unusable(url: str, place: str, error: FerryError) -> FerryError:
    own = "or unset it there to use the project's own server, or run with --no-ui."
    if error.details.get("status") in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Permanent(
            f"The Prefect server at {shown(url)} (PREFECT_API_URL in {place}) refuses the credentials.",
            f"Check PREFECT_API_KEY or PREFECT_API_AUTH_STRING, {own}",
        )
    return Transient(
        f"No Prefect server answers at {shown(url)} (PREFECT_API_URL in {place}): {error.message}",
        f"Start that server or correct the address, {own}",
    )


def _ui_url(api_url: str) -> str:
    named = find_setting("PREFECT_UI_URL")
    return named.value if named else shown(api_url).removesuffix("/api")


def _authorization() -> dict[str, str]:
    login = find_setting("PREFECT_API_AUTH_STRING")
    if login is not None:
        return {"Authorization": "Basic " + base64.b64encode(login.value.encode()).decode()}
    key = find_setting("PREFECT_API_KEY")
    return {"Authorization": f"Bearer {key.value}"} if key is not None else {}


def _opener(url: str) -> urllib.request.OpenerDirector:
    # A proxy of the environment knows nothing of this machine's loopback.
    local = re.match(r"https?://(127\.0\.0\.1|localhost)[:/]", url)
    proxies = urllib.request.ProxyHandler({}) if local else urllib.request.ProxyHandler()
    certificates = find_setting("PREFECT_API_SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=certificates.value if certificates else None)
    unchecked = find_setting("PREFECT_API_TLS_INSECURE_SKIP_VERIFY")
    if unchecked is not None and unchecked.value.lower() in ("1", "true", "yes", "on"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return urllib.request.build_opener(proxies, urllib.request.HTTPSHandler(context=context))


# ---------------------------------------------------------------- the project's own server


def _own_server(folder: Path, say: Say) -> ServerInfo:
    record = background.running(folder, NAME)
    if record is not None:
        if _answers(record.address) or _wait_until_it_answers(folder, record, say):
            return _found(folder, record, say)
        say("The project's Prefect server runs but does not answer; it is started anew.")
        background.stop(folder, NAME)
    return _own_info(folder, _start(folder, say), started=True)


def _found(folder: Path, record: Record, say: Say) -> ServerInfo:
    _compare_versions(record.version, "The project's running Prefect server", "`make down` ends it.", say)
    return _own_info(folder, record, started=False)


def _start(folder: Path, say: Say) -> Record:
    say("Starting the Prefect server in the background; this takes about 20 seconds.")
    for preferred in (_recorded_port(folder), None, None):
        record = _launch(folder, background.free_port(preferred, PORT_PATIENCE))
        if _wait_until_it_answers(folder, record, silent):
            return record
        end = background.last_lines(folder, NAME)
        background.stop(folder, NAME)
        if "address already in use" not in end.lower():
            break
    raise Permanent(
        f"The project's Prefect server did not start. The end of its log:\n{end}\n",
        f"The whole log is {background.log_path(folder, NAME)}. Run with --no-ui to go without it.",
    )


def _launch(folder: Path, port: int) -> Record:
    url = f"http://127.0.0.1:{port}/api"
    return background.start(
        folder,
        NAME,
        [sys.executable, "-m", "prefect", "--no-prompt", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        environment=_own_environment(folder, url, port),
        directory=folder,
        address=url,
        version=installed_version("prefect"),
    )


def _own_environment(folder: Path, url: str, port: int) -> dict[str, str]:
    # Prefect settings of the person's environment are about another server: its database, its port, its login.
    # Of databases it need know nothing, and its environment can be read for as long as it runs.
    base = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_THE_SERVERS)}
    return {
        "HOME": str(folder),  # A bare environment has none.
        **base,
        **SERVER_SETTINGS,
        "PREFECT_HOME": str(folder),
        # The UI takes the API's address from here, and calls port 4200 without it.
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
    }


def _wait_until_it_answers(folder: Path, record: Record, say: Say) -> bool:
    say("Waiting for the project's Prefect server to answer.")
    deadline = time.monotonic() + START_PATIENCE
    while background.is_alive(record) and time.monotonic() < deadline:
        if _answers(record.address):
            # Another process may have taken the port first; then ours is ending.
            return background.running(folder, NAME) is not None
        time.sleep(0.25)
    return False


def _own_info(folder: Path, record: Record, *, started: bool) -> ServerInfo:
    ui = record.address.removesuffix("/api")
    return ServerInfo(record.address, ui, record.pid, started, home=folder, version=record.version)


def _recorded_port(folder: Path) -> int | None:
    record = background.read(folder, NAME)
    port = record and re.search(r":(\d+)/", record.address)
    return int(port[1]) if port else None


def _is_own(url: str, folder: Path) -> bool:
    # After `export PREFECT_API_URL=` of what `make ui` printed, the server is still the project's to start.
    record = background.read(folder, NAME)
    return record is not None and url.rstrip("/") == record.address


def _answers(url: str) -> bool:
    try:
        return get_json(f"{url}/health") is True
    except FerryError:
        return False


def _version(url: str) -> str:
    try:
        return str(get_json(f"{url}/admin/version"))
    except FerryError:
        return ""


def _compare_versions(server: str, subject: str, action: str, say: Say) -> None:
    here = installed_version("prefect")
    if server and server != here:
        difference = f"{subject} is version {server}, the installed Prefect is {here}"
        say(f"{difference}; they may not understand each other. {action}".strip())


def _with_loopback(hosts: str) -> str:
    named = [host.strip() for host in hosts.split(",") if host.strip()]
    return ",".join([*named, *([] if "127.0.0.1" in named or "*" in named else ["127.0.0.1"])])
