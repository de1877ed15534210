"""A name that was removed never comes back, in our routers and in Weave Net's: they share a network that keeps every
message and delivers it again, late and in any order, as long as it is young enough to be taken.
"""

import contextlib
import random
from collections.abc import Callable

import pytest
from weave_names import ADDRESSES, CONTAINERS, HOSTS, WALL, Said, SkewError, WeaveNames, any_of
from weave_peer import OWN

from weavepy import events as ev
from weavepy.errors import ClockSkewError
from weavepy.events import PeerName
from weavepy.names.channel import NameNews, NamesChannel
from weavepy.names.config import NamesConfig


class Ours:
    """The names of one of our routers, without the router: what it says is put into `said`."""

    def __init__(self, own: int, wall: Callable[[], int], peers: set[int]) -> None:
        self.own = own
        self.said: list[bytes] = []
        config = NamesConfig(PeerName(own), wall)
        self.channel = NamesChannel(config, peers=set(map(PeerName, peers)), gossip=self, emit=lambda _: None)

    def broadcast(self, _channel: str, news: NameNews) -> None:
        self.said += news.encode()

    publish = broadcast

    def speak_again(self, _channel: str) -> None:
        raise AssertionError("no clock is set")

    def add(self, container: str, address: int, hostname: str, now: float) -> None:
        self.channel.handle(ev.NameAdded(container, hostname, address), now)

    def remove(self, container: str, address: int, now: float) -> None:
        self.channel.handle(ev.NameRemoved(container, None, address), now)

    def hear(self, payload: bytes, now: float) -> list[bytes]:
        with contextlib.suppress(ClockSkewError):
            news = self.channel.merge_gossip_untrusted(payload, now)
            return [] if news is None else list(news.encode())
        return []

    def complete(self) -> list[bytes]:
        return list(self.channel.complete().encode())

    def sweep(self, now: float) -> None:
        self.channel.handle_timer(now)

    def held(self) -> list[Said]:
        return [Said(*entry) for entry in self.channel.records.entries.values()]

    def addresses(self, host: str) -> list[int]:
        return sorted(entry.address for entry in self.channel.records.addresses(host))


class Theirs:
    """The same of a Weave router."""

    def __init__(self, own: int, wall: Callable[[], int], peers: set[int]) -> None:
        self.own = own
        self.names = WeaveNames(own, wall, peers.__contains__)
        self.said = self.names.broadcasts

    def add(self, container: str, address: int, hostname: str, _now: float) -> None:
        self.names.add(container, address, hostname.lower())

    def remove(self, container: str, address: int, _now: float) -> None:
        self.names.remove(any_of(container=container, address=address))

    def hear(self, payload: bytes, _now: float) -> list[bytes]:
        with contextlib.suppress(SkewError):
            news, _ = self.names.hear(payload)
            return [] if news is None else [news]
        return []

    def complete(self) -> list[bytes]:
        return [self.names.complete()]

    def sweep(self, _now: float) -> None:
        self.names.sweep()

    def held(self) -> list[Said]:
        return list(self.names.held.values())

    def addresses(self, host: str) -> list[int]:
        return self.names.addresses(host)


class Soup:
    """Routers of both kinds in a network that keeps every message and delivers it whenever it likes."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        peers = {OWN + n for n in range(4)}
        self.all = [(Ours, Theirs)[n % 2](OWN + n, self.wall, peers) for n in range(4)]
        self.messages: list[bytes] = []
        self.given: set[tuple[int, str, int, str]] = set()
        self.removed: dict[tuple[int, Said], int] = {}  # who knows of which removal: the version of that

    def wall(self) -> int:
        return int(WALL + self.now)

    def collect(self) -> None:
        for one in self.all:
            self.messages += one.said
            one.said.clear()
        for one in self.all:
            for entry in one.held():
                at = one.own, entry._replace(version=0, tombstone=0)
                if entry.tombstone:
                    self.removed[at] = entry.version
                else:
                    assert entry.version > self.removed.get(at, -1), "a name that was removed is back"

    def change(self) -> None:
        draw = self.draw
        one = draw.choice(self.all)
        container, address, host = (
            draw.choice(CONTAINERS[:2]),
            draw.choice(ADDRESSES[:2]),
            draw.choice(HOSTS[:2]),
        )
        if draw.random() < 0.5:
            identity = Said(container, one.own, address, host)
            if identity not in {entry._replace(version=0, tombstone=0) for entry in one.held()}:
                # Its own origin has forgotten it, so it begins anew.
                self.removed = {at: version for at, version in self.removed.items() if at[1] != identity}
            self.given.add((one.own, container, address, host))
            one.add(container, address, draw.choice((host, host.upper())), self.now)
        else:
            self.given = {name for name in self.given if name[:3] != (one.own, container, address)}
            one.remove(container, address, self.now)

    def deliver(self) -> None:
        if self.messages:
            self.messages += self.draw.choice(self.all).hear(self.draw.choice(self.messages), self.now)

    def meet(self) -> None:
        """Everybody tells everybody everything, until that is no news."""
        for _ in range(4):
            for one in self.all:
                payloads = one.complete()
                self.messages += payloads
                for other in self.all:
                    for payload in payloads:
                        self.messages += other.hear(payload, self.now)
                    self.collect()

    def step(self) -> None:
        what = self.draw.random()
        if what < 0.15:
            self.change()
        elif what < 0.8:
            self.deliver()
        elif what < 0.9:
            self.messages += self.draw.choice(self.all).complete()
        else:
            # They meet more often than a message may be on its way; only so is all forgotten in time.
            self.now += self.draw.choice((0.5, 60.0, 400.0, 800.0))
            self.meet()
            self.draw.choice(self.all).sweep(self.now)
        self.collect()


@pytest.mark.parametrize("seed", range(6))
def test_a_removed_name_never_comes_back_whatever_is_said_again(seed: int) -> None:
    soup = Soup(seed)
    for _ in range(250):
        soup.step()
    soup.meet()
    for host in HOSTS[:2]:
        expected = sorted(name[2] for name in soup.given if name[3] == host)
        for one in soup.all:
            assert one.addresses(host) == expected
