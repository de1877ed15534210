"""Frames of the original library's peers that have to pass through weavepy, and keys that such a peer renews itself."""

import pytest
from mesh_peer import OFFERS, Interop, MeshPeer, Weavepy, until

PASSWORD = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"
KEYED = pytest.mark.parametrize("password", [None, PASSWORD], ids=["clear", "password"])


def line(net: Interop, overlays: tuple[str, str], password: str | None) -> tuple[MeshPeer, Weavepy, MeshPeer]:
    """Two of the library's peers with weavepy between them, all links up."""
    ours = net.weavepy(password=password)
    one, two = (net.mesh_peer(ours, overlays=OFFERS[overlay], password=password) for overlay in overlays)
    edges = [(one, ours), (ours, two)]
    for peer in (one, ours, two):
        until(lambda peer=peer: peer.sees(edges), lambda peer=peer: peer.router())
    return one, ours, two


def say(ours: Weavepy, one: MeshPeer, two: MeshPeer, text: str) -> None:
    """Sends to one alone and to all, until each has come; weavepy's own tables may be a moment behind."""
    for what, to in (("alone", two), ("all", ours)):
        wanted = {"from": one.name, "to": two.name, "via": ours.name, "text": f"{text} {what}"}

        def came(wanted: dict[str, str] = wanted, to: MeshPeer | Weavepy = to) -> bool:
            one.do("frame", peers=[ours.name], to=to.name, text=wanted["text"])
            return bool(two.seen("frame", **wanted))

        until(came, lambda: (two.events[-10:], ours.router()))


@KEYED
@pytest.mark.parametrize(
    "overlays",
    [("sleeve", "sleeve"), ("sleeve", "fastpath"), ("fastpath", "fastpath")],
    ids=["sleeve", "mixed", "fastpath"],
)
def test_frames_pass_through(net: Interop, overlays: tuple[str, str], password: str | None) -> None:
    one, ours, two = line(net, overlays, password)
    say(ours, one, two, "there")
    say(ours, two, one, "and back")
    # Now that all is in place, each comes once, and only where it should.
    for number in range(20):
        one.do("frame", peers=[ours.name], to=two.name, text=f"alone {number}")
        one.do("frame", peers=[ours.name], to=ours.name, text=f"all {number}")
    one.do("frame", peers=[ours.name], to="02:00:00:00:00:77", text="to nobody")
    one.do("frame", peers=[ours.name], to=one.name, text="to itself")
    until(lambda: two.seen("frame", text="all 19"), lambda: two.events[-10:])
    say(ours, one, two, "after that")
    came = [e for e in two.seen("frame") if e["text"].split()[1].isdigit()]
    assert [e["text"] for e in came if "alone" in e["text"]] == [f"alone {n}" for n in range(20)]
    assert [e["text"] for e in came if "all " in e["text"]] == [f"all {n}" for n in range(20)]
    assert {(e["from"], e["to"], e["overlay"]) for e in came} == {(one.name, two.name, overlays[1])}
    texts = {e["text"] for e in [*one.seen("frame"), *two.seen("frame")]}
    assert not {"to nobody", "to itself"} & texts


def test_the_library_renews_its_keys(net: Interop) -> None:
    one, ours, two = line(net, ("fastpath", "sleeve"), PASSWORD)
    for epoch in (1, 2, 3):
        one.do("rekey", peers=[ours.name])
        until(lambda epoch=epoch: one.router()["Connections"][0]["Attrs"]["epoch"] == epoch, one.router)
        say(ours, one, two, f"epoch {epoch}")
        say(ours, two, one, f"back {epoch}")
    assert len(one.seen("established")) == 1
    assert "error" in two.attempt("rekey", peers=[ours.name])
