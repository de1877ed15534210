"""Weave Net's overlay between real routers: alone, through a small underlay, and beside fastpath on the next hop."""

import time
from collections.abc import Iterator

import pytest
from roads import CLEAR, connections, counters, everything_crosses, start, time_until_reached, wait_for_links

from weavepy.lab.hosts import Lab

NO_FASTPATH = "--no-fastpath"
MTU = {1500: {"": 1414, CLEAR: 1438}, 700: {"": 614, CLEAR: 638}}


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(underlay_mtu=getattr(request, "param", 1500)) as made:
        yield made


def wait_for_mtu(lab: Lab, mtu: int, within_s: float = 10.0) -> None:
    """Waits until both ends have found what the path carries."""
    deadline = time.monotonic() + within_s
    while True:
        found = [c["Attrs"] for host in lab.hosts for c in connections(host)]
        if all(attrs["mtu"] == mtu and not attrs["searching"] for attrs in found):
            return
        assert time.monotonic() < deadline, found


@pytest.mark.parametrize("lab", [1500, 700], indirect=True)
@pytest.mark.parametrize("mode", ["", CLEAR], ids=["encrypted", "clear"])
def test_everything_crosses_by_sleeve(lab: Lab, mode: str) -> None:
    for _ in range(2):
        lab.add_host()
    flags = [mode] if mode else []
    one, two = start(lab, [[], [lab.hosts[0].address]], NO_FASTPATH, *flags)
    wait_for_links(lab.hosts[0], 1)
    wait_for_mtu(lab, MTU[lab.underlay_mtu][mode])
    everything_crosses(one, two, 2)
    for host in lab.hosts:
        (line,) = host.weavepy("status", "connections").stdout.splitlines()
        assert "established" in line
        assert f"{'unencrypted' if mode else 'encrypted  '} sleeve" in line
        assert not {
            name: n for name, n in counters(host).items() if n and name in ("drop_tag", "drop_replay")
        }


@pytest.mark.parametrize("lab", [1500, 700], indirect=True)
def test_a_chain_of_both_overlays(lab: Lab) -> None:
    """The one in the middle makes real frames of what comes by fastpath."""
    for _ in range(3):
        lab.add_host()
    first, middle, _ = lab.hosts
    dials = [
        ["--no-discovery"],
        ["--no-discovery", first.address],
        ["--no-discovery", NO_FASTPATH, middle.address],
    ]
    one, _, three = start(lab, dials)
    wait_for_links(middle, 2)
    assert {c["Attrs"]["name"] for c in connections(middle)} == {"fastpath", "sleeve"}
    time_until_reached(one, "10.32.1.3")
    everything_crosses(one, three, 3)
    assert counters(middle)["relayed"] > 1000


def test_sleeve_and_fastpath_alone_have_nothing_in_common(lab: Lab) -> None:
    """Who offers sleeve only gets it from everybody who has it."""
    for _ in range(2):
        lab.add_host()
    one, _ = start(lab, [[NO_FASTPATH], [lab.hosts[0].address]])
    time_until_reached(one, "10.32.1.2")
    assert [c["Attrs"]["name"] for host in lab.hosts for c in connections(host)] == ["sleeve", "sleeve"]
