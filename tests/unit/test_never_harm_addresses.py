"""The same as `test_never_harm.py` for a router that gives out addresses: what it tells of the ring makes sense, and
whatever it hears of rings ends one connection at most.
"""

import random
from dataclasses import replace

import pytest
from strict_peer import StrictPeer
from test_never_harm import NAMES, Company, envelope
from weave_peer import OWN, PASSWORD, gossip

from weavepy import events as ev
from weavepy.events import PeerName
from weavepy.ipam.actions import Request
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.wire.ipam import (
    AddressState,
    Range,
    RingEntry,
    RingUpdate,
    SpaceDenied,
    SpaceRequest,
    encode_address_state,
    encode_address_unicast,
)

UNIVERSE = Range(0x0A200000, 0x0A200100)


class Landlords(Company):
    """Peers that have rings, of which some are nonsense."""

    def __init__(self, seed: int) -> None:
        settings: dict[str, object] = {"chosen": seed % 2 == 0}
        if seed % 3 == 0:
            settings["seeds"] = (PeerName(OWN), PeerName(NAMES[0]))
        elif seed % 3 == 1:
            settings["quorum"] = 1
        self.addresses = AllocatorConfig(PeerName(OWN), 1234, "one", UNIVERSE, **settings)  # type: ignore[arg-type]
        super().__init__(seed, PASSWORD, ("fastpath", "sleeve"))
        self.asked = 0
        self.answered = 0

    def perform(self, effects: list[ev.Effect]) -> list[ev.ConnId]:
        self.answered += sum(isinstance(effect, ev.Answered) for effect in effects)
        return super().perform(effects)

    def want(self) -> None:
        self.asked += 1
        wanted = ev.AddressWanted(self.asked, f"c{self.asked}", UNIVERSE.start, UNIVERSE.end, 24)
        self.perform(self.router.handle(wanted, self.now))

    def state(self, peer: StrictPeer) -> AddressState:
        """Returns what a peer could have: a ring of some of them, given out in part, or an election."""
        draw = self.draw
        own = PeerName(peer.name)
        universe = UNIVERSE if draw.random() < 0.8 else Range(0x0A200000, 0x0A300000)
        seeds = tuple(map(PeerName, draw.sample([*NAMES, OWN], draw.randint(1, 3))))
        config = AllocatorConfig(
            own, 7, "peer", universe, quorum=2, seeds=seeds if draw.random() < 0.7 else ()
        )
        allocator = Allocator(
            config,
            entropy=random.Random(draw.random()),
            reachable=lambda _peer: True,
            company=lambda: True,
            expected=lambda: 2,
        )
        for number in range(draw.randrange(3)):
            allocator.allocate(Request(number, "c", universe, 24, False, 0.0), 0.0)
        state = allocator.state()
        if state.ring is not None and draw.random() < 0.3:
            entries = list(state.ring.entries)
            at = draw.randrange(len(entries))
            free = draw.choice((0, 1, 2**32))
            entries[at] = RingEntry(draw.choice((0, universe.start + 9)), own, draw.randrange(200), free)
            state = replace(state, ring=replace(state.ring, entries=tuple(entries)))
        return state

    def honest(self, peer: StrictPeer) -> bytes:
        draw, others = self.draw, [*NAMES, OWN]
        what = draw.random()
        if what < 0.4:
            return super().honest(peer)
        if what < 0.7:
            payload = encode_address_state(self.state(peer))
            if draw.random() < 0.5:
                return gossip("IPallocation", peer.name, payload)
            return envelope(6, "IPallocation", draw.choice(others), payload=payload)
        first = UNIVERSE.start + draw.randrange(256)
        wanted = Range(first, first + draw.choice((1, 8, 256)))
        message = draw.choice((SpaceRequest(wanted), SpaceDenied(wanted), RingUpdate(self.state(peer))))
        payload = encode_address_unicast(message)
        to = draw.choice(others)
        if to != OWN:
            self.passed_on.add(("IPallocation", payload))
        return envelope(5, "IPallocation", draw.choice([peer.name, *NAMES]), to, payload=payload)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_peers_say_of_rings_nobody_is_hurt(seed: int) -> None:
    company = Landlords(seed)
    draw = company.draw
    for _ in range(500):
        settled = [conn for conn, peer in company.peers.items() if peer.features is not None]
        what = draw.random()
        if what < 0.12 or not settled:
            company.join()
        elif what < 0.2:
            company.wait(draw.choice((0.06, 0.3, 1.1, 12.0)))
        elif what < 0.26:
            company.want()
        else:
            company.speak(draw.choice(settled))
    company.wait(61.0)
    assert company.joined > 10
    assert company.asked > 5
    # Who is a sole owner has all there is.
    assert company.answered > 0 or seed % 3 != 1
