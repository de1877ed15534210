"""The table of peers: own record, placeholders, bounds, garbage, short ids."""

import random
from dataclasses import replace

import pytest

from weavepy import limits
from weavepy.events import PeerName
from weavepy.mesh.topology import Topology
from weavepy.wire.topology import ConnectionSummary, PeerRecord

OWN = PeerName(5)


def peer(number: int, *remotes: int, version: int = 1, short_id: int | None = None) -> PeerRecord:
    connections = tuple(ConnectionSummary(PeerName(r), f"10.0.0.{r}:6783", True, True) for r in remotes)
    number_or_own = number if short_id is None else short_id
    return PeerRecord(PeerName(number), f"n{number}", number * 11, version, number_or_own, True, connections)


def topology(seed: int = 1) -> Topology:
    return Topology(peer(OWN, version=0), random.Random(seed))


def link(remote: int, address: str = "10.0.0.9:6783") -> ConnectionSummary:
    return ConnectionSummary(PeerName(remote), address, True, False)


def test_every_change_of_our_connections_raises_our_version() -> None:
    t = topology()
    t.connect(link(2))
    t.connect(link(3))
    t.connect(link(2, "10.0.0.2:1"))
    t.establish(PeerName(2))
    assert t.own.version == 4
    assert {c.remote: (c.address, c.established) for c in t.own.connections} == {
        2: ("10.0.0.2:1", True),
        3: ("10.0.0.9:6783", False),
    }
    t.disconnect(PeerName(2))
    assert [c.remote for c in t.own.connections] == [3]
    assert t.own.version == 5


def test_revision_rises_with_every_change_and_not_otherwise() -> None:
    t = topology()
    revision = t.revision
    t.merge([peer(2, 3)])
    assert t.revision > revision
    revision = t.revision
    t.merge([peer(2, 3), peer(2, 4, version=0)])
    assert PeerName(4) in t.records  # mentioned in a record that was too old itself, as Weave Net does
    revision = t.revision
    t.merge([peer(2, 3), peer(3)])
    t.collect_garbage({PeerName(2), PeerName(3), PeerName(4)})
    assert t.revision == revision + 1


def test_introduced_peer_gives_way_to_its_own_first_gossip() -> None:
    t = topology()
    assert t.introduce(PeerName(2), "early", 22, 7)
    assert t.introduce(PeerName(2), "again", 23, 8)
    assert t.records[PeerName(2)] == PeerRecord(PeerName(2), "early", 22, 0, 7, True, ())
    assert t.merge([peer(2)]) == {2}


def test_garbage_is_what_is_neither_reached_nor_held() -> None:
    t = topology()
    t.merge([peer(2), peer(3), peer(4)])
    t.hold(PeerName(3))
    t.hold(PeerName(3))
    assert t.collect_garbage({PeerName(2)}) == (4,)
    t.release(PeerName(3))
    assert t.collect_garbage({PeerName(2)}) == ()
    t.release(PeerName(3))
    assert t.collect_garbage(()) == (2, 3)
    assert set(t.records) == {OWN}
    with pytest.raises(KeyError):
        t.release(PeerName(3))


def test_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PEERS_MAX", 4)
    t = topology()
    assert t.merge([peer(2, 3, 6, 7), peer(8)]) == {2, 8}
    assert len(t.records) == 4
    assert t.merge([peer(9)]) == frozenset()
    assert not t.introduce(PeerName(9), "", 1, None)
    assert t.merge([peer(2, version=2)]) == {2}  # what is known is still kept up to date


def test_connections_of_all_peers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 10)
    t = topology()

    def boasting(name: int, count: int, version: int = 1) -> PeerRecord:
        links = tuple(ConnectionSummary(PeerName(2 + n % 3), "10.0.0.1:1", True, True) for n in range(count))
        return replace(peer(name, version=version), connections=links)

    assert t.merge([boasting(2, 4), boasting(3, 4)]) == {2, 3}
    assert t.merge([boasting(4, 3), boasting(3, 7, 2)]) == set()
    assert t.merge([boasting(4, 2), boasting(3, 1, 3)]) == {3, 4}  # less is always welcome
    t.connect(ConnectionSummary(PeerName(2), "10.0.0.2:1", True, False))  # what we do ourselves isn't refused
    assert t.merge([boasting(3, 4, 4)]) == set()
    t.collect_garbage({PeerName(3)})
    assert t.merge([boasting(3, 9, 5)]) == {3}


def test_name_zero_is_nobody() -> None:
    t = topology()
    assert t.merge([peer(0), peer(2, 0)]) == {2}
    assert set(t.records) == {2, OWN}


def test_lower_name_takes_our_short_id_and_we_choose_a_free_one() -> None:
    t = topology()
    t.merge([peer(7, short_id=OWN)])
    assert t.own.short_id == OWN
    assert t.short_id_owner(OWN) == OWN
    t.merge([peer(2, short_id=OWN)])
    assert t.own.short_id != OWN
    assert t.own.version == 1
    assert t.short_id_owner(OWN) == 2
    assert t.short_id_owner(t.own.short_id) == OWN
    t.collect_garbage({PeerName(7)})
    assert t.short_id_owner(OWN) == 7


def test_the_last_free_short_id_is_found() -> None:
    t = Topology(replace(peer(5000, version=0), short_id=0), random.Random(1))
    taken = [peer(n + 1, short_id=n) for n in range(4096) if n != 1234]
    t.merge(taken)
    assert t.own.short_id == 1234


def test_without_a_free_short_id_we_keep_ours_until_one_is_freed() -> None:
    t = Topology(replace(peer(5000, version=0), short_id=0), random.Random(1))
    t.merge(peer(n + 1, short_id=n) for n in range(4096))
    assert (t.own.short_id, t.own.version) == (0, 0)
    assert t.short_id_owner(0) == 1
    t.collect_garbage({PeerName(n + 1) for n in range(4096) if n != 77})
    assert (t.own.short_id, t.own.version) == (77, 1)
