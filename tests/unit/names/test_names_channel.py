"""The names' channel: what is saved, told, taken and forgotten, and when."""

import contextlib
from collections.abc import Callable

import pytest

from weavepy import limits
from weavepy.errors import ClockSkewError
from weavepy.events import Effect, Log, NameAdded, NameRemoved, PeerName, Persist
from weavepy.names.channel import NameNews, NamesChannel
from weavepy.names.config import NamesConfig
from weavepy.wire.names import NameEntry, NameGossip, decode_names_untrusted, encode_names

OWN, PEER, THIRD = (PeerName(0x020000000000 + n) for n in (1, 2, 3))
WALL = 1700000000
YEAR_S = 365 * 86400
ONE = NameEntry("c1", OWN, 0x0A200001, "one.weave.local.")
TWO = NameEntry("c2", PEER, 0x0A280001, "two.weave.local.")
ADD_ONE = NameAdded("c1", "one.weave.local", 0x0A200001)


class Bench:
    """A channel whose effects and gossip come to one list, in their order."""

    def __init__(self, stored: dict[str, str] | None = None) -> None:
        self.wall = float(WALL)
        self.spoken = 0
        self.peers = {OWN, PEER}
        self.done: list[Effect | tuple[str, NameNews]] = []
        self.channel = NamesChannel(
            NamesConfig(OWN, lambda: self.wall),
            peers=self.peers,
            gossip=self,
            emit=self.done.append,
            stored=stored,
        )

    def broadcast(self, channel: str, news: NameNews) -> None:
        assert channel == "nameserver"
        self.done.append(("broadcast", news))

    def publish(self, channel: str, news: NameNews) -> None:
        assert channel == "nameserver"
        self.done.append(("publish", news))

    def speak_again(self, channel: str) -> None:
        assert channel == "nameserver"
        self.spoken += 1

    def told(self, how: str) -> list[NameEntry]:
        """Returns what was broadcast or published, as it would be written now, and forgets all that was done."""
        said = [entries(one[1]) for one in self.done if isinstance(one, tuple) and one[0] == how]
        self.done.clear()
        return [entry for entries in said for entry in entries]

    def gossip(self, *entries: NameEntry, skew_s: int = 0, now: float = 0.0) -> list[NameEntry]:
        payload = encode_names(NameGossip(int(self.wall) + skew_s, entries))
        return entries_or_none(self.channel.merge_gossip_untrusted(payload, now))

    def hear(self, *entries: NameEntry, skew_s: int = 0, now: float = 0.0) -> list[NameEntry]:
        payload = encode_names(NameGossip(int(self.wall) + skew_s, entries))
        return entries_or_none(self.channel.merge_broadcast_untrusted(PEER, payload, now))

    def saved(self) -> dict[str, str]:
        kept: dict[str, str] = {}
        for effect in self.done:
            if isinstance(effect, Persist):
                kept.pop(effect.key, None)
                if effect.value is not None:
                    kept[effect.key] = effect.value
        return kept


def entries(news: NameNews) -> list[NameEntry]:
    return [entry for payload in news.encode() for entry in decode_names_untrusted(payload).entries]


def entries_or_none(news: NameNews | None) -> list[NameEntry]:
    return [] if news is None else entries(news)


# ---- our own


def test_a_name_is_saved_before_it_is_told() -> None:
    b = Bench()
    b.channel.handle(ADD_ONE, 0.0)
    persist, told = b.done
    assert isinstance(persist, Persist)
    assert isinstance(told, tuple)
    assert told[0] == "broadcast"
    assert b.told("broadcast") == [ONE]
    b.channel.handle(NameRemoved(container="c1"), 0.0)
    assert isinstance(b.done[0], Persist)
    assert b.told("broadcast") == [ONE._replace(version=1, tombstone=WALL)]


def test_adding_it_again_tells_it_again() -> None:
    b = Bench()
    b.channel.handle(ADD_ONE, 0.0)
    b.told("broadcast")
    b.channel.handle(ADD_ONE, 0.0)
    assert b.told("broadcast") == [ONE]


