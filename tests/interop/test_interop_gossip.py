"""Meshes of weavepy and of the original library: who knows of whom, and what passes through weavepy.

The channel "echo" is known to the library's peers only, so weavepy relays it unread.
"""

import itertools

import pytest
from mesh_peer import OFFERS, OVERLAYS, Interop, MeshPeer, Peer, until

PASSWORD = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"
OVERLAID = pytest.mark.parametrize("overlay", OVERLAYS)
Edges = list[tuple[Peer, Peer]]


def settled(edges: Edges) -> None:
    """Waits until everybody knows just these connections, and that they work."""
    for peer in {id(peer): peer for edge in edges for peer in edge}.values():
        until(lambda peer=peer: peer.sees(edges), lambda peer=peer: (peer.name, peer.topology()))


def exchange(peers: list[MeshPeer]) -> None:
    """Has every peer say everything, and each say once more when all was heard: so nothing may come twice."""
    for sender in peers:
        for way in range(2):
            text = f"{sender.name} {way}"
            sender.do("broadcast", channel="echo", text=f"{text} broadcast")
            sender.do("gossip", channel="echo", text=f"{text} gossip")
            for receiver in peers:
                if receiver is not sender:
                    sender.do("unicast", channel="echo", to=receiver.name, text=f"{text} to {receiver.name}")
    for sender, receiver in itertools.permutations(peers, 2):
        for way in range(2):
            text = f"{sender.name} {way}"
            for wanted in (f"{text} broadcast", f"{text} gossip", f"{text} to {receiver.name}"):
                until(
                    lambda r=receiver, w=wanted: r.heard(w), lambda w=wanted, r=receiver: (w, r.events[-20:])
                )
    for sender, receiver in itertools.permutations(peers, 2):
        for way in range(2):
            text = f"{sender.name} {way}"
            assert receiver.heard(f"{text} broadcast") == [("broadcast", sender.name)]
            assert receiver.heard(f"{text} to {receiver.name}") == [("unicast", sender.name)]
            for other in peers:
                assert other is receiver or not other.heard(f"{text} to {receiver.name}")


@OVERLAID
def test_a_line_of_both_kinds(net: Interop, overlay: str) -> None:
    """Each kind is at an edge and in the middle: the library between two weavepys, weavepy between two others."""
    first = net.mesh_peer(overlays=OFFERS[overlay], password=PASSWORD)
    one = net.weavepy("--no-discovery", first.address, password=PASSWORD)
    middle = net.mesh_peer(one, overlays=OFFERS[overlay], password=PASSWORD)
    two = net.weavepy("--no-discovery", middle.address, password=PASSWORD)
    edges: Edges = [(first, one), (one, middle), (middle, two)]
    settled(edges)
    assert first.nicknames() == {p.name: p.nickname for p in (first, one, middle, two)} == two.nicknames()
    routes = {(r["Dest"], r["Via"]) for r in two.router()["UnicastRoutes"]}
    assert {(p.name, middle.name) for p in (first, one, middle)} <= routes
    routes = {(r["Dest"], r["Via"]) for r in first.router()["UnicastRoutes"]}
    assert {(p.name, one.name) for p in (one, middle, two)} <= routes

    last = net.mesh_peer(two, overlays=OFFERS[overlay], password=PASSWORD)
    edges.append((two, last))
    settled(edges)
    exchange([first, middle, last])

    # What nobody can deliver is dropped, and costs no connection.
    first.do("unicast", channel="echo", to=two.name, text="weavepy can't read this")
    first.do("unicast", channel="echo", to=last.name, text="after that")
    until(lambda: last.heard("after that"), lambda: last.events)
    last.end()
    settled(edges[:3])
    assert f"Removed unreachable peer {last.name}({last.nickname})" in first.log()
    assert len(first.seen("established")) == 1


def test_a_ring_delivers_everything_once(net: Interop) -> None:
    one = net.weavepy("--no-discovery", password=PASSWORD)
    two = net.weavepy("--no-discovery", password=PASSWORD)
    left = net.mesh_peer(one, two, password=PASSWORD, ciphers="aes-256-gcm")
    right = net.mesh_peer(one, two, password=PASSWORD, ciphers="chacha20-poly1305")
    edges: Edges = [(left, one), (left, two), (right, one), (right, two)]
    settled(edges)
    assert one.status("connections").count("cipher=chacha20-poly1305") == 1
    exchange([left, right])
    # The two roads hold each other's gossip back; the next neighbour hears of it all the same.
    late = net.mesh_peer(one, password=PASSWORD)
    settled([*edges, (late, one)])
    left.do("gossip", channel="echo", text="after the ring")
    until(lambda: late.heard("after the ring"), lambda: late.events)


def test_the_state_of_a_channel_passes_through(net: Interop) -> None:
    """A new neighbour is told everything, which weavepy passes on unread, and once within the interval."""
    ours = net.weavepy()
    one, two = net.mesh_peer(ours), net.mesh_peer()
    settled([(ours, one)])
    for text in ("first", "second"):
        two.do("gossip", channel="echo", text=text)
    two.connect(ours)
    settled([(ours, one), (ours, two)])
    for text in ("first", "second"):
        until(lambda text=text: one.heard(text), lambda: one.events)
    two.do("gossip", channel="echo", text="first")
    two.do("gossip", channel="echo", text="third")
    until(lambda: one.heard("third"), lambda: one.events)
    assert one.heard("first") == [("gossip", "")]


def test_discovery_makes_a_full_mesh(net: Interop) -> None:
    """Each kind dials addresses that the other has told it of."""
    ours = net.weavepy()
    one = net.mesh_peer(ours, discovery=True)
    two = net.mesh_peer(ours, discovery=True)
    other = net.weavepy(one.address)
    everybody = [ours, one, two, other]
    settled(list(itertools.combinations(everybody, 2)))
    exchange([one, two])


@pytest.mark.deep
@pytest.mark.timeout(300)
@OVERLAID
def test_nothing_ends_with_time(net: Interop, overlay: str) -> None:
    """Longer than both sides' patience on the control connection, the gossip interval and the keys' lives."""
    ours = net.weavepy(password=PASSWORD)
    one = net.mesh_peer(ours, overlays=OFFERS[overlay], password=PASSWORD)
    two = net.mesh_peer(ours, overlays=OFFERS[overlay], password=PASSWORD)
    edges: Edges = [(ours, one), (ours, two)]
    settled(edges)
    one.do("gossip", channel="echo", text="again and again")

    def lasted() -> bool:
        (first, second) = ours.router()["Connections"]
        ages = [c["Attrs"]["since_s"] for c in (first, second)]
        # What was passed on within the interval isn't again, so every other time at least comes through.
        return min(ages) > 135 and len(two.heard("again and again")) >= 3

    until(lasted, lambda: (ours.router(), two.events[-10:]), wait_s=200)
    settled(edges)
    for peer in (one, two):
        assert len(peer.seen("established")) == 1
    if overlay == "fastpath":
        assert all(c["Attrs"]["epoch"] >= 1 for c in ours.router()["Connections"])
