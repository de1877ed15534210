"""Recorded sessions of real routers, replayed to a whole router of ours: in the place of the traced one octet by octet,
in the place of the one at the other end message by message.

Whatever it answers is judged by `strict_peer`.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from nacl.secret import SecretBox
from strict_peer import StrictGob, StrictPeer

from weavepy import events as ev
from weavepy.events import Address, ConnId, PeerName
from weavepy.router import Router, RouterConfig

FILES = Path(__file__).parents[1] / "vectors"
SESSIONS = [
    pytest.param(connection, id=f"{name}-{number}")
    for name in ("live_password_2routers", "live_password_host3")
    for number, connection in enumerate(json.loads((FILES / f"{name}.json").read_text())["connections"])
]
HERE, THERE = Address("10.99.0.1", 6783), Address("10.99.0.2", 6783)
HEARTBEAT = b"\0"


def number_of(name: str) -> int:
    return int(name.replace(":", ""), 16)


class Recorded(random.Random):
    """Draws what the recorded router has drawn, and anything afterwards."""

    def __init__(self, features: dict[str, str], private_key: bytes) -> None:
        super().__init__(1)
        self.drawn = {12: int(features["ShortID"]), 64: int(features["ConnID"])}
        self.private_key = private_key

    def getrandbits(self, k: int) -> int:
        return self.drawn.pop(k, None) if k in self.drawn else super().getrandbits(k)  # type: ignore[return-value]

    def randbytes(self, n: int) -> bytes:
        return self.private_key if n == 32 else super().randbytes(n)


class Run:
    """A router of ours that plays one end, and what comes of it."""

    def __init__(self, session: dict[str, Any], *, traced: bool) -> None:
        self.ours, self.theirs = session["our_features"], session["their_features"]
        if not traced:
            self.ours, self.theirs = self.theirs, self.ours
        self.dials = session["we_dialled (outbound)"] is traced  # we do
        self.judge = StrictPeer(
            number_of(self.theirs["Name"]),
            dials=not self.dials,
            password=session["password"].encode(),
            overlays=self.theirs["Overlays"],
            conn_id=int(self.theirs["ConnID"]),
            uid=int(self.theirs["UID"]),
            passed_on=passed_on(session),
        )
        private = bytes.fromhex(session["local_priv"]) if traced else bytes(range(32))
        self.router = Router(
            RouterConfig(
                name=PeerName(number_of(self.ours["Name"])),
                nickname=self.ours["NickName"],
                password=session["password"].encode(),
                port=6783,
                overlay_mtu=1376,
                ciphers=("aes-256-gcm",),
                lanes=2,
                conn_limit=200,
                discovery=True,
                overlays=("fastpath", "sleeve"),
            ),
            uid=int(self.ours["UID"]),
            entropy=Recorded(self.ours, private),
        )
        self.now = 1.0
        self.link = 0
        self.sent: list[bytes] = []
        self.packets: list[tuple[bool, int]] = []
        self.router.start(0.0)
        if self.dials:
            (dial,) = (
                e for e in self.router.handle(ev.ConnectPeers((("x", THERE),)), 1.0) if isinstance(e, ev.Dial)
            )
            self.conn = dial.conn
            self.perform(self.router.handle(ev.Connected(self.conn, THERE, HERE, 1500), 1.0))
        else:
            self.conn = ConnId(1)
            remote = Address(THERE.host, 53801)
            self.perform(self.router.handle(ev.Accepted(self.conn, remote, HERE, 1500), 1.0))

    def perform(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            match effect:
                case ev.Send(conn, data) if conn == self.conn:
                    self.sent.append(data)
                    self.judge.hear(data, self.now)
                case ev.Close(conn):
                    assert conn != self.conn, [e.text for e in effects if isinstance(e, ev.Log)]
                case ev.LinkAdd(index):
                    self.link = index
                case ev.SleeveSend(index, df, length):
                    self.packets.append((df, length))
                    if length == 60000:
                        self.happen(ev.SleeveTooBig(index, 1500))

    def happen(self, event: ev.Event) -> None:
        self.perform(self.router.handle(event, self.now))

    def receive(self, data: bytes) -> None:
        self.happen(ev.Received(self.conn, data))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.router.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.perform(self.router.handle_timer(self.now))
        self.now = until

    def heard_by_sleeve(self, session: dict[str, Any], direction: str) -> None:
        """What the other router sends by sleeve: its heartbeats and tests, as the engine would tell of them."""
        for packet in session["sleeve_packets"]:
            frame = packet["frames"][0]
            if packet["direction"] != direction:
                continue
            if frame["len"] == 22:
                uid = int(session["conn_uid = ConnID_local XOR ConnID_remote"])
                self.happen(ev.SleeveHeard(self.link, uid, THERE))
            elif frame["len"] in (1428, 60001):
                self.happen(ev.SleeveTested(self.link, frame["len"]))

    def judged(self, session: dict[str, Any], told: list[bytes]) -> None:
        """What must hold in either place: the link is up, all that was told is known, and nothing else was said."""
        report: Any = self.router.report(self.now)
        (connection,) = [c for c in report["Connections"] if c["State"] == "established"]
        assert connection["Info"].startswith("encrypted   sleeve ")
        assert connection["Attrs"]["mtu"] == 1414
        assert list(dict.fromkeys(self.packets)) == [(True, 22), (False, 60001), (True, 60000), (True, 1428)]
        controls = [message.hex() for message in self.judge.messages if message[0] == 7]
        assert controls[0] == "070001"
        assert controls.count("070001") == 1
        recorded = {f["plaintext"] for f in session["tcp_frames"] if f["plaintext"].startswith("07")}
        assert set(controls) <= recorded
        versions = newest(told)
        known = {number_of(peer["Name"]): peer["Version"] for peer in report["Peers"]}
        assert known[self.judge.name] == versions.get(self.judge.name, 0)
        for name in known.keys() & versions.keys() - {
            number_of(self.ours["Name"])
        }:  # some have left meanwhile
            assert known[name] == versions[name]


def passed_on(session: dict[str, Any]) -> set[tuple[str, bytes]]:
    found = set()
    for frame in session["tcp_frames"]:
        plaintext = bytes.fromhex(frame["plaintext"])
        if plaintext[0] in (4, 5, 6):
            values = [value for _, value in StrictGob(plaintext[1:]).values()]
            found.add((values[0], values[-1]))
    return found


def newest(told: list[bytes]) -> dict[int, int]:
    """The version of each peer's last record in the topology messages among `told`."""
    versions: dict[int, int] = {}
    for plaintext in told:
        if plaintext[0] in (4, 6):
            values = [value for _, value in StrictGob(plaintext[1:]).values()]
            if values[0] == "topology":
                for _, summary in StrictGob(values[-1]).values()[::2]:
                    name, version = int.from_bytes(summary["NameByte"], "big"), summary.get("Version", 0)
                    versions[name] = max(version, versions.get(name, 0))
    return versions


