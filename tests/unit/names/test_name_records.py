"""The set of names: what the original package did with the same messages, lookups, quotas, what never comes back."""

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.config import checked_hostname
from weavepy.names.records import Merged, NameChange, Records
from weavepy.wire.names import NameEntry, decode_names_untrusted
from weavepy.wire.peername import parse_peer_name

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "nameserver.json").read_text())
OWN, PEER, THIRD = (PeerName(0x020000000000 + n) for n in (1, 2, 3))
WALL = 1700000000
YEAR_S = 365 * 86400
ONE = NameEntry("c1", OWN, 0x0A200001, "one.weave.local.")
TWO = NameEntry("c2", PEER, 0x0A280001, "two.weave.local.")


def entry_of(fields: dict[str, Any]) -> NameEntry:
    return NameEntry(
        fields["ContainerID"],
        parse_peer_name(fields["Origin"]),
        int(IPv4Address(fields["Addr"])),
        fields["Hostname"],
        fields["Version"],
        fields["Tombstone"],
    )


def entries_of(listed: list[dict[str, Any]] | None) -> list[NameEntry]:
    return sorted(map(entry_of, listed or []))


def records(*entries: NameEntry, own: PeerName = OWN) -> Records:
    value = Records(own)
    for entry in entries:
        value.restore(entry)
    return value


CASES = [case for case in VECTORS["receive_semantics"] if "error" not in case]


@pytest.mark.parametrize("case", CASES, ids=[case["description"] for case in CASES])
def test_the_original_packages_merges(case: dict[str, Any]) -> None:
    known = {parse_peer_name(name) for name in case["known_peers"]}
    value = records(*entries_of(case["database_before"]), own=parse_peer_name(case["our_name"]))
    incoming = decode_names_untrusted(bytes.fromhex(case["incoming_payload"])).entries
    merged = value.merge([entry for entry in incoming if entry.origin in known], case["now"])
    assert sorted(value.entries.values()) == entries_of(case["database_after"])
    assert sorted(value.entries[one] for one in merged.news) == entries_of(case["relayed_delta (for tag 4)"])
    corrections = sorted(value.entries[one] for one in merged.corrections)
    assert corrections == entries_of(case.get("correction_broadcast"))


def test_the_original_packages_lookups() -> None:
    value = records(*entries_of(VECTORS["lookup"]["database"]))
    for query in VECTORS["lookup"]["queries"]:
        if "lookup" in query:
            found = [str(IPv4Address(entry.address)) for entry in value.addresses(query["lookup"])]
            assert found == query["addresses"]
            assert value.known(query["lookup"]) == bool(found)
        else:
            named = value.reverse(int(IPv4Address(query["reverse"])))
            assert (named[0].hostname if named else "") == query["name"]


# ---- our own


def test_adding_what_is_there_changes_nothing_and_after_removal_the_version_grows() -> None:
    value = records()
    assert value.add("c1", 1, "One.weave.local.") == NameEntry("c1", OWN, 1, "One.weave.local.")
    assert value.revision == 1
    assert value.add("c1", 1, "One.weave.local.") == NameEntry("c1", OWN, 1, "One.weave.local.")
    assert value.revision == 1
    (removed,) = value.remove("c1", wall=WALL)
    assert (removed.version, removed.tombstone) == (1, WALL)
    assert value.remove("c1", wall=WALL + 1) == []
    again = value.add("c1", 1, "One.weave.local.")
    assert again is not None
    assert (again.version, again.tombstone) == (2, 0)
    assert value.revision == 3


