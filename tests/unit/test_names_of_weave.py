"""A Weave Net router and ours tell each other names: the octets that it wrote once, and nothing that would harm it."""

import json
from pathlib import Path

import pytest
from weave_peer import OWN, PASSWORD, PEER, Weave, gossip, read_gossip, router, topology

from weavepy import events as ev
from weavepy.events import PeerName
from weavepy.names.channel import NamesChannel
from weavepy.names.config import NamesConfig
from weavepy.wire.names import NameEntry, decode_names_untrusted, encode_entry, encode_names, join_entries
from weavepy.wire.names import NameGossip as Names

FILE = Path(__file__).parents[1] / "vectors" / "nameserver.json"
MESSAGES = {m["name"]: bytes.fromhex(m["payload"]) for m in json.loads(FILE.read_text())["messages"]}
WALL = 1700000000
TWO = NameEntry("c2", PeerName(PEER), 7, "two.weave.local.")


class Named(Weave):
    """Connected to a router of ours that has names, whose wall clock the test sets."""

    def __init__(self) -> None:
        self.wall = float(WALL)
        names = NamesConfig(PeerName(OWN), lambda: self.wall)
        super().__init__(router(PASSWORD, names=names), dials=True, password=PASSWORD, overlays="fastpath")
        self.tell(gossip("topology", PEER, topology(PEER, "weave", (1 << 64) - 1, 1, (OWN, "", True, True))))

    @property
    def names(self) -> NamesChannel:
        assert self.router.names is not None
        return self.router.names

    def say_names(self, payload: bytes) -> None:
        self.tell(gossip("nameserver", PEER, payload))

    def heard_names(self) -> list[Names]:
        """Returns what it was gossiped, and as it came by broadcast."""
        self.wait(2.0)
        payloads = []
        for plaintext in self.heard():
            if plaintext[0] == 4 and (said := read_gossip(plaintext))[0] == "nameserver":
                payloads.append(said[2])
            elif plaintext[0] == 6 and b"nameserver" in plaintext:
                payloads.append(plaintext[plaintext.index(b"GossipData") - 7 :])
        return [decode_names_untrusted(payload) for payload in payloads]


def test_both_say_everything_at_first_though_it_be_nothing() -> None:
    weave = Named()
    assert weave.heard_names() == [Names(WALL, ())]
    weave.say_names(MESSAGES["empty database"])
    weave.say_names(MESSAGES["external address, 64-hex container id"])
    assert not weave.closed
    (entry,) = weave.names.records.addresses("db.weave.local.")
    assert entry.address == 0xC0A8010A
    assert weave.heard_names() == []  # there is nobody else to tell


def test_a_name_of_ours_is_broadcast_and_corrected() -> None:
    weave = Named()
    weave.heard_names()
    weave.perform(weave.router.handle(ev.NameAdded("c1", "one.weave.local.", 5), weave.now))
    one = NameEntry("c1", PeerName(OWN), 5, "one.weave.local.")
    assert weave.heard_names() == [Names(WALL, (one,))]
    weave.say_names(encode_names(Names(WALL, (one._replace(version=7, tombstone=WALL),))))
    assert weave.heard_names() == [Names(WALL, (one._replace(version=8),))]
    weave.perform(weave.router.handle(ev.NameRemoved(address=5), weave.now))
    assert weave.heard_names() == [Names(WALL, (one._replace(version=9, tombstone=WALL),))]


def test_a_clock_that_differs_costs_no_link_and_it_is_told_nothing_that_would() -> None:
    weave = Named()
    weave.heard_names()
    weave.say_names(encode_names(Names(WALL + 1000, (TWO,))))
    assert not weave.closed
    assert "clock differs from ours by 1000 s" in weave.logged()
    weave.perform(weave.router.handle(ev.NameAdded("c1", "one.weave.local.", 5), weave.now))
    assert weave.heard_names() == []
    weave.wall += 1000  # ours is set
    weave.wait(31.0)
    said = weave.heard_names()
    assert [entry.container for entry in said[0].entries] == ["c1"]
    weave.say_names(encode_names(Names(WALL + 1000, (TWO,))))
    assert weave.names.records.known("two.weave.local.")


def test_two_of_one_identity_are_taken_and_not_passed_on() -> None:
    weave = Named()
    weave.heard_names()
    weave.say_names(
        join_entries(WALL, [encode_entry(TWO), encode_entry(TWO), encode_entry(TWO._replace(version=1))])
    )
    assert not weave.closed
    for payload in weave.names.complete().encode():
        assert decode_names_untrusted(payload).entries == (TWO._replace(version=1),)


def test_what_is_no_such_message_ends_the_connection() -> None:
    weave = Named()
    weave.say_names(b"\x01\x02\x03")
    assert weave.closed


def test_its_names_are_gone_with_it() -> None:
    weave = Named()
    weave.say_names(encode_names(Names(WALL, (TWO,))))
    assert weave.names.records.known("two.weave.local.")
    weave.perform(weave.router.handle(ev.Closed(weave.conn, "reset"), weave.now))
    assert not weave.names.records.known("two.weave.local.")


@pytest.mark.parametrize("event", [ev.NameAdded("c1", "one.weave.local.", 5), ev.NameRemoved()])
def test_a_router_without_names_relays_only(event: ev.Event) -> None:
    value = router(PASSWORD)
    assert value.names is None
    assert value.handle(event, 1.0) == []
