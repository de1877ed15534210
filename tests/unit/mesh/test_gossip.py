"""Queues, relaying, surrogates, and the choice of neighbours."""

import random
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest

from weavepy import limits
from weavepy.errors import ClockSkewError, RemoteProtocolError
from weavepy.events import PeerName
from weavepy.mesh.gossip import SPACING_S, Gossiper, choose_neighbours
from weavepy.mesh.routes import Routes
from weavepy.mesh.surrogate import Surrogates, Unread
from weavepy.mesh.topology import Topology
from weavepy.mesh.topology_channel import TopologyChannel
from weavepy.wire.messages import Broadcast, Gossip, Unicast
from weavepy.wire.topology import ConnectionSummary, PeerRecord, decode_topology_untrusted, encode_topology

SECONDS = count(1000)  # each flush comes after a calm
OWN, TWO, THREE, FOUR = (PeerName(n) for n in range(1, 5))


class Sums:
    """A channel whose payloads are bytes: every octet heard of is remembered."""

    name = "sums"

    def __init__(self) -> None:
        self.state: set[int] = set()
        self.unicasts: list[tuple[PeerName, bytes]] = []
        self.encoded = 0

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> "SumNews | None":  # noqa: ARG002
        if payload == b"!":
            raise RemoteProtocolError("an exclamation mark")
        if payload == b"?":
            raise ClockSkewError
        news = frozenset(payload) - self.state
        self.state |= news
        return SumNews(news, self) if news else None

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> "SumNews":  # noqa: ARG002
        self.state |= set(payload)
        return SumNews(frozenset(payload), self)

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:  # noqa: ARG002
        self.unicasts.append((source, payload))

    def complete(self) -> "SumNews | None":
        return SumNews(frozenset(self.state), self) if self.state else None


class SumNews:
    def __init__(self, octets: frozenset[int], channel: Sums) -> None:
        self.octets = octets
        self.channel = channel

    def __hash__(self) -> int:
        return hash(self.octets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SumNews) and other.octets == self.octets

    def merge(self, later: "SumNews") -> "SumNews":
        return SumNews(self.octets | later.octets, self.channel)

    def encode(self) -> list[bytes]:
        self.channel.encoded += 1
        return [bytes(sorted(self.octets))]


def star(*leaves: PeerName, far: dict[PeerName, PeerName] | None = None) -> Routes:
    """We in the middle; `far` maps peers to the leaf that they hang on."""
    links = [(OWN, leaf) for leaf in leaves] + [(leaf, peer) for peer, leaf in (far or {}).items()]
    names = {name for pair in links for name in pair}
    records = {
        name: PeerRecord(
            name,
            "",
            1,
            1,
            0,
            False,
            tuple(
                ConnectionSummary(b if a == name else a, "", True, True) for a, b in links if name in (a, b)
            ),
        )
        for name in names
    }
    routes = Routes(OWN)
    routes.update(records)
    return routes


def gossiper(routes: Routes, *neighbours: PeerName) -> tuple[Gossiper, Sums]:
    g = Gossiper(OWN, lambda: routes, random.Random(1))
    channel = Sums()
    g.add_channel(channel)
    for neighbour in neighbours:
        g.add_neighbour(neighbour)
    return g, channel


def test_news_go_to_the_others_only_and_old_news_nowhere() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"ab"), 0.0)
    assert list(g.flush(next(SECONDS))) == [(THREE, Gossip("sums", OWN, b"ab"))]
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"bc"), 0.0)
    assert list(g.flush(next(SECONDS))) == [(TWO, Gossip("sums", OWN, b"c"))]
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"abc"), 0.0)
    assert list(g.flush(next(SECONDS))) == []


def test_what_is_queued_is_merged_and_encoded_once() -> None:
    g, channel = gossiper(star(TWO, THREE, FOUR), TWO, THREE, FOUR)
    for payload in (b"a", b"b", b"c"):
        g.handle_untrusted(TWO, Gossip("sums", TWO, payload), 0.0)
    assert sorted(g.flush(next(SECONDS))) == [(n, Gossip("sums", OWN, b"abc")) for n in (THREE, FOUR)]
    assert channel.encoded == 1