def test_a_name_is_spelled_as_others_may_know_it() -> None:
    """A Weave Net router that ran here before may have called it otherwise, and we have had to take that back."""
    value = records()
    upper = NameEntry("c1", OWN, 1, "One.weave.local.", version=3)
    value.merge([upper], WALL)
    assert value.add("c1", 1, "one.weave.local.") == upper._replace(version=5)
    assert value.add("c1", 1, "one.weave.local.") == upper._replace(version=5)
    value.merge([upper._replace(hostname="one.weave.local.")], WALL)  # is put right, but told to nobody
    assert value.add("c1", 1, "one.weave.local.") == upper._replace(version=5)
    assert value.remove(hostname="one.weave.local.", wall=WALL) == [upper._replace(version=6, tombstone=WALL)]
    value.sweep(WALL + limits.NAME_TOMBSTONE_S + 1)
    assert value.add("c1", 1, "one.weave.local.") == upper._replace(hostname="one.weave.local.", version=0)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, []),
        ({"container": "c1"}, ["c2 web"]),
        ({"hostname": "WEB.weave.local."}, ["c1 db"]),
        ({"address": 2}, ["c1 Web", "c1 db"]),
        ({"container": "c1", "hostname": "web.weave.local."}, ["c1 db", "c2 web"]),
        ({"container": "c1", "address": 2}, ["c1 Web", "c1 db", "c2 web"]),
        ({"container": "c2", "hostname": "web.weave.local.", "address": 2}, ["c1 Web", "c1 db"]),
        ({"hostname": "other.weave.local."}, ["c1 Web", "c1 db", "c2 web"]),
    ],
)
def test_removing_by_any_combination(given: dict[str, Any], left: list[str]) -> None:
    value = records()
    value.add("c1", 1, "Web.weave.local.")
    value.add("c1", 1, "db.weave.local.")
    value.add("c2", 2, "web.weave.local.")
    value.merge([NameEntry("c1", PEER, 1, "web.weave.local.")], WALL)  # is not ours to remove
    value.remove(**given, wall=WALL)
    live = [entry for entry in value.of_origin(OWN) if not entry.tombstone]
    assert sorted(f"{entry.container} {entry.hostname.split('.')[0]}" for entry in live) == left
    assert len(value.reverse(1)) > 0


# ---- lookups


def test_lookups_ignore_case_and_are_in_the_sets_order() -> None:
    value = records()
    value.merge(
        [
            NameEntry("b", PEER, 9, "WEB.weave.local."),
            NameEntry("a", PEER, 10, "web.weave.local."),
            NameEntry("0", THIRD, 1, "Web.weave.local."),
        ],
        WALL,
    )
    assert [entry.container for entry in value.addresses("web.WEAVE.local.")] == ["a", "b", "0"]
    value.add("z", 9, "a.weave.local.")
    assert [entry.container for entry in value.reverse(9)] == ["z", "b"]
    assert [entry.container for entry in value.at_address("web.WEAVE.local.", 9, 99)] == ["b"]
    assert value.addresses("web.weave.local.") is value.addresses(
        "web.weave.local."
    )  # however many there are
    assert value.holds(9)
    assert value.addresses("nobody.weave.local.") == value.at_address("nobody.weave.local.", 9, 99) == []
    assert value.reverse(77) == value.at_address("web.weave.local.", 77, 99) == []
    assert not value.holds(77)


def test_of_very_many_that_have_one_name_and_address_some_of_each_host_are_found() -> None:
    value = records()
    value.merge([NameEntry(f"{n:02}", PeerName(n % 2 + 7), 9, "web.weave.local.") for n in range(40)], WALL)
    value.merge([NameEntry("x", PEER, 9, f"{name}.weave.local.") for name in ("a", "z")], WALL)
    for most, count in ((99, 40), (40, 40), (39, 20), (7, 7), (2, 2)):
        found = value.at_address("web.weave.local.", 9, most)
        assert len(found) == count
        assert {entry.hostname for entry in found} == {"web.weave.local."}
        assert {entry.origin for entry in found} == {7, 8}
    assert len(value.at_address("a.weave.local.", 9, 1)) == 1


def test_names_that_tell_of_a_port_are_found_by_what_is_served_and_are_no_reverse() -> None:
    value = records()
    served = "_http._tcp.web.weave.local."
    value.merge(
        [NameEntry("a", PEER, 9, f"8080.{served}"), NameEntry("b", THIRD, 9, f"80.{served.upper()}")], WALL
    )
    assert [entry.container for entry in value.services("_HTTP._tcp.web.weave.local.")] == ["b", "a"]
    assert [entry.container for entry in value.addresses(f"8080.{served}")] == ["a"]
    assert [entry.container for entry in value.at_address(f"80.{served}", 9, 99)] == ["b"]
    assert value.holds(9)
    assert value.reverse(9) == []
    value.add("c", 9, "web.weave.local.")
    named = list(value.reverse(9))
    assert [entry.container for entry in named] == ["c"]
    value.drop_origins([PEER, THIRD])
    assert value.services(served) == []
    assert value.reverse(9) == named


