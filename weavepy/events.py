"""What can happen to the router, and what the router may ask for. Frozen values, no behaviour.

A shell (the asyncio runtime, or the simulator) turns the world into events, calls `Router.handle(event, now)` and
performs the effects it returns, in order. `now` is in monotonic seconds. A `Persist` must be durable before any
later effect of the same batch is performed.
"""

from dataclasses import dataclass, field
from typing import NewType, Protocol, TypeAlias

PeerName = NewType("PeerName", int)  # 48 bits; 0 is "no peer"
ConnId = NewType("ConnId", int)  # one TCP connection, numbered by the shell or the router, never reused


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and port; IPv6 in its plain text form without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# ---- events: what happened -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """Somebody connected to our control port. The shell chooses `conn` (odd numbers)."""

    conn: ConnId
    remote: Address
    local: Address
    path_mtu: int  # the kernel's path MTU to the remote, bytes of IP packet


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection that a `Dial` asked for is up."""

    conn: ConnId
    remote: Address
    local: Address
    path_mtu: int


@dataclass(frozen=True, slots=True)
class DialFailed:
    conn: ConnId
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes arrived on a control connection."""

    conn: ConnId
    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """A control connection ended and not because we asked for it."""

    conn: ConnId
    reason: str


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The engine opened an authenticated heartbeat on link `index`."""

    index: int
    heard: bool  # the peer says that it has received ours
    rtt_us: int  # 0 when the heartbeat echoed nothing
    source: Address  # where it came from


@dataclass(frozen=True, slots=True)
class LinkAlive:
    """Authentic datagrams of link `index` arrive. Said once a second at most, and not beside a heartbeat."""

    index: int


@dataclass(frozen=True, slots=True)
class EpochUsed:
    """The first datagram under a receiving key of link `index` arrived. `epoch` is its low 32 bits."""

    index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class LinkMoved:
    """The peer of link `index` sends from a new address now (authenticated datagrams, or by its token)."""

    index: int
    source: Address


@dataclass(frozen=True, slots=True)
class KeyWorn:
    """The sending key of link `index` has sealed `limits.REKEY_BLOCKS` blocks."""

    index: int


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """The peer of link `index` says that a probe of `size` octets of IP packet arrived (authenticated)."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class DatagramTooBig:
    """Our own kernel refused a train on link `index`; the engine has stepped its path MTU down already."""

    index: int


@dataclass(frozen=True, slots=True)
class SleeveHeard:
    """A heartbeat came on sleeve `index`, authenticated if it is sealed. Whether `uid` is right isn't checked."""

    index: int
    uid: int
    source: Address  # where it came from


@dataclass(frozen=True, slots=True)
class SleeveTested:
    """A special frame of `length` octets came on sleeve `index` that is no heartbeat, all zero."""

    index: int
    length: int


@dataclass(frozen=True, slots=True)
class SleeveTooBig:
    """Our own kernel refused a packet with DF on sleeve `index`. `path_mtu` is what it says, bytes of IP packet."""

    index: int
    path_mtu: int


@dataclass(frozen=True, slots=True)
class ConnectPeers:
    """The operator named peers. `addresses` maps what was typed to what it resolved to (port 0 = default)."""

    addresses: tuple[tuple[str, Address], ...]
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ForgetPeers:
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddressWanted:
    """`owner` wants the lowest free address of [start, end), or if `claim` this one. `prefix` is its subnet's length.

    The answer is Answered with the address.
    """

    number: int  # whoever asks chooses it, and never the same twice
    owner: str
    start: int
    end: int
    prefix: int
    claim: bool = False
    optimistic: bool = False  # another peer who owns it and can't be reached is taken to agree
    another: bool = False  # than those that the owner has


@dataclass(frozen=True, slots=True)
class AddressCancelled:
    """Nobody waits for the answer to an AddressWanted any more."""

    number: int


@dataclass(frozen=True, slots=True)
class AddressFreed:
    """`owner` doesn't need an address any more, or any of his."""

    owner: str
    address: int | None = None


@dataclass(frozen=True, slots=True)
class DivisionWanted:
    """The addresses are to be divided among the peers now, though nobody needs one yet."""


@dataclass(frozen=True, slots=True)
class SpaceTaken:
    """The operator says that `peer` doesn't come back: its addresses are ours. Answered with how many that is.

    Refused while the peer can be reached, unless `force`.
    """

    number: int
    peer: PeerName
    force: bool = False


@dataclass(frozen=True, slots=True)
class SpaceLeft:
    """This host leaves the network: what it owns is to go to others. Answered with how many addresses that is."""

    number: int


@dataclass(frozen=True, slots=True)
class DivisionYielded:
    """This host gives way to another division of the addresses, which contradicts its own: the only one, or the one in
    which `peer` owns something, or that of the range from `universe[0]` to before `universe[1]`. Answered with how many
    addresses that are in use here are somebody else's by it.
    """

    number: int
    peer: PeerName | None = None
    universe: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DiskTrouble:
    """Something that was to be durable isn't, and why; None: all of it is by now."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class NameAdded:
    """A container with this address here is called `hostname`, which is inside the domain."""

    container: str
    hostname: str
    address: int


@dataclass(frozen=True, slots=True)
class NameRemoved:
    """The names of this host are gone that match all that is given."""

    container: str | None = None
    hostname: str | None = None
    address: int | None = None


AddressEvent: TypeAlias = (
    AddressWanted
    | AddressCancelled
    | AddressFreed
    | DivisionWanted
    | SpaceTaken
    | SpaceLeft
    | DivisionYielded
    | DiskTrouble
)

Event: TypeAlias = (
    Accepted
    | Connected
    | DialFailed
    | Received
    | Closed
    | HeartbeatReceived
    | LinkAlive
    | EpochUsed
    | LinkMoved
    | KeyWorn
    | ProbeAnswered
    | DatagramTooBig
    | SleeveHeard
    | SleeveTested
    | SleeveTooBig
    | ConnectPeers
    | ForgetPeers
    | AddressEvent
    | NameAdded
    | NameRemoved
)


# ---- effects: what the shell must do ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to `address` and answer with Connected or DialFailed. The router chooses `conn` (even numbers)."""

    conn: ConnId
    address: Address