def test_news_wait_while_others_have_just_been_sent_but_unicasts_do_not() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"a"), 0.0)
    assert g.next_timer() == 0.0
    assert len(list(g.flush(7.0))) == 1
    assert g.next_timer() is None
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"b"), 7.0)
    g.unicast("sums", THREE, b"now")
    assert list(g.flush(7.01)) == [(THREE, Unicast("sums", OWN, THREE, b"now"))]
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"c"), 7.02)
    due = g.next_timer()
    assert due == 7.0 + SPACING_S
    assert list(g.flush(due)) == [(THREE, Gossip("sums", OWN, b"bc"))]


def test_broadcast_keeps_its_source_and_follows_the_tree() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(TWO, Broadcast("sums", TWO, b"a"), 0.0)
    g.handle_untrusted(TWO, Broadcast("sums", TWO, b"b"), 0.0)
    assert list(g.flush(next(SECONDS))) == [(THREE, Broadcast("sums", TWO, b"ab"))]
    g.broadcast("sums", SumNews(frozenset(b"x"), Sums()))
    assert sorted(g.flush(next(SECONDS))) == [(n, Broadcast("sums", OWN, b"x")) for n in (TWO, THREE)]


def test_who_can_not_be_understood_for_his_clock_is_told_nothing_until_he_is() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"?"), 0.0)
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"a"), 0.0)
    g.broadcast("sums", SumNews(frozenset(b"x"), Sums()))
    g.publish_complete()
    assert {neighbour for neighbour, _ in g.flush(next(SECONDS))} == {TWO}
    g.remove_neighbour(THREE)  # the next connection is to the same clock
    g.add_neighbour(THREE)
    g.send_complete(THREE)
    assert list(g.flush(next(SECONDS))) == []
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"a"), 0.0)
    assert list(g.flush(next(SECONDS))) == [(THREE, Gossip("sums", OWN, b"a"))]


def test_what_waits_for_somebody_is_dropped_when_his_clock_is_seen_to_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.broadcast("sums", SumNews(frozenset(b"x"), Sums()))
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"?"), 0.0)
    assert list(g.flush(next(SECONDS))) == [(TWO, Broadcast("sums", OWN, b"x"))]
    # The same of what has begun to go out, in turns.
    monkeypatch.setattr(limits, "GOSSIP_TURN_BYTES", 1)
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"a"), 0.0)
    assert len(list(g.flush(next(SECONDS)))) == 1
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"?"), 0.0)
    assert all(neighbour == TWO for _ in range(5) for neighbour, _ in g.flush(next(SECONDS)))


def test_when_our_clock_is_set_all_are_told_everything_who_were_told_nothing() -> None:
    g, channel = gossiper(star(TWO, THREE), TWO, THREE)
    channel.state = set(b"a")
    g.handle_untrusted(THREE, Gossip("sums", THREE, b"?"), 0.0)
    g.speak_again("others")
    assert list(g.flush(next(SECONDS))) == []
    g.speak_again("sums")
    assert list(g.flush(next(SECONDS))) == [(THREE, Gossip("sums", OWN, b"a"))]
    g.speak_again("sums")
    assert list(g.flush(next(SECONDS))) == []


def test_whoever_comes_under_many_names_does_not_make_us_remember_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PEERS_MAX", 5)
    g, _ = gossiper(star(TWO))
    for number in range(100):
        g.handle_untrusted(PeerName(number), Gossip("sums", PeerName(number), b"?"), 0.0)
        assert len(g._hushed) <= 5


def test_gossip_goes_before_broadcasts() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(TWO, Broadcast("sums", TWO, b"a"), 0.0)
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"b"), 0.0)
    assert [type(message) for _, message in g.flush(next(SECONDS))] == [Gossip, Broadcast]


