"""The staging area behind HTTP in an S3-compatible store, and in the process: whole files, faults, words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from traceback import format_exception
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pyarrow as pa
import pytest

from pgferry.errors import FerryError, Permanent, Transient, UsageError
from pgferry.model import Chunk, ExportedChunk
from pgferry.staging import AlteredFile, Staging
from tests.stores import BUCKET, SECRET, Store

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.binary())])
CHUNK = Chunk('Ta"b/le ü', 3, 2, low=(1, "x\x00"), high=(b"\xff", 2.5))
URL = f"s3://{BUCKET}/run-1-abc"


def write(staging: Staging, size: int = 10) -> ExportedChunk:
    with staging.parquet_writer(staging.chunk_path(CHUNK), SCHEMA, []) as sink:
        for number in range(2):
            row = [pa.array([number]), pa.array([os.urandom(size)])]
            sink.write(pa.record_batch(row, schema=SCHEMA))
    written = sink.written
    return ExportedChunk(CHUNK, written.path, sink.rows, written.bytes, written.sha256)


def rows_of(staging: Staging, path: str) -> list[int]:
    return [row["a"] for batch in staging.read_batches(path) for row in batch.to_pylist()]


@pytest.fixture(params=["s3", "memory", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A staging area of its own, each time in another kind of store."""
    if request.param == "s3":
        request.getfixturevalue("store").into_environment(request.getfixturevalue("monkeypatch"))
        return f"s3://{BUCKET}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path)


def test_what_was_written_is_found_read_and_removed_wherever_it_is(place: str) -> None:
    staging = Staging(f"{place}/run-1-abc")
    exported = write(staging)
    staging.note(exported, "mark")

    again = Staging(f"{place}/run-1-abc")
    assert again.find(CHUNK, "mark") == exported
    assert again.find(CHUNK, "other") is None
    assert rows_of(again, exported.path) == [0, 1]
    assert len(again.filesystem.find(again.root)) == 2

    area = Staging(place)
    Staging(f"{place}/run-11-abc").write_lines(f"{area.root}/run-11-abc/notes", [b"another run's\n"])
    (folder,) = area.run_folders(1)
    area.remove_folder(folder)
    assert area.run_folders(1) == ()
    assert len(area.run_folders(11)) == 1
    assert Staging(f"{place}/run-1-abc").find(CHUNK, "mark") is None
    assert Staging(f"{place}/absent").run_folders(1) == ()


def test_a_block_that_raises_leaves_nothing_wherever_it_is(place: str) -> None:
    staging = Staging(place)
    with pytest.raises(RuntimeError), staging.parquet_writer(staging.chunk_path(CHUNK), SCHEMA, []):
        raise RuntimeError
    with suppress(FileNotFoundError):
        assert staging.filesystem.find(staging.root) == []


@pytest.mark.parametrize("damage", ["truncated", "altered", "gone"])
def test_an_object_that_is_not_what_was_written_is_found_and_written_again(place: str, damage: str) -> None:
    staging = Staging(place)
    exported = write(staging)
    staging.note(exported, "mark")
    data = staging.filesystem.cat_file(exported.path)
    if damage == "gone":
        staging.filesystem.rm_file(exported.path)
    else:
        damaged = data[:-1] if damage == "truncated" else data[:40] + bytes([data[40] ^ 1]) + data[41:]
        staging.filesystem.pipe_file(exported.path, damaged)

    with pytest.raises(AlteredFile, match=exported.path.rsplit("/", 1)[-1]):
        Staging(place).verify(exported)
    assert Staging(place).find(CHUNK, "mark") is None
    mended = write(staging)
    staging.note(mended, "mark")
    assert Staging(place).find(CHUNK, "mark") == mended


# ---------------------------------------------------------------- S3 alone