def test_removing_what_is_not_there_tells_nobody() -> None:
    b = Bench()
    b.channel.handle(NameRemoved(), 0.0)
    assert b.done == []


@pytest.mark.parametrize(
    ("hostname", "reason"),
    [("one.example.org.", "not inside the domain"), ("a b.weave.local.", "not a host name")],
)
def test_what_can_be_no_name_is_left_out_with_a_warning(hostname: str, reason: str) -> None:
    b = Bench()
    b.channel.handle(NameAdded("c1", hostname, 1), 0.0)
    (log,) = b.done
    assert isinstance(log, Log)
    assert reason in log.text
    assert not b.channel.records.entries


def test_more_names_than_a_host_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_PER_PEER_MAX", 1)
    b = Bench()
    b.channel.handle(ADD_ONE, 0.0)
    b.done.clear()
    b.channel.handle(NameAdded("c1", "two.weave.local", 1), 0.0)
    (log,) = b.done
    assert isinstance(log, Log)
    assert "1 names already" in log.text


# ---- a restart


def test_after_a_restart_all_is_there_at_once_and_nothing_kills_it() -> None:
    first = Bench()
    first.channel.handle(ADD_ONE, 0.0)
    first.channel.handle(NameAdded("c/9", "Nine.weave.local", 9), 0.0)
    first.channel.handle(NameRemoved(hostname="nine.weave.local."), 0.0)
    second = Bench(first.saved())
    assert second.channel.records.entries == first.channel.records.entries
    assert second.gossip(ONE) == []
    assert second.told("broadcast") == []
    # What comes back is newer than what others remember as removed.
    second.channel.handle(NameAdded("c/9", "Nine.weave.local", 9), 0.0)
    assert [entry.version for entry in second.told("broadcast")] == [2]


def test_names_that_were_removed_while_the_router_was_down_are_killed() -> None:
    b = Bench()
    assert b.gossip(ONE._replace(version=3)) == [ONE._replace(version=4, tombstone=WALL)]
    assert b.told("broadcast") == [ONE._replace(version=4, tombstone=WALL)]
    assert b.saved() == {}  # whoever says such things must not fill the disk


def test_what_others_are_wrong_about_is_put_right() -> None:
    b = Bench()
    b.channel.handle(ADD_ONE, 0.0)
    b.told("broadcast")
    assert b.hear(ONE._replace(version=3, tombstone=WALL)) == [ONE._replace(version=4)]
    assert b.told("broadcast") == [ONE._replace(version=4)]


def test_what_needs_not_be_remembered_is_not_kept() -> None:
    b = Bench()
    assert b.channel.next_timer() is None
    b.channel.handle_timer(5.0)
    assert b.channel.next_timer() == 5.0 + limits.NAME_SWEEP_S
    b.channel.handle(ADD_ONE, 5.0)
    b.channel.handle(NameRemoved(), 5.0)
    assert len(b.saved()) == 1
    b.channel.handle_timer(6.0)
    assert len(b.saved()) == 1
    b.wall += limits.NAME_TOMBSTONE_S + 1
    b.channel.handle_timer(70.0)
    assert b.saved() == {}
    assert not b.channel.records.entries


def test_what_was_evicted_is_not_kept_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_PER_PEER_MAX", 1)
    b = Bench()
    b.channel.handle(ADD_ONE, 0.0)
    b.channel.handle(NameRemoved(), 0.0)
    b.channel.handle(NameAdded("c2", "two.weave.local", 2), 0.0)
    b.channel.handle_timer(0.0)
    assert len(b.saved()) == 1


def test_a_tombstone_of_a_clock_that_was_ahead_is_dated_anew_and_saved() -> None:
    b = Bench()
    b.wall += 10 * YEAR_S
    b.channel.handle(ADD_ONE, 0.0)
    b.channel.handle(NameRemoved(), 0.0)
    before = b.saved()
    b.told("broadcast")
    b.wall = WALL
    b.channel.handle_timer(100.0)
    after = b.saved()
    assert after.keys() == before.keys()
    assert after != before
    assert b.told("broadcast") == [ONE._replace(version=2, tombstone=WALL)]