def test_what_is_above_a_live_name_is_known_as_long_as_any_is_below() -> None:
    value = records()
    deep = NameEntry("a", PEER, 9, "X.y.Deep.weave.local.")
    value.merge([deep, deep._replace(origin=THIRD), NameEntry("a", PEER, 9, "z.deep.weave.local.")], WALL)
    for name in ("y.deep.weave.local.", "DEEP.weave.local."):
        assert value.has_below(name)
        assert not value.known(name)
    for name in ("x.y.deep.weave.local.", "eep.weave.local.", "x.deep.weave.local.", "deep.weave.local.com."):
        assert not value.has_below(name)
    value.merge([deep._replace(version=1, tombstone=WALL)], WALL)
    assert value.has_below("y.deep.weave.local.")
    value.drop_origins([THIRD])
    assert not value.has_below("y.deep.weave.local.")
    assert value.has_below("deep.weave.local.")
    value.drop_origins([PEER])
    assert not value.has_below("deep.weave.local.")
    value.add("c", 1, "a.deep.weave.local.")
    assert value.has_below("deep.weave.local.")
    value.remove("c", wall=WALL)
    assert not value.has_below("deep.weave.local.")


def test_only_names_of_several_labels_in_the_domain_take_room_for_that() -> None:
    value = Records(OWN, "Foo.bar.")
    for name in ("web.foo.bar.", "a.b.weave.local.", "foo.bar.", "xfoo.bar.", "x.", "a..foo.bar."):
        value.merge([NameEntry("a", PEER, 9, name)], WALL)
    assert [name[::-1] for name in value._deep._reversed] == ["a..foo.bar."]
    value.merge([NameEntry("a", PEER, 9, "a.b.foo.bar.")], WALL)
    assert value.has_below("b.foo.bar.")
    value.drop_origins([PEER])
    assert len(value._deep) == 0


@pytest.mark.parametrize(
    "name",
    [
        "0._http._tcp.web.",
        "080._http._tcp.web.",
        "65536._http._tcp.web.",
        "http._http._tcp.web.",
        "80.http._tcp.web.",
        "80._http.tcp.web.",
        "80._http._tcp.",
        "80.web.",
    ],
)
def test_names_that_tell_of_no_port(name: str) -> None:
    value = records()
    value.merge([NameEntry("a", PEER, 9, name)], WALL)
    assert value.services(name.partition(".")[2]) == []
    assert len(value.reverse(9)) == 1


def test_of_two_spellings_of_one_name_the_first_is_told_until_it_is_forgotten() -> None:
    lower, upper, other = (TWO._replace(hostname=host) for host in ("a.b.", "A.b.", "A.B."))
    for first, *rest in ([lower, upper, other], [upper, lower, other], [upper, other, lower]):
        value = records()
        value.merge([first], WALL)
        assert value.unsaid == frozenset()
        value.merge(rest, WALL)
        assert value.unsaid == {entry.identity for entry in rest}
        assert len(value.addresses("a.b.")) == 3
        value.merge([first._replace(version=1, tombstone=WALL)], WALL)
        assert value.unsaid == {entry.identity for entry in rest}
        value.sweep(WALL + limits.NAME_TOMBSTONE_S + 1)
        assert value.unsaid == {rest[1].identity}
        value.drop_origins([PEER])
        assert value.unsaid == frozenset()
        assert not value._spellings
    value.merge([lower, upper._replace(address=9), other._replace(container="c9")], WALL)
    assert value.unsaid == frozenset()


# ---- what changed


