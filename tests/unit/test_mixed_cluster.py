"""A router of ours among Weave Net routers: identities that collide, restarts, peers that vanish, what it says when.

The peers are `strict_peer`'s: they fail the test if anything would hurt a real router.
"""

from typing import Any

import pytest
from strict_peer import StrictGob, StrictPeer
from weave_peer import OWN, PASSWORD, features_of, gossip, topology
from weave_peer import router as new_router

from weavepy import events as ev
from weavepy import limits
from weavepy.events import Address, ConnId, PeerName
from weavepy.wire.topology import ConnectionSummary, PeerRecord, encode_topology

LOWER, PEER, THIRD = 0x010000000001, 0x020000000002, 0x020000000003
HERE = Address("192.0.2.1", 6783)
BOTH = ("fastpath", "sleeve")


class Cluster:
    """One router, and the peers that are connected with it. Time passes when `wait` says so."""

    def __init__(self) -> None:
        self.router = new_router(PASSWORD, BOTH)
        self.peers: dict[ConnId, StrictPeer] = {}
        self.gone: list[StrictPeer] = []
        self.effects: list[ev.Effect] = []
        self.now = 1.0

    def perform(self, effects: list[ev.Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, ev.Send):
                self.peers[effect.conn].hear(effect.data, self.now)
            elif isinstance(effect, ev.Close):
                self.gone.append(self.peers.pop(effect.conn))

    def join(self, name: int, *, conn_id: int = 77, uid: int = 9) -> StrictPeer:
        """A peer dials us. `gone` tells whether it was let in."""
        conn = ConnId(2 * (len(self.peers) + len(self.gone)) + 1)
        peer = StrictPeer(
            name, dials=True, password=PASSWORD, overlays="fastdp sleeve", conn_id=conn_id, uid=uid
        )
        self.peers[conn] = peer
        remote = Address(f"192.0.2.{name & 255}", 40000 + conn)
        self.perform(self.router.handle(ev.Accepted(conn, remote, HERE, 1500), self.now))
        self.perform(self.router.handle(ev.Received(conn, peer.opening()), self.now))
        features = feature_box(peer)
        self.perform(self.router.handle(ev.Received(conn, features), self.now))
        return peer

    def say(self, peer: StrictPeer, plaintext: bytes) -> None:
        (conn,) = [conn for conn, other in self.peers.items() if other is peer]
        self.perform(self.router.handle(ev.Received(conn, peer.seal(plaintext)), self.now))

    def tell(self, peer: StrictPeer, *records: bytes) -> None:
        for record in records:
            self.say(peer, gossip("topology", peer.name, record))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.router.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.perform(self.router.handle_timer(self.now))
        self.now = until

    def report(self) -> Any:
        return self.router.report(self.now)

    def own(self) -> Any:
        (own,) = [p for p in self.report()["Peers"] if int(p["Name"].replace(":", ""), 16) == OWN]
        return own


def feature_box(peer: StrictPeer) -> bytes:
    return peer.seal(features_of(peer.texts()))


def told(peer: StrictPeer) -> list[dict[int, dict[str, Any]]]:
    """The topology messages that a peer has heard: names and summaries, with "connections"."""
    found = []
    for plaintext in peer.messages:
        if plaintext[0] == 4:
            channel, _, payload = [value for _, value in StrictGob(plaintext[1:]).values()]
            if channel == "topology":
                values = [value for _, value in StrictGob(payload).values()]
                pairs = zip(values[::2], values[1::2], strict=True)
                found.append({int.from_bytes(s["NameByte"], "big"): s | {"connections": c} for s, c in pairs})
    return found


# ---- short IDs


def record(name: int, short_id: int, version: int, *links: int) -> bytes:
    """A record like `topology`'s, with another short ID."""
    made = topology(name, "x", 9, version, *((link, "192.0.2.9:1", True, True) for link in links))
    before, after = (
        b"\x01\xfe\x03\x30\x01\x01\x00",
        b"\x01\xfe" + short_id.to_bytes(2, "big") + b"\x01\x01\x00",
    )
    assert made.count(before) == 1
    assert short_id >= 256
    return made.replace(before, after)


def test_who_has_a_lower_name_keeps_our_short_id_and_everybody_hears_of_our_new_one_within_a_second() -> None:
    cluster = Cluster()
    peer = cluster.join(PEER)
    cluster.wait(2.0)
    before = cluster.own()
    assert before["ShortID"] >= 256
    heard = len(told(peer))
    cluster.tell(peer, record(PEER, 300, 3, OWN, THIRD), record(THIRD, before["ShortID"], 4, PEER))
    cluster.wait(1.1)
    assert cluster.own()["ShortID"] == before["ShortID"], "ours is the lower name: the other one gives way"
    assert cluster.own()["Version"] == before["Version"]
    cluster.tell(peer, record(PEER, 300, 5, OWN, THIRD, LOWER), record(LOWER, before["ShortID"], 4, PEER))
    after = cluster.own()
    assert after["ShortID"] not in (before["ShortID"], 300)
    assert after["Version"] == before["Version"] + 1
    cluster.wait(limits.TOPOLOGY_DEFER_S + 0.1)
    published = [message[OWN] for message in told(peer)[heard:] if OWN in message]
    assert [(p["ShortID"], p["Version"]) for p in published] == [(after["ShortID"], after["Version"])]
    another = cluster.join(0x020000000009)
    assert another.features is not None
    assert int(another.features["ShortID"]) == after["ShortID"]


def test_while_every_short_id_is_taken_we_keep_ours_and_try_again_when_peers_go() -> None:
    cluster = Cluster()
    peer = cluster.join(PEER)
    ours = cluster.own()["ShortID"]
    names = [LOWER + n for n in range(4095)]
    taken = [(PEER, 4095, tuple(names)), *((name, n, (PEER,)) for n, name in enumerate(names))]
    cluster.tell(peer, records(3, *taken))
    cluster.wait(2.0)
    assert cluster.own()["ShortID"] == ours
    cluster.tell(peer, records(4, (PEER, 4095, tuple(names[:-1]))))  # the last one is nobody's neighbour now
    assert cluster.own()["ShortID"] == ours
    cluster.wait(limits.GC_DEFER_S + 0.1)
    assert cluster.own()["ShortID"] == 4094


def records(version: int, *peers: tuple[int, int, tuple[int, ...]]) -> bytes:
    """A message with many peers: name, short ID, neighbours."""
    return encode_topology(
        PeerRecord(
            PeerName(name),
            "",
            9,
            version,
            short_id,
            True,
            tuple(ConnectionSummary(PeerName(link), "192.0.2.9:1", True, True) for link in links),
        )
        for name, short_id, links in peers
    )


# ---- peers that go


def test_a_peer_that_nobody_is_connected_with_is_forgotten_after_a_second_with_its_macs() -> None:
    cluster = Cluster()
    peer = cluster.join(PEER)
    cluster.tell(
        peer, topology(PEER, "x", 9, 3, (OWN, "192.0.2.1:1", True, True), (THIRD, "192.0.2.3:1", True, True))
    )
    cluster.tell(peer, topology(THIRD, "y", 9, 3, (PEER, "192.0.2.2:1", False, True)))
    cluster.wait(1.2)
    cluster.effects.clear()
    cluster.tell(peer, topology(PEER, "x", 9, 4, (OWN, "192.0.2.1:1", True, True)))
    names = {p["Name"] for p in cluster.report()["Peers"]}
    assert "02:00:00:00:00:03" in names
    cluster.wait(limits.GC_DEFER_S + 0.01)
    names = {p["Name"] for p in cluster.report()["Peers"]}
    assert "02:00:00:00:00:03" not in names
    assert [e.peer for e in cluster.effects if isinstance(e, ev.ForgetMacs)] == [THIRD]
    heard = len(told(peer))
    cluster.wait(0.9)
    assert all(THIRD not in message for message in told(peer)[heard:]), (
        "removals are never gossiped, nor what was removed"
    )


def test_who_is_lost_is_forgotten_before_others_hear_of_it() -> None:
    cluster = Cluster()
    peer, other = cluster.join(PEER), cluster.join(THIRD)
    cluster.wait(2.0)
    (conn,) = [conn for conn, one in cluster.peers.items() if one is other]
    del cluster.peers[conn]
    heard = len(told(peer))
    cluster.perform(cluster.router.handle(ev.Closed(conn, "reset"), cluster.now))
    assert [e.peer for e in cluster.effects if isinstance(e, ev.ForgetMacs)] == [THIRD]
    cluster.wait(1.1)
    (news,) = told(peer)[heard:]
    assert set(news) == {OWN}
    assert [int.from_bytes(c["NameByte"], "big") for c in news[OWN]["connections"]] == [PEER]


# ---- two connections to one peer, and restarts


@pytest.mark.parametrize(
    ("uids", "left"),
    [((1000, 500), [1]), ((500, 2000), [0]), ((500, 500), []), ((1000, 500, 2000, 500), [])],
    ids=["lower replaces", "higher is refused", "equal kills both", "as was seen of a real router"],
)
def test_of_connections_to_one_peer_the_lowest_uid_is_left(uids: tuple[int, ...], left: list[int]) -> None:
    cluster = Cluster()
    drawn: list[int] = []
    entropy = cluster.router._sessions._entropy
    draw = entropy.getrandbits

    def noted(bits: int) -> int:
        number = draw(bits)
        if bits == 64:
            drawn.append(number)
        return number

    entropy.getrandbits = noted  # type: ignore[method-assign]
    made = []
    for uid in uids:
        # The peer hears our number before it says its own, as anybody who cheats would.
        peer = StrictPeer(PEER, dials=True, password=PASSWORD, overlays="sleeve")
        conn = ConnId(2 * len(made) + 1)
        cluster.peers[conn] = peer
        there = Address("192.0.2.2", 40000 + conn)
        cluster.perform(cluster.router.handle(ev.Accepted(conn, there, HERE, 1500), cluster.now))
        peer.conn_id = drawn[-1] ^ uid
        cluster.perform(cluster.router.handle(ev.Received(conn, peer.opening()), cluster.now))
        cluster.perform(cluster.router.handle(ev.Received(conn, feature_box(peer)), cluster.now))
        made.append(peer)
    assert [peer for n, peer in enumerate(made) if n in left] == list(cluster.peers.values())
    connections = cluster.own()["Connections"]
    assert len(connections) == len(left)


def test_a_restarted_peer_gets_everything_at_once_although_it_was_never_missed() -> None:
    cluster = Cluster()
    peer = cluster.join(PEER)
    other = cluster.join(THIRD)
    for one in (peer, other):
        everybody = [
            (OWN, "192.0.2.1:1", True, True),
            (PEER if one is other else THIRD, "192.0.2.9:1", True, True),
        ]
        cluster.tell(one, topology(one.name, "x", 9, 3, *everybody))
    cluster.wait(2.0)
    again = cluster.join(PEER, uid=10, conn_id=78)
    assert peer in cluster.gone
    assert again in cluster.peers.values()
    cluster.wait(0.1)
    assert set(told(again)[0]) == {OWN, PEER, THIRD}


# ---- what is said, and when


def test_a_weave_peer_hears_from_us_in_time() -> None:
    cluster = Cluster()
    peer = cluster.join(PEER)
    for _ in range(30):
        cluster.wait(10.0)
        cluster.say(peer, b"\0")
        for index in {e.index for e in cluster.effects if isinstance(e, ev.LinkAdd)}:
            assert peer.features is not None
            uid = int(peer.features["ConnID"]) ^ peer.conn_id
            cluster.perform(
                cluster.router.handle(ev.SleeveHeard(index, uid, Address("192.0.2.2", 6783)), cluster.now)
            )
    assert peer in cluster.peers.values()
    assert peer.longest_silence <= limits.TCP_HEARTBEAT_S
    beats = [message for message in peer.messages if message == b"\0"]
    assert len(beats) == 10
    complete = [message for message in told(peer) if set(message) == {OWN, PEER}]
    assert len(complete) >= 10, "everything is gossiped every 30 s"
