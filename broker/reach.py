"""Whether an endpoint can be reached from other hosts."""

import ipaddress
import socket
from urllib.parse import urlsplit


def beyond_loopback(endpoint: str) -> bool:
    """True for a tcp endpoint that listens on more than this host's loopback; what can't be told counts as
    beyond. A name counts by all its addresses, as libzmq takes the first that comes."""
    parts = urlsplit(endpoint)
    if parts.scheme != "tcp":
        return False
    host = parts.netloc.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return not _is_loopback(host.partition("%")[0])
    except ValueError:
        pass
    # libzmq takes the name of an interface before that of a host.
    addresses = _of_interface(host) or _of_host(host)
    return not addresses or not all(map(_is_loopback, addresses))


def _is_loopback(address: str) -> bool:
    """Raises ValueError where it is none."""
    parsed = ipaddress.ip_address(address)
    # libzmq names an IPv4 address of a socket that does both as ::ffff:127.0.0.1.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _of_interface(name: str) -> list[str]:
    import psutil  # type: ignore[import-untyped]  # ships no types

    families = (socket.AF_INET, socket.AF_INET6)
    found = psutil.net_if_addrs().get(name, [])
    return [each.address.partition("%")[0] for each in found if each.family in families]


def _of_host(name: str) -> list[str]:
    try:
        return [str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(name, None)]
    except (OSError, UnicodeError):
        return []
