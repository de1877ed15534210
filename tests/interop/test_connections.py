"""weavepy and the original library, connected: handshake, overlay, and what each thinks of the other.

`OVERLAYS` of mesh_peer.py is what weavepy offers; the tests here do for each of them.
"""

import re

import pytest
from mesh_peer import OFFERS, OVERLAYS, Connection, Interop, MeshPeer, Peer, Weavepy, until

PASSWORD = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"
ANOTHER = "Zq8_another-uncommon-secret-771x"
DIALS = pytest.mark.parametrize("dials", [True, False], ids=["weavepy-dials", "weavepy-is-dialled"])
KEYED = pytest.mark.parametrize("password", [None, PASSWORD], ids=["clear", "password"])
OVERLAID = pytest.mark.parametrize("overlay", OVERLAYS)


def pair(net: Interop, overlay: str, password: str | None, *, dials: bool) -> tuple[Weavepy, MeshPeer]:
    """Returns one of each, one of which dials the other."""
    if dials:
        theirs = net.mesh_peer(overlays=OFFERS[overlay], password=password)
        return net.weavepy(theirs.address, password=password), theirs
    ours = net.weavepy(password=password)
    return ours, net.mesh_peer(ours, overlays=OFFERS[overlay], password=password)


def joined(ours: Weavepy, theirs: MeshPeer, overlay: str) -> None:
    """Waits until both say that they are connected, and only with each other."""
    theirs.wait("established", peer=ours.name, overlay=overlay)
    for peer in (ours, theirs):
        until(lambda peer=peer: peer.sees([(ours, theirs)]), lambda peer=peer: (peer.router(), theirs.log()))


@OVERLAID
@KEYED
@DIALS
def test_established(net: Interop, overlay: str, password: str | None, *, dials: bool) -> None:
    ours, theirs = pair(net, overlay, password, dials=dials)
    joined(ours, theirs, overlay)
    hello = theirs.wait("features", peer=ours.name)
    assert hello["encrypted"] is (password is not None)
    assert hello["features"]["PeerNameFlavour"] == "mac"
    assert hello["features"]["NickName"] == ours.nickname
    assert hello["features"]["Trusted"] == "false"
    assert tuple(hello["features"]["Overlays"].split()) == OVERLAYS, "extend OVERLAYS in mesh_peer.py"
    for peer, other, outbound in ((ours, theirs, dials), (theirs, ours, not dials)):
        known = {(p["Name"], p["NickName"], p["UID"], p["ShortID"]) for p in peer.router()["Peers"]}
        assert known == {(p["Name"], p["NickName"], p["UID"], p["ShortID"]) for p in other.router()["Peers"]}
        found = peer.neighbours()[other.name]
        assert found == Connection(found.address, outbound, established=True)
        assert found == other.topology()[peer.name][other.name]
        assert (found.address == other.address) is outbound
    arrow, sealed = "->" if dials else "<-", "unencrypted" if password is None else "encrypted"
    (line,) = ours.status("connections").splitlines()
    assert line.startswith(arrow)
    assert " established " in line
    assert line.split()[3:6] == [sealed, overlay, f"{theirs.name}({theirs.nickname})"]
    assert PASSWORD not in theirs.log() + ours.log()
    if overlay == "sleeve":  # weavepy answers the library's tests of the path
        wanted = {"mtu": 1438 if password is None else 1414, "fragments": True}
        until(lambda: wanted.items() <= theirs.router()["Connections"][0]["Attrs"].items(), theirs.router)


def test_a_peer_that_lists_no_overlays_gets_sleeve_by_its_own_tags(net: Interop) -> None:
    ours = net.weavepy(password=PASSWORD)
    joined(ours, net.mesh_peer(ours, overlays=None, password=PASSWORD), "sleeve")


