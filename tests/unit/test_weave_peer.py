"""The router against a model of a Weave Net 2.8.1 peer, with and without password, dialling and dialled.

Some runs are repeated in slices of one octet.
"""

import pytest
from weave_peer import (
    OWN,
    PASSWORD,
    PEER,
    THERE,
    THIRD,
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

BOTH = pytest.mark.parametrize("dials", [True, False], ids=["dials-us", "is-dialled"])
KEYED = pytest.mark.parametrize("password", [None, PASSWORD], ids=["clear", "password"])


@BOTH
@KEYED
@pytest.mark.parametrize("slices", [1, 10**6])
def test_a_peer_with_our_overlay_gets_everything(*, dials: bool, password: bytes | None, slices: int) -> None:
    r = router(password)
    weave = Weave(r, dials=dials, password=password, overlays="fastpath sleeve", slices=slices)
    assert weave.features["Name"] == "02:00:00:00:00:01"
    assert weave.features["UID"] == "1234"
    assert weave.features["Overlays"] == "fastpath"
    assert weave.features["Trusted"] == "false"
    assert 0 <= int(weave.features["ShortID"]) < 4096
    weave.wait(0.2)
    start, whole = weave.heard()
    cipher = 0 if password is None else 1
    assert start[:6] == bytes([7, 0, 1, 1, cipher, 2])
    channel, sender, payload = read_gossip(whole)
    assert (channel, sender) == ("topology", OWN)
    peers = read_topology(payload)
    assert set(peers) == {OWN, PEER}
    summary, (connection,) = peers[OWN]
    assert (summary[1], summary[2], summary[3]) == (b"one", 1234, 1)
    assert int.from_bytes(connection[0], "big") == PEER
    assert connection[1] == (b"192.0.2.2:41000" if dials else b"192.0.2.2:6783")
    assert connection.get(2, 0) == (0 if dials else 1)
    assert 3 not in connection

    # Its record, and that of a third peer which it knows: dialled by discovery, where it was dialled itself.
    links = [(OWN, "192.0.2.1:6783", dials, False), (THIRD, "192.0.2.3:50000", False, True)]
    weave.effects.clear()
    weave.tell(gossip("topology", PEER, topology(PEER, "weave", 2**64 - 1, 3, *links)))
    assert [e.address for e in weave.effects if isinstance(e, ev.Dial)] == [Address("192.0.2.3", 6783)]
    weave.tell(b"", b"\x63unheard of", b"\x00", b"\x01\x02", gossip("nameserver", PEER, b"unread"))
    weave.wait(1.1)
    assert not weave.closed
    told = [read_gossip(plaintext) for plaintext in weave.heard()]
    assert [channel for channel, _, _ in told] == ["topology"]
    assert set(read_topology(told[0][2])) == {OWN, PEER}
    names = [peer["Name"] for peer in r.report(weave.now)["Peers"]]  # type: ignore[attr-defined]
    assert "02:00:00:00:00:03" in names


@BOTH
@KEYED
def test_heartbeats_are_sent_and_wanted(*, dials: bool, password: bytes | None) -> None:
    weave = Weave(router(password), dials=dials, password=password, overlays="fastpath")
    weave.tell(
        b"\x07\x00\x01\x01" + (b"\0" if password is None else b"\1") + bytes.fromhex("01001a7f000000000001")
    )
    (link,) = (e.index for e in weave.effects if isinstance(e, ev.LinkAdd))
    for _ in range(10):
        weave.wait(9.0)
        weave.perform(weave.router.handle(ev.HeartbeatReceived(link, True, 500, THERE), weave.now))
        weave.tell(b"\x00")
    tags = [plaintext[0] for plaintext in weave.heard()]
    assert tags.count(0) == 3
    assert tags.count(4) >= 3
    for _ in range(7):
        weave.wait(9.0)
        weave.perform(weave.router.handle(ev.HeartbeatReceived(link, True, 500, THERE), weave.now))
    assert weave.closed
    assert f"no message for {limits.TCP_READ_TIMEOUT_S:g} s" in weave.logged()


@BOTH
@KEYED
@pytest.mark.parametrize("overlays", ["fastdp sleeve", "sleeve", "awsvpc", "", None])
def test_a_peer_without_our_overlay_is_told_apart_and_closed(
    *, dials: bool, password: bytes | None, overlays: str | None
) -> None:
    r = router(password)
    weave = Weave(r, dials=dials, password=password, overlays=overlays)
    assert weave.closed
    assert "no overlay in common" in weave.logged()
    assert not any(isinstance(e, ev.LinkAdd) for e in weave.effects)
    assert [peer["Name"] for peer in r.report(weave.now)["Peers"]] == ["02:00:00:00:00:01"]  # type: ignore[attr-defined]
    weave.effects.clear()
    weave.say(b"more")
    assert not weave.effects
    weave.wait(10.0)
    if not dials:
        assert any(isinstance(e, ev.Dial) for e in weave.effects), "it may be upgraded, so it is tried again"


@BOTH
def test_without_the_same_password_there_is_nothing(*, dials: bool) -> None:
    for ours, theirs in ((PASSWORD, None), (None, PASSWORD), (PASSWORD, b"another")):
        r = router(ours)
        weave = Weave(r, dials=dials, password=theirs, overlays="fastpath")
        assert weave.closed
        assert "password" in weave.logged()
        assert not any(isinstance(e, ev.LinkAdd) for e in weave.effects)


@BOTH
@pytest.mark.parametrize(
    ("versions", "welcome"),
    [
        (b"\1\2", True),
        (b"\2\2", True),
        (b"\2\3", True),
        (b"\0\xff", True),
        (b"\1\1", False),
        (b"\3\3", False),
    ],
)
def test_only_protocol_2_is_spoken(*, dials: bool, versions: bytes, welcome: bool) -> None:
    weave = Weave(router(PASSWORD), dials=dials, password=PASSWORD, overlays="fastpath", versions=versions)
    assert weave.closed is not welcome


def test_a_nickname_is_one_line_of_plain_text_in_the_log() -> None:
    weave = Weave(
        router(PASSWORD),
        dials=True,
        password=PASSWORD,
        overlays="fastpath",
        nickname="x\nERROR \x1b[2J all is lost",
    )
    assert not weave.closed
    assert "x?ERROR ?[2J all is lost" in weave.logged()
    assert all(e.text.isprintable() for e in weave.effects if isinstance(e, ev.Log))
