"""The texts of `weavepy status`: Weave Net 2.8.1's formats, and the verdict."""

import copy
import re
from typing import Any

import pytest

from weavepy.runtime.status import (
    advise,
    render_connections,
    render_peers,
    render_status,
    render_targets,
    verdict,
)


def connection(address: str, state: str, info: str = "", **attrs: Any) -> dict[str, Any]:
    return {
        "Address": address,
        "Outbound": attrs.pop("outbound", True),
        "State": state,
        "Info": info,
        "Attrs": attrs,
    }


UP = connection(
    "10.0.0.2:6783",
    "established",
    "encrypted   fastpath 02:00:00:00:00:02(two)",
    name="fastpath",
    encrypted=True,
    cipher="aes-256-gcm",
    mtu=1376,
    rtt_ms=0.4,
    epoch=0,
    since_s=12.5,
)
RETRY = "connection refused, retry: 2026-11-26 11:20:05 +0000 UTC"
DOWN = connection("10.0.0.9:6783", "failed", RETRY, retry_s=2.0)


CIPHERS = {"aes-256-gcm": "vaes", "chacha20-poly1305": "libcrypto"}
OFFLOADS = {"csum": True, "tso": True, "gso": False, "gro": True}


def report(*connections: dict[str, Any], **router: Any) -> dict[str, Any]:
    peers = [
        {
            "Name": "02:00:00:00:00:01",
            "NickName": "one",
            "Connections": [
                {
                    "Name": "02:00:00:00:00:02",
                    "NickName": "two",
                    "Address": "10.0.0.2:6783",
                    "Outbound": True,
                    "Established": True,
                }
            ],
        },
        {"Name": "02:00:00:00:00:02", "NickName": "two", "Connections": None},
    ]
    return {
        "Version": "1.2.3",
        "Warnings": [],
        "Unresolved": [],
        "Router": {
            "Protocol": "weave",
            "ProtocolMinVersion": 2,
            "ProtocolMaxVersion": 2,
            "Encryption": True,
            "PeerDiscovery": True,
            "Name": "02:00:00:00:00:01",
            "NickName": "one",
            "Peers": peers,
            "Connections": list(connections),
            "Targets": ["10.0.0.2"],
            "TrustedSubnets": [],
            "OverlayDiagnostics": {"fastpath": {"Ciphers": CIPHERS, "Offloads": OFFLOADS}},
            **router,
        },
    }


GOLDEN = """\
        Version: 1.2.3

        Service: router
       Protocol: weave 2
           Name: 02:00:00:00:00:01(one)
     Encryption: enabled
  PeerDiscovery: enabled
        Targets: 1
    Connections: 2 (1 established, 1 failed)
          Peers: 2 (with 1 established connections)
 TrustedSubnets: none
        Ciphers: aes-256-gcm by vaes, chacha20-poly1305 by libcrypto
       Offloads: csum, tso, gro

1 of 2 peers established. Not connected: 10.0.0.9:6783: connection refused, retry: 2026-11-26 11:20:05 +0000 UTC \
(is the router running there, and is the port right?).
"""


def test_status_is_what_weave_printed_and_a_verdict() -> None:
    assert render_status(report(UP, DOWN)) == GOLDEN


def test_every_label_ends_at_column_15() -> None:
    labelled = [line for line in render_status(report(UP)).split("\n") if re.match(r" *\w+: ", line)]
    assert len(labelled) == 12
    assert {line.index(":") for line in labelled} == {15}


def test_a_router_that_neither_seals_nor_offloads() -> None:
    none = {"fastpath": {"Ciphers": {}, "Offloads": dict.fromkeys(OFFLOADS, False)}}
    text = render_status(report(UP, OverlayDiagnostics=none))
    assert "\n        Ciphers: none\n       Offloads: none\n" in text


def test_a_range_of_protocols_and_weave_scripts() -> None:
    text = render_status(report(UP, ProtocolMinVersion=1, Encryption=False))
    assert "Protocol: weave 1..2\n" in text
    assert re.search(r"(?<= Name: ).*", text)[0] == "02:00:00:00:00:01(one)"  # type: ignore[index]
    assert "Encryption: disabled\n" in text


