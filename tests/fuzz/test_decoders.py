"""Every decoder gets 100,000 random and mutated inputs: it decodes, or raises the one error that it may raise.

Plain loops over a seeded generator instead of hypothesis, for the number of inputs; a failure names the seed's input
in hex, which then belongs into a test of its own.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from weavepy import limits
from weavepy.crypto.channel import ControlChannel
from weavepy.crypto.handshake import Handshake
from weavepy.errors import RemoteProtocolError, WireError
from weavepy.events import PeerName
from weavepy.wire.dns import NOERROR, QueryError, decode_query_untrusted, with_payload
from weavepy.wire.dnsanswer import Answer, encode_answer
from weavepy.wire.fastpath import (
    Epoch,
    EpochAck,
    Start,
    decode_fastpath_feature_untrusted,
    decode_overlay_control_untrusted,
    encode_overlay_control,
)
from weavepy.wire.features import Features, decode_features_untrusted, encode_features
from weavepy.wire.gob import GobReader
from weavepy.wire.ipam import decode_address_state_untrusted, decode_address_unicast_untrusted
from weavepy.wire.lease import (
    Ballot,
    LeaseState,
    Roster,
    Statement,
    decode_lease_state_untrusted,
    encode_lease_state,
)
from weavepy.wire.messages import (
    Message,
    OverlayControl,
    Unicast,
    Unknown,
    decode_message_untrusted,
    encode_message,
)
from weavepy.wire.names import (
    NameGossip,
    _decode_any_untrusted,
    decode_names_untrusted,
    encode_entry,
    join_entries,
)
from weavepy.wire.peername import format_peer_name, parse_peer_name
from weavepy.wire.sleeve import (
    FragmentsArrive,
    HeartbeatAck,
    MtuArrives,
    decode_sleeve_control_untrusted,
    encode_sleeve_control,
)
from weavepy.wire.topology import decode_topology_untrusted, encode_topology

INPUTS = 50_000
FILES = Path(__file__).parents[1] / "vectors"

Decoder = Callable[[bytes], object]


def mutations(valid: list[bytes], rng: random.Random) -> Callable[[], bytes]:
    """Returns a source of inputs: some random, most of them a valid one with a few things done to it."""
    interesting = [0, 1, 2, 3, 0x7F, 0x80, 0xF7, 0xF8, 0xFC, 0xFE, 0xFF]

    def mutate(data: bytearray) -> None:
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 2 if data:
                data[at % len(data)] = rng.choice(interesting)
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 4:
                del data[at : at + rng.randrange(1, 9)]
            case 5:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            case 6:
                del data[at:]
            case 7:
                data[at:] = rng.choice(valid)[at:]

    def draw() -> bytes:
        if rng.random() < 0.1:
            return rng.randbytes(rng.randrange(80))
        data = bytearray(rng.choice(valid))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            mutate(data)
        return bytes(data)

    return draw


def fuzz(decode: Decoder, valid: list[bytes], error: type[Exception], *, inputs: int = INPUTS) -> None:
    """Feeds `decode`; of the mutated inputs some must decode and some be refused, or the fuzzing proves nothing."""
    draw = mutations(valid, random.Random(len(valid)))
    decoded = 0
    for _ in range(inputs):
        data = draw()
        try:
            decode(data)
            decoded += 1
        except error:
            pass
        except Exception as escaped:
            pytest.fail(f"{type(escaped).__name__}: {escaped} for {data.hex()}")
    assert inputs // 1000 < decoded < inputs


def a_dns_query(name: bytes, qtype: int, opt: bytes = b"") -> bytes:
    counts = bytes((0, 1, 0, 0, 0, 0, 0, bool(opt)))
    return b"\x12\x34\1\0" + counts + name + bytes((0, qtype, 0, 1)) + opt


DNS_OPT = b"\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x08" + bytes(8)
DNS_QUERIES = [
    a_dns_query(name, qtype, opt)
    for name in (
        b"\0",
        b"\3web\0",
        b"\3wEb\5weave\5local\0",
        b"\1" + b"1\1" * 3 + b"1\7in-addr\4arpa\0",
        b"\5_http\4_tcp\3web\5weave\5local\0",
        (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0",
        b"\1a" * 127 + b"\0",
    )
    for qtype in (1, 12, 28, 33, 255)
    for opt in (b"", DNS_OPT)
]


def test_dns_queries() -> None:
    records = [bytes((10, 32, 0, number)) for number in range(100)]

    def decode(data: bytes) -> None:
        tcp = len(data) % 2 == 1
        try:
            query = decode_query_untrusted(data, tcp=tcp)
        except QueryError as error:
            if error.reply[:2] != data[:2] or len(error.reply) > len(data) + 11:
                pytest.fail(f"a bad reply to {data.hex()}")
            raise
        assert data[12 : 12 + len(query.question)] == query.question
        assert size(query) <= 5 * len(data) + 20  # an octet that is no letter is four characters of the name
        # What we answer has the question where the client looks for it, and isn't longer than it may be.
        answer = encode_answer(query, Answer(NOERROR, True, records, 1), tcp=False)
        assert answer[12 : 12 + len(query.question)] == query.question
        assert len(answer) <= min(1232, 10 * len(data))
        with_payload(data, query)

    fuzz(decode, DNS_QUERIES, WireError)


def load(name: str) -> dict:
    return json.loads((FILES / name).read_text())


def size(value: object) -> int:
    """Counts values and the octets in them, but not the names of struct fields, which cost nothing each time."""
    total, pending = 0, [value]
    while pending:
        item = pending.pop()
        total += 1
        if isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
        elif isinstance(item, bytes | str):
            total += len(item)
    return total


def test_gob() -> None:
    valid = [bytes.fromhex(vector["hex"]) for vector in load("gob.json")["vectors"]]

    def decode(data: bytes) -> None:
        reader = GobReader(data)
        while not reader.at_end:
            value = reader.read()
            assert size(value) <= 2 * len(data)

    fuzz(decode, valid, WireError)


def test_topology() -> None:
    valid = [
        bytes.fromhex(step["update_gob"]) for step in load("topology.json")["steps"] if "update_gob" in step
    ]

    def decode(data: bytes) -> None:
        records = decode_topology_untrusted(data)
        assert len(records) <= limits.PEERS_MAX
        assert sum(1 + len(record.connections) for record in records) <= len(data)
        # What we took in we can send on, and others take it as we did.
        assert decode_topology_untrusted(encode_topology(records)) == records

    fuzz(decode, valid, WireError)


LIVE_PLAINTEXTS = [
    bytes.fromhex(frame["plaintext"])
    for connection in load("live_password_2routers.json")["connections"]
    for frame in connection["tcp_frames"]
]


def test_messages() -> None:
    def decode(data: bytes) -> None:
        message = decode_message_untrusted(data)
        assert size(vars_of(message)) <= len(data) + 20
        if not isinstance(message, Unknown) and not is_never_said(message):
            assert decode_message_untrusted(encode_message(message)) == message

    fuzz(decode, [plaintext for plaintext in LIVE_PLAINTEXTS if len(plaintext) < 700], WireError)


def is_never_said(message: Message) -> bool:
    """Whether it is one of those that a Weave Net router doesn't survive, or ends the connection for."""
    match message:
        case OverlayControl(index):
            return index > 1
        case Unicast("topology"):
            return True
    return False


