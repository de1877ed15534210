"""What a question comes to: Weave Net's rules, its recorded look-ups, and where we differ."""

import ipaddress
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from dnslib import SRV, DNSBuffer

from weavepy.events import PeerName
from weavepy.names.resolver import Resolver
from weavepy.wire.dns import NOERROR, NXDOMAIN, REFUSED, Query, encode_name
from weavepy.wire.dnsanswer import Answer
from weavepy.wire.peername import parse_peer_name

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "nameserver.json").read_text())["lookup"]
ONE, TWO = PeerName(1), PeerName(2)
TYPES = {
    "A": 1,
    "NS": 2,
    "SOA": 6,
    "PTR": 12,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
    "DS": 43,
    "DNSKEY": 48,
}
TYPES |= {"TKEY": 249, "IXFR": 251, "AXFR": 252, "ANY": 255}


@dataclass(frozen=True)
class FakeEntry:
    address: int
    origin: PeerName
    container: str
    hostname: str


class FakeRecords:
    """Live entries only, in their order."""

    def __init__(self, *entries: FakeEntry) -> None:
        self.entries = entries
        self.revision = 3

    def addresses(self, name: str) -> list[FakeEntry]:
        return [entry for entry in self.entries if entry.hostname.lower() == name]

    def at_address(self, name: str, address: int, _most: int) -> list[FakeEntry]:
        return [entry for entry in self.addresses(name) if entry.address == address]

    def reverse(self, address: int) -> list[FakeEntry]:
        return [entry for entry in self.entries if entry.address == address and "._" not in entry.hostname]

    def holds(self, address: int) -> bool:
        return any(entry.address == address for entry in self.entries)

    def services(self, name: str) -> list[FakeEntry]:
        return [entry for entry in self.entries if entry.hostname.lower().partition(".")[2] == name]

    def known(self, name: str) -> bool:
        return bool(self.addresses(name))

    def has_below(self, name: str) -> bool:
        return any(entry.hostname.lower().endswith("." + name) for entry in self.entries)


def number(text: str) -> int:
    return int(ipaddress.IPv4Address(text))


WEB = [
    FakeEntry(number(f"10.32.0.{n}"), PeerName(n % 2 + 1), f"c{n}", "Web.weave.local.") for n in range(1, 5)
]
DB = FakeEntry(number("10.32.1.1"), ONE, "db", "db.weave.local.")


class World:
    """A resolver, and what it sees."""

    def __init__(self, *entries: FakeEntry, domain: str = "weave.local.") -> None:
        self.gone: set[object] = set()
        self.records = FakeRecords(*(entries or (*WEB, DB)))
        self.resolver = Resolver(
            self.records,
            domain=domain,
            ttl_s=1,
            entropy=random.Random(1),
            alive=lambda entry: not self.gone & {entry.origin, entry.container},
        )

    def ask(self, name: str, qtype: str = "A", *, qclass: int = 1, tcp: bool = False) -> Answer | None:
        question = bytes(len(name) + 1) + bytes((0, TYPES[qtype], 0, qclass))
        query = Query(1, 0x100, name, TYPES[qtype], qclass, question, None, False, 12 + len(question))
        return self.resolver.resolve(query, tcp=tcp)

    def addresses(self, name: str) -> list[str]:
        answer = self.ask(name)
        assert answer is not None
        assert (answer.rcode, answer.authoritative) == (NOERROR, True)
        return sorted(str(ipaddress.IPv4Address(data)) for data in answer.rdata)


def assert_none_such(answer: Answer | None) -> None:
    assert answer is not None
    assert (answer.rcode, answer.authoritative, answer.rdata) == (NXDOMAIN, False, ())
    assert answer.zone is not None


def assert_empty(answer: Answer | None) -> None:
    assert answer is not None
    assert (answer.rcode, answer.authoritative, answer.rdata) == (NOERROR, True, ())
    assert answer.zone is not None
    assert (answer.zone.serial, answer.zone.ttl_s) == (3, 1)


