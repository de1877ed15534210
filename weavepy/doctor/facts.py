"""What the doctor knows about a host: one frozen value, made by `gather`, read by `judge`.

Rules of this file. Values only. A group that couldn't be looked at is None, and `unknown` says why under the
group's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weavepy.doctor.firewall import Chain


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """The router of the run directory. `state`: running, stopped, died, mute (doesn't answer), closed (to us)."""

    state: str
    pid: int | None = None
    detail: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """`offloads`: what of csum, tso, uso, gso and gro is there; a name is missing when it couldn't be tried."""

    tun_device: bool
    tun_driver: bool
    bridge: bool
    veth: bool
    steering: bool  # a filter may choose among sockets that share a port
    offloads: Mapping[str, bool]
    aes: bool
    ciphers: Mapping[str, str]  # and by which implementation


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a port. `pid` is None when that is hidden from us; `router`: it is the run directory's router."""

    protocol: str
    port: int
    program: str = ""
    pid: int | None = None
    router: bool = False


@dataclass(frozen=True, slots=True)
class PathFacts:
    """The way to a peer: the address that we have on it, the interface, and its MTU in octets of IP packet."""

    peer: str
    port: int
    local: str | None
    interface: str | None
    mtu: int | None
    established: bool


@dataclass(frozen=True, slots=True)
class FirewallFacts:
    """`bridged`: IPv4 packets that a bridge forwards also pass the rules for forwarding."""

    chains: tuple[Chain, ...]
    bridged: bool


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """`state`: absent, ready, refused, mute, closed (to us)."""

    state: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of the host. `master`: the name of the bridge that it is a port of, or empty."""

    name: str
    kind: str
    mtu: int
    up: bool
    master: str = ""


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route of the host that isn't the default."""

    destination: str
    interface: str


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """An attached container. `host_end`: its interface's other end; `mtu` and `up`: of the container's end.

    `gone`: why its namespace can't be reached any more. `mtu` is None if the container has no such interface.
    """

    target: str
    host_end: str = ""
    interface: str = ""
    mtu: int | None = None
    up: bool = False
    gone: str = ""


@dataclass(frozen=True, slots=True)
class StateFacts:
    """The state directory, or where it would be made. `open_to_others`: files that others may read."""

    path: str
    exists: bool
    writable: bool
    free_bytes: int
    free_files: int
    open_to_others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found out."""

    port: int
    router: RouterFacts
    kernel: KernelFacts | None = None
    holders: tuple[Holder, ...] | None = None
    firewall: FirewallFacts | None = None
    paths: tuple[PathFacts, ...] = ()
    datagram_overhead: int = 0  # octets of IP packet that a full frame takes beyond the overlay's MTU
    synchronised: bool | None = None
    docker: DockerFacts | None = None
    interfaces: tuple[Interface, ...] | None = None
    routes: tuple[HostRoute, ...] | None = None
    containers: tuple[ContainerFacts, ...] | None = None
    state: StateFacts | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
