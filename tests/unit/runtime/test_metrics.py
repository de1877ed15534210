"""What Prometheus gets: its parser reads it, its linter's rules hold, and Weave Net's dashboards find their names."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from weavepy import _fastpath
from weavepy.runtime import metrics
from weavepy.runtime.metrics import exposition
from weavepy.runtime.status import STATES

TALLIES = [f"{way}_{what}" for way in ("tx", "rx") for what in ("bytes", "datagrams", "frames", "dropped")]
TALLIES.append("rx_lost")
COUNTERS = {"tap_frames": 7, "tx_bytes": 1000, "drop_tag": 3, "drop_no_route": 0, "mac_moves": 2}

IPAM = {
    "RangeNumIPs": 1024,
    "ActiveIPs": 3,
    "OwnedIPs": 512,
    "FreeIPs": 509,
    "FreeEverywhere": 700,
    "FreeByDefault": 12,
    "UnreachablePeers": 1,
    "UnreachableIPs": 256,
    "PendingAllocates": 2,
    "PendingClaims": 4,
    "Unclaimed": 5,
    "Clashes": 6,
    "Conflicts": 7,
}


def link(peer: str, index: int, state: str = "established", **attributes: Any) -> dict[str, Any]:
    standard = {
        "name": "fastpath",
        "encrypted": True,
        "cipher": "aes-256-gcm",
        "mtu": 1376,
        "path_mtu": 1500,
        "rtt_ms": 0.5,
        "epoch": 4,
        "index": index,
        "peer": peer,
        "nickname": "two",
        "age_s": 12.5,
        "reconnects": 2,
    }
    return {"Address": "192.0.2.2:6783", "State": state, "Info": "", "Attrs": standard | attributes}


def figures(*connections: dict[str, Any], links: dict[int, dict[str, int]] | None = None) -> dict[str, Any]:
    return {
        "Version": "1.2.3",
        "Router": {"Connections": list(connections), "TerminationCount": 3, "PeerCount": 2},
        "Engine": {"Counters": COUNTERS, "Links": links or {}},
        "Shell": {"Sockets": 1, "Counters": {"slow_peers": 1}},
        "IPAM": IPAM,
        "Macs": 5,
        "Attachments": 1,
    }


TWO, THREE = "02:00:00:00:00:02", "02:00:00:00:00:03"
FULL = figures(
    link(TWO, 5),
    link(
        THREE, 6, "pending", name="sleeve", cipher="clear", encrypted=False, rtt_ms=0.0, nickname='"\n\\\x1b'
    ),
    {"Address": "192.0.2.9:6783", "State": "failed", "Info": "refused", "Attrs": {"retry_s": 1.0}},
    links={5: {name: number for number, name in enumerate(TALLIES)} | {"path_mtu": 1500}},
)


def text(value: dict[str, Any], accept: str = "") -> str:
    return exposition(value, accept)[0].decode()


def samples(value: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in parse_text(text(value))
        for s in family.samples
    }


def test_prometheus_own_parsers_read_it() -> None:
    names = {family.name for family in parse_text(text(FULL))}
    assert {"weave_connections", "weavepy_dropped", "weavepy_link"} & names
    strict = {family.name for family in parse_openmetrics(text(FULL, "application/openmetrics-text"))}
    assert "weavepy_link_transmit_bytes" in strict


def test_names_that_dashboards_for_weave_use() -> None:
    found = samples(FULL)

    def connections(state: str, kind: str, encryption: str) -> float:
        labels = (("encryption", encryption), ("state", state), ("type", kind))
        return found["weave_connections", labels]

    assert connections("established", "fastpath", "yes") == 1
    assert connections("established", "fastpath", "") == 0
    assert connections("pending", "sleeve", "") == 1
    assert connections("failed", "unknown", "") == 1
    assert connections("connecting", "unknown", "") == 0  # there, so that an alert can look at it
    assert found["weave_connection_terminations_total", ()] == 3
    assert found["weave_ips", (("state", "local-used"),)] == 3
    assert found["weave_max_ips", ()] == 1024
    assert found["weave_ipam_unreachable_count", ()] == 1
    assert found["weave_ipam_unreachable_percentage", ()] == 25
    assert found["weave_ipam_pending_allocates", ()] == 2
    assert found["weave_ipam_pending_claims", ()] == 4


def test_addresses_have_figures_of_our_own_too() -> None:
    found = samples(FULL)
    assert found["weavepy_ipam_free", (("scope", "host"),)] == 509
    assert found["weavepy_ipam_free", (("scope", "network"),)] == 700
    assert found["weavepy_ipam_free", (("scope", "default_subnet"),)] == 12
    names = ("owned", "unclaimed", "conflicts", "clashes")
    assert [found[f"weavepy_ipam_{name}", ()] for name in names] == [512, 5, 7, 6]
    none = samples({**FULL, "IPAM": None})
    assert not [name for name, _ in none if "ipam" in name or "ips" in name]


def test_each_link_has_its_figures() -> None:
    found = samples(FULL)

    def of(name: str, peer: str = TWO) -> float | None:
        return found.get((f"weavepy_link_{name}", (("peer", peer),)))

    counted = ("bytes", "datagrams", "frames", "dropped")
    assert [of(f"transmit_{name}_total") for name in counted] == [0, 1, 2, 3]
    assert [of(f"receive_{name}_total") for name in counted] == [4, 5, 6, 7]
    assert (of("round_trip_seconds"), of("path_mtu_bytes"), of("mtu_bytes")) == (0.0005, 1500, 1376)
    assert (of("handshake_age_seconds"), of("key_epoch"), of("reconnects_total")) == (12.5, 4, 2)
    assert (of("established"), of("established", THREE)) == (1, 0)
    assert of("round_trip_seconds", THREE) is None  # not known, which isn't 0
    assert of("transmit_bytes_total", THREE) is None
    info = [labels for name, labels in found if name == "weavepy_link_info"]
    assert dict(info[0]) == {"peer": TWO, "overlay": "fastpath", "cipher": "aes-256-gcm", "nickname": "two"}
    assert dict(info[1])["nickname"] == '"\\n\\\\x1b'  # shown, not obeyed


def test_drops_are_counted_by_reason() -> None:
    found = samples(FULL)
    assert found["weavepy_dropped_total", (("reason", "tag"),)] == 3
    assert found["weavepy_dropped_total", (("reason", "no_route"),)] == 0
    assert found["weavepy_engine_events_total", (("event", "mac_moves"),)] == 2
    assert found["weavepy_control_events_total", (("event", "slow_peers"),)] == 1
    assert found["weavepy_captured_frames_total", ()] == 7
    assert found["weavepy_transmit_bytes_total", ()] == 1000


def test_every_counter_of_the_engine_is_told() -> None:
    """A new one can't be forgotten, and the names in our table are the engine's."""
    source = {key for key, _, _ in metrics._ENGINE}
    assert {key for key, _, _ in metrics._LINK_COUNTERS} | {"rx_lost"} == set(TALLIES)
    assert samples(FULL)["weavepy_link_lost_datagrams", (("peer", TWO),)] == TALLIES.index("rx_lost")
    assert _names("WV_TALLIES") == TALLIES
    listed = _names("WV_COUNTERS")
    assert source <= set(listed)
    value = figures()
    value["Engine"]["Counters"] = dict.fromkeys(listed, 1)
    found = [s for s in samples(value).items() if s[0][0].startswith("weavepy_") and s[1] == 1]
    told = [s for s in found if s[0][0].endswith("_total") and "control" not in s[0][0]]
    assert len(told) == len(listed)


def _names(macro: str) -> list[str]:
    """The names in one of the lists of counters.h."""
    header = (Path(_fastpath.__file__).parent / "native" / "counters.h").read_text()
    return re.findall(r"X\((\w+)\)", header.split(f"#define {macro}(X)")[1].split("enum")[0])


def test_the_linters_rules_hold() -> None:
    """Those of `promtool check metrics`: help, units in names, and counters end in _total and nothing else does."""
    page = text(FULL)
    helped = {
        line.split()[2]: line.split(maxsplit=3)[3] for line in page.splitlines() if line.startswith("# HELP")
    }
    for family in parse_text(page):
        if not family.name.startswith("weave"):
            continue  # the library's own
        said = helped.get(family.name, helped.get(f"{family.name}_total", ""))
        assert said.endswith("."), family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert not re.search(r"_(gauge|counter|metric|milliseconds|ms|kilobytes|kb)(_|$)", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
            assert not {"le", "quantile", "instance", "job"} & set(sample.labels)


def test_there_are_no_more_series_than_connections_allow() -> None:
    def count(number: int) -> int:
        peers = [link(f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}", i) for i in range(1, number + 1)]
        links = {i: dict.fromkeys(TALLIES, 1) for i in range(1, number + 1)}
        return sum(line.startswith("weave") for line in text(figures(*peers, links=links)).splitlines())

    few, many = count(1), count(200)
    assert (many - few) / 199 == 17
    assert few < 85
    assert {
        state
        for name, labels in samples(figures())
        if name == "weave_connections"
        for state in [dict(labels)["state"]]
    } == set(STATES)


def test_two_connections_to_one_peer_are_one_series() -> None:
    page = text(figures(link(TWO, 5, "pending"), link(TWO, 6)))
    assert page.count("weavepy_link_established{") == 1


@pytest.mark.parametrize(
    "name", ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"]
)
def test_the_process_is_measured_too(name: str) -> None:
    assert samples(figures())[name, ()] > 0


def test_an_odd_state_or_overlay_of_a_later_version_falls_over_nothing() -> None:
    found = samples(figures(link(TWO, 5, "dreaming", name="quantum")))
    assert (
        found["weave_connections", (("encryption", "yes"), ("state", "dreaming"), ("type", "unknown"))] == 1
    )


def test_questions_about_names() -> None:
    text = exposition({**FULL, "Dns": {"udp_queries": 3, "answered": 2}}, "")[0].decode()
    assert 'weavepy_dns_events_total{event="udp_queries"} 3.0' in text
    assert 'weavepy_dns_events_total{event="answered"} 2.0' in text
    assert "weavepy_dns_events_total{" not in exposition(FULL, "")[0].decode()  # --no-dns


def test_names_are_counted_where_there_are_any() -> None:
    found = samples({**figures(), "Names": 5, "Dns": {"answered": 3}})
    assert found["weave_dns_entries", ()] == 5
    assert found["weavepy_dns_events_total", (("event", "answered"),)] == 3
    assert ("weave_dns_entries", ()) not in samples(figures())
