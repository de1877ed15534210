"""A link that is carried by sleeve alone: what there is with a peer that has no other overlay in common with us.

Rules of this file. The router deals with it as with a fastpath link: `start`, `handle`, `handle_timer` and `stop`
return what is to be done, and a link that can't go on raises RemoteProtocolError. The thing people get wrong: the
engine's link has no keys of its own here, so nothing but sleeve packets can come in by it.
"""

from weavepy.errors import RemoteProtocolError
from weavepy.events import LinkAdd, LinkBySleeve, LinkRemove, SleeveAdd
from weavepy.switch.negotiate import CLEAR, SleeveAgreement
from weavepy.switch.sleeve import Sleeve, SleeveAction, SleeveConfig, SleeveEvent
from weavepy.wire.messages import LegacyOverlayControl, OverlayControl
from weavepy.wire.sleeve import SleeveMessage, encode_sleeve_control

CIPHER = "xsalsa20-poly1305"
_INDEX = 0  # in the list of overlays that both ends have


class SleeveLink:
    """Our end of a link by sleeve."""

    def __init__(self, config: SleeveConfig, agreement: SleeveAgreement) -> None:
        self._config = config
        self._legacy = agreement.legacy
        self._sleeve = Sleeve(config)
        self._started_at = 0.0

    @property
    def index(self) -> int:
        """What the engine calls it."""
        return self._config.index

    @property
    def cipher(self) -> str:
        """The cipher of both directions, or "clear"."""
        return CLEAR if self._config.session_key is None else CIPHER

    @property
    def established_at(self) -> float | None:
        """When the peer acknowledged our heartbeat."""
        return self._sleeve.established_at

    def attributes(self, now: float) -> dict[str, object]:
        """Returns what the operator may want to know: cipher, overlay MTU in bytes, times, addresses."""
        since = self._started_at if self.established_at is None else self.established_at
        return {**self._sleeve.report(), "cipher": self.cipher, "since_s": round(now - since, 3)}

    def start(self, now: float) -> list[SleeveAction]:
        """Takes a slot in the engine and begins."""
        self._started_at = now
        actions: list[SleeveAction] = [LinkAdd(self.index, self._config.peer, clear=False)]
        for action in self._sleeve.confirm(now):
            actions.append(action)
            if isinstance(action, SleeveAdd):
                actions.append(LinkBySleeve(self.index, by_sleeve=True))
        return actions

    def stop(self) -> list[SleeveAction]:
        """Gives the slot back."""
        return [*self._sleeve.stop(), LinkRemove(self.index)]

    def handle(self, event: SleeveEvent, now: float) -> list[SleeveAction]:
        """Takes what the engine noticed on this link."""
        return self._sleeve.handle(event, now)

    def handle_control(
        self, message: OverlayControl | LegacyOverlayControl, now: float
    ) -> list[SleeveAction]:
        """Takes a control message of the peer; raises WireError or RemoteProtocolError."""
        if isinstance(message, LegacyOverlayControl) != self._legacy:
            return []  # as Weave Net does
        if isinstance(message, OverlayControl) and message.index != _INDEX:
            raise RemoteProtocolError(f"control message for overlay {message.index}, which there isn't")
        return self._sleeve.handle_control(message.subtag, message.body, now)

    def handle_timer(self, now: float) -> list[SleeveAction]:
        """Does what is due; raises RemoteProtocolError when the peer can't be reached any more."""
        actions = self._sleeve.handle_timer(now)
        if self._sleeve.failed is not None:
            raise RemoteProtocolError(f"no overlay works: {self._sleeve.failed}")
        return actions

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due."""
        return self._sleeve.next_timer()

    def encode(self, message: SleeveMessage) -> OverlayControl | LegacyOverlayControl:
        """Returns a word of this overlay as it is sent to this peer."""
        subtag, body = encode_sleeve_control(message)
        return LegacyOverlayControl(subtag, body) if self._legacy else OverlayControl(_INDEX, subtag, body)
