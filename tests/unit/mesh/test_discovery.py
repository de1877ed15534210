"""Discovery: the same addresses as going through all records, whatever came and went."""

import random

import pytest

from weavepy import limits
from weavepy.events import Address, PeerName
from weavepy.mesh.discovery import Discovery, parse_address
from weavepy.wire.topology import ConnectionSummary, PeerRecord

OWN = PeerName(1)
NAMES = [PeerName(n) for n in range(1, 9)]


def record(name: PeerName, draw: random.Random) -> PeerRecord:
    links = tuple(
        ConnectionSummary(
            draw.choice(NAMES),
            draw.choice(["10.0.0.1:6783", "10.0.0.1:7000", "10.0.0.2:40000", "[fd00::1]:6783", "host:1", ""]),
            draw.random() < 0.5,
            True,
        )
        for _ in range(draw.randint(0, 6))
    )
    return PeerRecord(name, "", 1, draw.getrandbits(30), 0, False, links)


def expected(met: set[PeerName], records: dict[PeerName, PeerRecord]) -> set[Address]:
    found = set()
    for one in records.values():
        for link in one.connections:
            address = parse_address(link.address)
            if one.name != OWN and link.remote not in met | {OWN} and address is not None:
                found.add(address if link.outbound else Address(address.host, 6783))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_addresses_are_those_of_all_records(seed: int) -> None:
    draw = random.Random(seed)
    discovery, records, met = Discovery(OWN, port=6783), dict[PeerName, PeerRecord](), set[PeerName]()
    for _ in range(60):
        name = draw.choice(NAMES)
        match draw.randrange(4):
            case 0:
                met ^= {name}
            case 1 if name in records:
                del records[name]
            case _:
                records[name] = record(name, draw)
        assert set(discovery.addresses(set(met), records)) == expected(met, records)
        assert not discovery.behind


def test_a_turn_looks_at_so_many_connections_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISCOVERY_TURN_CONNECTIONS", 4)
    records = {
        name: PeerRecord(
            name, "", 1, 1, 0, False, (ConnectionSummary(PeerName(99), f"10.0.0.{name}:1", True, True),) * 3
        )
        for name in NAMES[1:5]
    }
    discovery = Discovery(OWN, port=6783)
    found = []
    for _ in range(4):
        found.append(len(discovery.addresses(set(), records)))
        assert discovery.behind == (len(found) < 4)
    assert found == [1, 2, 3, 4]


def test_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISCOVERED_MAX", 3)
    links = tuple(ConnectionSummary(PeerName(50 + n), f"10.0.0.{n}:1", True, True) for n in range(9))
    records = {NAMES[1]: PeerRecord(NAMES[1], "", 1, 1, 0, False, links)}
    assert len(Discovery(OWN, port=6783).addresses(set(), records)) == 3
