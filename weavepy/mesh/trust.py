"""Networks that the operator trusts: what goes to a peer there needs no seal, if the peer trusts ours too.

Rules of this file. A peer is judged by the address at the far end of its control connection and by nothing that it
says. The thing people get wrong: trust of one side alone changes nothing.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias

from weavepy.errors import UsageError

Subnet: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SUBNET = re.compile(r"[0-9A-Fa-f.:]+/[0-9]{1,3}")  # no netmasks and no interfaces, which Python would take


def parse_subnets(text: str) -> tuple[Subnet, ...]:
    """Returns the networks of "10.0.0.0/8,fd00::/8", none for an empty text; UsageError for the first that is none.

    Bits behind the prefix are ignored, as Weave Net does.
    """
    return tuple(_parse(part.strip()) for part in text.split(",")) if text.strip() else ()


def is_trusted(host: str, subnets: Iterable[Subnet]) -> bool:
    """Tells whether the IP address `host` is in one of `subnets`."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return any(address in subnet for subnet in subnets)


def _parse(text: str) -> Subnet:
    try:
        if not _SUBNET.fullmatch(text):
            raise ValueError
        subnet = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(
            f"--trusted-subnets {text}: write subnets as 10.0.0.0/8,fd00::/8, without spaces"
        ) from None
    if isinstance(subnet, ipaddress.IPv6Network) and subnet.network_address.ipv4_mapped is not None:
        raise UsageError(f"--trusted-subnets {text}: write a subnet of IPv4 addresses as 10.0.0.0/8")
    return subnet
