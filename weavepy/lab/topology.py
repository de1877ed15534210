"""Roads between a lab's hosts other than the one bridge: chains, rings, NATs, firewalls, IPv6, bad networks.

Rules of this file. Hosts that share no link can't reach each other: no host forwards, and without the bridge
none has a default route. The easy mistake: a host with several links has several addresses; a peer is dialled
by the one on the common link.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from weavepy.errors import LocalError
from weavepy.lab.faults import FaultCounts, FaultPlan
from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_command, run_ip

PORT: Final = 6783
_END_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair between two spaces with a subnet of its own. Each end: its space, interface and address."""

    first: Space
    second: Space
    interfaces: tuple[str, str]
    addresses: tuple[str, str]

    def set_mtu(self, mtu: int) -> None:
        """Changes the MTU at both ends, as one changed setting on the way would."""
        for space, interface in zip((self.first, self.second), self.interfaces, strict=True):
            run_ip(space.name, f"link set {interface} mtu {mtu}")

    def cut(self) -> None:
        """Cuts the link without a word to either end: both interfaces stay up, and nothing comes through."""
        self._filter(True)

    def heal(self) -> None:
        self._filter(False)

    def _filter(self, shut: bool) -> None:
        for space, interface in zip((self.first, self.second), self.interfaces, strict=True):
            table = f"table netdev cut_{interface}"
            rules = f"{table}\ndelete {table}\n"
            if shut:
                hook = f"type filter hook ingress device {interface} priority 0; policy drop;"
                rules += f"{table} {{ chain in {{ {hook} }}\n }}\n"
            run_nft(space, rules)


def run_nft(space: Space, rules: str) -> None:
    """Gives nftables rules to a space."""
    run_command(space.command(["nft", "-f", "-"]), text_in=rules)


def link(lab: Lab, first: Space, second: Space, *, mtu: int = 1500) -> Link:
    """Joins two spaces by a veth pair; in each the interface's name is that of the other."""
    lab.link_count += 1
    number = lab.link_count
    ends = (second.name.rpartition("-")[2], first.name.rpartition("-")[2])
    addresses = (f"10.100.{number}.1", f"10.100.{number}.2")
    made = Link(first, second, ends, addresses)
    run_ip(
        first.name,
        f"link add {ends[0]} mtu {mtu} type veth peer name {ends[1]} mtu {mtu} netns {second.name}",
        f"addr add {addresses[0]}/24 dev {ends[0]}",
        f"link set {ends[0]} up",
    )
    run_ip(second.name, f"addr add {addresses[1]}/24 dev {ends[1]}", f"link set {ends[1]} up")
    return made


def chain(lab: Lab, size: int, *, mtu: int = 1500) -> list[Link]:
    """Adds `size` hosts, each joined to the next one only."""
    hosts = [lab.add_host(bridged=False) for _ in range(size)]
    return [link(lab, *pair, mtu=mtu) for pair in itertools.pairwise(hosts)]


def ring(lab: Lab, size: int, *, mtu: int = 1500) -> list[Link]:
    """Adds `size` hosts, each joined to the next one, and the last one to the first."""
    return [*chain(lab, size, mtu=mtu), link(lab, lab.hosts[-1], lab.hosts[0], mtu=mtu)]


def use_ipv6(lab: Lab, host: Host, *, only: bool = True) -> None:
    """Gives a bridged host an IPv6 address, and makes it the host's; with `only`, it loses its IPv4 address."""
    number = lab.hosts.index(host) + 1
    host.address = f"fd99::{number}"
    run_ip(host.name, f"addr add {host.address}/64 dev eth0 nodad")
    if only:
        run_command(["ip", "-n", host.name, "-4", "addr", "flush", "dev", "eth0"])


def add_host_behind_nat(lab: Lab) -> Host:
    """Adds a host whose only road is a NAT on the bridge that masquerades, and changes source ports."""
    host = lab.add_host(bridged=False)
    number = len(lab.hosts)
    nat = lab.add_container(f"nat{number}")
    inner = link(lab, host, nat)
    lab.plug(nat, f"nat{number}", f"10.99.0.{200 + number}")
    host.address = inner.addresses[0]
    run_ip(host.name, f"route add default via {inner.addresses[1]}")
    nat.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    run_nft(
        nat,
        "table ip nat { chain post { type nat hook postrouting priority 100; "
        'oifname "eth0" masquerade fully-random; }\n }\n',
    )
    return host


def pass_6783_only(host: Host) -> None:
    """Puts a firewall at a host's eth0: port 6783 of either side, and nothing else but neighbour discovery."""
    port = "meta l4proto { tcp, udp } th"
    chains = [
        f"chain {name} {{ type filter hook {name} priority 0; policy drop; {direction} != eth0 accept; "
        f"{port} dport {PORT} accept; {port} sport {PORT} accept; "
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }\n"
        for name, direction in (("input", "iifname"), ("output", "oifname"))
    ]
    run_nft(host, f"table inet firewall {{ {''.join(chains)} }}\n")


@dataclass
class RunningRelay:
    """A fault relay between two hosts; `address` is what both dial. `counts` are there after the block."""

    address: str
    change: Callable[[FaultPlan], None]
    counts: FaultCounts = field(default_factory=FaultCounts)


@contextlib.contextmanager
def fault_relay(lab: Lab, first: Host, second: Host, plan: FaultPlan) -> Iterator[RunningRelay]:
    """Runs a fault relay on the bridge for the block, for the two hosts, which should have no other road."""
    space = lab.add_container("relay")
    address = "10.99.0.199"
    lab.plug(space, "relay", address)
    order = {
        "listen": address,
        "port": PORT,
        "first": first.address,
        "second": second.address,
        "plan": dataclasses.asdict(plan),
    }
    with space.running(
        [sys.executable, "-m", "weavepy.lab.faults"], "relaying", json.dumps(order)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = process.stdin

        def change(plan: FaultPlan) -> None:
            lines.write(json.dumps(dataclasses.asdict(plan)) + "\n")
            lines.flush()

        relay = RunningRelay(address, change)
        yield relay
        lines.close()
        said = process.stdout.read()
        if process.wait(_END_WAIT_S) != 0:
            raise LocalError(f"the fault relay failed: {said[-500:]}")
        relay.counts = FaultCounts(**json.loads(said))


def keep_apart(first: Host, second: Host) -> None:
    """Takes the road over the bridge from two hosts: each drops what comes from the other's address."""
    for host, other in ((first, second), (second, first)):
        run_nft(
            host,
            "table ip apart { chain in { type filter hook prerouting priority -300; "
            f"ip saddr {other.address} drop; }}\n }}\n",
        )