@dataclass(frozen=True, slots=True)
class Send:
    conn: ConnId
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Close:
    """Close after what was sent is flushed. No `Closed` event follows."""

    conn: ConnId


@dataclass(frozen=True, slots=True)
class LinkAdd:
    """A slot in the engine for one connection's overlay. Nothing is sent or accepted on it yet."""

    index: int  # receiver index that the peer must put into its datagrams
    peer: PeerName
    clear: bool


@dataclass(frozen=True, slots=True)
class LinkRemote:
    """Where to send datagrams of link `index`, and what the peer calls it."""

    index: int
    remote_index: int
    remote: Address
    local: Address
    path_mtu: int


@dataclass(frozen=True, slots=True)
class LinkRemove:
    """Forget link `index` and wipe its keys."""

    index: int


@dataclass(frozen=True, slots=True)
class KeyInstall:
    """One 32-byte key per lane. A new sending key takes over at once; receiving keys live beside each other."""

    index: int
    sending: bool
    epoch: int
    cipher: str
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRetire:
    """Wipe the receiving keys of `epoch`."""

    index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """`token`, if not 0, is what the control connection has announced (clear mode)."""

    index: int
    heard: bool
    token: int = 0


@dataclass(frozen=True, slots=True)
class LinkExpect:
    """The peer of link `index`, in clear mode, is where the next heartbeat with `token` comes from."""

    index: int
    token: int


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Send one padded datagram that makes an IP packet of `size` octets, whatever the link's path MTU."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class LinkMtu:
    """Datagrams of link `index` may make IP packets of `path_mtu` octets from now on."""

    index: int
    path_mtu: int


@dataclass(frozen=True, slots=True)
class LinkBySleeve:
    """Which overlay carries the frames of link `index`: sleeve, or fastpath as it is at first."""

    index: int
    by_sleeve: bool


@dataclass(frozen=True, slots=True)
class SleeveAdd:
    """Accept sleeve packets of `peer`, which are known by that name alone. Nothing can be sent before SleeveRemote.

    It begins as though SleeveTune had said (65535, 65507, False).
    """

    index: int
    peer: PeerName
    key: bytes | None = field(repr=False)  # None: plain packets
    dialled: bool  # it was us who dialled the control connection


@dataclass(frozen=True, slots=True)
class SleeveRemote:
    """Where to send packets of sleeve `index` from now on, and the address that they come from."""

    index: int
    remote: Address
    local: Address


@dataclass(frozen=True, slots=True)
class SleeveSend:
    """Send a frame of `length` zero octets to the neighbour, alone in its packet, whatever the sleeve's limits.

    If `length` is that of a heartbeat, `uid` is its last eight octets. With `df`, a refusal is to be told as
    SleeveTooBig.
    """

    index: int
    df: bool
    length: int
    uid: int = 0


@dataclass(frozen=True, slots=True)
class SleeveTune:
    """What packets of sleeve `index` may be: `mtu` is the overlay's, `max_payload` the UDP payload with DF, bytes;
    `fragments` says that IP fragments arrive.
    """

    index: int
    mtu: int
    max_payload: int
    fragments: bool


@dataclass(frozen=True, slots=True)
class SleeveRemove:
    """Forget sleeve `index` and wipe its key."""

    index: int


@dataclass(frozen=True, slots=True)
class Tables:
    """Where frames may go. Replaces all earlier tables at one stroke in every shard.

    `peers`: (name, index of the link to its next hop or 0 if it has none or is ourselves, component). Two peers have
    the same component if they reach each other over established links without us. `trees`: for each source peer the
    links that its broadcasts leave by; a source that isn't listed is not forwarded.
    """

    peers: tuple[tuple[PeerName, int, int], ...]
    trees: tuple[tuple[PeerName, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class ForgetMacs:
    """Drop every MAC learnt from `peer`, which is gone."""

    peer: PeerName


@dataclass(frozen=True, slots=True)
class Persist:
    """Make `value` (JSON text) durable under `key`, or that there is nothing (None)."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class AddressesExpired:
    """No address of the range may be used here any more: others may have got them by now."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to what was asked as `number`: `value`, or unless it is empty the `reason` why there is none."""

    number: int
    value: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the operator. `level` is a name of the logging module's levels in lower case. Never a secret."""

    level: str
    text: str


Effect: TypeAlias = (
    Dial
    | Send
    | Close
    | LinkAdd
    | LinkRemote
    | LinkRemove
    | KeyInstall
    | KeyRetire
    | SendHeartbeat
    | LinkExpect
    | SendProbe
    | LinkMtu
    | LinkBySleeve
    | SleeveAdd
    | SleeveRemote
    | SleeveSend
    | SleeveTune
    | SleeveRemove
    | Tables
    | ForgetMacs
    | Persist
    | Answered
    | AddressesExpired
    | Log
)


class Entropy(Protocol):
    """Where randomness comes from: `random.SystemRandom` in a host, a seeded `random.Random` in a simulation."""

    def random(self) -> float: ...
    def getrandbits(self, k: int, /) -> int: ...
    def randbytes(self, n: int) -> bytes: ...
