"""A TCP proxy on loopback, for what networks do: connections are cut at any byte, or stay open and pass nothing on.

with Proxy(url) as proxy:
    proxy.when(b"CREATE INDEX", lambda link: link.cut())
    … use proxy.url instead of url …
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock, Thread

from sqlalchemy.engine import URL

PIECE = 16_384
"""Bytes that are passed on at once."""

LINGER_NOTHING = struct.pack("ii", 1, 0)
"""A socket that is closed so sends RST: the other end has lost what was on its way."""


class Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._asks, self._answers, self._free = Event(), Event(), Event()
        for passing in (self._asks, self._answers, self._free):
            passing.set()

    def cut(self) -> None:
        """End the connection on both sides at once."""
        for passing in (self._asks, self._answers, self._free):
            passing.set()
        for end in (self._client, self._server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOTHING)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def stall(self, *, answers_only: bool = False) -> None:
        """Pass nothing on any more, and close nothing."""
        self._answers.clear()
        if not answers_only:
            self._asks.clear()

    def resume(self) -> None:
        """Pass on again."""
        self._asks.set()
        self._answers.set()

    def ask(self, data: bytes) -> None:
        """Pass on what the client sends."""
        self._asks.wait()
        self._server.sendall(data)

    def answer(self, data: bytes) -> None:
        """Pass on what the server sends."""
        self._free.wait()
        self._answers.wait()
        self._client.sendall(data)

    def ask_and_act(self, data: bytes, act: Callable[[Link], None]) -> None:
        """Pass on what the client sends, and act before any answer to it is passed on."""
        self._free.clear()
        self.ask(data)
        act(self)
        self._free.set()


def simple(statement: bytes) -> re.Pattern[bytes]:
    """Return what finds a statement that begins so and is sent as it is, and not the same words among values."""
    return re.compile(rb"Q[\x00-\xff]{4}" + re.escape(statement))


@dataclass
class _Rule:
    word: re.Pattern[bytes]
    act: Callable[[Link], None]
    after: int
    times: int


class _Reader:
    """Looks for the words of the rules in what one client sends."""

    def __init__(self, rules: list[_Rule]) -> None:
        self._rules = rules
        self._end = b""
        self._since: dict[int, int] = {}
        """Number of the rule -> bytes since its word."""

    def met(self, data: bytes) -> _Rule | None:
        """Return the rule that is met by these bytes, after all before."""
        text = self._end + data
        self._end = text[-100:]
        for number, rule in enumerate(self._rules):
            if number in self._since:
                self._since[number] += len(data)
            elif rule.times and (found := rule.word.search(text)):
                self._since[number] = len(text) - found.end()
            if rule.times and self._since.get(number, -1) >= rule.after:
                rule.times -= 1
                self._since.pop(number)
                return rule
        return None


class Proxy:
    """Passes connections on to the server of a URL; `url` names the proxy in its place."""

    def __init__(self, url: URL) -> None:
        self._there = (url.host or "127.0.0.1", url.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self._listener.getsockname()[1])
        self.links: list[Link] = []
        self.bytes = 0
        """Passed on in both directions."""
        self._rules: list[_Rule] = []
        self._stalled = self._refusing = False
        self._cut_at: list[int] = []
        self._lock = Lock()
        Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in accept() would keep the port; a shutdown wakes it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    # ------------------------------------------------------------ faults

    def when(
        self, word: bytes | re.Pattern[bytes], act: Callable[[Link], None], *, after: int = 0, times: int = 1
    ) -> None:
        """Act when a client sends these bytes, and `after` more: they are passed on, the answer waits for the act."""
        found = re.compile(re.escape(word)) if isinstance(word, bytes) else word
        self._rules.append(_Rule(found, act, after, times))

    def cut(self) -> None:
        """Cut every connection that there is; new ones are passed on."""
        for link in list(self.links):
            link.cut()

    def cut_after(self, *sizes: int) -> None:
        """Cut the connection that passes on this byte, counted from now on, of all connections together."""
        self._cut_at = sorted(self.bytes + size for size in sizes)

    def calm(self) -> None:
        """Forget the faults that are still to come, and cut every connection that there is."""
        self._rules.clear()
        self._cut_at.clear()
        self.cut()

    def stall(self, *, new: bool = False) -> None:
        """Pass nothing on, on the connections that there are; with `new` on those to come neither."""
        self._stalled = new
        for link in list(self.links):
            link.stall()

    def resume(self) -> None:
        """Pass on again, what is held back first."""
        self._stalled = self._refusing = False
        for link in list(self.links):
            link.resume()

    def refuse(self) -> None:
        """Cut every connection, and those to come as soon as they are made."""
        self._refusing = True
        self.cut()

    # ------------------------------------------------------------ passing on

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._there, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = Link(client, server)
            if self._refusing:
                link.cut()
                continue
            if self._stalled:
                link.stall()
            self.links.append(link)
            reader = _Reader(self._rules)
            for end, pass_on in ((client, partial(_ask, link, reader)), (server, link.answer)):
                Thread(target=self._pass_on, args=(link, end, pass_on), daemon=True).start()

    def _pass_on(self, link: Link, end: socket.socket, pass_on: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while data := end.recv(PIECE):
                if self._is_cut_here(len(data)):
                    break
                pass_on(data)
        with suppress(ValueError):
            self.links.remove(link)
        link.cut()

    def _is_cut_here(self, size: int) -> bool:
        with self._lock:
            self.bytes += size
            if self._cut_at and self.bytes >= self._cut_at[0]:
                self._cut_at.pop(0)
                return True
            return False


def _ask(link: Link, reader: _Reader, data: bytes) -> None:
    rule = reader.met(data)
    if rule is None:
        link.ask(data)
    else:
        link.ask_and_act(data, rule.act)
