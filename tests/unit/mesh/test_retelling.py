"""Who is told everything again."""

from weavepy import limits
from weavepy.events import PeerName
from weavepy.mesh.retelling import Retelling


def test_who_was_never_lost_is_not_told() -> None:
    assert not Retelling().due(PeerName(1), 0.0)


def test_who_returns_is_told_once() -> None:
    retelling = Retelling()
    retelling.ended(PeerName(1))
    assert not retelling.due(PeerName(2), 1.0)
    assert retelling.due(PeerName(1), 1.0)
    assert not retelling.due(PeerName(1), 1.0)


def test_when_all_return_at_once_some_are_told() -> None:
    retelling = Retelling()
    peers = [PeerName(number) for number in range(100)]
    for peer in peers:
        retelling.ended(peer)
    assert sum(retelling.due(peer, 0.0) for peer in peers) == 16
    for peer in peers:
        retelling.ended(peer)
    assert sum(retelling.due(peer, 20.0) for peer in peers) == 10


def test_it_remembers_no_more_than_there_may_be_peers() -> None:
    retelling = Retelling()
    for number in range(limits.PEERS_MAX + 1):
        retelling.ended(PeerName(number))
    assert not retelling.due(PeerName(0), 0.0)
    assert retelling.due(PeerName(1), 0.0)
    assert retelling.due(PeerName(limits.PEERS_MAX), 0.0)