def vars_of(value: object) -> list[object]:
    return [getattr(value, name) for name in type(value).__slots__]


FEATURES = Features(PeerName(7), "host", 1, 2, 3, False, ("fastpath", "sleeve"), "1;clear;1376")


def test_features() -> None:
    live = [plaintext for plaintext in LIVE_PLAINTEXTS if b"PeerNameFlavour" in plaintext]

    def decode(data: bytes) -> None:
        features = decode_features_untrusted(data)
        assert 0 < features.name < 1 << 48
        assert features.short_id is None or features.short_id < 4096
        assert len(features.nickname.encode()) <= limits.NICKNAME_BYTES_MAX
        assert decode_features_untrusted(encode_features(features)) == features

    fuzz(decode, [*live, encode_features(FEATURES)], WireError)


def test_fastpath_feature() -> None:
    def decode(data: bytes) -> None:
        feature = decode_fastpath_feature_untrusted(data.decode(errors="replace"))
        assert feature.versions
        assert feature.ciphers
        assert len(feature.versions) <= 16
        assert limits.OVERLAY_MTU_MIN <= feature.overlay_mtu < 1 << 16

    fuzz(decode, [b"1;aes-256-gcm,chacha20-poly1305;1376", b"1,2;clear;1376;later"], WireError)


def test_overlay_control() -> None:
    messages = (Start(1, "clear", 1, 6783, 7), Epoch(1), EpochAck(1 << 40))
    valid = [bytes([subtag]) + body for subtag, body in map(encode_overlay_control, messages)]

    def decode(data: bytes) -> None:
        message = decode_overlay_control_untrusted(data[0] if data else 0, data[1:])
        if message is not None:
            assert decode_overlay_control_untrusted(*encode_overlay_control(message)) == message
        if isinstance(message, Start):
            assert 1 <= message.lanes <= limits.LANES_MAX
            assert message.port
            assert message.index

    fuzz(decode, valid, WireError)


