"""The overlays of one connection: fastpath, Weave Net's sleeve, or both, of which one carries the frames.

Rules of this file. All overlays in common are brought up side by side. With both, fastpath carries whenever it works
both ways; else sleeve does, if it works, and fastpath goes on being tried. What ends the connection is raised as
RemoteProtocolError: with one overlay its own failure, with both that nothing at all arrives. Methods return what is to
be done, in order: effects for the shell, and messages for the control connection. The thing people get wrong: sleeve
must not carry just because it is up first. It begins with a small MTU, and a container that is told of it remembers
that for ten minutes.
"""

import math
from collections.abc import Iterable
from typing import TypeAlias

from weavepy import limits
from weavepy.errors import RemoteProtocolError
from weavepy.events import Effect, LinkAdd, LinkBySleeve, LinkRemove, Log, PeerName, SleeveAdd
from weavepy.switch.fastpath import Link, LinkAction, LinkEvent
from weavepy.switch.negotiate import CLEAR, OVERLAY, SLEEVE, Agreement
from weavepy.switch.sleeve import Sleeve, SleeveAction, SleeveEvent
from weavepy.wire.fastpath import (
    OverlayMessage,
    decode_overlay_control_untrusted,
    encode_overlay_control,
)
from weavepy.wire.messages import LegacyOverlayControl, OverlayControl
from weavepy.wire.peername import format_peer_name
from weavepy.wire.sleeve import SleeveMessage, encode_sleeve_control

SLEEVE_CIPHER = "xsalsa20-poly1305"
OverlaysAction: TypeAlias = Effect | OverlayControl | LegacyOverlayControl