@pytest.fixture
def s3(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, with its address and credentials in the environment."""
    return store.into_environment(monkeypatch)


def test_rows_are_read_from_the_bytes_that_were_checked(s3: Store) -> None:
    staging = Staging(f"{URL}/checked")
    exported = write(staging)
    staging.verify(exported)
    s3.put(exported.path, b"replaced meanwhile")
    assert rows_of(staging, exported.path) == [0, 1]
    with pytest.raises(AlteredFile):
        Staging(f"{URL}/checked").verify(exported)


def test_a_large_file_goes_in_parts_and_appears_only_when_it_is_whole(s3: Store) -> None:
    staging = Staging(f"{URL}/parts", {"default_block_size": 5 * 2**20})
    path = staging.chunk_path(CHUNK)
    with staging.parquet_writer(path, SCHEMA, []) as sink:
        for number in range(2):
            sink.write(pa.record_batch([pa.array([number]), pa.array([os.urandom(6 * 2**20)])], schema=SCHEMA))
        assert len(s3.uploads()) == 1
        assert not s3.has(path)
    assert s3.uploads() == []
    exported = ExportedChunk(CHUNK, path, 2, sink.written.bytes, sink.written.sha256)
    staging.verify(exported)
    assert rows_of(staging, path) == [0, 1]

    other = staging.chunk_path(replace(CHUNK, number=4))
    with pytest.raises(RuntimeError), staging.parquet_writer(other, SCHEMA, []) as sink:
        sink.write(pa.record_batch([pa.array([1]), pa.array([os.urandom(6 * 2**20)])], schema=SCHEMA))
        raise RuntimeError
    assert s3.uploads() == []
    assert not s3.has(other)


WRITER = """
import os, sys, time
import pyarrow as pa
from pgferry.model import Chunk
from pgferry.staging import Staging

schema = pa.schema([("b", pa.binary())])
staging = Staging(sys.argv[1])
with staging.parquet_writer(staging.chunk_path(Chunk("t", 0, 1)), schema, []) as sink:
    sink.write(pa.record_batch([pa.array([os.urandom(6 * 2**20)])], schema=schema))
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_writer_that_is_killed_leaves_nothing_that_looks_whole(s3: Store) -> None:
    url, chunk = f"{URL}/killed", Chunk("t", 0, 1)
    environment = {**os.environ, "PGFERRY_STAGING_OPTIONS": json.dumps({"default_block_size": 5 * 2**20})}
    command = [sys.executable, "-c", WRITER, url]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)
    staging = Staging(url)
    path = staging.chunk_path(chunk)
    assert len(s3.uploads()) == 1  # a rule of the bucket removes it one day; it is no object
    assert not s3.has(path)
    assert staging.find(chunk, "mark") is None

    written = staging.write_lines(path, [b"line\n"])
    exported = ExportedChunk(chunk, path, 1, written.bytes, written.sha256)
    staging.note(exported, "mark")
    assert Staging(url).find(chunk, "mark") == exported


def test_endpoint_and_credentials_may_come_by_a_setting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"endpoint_url": store.url, "key": "AKIAABCDEFGHIJKLMNOP", "secret": SECRET}
    monkeypatch.setenv("PGFERRY_STAGING_OPTIONS", json.dumps(options))
    staging = Staging(f"{URL}/options")
    exported = write(staging)
    assert store.has(exported.path)
    assert rows_of(staging, exported.path) == [0, 1]


# ---------------------------------------------------------------- a store that refuses, fails or does not answer


Answer = Callable[[str, str], dict[str, Any]]


