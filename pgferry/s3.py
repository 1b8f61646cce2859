"""Requests to an S3 store that come to an end, whatever the store does. To be imported only where s3fs is installed."""

from __future__ import annotations

import asyncio
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError

LONGEST_REQUEST = 600.0
"""Seconds until a request is given up, whatever trickles: 50 MB, the most that one uploads, at 85 kB/s."""


class Session(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP session, bounded in time; given to a client as its `http_session_cls`."""

    async def send(self, request: Any) -> Any:
        """Send a request and return the answer. Raises ReadTimeoutError, which counts as worth a retry."""
        # botocore asks for a "100 Continue" before each upload, and aiohttp waits for it without any limit: a store
        # that accepts connections and says nothing would be waited for until somebody ends the process.
        request.headers.pop("Expect", None)
        try:
            async with asyncio.timeout(LONGEST_REQUEST):
                return await super().send(request)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
