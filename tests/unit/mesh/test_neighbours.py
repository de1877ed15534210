"""Which of two connections survives, and who isn't let in."""

from dataclasses import replace

import pytest

from weavepy.events import PeerName
from weavepy.mesh.neighbours import Neighbour, Verdict, judge
from weavepy.wire.features import Features

OWN, OWN_UID, PEER = PeerName(1), 100, PeerName(2)
FEATURES = Features(PEER, "two", 200, 0, None, False, ("fastpath",), None)
EXISTING = {PEER: Neighbour(connection_uid=1000, peer_uid=200)}


@pytest.mark.parametrize(
    ("connection_uid", "verdict"),
    [(500, Verdict.REPLACE), (2000, Verdict.DUPLICATE), (1000, Verdict.DUPLICATE_BOTH)],
)
def test_lower_connection_uid_survives(connection_uid: int, verdict: Verdict) -> None:
    assert judge(OWN, OWN_UID, FEATURES, connection_uid, EXISTING, 200)[0] is verdict


@pytest.mark.parametrize("connection_uid", [500, 1000, 2000])
def test_restarted_peer_replaces_its_old_connection(connection_uid: int) -> None:
    restarted = replace(FEATURES, uid=201)
    verdict, reason = judge(OWN, OWN_UID, restarted, connection_uid, EXISTING, 1)
    assert verdict is Verdict.REPLACE
    assert "restarted" in reason


def test_own_name_is_never_dialled_again() -> None:
    assert judge(OWN, OWN_UID, replace(FEATURES, name=OWN, uid=OWN_UID), 1, {}, 0) == (
        Verdict.NEVER,
        "the address is this router's own",
    )
    verdict, reason = judge(OWN, OWN_UID, replace(FEATURES, name=OWN), 1, {}, 0)
    assert verdict is Verdict.NEVER
    assert "name collision" in reason


@pytest.mark.parametrize(("limit", "verdict"), [(0, Verdict.ADD), (2, Verdict.ADD), (1, Verdict.REFUSE)])
def test_connection_limit(limit: int, verdict: Verdict) -> None:
    stranger = replace(FEATURES, name=PeerName(3))
    assert judge(OWN, OWN_UID, stranger, 1, EXISTING, limit)[0] is verdict
