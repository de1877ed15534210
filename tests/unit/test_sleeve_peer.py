"""The router against a Weave Net 2.8.1 peer that it has only sleeve in common with, dialling and dialled."""

from typing import Any

import pytest
from weave_peer import (
    HERE,
    OWN,
    PASSWORD,
    PEER,
    THERE,
    Weave,
    gossip,
    read_gossip,
    read_topology,
    router,
    topology,
)

from weavepy import events as ev
from weavepy import limits
from weavepy.events import Address
from weavepy.wire.sleeve import FRAGMENTS_TEST_BYTES, HEARTBEAT_BYTES, PROBE_BYTES

BOTH = pytest.mark.parametrize("dials", [True, False], ids=["dials-us", "is-dialled"])
KEYED = pytest.mark.parametrize("password", [None, PASSWORD], ids=["clear", "password"])
OVERLAYS = ("fastpath", "sleeve")
UDP = Address("192.0.2.2", 6783)


def connect(*, dials: bool, password: bytes | None, overlays: str | None = "fastdp sleeve") -> Weave:
    return Weave(router(password, OVERLAYS), dials=dials, password=password, overlays=overlays)


def only(weave: Weave, kind: type) -> list[Any]:
    return [effect for effect in weave.effects if isinstance(effect, kind)]


def happen(weave: Weave, event: ev.Event) -> list[ev.Effect]:
    """The router's effects that aren't bytes."""
    before = len(weave.effects)
    weave.perform(weave.router.handle(event, weave.now))
    return [e for e in weave.effects[before:] if not isinstance(e, ev.Send | ev.Log)]


def uid_of(weave: Weave) -> int:
    return int(weave.features["ConnID"]) ^ 77


def said(weave: Weave) -> list[bytes]:
    """What the router says to the other end of the overlay."""
    return [
        plain for plain in weave.heard() if plain[:1] == b"\x07" or plain[:1] in (b"\x01", b"\x02", b"\x03")
    ]


@BOTH
@pytest.mark.parametrize(
    ("trusts", "trusted", "plain"),
    [
        ("192.0.2.0/24", True, True),
        ("192.0.2.0/24", False, False),
        ("", True, False),
        ("10.0.0.0/8", True, False),
    ],
)
def test_packets_are_plain_if_both_ends_trust_each_other(
    *, dials: bool, trusts: str, trusted: bool, plain: bool
) -> None:
    weave = Weave(
        router(PASSWORD, OVERLAYS, trusts),
        dials=dials,
        password=PASSWORD,
        overlays="fastdp sleeve",
        trusted=trusted,
    )
    assert weave.features["Trusted"] == ("true" if trusts.startswith("192") else "false")
    (sleeve,) = only(weave, ev.SleeveAdd)
    assert sleeve.key == (None if plain else weave.key)
    (connection,) = weave.router.report(weave.now)["Connections"]  # type: ignore[misc]
    assert connection["Info"].split()[0] == ("unencrypted" if plain else "encrypted")
    assert connection["Attrs"]["encrypted"] is not plain


@BOTH
@KEYED
def test_a_link_comes_up_as_between_weave_routers(*, dials: bool, password: bytes | None) -> None:
    weave = connect(dials=dials, password=password)
    assert weave.features["Overlays"] == "fastpath sleeve"
    (add,) = only(weave, ev.LinkAdd)
    index = add.index
    assert not add.clear
    assert only(weave, ev.SleeveAdd) == [ev.SleeveAdd(index, PEER, weave.key, not dials)]
    assert only(weave, ev.LinkBySleeve) == [ev.LinkBySleeve(index, by_sleeve=True)]
    heartbeat = ev.SleeveSend(index, True, HEARTBEAT_BYTES, uid_of(weave))
    assert only(weave, ev.SleeveRemote) == ([] if dials else [ev.SleeveRemote(index, THERE, HERE)])
    assert only(weave, ev.SleeveSend) == ([] if dials else [heartbeat])
    weave.heard()

    assert happen(weave, ev.SleeveHeard(index, uid_of(weave) ^ 1, UDP)) == []
    effects = happen(weave, ev.SleeveHeard(index, uid_of(weave), UDP))
    assert effects == ([ev.SleeveRemote(index, UDP, HERE), heartbeat] if dials else [])
    assert said(weave) == [b"\x07\x00\x01"]
    happen(weave, ev.SleeveTested(index, FRAGMENTS_TEST_BYTES))
    happen(weave, ev.SleeveTested(index, 1428))
    assert said(weave) == [b"\x07\x00\x02", b"\x07\x00\x03\x05\x86"]

    (connection,) = weave.router.report(weave.now)["Connections"]  # type: ignore[misc]
    assert connection["State"] == "pending"  # type: ignore[index]
    weave.effects.clear()
    weave.tell(b"\x07\x00\x01")
    assert only(weave, ev.SleeveSend) == [
        ev.SleeveSend(index, False, FRAGMENTS_TEST_BYTES),
        ev.SleeveSend(index, True, PROBE_BYTES),
    ]
    mtu = 1438 if password is None else 1414
    tests = happen(weave, ev.SleeveTooBig(index, 1500))
    assert tests == [ev.SleeveTune(index, mtu, 1472, False), ev.SleeveSend(index, True, mtu + 14)]
    weave.effects.clear()
    weave.tell(b"\x07\x00\x02", b"\x07\x00\x03" + mtu.to_bytes(2, "big"))
    assert only(weave, ev.SleeveTune)[-1] == ev.SleeveTune(index, mtu, 1472, True)
    report = weave.router.report(weave.now)["Connections"]
    (connection,) = report  # type: ignore[misc]
    assert connection["State"] == "established"  # type: ignore[index]
    kind = f"{'unencrypted' if password is None else 'encrypted':<11} sleeve 02:00:00:00:00:02("
    assert connection["Info"].startswith(kind)  # type: ignore[index]
    assert connection["Attrs"]["mtu"] == mtu  # type: ignore[index]
    weave.wait(1.1)
    news = [read_topology_of(plain) for plain in weave.heard() if plain[:1] == b"\x04"]
    assert any(connections and connections[0].get(3) == 1 for connections in news), "told as established"