def test_recorded_lookups() -> None:
    entries = [
        FakeEntry(number(e["Addr"]), parse_peer_name(e["Origin"]), e["ContainerID"], e["Hostname"])
        for e in VECTORS["database"]
        if not e["Tombstone"]
    ]
    world = World(*entries)
    for query in VECTORS["queries"]:
        if "lookup" in query:
            if query["addresses"]:
                assert world.addresses(query["lookup"].lower()) == sorted(query["addresses"])
            else:
                assert_none_such(world.ask(query["lookup"].lower()))
        else:
            reverse = ".".join(reversed(query["reverse"].split("."))) + ".in-addr.arpa."
            answer = world.ask(reverse, "PTR")
            if query["name"]:
                assert answer == Answer(NOERROR, True, [encode_name(query["name"])], 1)
            else:
                assert answer is None


def test_all_addresses_of_a_name() -> None:
    world = World()
    assert world.addresses("web.weave.local.") == [f"10.32.0.{n}" for n in range(1, 5)]
    answer = world.ask("web.weave.local.")
    assert answer is not None
    assert answer.ttl_s == 1


def test_an_address_that_two_containers_have_is_there_once() -> None:
    world = World(DB, FakeEntry(DB.address, TWO, "other", DB.hostname))
    assert world.addresses("db.weave.local.") == ["10.32.1.1"]


def test_a_single_label_is_in_our_domain() -> None:
    world = World()
    assert world.addresses("db.") == ["10.32.1.1"]
    assert_none_such(world.ask("nobody."))
    assert_empty(world.ask("db.", "AAAA"))


@pytest.mark.parametrize("qtype", ["AAAA", "MX", "TXT", "PTR", "SRV", "NS", "SOA", "DS"])
def test_other_types_of_a_name_that_exists(qtype: str) -> None:
    assert_empty(World().ask("web.weave.local.", qtype))
    assert_none_such(World().ask("nobody.weave.local.", qtype))


@pytest.mark.parametrize(
    "name", ["web.weave.local.", "nobody.weave.local.", "example.com.", "4.3.2.1.in-addr.arpa."]
)
@pytest.mark.parametrize("qtype", ["ANY", "AXFR", "IXFR", "TKEY"])
def test_wishes_are_refused(name: str, qtype: str) -> None:
    assert World().ask(name, qtype) == Answer(REFUSED)


@pytest.mark.parametrize("qclass", [3, 4, 254, 255])
def test_other_classes_are_refused(qclass: int) -> None:
    assert World().ask("version.bind.", "TXT", qclass=qclass) == Answer(REFUSED)
    assert World().ask("web.weave.local.", qclass=qclass) == Answer(REFUSED)


@pytest.mark.parametrize(
    "name",
    [
        "example.com.",
        ".",
        "local.com.",
        "xweave.local.",
        "web.weave.local.com.",
        "other.local.",
        "in-addr.arpa.",
    ],
)
def test_what_is_for_others(name: str) -> None:
    assert World().ask(name) is None


@pytest.mark.parametrize(
    "name",
    ["a\\046weave.local.", "\\005weave.local.", "b.c.weave.local.", "\\000.weave.local.", "*.weave.local."],
)
def test_odd_names_in_and_out_of_the_domain(name: str) -> None:
    answer = World().ask(name)
    if name.endswith(".weave.local."):
        assert_none_such(answer)
    else:
        assert answer is None


def test_top_level_domains_as_such_are_for_others() -> None:
    world = World()
    for qtype in ("NS", "SOA", "DS", "DNSKEY"):
        assert world.ask("com.", qtype) is None
        assert_empty(world.ask("db.", qtype))
    for qtype in ("A", "AAAA", "TXT"):
        assert_none_such(world.ask("com.", qtype))


def test_the_domain_itself_exists() -> None:
    assert_empty(World().ask("weave.local."))
    answer = World().ask("weave.local.", "SOA")
    assert answer is not None
    assert (answer.rcode, answer.authoritative, len(answer.rdata)) == (NOERROR, True, 1)


