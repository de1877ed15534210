"""weavepy itself, and what to hold it against: the kernel without any daemon, and a daemon that does nothing.

Rules of this file. weavepy is run by its command line, container to container, as users do. The easy mistake:
containers cost a veth pair and a bridge at each end; vxlan and bare have the same, the other peers have none.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import weavepy
from bench.systems import ADDRESSES, Pair, Site, compile_c
from weavepy.lab.probes import new_password_file
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.traffic import vxlan_pair
from weavepy.limits import OVERLAY_MTU_DEFAULT
from weavepy.linux.rtnl import GSO_BYTES_MAX

_BARE: Final = Path(__file__).with_name("bare.c")
_PORT: Final = 6790


@dataclass(frozen=True, slots=True)
class Weavepy:
    """Two routers, each with one container attached."""

    options: tuple[str, ...]

    def version(self) -> str:
        return f"weavepy {weavepy.__version__}"

    def start(self, site: Site) -> Pair:
        options = list(self.options)
        if "--no-encryption" not in options:
            options += ["--password-file", str(new_password_file(site.hosts[0].directory / "password"))]
        first, second = site.hosts
        first.weavepy("launch", *options)
        second.weavepy("launch", *options, first.address)
        ends = []
        for host, address in zip(site.hosts, ADDRESSES, strict=True):
            container = site.lab.add_container(f"c{host.name.rpartition('-')[2]}")
            host.weavepy("attach", f"{address}/24", container.target)
            ends.append(container)
        pids = (first.router_pid(), second.router_pid())
        return site.await_answer(Pair(ends[0], ends[1], ADDRESSES[1], pids))


@dataclass(frozen=True, slots=True)
class Veth:
    """The underlay itself: no overlay at all."""

    def version(self) -> str:
        return f"Linux {platform.release()}"

    def start(self, site: Site) -> Pair:
        return site.await_answer(Pair(*site.hosts, site.road.addresses[1]))


@dataclass(frozen=True, slots=True)
class Vxlan:
    """The kernel's VXLAN between two bridges with a container each, in the clear."""

    def version(self) -> str:
        return f"Linux {platform.release()}"

    def start(self, site: Site) -> Pair:
        made = vxlan_pair(site.lab, site.road)
        return site.await_answer(Pair(made.client, made.server, made.address))


@dataclass(frozen=True, slots=True)
class Bare:
    """Two daemons of bare.c between bridges with a container each: no protocol and no cipher."""

    def version(self) -> str:
        return f"Linux {platform.release()}"

    def start(self, site: Site) -> Pair:
        program = compile_c(_BARE, site.hosts[0].directory / "bare")
        containers: list[Space] = []
        pids: list[int] = []
        for number, host in enumerate(site.hosts):
            container = site.lab.add_container(f"b{number + 1}")
            own, peer = site.road.addresses[number], site.road.addresses[1 - number]
            pids.append(site.start(host, [program, "tap0", own, peer, str(_PORT)]))
            site.await_link(host, "tap0")
            shape = f"mtu {OVERLAY_MTU_DEFAULT} gso_max_size {GSO_BYTES_MAX}"
            run_ip(
                host.name,
                f"link add br0 mtu {OVERLAY_MTU_DEFAULT} type bridge",
                f"link add ve0 {shape} type veth peer name eth0 {shape} netns {container.name}",
                f"link set tap0 master br0 mtu {OVERLAY_MTU_DEFAULT} up",
                "link set ve0 master br0 up",
                "link set br0 up",
            )
            run_ip(container.name, f"addr add {ADDRESSES[number]}/24 dev eth0", "link set eth0 up")
            containers.append(container)
        return site.await_answer(Pair(containers[0], containers[1], ADDRESSES[1], tuple(pids)))
