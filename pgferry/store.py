"""The store behind a staging area: opened by its URL, and its errors in our words.

A store's errors are of the packages that fsspec loads for it, which need not be installed: they are known by the names
of their classes, by the HTTP status that they carry, and by the system's error number.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import fsspec

from pgferry.errors import FerryError, Permanent, Transient, UsageError, is_transient

WHOLE_BY_ITSELF: Final = frozenset({"s3", "s3a"})
"""Protocols whose objects appear when their upload is completed, and only then. They know no folders."""

_PACKAGES = frozenset(
    (
        "adlfs",
        "aiobotocore",
        "aiohttp",
        "azure",
        "botocore",
        "fsspec",
        "gcsfs",
        "google",
        "paramiko",
        "requests",
        "s3fs",
    )
)

_PASSING = frozenset(
    (
        "HTTPClientError",  # botocore: connection refused or closed, no answer in time
        "EndpointConnectionError",
        "ConnectionError",  # botocore's and requests', neither of which is an OSError
        "IncompleteReadError",
        "ClientConnectionError",  # aiohttp
        "ClientPayloadError",
        "ResponseParserError",  # botocore: an overloaded server's answer that is no XML
    )
)

_REFUSING = frozenset(("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"))

# s3fs has no number for "500"; where there is none on this system it takes EIO.
_PASSING_NUMBERS = frozenset((errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO)))

_PASSING_STATES = frozenset((HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS))

_SECRET_NAMES = ("secret", "key", "token", "password", "passphrase", "credential", "sas")


def open_store(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the fsspec file system of a folder or URL, and the path in it. Raises UsageError for an unknown store.

    Of a remote store's data nothing is asked yet.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **_bounded(url, options))
        if _is_s3(url):
            filesystem.connect()  # makes the client, which is where an unknown option shows
    except ImportError as error:
        raise UsageError(
            f"The staging area {url} needs a package that is not installed: {error}.",
            "Install it (for s3:// the extra pgferry[s3]), or name another place with PGFERRY_STAGING.",
        ) from error
    except Exception as error:
        # `from None`: the cause may repeat a secret.
        raise UsageError(
            f"The staging area {url} cannot be opened: {scrub(_detail(error), options)}.",
            "Correct PGFERRY_STAGING or PGFERRY_STAGING_OPTIONS.",
        ) from None
    return filesystem, str(root)


def _is_s3(url: str) -> bool:
    return url.partition("://")[0] in WHOLE_BY_ITSELF


def _bounded(url: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    if not _is_s3(url):
        return options
    from pgferry.s3 import Session

    return {**options, "config_kwargs": {**options.get("config_kwargs", {}), "http_session_cls": Session}}


def protocols(filesystem: Any) -> frozenset[str]:
    """Return the names by which URLs call a file system."""
    protocol = filesystem.protocol
    return frozenset((protocol,) if isinstance(protocol, str) else protocol)


def is_of_store(error: BaseException) -> bool:
    """Say whether an error is the store's, and not that of what was about to be written."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _PACKAGES


def explain(error: Exception, path: str, doing: str, options: Mapping[str, Any]) -> FerryError:
    """Return our error for a store's: Transient when it may pass by itself, and no secret of `options` in it.

    `doing` is what was tried with `path`: `written`, `read` or `removed`. The caller raises it `from` the store's.
    """
    if isinstance(error, FerryError):
        return error
    what = f"The staging file {path} cannot be {doing}: {scrub(_detail(error), options)}."
    if _refuses(error):
        return Permanent(
            what,
            "See whether the credentials are right (those of the environment, or in PGFERRY_STAGING_OPTIONS), and"
            " whether they allow to read, write and delete there.",
        )
    if _passes(error):
        return Transient(
            what,
            "Check the store and the network on the way; then run the same command again, what is there is used again.",
        )
    if isinstance(error, FileNotFoundError):
        return Permanent(what, "Make the bucket or folder, or name another place with PGFERRY_STAGING.")
    return Permanent(
        what, "Make room, or name another place with PGFERRY_STAGING; what is there already is used again."
    )


def scrub(text: str, options: Mapping[str, Any]) -> str:
    """Return a text without the secrets among the options."""
    for secret in sorted(_secrets(options), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and value and any(part in name.lower() for part in _SECRET_NAMES):
            yield value


def _refuses(error: BaseException) -> bool:
    denied = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return isinstance(error, PermissionError) or _named(error, _REFUSING) or _status(error) in denied


def _passes(error: BaseException) -> bool:
    status = _status(error)
    if status is not None and status != HTTPStatus.NOT_IMPLEMENTED:
        return status in _PASSING_STATES or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    numbered = isinstance(error, OSError) and error.errno in _PASSING_NUMBERS
    return numbered or is_transient(error) or _named(error, _PASSING)


def _named(error: BaseException, names: frozenset[str]) -> bool:
    return any(known.__name__ in names for known in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error, or the one behind it, carries."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(status) if status else None
    return None


def _detail(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
