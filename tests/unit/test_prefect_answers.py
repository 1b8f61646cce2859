"""What a Prefect server may answer beside what was asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows import prefect_server
from flows.prefect_server import get_json
from pgferry.errors import Permanent, Transient


class Server(ThreadingHTTPServer):
    """Answers with the given codes in turn, and then with 200 for ever."""

    codes: list[int]
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.codes.pop(0) if self.server.codes else 200)
        self.end_headers()
        self.wfile.write(b'{"fine": true}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(prefect_server, "BUSY_PAUSES", (0.01, 0.01, 0.01))
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/api"


@pytest.mark.parametrize("payload", [None, {}], ids=["GET", "POST"])
def test_a_busy_server_is_asked_again(server: Server, payload: dict[str, str] | None) -> None:
    server.codes = [503, 429, 503]
    assert get_json(url(server), payload=payload) == {"fine": True}
    assert server.asked == 4


def test_a_server_that_stays_busy_may_be_asked_later(server: Server) -> None:
    server.codes = [503] * 9
    with pytest.raises(Transient, match=r"/api answers 503 Service Unavailable\.") as caught:
        get_json(url(server))
    assert caught.value.details["status"] == 503
    assert server.asked == 4


@pytest.mark.parametrize("code", [401, 404, 422, 500])
def test_an_error_is_an_error_at_once(server: Server, code: int) -> None:
    server.codes = [code]
    with pytest.raises(Permanent) as caught:
        get_json(url(server))
    assert (caught.value.details["status"], server.asked) == (code, 1)
