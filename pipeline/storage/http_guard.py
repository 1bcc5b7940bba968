"""HTTP(S) that cannot be turned against the inside of a network. Knows addresses, no audio.

Whoever writes a manifest names hosts, and a worker that fetches them stands behind the firewall:
http://169.254.169.254 would hand out the machine's own credentials. So the address of every single
connection is looked at after the name was resolved and before anything is sent. That covers
redirects, names that resolve to something else the second time, and plain numbers alike.
"""

import ipaddress
import socket
from typing import Any

from pipeline.errors import ErrorType, RecordingError

OPTION = "allow_private_hosts"  # storage option of this project: intranets, tests on loopback
_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind a translator, in the last 32 bits
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215


def http_options(allow_private: bool) -> dict[str, Any]:
    """Options for fsspec's HTTP filesystem. Raises RecordingError(NotAllowed) when it connects."""
    session = _open_any if allow_private else _open_guarded
    return {"get_client": session, "max_redirects": _REDIRECTS}


async def _open_any(**options: Any) -> Any:
    import aiohttp

    return aiohttp.ClientSession(**options)


async def _open_guarded(**options: Any) -> Any:
    import aiohttp

    # No `trust_env`: a proxy would resolve names out of our sight.
    connector = aiohttp.TCPConnector(socket_factory=_guarded_socket)
    return aiohttp.ClientSession(connector=connector, **options)


def _guarded_socket(address_info: Any) -> socket.socket:
    """A socket for one resolved address (as getaddrinfo gives it), if that is a public one."""
    family, kind, protocol, _, address = address_info
    check_public(address[0])
    return socket.socket(family=family, type=kind, proto=protocol)


def check_public(host: str) -> None:
    """Raise RecordingError(NotAllowed) unless `host`, an IP address, is on the open internet."""
    address = ipaddress.ip_address(host.partition("%")[0])  # fe80::1%eth0
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if address in _NAT64:
        inner = ipaddress.ip_address(int(address) & 0xFFFF_FFFF)
    if not (inner or address).is_global or address.is_multicast or address in _LOCAL_NAT64:
        raise RecordingError(
            ErrorType.NOT_ALLOWED,
            f"{host} is a private address; set storage_options.{OPTION}=true if the manifest "
            "may reach into this network",
        )
