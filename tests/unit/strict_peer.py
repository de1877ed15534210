"""A peer that fails the test at the first octet that would hurt a Weave Net 2.8.1 router. For tests only.

Rules of this file. It is written from what is known to crash, hang or disconnect real routers, and shares no code with
weavepy: its gob is strict and by hand, its boxes are PyNaCl's. What we pass on unread has to be what somebody sent.
The thing people get wrong: an index of overlays counts in the list that both ends have, not in ours.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

from nacl.public import Box, PrivateKey, PublicKey
from nacl.secret import SecretBox

MESSAGE_MAX = 10 * 1024 * 1024
BASIC = {1: "bool", 2: "int", 3: "uint", 5: "bytes", 6: "string"}
SUMMARY = (
    ("NameByte", "bytes"),
    ("NickName", "string"),
    ("UID", "uint"),
    ("Version", "uint"),
    ("ShortID", "uint"),
    ("HasShortID", "bool"),
)
CONNECTION = (
    ("NameByte", "bytes"),
    ("RemoteTCPAddr", "string"),
    ("Outbound", "bool"),
    ("Established", "bool"),
)
SLEEVE_BODIES = {1: 0, 2: 0, 3: 2}
ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:.%a-z]+\]):\d{1,5}")
Kind = Any  # a name of BASIC, ("slice", kind), ("map", kind, kind) or ("struct", fields)


class StrictGob:
    """Reads one gob stream as Go does, and takes nothing that Go wouldn't write."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.end = data, 0, len(data)
        self.types: dict[int, Any] = {}

    def values(self) -> list[tuple[Kind, Any]]:
        found = []
        while self.at < len(self.data):
            self.end = len(self.data)
            length = self.unsigned()
            assert 0 < length <= len(self.data) - self.at, "a message longer than the stream"
            self.end = self.at + length
            number = self.signed()
            if number < 0:
                assert -number >= 64
                assert -number not in self.types, "a type defined twice"
                self.types[-number] = self.definition(-number)
            else:
                kind = self.kind(number)
                if kind[0] != "struct":
                    assert self.unsigned() == 0
                found.append((kind, self.value(kind)))
            assert self.at == self.end, "octets left over"
        return found

    def unsigned(self) -> int:
        assert self.at < self.end
        first = self.data[self.at]
        self.at += 1
        if first < 128:
            return first
        octets = self.take(256 - first)
        assert len(octets) <= 8
        number = int.from_bytes(octets, "big")
        assert octets[0] > 0, "not the shortest form"
        assert number >= 128, "not the shortest form"
        return number

    def signed(self) -> int:
        number = self.unsigned()
        return ~(number >> 1) if number & 1 else number >> 1

    def take(self, count: int) -> bytes:
        assert count <= self.end - self.at
        self.at += count
        return self.data[self.at - count : self.at]

    def text(self) -> bytes:
        return self.take(self.unsigned())

    def fields(self, *readers: Any) -> list[Any]:
        """A struct whose fields are read by `readers`."""
        found: list[Any] = [None] * len(readers)
        at = -1
        while delta := self.unsigned():
            at += delta
            found[at] = readers[at]()
        return found

    def definition(self, number: int) -> Any:
        def common() -> None:
            _, said = self.fields(lambda: self.text().decode(), self.signed)
            assert said == number

        def field() -> tuple[str, int]:
            name, kind = self.fields(lambda: self.text().decode(), self.signed)
            return name, kind

        def structure() -> Any:
            def listed() -> list[tuple[str, int]]:
                return [field() for _ in range(self.unsigned())]

            return ("struct", self.fields(common, listed)[1] or [])

        def refuse() -> None:
            raise AssertionError("a kind of type that Weave doesn't use")

        def a_slice() -> Any:
            return ("slice", self.fields(common, self.signed)[1])

        def a_map() -> Any:
            return ("map", *self.fields(common, self.signed, self.signed)[1:])

        (found,) = [x for x in self.fields(refuse, a_slice, structure, a_map, refuse, refuse, refuse) if x]
        return found

    def kind(self, number: int) -> Kind:
        if number in BASIC:
            return BASIC[number]
        kind = self.types[number]
        if kind[0] == "struct":
            return ("struct", tuple((name, self.kind(of)) for name, of in kind[1]))
        return (kind[0], *(self.kind(of) for of in kind[1:]))

    def value(self, kind: Kind) -> Any:
        if kind == "bool":
            flag = self.unsigned()
            assert flag < 2
            return bool(flag)
        if kind in ("int", "uint", "bytes", "string"):
            read = {"int": self.signed, "uint": self.unsigned, "bytes": self.text}
            return read[kind]() if kind in read else self.text().decode()
        if kind[0] == "slice":
            return [self.value(kind[1]) for _ in range(self.unsigned())]
        if kind[0] == "map":
            pairs = [(self.value(kind[1]), self.value(kind[2])) for _ in range(self.unsigned())]
            return {repr(key) if isinstance(key, dict) else key: value for key, value in pairs}
        found = self.fields(*[lambda k=of: self.value(k) for _, of in kind[1]])
        return {name: value for (name, _), value in zip(kind[1], found, strict=True) if value is not None}