def test_what_is_above_a_name_exists() -> None:
    """A resolver that asks for one label more each time would stop at a "no such name" (RFC 9156)."""
    deep = FakeEntry(DB.address, ONE, "c", "a.b.Deep.weave.local.")
    world = World(DB, deep, at_port(1, 80))
    for name in ("b.deep.", "deep.", "web.", "_tcp.web.", "_http._tcp.web."):
        for qtype in ("A", "AAAA", "NS", "TXT"):
            assert_empty(world.ask(name + "weave.local.", qtype))
    assert_empty(world.ask("_tcp.web.weave.local.", "SRV"))
    for name in ("ab.deep.", "eep.", "x.deep.", "x.a.b.deep.", "_udp.web.", "http._tcp.web.", "b."):
        assert_none_such(world.ask(name + "weave.local."))
    assert world.addresses("a.b.deep.weave.local.") == ["10.32.1.1"]
    world.gone = {"c", "c1"}
    assert_empty(world.ask("deep.weave.local."))
    # As a name of one label it is in the domain, but a top-level domain as such isn't ours for that.
    assert_empty(world.ask("deep.", "AAAA"))
    assert world.ask("deep.", "NS") is world.ask("deep.", "DS") is None


def test_another_domain() -> None:
    entry = FakeEntry(number("10.32.1.1"), ONE, "c", "db.foo.bar.")
    world = World(entry, domain="foo.bar.")
    assert world.addresses("db.foo.bar.") == world.addresses("db.") == ["10.32.1.1"]
    assert world.ask("db.weave.local.") is None


def test_only_what_lives_answers() -> None:
    world = World()
    world.gone = {TWO}
    assert world.addresses("web.weave.local.") == ["10.32.0.2", "10.32.0.4"]
    world.gone = {TWO, "c2"}
    assert world.addresses("web.weave.local.") == ["10.32.0.4"]
    world.gone = {ONE, TWO}
    assert_empty(world.ask("web.weave.local."))
    assert_empty(world.ask("web.weave.local.", "AAAA"))


def test_a_name_that_is_known_and_has_nobody_is_empty() -> None:
    world = World()
    world.records.known = lambda name: name == "idle.weave.local."  # type: ignore[method-assign]
    assert_empty(world.ask("idle.weave.local."))


def test_reverse() -> None:
    world = World()
    assert world.ask("1.1.32.10.in-addr.arpa.", "PTR") == Answer(
        NOERROR, True, [encode_name("db.weave.local.")], 1
    )
    assert world.ask("9.9.32.10.in-addr.arpa.", "PTR") is None
    for qtype in ("A", "TXT", "SOA", "NS", "DS"):
        assert_empty(world.ask("1.1.32.10.in-addr.arpa.", qtype))
        for name in ("9.9.32.10.in-addr.arpa.", "32.10.in-addr.arpa.", "8.in-addr.arpa."):
            assert world.ask(name, qtype) is None


def test_an_addresses_name_is_the_first_that_answers_and_the_world_is_never_asked() -> None:
    odd = FakeEntry(DB.address, ONE, "odd", "a..weave.local.")
    world = World(DB, odd, FakeEntry(DB.address, TWO, "other", "other.weave.local."))

    def name() -> Answer | None:
        return world.ask("1.1.32.10.in-addr.arpa.", "PTR")

    assert name() == Answer(NOERROR, True, [encode_name("db.weave.local.")], 1)
    world.gone = {"db"}
    assert name() == Answer(NOERROR, True, [encode_name("other.weave.local.")], 1)
    world.gone = {ONE}
    assert name() == Answer(NOERROR, True, [encode_name("other.weave.local.")], 1)
    world.gone = {ONE, TWO}
    assert_empty(name())
    assert_empty(world.ask("1.1.32.10.in-addr.arpa.", "A"))


def test_an_address_that_only_tells_of_a_port_has_no_name_but_is_ours() -> None:
    world = World(at_port(1, 80))
    assert_empty(world.ask("1.0.32.10.in-addr.arpa.", "PTR"))


@pytest.mark.parametrize(
    "name",
    [
        "1.32.10.in-addr.arpa.",
        "0.1.1.32.10.in-addr.arpa.",
        "01.1.32.10.in-addr.arpa.",
        "257.1.32.10.in-addr.arpa.",
        "x.1.32.10.in-addr.arpa.",
        "1-3.1.32.10.in-addr.arpa.",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.e.f.ip6.arpa.",
    ],
)
def test_reverse_names_that_are_no_address_of_ours(name: str) -> None:
    assert World().ask(name, "PTR") is None


