"""Trusted subnets: which texts are some, and which addresses are in them."""

import re

import pytest

from weavepy.errors import UsageError
from weavepy.mesh.trust import is_trusted, parse_subnets


def test_lists_of_both_families() -> None:
    assert parse_subnets("") == parse_subnets("  ") == ()
    listed = [str(subnet) for subnet in parse_subnets("10.1.2.3/8, fd00::1/8,192.0.2.7/32")]
    assert listed == ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.0.0/8",
        "10.0.0.0/8,",
        "10.0.0.0/8 192.0.2.0/24",
        "fe80::%eth0/64",
        "fd00::/129",
        "host/8",
        "/8",
        "10.0.0.0/-1",
        "10.0.0.0/٨",
    ],
)
def test_what_is_no_subnet_is_refused(text: str) -> None:
    wrong = re.escape(text.rpartition(",")[2])
    with pytest.raises(UsageError, match=f"--trusted-subnets {wrong}: write subnets as"):
        parse_subnets(text)


def test_a_subnet_that_no_address_would_ever_be_in_is_refused() -> None:
    with pytest.raises(UsageError, match="write a subnet of IPv4 addresses"):
        parse_subnets("::ffff:10.0.0.0/104")


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.9.9.9", True),
        ("11.0.0.1", False),
        ("fd12::1", True),
        ("fe80::1%eth0", True),
        ("fe90::1", False),
        ("::a00:1", False),
    ],
)
def test_addresses(host: str, *, trusted: bool) -> None:
    assert is_trusted(host, parse_subnets("10.0.0.0/8,fd00::/8,fe80::/64")) is trusted
    assert not is_trusted(host, ())