def test_unicast_is_delivered_relayed_unchanged_or_dropped() -> None:
    g, channel = gossiper(star(TWO, THREE, far={FOUR: THREE}), TWO, THREE)
    g.handle_untrusted(TWO, Unicast("sums", TWO, OWN, b"for us"), 0.0)
    assert channel.unicasts == [(TWO, b"for us")]
    passing = Unicast("sums", TWO, FOUR, b"for four")
    g.handle_untrusted(TWO, passing, 0.0)
    assert list(g.flush(next(SECONDS))) == [(THREE, passing)]
    g.handle_untrusted(THREE, passing, 0.0)  # it came from where it would go
    g.handle_untrusted(TWO, Unicast("sums", TWO, PeerName(99), b""), 0.0)
    assert list(g.flush(next(SECONDS))) == []
    assert g.unicast("sums", FOUR, b"hello")
    assert not g.unicast("sums", PeerName(99), b"hello")
    assert list(g.flush(next(SECONDS))) == [(THREE, Unicast("sums", OWN, FOUR, b"hello"))]


def test_unicasts_of_topology_are_not_passed_on() -> None:
    """Their reader would end the connection with whoever brought them, which is us."""
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(TWO, Unicast("topology", TWO, THREE, b"x"), 0.0)
    assert list(g.flush(next(SECONDS))) == []


def test_neighbour_that_left_gets_nothing() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.handle_untrusted(TWO, Gossip("sums", TWO, b"a"), 0.0)
    g.unicast("sums", THREE, b"hello")
    g.remove_neighbour(THREE)
    assert list(g.flush(next(SECONDS))) == []
    g.send_complete(THREE)
    assert list(g.flush(next(SECONDS))) == []


def test_complete_state_goes_to_one_or_to_a_few() -> None:
    g, channel = gossiper(star(TWO, THREE), TWO, THREE)
    g.send_complete(TWO)
    assert list(g.flush(next(SECONDS))) == []  # an empty channel has nothing to say
    channel.state = set(b"ab")
    g.send_complete(TWO)
    assert list(g.flush(next(SECONDS))) == [(TWO, Gossip("sums", OWN, b"ab"))]
    g.publish_complete()
    assert sorted(g.flush(next(SECONDS))) == [(n, Gossip("sums", OWN, b"ab")) for n in (TWO, THREE)]


def test_handler_error_reaches_the_caller() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    with pytest.raises(RemoteProtocolError):
        g.handle_untrusted(TWO, Gossip("sums", TWO, b"!"), 0.0)


def test_unknown_channel_is_relayed_once_per_interval() -> None:
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    hello = Gossip("other", TWO, b"hello")
    for at, relayed in ((0.0, 1), (1.0, 0), (limits.GOSSIP_INTERVAL_S + 0.1, 1)):
        g.handle_untrusted(TWO, hello, at)
        assert list(g.flush(next(SECONDS))) == [(THREE, Gossip("other", OWN, b"hello"))] * relayed
    g.handle_untrusted(TWO, Unicast("other", TWO, OWN, b"for us"), 0.0)
    g.handle_untrusted(TWO, Broadcast("other", TWO, b"x"), 0.0)
    g.handle_untrusted(TWO, Broadcast("other", TWO, b"x"), 0.0)
    assert list(g.flush(next(SECONDS))) == [(THREE, Broadcast("other", TWO, b"x"))] * 2
    g.publish_complete()
    assert list(g.flush(next(SECONDS))) == []