@pytest.mark.parametrize("hostname", ["ä.weave.local.", "a..weave.local.", "x" * 64 + ".weave.local."])
def test_a_peers_name_that_is_none_is_nobodys_reverse(hostname: str) -> None:
    assert_empty(World(FakeEntry(DB.address, ONE, "c", hostname)).ask("1.1.32.10.in-addr.arpa.", "PTR"))


SERVED = "_http._tcp.web.weave.local."


def at_port(host: int, port: int, name: str = SERVED) -> FakeEntry:
    return FakeEntry(number(f"10.32.0.{host}"), PeerName(host), f"c{host}", f"{port}.{name}")


def srv(world: World, name: str = SERVED, *, tcp: bool = False) -> list[tuple[int, int, int, str]]:
    """Returns priority, weight, port and target of each, in order."""
    answer = world.ask(name, "SRV", tcp=tcp)
    assert answer is not None
    assert (answer.rcode, answer.authoritative) == (NOERROR, True)
    found = [SRV.parse(DNSBuffer(data), len(data)) for data in answer.rdata]
    return sorted((one.priority, one.weight, one.port, str(one.target)) for one in found)


def test_services_have_a_record_for_each_address_whose_target_is_that_address() -> None:
    world = World(*WEB, at_port(1, 80), at_port(2, 8080), at_port(3, 80))
    served = [
        (0, 1, 80, "10-32-0-1.80._http._tcp.web.weave.local."),
        (0, 1, 80, "10-32-0-3.80._http._tcp.web.weave.local."),
        (0, 1, 8080, "10-32-0-2.8080._http._tcp.web.weave.local."),
    ]
    assert srv(world) == served
    for _, _, _, target in served:
        assert world.addresses(target) == [target.partition(".")[0].replace("-", ".")]
    world.gone = {"c1"}
    assert srv(world) == served[1:]
    assert_empty(world.ask(served[0][3]))
    world.gone = {"c1", "c2", "c3"}
    assert_empty(world.ask(SERVED, "SRV"))
    assert_empty(world.ask(SERVED, "A"))
    assert_none_such(world.ask("_sip._tcp.web.weave.local.", "SRV"))


def test_many_services_are_cut_to_what_fits_before_they_are_encoded() -> None:
    name = "_http._tcp.web.weave.local."
    world = World(*(FakeEntry(n, ONE, "c", f"80.{name}") for n in range(5000)))
    assert len(srv(world)) < 30
    assert len(srv(world, tcp=True)) == 201


def test_a_services_name_from_a_peer_that_is_none_is_left_out() -> None:
    long = "_http._tcp." + ".".join(["x" * 60] * 3 + ["x" * 40]) + ".weave.local."
    odd = "_http._tcp.ä.weave.local."
    world = World(at_port(1, 80, long), at_port(2, 80, odd), at_port(1, 80))
    assert_empty(world.ask(long, "SRV"))
    assert_empty(world.ask(odd, "SRV"))
    assert len(srv(world)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "10-32-0-9.web.weave.local.",
        "10-32-0-1.db.weave.local.",
        "10-32-0-01.web.weave.local.",
        "10-32-0-256.web.weave.local.",
        "10-32-0.web.weave.local.",
        "10-32-0-1.weave.local.",
        "10-32-0-1.",
    ],
)
def test_what_is_no_address_of_a_name_is_no_name(name: str) -> None:
    assert_none_such(World().ask(name))


def test_one_address_of_a_name_may_be_asked_for_and_a_name_like_that_goes_first() -> None:
    world = World(*WEB, FakeEntry(7, ONE, "c", "10-32-0-2.web.weave.local."))
    assert world.addresses("10-32-0-1.web.weave.local.") == ["10.32.0.1"]
    assert world.addresses("10-32-0-2.web.weave.local.") == ["0.0.0.7"]


def test_each_address_is_as_often_at_each_place() -> None:
    world, seen = World(), Counter[tuple[int, bytes]]()
    for _ in range(4000):
        answer = world.ask("web.weave.local.")
        assert answer is not None
        seen.update(enumerate(answer.rdata))
    assert len(seen) == 16
    assert all(900 < count < 1100 for count in seen.values())