def read_topology_of(plain: bytes) -> list[dict[int, Any]]:
    channel, _, payload = read_gossip(plain)
    assert channel == "topology"
    return read_topology(payload).get(OWN, ({}, []))[1]


@BOTH
def test_a_peer_that_lists_no_overlays_gets_messages_without_an_index(*, dials: bool) -> None:
    weave = connect(dials=dials, password=PASSWORD, overlays=None)
    (add,) = only(weave, ev.LinkAdd)
    weave.heard()
    happen(weave, ev.SleeveHeard(add.index, uid_of(weave), UDP))
    happen(weave, ev.SleeveTested(add.index, 1428))
    assert said(weave) == [b"\x01", b"\x03\x05\x86"]
    weave.tell(b"\x07\x00\x01")  # not its way
    assert ev.SleeveSend(add.index, True, PROBE_BYTES) not in weave.effects
    weave.effects.clear()
    happen(weave, ev.SleeveHeard(add.index, uid_of(weave), UDP))
    weave.tell(b"\x01")
    assert ev.SleeveSend(add.index, True, PROBE_BYTES) in weave.effects
    assert not weave.closed


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x07\x01\x01", "overlay 1"),
        (b"\x07\xff\x01", "overlay 255"),
        (b"\x07\x00\x03\x05", "two octets"),
        (b"\x07\x00\x01\x00", "body"),
    ],
)
def test_what_no_router_says_ends_the_connection(message: bytes, reason: str) -> None:
    weave = connect(dials=True, password=PASSWORD)
    weave.tell(message)
    assert weave.closed
    assert reason in weave.logged()
    assert only(weave, ev.SleeveRemove)
    assert only(weave, ev.LinkRemove)


@pytest.mark.parametrize("message", [b"\x07\x00\x63", b"\x01", b"\x02", b"\x03\x05\x86"])
def test_what_is_tolerated(message: bytes) -> None:
    weave = connect(dials=True, password=PASSWORD)
    weave.tell(message)
    assert not weave.closed


@BOTH
def test_without_heartbeats_it_ends_after_a_minute(*, dials: bool) -> None:
    weave = connect(dials=dials, password=PASSWORD)
    for _ in range(6):
        weave.tell(b"\x00")
        weave.wait(limits.SLEEVE_TIMEOUT_S / 6)
    assert weave.closed
    assert "no overlay works: timed out waiting for UDP heartbeat" in weave.logged()


def test_sleeve_is_brought_up_beside_fastpath_and_carries_nothing() -> None:
    weave = connect(dials=True, password=PASSWORD, overlays="fastpath sleeve")
    (add,) = only(weave, ev.LinkAdd)
    assert only(weave, ev.SleeveAdd) == [ev.SleeveAdd(add.index, PEER, weave.key, False)]
    weave.heard()
    happen(weave, ev.SleeveHeard(add.index, uid_of(weave), UDP))
    assert said(weave) == [b"\x07\x01\x01"]
    weave.tell(b"\x07\x01\x01", b"\x07\x01\x02")
    assert ev.SleeveSend(add.index, True, PROBE_BYTES) in weave.effects
    assert not only(weave, ev.LinkBySleeve)
    (connection,) = weave.router.report(weave.now)["Connections"]  # type: ignore[misc]
    assert connection["State"] == "pending"  # type: ignore[index]
    weave.tell(b"\x07\x02\x01")
    assert weave.closed
    assert "overlay 2" in weave.logged()


def test_news_of_an_overlay_that_is_not_there_changes_nothing() -> None:
    weave = connect(dials=True, password=PASSWORD, overlays="fastdp sleeve")
    (add,) = only(weave, ev.LinkAdd)
    for event in (ev.HeartbeatReceived(add.index, True, 1, UDP), ev.DatagramTooBig(add.index)):
        assert happen(weave, event) == []
    weave = connect(dials=True, password=PASSWORD, overlays="fastpath")
    (add,) = only(weave, ev.LinkAdd)
    assert not only(weave, ev.SleeveAdd)
    for event in (ev.SleeveHeard(add.index, uid_of(weave), UDP), ev.SleeveTooBig(add.index, 1500)):
        assert happen(weave, event) == []
    assert not weave.closed


def test_gossip_goes_by_a_connection_whatever_its_overlay() -> None:
    weave = connect(dials=True, password=PASSWORD)
    weave.tell(gossip("topology", PEER, topology(PEER, "weave", 2**64 - 1, 3)))
    assert [p["Name"] for p in weave.router.report(weave.now)["Peers"]] == [  # type: ignore[attr-defined]
        "02:00:00:00:00:01",
        "02:00:00:00:00:02",
    ]