# ---- others


def test_gossip_goes_on_as_far_as_it_was_new_and_broadcasts_as_they_came() -> None:
    b = Bench()
    other = TWO._replace(container="c3")
    assert b.gossip(TWO) == [TWO]
    assert b.gossip(TWO) == []
    assert b.gossip(TWO, other) == [other]
    assert b.hear(TWO, other) == [TWO, other]
    stale = b.hear(TWO._replace(version=2, tombstone=WALL), other)
    assert stale == [TWO._replace(version=2, tombstone=WALL), other]
    assert b.hear(TWO) == [TWO._replace(version=2, tombstone=WALL)]  # what goes on is the latest
    assert b.hear() == []
    assert b.done == []


def test_news_are_written_when_they_are_sent() -> None:
    b = Bench()
    news = b.channel.merge_gossip_untrusted(encode_names(NameGossip(WALL, (TWO,))), 0.0)
    assert news is not None
    b.gossip(TWO._replace(version=7))
    assert entries(news) == [TWO._replace(version=7)]
    b.channel.peers_gone([PEER])
    assert list(news.encode()) == []


def test_a_second_spelling_of_a_name_is_told_to_nobody() -> None:
    b = Bench()
    upper = TWO._replace(hostname="TWO.weave.local.")
    assert b.gossip(TWO) == [TWO]
    assert b.gossip(upper) == []
    assert b.hear(TWO, upper) == [TWO]
    assert entries(b.channel.complete()) == [TWO]
    b.channel.handle(NameAdded("c1", "One.weave.local", 0x0A200001), 0.0)
    b.channel.handle(NameAdded("c1", "ONE.weave.local.", 0x0A200001), 0.0)
    assert b.told("broadcast") == [ONE, ONE]


def test_news_merge() -> None:
    b = Bench()
    one, two = (b.channel._news(frozenset({entry.identity})) for entry in (ONE, TWO))
    everything = b.channel.complete()
    assert one.merge(two) == two.merge(one)
    assert one.merge(one) == one
    assert one.merge(everything) == everything.merge(one) == everything
    assert hash(one.merge(everything)) == hash(everything)


def test_the_complete_state_is_sent_though_it_is_empty_and_with_the_time_of_sending() -> None:
    b = Bench()
    complete = b.channel.complete()
    b.wall += 5.7
    (payload,) = complete.encode()
    assert decode_names_untrusted(payload) == NameGossip(WALL + 5, ())


def test_large_news_go_in_pieces_of_entries_that_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_PAYLOAD_BYTES", 1000)
    b = Bench()
    many = [TWO._replace(address=n, hostname=f"n{n:03}.weave.local.") for n in range(100)]
    b.gossip(*many)
    payloads = list(b.channel.complete().encode())
    assert all(len(payload) <= 1000 + 200 for payload in payloads)
    assert [e for p in payloads for e in decode_names_untrusted(p).entries] == many
    monkeypatch.setattr("weavepy.names.channel.encode_entry", unexpected)
    assert list(b.channel.complete().encode()) == payloads


def unexpected(_: object) -> bytes:
    raise AssertionError("encoded again")


def test_the_cache_forgets_what_is_gone() -> None:
    b = Bench()
    for n in range(2000):
        b.gossip(TWO._replace(address=n))
        list(b.channel.complete().encode())
        b.channel.peers_gone([PEER])
    assert len(b.channel._cache._encoded) < 100


def test_unicasts_are_ignored() -> None:
    b = Bench()
    b.channel.handle_unicast_untrusted(PEER, b"anything", 0.0)
    assert b.done == []


# ---- clocks


@pytest.mark.parametrize("how", [Bench.gossip, Bench.hear])
@pytest.mark.parametrize("skew_s", [-900, 900])
def test_clocks_may_differ_by_a_quarter_of_an_hour(how: Callable[..., list[NameEntry]], skew_s: int) -> None:
    assert how(Bench(), TWO, skew_s=skew_s) == [TWO]