def test_changes_tell_what_resolves_and_only_so_far_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAME_CHANGES_MAX", 3)
    value = records()
    entry = value.add("c1", 1, "one.weave.local.")
    assert entry is not None
    value.merge([TWO], WALL)
    value.merge([TWO._replace(version=5)], WALL)  # resolves as before
    assert value.revision == 2
    assert value.changes_since(0) == [NameChange(1, True, entry), NameChange(2, True, TWO)]
    assert value.changes_since(2) == []
    value.remove("c1", wall=WALL)
    value.drop_origins([PEER])
    gone = [NameChange(3, False, entry), NameChange(4, False, TWO._replace(version=5))]
    assert value.changes_since(2) == gone
    assert value.changes_since(1) is not None
    assert value.changes_since(0) is None
    assert value.changes_since(5) is None


# ---- peers that go, time


def test_names_of_peers_that_are_gone_are_gone() -> None:
    value = records(ONE)
    value.merge([TWO, TWO._replace(origin=THIRD), TWO._replace(container="x", tombstone=WALL)], WALL)
    value.drop_origins([PEER, PeerName(99)])
    assert [entry.origin for entry in value.addresses("two.weave.local.")] == [THIRD]
    assert value.of_origin(PEER) == []
    value.drop_origins([THIRD])
    assert list(value.entries.values()) == [ONE]
    assert not value.known("two.weave.local.")


def test_tombstones_are_kept_for_half_an_hour() -> None:
    value = records()
    value.add("c1", 1, "one.weave.local.")
    value.remove(wall=WALL)
    assert value.sweep(WALL + limits.NAME_TOMBSTONE_S) == []
    assert len(value.entries) == 1
    value.sweep(WALL + limits.NAME_TOMBSTONE_S + 1)
    assert len(value.entries) == 0


def test_a_tombstone_that_has_served_its_time_is_not_taken_again() -> None:
    value = records()
    old = TWO._replace(version=1, tombstone=WALL - limits.NAME_TOMBSTONE_S - 1)
    assert value.merge([old], WALL) == Merged(frozenset(), frozenset())
    assert not value.entries
    value.merge([TWO], WALL)  # but it does remove what we still believe
    assert value.merge([old], WALL).news == {TWO.identity}
    assert not value.known("two.weave.local.")


def test_a_late_message_does_not_bring_a_removed_name_back() -> None:
    value = records()
    value.merge([TWO], WALL)
    value.merge([TWO._replace(version=1, tombstone=WALL)], WALL)
    for _ in range(3):
        assert value.merge([TWO], WALL + 900).news == frozenset()
    assert not value.known("two.weave.local.")


def test_messages_that_are_taken_are_younger_than_tombstones() -> None:
    """A copy that was recorded before the removal is refused before the tombstone is forgotten, even by clocks that
    differ as much as they may.
    """
    assert 2 * limits.CLOCK_SKEW_MAX_S <= limits.NAME_TOMBSTONE_S


def test_what_a_peer_spreads_after_the_tombstones_time_is_removed_by_its_origin_again() -> None:
    origin, other = records(), records(own=THIRD)
    stale = NameEntry("c1", OWN, 1, "one.weave.local.")
    assert other.merge([stale], WALL).news == {stale.identity}  # nobody remembers that it was removed
    merged = origin.merge([stale], WALL)
    assert merged.news == merged.corrections == {stale.identity}
    other.merge(origin.entries.values(), WALL)
    assert not other.known("one.weave.local.")


def test_the_clock_was_ahead_when_a_name_was_removed() -> None:
    value = records()
    value.add("c1", 1, "one.weave.local.")
    value.remove(wall=WALL + 10 * YEAR_S)
    value.merge([TWO._replace(version=1, tombstone=WALL + 10 * YEAR_S)], WALL)  # not ours to correct
    (dated,) = value.sweep(WALL)
    assert (dated.version, dated.tombstone) == (2, WALL)
    assert value.sweep(WALL) == []
    value.sweep(WALL + limits.NAME_TOMBSTONE_S + 1)
    assert [entry.origin for entry in value.entries.values()] == [PEER]


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_is_set_for_a_while_loses_no_name(years: int) -> None:
    value = records(ONE)
    value.merge([TWO], WALL)
    value.sweep(WALL + years * YEAR_S)
    assert value.known("one.weave.local.")
    assert value.known("two.weave.local.")
    assert value.revision == 2


