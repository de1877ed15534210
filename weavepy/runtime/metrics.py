"""What Prometheus is told: a router's figures at a scrape, under Weave Net 2.8.1's names where it had one.

Rules of this file. Nothing is counted here: figures come from those who count anyway, so a frame costs nothing more.
Labels are bounded: states, overlays and reasons are this program's words, and there is one series of each kind for
each connection, of which there are as many as --conn-limit allows. Nicknames come from peers, so they are in one
metric only, and made safe. The thing people get wrong: a counter of a link starts anew when its connection does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from weavepy.printable import visible
from weavepy.runtime.status import STATES

_TYPES = ("fastpath", "sleeve", "unknown")
# Weave Net's word for whether a connection is sealed.
_ENCRYPTION = {True: "yes", False: ""}

# The engine's counter, our name for it, what it is.
_ENGINE = (
    ("tap_frames", "weavepy_captured_frames", "Frames that containers here sent into the network."),
    ("tap_bytes", "weavepy_captured_bytes", "Octets of frames that containers here sent into the network."),
    (
        "tap_written",
        "weavepy_delivered_frames",
        "Frames from the network that were handed to containers here.",
    ),
    ("tap_written_bytes", "weavepy_delivered_bytes", "Octets of frames that were handed to containers here."),
    ("tx_datagrams", "weavepy_transmit_datagrams", "Datagrams sent to peers."),
    ("tx_bytes", "weavepy_transmit_bytes", "Octets of datagrams sent to peers, without IP and UDP headers."),
    ("tx_calls", "weavepy_transmit_calls", "System calls that sent datagrams."),
    ("rx_datagrams", "weavepy_receive_datagrams", "Authentic datagrams received from peers."),
    (
        "rx_bytes",
        "weavepy_receive_bytes",
        "Octets of datagrams received from peers, without IP and UDP headers.",
    ),
    ("relayed", "weavepy_relayed_frames", "Frames and parts of them that were passed on between two peers."),
)
_LINK_COUNTERS = (
    ("tx_bytes", "weavepy_link_transmit_bytes", "Octets of datagrams sent to the peer."),
    ("tx_datagrams", "weavepy_link_transmit_datagrams", "Datagrams sent to the peer."),
    (
        "tx_frames",
        "weavepy_link_transmit_frames",
        "Frames sent to the peer, each as many as a wire would carry.",
    ),
    ("tx_dropped", "weavepy_link_transmit_dropped", "Datagrams to the peer that could not be sent."),
    ("rx_bytes", "weavepy_link_receive_bytes", "Octets of datagrams received from the peer."),
    ("rx_datagrams", "weavepy_link_receive_datagrams", "Datagrams received from the peer."),
    (
        "rx_frames",
        "weavepy_link_receive_frames",
        "Frames received from the peer, as many as a wire would carry.",
    ),
    ("rx_dropped", "weavepy_link_receive_dropped", "Datagrams in the peer's name that were refused."),
)
# An attribute of a connection, our name for it, the factor to its unit, what it is.
_LINK_GAUGES = (
    (
        "rtt_ms",
        "weavepy_link_round_trip_seconds",
        0.001,
        "Round trip time to the peer by fastpath, smoothed.",
    ),
    (
        "path_mtu",
        "weavepy_link_path_mtu_bytes",
        1,
        "The largest IP packet that the path to the peer carries.",
    ),
    (
        "mtu",
        "weavepy_link_mtu_bytes",
        1,
        "The largest packet of a container that goes to the peer in one piece.",
    ),
    ("age_s", "weavepy_link_handshake_age_seconds", 1, "Time since the handshake of the control connection."),
    ("epoch", "weavepy_link_key_epoch", 1, "How often the key to send with was changed."),
)
# A figure of the addresses, Weave Net's name for it or ours, what it is.
_ADDRESSES = (
    ("RangeNumIPs", "weave_max_ips", "Size of IP address space used by allocator."),
    ("UnreachablePeers", "weave_ipam_unreachable_count", "Number of unreachable peers that own addresses."),
    ("PendingAllocates", "weave_ipam_pending_allocates", "Number of pending allocates."),
    ("PendingClaims", "weave_ipam_pending_claims", "Number of pending claims."),
    ("OwnedIPs", "weavepy_ipam_owned", "Addresses that this host may give out."),
    ("Unclaimed", "weavepy_ipam_unclaimed", "Addresses in use here that another peer owns."),
    ("Conflicts", "weavepy_ipam_conflicts", "Divisions of the addresses that contradict this host's."),
    ("Clashes", "weavepy_ipam_clashes", "Addresses in use here that another peer has given out, too."),
)


def exposition(figures: Mapping[str, Any], accept: str) -> tuple[bytes, str]:
    """Returns the metrics and their content type, in the format that the header `accept` asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Router(figures))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Router(Collector):
    """The metrics of one scrape."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures
        self._router = figures["Router"]
        self._engine = figures["Engine"]

    def collect(self) -> Iterator[Metric]:
        figures, router = self._figures, self._router
        yield InfoMetricFamily("weavepy_build", "Version of weavepy.", {"version": figures["Version"]})
        yield self._connections()
        yield CounterMetricFamily(
            "weave_connection_terminations",
            "Number of peer-to-peer connections terminated.",
            value=router["TerminationCount"],
        )
        gauges = {
            "weavepy_peers": (
                "Peers in the network that are known here, this one included.",
                router["PeerCount"],
            ),
            "weavepy_control_connections": ("TCP connections of the router.", figures["Shell"]["Sockets"]),
            "weavepy_macs": ("Addresses in the MAC table.", figures["Macs"]),
            "weavepy_attachments": ("Containers that are attached here.", figures["Attachments"]),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        if figures["IPAM"] is not None:
            yield from self._addresses(figures["IPAM"])
        if "Names" in figures:
            yield GaugeMetricFamily("weave_dns_entries", "Number of DNS entries.", value=figures["Names"])
        yield from self._counters()
        yield from self._links()

    def _addresses(self, ipam: Mapping[str, int]) -> Iterator[Metric]:
        used = GaugeMetricFamily("weave_ips", "Number of IP addresses.", labels=("state",))
        used.add_metric(("local-used",), ipam["ActiveIPs"])
        yield used
        yield GaugeMetricFamily(
            "weave_ipam_unreachable_percentage",
            "Percentage of all IP addresses owned by unreachable peers.",
            value=100 * ipam["UnreachableIPs"] / ipam["RangeNumIPs"],
        )
        free = GaugeMetricFamily(
            "weavepy_ipam_free",
            "Addresses that are free: of this host, of all that can be reached, and of these in the default subnet.",
            labels=("scope",),
        )
        free.add_metric(("host",), ipam["FreeIPs"])
        free.add_metric(("network",), ipam["FreeEverywhere"])
        free.add_metric(("default_subnet",), ipam["FreeByDefault"])
        yield free
        for key, name, text in _ADDRESSES:
            yield GaugeMetricFamily(name, text, value=ipam[key])

    def _connections(self) -> Metric:
        counts = {(s, t, e): 0 for s in STATES for t in _TYPES for e in (True, False)}
        for connection in self._router["Connections"]:
            attributes = connection["Attrs"]
            name = attributes.get("name")
            key = (
                connection["State"],
                name if name in _TYPES else "unknown",
                bool(attributes.get("encrypted")),
            )
            counts[key] = counts.get(key, 0) + 1
        metric = GaugeMetricFamily(
            "weave_connections", "Number of peer-to-peer connections.", labels=("state", "type", "encryption")
        )
        for (state, kind, encrypted), count in counts.items():
            metric.add_metric((state, kind, _ENCRYPTION[encrypted]), count)
        return metric

    def _counters(self) -> Iterator[Metric]:
        counters = dict(self._engine["Counters"])
        for key, name, text in _ENGINE:
            yield CounterMetricFamily(name, text, value=counters.pop(key, 0))
        dropped = CounterMetricFamily(
            "weavepy_dropped", "Frames and datagrams that went no further, by reason.", labels=("reason",)
        )
        events = CounterMetricFamily(
            "weavepy_engine_events", "What else the data path came across.", labels=("event",)
        )
        for key, value in counters.items():
            if key.startswith("drop_"):
                dropped.add_metric((key.removeprefix("drop_"),), value)
            else:
                events.add_metric((key,), value)
        shell = CounterMetricFamily(
            "weavepy_control_events", "What went wrong on control connections, or in us.", labels=("event",)
        )
        for key, value in self._figures["Shell"]["Counters"].items():
            shell.add_metric((key,), value)
        names = CounterMetricFamily(
            "weavepy_dns_events", "Questions about names, and what became of them.", labels=("event",)
        )
        for key, value in self._figures.get("Dns", {}).items():
            names.add_metric((key,), value)
        yield from (dropped, events, shell, names)

    def _links(self) -> Iterator[Metric]:
        links = {c["Attrs"]["peer"]: c for c in self._router["Connections"] if "peer" in c["Attrs"]}
        info = InfoMetricFamily(
            "weavepy_link", "Whose connection it is, and how it is carried.", labels=("peer",)
        )
        up = GaugeMetricFamily(
            "weavepy_link_established", "Whether frames can go by the connection.", labels=("peer",)
        )
        again = CounterMetricFamily(
            "weavepy_link_reconnects", "Connections to the peer after the first one.", labels=("peer",)
        )
        for peer, connection in links.items():
            attributes = connection["Attrs"]
            what = {"overlay": "name", "cipher": "cipher", "nickname": "nickname"}
            what = {label: visible(str(attributes.get(key, ""))) for label, key in what.items()}
            info.add_metric((peer,), what)
            up.add_metric((peer,), connection["State"] == "established")
            again.add_metric((peer,), attributes["reconnects"])
        yield from (info, up, again)
        for key, name, text in _LINK_COUNTERS:
            counter = CounterMetricFamily(name, text, labels=("peer",))
            for peer, connection in links.items():
                counted = self._engine["Links"].get(connection["Attrs"].get("index"), {})
                if key in counted:
                    counter.add_metric((peer,), counted[key])
            yield counter
        # What comes late is taken off again, so it is no counter.
        lost = GaugeMetricFamily(
            "weavepy_link_lost_datagrams",
            "Datagrams that the peer sealed for fastpath and that have not come, by their numbers.",
            labels=("peer",),
        )
        for peer, connection in links.items():
            counted = self._engine["Links"].get(connection["Attrs"].get("index"), {})
            if "rx_lost" in counted:
                lost.add_metric((peer,), counted["rx_lost"])
        yield lost
        for key, name, factor, text in _LINK_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=("peer",))
            for peer, connection in links.items():
                value = connection["Attrs"].get(key)
                if value is not None and (value or key != "rtt_ms"):  # 0: not measured yet
                    gauge.add_metric((peer,), value * factor)
            yield gauge