@pytest.mark.parametrize("session", SESSIONS)
def test_in_the_place_of_the_traced_router(session: dict[str, Any]) -> None:
    """What it received is replayed as it was on the wire, so what we send under the same key is sealed as it did."""
    run = Run(session, traced=True)
    assert run.sent[0][:8] == b"weave\2\2\1"
    assert run.sent[0][8:].hex() == session["local_pub"]
    key = bytes.fromhex(session["session_key"])
    run.judge.key, run.judge.greeted, run.judge.received = key, True, b""
    run.receive(b"weave\1\2\1" + bytes.fromhex(session["remote_pub"]))
    role = b"\x40" if run.dials else b"\xc0"  # of the other router
    opened = 0
    told = []
    for frame in [f for f in session["tcp_frames"] if f["direction"] == "recv"]:
        while opened < int(frame["nonce"][-16:], 16):  # the recording leaves some messages out
            box = SecretBox(key).encrypt(HEARTBEAT, role + bytes(15) + opened.to_bytes(8, "big")).ciphertext
            run.receive(len(box).to_bytes(4, "big") + box)
            opened += 1
        run.receive(bytes.fromhex(frame["frame_on_wire"]))
        opened += 1
        if opened == 1:
            run.heard_by_sleeve(session, "recv")
        else:
            told.append(bytes.fromhex(frame["plaintext"]))
        run.wait(0.05)
    if b"\x07\x00\x03\x05\x86" not in told:  # left out of one recording
        run.judge.sealed = opened
        run.receive(run.judge.seal(b"\x07\x00\x03\x05\x86"))
    run.wait(1.1)
    run.judged(session, told)


@pytest.mark.parametrize("session", SESSIONS)
def test_in_the_place_of_the_other_router(session: dict[str, Any]) -> None:
    """Its private key isn't known, so what the traced one sent is sealed anew."""
    run = Run(session, traced=False)
    told = []
    run.receive(run.judge.opening())
    for number, frame in enumerate(f for f in session["tcp_frames"] if f["direction"] == "send"):
        plaintext = bytes.fromhex(frame["plaintext"])
        run.receive(run.judge.seal(plaintext))
        if number == 0:
            run.heard_by_sleeve(session, "send")
        else:
            told.append(plaintext)
        run.wait(0.05)
    run.wait(1.1)
    run.judged(session, told)
