"""An HTTP(S) client that refuses private addresses. Knows nothing of audio.

The author of a manifest chooses hosts, and workers fetch them from behind the firewall:
http://169.254.169.254 would return the machine's own credentials. So the IP address of every
connection is checked, after the name is resolved and before a byte is sent. This also covers
redirects, names that resolve to another address the second time, and hosts given as numbers.
"""

import ipaddress
import socket
from typing import Any

from pipeline.errors import ErrorType, RecordingError

OPTION = "allow_private_hosts"  # a storage option of this project, for intranets and tests
_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215


def http_options(allow_private: bool) -> dict[str, Any]:
    """Options for fsspec's HTTP filesystem; connecting may raise RecordingError(NotAllowed)."""
    session = _open_any if allow_private else _open_guarded
    return {"get_client": session, "max_redirects": _REDIRECTS}


async def _open_any(**options: Any) -> Any:
    import aiohttp

    return aiohttp.ClientSession(**options)


async def _open_guarded(**options: Any) -> Any:
    import aiohttp

    # No `trust_env`: a proxy would resolve the names, and we could not check the addresses.
    connector = aiohttp.TCPConnector(socket_factory=_guarded_socket)
    return aiohttp.ClientSession(connector=connector, **options)


def _guarded_socket(address_info: Any) -> socket.socket:
    """A socket for one resolved address (as getaddrinfo returns it), if that is public."""
    family, kind, protocol, _, address = address_info
    check_public(address[0])
    return socket.socket(family=family, type=kind, proto=protocol)


def check_public(host: str) -> None:
    """Raise RecordingError(NotAllowed) unless `host`, an IP address, is public."""
    address = ipaddress.ip_address(host.partition("%")[0])  # fe80::1%eth0
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if address in _NAT64:
        inner = ipaddress.ip_address(int(address) & 0xFFFF_FFFF)
    if not (inner or address).is_global or address.is_multicast or address in _LOCAL_NAT64:
        raise RecordingError(
            ErrorType.NOT_ALLOWED,
            f"{host} is a private address; set storage_options.{OPTION}=true if the manifest "
            "may name hosts of this network",
        )
