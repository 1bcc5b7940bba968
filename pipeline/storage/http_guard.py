"""An HTTP(S) client that refuses private addresses. Knows nothing of audio.

The author of a manifest chooses hosts, and workers fetch them from behind the firewall:
http://169.254.169.254 would return the machine's own credentials. So the IP address of every
connection is checked, after the name is resolved and before a byte is sent. This also covers
redirects, names that resolve to another address the second time, and hosts given as numbers.
"""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

from pipeline.errors import ErrorType, RecordingError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

OPTION = "allow_private_hosts"  # a storage option of this project, for intranets and tests
_REDIRECTS = 5

# Services of a cloud that answer to each machine with its own data, at addresses that Python's
# `is_global` takes for public. The others (169.254.169.254 of most clouds, 100.100.100.200 of
# Alibaba, 100.96.0.96 of Volcengine, fd00:ec2::254 of AWS) are private or shared addresses.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "168.63.129.16",  # Azure: learn.microsoft.com, "What is IP address 168.63.129.16?"
        "192.0.0.192",  # Oracle Cloud, classic
        "192.80.8.124",  # Equinix Metal
        "100.100.100.200",  # Alibaba; here in case a later Python counts 100.64.0.0/10 as public
        "100.96.0.96",  # Volcengine
        "169.254.169.254",
    )
)
# IPv6 networks whose last 32 bits are an IPv4 address: NAT64, IPv4-compatible, IPv4-translated.
_EMBEDDED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")))
# Networks that Python 3.11 counts as public and the registries of IANA do not, or that lead to the
# network of the machine: https://www.iana.org/assignments/iana-ipv6-special-registry
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "64:ff9b:1::/48",  # local NAT64, RFC 8215
            "fec0::/10",  # site-local
            "5f00::/16",  # segment routing
            "3fff::/20",  # documentation
            "192.0.0.0/24",
            "192.88.99.0/24",  # relays of 6to4
        ),
    )
)


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
    if all(map(_is_public, {address, *_inner(address)})):
        return
    raise RecordingError(
        ErrorType.NOT_ALLOWED,
        f"{host} is a private address; set storage_options.{OPTION}=true if the manifest "
        "may name hosts of this network",
    )


def _inner(address: _Address) -> Iterator[_Address]:
    """The IPv4 addresses inside an IPv6 address, to which a gateway may send the request."""
    if not isinstance(address, ipaddress.IPv6Address):
        return
    number = int(address)
    if any(address in network for network in _EMBEDDED) or _is_isatap(number):
        yield ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    yield from filter(None, (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())))


def _is_isatap(number: int) -> bool:
    return (number >> 32) & 0xFCFF_FFFF == 0x5EFE  # RFC 5214: 0000:5efe or 0200:5efe


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return True  # its inner address decides
    known = any(address in network for network in _NOT_PUBLIC)
    return address.is_global and not (address.is_multicast or known or address in _METADATA)