class Overlays:
    """Our end of what one connection's frames go by. At least one of `fastpath` and `sleeve` is there; all have the
    engine's one `index`.
    """

    def __init__(
        self, index: int, peer: PeerName, agreement: Agreement, fastpath: Link | None, sleeve: Sleeve | None
    ) -> None:
        assert fastpath is not None or sleeve is not None
        self.index = index
        self._peer = peer
        self._agreement = agreement
        self._fastpath = fastpath
        self._sleeve = sleeve
        self._by_sleeve = fastpath is None
        self._why = agreement.why  # sleeve carries
        self._started_at = 0.0
        self._late = False  # sleeve need not wait for fastpath any more
        self._carrying_since = math.inf  # the overlay that does
        self.established_at: float | None = None

    @property
    def overlay(self) -> str:
        """The name of the overlay that carries frames, or would."""
        return SLEEVE if self._by_sleeve else OVERLAY

    @property
    def cipher(self) -> str:
        """The cipher of that overlay, in both directions, or "clear"."""
        if self._fastpath is not None and not self._by_sleeve:
            return self._fastpath.cipher
        assert self._sleeve is not None
        return SLEEVE_CIPHER if self._sleeve.sealed else CLEAR

    def attributes(self, now: float) -> dict[str, object]:
        """Returns what the operator may want to know of the overlay that carries frames, why it isn't a better one,
        and for how long it has been.
        """
        if self._fastpath is not None and not self._by_sleeve:
            values = self._fastpath.attributes(now)
        else:
            assert self._sleeve is not None
            values = self._sleeve.report()
        since = self._started_at if self.established_at is None else self._carrying_since
        fallen_back = self._by_sleeve and self._fastpath is not None
        return {
            **values,
            "cipher": self.cipher,
            "since_s": round(now - since, 3),
            "why": self._why,
            "fallen_back": fallen_back,
        }

    def start(self, now: float) -> list[OverlaysAction]:
        """Takes a slot in the engine and begins."""
        self._started_at = now
        actions: list[LinkAction | SleeveAction] = []
        if self._fastpath is not None:
            actions += self._fastpath.start(now)
        else:
            actions.append(LinkAdd(self.index, self._peer, clear=False))
        if self._sleeve is not None:
            for action in self._sleeve.confirm(now):
                actions.append(action)
                if isinstance(action, SleeveAdd) and self._by_sleeve:
                    actions.append(LinkBySleeve(self.index, by_sleeve=True))
        return self._encode(actions)

    def stop(self) -> list[OverlaysAction]:
        """Gives the slot back."""
        sleeve = [] if self._sleeve is None else self._sleeve.stop()
        fastpath = [LinkRemove(self.index)] if self._fastpath is None else self._fastpath.stop()
        return self._encode([*sleeve, *fastpath])

    def handle(self, event: LinkEvent | SleeveEvent, now: float) -> list[OverlaysAction]:
        """Takes what the engine noticed. What was under way when an index changed hands may be for an overlay that
        isn't there.
        """
        actions: list[LinkAction | SleeveAction] = []
        if isinstance(event, SleeveEvent):
            if self._sleeve is not None:
                actions += self._sleeve.handle(event, now)
        elif self._fastpath is not None:
            actions += self._fastpath.handle(event, now)
        return self._encode([*actions, *self._choose(now)])

    def handle_control(
        self, message: OverlayControl | LegacyOverlayControl, now: float
    ) -> list[OverlaysAction]:
        """Takes a control message of the peer; raises WireError or RemoteProtocolError."""
        if isinstance(message, LegacyOverlayControl) != self._agreement.legacy:
            return []  # as Weave Net does
        name = SLEEVE if isinstance(message, LegacyOverlayControl) else self._name_at(message.index)
        actions: list[LinkAction | SleeveAction] = []
        if name == SLEEVE and self._sleeve is not None:
            actions += self._sleeve.handle_control(message.subtag, message.body, now)
        elif name == OVERLAY and self._fastpath is not None:
            control = decode_overlay_control_untrusted(message.subtag, message.body)
            if control is not None:
                actions += self._fastpath.handle_control(control, now)
        return self._encode([*actions, *self._choose(now)])

    def handle_timer(self, now: float) -> list[OverlaysAction]:
        """Does what is due; raises RemoteProtocolError when the peer can't be reached any more."""
        if now >= self._timeout_at():
            if self.established_at is None:
                raise RemoteProtocolError("no heartbeat came through: is UDP to the router's port blocked?")
            raise RemoteProtocolError(f"no sign of life for {limits.HEARTBEAT_TIMEOUT_S:g} s by any overlay")
        actions: list[LinkAction | SleeveAction] = []
        if self._fastpath is not None and self._fastpath.next_timer() <= now:
            actions += self._fastpath.handle_timer(now)
        if self._sleeve is not None and self._sleeve.next_timer() <= now:
            actions += self._sleeve.handle_timer(now)
            if self._sleeve.failed is not None:
                raise RemoteProtocolError(f"no overlay works: {self._sleeve.failed}")
        return self._encode([*actions, *self._choose(now)])

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due."""
        due = self._timeout_at()
        if self._fastpath is not None:
            due = min(due, self._fastpath.next_timer())
        if self._sleeve is not None:
            due = min(due, self._sleeve.next_timer())
            if self.established_at is None and self._sleeve.established and not self._late:
                due = min(due, self._started_at + limits.SLEEVE_GRACE_S)
        return due

    def _timeout_at(self) -> float:
        """When both overlays together have failed; each knows by itself when it is alone."""
        if self._fastpath is None or self._sleeve is None:
            return math.inf
        if self.established_at is None:
            return self._started_at + limits.ESTABLISH_TIMEOUT_S
        heard_at = max(self._fastpath.last_heard_at, self._sleeve.last_heard_at)
        return heard_at + limits.HEARTBEAT_TIMEOUT_S

    def _choose(self, now: float) -> list[LinkAction | SleeveAction]:
        """Notes when the first overlay is established, and moves the frames when another one should carry them."""
        actions: list[LinkAction | SleeveAction] = []
        fastpath, sleeve = self._fastpath, self._sleeve
        if fastpath is not None and sleeve is not None:
            actions += sleeve.hurry(now, hurried=fastpath.doubtful)
            by_sleeve, why = self._by_sleeve, self._why
            self._late = now >= self._started_at + limits.SLEEVE_GRACE_S
            if fastpath.established_at is not None and not fastpath.trouble:
                by_sleeve, why = False, ""
            elif sleeve.established and now < sleeve.last_heard_at + limits.SLEEVE_STALE_S:
                by_sleeve = self._by_sleeve or self._late
                why = fastpath.trouble or "no heartbeat came by fastpath yet"
            if by_sleeve != self._by_sleeve:
                self._by_sleeve, self._why, self._carrying_since = by_sleeve, why, now
                actions.append(LinkBySleeve(self.index, by_sleeve))
                actions.append(self._moved())
        carries = sleeve if self._by_sleeve else fastpath
        if self.established_at is None and carries is not None and carries.established_at is not None:
            self.established_at = self._carrying_since = now
        return actions

    def _moved(self) -> Log:
        peer = format_peer_name(self._peer)
        if self._by_sleeve:
            return Log("warning", f"frames for {peer} go by sleeve: {self._why}")
        return Log("info", f"frames for {peer} go by fastpath again")

    def _name_at(self, index: int) -> str:
        names = self._agreement.names
        if index >= len(names):
            raise RemoteProtocolError(f"control message for overlay {index}, which there isn't")
        return names[index]

    def _encode(self, actions: Iterable[LinkAction | SleeveAction]) -> list[OverlaysAction]:
        return [
            self._message(action) if isinstance(action, OverlayMessage | SleeveMessage) else action
            for action in actions
        ]

    def _message(self, message: OverlayMessage | SleeveMessage) -> OverlayControl | LegacyOverlayControl:
        """Returns a word of an overlay as it is said to this peer."""
        if isinstance(message, SleeveMessage):
            subtag, body = encode_sleeve_control(message)
            if self._agreement.legacy:
                return LegacyOverlayControl(subtag, body)
            return OverlayControl(self._agreement.names.index(SLEEVE), subtag, body)
        return OverlayControl(self._agreement.names.index(OVERLAY), *encode_overlay_control(message))