def check_topology(payload: bytes) -> None:
    values = StrictGob(payload).values()
    assert values
    assert len(values) % 2 == 0
    names = set()
    for (kind, summary), (list_kind, connections) in zip(values[::2], values[1::2], strict=True):
        assert kind == ("struct", SUMMARY)
        assert list_kind == ("slice", ("struct", CONNECTION))
        assert len(summary["NameByte"]) == 6
        assert any(summary["NameByte"])
        assert summary.get("ShortID", 0) < 1 << 16
        names.add(summary["NameByte"])
        for connection in connections:
            assert len(connection["NameByte"]) == 6
            assert any(connection["NameByte"])
    assert len(names) * 2 == len(values), "a peer twice"


def check_addresses(payload: bytes, kind: int) -> None:
    """`kind`: the first octet of a unicast: a wish for space, a state, or that there is none. Weave Net ends the
    connection for a ring that makes no sense.
    """
    ((_, told),) = StrictGob(payload).values()
    if kind != 1:
        assert told["Start"] < told["End"]
        return
    ring = told.get("Ring")
    if ring is None:
        return
    assert not told.get("Paxos"), "who has a ring doesn't vote"
    tokens = [entry["Token"] for entry in ring["Entries"]]
    assert tokens == sorted(set(tokens))
    assert all(ring["Start"] <= token < ring["End"] for token in tokens)
    following = [*tokens[1:], tokens[0] + ring["End"] - ring["Start"]]
    for entry, after in zip(ring["Entries"], following, strict=True):
        assert 0 < entry["Peer"] < 1 << 48
        assert entry.get("Free", 0) <= after - entry["Token"]


def check_features(data: bytes) -> dict[str, str]:
    ((kind, texts),) = StrictGob(data).values()
    assert kind == ("map", "string", "string")
    assert texts["PeerNameFlavour"] == "mac"
    assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", texts["Name"])
    assert texts["Name"] != "00:00:00:00:00:00"
    for key, bits in (("UID", 64), ("ConnID", 64), ("ShortID", 12)):
        assert re.fullmatch(r"0|[1-9][0-9]*", texts[key]), key
        assert int(texts[key]) < 1 << bits, key
    assert "NickName" in texts
    assert texts["Trusted"] in ("true", "false")
    overlays = texts["Overlays"].split(" ")
    assert overlays in (["fastpath"], ["sleeve"], ["fastpath", "sleeve"]), "another order than everybody's"
    return texts


