"""Hosts that run the gossip library's peer (tests/interop/meshpeer) or weavepy, seen alike by the tests.

Rules of this file. A password goes by environment or file. Whatever is waited for has a deadline, and what
was said until then is in the failure. The easy mistake: an event may have come before one waits for it; so
all are kept, and a wait looks at the old ones first.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from weavepy.client import Client
from weavepy.lab.hosts import Host, Lab

PROGRAM = Path(__file__).parents[2] / "build" / "meshpeer"
WAIT_S = 15.0
PORT = 6783
OVERLAYS = ("fastpath", "sleeve")  # that weavepy offers, in its order; the tests are run with each
OFFERS = {"fastpath": "fastpath sleeve", "sleeve": "fastdp sleeve"}  # what a peer offers to end up with it
CIPHERS = "aes-256-gcm chacha20-poly1305"
T = TypeVar("T")
Event = dict[str, Any]


def until(what: Callable[[], T], seen: Callable[[], object], *, wait_s: float = WAIT_S) -> T:
    """Polls until `what` is true, and returns it; fails after `wait_s`, with what `seen` shows."""
    deadline = time.monotonic() + wait_s
    while not (found := what()):
        assert time.monotonic() < deadline, seen()
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Connection:
    """One side of a connection, in the words of whoever has it."""

    address: str
    outbound: bool
    established: bool


@dataclass
class Peer:
    """Who takes part: its name, and where it is."""

    host: Host
    name: str
    nickname: str
    port: int = PORT

    @property
    def address(self) -> str:
        return f"{self.host.address}:{self.port}"

    def router(self) -> dict[str, Any]:
        """Returns its report of itself, under Weave Net's key names."""
        raise NotImplementedError

    def connect(self, other: "Peer") -> None:
        """Has it dial another, and go on until that is connected."""
        raise NotImplementedError

    def restart(self, *, crash: bool) -> None:
        """Ends it and starts it with the same settings."""
        raise NotImplementedError

    def topology(self) -> dict[str, dict[str, Connection]]:
        """Returns who it knows to be connected to whom."""
        return {
            peer["Name"]: {
                c["Name"]: Connection(c["Address"], c["Outbound"], c["Established"])
                for c in peer["Connections"] or []
            }
            for peer in self.router()["Peers"]
        }

    def nicknames(self) -> dict[str, str]:
        return {peer["Name"]: peer["NickName"] for peer in self.router()["Peers"]}

    def neighbours(self) -> dict[str, Connection]:
        return self.topology()[self.name]

    def sees(self, edges: Iterable[tuple["Peer", "Peer"]]) -> bool:
        """Tells whether it knows exactly these connections, all established in both directions."""
        wanted = {(a.name, b.name) for a, b in edges}
        wanted |= {(b, a) for a, b in wanted}
        known = {(a, b): c for a, others in self.topology().items() for b, c in others.items()}
        return set(known) == wanted and all(c.established for c in known.values())

    def problems(self) -> str:
        """Returns what it says of connections that failed."""
        return " ".join(c["Info"] for c in self.router()["Connections"] or [] if c["State"] != "established")


@dataclass
class Weavepy(Peer):
    """A weavepy router."""

    password: str | None = None

    def launch(self, *arguments: str) -> None:
        secret = ["--no-encryption"]
        if self.password is not None:
            path = self.host.directory / "password"
            path.write_text(self.password + "\n")
            path.chmod(0o600)
            secret = ["--password-file", str(path)]
        identity = ["--name", self.name, "--nickname", self.nickname]
        self.host.weavepy("launch", *secret, *identity, *arguments)

    def router(self) -> dict[str, Any]:
        return Client(str(self.host.run_dir)).get("/report")["Router"]

    def connect(self, other: Peer) -> None:
        self.host.weavepy("connect", "--no-wait", other.address)

    def status(self, what: str) -> str:
        return self.host.weavepy("status", what, check=False).stdout

    def log(self) -> str:
        return (self.host.run_dir / "weavepy.log").read_text()

    def restart(self, *, crash: bool) -> None:
        if crash:
            self.host.kill_router()
        else:
            self.host.weavepy("stop")
        self.host.weavepy("launch")


