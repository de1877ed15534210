"""Trusted subnets between real routers: what the underlay shows, by both overlays and over IPv6."""

from collections.abc import Sequence

import pytest
from roads import connections, start, wait_for_links

from weavepy.lab.checks import PATTERN
from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.topology import use_ipv6
from weavepy.lab.traffic import ping

TRUST = ["--trusted-subnets", "10.99.0.0/16,fd99::/64"]
OVERLAYS = pytest.mark.parametrize("overlay", [[], ["--no-fastpath"]], ids=["fastpath", "sleeve"])


def readable(lab: Lab, flags: Sequence[Sequence[str]], overlay: Sequence[str]) -> int:
    """How often what a container says is readable on the underlay between two hosts of these flags."""
    one = lab.hosts[0]
    containers = start(
        lab, [[*flags[0]], [*flags[1], f"[{one.address}]" if ":" in one.address else one.address]], *overlay
    )
    for host in lab.hosts:
        wait_for_links(host, 1)
    with one.capture("eth0", "underlay.pcap", "udp port 6783") as wire:
        assert ping(containers[0], "10.32.1.2", count=5, size=1000, pattern=PATTERN).complete
        assert ping(containers[1], "10.32.1.1", count=5, size=3000, pattern=PATTERN).complete
    return wire.read_bytes().count(PATTERN)


def line(host: Host) -> str:
    (text,) = host.weavepy("status", "connections").stdout.splitlines()
    return text


@OVERLAYS
@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_hosts_that_trust_each_other_dont_seal(lab: Lab, overlay: list[str], *, v6: bool) -> None:
    for _ in range(2):
        host = lab.add_host()
        if v6:
            use_ipv6(lab, host)
    assert readable(lab, [TRUST, TRUST], overlay) > 10
    for host in lab.hosts:
        assert "established unencrypted" in line(host)
        status = host.weavepy("status").stdout
        assert "TrustedSubnets: 10.99.0.0/16, fd99::/64" in status
        assert "Encryption: enabled" in status
        assert [c["Attrs"]["encrypted"] for c in connections(host)] == [False]


@OVERLAYS
@pytest.mark.parametrize(
    "flags",
    [[TRUST, []], [[], TRUST], [TRUST, ["--trusted-subnets", "192.0.2.0/24"]]],
    ids=["only-the-dialled", "only-the-dialler", "somebody-else"],
)
def test_trust_of_one_side_alone_changes_nothing(
    lab: Lab, overlay: list[str], flags: list[list[str]]
) -> None:
    for _ in range(2):
        lab.add_host()
    assert readable(lab, flags, overlay) == 0
    for host in lab.hosts:
        assert "established encrypted" in line(host)


def test_what_is_no_subnet_is_a_usage_error_wherever_it_is_said(lab: Lab) -> None:
    host = lab.add_host()
    password = new_password_file(lab.directory / "password")
    said = ["launch", "--password-file", str(password), "--trusted-subnets", "10.99.0.0/33"]
    done = host.weavepy(*said, check=False)
    assert (done.returncode, "--trusted-subnets 10.99.0.0/33: write subnets as" in done.stderr) == (2, True)
    launch(host, password, "h1", *TRUST)  # nothing was left half done
    host.weavepy("stop")
    host.weavepy("launch")  # as it was last launched
    assert "TrustedSubnets: 10.99.0.0/16, fd99::/64" in host.weavepy("status").stdout
