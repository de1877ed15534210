"""weavepy itself, and what the kernel does without any daemon.

Rules of this file. weavepy is run by its command line, container to container, as users do. The easy mistake:
containers cost a veth pair and a bridge at each end; vxlan has the same, the other peers have none.
"""

import platform
from dataclasses import dataclass

import weavepy
from bench.systems import ADDRESSES, Pair, Site
from weavepy.lab.probes import new_password_file
from weavepy.lab.traffic import vxlan_pair


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
