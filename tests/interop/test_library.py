"""The library's peer against itself: what the other tests conclude from it stands on this."""

import pytest
from mesh_peer import Interop, until

PASSWORD = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"
KEYED = pytest.mark.parametrize("password", [None, PASSWORD], ids=["clear", "password"])


@KEYED
@pytest.mark.parametrize("overlays", ["fastdp sleeve", "sleeve fastpath", None])
def test_sleeve_establishes_and_shows_what_the_path_carries(
    net: Interop, password: str | None, overlays: str | None
) -> None:
    one = net.mesh_peer(password=password, overlays=overlays)
    # Who offers nothing at all is spoken to in sleeve's own tags.
    two = net.mesh_peer(one, password=password, overlays="sleeve" if overlays is None else overlays)
    if overlays == "fastdp sleeve":  # both list it, so sleeve's messages have index 1
        assert two.wait("features", peer=one.name)["features"]["Overlays"] == overlays
    for peer, other in ((one, two), (two, one)):
        event = peer.wait("established", peer=other.name)
        assert (event["overlay"], event["outbound"]) == ("sleeve", peer is two)
        until(lambda peer=peer: peer.sees([(one, two)]), peer.router)
        (connection,) = until(
            lambda peer=peer: [c for c in peer.router()["Connections"] if c["Attrs"]["mtu"]], peer.router
        )
        assert connection["State"] == "established"
        assert connection["Attrs"]["mtu"] == (1438 if password is None else 1414)
        until(lambda peer=peer: peer.router()["Connections"][0]["Attrs"]["fragments"], peer.router)


@pytest.mark.parametrize("cipher", ["clear", "aes-256-gcm", "chacha20-poly1305"])
def test_fastpath_establishes(net: Interop, cipher: str) -> None:
    password = None if cipher == "clear" else PASSWORD
    one = net.mesh_peer(password=password, overlays="fastpath")
    two = net.mesh_peer(one, password=password, overlays="fastpath sleeve", ciphers=cipher)
    for peer, other in ((one, two), (two, one)):
        assert peer.wait("established", peer=other.name)["overlay"] == "fastpath"
        until(lambda peer=peer: peer.sees([(one, two)]), peer.router)
        (connection,) = peer.router()["Connections"]
        assert connection["Attrs"]["cipher"] == cipher


def test_what_differs_keeps_them_apart(net: Interop) -> None:
    one = net.mesh_peer(password=PASSWORD, overlays="sleeve")
    other_password = net.mesh_peer(one, password=PASSWORD + "5")
    other_overlay = net.mesh_peer(one, password=PASSWORD, overlays="fastpath")
    # Whoever finds out first resets the connection, which may be all that the other sees.
    until(lambda: "Unable to decrypt" in one.log() + other_password.log(), other_password.log)
    until(lambda: "no overlays in common" in other_overlay.log(), other_overlay.log)
    assert one.neighbours() == {}


def test_every_kind_of_gossip_arrives_once(net: Interop) -> None:
    one = net.mesh_peer()
    two = net.mesh_peer(one)
    three = net.mesh_peer(two)
    for peer in (one, two, three):
        until(lambda peer=peer: peer.sees([(one, two), (two, three)]), peer.router)
    one.do("unicast", channel="echo", to=three.name, text="to one of you")
    one.do("broadcast", channel="echo", text="to all of you")
    one.do("gossip", channel="echo", text="what I know")
    until(lambda: len(three.seen("heard")) == 3, lambda: three.events)
    assert three.heard("to one of you") == [("unicast", one.name)]
    assert three.heard("to all of you") == [("broadcast", one.name)]
    assert three.heard("what I know") == [("gossip", "")]
    assert two.heard("to one of you") == []
    assert "error" in one.attempt("unicast", channel="echo", to="02:00:00:00:00:77", text="nobody")
    assert "error" in one.attempt("broadcast", channel="unheard of", text="nothing")