@pytest.mark.parametrize(
    ("password", "theirs", "reason", "their_reason"),
    [
        (PASSWORD, ANOTHER, "wrong password", "Unable to decrypt"),
        (PASSWORD, None, "peer has no password and we have one", "peer requested an encrypted"),
        (None, PASSWORD, "peer has a password and we have none", "peer requested an unencrypted"),
    ],
    ids=["another", "none", "only-theirs"],
)
def test_without_the_same_password_both_say_so(
    net: Interop, password: str | None, theirs: str | None, reason: str, their_reason: str
) -> None:
    ours, other = net.weavepy(password=password), net.mesh_peer(password=theirs)
    ours.connect(other)
    # The library resets the connection, so its flag may never be read; the suspicion is right even so.
    guess = f"does it have {'a' if password is None else 'another'} password?"
    until(lambda: any(words in ours.problems() for words in (reason, guess)), ours.problems)
    (line,) = ours.status("connections").splitlines()
    assert line.startswith(f"-> {other.address}")
    assert reason in line or guess in line
    assert "password" in ours.host.weavepy("status", check=False).stdout.splitlines()[-1]
    until(lambda: "error during handshake" in other.log(), other.log)
    ours.host.weavepy("forget", other.address)

    other.connect(ours)
    # From another port than the one that was dialled before, of which the log speaks, too.
    inbound = re.compile(rf"no connection with {re.escape(other.host.address)}:(?!{other.port}:)\d+: (.*)")
    lines = until(lambda: inbound.findall(ours.log()), ours.log)
    first = theirs == ANOTHER  # then it is always weavepy that finds out
    assert any(reason in line or (not first and "connection reset" in line) for line in lines)
    until(lambda: f"->[{ours.address}] connection shutting down due to error" in other.log(), other.log)
    closed = ("connection reset", "EOF", "broken pipe")
    assert any(words in other.log() for words in (their_reason, *closed))
    for peer in (ours, other):
        assert peer.topology() == {peer.name: {}}
    assert not other.seen("features")


def test_no_overlay_in_common(net: Interop) -> None:
    ours = net.weavepy(password=PASSWORD)
    foreign = [o for o in ("sleeve", "fastdp sleeve", "awsvpc", "") if not set(o.split()) & set(OVERLAYS)]
    for offer in foreign:
        theirs = net.mesh_peer(password=PASSWORD, overlays=offer)
        ours.connect(theirs)
        until(lambda: "no overlay in common" in ours.problems(), ours.problems)
        (line,) = ours.status("connections").splitlines()
        assert line.startswith(f"-> {theirs.address}")
        listed = ", ".join(offer.split()) or "none"
        assert f"the peer {listed}" in line
        ours.host.weavepy("forget", theirs.address)

        theirs.connect(ours)
        name = f"{theirs.name} ({theirs.nickname}) at"
        until(lambda name=name: ours.log().count(f"no connection with {name}") == 2, ours.log)
        until(
            lambda theirs=theirs: f"->[{ours.address}|{ours.name}({ours.nickname})]: conn" in theirs.log(),
            theirs.log,
        )
        until(lambda: ours.topology() == {ours.name: {}}, ours.router)
        assert theirs.neighbours() == {}  # the library goes on knowing the name
        theirs.end()


def test_a_peer_with_our_name_is_refused(net: Interop) -> None:
    ours = net.weavepy()
    theirs = net.mesh_peer(name=ours.name)
    ours.connect(theirs)
    until(lambda: "name collision" in ours.status("connections"), ours.problems)
    ours.host.weavepy("forget", theirs.address)
    theirs.connect(ours)
    until(lambda: ours.log().count("name collision") == 2, ours.log)
    until(lambda: f"->[{ours.address}|" in theirs.log(), theirs.log)
    assert ours.topology() == {ours.name: {}}
    assert theirs.topology() == {theirs.name: {}}