class StrictPeer:
    """One end of one control connection. `overlays` is the feature's text, None: it isn't mentioned."""

    def __init__(
        self,
        name: int,
        *,
        dials: bool,
        password: bytes | None,
        overlays: str | None,
        conn_id: int = 77,
        uid: int = 9,
        trusts: bool = False,
        passed_on: set[tuple[str, bytes]] | None = None,
    ) -> None:
        """`passed_on`: the channels and payloads that anybody has given the router to pass on."""
        self.name, self.dials, self.password, self.trusts = name, dials, password, trusts
        self.overlays, self.conn_id, self.uid = overlays, conn_id, uid
        self.passed_on = set() if passed_on is None else passed_on
        self.reads_addresses = False
        self.reads_names: Callable[[int, int, bytes], None] | None = None  # takes tag, source and payload
        self.private = PrivateKey(hashlib.sha256(f"{name} {conn_id}".encode()).digest())
        self.key: bytes | None = None
        self.features: dict[str, str] | None = None
        self.sealed = self.opened = 0
        self.received = b""
        self.greeted = False
        self.messages: list[bytes] = []
        self.heard_at = 0.0
        self.longest_silence = 0.0

    # ---- what it says

    def opening(self) -> bytes:
        flag = b"\x01" + bytes(self.private.public_key) if self.password else b"\x00"
        return b"weave\x01\x02" + flag

    def texts(self) -> dict[str, str]:
        texts = {
            "PeerNameFlavour": "mac",
            "Name": self.name.to_bytes(6, "big").hex(":"),
            "NickName": f"peer{self.name & 255}",
            "UID": str(self.uid),
            "ConnID": str(self.conn_id),
            "ShortID": str(self.name & 4095),
            "Trusted": "true" if self.trusts else "false",
        }
        if self.overlays is not None:
            texts["Overlays"] = self.overlays
            if "fastpath" in self.overlays:
                texts["Fastpath"] = "1;clear,aes-256-gcm,chacha20-poly1305;1376"
        return texts

    def data_key(self) -> bytes | None:
        """What its overlays use: both ends have to trust the way between them to do without."""
        assert self.features is not None
        return None if self.trusts and self.features["Trusted"] == "true" else self.key

    def seal(self, plaintext: bytes) -> bytes:
        if self.key is not None:
            nonce = (b"\xc0" if self.dials else b"\x40") + bytes(15) + self.sealed.to_bytes(8, "big")
            plaintext = SecretBox(self.key).encrypt(plaintext, nonce).ciphertext
            self.sealed += 1
        return len(plaintext).to_bytes(4, "big") + plaintext

    # ---- what it hears

    def hear(self, data: bytes, now: float) -> None:
        """Takes what the router has sent. Its own features can be sealed when `greeted` is set."""
        self.received += data
        if not self.greeted:
            size = 8 + (32 if self.password else 0)
            if len(self.received) < size:
                return
            greeting, self.received = self.received[:size], self.received[size:]
            assert greeting[:7] == b"weave\x02\x02"
            assert greeting[7] == (1 if self.password else 0)
            if self.password:
                shared = Box(self.private, PublicKey(greeting[8:])).shared_key()
                self.key = hashlib.sha256(shared + self.password).digest()
            self.greeted = True
            self.heard_at = now
        while len(self.received) >= 4:
            length = int.from_bytes(self.received[:4], "big")
            assert length <= MESSAGE_MAX
            if len(self.received) < 4 + length:
                return
            box, self.received = self.received[4 : 4 + length], self.received[4 + length :]
            if self.key is not None:
                nonce = (b"\x40" if self.dials else b"\xc0") + bytes(15) + self.opened.to_bytes(8, "big")
                box = SecretBox(self.key).decrypt(box, nonce)
                self.opened += 1
            self.longest_silence = max(self.longest_silence, now - self.heard_at)
            self.heard_at = now
            if self.features is None:
                self.features = check_features(box)
            else:
                self.messages.append(box)
                self.check(box)

    def check(self, plaintext: bytes) -> None:
        assert self.features is not None
        assert plaintext, "an empty message"
        tag, body = plaintext[0], plaintext[1:]
        if tag == 0:
            assert not body
        elif tag in (1, 2, 3):
            assert self.overlays is None, "one of sleeve's own tags to a peer that lists overlays"
            assert len(body) == SLEEVE_BODIES[tag]
        elif tag in (4, 5, 6):
            self.check_envelope(tag, body)
        else:
            assert tag == 7, "a tag that nobody knows"
            self.check_overlay_control(body)

    def check_overlay_control(self, body: bytes) -> None:
        assert self.features is not None
        assert self.overlays is not None, "an index to a peer that lists no overlays"
        assert len(body) >= 2
        ours = self.features["Overlays"].split()
        common = [name for name in self.overlays.split() if name in ours]
        assert body[0] < len(common), "an index beyond the common list crashes it"
        if common[body[0]] == "sleeve":
            assert len(body) - 2 == SLEEVE_BODIES[body[1]]
        else:
            assert 1 <= body[1] <= 4

    def check_envelope(self, tag: int, body: bytes) -> None:
        assert self.features is not None
        kinds = ["string", *["uint"] * (2 if tag == 5 else 1), "bytes"]
        values = StrictGob(body).values()
        assert [kind for kind, _ in values] == kinds
        channel, *names, payload = [value for _, value in values]
        assert all(0 < name < 1 << 48 for name in names)
        own = int(self.features["Name"].replace(":", ""), 16)
        if tag == 4:
            assert names == [own], "a gossip names who sends it"
        if channel == "topology":
            assert tag != 5, "a unicast of topology ends the connection"
            check_topology(payload)
        elif channel == "IPallocation" and self.reads_addresses and not (tag == 5 and names[0] != own):
            check_addresses(payload[1:] if tag == 5 else payload, kind=payload[0] if tag == 5 else 1)
        elif channel == "nameserver" and self.reads_names is not None and tag != 5:
            self.reads_names(tag, names[0], payload)
        else:
            assert (channel, payload) in self.passed_on, "what nobody has sent"
        if tag == 5 and channel == "IPallocation":
            assert payload, "crashes it"
            assert payload[0] <= 2, "blocks it for ever"
