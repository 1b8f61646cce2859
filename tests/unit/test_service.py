"""The application as a service: real commands of a shell and a real HTTP server, well and unwell."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pgferry.errors import Permanent, UsageError
from pgferry.live.service import restart, run_tests, wait_healthy

SECRET = "hunter2/Zx 81"


class Health(ThreadingHTTPServer):
    """Answers with the next of its statuses, the last one for ever; 0 is no answer at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses = [200]
        self.asked: list[str] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/health"


class Answer(BaseHTTPRequestHandler):
    server: Health

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        if status == 0:
            self.server.released.wait(30)
            self.close_connection = True
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_said: object) -> None:
        pass


@pytest.fixture
def health() -> Iterator[Health]:
    server = Health()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


# ---------------------------------------------------------------- health


def test_a_healthy_application_is_seen_at_once(health: Health) -> None:
    assert wait_healthy(health.url, 10) < 2
    assert health.asked == ["/health"]


def test_errors_first_and_then_well(health: Health) -> None:
    health.statuses = [500, 503, 404, 204]
    assert 0.5 < wait_healthy(health.url, 20) < 10
    assert len(health.asked) == 4


def test_a_redirect_is_followed(health: Health) -> None:
    health.statuses = [302, 200]
    wait_healthy(health.url, 10)
    assert health.asked == ["/health", "/elsewhere"]


def test_an_application_that_stays_unwell_is_told_with_its_last_answer(health: Health) -> None:
    health.statuses = [500]
    with pytest.raises(Permanent, match=rf"not healthy after 0\.7 s: {health.url} gave status 500\. .*PGFERRY_HEALTH"):
        wait_healthy(health.url, 0.7)


def test_a_url_that_hangs_does_not_hang_us(health: Health) -> None:
    health.statuses = [0]
    began = time.monotonic()
    with pytest.raises(Permanent, match=r"gave no answer \(timed out\)"):
        wait_healthy(health.url, 1)
    assert time.monotonic() - began < 4


def test_a_server_that_comes_late_is_waited_for(health: Health) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(Permanent, match="Connection refused"):
        wait_healthy(f"http://127.0.0.1:{port}/", 0.5)
    late = threading.Timer(0.5, lambda: health.statuses.append(200))
    health.statuses = [503]
    late.start()
    try:
        # One status stays until the other is there.
        assert wait_healthy(health.url, 20) > 0.3
    finally:
        late.join()


def test_what_speaks_no_http_is_unwell() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def speak() -> None:
            with suppress(OSError):
                while True:
                    other, _address = listener.accept()
                    with other:
                        other.recv(1000)
                        other.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(Permanent, match=r"gave no answer \(.*SSH-2\.0"):
            wait_healthy(f"http://127.0.0.1:{port}/", 0.5)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_loopback_address_is_asked_without_a_proxy(
    health: Health, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert wait_healthy(health.url.replace("127.0.0.1", host), 10) < 5


@pytest.mark.parametrize("url", ["", "localhost:80/x", "file:///etc/passwd", "ftp://a/b", "http://", "http://[x/"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is no HTTP URL"):
        wait_healthy(url, 1)


def test_a_password_in_the_url_is_not_shown() -> None:
    with pytest.raises(Permanent) as refused:
        wait_healthy("http://user:hunter2@127.0.0.1:1/", 0.3)
    assert "hunter2" not in str(refused.value)
    assert "http://user:***@127.0.0.1:1/" in str(refused.value)


# ---------------------------------------------------------------- commands


def test_a_command_that_ends_well_is_timed() -> None:
    assert 0.2 < restart("sleep 0.3 && exit 0", 20) < 10
    assert run_tests("true; true", 20) < 10


def test_a_restart_that_leaves_a_child_behind_ends_and_the_child_lives(tmp_path: Path) -> None:
    began = time.monotonic()
    restart(f"(echo started; sleep 60; echo late) & echo $! > {tmp_path}/pid", 20)
    assert time.monotonic() - began < 10
    child = int((tmp_path / "pid").read_text())
    try:
        os.kill(child, 0)
        assert os.getsid(child) != os.getsid(0), "Ctrl-C here must not reach it"
    finally:
        os.killpg(os.getpgid(child), signal.SIGKILL)


def test_failing_tests_are_told_with_the_end_of_their_output() -> None:
    with pytest.raises(Permanent) as failed:
        run_tests("for i in $(seq 1 300); do echo line $i; done; echo broken >&2; exit 3", 20)
    assert failed.value.message.startswith("The test command ended with exit code 3. It said at the end:\nline 282\n")
    assert failed.value.message.endswith("line 300\nbroken")
    assert "PGFERRY_TEST_COMMAND" in failed.value.action
    with pytest.raises(Permanent, match=r"The restart command ended with exit code 1\. It said nothing\. .*_RESTART_"):
        restart("false", 20)
    with pytest.raises(Permanent, match=r"exit code 127.*\n.*no-such-program"):
        restart("no-such-program", 20)
    with pytest.raises(Permanent, match="was ended by signal 9"):
        restart("kill -9 $$", 20)


def test_a_command_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Permanent, match=r"restart command did not end within 0\.5 s\. It said at the end:\nserving"):
        restart(f"trap '' TERM; echo serving; sleep 60 & echo $! > {tmp_path}/pid; wait; sleep 60", 0.5)
    assert time.monotonic() - began < 15
    child = int((tmp_path / "pid").read_text())
    for _again in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_interrupt_ends_the_command(tmp_path: Path) -> None:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_tests(f"echo $$ > {tmp_path}/pid; sleep 60", 20)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_the_output_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(
        f"url postgresql://app:other%20pass@db/x and postgres://app:with@sign@db/x\nplain {SECRET}\n"
        "quoted hunter2/Zx%2081 hunter2%2FZx%2081 hunter2%2FZx+81\nredis://cache:6379/0 is fine\n",
        "utf-8",
    )
    with pytest.raises(Permanent) as failed:
        run_tests(f"cat {tmp_path}/said; exit 1", 20, secrets=[SECRET, ""])
    assert failed.value.details["output"] == (
        "url postgresql://app:***@db/x and postgres://app:***@db/x\nplain ***\nquoted *** *** ***\n"
        "redis://cache:6379/0 is fine"
    )


def test_of_a_long_output_only_whole_lines_are_shown(tmp_path: Path) -> None:
    # 64 kB before the end lies the middle of the secret.
    (tmp_path / "said").write_text(f"{'x' * 1000}{SECRET}{'y' * (64 * 1024 - 30)}\nthe end \xff\n", "latin-1")
    with pytest.raises(Permanent) as failed:
        run_tests(f"cat {tmp_path}/said; exit 1", 20, secrets=[SECRET])
    assert failed.value.details["output"] == "the end \ufffd"


def test_a_command_reads_nothing_and_inherits_all_but_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///old.db")
    monkeypatch.setenv("OTHER", "kept")
    with pytest.raises(Permanent) as failed:
        restart('cat; echo "[$DATABASE_URL] [$OTHER]"; exit 1', 20, without=["DATABASE_URL"])
    assert failed.value.details["output"] == "[] [kept]"