@OVERLAID
@DIALS
def test_each_comes_back_from_a_restart(net: Interop, overlay: str, *, dials: bool) -> None:
    ours, theirs = pair(net, overlay, PASSWORD, dials=dials)
    joined(ours, theirs, overlay)
    # weavepy ends once in each way; the library has but one, so its peer says goodbye to nobody.
    for peer, other, crash in ((theirs, ours, True), (ours, theirs, dials)):
        before = uid_of(peer, peer)
        assert uid_of(other, peer) == before
        peer.restart(crash=crash)
        until(lambda peer=peer, other=other: uid_of(other, peer) == uid_of(peer, peer), other.router)
        assert uid_of(peer, peer) != before
        joined(ours, theirs, overlay)


def uid_of(whose: Peer, peer: Peer) -> int:
    """Returns which run of `peer` it is that `whose` knows of; 0: none."""
    return next((p["UID"] for p in whose.router()["Peers"] if p["Name"] == peer.name), 0)


@OVERLAID
def test_of_two_connections_the_one_with_the_lower_uid_is_left(net: Interop, overlay: str) -> None:
    """The library dials an address that was given with a port, whoever may be connected from there already."""
    ours, theirs = pair(net, overlay, PASSWORD, dials=True)
    joined(ours, theirs, overlay)
    for _ in range(5):
        tried = len(theirs.seen("features"))
        theirs.connect(ours)
        until(
            lambda tried=tried: (
                len(theirs.seen("features")) > tried or theirs.neighbours()[ours.name].outbound
            ),
            theirs.log,
        )
        one_is_left(ours, theirs, overlay)
    assert len(theirs.seen("features")) > 1


@OVERLAID
def test_both_dial_at_once(net: Interop, overlay: str) -> None:
    theirs = net.mesh_peer(overlays=OFFERS[overlay], password=PASSWORD)
    ours = net.weavepy(password=PASSWORD)
    theirs.connect(ours)
    ours.connect(theirs)
    theirs.connect(ours)
    one_is_left(ours, theirs, overlay)


def one_is_left(ours: Weavepy, theirs: MeshPeer, overlay: str) -> None:
    """Waits until both use one connection, that with the lowest UID of all that there were."""
    joined(ours, theirs, overlay)

    def left() -> bool:
        states = ("established", "pending")
        one, other = (
            [c for c in peer.router()["Connections"] if c["State"] in states] for peer in (ours, theirs)
        )
        lowest = min(e["uid"] for e in theirs.seen("features"))
        return (
            len(one) == len(other) == 1
            and one[0]["State"] == other[0]["State"] == "established"
            and one[0]["Outbound"] is not other[0]["Outbound"]
            and other[0]["Attrs"]["uid"] == lowest
        )

    until(left, lambda: (ours.status("connections"), theirs.router()["Connections"], theirs.log()))


@pytest.mark.timeout(240)
@OVERLAID
def test_a_restart_that_nobody_saw(net: Interop, overlay: str) -> None:
    """A host that dies may not get to say so. What it was before still counts when it is back."""
    ours, theirs = pair(net, overlay, PASSWORD, dials=True)
    joined(ours, theirs, overlay)
    theirs.settings["MESHPEER_PEERS"] = ours.address
    for peer, other in ((theirs, ours), (ours, theirs)):
        before = uid_of(other, peer)
        for flag in ("FIN", "RST"):
            peer.host.run(["iptables", "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", flag, flag, "-j", "DROP"])
        peer.restart(crash=True)
        # Of the library's two connections the lower UID counts, so the new one may need some attempts, or, if the old
        # one's is very low, until that has been silent for a minute.
        until(
            lambda peer=peer, other=other: uid_of(other, peer) == uid_of(peer, peer),
            lambda: (ours.log(), theirs.log()),
            wait_s=90,
        )
        peer.host.run(["iptables", "-F", "OUTPUT"])
        assert uid_of(peer, peer) != before
        joined(ours, theirs, overlay)
    assert f"{theirs.name} was restarted" in ours.log()