def test_of_many_addresses_any_may_be_drawn() -> None:
    many = [FakeEntry(DB.address + n, ONE, f"c{n}", "many.weave.local.") for n in range(200)]
    world, seen = World(*many), Counter[bytes]()
    for _ in range(1000):
        answer = world.ask("many.weave.local.")
        assert answer is not None
        # One more than an answer by UDP can have, so that its encoder sees that there are more.
        assert len(set(answer.rdata)) == len(answer.rdata) == 10 * (12 + 18 + 4) // 16 + 1
        seen.update(answer.rdata)
    assert len(seen) == 200
    assert len(world.ask("many.weave.local.", tcp=True).rdata) == 200  # type: ignore[union-attr]


class Counting:
    """Entries of one name, in the order of their hosts, of which some don't answer."""

    def __init__(self, count: int, hosts: int, gone: set[int], name: str = "many.weave.local.") -> None:
        self.entries = [FakeEntry(n, PeerName(1 + n * hosts // count), f"c{n}", name) for n in range(count)]
        self.world = World(*self.entries)
        self.looks = 0
        self.gone = gone
        self.world.resolver = Resolver(
            self.world.records,
            domain="weave.local.",
            ttl_s=1,
            entropy=random.Random(1),
            alive=self.is_alive,
        )
        # All have the same name; finding them one by one would take long.
        self.world.records.addresses = lambda _name: self.entries  # type: ignore[method-assign]
        self.world.records.services = lambda _name: self.entries  # type: ignore[method-assign]

    def is_alive(self, entry: object) -> bool:
        self.looks += 1
        assert isinstance(entry, FakeEntry)
        return entry.origin not in self.gone


@pytest.mark.parametrize("qtype", ["A", "SRV"])
@pytest.mark.parametrize("count", [1024, 1025, 5000, 16_000, 80_000])
def test_no_answer_looks_at_more_than_some_thousand_entries(count: int, qtype: str) -> None:
    name = "80._http._tcp.many.weave.local." if qtype == "SRV" else "many.weave.local."
    asked = name.removeprefix("80.")
    for gone, most in (set[int](), 1024), ({1, 2, 3, 4}, 3072):
        bench = Counting(count, 4, gone, name)
        for tcp in (False, True):
            bench.looks = 0
            answer = bench.world.ask(asked, qtype, tcp=tcp)
            assert answer is not None
            assert answer.rcode == NOERROR
            assert bool(answer.rdata) == (not gone)
            assert bench.looks <= most
        assert bench.looks >= min(count, 1024) // 2


def test_all_of_a_thousand_addresses_are_in_an_answer_by_tcp() -> None:
    bench = Counting(1024, 4, set())
    answer = bench.world.ask("many.weave.local.", tcp=True)
    assert answer is not None
    assert len(set(answer.rdata)) == 1024


def test_of_very_many_addresses_those_that_live_are_found_and_any_may_be_drawn() -> None:
    bench = Counting(5000, 4, {1, 2, 4})
    seen = Counter[int]()
    for _ in range(600):
        answer = bench.world.ask("many.weave.local.")
        assert answer is not None
        assert len(answer.rdata) == 22  # what fits by UDP, and one more
        seen.update(int.from_bytes(data, "big") for data in answer.rdata)
    assert set(seen) == {entry.address for entry in bench.entries if entry.origin == 3}
    assert max(seen.values()) < 40


def test_a_few_that_live_among_very_many_are_found_most_of_the_time() -> None:
    bench = Counting(5000, 5000, set(range(1, 5001)) - {77})
    found = [bench.world.ask("many.weave.local.") for _ in range(100)]
    assert 40 < sum(answer is not None and len(answer.rdata) == 1 for answer in found) < 80
    assert bench.world.resolver.lookup("many.weave.local.") == [76]


def test_lookup_for_the_operator() -> None:
    world = World()
    world.gone = {"c1"}
    assert world.resolver.lookup("web.weave.local.") == [entry.address for entry in WEB[1:]]
    assert world.resolver.lookup("nobody.weave.local.") == []