@pytest.fixture
def answering() -> Iterator[Answer]:
    """A factory of stores that give every request one answer, or none; returns the options that lead there."""
    stops: list[Callable[[], None]] = []

    def make(status: str, code: str) -> dict[str, Any]:
        release = Event()

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            if not status:
                release.wait()
            message = f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()
            start_response(status or "200 OK", [("Content-Type", "application/xml")])
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else message]

        server = make_server("127.0.0.1", 0, app, handler_class=QuietHandler)
        server.socket.settimeout(None)
        thread = Thread(target=server.serve_forever)
        thread.start()

        def stop() -> None:
            release.set()
            server.shutdown()
            thread.join()
            server.server_close()

        stops.append(stop)
        return options_of(f"http://127.0.0.1:{server.server_port}")

    yield make
    for stop in stops:
        stop()


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Keep what was asked to itself."""

    def handle(self) -> None:
        # A client that does not wait for the answer has closed the connection.
        with suppress(ConnectionError):
            super().handle()


def options_of(url: str) -> dict[str, Any]:
    """Return the options that lead to a store, with no patience."""
    return {
        "endpoint_url": url,
        "key": "AKIAABCDEFGHIJKLMNOP",
        "secret": SECRET,
        "config_kwargs": {"retries": {"max_attempts": 0}, "read_timeout": 0.2, "connect_timeout": 5},
    }


def failure(options: dict[str, Any]) -> FerryError:
    """Return what writing raises, in which no secret may be."""
    with pytest.raises(FerryError) as caught:
        write(Staging(URL, options))
    told = "".join(format_exception(caught.value)) + repr(caught.value.details)
    assert SECRET not in told
    assert f"{BUCKET}/run-1-abc/" in caught.value.message
    assert caught.value.action
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("403 Forbidden", "AccessDenied", Permanent),
        ("403 Forbidden", "InvalidAccessKeyId", Permanent),
        ("403 Forbidden", "SignatureDoesNotMatch", Permanent),
        ("404 Not Found", "NoSuchBucket", Permanent),
        ("400 Bad Request", "InvalidArgument", Permanent),
        ("501 Not Implemented", "NotImplemented", Permanent),
        ("500 Internal Server Error", "InternalError", Transient),
        ("502 Bad Gateway", "BadGateway", Transient),
        ("503 Service Unavailable", "ServiceUnavailable", Transient),
        ("503 Slow Down", "SlowDown", Transient),
        ("429 Too Many Requests", "TooManyRequests", Transient),
        ("", "", Transient),
    ],
)
def test_what_a_store_answers_is_told_and_retried_only_when_it_may_pass(
    answering: Answer, status: str, code: str, kind: type[FerryError]
) -> None:
    error = failure(answering(status, code))
    assert isinstance(error, kind), error
    assert code in error.message
    assert ("credentials" in error.action) == status.startswith("403")


def test_a_store_that_is_not_there_may_come_back() -> None:
    error = failure(options_of("http://127.0.0.1:9"))
    assert isinstance(error, Transient)
    assert "127.0.0.1:9" in error.message


def test_no_credentials_at_all_are_told(s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = failure({"skip_instance_cache": True, "endpoint_url": s3.url})
    assert isinstance(error, Permanent)
    assert "PGFERRY_STAGING_OPTIONS" in error.action


def test_a_bucket_that_does_not_exist_is_told(s3: Store) -> None:
    with pytest.raises(Permanent, match=r"absent-bucket/.*cannot be written.*bucket"):
        write(Staging("s3://absent-bucket/run-1"))


def test_what_may_not_be_read_is_written_again(answering: Answer) -> None:
    """S3 answers 403 for an object that is not there, to whoever may not list the bucket."""
    assert Staging(URL, answering("403 Forbidden", "AccessDenied")).find(CHUNK, "mark") is None
    with pytest.raises(Transient):
        Staging(URL, answering("503 Service Unavailable", "ServiceUnavailable")).find(CHUNK, "mark")


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("s4://bucket/run", {}, "s4://bucket/run cannot be opened: .*PGFERRY_STAGING"),
        ("s3://bucket/run", {"endpoint": SECRET, "secret": SECRET}, "cannot be opened.*PGFERRY_STAGING_OPTIONS"),
        ("gs://bucket/run", {}, "gs://bucket/run needs a package that is not installed"),
    ],
)
def test_a_place_that_cannot_be_opened_is_told(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        write(Staging(url, options))
    assert SECRET not in "".join(format_exception(caught.value))