def test_connections() -> None:
    inbound = connection("10.0.0.3:40000", "connecting", "handshake", outbound=False)
    info = "encrypted   sleeve 02:00:00:00:00:04(four)"
    sleeve = connection(
        "10.0.0.4:6783", "established", info, mtu=1410, why="the peer doesn't offer \x1b[2Jit"
    )
    assert render_connections(report(UP, inbound, sleeve, DOWN)) == (
        "-> 10.0.0.2:6783         established encrypted   fastpath 02:00:00:00:00:02(two) "
        "mtu=1376 cipher=aes-256-gcm rtt_ms=0.4 since_s=12.5\n"
        "<- 10.0.0.3:40000        connecting  handshake\n"
        "-> 10.0.0.4:6783         established encrypted   sleeve 02:00:00:00:00:04(four) mtu=1410 "
        "(not fastpath: the peer doesn't offer \\x1b[2Jit)\n"
        "-> 10.0.0.9:6783         failed      connection refused, retry: 2026-11-26 11:20:05 +0000 UTC\n"
    )


def test_peers_and_targets() -> None:
    assert render_peers(report(UP)) == (
        "02:00:00:00:00:01(one)\n"
        "   -> 10.0.0.2:6783         02:00:00:00:00:02(two)                established\n"
        "02:00:00:00:00:02(two)\n"
    )
    assert render_targets(report(UP, Targets=["b", "a"])) == "a\nb\n"
    assert render_targets(report(Targets=None)) == ""


def test_warnings_come_before_the_verdict() -> None:
    value = report(UP) | {"Warnings": ["encryption is off"]}
    assert render_status(value).split("\n")[-3] == "Warning: encryption is off"


def test_another_overlay_mtu_is_a_warning() -> None:
    same = connection("10.0.0.2:6783", "established", "", mtu=1376, peer_mtu=1376)
    other = connection("10.0.0.3:6783", "established", "", mtu=1376, peer_mtu=8950)
    assert "Warning" not in render_status(report(UP, same))
    (line,) = (line for line in render_status(report(same, other)).split("\n") if "Warning" in line)
    assert line.startswith("Warning: 10.0.0.3:6783 uses an overlay MTU of 8950 and this host 1376")


def test_a_target_beyond_the_connection_limit_gets_advice() -> None:
    well, text = verdict(report(UP, connection("10.0.0.9:6783", "retrying", "connection limit reached (1)")))
    assert not well
    assert "--conn-limit" in text


def test_an_escape_sequence_in_a_nickname_is_shown_not_obeyed() -> None:
    value = copy.deepcopy(report(UP))
    value["Router"]["Peers"][1]["NickName"] = "\x1b[2Jgone\n"
    assert "(\\x1b[2Jgone\\n)" in render_peers(value)
    assert "\x1b" not in render_status(report(UP, NickName="\x1b]0;x\x07"))


@pytest.mark.parametrize(
    ("connections", "well", "words"),
    [
        ((), True, "alone"),
        ((UP,), True, "All well: 1 of 1 peers established, encrypted (aes-256-gcm)."),
        ((UP, DOWN), False, "1 of 2 peers established. Not connected: 10.0.0.9:6783"),
        ((DOWN, DOWN), False, "1 more like it"),
        ((connection("10.0.0.2:6783", "connecting"),), False, "waiting for 10.0.0.2:6783"),
        ((connection("10.0.0.2:6783", "pending", outbound=False),), False, "Not there yet: 0 of 1"),
        ((connection("10.0.0.2:6783", "pending", since_s=1.0),), False, "waiting for 10.0.0.2:6783."),
        (
            (connection("10.0.0.2:6783", "pending", since_s=9.0),),
            False,
            "10.0.0.2:6783: the control connection is up",
        ),
        # Strangers at the door, and this host in a list that all hosts share, are no reason to worry.
        ((UP, connection("6.6.6.6:1", "connecting", "handshake", outbound=False)), True, "1 of 1"),
        ((UP, connection("10.0.0.1:6783", "failed", "the address is this router's own")), True, "1 of 1"),
        ((connection("10.0.0.2:6783", "established", "", encrypted=False),), True, "NOT encrypted"),
        ((UP, connection("10.0.0.3:6783", "established", "", encrypted=False)), True, "1 of them NOT"),
    ],
)
def test_verdict(connections: tuple[dict[str, Any], ...], well: bool, words: str) -> None:
    is_well, text = verdict(report(*connections))
    assert (is_well, words in text) == (well, True), text


def test_a_name_without_address_needs_attention() -> None:
    well, text = verdict(report() | {"Unresolved": ["nowhere (cannot resolve nowhere)"]})
    assert not well
    assert "nowhere" in text


def test_advice_is_added_to_known_reasons_only() -> None:
    assert advise("something new") == "something new"
    assert advise("no route to host") == "no route to host (is the address right, and the host up?)"


def test_a_peer_of_another_kind_gets_other_advice_than_one_with_another_cipher() -> None:
    assert "must run weavepy" in advise("no overlay in common: we offer fastpath, the peer sleeve")
    assert "same --cipher" in advise("no overlay in common: no cipher that both ends list")
