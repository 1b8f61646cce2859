"""An S3-compatible store behind HTTP, with a bucket in it, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

BUCKET = "pgferry-staging"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYz"


@dataclass(frozen=True)
class Store:
    """A running store, its address, and a client that is not fsspec."""

    url: str
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach the store and to be let in."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAABCDEFGHIJKLMNOP",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def into_environment(self, patch: pytest.MonkeyPatch) -> Store:
        """Let this process reach the store."""
        for name, value in self.environment.items():
            patch.setenv(name, value)
        return self

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of the objects, as the store lists them."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def has(self, path: str) -> bool:
        """Say whether there is an object of that path, which begins with the bucket."""
        key = path.removeprefix(f"{BUCKET}/")
        return key in self.keys(key)

    def put(self, path: str, data: bytes) -> None:
        """Replace an object."""
        self.client.put_object(Bucket=BUCKET, Key=path.removeprefix(f"{BUCKET}/"), Body=data)

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def uploads(self) -> list[str]:
        """Return the keys whose upload was begun and neither completed nor given up."""
        return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An empty store in a thread of this process; it is gone with the module's tests."""
    # Imported here: it takes seconds, for which a run of other tests need not wait.
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="AKIAABCDEFGHIJKLMNOP",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        yield Store(url, client)
        client.close()
    finally:
        server.stop()
