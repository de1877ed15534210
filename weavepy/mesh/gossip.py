"""Gossip: named channels over the mesh, each a value that every peer merges.

Rules of this file. Everything queued is merged per neighbour and channel until `flush` is called, at once
after a calm or `SPACING_S` after the last time, and encoded only then: many hosts that join together would
otherwise drown each other in news. What is relayed is what was new, so no news makes no traffic. A channel
that we don't know is relayed unread. A payload that can't be handled raises, and costs the link that it came
in by, nothing else. The thing people get wrong: routes must be fresh whenever a message is relayed, or a peer
that joined a moment ago is passed over until the next periodic gossip.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from weavepy import limits
from weavepy.errors import ClockSkewError
from weavepy.events import Entropy, PeerName
from weavepy.mesh.routes import Routes
from weavepy.mesh.surrogate import Surrogates
from weavepy.mesh.topology import NO_PEER
from weavepy.wire.messages import TOPOLOGY_CHANNEL, Broadcast, Gossip, Message, Unicast

SPACING_S = 0.05  # nobody needs news more often; each round sums up what came in since the last


class News(Protocol):
    """Something to be gossiped: a hashable value, encoded as late as possible so that it is the latest."""

    def merge(self, later: Self) -> Self:
        """Returns the news that stand for both."""

    def encode(self) -> Iterable[bytes]:
        """Returns the payloads of the messages that carry it, each encoded when it is asked for."""


class Channel(Protocol):
    """One kind of gossip. What peers sent is untrusted: `WireError` and `RemoteProtocolError` close their link.

    `ClockSkewError` keeps it, but nothing more is sent to that neighbour on this channel until he can be understood: he
    understands us no better, and a Weave Net router would close the link each time.
    """

    name: str

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> News | None:
        """Merges what a neighbour gossiped and returns what was new, to be sent on."""

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> News | None:
        """Merges what `source` broadcast and returns what goes on along its tree."""

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:
        """Takes what `source` sent to us alone."""

    def complete(self) -> News | None:
        """Returns the whole state, for periodic gossip and for new neighbours."""


@dataclass(slots=True)
class _Queue:
    """What waits to be sent to one neighbour on one channel: gossip first, then broadcasts by source."""

    gossip: News | None = None
    broadcasts: dict[PeerName, News] = field(default_factory=dict)


class _Payloads:
    """The payloads of news, encoded as far as the neighbour that is furthest ahead needs them."""

    def __init__(self, news: News) -> None:
        self._rest = iter(news.encode())
        self._encoded: list[bytes] = []

    def get(self, position: int) -> bytes | None:
        if position == len(self._encoded):
            payload = next(self._rest, None)
            if payload is None:
                return None
            self._encoded.append(payload)
        return self._encoded[position]


@dataclass(slots=True)
class _Outgoing:
    """News on their way to one neighbour, by gossip or as a broadcast of `source`."""

    neighbour: PeerName
    channel: str
    source: PeerName | None
    payloads: _Payloads
    sent: int = 0


class Gossiper:
    """All channels of one router, and what is queued for its neighbours."""

    def __init__(self, own: PeerName, routes: Callable[[], Routes], entropy: Entropy) -> None:
        """`routes` returns the routes of this moment; they are asked for whenever something is sent."""
        self._own = own
        self._routes = routes
        self._entropy = entropy
        self._channels: dict[str, Channel] = {}
        self._surrogates = Surrogates()
        self._neighbours: dict[PeerName, dict[str, _Queue]] = {}
        self._hushed: set[tuple[str, PeerName]] = (
            set()
        )  # channels and neighbours whose clocks differ from ours
        self._unicasts: list[tuple[PeerName, Unicast]] = []
        self._waiting = False  # some queue holds something
        self._outgoing: deque[_Outgoing] = deque()
        self._flushed_at = -SPACING_S  # long ago
        self._sent_at = -SPACING_S

    def add_channel(self, channel: Channel) -> None:
        """Handles the channel from now on instead of relaying it unread."""
        self._channels[channel.name] = channel

    def add_neighbour(self, neighbour: PeerName) -> None:
        """Sends to `neighbour` from now on."""
        self._neighbours[neighbour] = {}

    def remove_neighbour(self, neighbour: PeerName) -> None:
        """Drops what is queued for `neighbour` and sends to it no more."""
        self._neighbours.pop(neighbour, None)
        self._unicasts = [waiting for waiting in self._unicasts if waiting[0] != neighbour]
        self._outgoing = deque(outgoing for outgoing in self._outgoing if outgoing.neighbour != neighbour)

    def handle_untrusted(
        self, neighbour: PeerName, message: Gossip | Unicast | Broadcast, now: float
    ) -> None:
        """Takes one message from `neighbour` and queues what must go on. Raises what the channel raises."""
        match message:
            case Gossip(name, _, payload):
                try:
                    news = self._channel(name).merge_gossip_untrusted(payload, now)
                except ClockSkewError:
                    self._hush(name, neighbour)
                    return
                if (name, neighbour) in self._hushed:
                    self._speak(name, neighbour)
                if news is not None:
                    self.publish(name, news, without=neighbour)
            case Unicast(name, source, destination, payload) if destination == self._own:
                self._channel(name).handle_unicast_untrusted(source, payload, now)
            case Unicast(channel=name) if name == TOPOLOGY_CHANNEL:
                pass  # whoever got it from us would end our connection, and not that of who sent it
            case Unicast(destination=destination):
                # While views differ, two routers may each think the other is nearer; this keeps it from
                # bouncing.
                if self._routes().unicast_all.get(destination) != neighbour:
                    self._relay(message, destination)
            case Broadcast(name, source, payload):
                news = self._channel(name).merge_broadcast_untrusted(source, payload, now)
                if news is not None:
                    self._spread(name, source, news)

    def publish(self, channel: str, news: News, *, without: PeerName = NO_PEER) -> None:
        """Queues `news` for a few neighbours chosen at random, who pass it on."""
        for neighbour in choose_neighbours(self._routes().unicast_all, without, self._entropy):
            self._gossip_to(neighbour, channel, news)

    def broadcast(self, channel: str, news: News) -> None:
        """Queues `news` for everybody, along our broadcast tree."""
        self._spread(channel, self._own, news)

    def unicast(self, channel: str, destination: PeerName, payload: bytes) -> bool:
        """Queues `payload` for `destination` alone; False if no route leads there."""
        return self._relay(Unicast(channel, self._own, destination, payload), destination)

    def speak_again(self, channel: str) -> None:
        """Tells those everything who were not to be spoken to: our clock was set."""
        for name, neighbour in list(self._hushed):
            if name == channel:
                self._speak(name, neighbour)

    def publish_complete(self) -> None:
        """Queues the whole state of every channel for a few neighbours (the periodic gossip)."""
        for channel in self._channels.values():
            news = channel.complete()
            if news is not None:
                self.publish(channel.name, news)

    def send_complete(self, neighbour: PeerName) -> None:
        """Queues the whole state of every channel for one neighbour."""
        for channel in self._channels.values():
            news = channel.complete()
            if news is not None:
                self._gossip_to(neighbour, channel.name, news)

    def next_timer(self) -> float | None:
        """Returns when `flush` has something to yield."""
        if self._outgoing:
            return self._sent_at + limits.GOSSIP_TURN_S
        return self._flushed_at + SPACING_S if self._waiting else None

    def flush(self, now: float) -> Iterator[tuple[PeerName, Message]]:
        """Yields and forgets what is to be sent now, as messages to neighbours: unicasts at once, news when
        due, and no more of them than one turn of the router has time to seal.
        """
        if self._unicasts:
            unicasts, self._unicasts = self._unicasts, []
            yield from unicasts
        if self._waiting and self._flushed_at + SPACING_S <= now:
            self._flushed_at = now
            self._dequeue()
        if not self._outgoing or self._sent_at + limits.GOSSIP_TURN_S > now:
            return
        self._sent_at = now
        sent_bytes = 0
        while self._outgoing:
            outgoing = self._outgoing[0]
            payload = outgoing.payloads.get(outgoing.sent)
            if payload is None:
                self._outgoing.popleft()
                continue
            if sent_bytes and sent_bytes + len(payload) > limits.GOSSIP_TURN_BYTES:
                return
            outgoing.sent += 1
            sent_bytes += len(payload)
            if outgoing.source is None:
                yield outgoing.neighbour, Gossip(outgoing.channel, self._own, payload)
            else:
                yield outgoing.neighbour, Broadcast(outgoing.channel, outgoing.source, payload)

    def _dequeue(self) -> None:
        self._waiting = False
        encoded: dict[News, _Payloads] = {}  # the same news go to many neighbours

        def payloads(news: News) -> _Payloads:
            if news not in encoded:
                encoded[news] = _Payloads(news)
            return encoded[news]

        for neighbour, queues in self._neighbours.items():
            for name, queue in queues.items():
                if queue.gossip is not None:
                    self._outgoing.append(_Outgoing(neighbour, name, None, payloads(queue.gossip)))
                for source, news in queue.broadcasts.items():
                    self._outgoing.append(_Outgoing(neighbour, name, source, payloads(news)))
            queues.clear()

    def _channel(self, name: str) -> Channel:
        known = self._channels.get(name)
        return known if known is not None else self._surrogates.channel(name)

    def _gossip_to(self, neighbour: PeerName, channel: str, news: News) -> None:
        queue = self._queue(neighbour, channel)
        if queue is not None:
            queue.gossip = news if queue.gossip is None else queue.gossip.merge(news)

    def _spread(self, channel: str, source: PeerName, news: News) -> None:
        for neighbour in self._routes().broadcast_all(source):
            queue = self._queue(neighbour, channel)
            if queue is not None:
                waiting = queue.broadcasts.get(source)
                queue.broadcasts[source] = news if waiting is None else waiting.merge(news)

    def _hush(self, channel: str, neighbour: PeerName) -> None:
        if len(self._hushed) >= limits.PEERS_MAX:
            self._hushed.clear()  # not even whoever comes under many names can make us remember more
        self._hushed.add((channel, neighbour))
        self._neighbours.get(neighbour, {}).pop(channel, None)
        self._outgoing = deque(o for o in self._outgoing if (o.channel, o.neighbour) != (channel, neighbour))

    def _speak(self, channel: str, neighbour: PeerName) -> None:
        self._hushed.discard((channel, neighbour))
        complete = self._channel(channel).complete()
        if complete is not None:
            self._gossip_to(neighbour, channel, complete)

    def _relay(self, message: Unicast, destination: PeerName) -> bool:
        neighbour = self._routes().unicast_all.get(destination, NO_PEER)
        if neighbour not in self._neighbours:
            return False
        self._unicasts.append((neighbour, message))
        return True

    def _queue(self, neighbour: PeerName, channel: str) -> _Queue | None:
        queues = self._neighbours.get(neighbour)
        if queues is None or (channel, neighbour) in self._hushed:
            return None
        self._waiting = True
        return queues.setdefault(channel, _Queue())


def choose_neighbours(
    unicast_all: Mapping[PeerName, PeerName], without: PeerName, entropy: Entropy
) -> list[PeerName]:
    """Draws at most 2 log2(peers) neighbours, each in proportion to the peers that it leads to (Weave Net
    2.8.1).
    """
    weights: dict[PeerName, int] = {}
    for hop in unicast_all.values():
        if hop not in (NO_PEER, without):
            weights[hop] = weights.get(hop, 0) + 1
    chosen: list[PeerName] = []
    candidates = sorted(weights)
    total = sum(weights.values())
    for _ in range(min(int(2 * math.log2(max(1, len(unicast_all)))), len(candidates))):
        mark = entropy.random() * total
        for position, neighbour in enumerate(candidates):  # noqa: B007
            mark -= weights[neighbour]
            if mark < 0:
                break
        chosen.append(candidates.pop(position))
        total -= weights[chosen[-1]]
    return chosen