@dataclass
class MeshPeer(Peer):
    """A peer that runs the library. Its own word for what it does are events."""

    settings: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _process: subprocess.Popen[str] | None = None
    _reader: threading.Thread | None = None
    _commands: int = 0

    def start(self) -> None:
        """Starts it, with no memory of an earlier run, and returns when it listens."""
        self.events = []
        env = {key: value for key, value in os.environ.items() if not key.startswith("MESHPEER_")}
        process = subprocess.Popen(
            self.host.command([str(PROGRAM)]),
            env=env | self.settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process.stdout, self.events), daemon=True)
        self._reader.start()
        self.wait("ready", name=self.name)

    def end(self) -> None:
        """Ends it as a crash would. Once is enough."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert self._reader is not None
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self._reader.join(WAIT_S)
        process.stdout.close()

    def do(self, command: str, **arguments: object) -> Any:
        """Has a command done, and returns its answer."""
        done = self.attempt(command, **arguments)
        assert "error" not in done, done
        return done["answer"]

    def attempt(self, command: str, **arguments: object) -> Event:
        """Has a command done, and returns what it came to, also if that is an error."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._commands += 1
        line = json.dumps({"id": self._commands, "do": command, **arguments})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.wait("done", id=self._commands)

    def wait(self, event: str, **wanted: object) -> Event:
        """Returns the first event with these values."""
        with self._news:
            found = self._news.wait_for(lambda: self.seen(event, **wanted) or self._ended(), WAIT_S)
        matching = self.seen(event, **wanted)
        assert matching, (found, event, wanted, self.events[-30:])
        return matching[0]

    def seen(self, event: str, **wanted: object) -> list[Event]:
        """Returns the events with these values so far."""
        wanted["event"] = event
        return [e for e in tuple(self.events) if all(e.get(key) == value for key, value in wanted.items())]

    def heard(self, text: str) -> list[tuple[str, str]]:
        """Returns how and from whom a text came, once for each time."""
        return [(e["how"], e["from"]) for e in self.seen("heard", text=text)]

    def log(self) -> str:
        return "\n".join(e["text"] for e in self.seen("log"))

    def router(self) -> dict[str, Any]:
        return self.do("status")

    def connect(self, other: Peer) -> None:
        self.do("connect", peers=[other.address])

    def restart(self, *, crash: bool) -> None:
        assert crash  # it has no other end: the library says goodbye to nobody
        self.end()
        self.start()

    def _ended(self) -> bool:
        return bool(self.events) and self.events[-1]["event"] == "ended"

    def _read(self, output: IO[str], events: list[Event]) -> None:
        for line in output:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "panic", "text": line}  # what the runtime says when the program fails
            self._tell(events, event)
        self._tell(events, {"event": "ended"})

    def _tell(self, events: list[Event], event: Event) -> None:
        with self._news:
            events.append(event)
            self._news.notify_all()


class Interop:
    """Makes peers of a lab, each on a host of its own, and ends those that aren't weavepy's to end."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._peers: list[MeshPeer] = []

    def __enter__(self) -> "Interop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.end()

    def weavepy(self, *arguments: str, password: str | None = None, name: str | None = None) -> Weavepy:
        """Launches a weavepy router on another host; `arguments` are more of `weavepy launch`."""
        host = self.lab.add_host()
        number = len(self.lab.hosts)
        peer = Weavepy(host, name or f"02:00:00:00:00:{number:02x}", f"weavepy{number}", password=password)
        peer.launch(*arguments)
        return peer

    def mesh_peer(
        self,
        *dials: Peer,
        password: str | None = None,
        overlays: str | None = OFFERS["fastpath"],
        name: str | None = None,
        ciphers: str = CIPHERS,
        discovery: bool = False,
    ) -> MeshPeer:
        """Starts the library's peer on another host. `overlays` None: it doesn't say which it has."""
        host = self.lab.add_host()
        number = len(self.lab.hosts)
        peer = MeshPeer(host, name or f"02:00:00:00:00:{number:02x}", f"go{number}")
        peer.settings = {
            "MESHPEER_NAME": peer.name,
            "MESHPEER_NICKNAME": peer.nickname,
            "MESHPEER_PORT": str(peer.port),
            "MESHPEER_PEERS": " ".join(other.address for other in dials),
            "MESHPEER_CHANNELS": "echo",
            "MESHPEER_CIPHERS": ciphers,
            "MESHPEER_PASSWORD": password or "",
            "MESHPEER_DISCOVERY": "yes" if discovery else "",
        }
        if overlays is not None:
            peer.settings["MESHPEER_OVERLAYS"] = overlays
        self._peers.append(peer)
        peer.start()
        return peer
