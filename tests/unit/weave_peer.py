"""A model of a Weave Net 2.8.1 peer that shares no code with weavepy: bytes in, bytes out. For tests only.

The model's gob is written by hand from the wire format, its boxes are PyNaCl's. It sends its features unasked, as
Weave Net does.
"""

import hashlib
import random
from typing import Any

from nacl.public import Box, PrivateKey, PublicKey
from nacl.secret import SecretBox

from weavepy import events as ev
from weavepy.events import Address, ConnId, Effect, PeerName
from weavepy.ipam.config import AllocatorConfig
from weavepy.mesh.trust import parse_subnets
from weavepy.names.config import NamesConfig
from weavepy.router import Router, RouterConfig
from weavepy.wire.topologynews import Scanner

OWN, PEER, THIRD = 0x020000000001, 0x020000000002, 0x020000000003
HERE, THERE = Address("192.0.2.1", 6783), Address("192.0.2.2", 6783)
PASSWORD = b"a password for tests"


# ---- gob by hand


def uint(number: int) -> bytes:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([number]) if number < 128 else bytes([256 - len(octets)]) + octets


def text(value: str | bytes) -> bytes:
    octets = value.encode() if isinstance(value, str) else value
    return uint(len(octets)) + octets


def message(body: bytes) -> bytes:
    return uint(len(body)) + body


def features_of(texts: dict[str, str]) -> bytes:
    pairs = b"".join(text(key) + text(value) for key, value in texts.items())
    return bytes.fromhex("0eff93040102ff9400010c010c0000") + message(
        b"\xff\x94\x00" + uint(len(texts)) + pairs
    )


def field(name: str, kind: int) -> bytes:
    return b"\x01" + text(name) + b"\x01" + uint(2 * kind) + b"\x00"


def struct_type(number: int, name: str, *fields: bytes) -> bytes:
    common = b"\x01" + text(name) + b"\x01" + uint(2 * number) + b"\x00"
    inner = b"\x01" + common + b"\x01" + uint(len(fields)) + b"".join(fields) + b"\x00"
    return message(uint(2 * number - 1) + b"\x03" + inner + b"\x00")


def slice_type(number: int, element: int) -> bytes:
    inner = b"\x01\x02" + uint(2 * number) + b"\x00\x01" + uint(2 * element) + b"\x00"
    return message(uint(2 * number - 1) + b"\x02" + inner + b"\x00")


def topology(name: int, nickname: str, uid: int, version: int, *links: tuple[int, str, bool, bool]) -> bytes:
    """One peer's record, with Go's order of definitions."""
    summary = struct_type(
        73,
        "peerSummary",
        field("NameByte", 5),
        field("NickName", 6),
        field("UID", 3),
        field("Version", 3),
        field("ShortID", 3),
        field("HasShortID", 1),
    )
    value = b"\x01" + text(name.to_bytes(6, "big")) + b"\x01" + text(nickname) + b"\x01" + uint(uid)
    value += b"\x01" + uint(version) + b"\x01" + uint(816) + b"\x01\x01\x00"
    listed = b""
    for remote, address, outbound, established in links:
        listed += b"\x01" + text(remote.to_bytes(6, "big")) + b"\x01" + text(address)
        listed += b"\x01\x01" if outbound else b""
        listed += (b"\x01\x01" if outbound else b"\x02\x01") if established else b""
        listed += b"\x00"
    connection = struct_type(
        74,
        "connectionSummary",
        field("NameByte", 5),
        field("RemoteTCPAddr", 6),
        field("Outbound", 1),
        field("Established", 1),
    )
    return b"".join(
        (
            summary,
            message(uint(2 * 73) + value),
            slice_type(75, 74),
            connection,
            message(uint(2 * 75) + b"\x00" + uint(len(links)) + listed),
        )
    )


def gossip(channel: str, sender: int, payload: bytes) -> bytes:
    parts = (b"\x0c\x00" + text(channel), b"\x06\x00" + uint(sender), b"\x0a\x00" + text(payload))
    return b"\x04" + b"".join(map(message, parts))


