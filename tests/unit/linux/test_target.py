"""What is no target and no address, said in words that help."""

import os

import pytest

from weavepy.errors import LocalError
from weavepy.linux.target import open_target, parse_cidrs, target_identity


@pytest.mark.parametrize(
    ("cidr", "reason"),
    [
        ("10.32.1.1", "no prefix length"),
        ("10.32.1.1/", "not a prefix length"),
        ("10.32.1.1/255.255.255.0", "not a prefix length"),
        ("10.32.1.1/-1", "not a prefix length"),
        ("10.32.1.1/33", "write it like"),
        ("10.32.1.256/24", "write it like"),
        ("10.32.1/24", "write it like"),
        ("web/24", "write it like"),
        ("", "no prefix length"),
        ("10.32.1.0/24", r"network's own address; .* 10\.32\.1\.1/24"),
        ("10.32.1.255/24", r"broadcast address; .* 10\.32\.1\.1/24"),
        ("10.32.1.1/32", "subnet of one address"),
        ("10.32.1.1/0", "covers all addresses"),
        ("127.0.0.2/8", "can't be an interface's address"),
        ("224.0.0.5/24", "can't be an interface's address"),
        ("240.0.0.5/24", "can't be an interface's address"),
        ("fd00::1/64", "IPv6 addresses in the overlay are not there yet"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_the_reason(cidr: str, reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        parse_cidrs(["10.40.0.1/16", cidr])


def test_good_addresses_keep_their_order_and_subnet() -> None:
    texts = ["10.33.0.1/16", "10.32.1.1/24", "192.168.0.0/31", "192.168.0.6/30"]
    assert [str(interface) for interface in parse_cidrs(texts)] == texts
    assert parse_cidrs([]) == []


@pytest.mark.parametrize("second", ["10.32.1.1/24", "10.32.1.1/16"])
def test_an_address_given_twice_is_refused(second: str) -> None:
    with pytest.raises(LocalError, match=r"10\.32\.1\.1 is given twice"):
        parse_cidrs(["10.32.1.1/24", second])


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("web", "give a path, pid:N or netns:NAME"),
        ("", "give a path, pid:N or netns:NAME"),
        ("run/netns/web", "give a path, pid:N or netns:NAME"),
        ("pid:", "not a process id"),
        ("pid:0", "not a process id"),
        ("pid:-1", "not a process id"),
        ("pid:12a", "not a process id"),
        ("pid:99999999", "no process 99999999"),
        ("netns:", "not a namespace's name"),
        ("netns:..", "not a namespace's name"),
        ("netns:../../proc/1/ns/net", "not a namespace's name"),
        ("netns:no-such-namespace", "no network namespace called no-such-namespace"),
        ("/no/such/file", "there is no /no/such/file"),
        ("/dev/null", "not a network namespace"),
        ("/proc/self/ns/mnt", "not a network namespace"),
        pytest.param(f"pid:{os.getpid()}", "this host's own network namespace", id="our own pid"),
    ],
)
def test_what_leads_to_no_container_is_refused_with_the_reason(target: str, reason: str) -> None:
    with pytest.raises(LocalError, match=reason), open_target(target):
        pass
    with pytest.raises(LocalError, match=reason):
        target_identity(target)