@pytest.mark.parametrize("skew_s", [-901, 901, -10 * YEAR_S, 10 * YEAR_S])
def test_clocks_that_differ_by_more(skew_s: int) -> None:
    b = Bench()
    with pytest.raises(ClockSkewError):
        b.gossip(TWO, skew_s=skew_s)
    assert b.hear(TWO, skew_s=skew_s) == []
    assert not b.channel.records.entries
    assert b.channel.skewed == 2
    for log in b.done:
        assert isinstance(log, Log)
        assert str(skew_s) in log.text


def test_clocks_that_differ_are_counted_always_and_logged_now_and_then() -> None:
    b = Bench()
    for n in range(1000):
        b.hear(TWO, skew_s=5000, now=float(n))
    assert b.channel.skewed == 1000
    assert 3 <= len(b.done) <= 5


def test_when_our_clock_is_set_we_try_those_again_who_did_not_understand_us() -> None:
    b = Bench()
    now = 0.0

    def run(seconds: float, clock_s: float) -> None:
        nonlocal now
        now += seconds
        b.wall += clock_s
        b.channel.handle_timer(now)

    for _ in range(100):
        run(60, 60.1)  # is a little fast
    assert b.spoken == 0
    for _ in range(600):
        run(60, 60.1)
    assert b.spoken == 1
    run(60, -4000)
    assert b.spoken == 2
    b.wall += 3 * YEAR_S
    b.gossip(now=now)  # it is seen when something is heard, too
    assert b.spoken == 3
    run(60, 60)
    assert b.spoken == 3


def test_a_recorded_message_does_not_bring_back_what_was_removed_and_forgotten() -> None:
    b = Bench()
    recorded = encode_names(NameGossip(WALL, (TWO,)))
    b.channel.merge_gossip_untrusted(recorded, 0.0)
    b.gossip(TWO._replace(version=1, tombstone=WALL))
    for minutes in range(1, 90):
        b.wall = WALL + 60 * minutes
        b.channel.handle_timer(60.0 * minutes)
        with pytest.raises(ClockSkewError) if minutes > 15 else contextlib.nullcontext():
            assert b.channel.merge_gossip_untrusted(recorded, 60.0 * minutes) is None
        assert b.channel.merge_broadcast_untrusted(PEER, recorded, 60.0 * minutes) is None or minutes <= 15
        assert not b.channel.records.known("two.weave.local.")
    assert not b.channel.records.entries


# ---- who is there


def test_a_name_that_is_faster_than_its_host_waits_for_it_a_moment() -> None:
    b = Bench()
    three = TWO._replace(origin=THIRD)
    assert b.hear(three, TWO, now=1.0) == [TWO]
    assert not b.channel.records.of_origin(THIRD)
    b.channel.peers_changed(2.0)
    assert b.done == []
    b.peers.add(THIRD)
    b.channel.peers_changed(3.0)
    assert b.told("publish") == [three]
    b.channel.peers_changed(3.0)
    assert b.done == []


def test_it_does_not_wait_for_ever_nor_takes_much_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_WAITING_MAX", 10)
    b = Bench()
    three = TWO._replace(origin=THIRD)
    b.gossip(three, now=1.0)
    b.gossip(three._replace(container="c9"), now=limits.NAME_WAIT_S)
    b.peers.add(THIRD)
    b.channel.peers_changed(1.0 + limits.NAME_WAIT_S)
    assert b.done == []
    b.peers.discard(THIRD)
    b.gossip(*(three._replace(address=n) for n in range(40)), now=500.0)
    b.peers.add(THIRD)
    b.channel.peers_changed(500.0)
    assert len(b.told("publish")) == 10


def test_names_of_peers_that_are_gone_are_gone_and_do_not_wait() -> None:
    b = Bench()
    three = TWO._replace(origin=THIRD)
    b.gossip(TWO, three)
    b.channel.peers_gone((PEER, THIRD))
    b.peers.add(THIRD)
    b.channel.peers_changed(1.0)
    assert not b.channel.records.entries
    assert b.done == []
