"""When the keys of a link change: the sender's schedule and the receiver's, each for one direction.

    sender     every interval, or when the key is worn:  Epoch(e + 1)   ->
    receiver   installs the keys of e + 1                               <-   EpochAck(e + 1)
    sender     installs them and seals with them from now on
    receiver   retires the keys of e limits.KEY_LINGER_S after the first datagram under those of e + 1

Rules of this file. The methods return what is to be done, in order. Epochs go up by exactly one; anything
else from the peer is a RemoteProtocolError. The receiver never holds keys of more than two epochs, however
fast a peer announces: the sender can't be using the one before the current one, as it waited for our answer.
The thing people get wrong: our answer may be late, and until it arrives the sender goes on with the old keys;
so only a datagram under the new ones starts their end.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from weavepy import limits
from weavepy.crypto.datakeys import DataKeys
from weavepy.errors import RemoteProtocolError
from weavepy.wire.fastpath import Epoch, EpochAck


@dataclass(frozen=True, slots=True)
class Install:
    """Give these keys, one per lane, to the engine."""

    epoch: int
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Retire:
    """Let the engine forget the receiving keys of `epoch`."""

    epoch: int


RekeyAction: TypeAlias = Epoch | EpochAck | Install | Retire
"""Epoch and EpochAck are to be sent to the peer."""


class SendingKeys:
    """The schedule of the direction that we seal. Starts at epoch 0, whose keys `start` returns."""

    def __init__(self, keys: DataKeys, *, interval_s: float = limits.REKEY_INTERVAL_S) -> None:
        self._keys = keys
        self._interval_s = interval_s
        self._announced = False
        self._deadline: float | None = None  # for the next announcement, or for its answer

    @property
    def epoch(self) -> int:
        """The epoch that we seal with."""
        return self._keys.epoch

    def start(self, now: float) -> list[RekeyAction]:
        """Begins epoch 0."""
        self._deadline = now + self._interval_s
        return [Install(self._keys.epoch, self._keys.keys())]

    def next_timer(self) -> float | None:
        return self._deadline

    def handle_timer(self, now: float) -> list[RekeyAction]:
        """Announces the next epoch when it is due; raises RemoteProtocolError if no answer came."""
        if self._deadline is None or now < self._deadline:
            return []
        if self._announced:
            raise RemoteProtocolError("peer did not acknowledge new keys")
        return self._announce(now)

    def handle_worn(self, now: float) -> list[RekeyAction]:
        """Announces the next epoch at once, as the current key has sealed enough."""
        return [] if self._announced or self._deadline is None else self._announce(now)

    def _announce(self, now: float) -> list[RekeyAction]:
        self._announced = True
        self._deadline = now + limits.REKEY_ACK_TIMEOUT_S
        return [Epoch(self._keys.epoch + 1)]

    def handle_ack(self, epoch: int, now: float) -> list[RekeyAction]:
        """Switches to the acknowledged epoch. A repeated acknowledgement changes nothing."""
        if not self._announced or epoch != self._keys.epoch + 1:
            if 0 < epoch == self._keys.epoch:
                return []
            raise RemoteProtocolError("peer acknowledged keys that we did not announce")
        self._announced = False
        self._deadline = now + self._interval_s
        self._keys.advance()
        return [Install(self._keys.epoch, self._keys.keys())]


class ReceivingKeys:
    """The schedule of the direction that we open. Starts at epoch 0, whose keys `start` returns."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys
        self._has_previous = False
        self._retire_at: float | None = None  # when the keys before the current ones go, if known

    @property
    def epoch(self) -> int:
        """The newest epoch that we can open."""
        return self._keys.epoch

    def start(self) -> list[RekeyAction]:
        """Begins epoch 0."""
        return [Install(self._keys.epoch, self._keys.keys())]

    def next_timer(self) -> float | None:
        return self._retire_at

    def handle_timer(self, now: float) -> list[RekeyAction]:
        """Retires the previous epoch when nothing sealed in it can be under way any more."""
        if self._retire_at is None or now < self._retire_at:
            return []
        return self._retire_previous()

    def handle_used(self, epoch: int, now: float) -> None:
        """Notes that datagrams under the keys of `epoch` (its low 32 bits) arrive."""
        if self._has_previous and self._retire_at is None and epoch == self._keys.epoch & 0xFFFFFFFF:
            self._retire_at = now + limits.KEY_LINGER_S

    def handle_announce(self, epoch: int) -> list[RekeyAction]:
        """Installs the keys of the announced epoch and acknowledges; only the latter if it has them."""
        if epoch == self._keys.epoch and epoch > 0:
            return [EpochAck(epoch)]
        if epoch != self._keys.epoch + 1:
            raise RemoteProtocolError("peer announced keys out of order")
        retired = self._retire_previous()
        self._keys.advance()
        self._has_previous = True
        return [*retired, Install(epoch, self._keys.keys()), EpochAck(epoch)]

    def _retire_previous(self) -> list[RekeyAction]:
        if not self._has_previous:
            return []
        self._has_previous = False
        self._retire_at = None
        return [Retire(self._keys.epoch - 1)]