def test_sleeve_control() -> None:
    messages = [HeartbeatAck(), FragmentsArrive(), MtuArrives(1414)]
    valid = [bytes([subtag]) + body for subtag, body in map(encode_sleeve_control, messages)]

    def decode(data: bytes) -> None:
        subtag, body = data[0] if data else 0, data[1:]
        message = decode_sleeve_control_untrusted(subtag, body)
        if message is not None:
            assert encode_sleeve_control(message) == (subtag, body)

    fuzz(decode, valid, WireError)


def test_peer_names() -> None:
    valid = [vector["input"].encode() for vector in json.loads((FILES / "peer_names.json").read_text())]

    def decode(data: bytes) -> None:
        name = parse_peer_name(data.decode(errors="replace"))
        assert parse_peer_name(format_peer_name(name)) == name

    fuzz(decode, valid, WireError)


@pytest.mark.parametrize("key", [b"k" * 32, None])
def test_channel(key: bytes | None) -> None:
    sender = ControlChannel(key, outbound=True)
    stream = b"".join(sender.seal(plaintext) for plaintext in (b"", b"\0", b"hello" * 5))

    def decode(data: bytes) -> None:
        receiver = ControlChannel(key, outbound=False)
        plaintexts = receiver.open(data[:40]) + receiver.open(data[40:])
        assert sum(4 + len(plaintext) for plaintext in plaintexts) <= len(data)
        if key is not None:
            assert plaintexts in ([], [b""], [b"", b"\0"], [b"", b"\0", b"hello" * 5])

    fuzz(decode, [stream], RemoteProtocolError)


@pytest.mark.parametrize("password", [b"password", None])
@pytest.mark.parametrize("outbound", [True, False])
def test_handshake(outbound: bool, password: bytes | None) -> None:
    """Both roles, with and without a password; each takes a quarter of the inputs."""
    peer = Handshake(outbound=not outbound, password=password, features=FEATURES, ephemeral=b"p" * 32)
    ours = Handshake(outbound=outbound, password=password, features=FEATURES, ephemeral=b"o" * 32)
    hello, box = peer.start(), b""
    for answer in (ours.start(), ours.receive(hello)):
        box += peer.receive(answer)

    def decode(data: bytes) -> None:
        victim = Handshake(outbound=outbound, password=password, features=FEATURES, ephemeral=b"o" * 32)
        at = min(len(data), 25)
        answer = victim.receive(data[:at])
        if victim.result is None:
            answer += victim.receive(data[at:])
        assert len(answer) <= limits.PREAUTH_BYTES_MAX
        if victim.result is None and not outbound:
            assert answer == b""
        if victim.result is not None and password is not None:
            assert victim.result.features == FEATURES

    fuzz(decode, [hello + box], RemoteProtocolError, inputs=INPUTS // 4)


def test_addresses() -> None:
    vectors = json.loads((FILES / "ipam.json").read_text())["vectors"]
    states = [bytes.fromhex(v["payload"]) for v in vectors if "tag 5" not in v["carrier"]]
    unicasts = [bytes.fromhex(v["payload"]) for v in vectors if "tag 5" in v["carrier"]]
    fuzz(decode_address_state_untrusted, states, WireError)
    fuzz(decode_address_unicast_untrusted, unicasts, WireError)


def test_leases() -> None:
    one, two = PeerName(1), PeerName(0x020304050607)
    roster = Roster(4, ((one, 1), (two, 7)), ((PeerName(9), one),))
    plain = Statement(one, 9, 1, 4, 300)
    voting = Statement(two, 10, 7, 4, 120, Ballot(3, two), Ballot(2, one), roster._replace(version=5), (one,))
    states = [LeaseState(None, (plain,)), LeaseState(roster, ()), LeaseState(roster, (plain, voting))]

    def decode(data: bytes) -> None:
        state = decode_lease_state_untrusted(data)
        assert size(state) <= len(data)
        # There is one encoding, so what goes on is what came.
        assert encode_lease_state(state) == data

    fuzz(decode, [encode_lease_state(state) for state in states], WireError)


def test_names() -> None:
    """The quick decoder and the one for any types say the same of whatever comes."""
    valid = [bytes.fromhex(vector["payload"]) for vector in load("nameserver.json")["messages"]]

    def decode(data: bytes) -> None:
        try:
            gossip = decode_names_untrusted(data)
        except WireError:
            with pytest.raises(WireError):
                slowly(data)
            raise
        assert gossip == slowly(data)
        assert len(gossip.entries) <= min(len(data), limits.NAMES_MAX)
        # What we took in we can send on, and others take it as we did.
        octets = join_entries(gossip.timestamp, [encode_entry(entry) for entry in gossip.entries])
        assert decode_names_untrusted(octets) == gossip

    def slowly(data: bytes) -> NameGossip:
        reader = GobReader(data)
        gossip = _decode_any_untrusted(reader)
        if not reader.at_end:
            raise WireError("more")
        return gossip

    fuzz(decode, valid, WireError)
