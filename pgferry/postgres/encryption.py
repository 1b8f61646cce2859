"""Whether a connection is encrypted: by what was negotiated, not by what its URL asked for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from pgferry.postgres.handle import Connection

CURE = (
    "Set sslmode=verify-full in the URL, and sslrootcert=FILE where the server's authority is your own; if the server"
    " offers no TLS, let its administrator set ssl = on."
)
"""What to do about a connection without TLS."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a connection's bytes get to the server; to a pooler, where there is one in front."""

    address: str
    """The other end's IP address; empty for a Unix socket."""
    here: bool
    """Whether they stay on this machine: a Unix socket, or an address of the loopback network."""
    protocol: str
    """The version of TLS, as `TLSv1.3`; empty without TLS."""
    verified: bool
    """Whether certificate and host name of the server were checked."""

    @property
    def exposed(self) -> bool:
        """Whether somebody on the way can read and change what is sent."""
        return not self.here and not self.protocol

    @property
    def warning(self) -> str:
        """What a person should know, as a note of a report; empty where there is nothing."""
        if not self.exposed:
            return ""
        return f"the connection to {self.address} is not encrypted: rows can be read and changed on the way. {CURE}"


def way_of(connection: Connection) -> Way:
    """Return how an open connection gets to its server; asks nobody."""
    transport = connection._transport  # type: ignore[union-attr]
    peer, tls = transport.get_extra_info("peername"), transport.get_extra_info("ssl_object")
    # A Unix socket's is its path, or nothing.
    address = peer[0] if isinstance(peer, tuple) else ""
    return Way(
        address=address,
        here=not address or _is_loopback(address),
        protocol="" if tls is None else tls.version() or "",
        verified=tls is not None and tls.context.verify_mode is ssl.CERT_REQUIRED and tls.context.check_hostname,
    )


def _is_loopback(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