class Gob:
    """Reads what the schema that we know leads to expect; definitions are skipped."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def uint(self) -> int:
        first, self.octets = self.octets[0], self.octets[1:]
        return first if first < 128 else int.from_bytes(self.take(256 - first), "big")

    def take(self, count: int) -> bytes:
        taken, self.octets = self.octets[:count], self.octets[count:]
        assert len(taken) == count
        return taken

    def text(self) -> bytes:
        return self.take(self.uint())

    def value(self) -> "Gob":
        """Returns the next message that is a value, after its type."""
        while True:
            body = Gob(self.take(self.uint()))
            if body.uint() % 2 == 0:
                return body

    def struct(self, kinds: str) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        at = -1
        while delta := self.uint():
            at += delta
            fields[at] = self.text() if kinds[at] == "s" else self.uint()
        return fields


def read_gossip(plaintext: bytes) -> tuple[str, int, bytes]:
    assert plaintext[0] == 4
    stream = Gob(plaintext[1:])
    values = [stream.value() for _ in range(3)]
    assert all(value.uint() == 0 for value in values)
    assert not stream.octets
    return values[0].text().decode(), values[1].uint(), values[2].text()


def read_topology(payload: bytes) -> dict[int, tuple[dict[int, Any], list[dict[int, Any]]]]:
    stream = Gob(payload)
    peers = {}
    while stream.octets:
        summary = stream.value().struct("ssuuuu")
        listed = stream.value()
        assert listed.uint() == 0
        connections = [listed.struct("ssuu") for _ in range(listed.uint())]
        assert not listed.octets
        peers[int.from_bytes(summary[0], "big")] = (summary, connections)
    return peers


# ---- the peer


class Weave:
    """A Weave Net router at the other end of one connection of `router`."""

    def __init__(
        self,
        router: Router,
        *,
        dials: bool,
        password: bytes | None,
        overlays: str | None,
        slices: int = 10**6,
        versions: bytes = b"\x01\x02",
        opening: bytes | None = None,
        at: float = 1.0,
        nickname: str = "weave",
        trusted: bool = False,
    ) -> None:
        """`opening`: octets to send instead of the handshake."""
        self.router = router
        self.dials = dials
        self.slices = slices
        self.now = at
        self.sealed = self.opened = 0
        self.key: bytes | None = None
        self.effects: list[Effect] = []
        self.received = b""
        self.taken = 0
        texts = {
            "PeerNameFlavour": "mac",
            "Name": "2::2",
            "NickName": nickname,
            "UID": "18446744073709551615",
            "ConnID": "77",
            "ShortID": "816",
            "Trusted": "true" if trusted else "false",
            "SomethingNew": "of a later version",
        }
        texts |= {} if overlays is None else {"Overlays": overlays}
        if overlays is not None and "fastpath" in overlays:
            texts["Fastpath"] = "1;clear,aes-256-gcm,quantum-1;1376;later"
        private = PrivateKey(bytes(range(32)))
        if dials:
            self.conn = ConnId(1)
            self.perform(
                router.handle(ev.Accepted(self.conn, Address("192.0.2.2", 41000), HERE, 1500), self.now)
            )
        else:
            first = router.handle(ev.ConnectPeers((("weave", THERE),)), self.now)
            (dial,) = (effect for effect in first if isinstance(effect, ev.Dial))
            self.conn = dial.conn
            self.perform(router.handle(ev.Connected(self.conn, THERE, HERE, 1500), self.now))
        if opening is not None:
            self.say(opening)
            return
        self.say(b"weave" + versions)
        self.say(b"\x01" + bytes(private.public_key) if password else b"\x00")
        if self.closed:
            return
        assert self.read(7) == b"weave\x02\x02"
        assert self.read(1) == (b"\x01" if password else b"\x00")
        if password:
            shared = Box(private, PublicKey(self.read(32))).shared_key()
            self.key = hashlib.sha256(shared + password).digest()
        if dials:
            assert not self.received, "the acceptor spoke before it had opened a box"
        self.tell(features_of(texts))
        if self.closed:
            return
        (answer,) = self.heard(1)
        stream = Gob(answer)
        value = stream.value()
        assert value.uint() == 0
        self.features = {value.text().decode(): value.text().decode() for _ in range(value.uint())}

    @property
    def closed(self) -> bool:
        return ev.Close(self.conn) in self.effects

    def perform(self, effects: list[Effect]) -> None:
        self.effects += effects
        self.received += b"".join(e.data for e in effects if isinstance(e, ev.Send) and e.conn == self.conn)

    def say(self, octets: bytes) -> None:
        for at in range(0, len(octets), self.slices):
            if not self.closed:
                piece = octets[at : at + self.slices]
                self.perform(self.router.handle(ev.Received(self.conn, piece), self.now))

    def tell(self, *plaintexts: bytes) -> None:
        for plaintext in plaintexts:
            box = plaintext
            if self.key is not None:
                nonce = (b"\xc0" if self.dials else b"\x40") + bytes(15) + self.sealed.to_bytes(8, "big")
                box = SecretBox(self.key).encrypt(plaintext, nonce).ciphertext
                self.sealed += 1
            self.say(len(box).to_bytes(4, "big") + box)

    def read(self, count: int) -> bytes:
        taken, self.received = self.received[:count], self.received[count:]
        assert len(taken) == count
        return taken

    def heard(self, most: int = 10**6) -> list[bytes]:
        plaintexts: list[bytes] = []
        while self.received and len(plaintexts) < most:
            box = self.read(int.from_bytes(self.read(4), "big"))
            if self.key is not None:
                nonce = (b"\x40" if self.dials else b"\xc0") + bytes(15) + self.opened.to_bytes(8, "big")
                box = SecretBox(self.key).decrypt(box, nonce)
                self.opened += 1
            plaintexts.append(box)
        return plaintexts

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.router.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.perform(self.router.handle_timer(self.now))
            after = self.router.next_timer()
            assert after is None or after > self.now, "a timer that is still due would spin"
        self.now = until

    def logged(self) -> str:
        return "\n".join(e.text for e in self.effects if isinstance(e, ev.Log))


def router(
    password: bytes | None,
    overlays: tuple[str, ...] = ("fastpath",),
    trusts: str = "",
    scanner: Scanner | None = None,
    addresses: AllocatorConfig | None = None,
    names: NamesConfig | None = None,
    stored: dict[str, str] | None = None,
    uid: int = 1234,
    at: float = 0.0,
) -> Router:
    ciphers = ("clear",) if password is None else ("aes-256-gcm", "chacha20-poly1305")
    config = RouterConfig(
        name=PeerName(OWN),
        nickname="one",
        password=password,
        port=6783,
        overlay_mtu=1376,
        ciphers=ciphers,
        lanes=2,
        conn_limit=200,
        discovery=True,
        overlays=overlays,
        trusted_subnets=parse_subnets(trusts),
    )
    r = Router(
        config,
        uid=uid,
        entropy=random.Random(5),
        scanner=scanner,
        addresses=addresses,
        names=names,
        stored=stored,
    )
    r.start(at)
    return r