def test_surrogates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is relayed must be remembered, or it would come back for ever: a full memory relays nothing new."""
    monkeypatch.setattr(limits, "SURROGATE_SEEN_MAX", 100)
    surrogates = Surrogates()
    relayed = [
        surrogates.channel(f"channel {n % 7}").merge_gossip_untrusted(b"%d" % n, 0.0) is not None
        for _ in range(2)
        for n in range(150)
    ]
    assert relayed == [True] * 100 + [False] * 200
    later = limits.GOSSIP_INTERVAL_S + 0.1
    assert surrogates.channel("channel 3").merge_gossip_untrusted(b"149", later) is not None
    assert len(surrogates._seen) == 1


def test_equal_payloads_of_two_unknown_channels_are_two_gossips() -> None:
    surrogates = Surrogates()
    assert surrogates.channel("one").merge_gossip_untrusted(b"x", 0.0) is not None
    assert surrogates.channel("two").merge_gossip_untrusted(b"x", 0.0) is not None


def test_broadcasts_of_invented_sources_leave_nothing_behind() -> None:
    routes = star(TWO, THREE)
    g, _ = gossiper(routes, TWO, THREE)
    for n in range(1000, 1100):
        g.handle_untrusted(TWO, Broadcast("other", PeerName(n), b"x"), 0.0)
    assert list(g.flush(next(SECONDS))) == []
    assert not routes._broadcast_all


def test_unread_payloads_keep_their_order() -> None:
    first = Surrogates().channel("x").merge_gossip_untrusted(b"a", 0.0)
    assert first is not None
    assert first.merge(Unread((b"b",))).encode() == [b"a", b"b"]


def test_small_clusters_choose_every_neighbour_but_one() -> None:
    hops = {OWN: PeerName(0), TWO: TWO, THREE: THREE, FOUR: FOUR}
    assert sorted(choose_neighbours(hops, PeerName(0), random.Random(1))) == [TWO, THREE, FOUR]
    assert sorted(choose_neighbours(hops, TWO, random.Random(1))) == [THREE, FOUR]
    assert choose_neighbours({OWN: PeerName(0)}, PeerName(0), random.Random(1)) == []
    assert choose_neighbours({}, PeerName(0), random.Random(1)) == []


def test_large_clusters_choose_by_weight() -> None:
    hops = {PeerName(n): PeerName(n) for n in range(2, 65)} | {OWN: PeerName(0)}
    hops |= {PeerName(n): TWO for n in range(100, 164)}  # half of the mesh is behind one neighbour
    draw = random.Random(1)
    picks: Counter[PeerName] = Counter()
    for _ in range(300):
        chosen = choose_neighbours(hops, PeerName(0), draw)
        assert len(chosen) == len(set(chosen)) == 14  # 2 log2(128)
        picks.update(chosen)
    assert picks[TWO] == 300
    assert all(20 < picks[PeerName(n)] < 110 for n in range(3, 65))


def test_topology_channel_relays_news_by_name_and_refuses_unicast() -> None:
    def peer(number: int, version: int) -> PeerRecord:
        return PeerRecord(PeerName(number), "", number, version, 0, False, ())

    topology = Topology(peer(1, 0), random.Random(1))
    channel = TopologyChannel(topology)
    news = channel.merge_gossip_untrusted(encode_topology([peer(2, 1), peer(3, 1)]), 0.0)
    assert news is not None
    topology.merge([peer(2, 5)])
    assert decode_topology_untrusted(next(iter(news.encode()))) == [
        peer(2, 5),
        peer(3, 1),
    ]  # the latest, not the news
    old = encode_topology([peer(2, 1)])
    assert channel.merge_gossip_untrusted(old, 0.0) is None
    assert channel.merge_gossip_untrusted(old, 0.0) is None
    both = channel.merge_broadcast_untrusted(TWO, encode_topology([peer(2, 1), peer(4, 1)]), 0.0)
    assert both is not None
    assert both.names == {TWO, FOUR}  # a broadcast goes on with everything that it named
    assert channel.complete().names == {OWN, TWO, THREE, FOUR}
    topology.collect_garbage(())
    assert list(both.encode()) == []
    again = channel.merge_gossip_untrusted(old, 0.0)
    assert again is not None
    with pytest.raises(RemoteProtocolError):
        channel.handle_unicast_untrusted(TWO, b"", 0.0)


def test_nobody_is_told_of_a_peer_that_cannot_be_reached_until_it_can() -> None:
    def peer(number: int, *remotes: int) -> PeerRecord:
        connections = [ConnectionSummary(PeerName(remote), "10.0.0.1:6783", True, True) for remote in remotes]
        return PeerRecord(PeerName(number), "", number, 1, 0, False, tuple(connections))

    topology = Topology(peer(1, 2), random.Random(1))
    routes = Routes(OWN)

    def reachable(name: PeerName) -> bool:
        routes.update(topology.records)
        return name in routes.unicast_all

    channel = TopologyChannel(topology, reachable=reachable)
    news = channel.merge_gossip_untrusted(encode_topology([peer(2, 1), peer(4)]), 0.0)
    assert news is not None
    assert news.names == {TWO}
    assert channel.complete().names == {OWN, TWO}
    assert channel.merge_gossip_untrusted(encode_topology([peer(4)]), 0.0) is None
    broadcast = channel.merge_broadcast_untrusted(TWO, encode_topology([peer(2, 1), peer(4)]), 0.0)
    assert broadcast is not None
    assert broadcast.names == {TWO}
    news = channel.merge_gossip_untrusted(encode_topology([peer(3, 2, 4)]), 0.0)
    assert news is None, "the way to both is claimed by them alone, and nobody whom we reach leads there"
    news = channel.merge_gossip_untrusted(encode_topology([replace(peer(2, 1, 3), version=2)]), 0.0)
    assert news is not None
    assert news.names == {TWO, THREE, FOUR}
    assert channel.complete().names == {OWN, TWO, THREE, FOUR}


def test_large_news_go_in_turns_and_small_ones_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_TURN_BYTES", 10)
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    now = next(SECONDS)
    g.publish("other", Unread((b"123456", b"1234", b"1", b"12345678901")))
    sent: list[tuple[PeerName, bytes]] = []
    turns = 0
    while (due := g.next_timer()) is not None:
        now = max(now, due)
        messages = list(g.flush(now))
        assert list(g.flush(now)) == []  # not twice in one turn
        sizes = [len(message.payload) for _, message in messages if isinstance(message, Gossip)]
        assert sum(sizes) <= 10 or len(sizes) == 1
        sent += [
            (neighbour, message.payload) for neighbour, message in messages if isinstance(message, Gossip)
        ]
        turns += 1
    payloads = [b"123456", b"1234", b"1", b"12345678901"]
    first, second = sent[0][0], sent[4][0]
    assert sent == [(first, p) for p in payloads] + [(second, p) for p in payloads]
    assert {first, second} == {TWO, THREE}
    assert turns == 6  # 10 octets; 1; 11; and the same for the other


def test_what_is_on_its_way_to_a_neighbour_that_left_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_TURN_BYTES", 1)
    g, _ = gossiper(star(TWO, THREE), TWO, THREE)
    g.publish("other", Unread((b"ab", b"cd")))
    now = next(SECONDS)
    ((first, _),) = g.flush(now)
    g.remove_neighbour(first)
    rest = []
    while (due := g.next_timer()) is not None:
        rest += [neighbour for neighbour, _ in g.flush(max(now, due))]
    assert rest == [({TWO, THREE} - {first}).pop()] * 2


def test_complete_state_of_a_large_mesh_comes_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_PAYLOAD_BYTES", 400)
    near = tuple(ConnectionSummary(PeerName(n), "10.0.0.1:6783", True, True) for n in (9, 8))
    records = [PeerRecord(PeerName(n), "", n, 1, 0, False, near) for n in range(2, 20)]
    topology = Topology(PeerRecord(PeerName(30), "", 30, 1, 0, False, near), random.Random(1))
    channel = TopologyChannel(topology)
    channel.merge_gossip_untrusted(encode_topology(records), 0.0)
    payloads = list(channel.complete().encode())
    names = [record.name for payload in payloads for record in decode_topology_untrusted(payload)]
    assert len(payloads) > 3
    assert all(len(payload) < 400 + 250 for payload in payloads)
    assert names[:3] == [30, 8, 9]  # ourselves, our neighbours, the others
    assert names[3:] == sorted(set(names) - {8, 9, 30})
    assert set(names) == topology.records.keys()