def test_two_of_one_identity_in_one_message_are_as_in_two_messages() -> None:
    twice = [TWO._replace(version=1, tombstone=WALL), TWO]
    for message in (twice, twice[::-1]):
        value = records()
        assert value.merge(message, WALL).news == {TWO.identity}
        assert list(value.entries.values()) == [TWO._replace(version=1, tombstone=WALL)]


# ---- bounds


def crowd(origin: PeerName, first: int, count: int, **changes: Any) -> list[NameEntry]:
    entries = [NameEntry("c", origin, n, f"n{n}.weave.local.") for n in range(first, first + count)]
    return [entry._replace(**changes) for entry in entries]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_PER_PEER_MAX", 10)
    monkeypatch.setattr(limits, "NAMES_MAX", 15)


@pytest.mark.usefixtures("small")
def test_one_peer_can_not_take_all_the_room() -> None:
    value = records()
    assert len(value.merge(crowd(PEER, 0, 40), WALL).news) == 10
    assert value.left_out == 30
    assert value.merge(crowd(PEER, 0, 40), WALL).news == frozenset()  # and there is no traffic for ever
    assert len(value.merge(crowd(THIRD, 0, 3), WALL).news) == 3


@pytest.mark.usefixtures("small")
def test_all_others_together_have_so_much_room_and_we_have_ours_beside_it() -> None:
    value = records()
    value.merge(crowd(PEER, 0, 10), WALL)
    assert len(value.merge(crowd(THIRD, 0, 10), WALL).news) == 5
    for n in range(10):
        assert value.add("own", n, "own.weave.local.") is not None
    assert value.add("own", 10, "own.weave.local.") is None
    value.remove(address=3, wall=WALL)
    assert value.add("own", 10, "own.weave.local.") is not None
    assert value.evicted == 1
    value.drop_origins([PEER])
    assert len(value.merge(crowd(THIRD, 0, 10), WALL).news) == 5


@pytest.mark.usefixtures("small")
def test_a_live_name_takes_the_room_of_the_oldest_removed_one() -> None:
    value = records()
    value.merge(crowd(PEER, 0, 2, version=1, tombstone=WALL), WALL)
    value.merge(crowd(PEER, 2, 8), WALL)
    assert value.merge(crowd(PEER, 20, 1, version=1, tombstone=WALL), WALL).news == frozenset()
    (new,) = crowd(PEER, 30, 1)
    assert value.merge([new], WALL).news == {new.identity}
    assert value.evicted == 1
    assert not any(entry.address == 0 for entry in value.entries.values())
    assert len(value.of_origin(PEER)) == 10


def test_long_texts_take_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_CHARS_MAX", 1000)
    value = records()
    value.merge([TWO._replace(container="x" * 200, address=n) for n in range(10)], WALL)
    assert len(value.entries) == 4
    value.drop_origins([PEER])
    value.merge([TWO._replace(address=n) for n in range(20)], WALL)
    assert len(value.entries) == 20


def test_what_others_say_of_us_takes_no_room_from_what_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_PER_PEER_MAX", 10)
    value = records()
    merged = value.merge(crowd(OWN, 0, 40), WALL)
    assert len(merged.news) == len(merged.corrections) == 10
    assert value.add("c1", 99, "one.weave.local.") is not None
    assert len(value.of_origin(OWN)) == 10


# ---- which names there can be


@pytest.mark.parametrize(
    "text", ["one.weave.local.", "One.WEAVE.local", "a_b-c.d.weave.local", "1.weave.local"]
)
def test_names(text: str) -> None:
    assert checked_hostname(text) == text.removesuffix(".").lower() + "."


@pytest.mark.parametrize("text", ["weave.local.", "one", "one.other.local", "oneweave.local", ""])
def test_names_outside_the_domain(text: str) -> None:
    with pytest.raises(LocalError, match="not inside the domain"):
        checked_hostname(text)


@pytest.mark.parametrize(
    "text",
    [
        "-a.weave.local",
        "a-.weave.local",
        ".weave.local",
        "a..weave.local",
        "a b.weave.local",
        "ü.weave.local",
        "a\n.weave.local",
        "x" * 64 + ".weave.local",
        "x." * 125 + "weave.local",
    ],
)
def test_names_that_no_container_can_have(text: str) -> None:
    with pytest.raises(LocalError, match="host name"):
        checked_hostname(text)
