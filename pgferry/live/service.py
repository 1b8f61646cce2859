"""The application as a running service: restarted, waited for and tested by the commands that the settings name."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_address
from typing import IO
from urllib.parse import quote, quote_plus, urlsplit

from pgferry.errors import Permanent, UsageError

TAIL_BYTES = 64 * 1024
TAIL_LINES = 20
LINE_CHARACTERS = 500
"""How much of a command's output an error shows, at the most."""

ATTEMPT_SECONDS = 5.0
"""How long one request may stay without an answer."""

PAUSE_SECONDS = 0.2

GRACE_SECONDS = 3.0
"""What a command that is ended has to clean up."""

_PASSWORD_IN_URL = re.compile(r"(://[^\s/:@]*):\S*@")


def restart(command: str, timeout: float, *, secrets: Collection[str] = (), without: Collection[str] = ()) -> float:
    """Run the restart command with the shell and return the seconds that it took.

    It is over when the shell ends: what it started in the background lives on, in a session of its own. `secrets`
    are never shown; `without` are names of variables that it does not inherit. Raises Permanent, with the end of its
    output, when it fails or does not end within `timeout` seconds; then it is ended with all that it started.
    """
    return _run("restart command", command, timeout, secrets, without)


def run_tests(command: str, timeout: float, *, secrets: Collection[str] = (), without: Collection[str] = ()) -> float:
    """Run the application's own tests; as `restart`."""
    return _run("test command", command, timeout, secrets, without)


def wait_healthy(url: str, timeout: float) -> float:
    """Ask the URL until it answers with a 2xx status and return the seconds that it took.

    A loopback address is asked directly, whatever proxy the environment names. Raises Permanent, with the last answer,
    when none came within `timeout` seconds, and UsageError when it is no HTTP URL.
    """
    opener = _opener(url)
    began = time.monotonic()
    deadline = began + timeout
    while True:
        answer = _ask(opener, url, max(0.1, min(ATTEMPT_SECONDS, deadline - time.monotonic())))
        if answer is None:
            return time.monotonic() - began
        if time.monotonic() + PAUSE_SECONDS >= deadline:
            raise Permanent(
                f"The application is not healthy after {timeout:g} s: {_scrubbed(url, ())} gave {answer}.",
                "Look at the application's own log; PGFERRY_HEALTH_TIMEOUT says how long it may take.",
            )
        time.sleep(PAUSE_SECONDS)


# ---------------------------------------------------------------- commands


def _run(what: str, command: str, timeout: float, secrets: Collection[str], without: Collection[str]) -> float:
    began = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name not in without}
    # A file, not a pipe: what the command leaves in the background would hold a pipe open, and reading never end.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise _failed(what, f"did not end within {timeout:g} s", output, secrets) from error
        except BaseException:
            _end(process)
            raise
        if code:
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise _failed(what, ended, output, secrets)
    return time.monotonic() - began


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failed(what: str, how: str, output: IO[bytes], secrets: Collection[str]) -> Permanent:
    said = _tail(output, secrets)
    end = f"It said at the end:\n{said}" if said else "It said nothing."
    setting = "PGFERRY_" + what.replace(" ", "_").upper()
    return Permanent(f"The {what} {how}. {end}", f"Correct it, or {setting}.", output=said)


def _tail(output: IO[bytes], secrets: Collection[str]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - TAIL_BYTES))
    content = output.read()
    if size > TAIL_BYTES:
        # A line that was cut may hold half a secret, which nothing would recognise.
        content = content.partition(b"\n")[2]
    text = _scrubbed(content.decode("utf-8", "replace"), secrets)
    lines = [line[:LINE_CHARACTERS] for line in text.rstrip().splitlines()]
    return "\n".join(lines[-TAIL_LINES:])


def _scrubbed(text: str, secrets: Collection[str]) -> str:
    forms = {form for secret in secrets for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret))}
    for form in sorted(forms - {""}, key=len, reverse=True):
        text = text.replace(form, "***")
    return _PASSWORD_IN_URL.sub(r"\1:***@", text)


# ---------------------------------------------------------------- health


def _opener(url: str) -> urllib.request.OpenerDirector:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError(f"The health URL {_scrubbed(url, ())} is no HTTP URL.", "Correct PGFERRY_HEALTH_URL.")
    if _is_loopback(host):
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _ask(opener: urllib.request.OpenerDirector, url: str, timeout: float) -> str | None:
    """Return None for a good answer, else what came instead."""
    try:
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "pgferry"}), timeout=timeout) as response:
            good = 200 <= response.status < 300
            return None if good else f"status {response.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"status {error.code}"
    except urllib.error.URLError as error:
        return _scrubbed(f"no answer ({error.reason})", ())
    except (OSError, http.client.HTTPException) as error:
        return _scrubbed(f"no answer ({error or type(error).__name__})", ())
