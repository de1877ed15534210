"""Who waits for an address, and how he gets it: from our own space at once, else from whoever has some (Weave Net
2.8.1's rules). Also asks for what was given out before it was ours to give.

Rules of this file. A request is answered once, by `Granted` or `Refused`, or it waits and says for what. For a range
one peer at a time is asked, however many wait for some of it, until he answers or the next tick; who had nothing isn't
asked again before. The things people get wrong: an owner who can't be reached is waited for, since he may have given
the address out; and a thousand who wait are tried again on all news, so each try has to be cheap.
"""

from collections.abc import Callable, Iterator
from typing import Final

from weavepy import limits
from weavepy.events import Entropy, PeerName
from weavepy.ipam.actions import AllocatorAction, Granted, Refused, Request, Tell
from weavepy.ipam.ledger import ANYBODY, Ledger
from weavepy.ipam.space import range_text
from weavepy.wire.ipam import Range, SpaceRequest

SPREAD: Final = 0x9E3779B97F4A7C15  # Knuth's multiplicative hash: 2^64 divided by the golden ratio
CONTESTED: Final = "the end of a conflict about who owns {}: `weavepy ipam repair`"


class Requests:
    """All that is waited for on one host. `reachable` tells whether a peer can be spoken to, `contradicts` whether what
    he says last couldn't be merged.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        entropy: Entropy,
        reachable: Callable[[PeerName], bool],
        contradicts: Callable[[PeerName], bool],
    ) -> None:
        self._ledger = ledger
        self._entropy = entropy
        self._reachable = reachable
        self._contradicts = contradicts
        self._pending: dict[int, Request] = {}
        self._asked: dict[Range, PeerName] = {}  # for any address of a range
        self._useful: set[Range] = set()  # of which something was had since somebody was asked
        self._done: set[tuple[Range, PeerName]] = set()  # who has answered that
        self._vain: dict[Range, str] = {}  # while all is tried: what can't be had now, and what to wait for
        self._claimed: set[int] = set()  # those of the unclaimed addresses that are asked for

    def __iter__(self) -> Iterator[Request]:
        return iter(self._pending.values())

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, request: Request) -> None:
        """Takes a request; `retry` answers it."""
        self._pending[request.number] = request

    def remove(self, number: int) -> None:
        """Forgets a request."""
        self._pending.pop(number, None)

    def refuse_all(self, reason: str) -> list[AllocatorAction]:
        """Ends all waiting."""
        refused: list[AllocatorAction] = [Refused(number, reason) for number in self._pending]
        self._pending.clear()
        return refused

    def ask_anew(self) -> None:
        """Lets everybody be asked again: answers may have been lost. Whoever chose his address has waited long enough
        for a division that may never be made; it is claimed when there is one.
        """
        for request in self:
            request.asked = None
            request.undivided = request.claim and self._ledger.ring.empty
        self._asked.clear()
        self._useful.clear()
        self._done.clear()
        self._claimed.clear()

    def answered(self, source: PeerName) -> None:
        """Notes that a peer has given what he can. He is asked for more before the next tick only if it was of use: two
        who wait could give each other the same useless address for ever.
        """
        for wanted in [wanted for wanted, peer in self._asked.items() if peer == source]:
            del self._asked[wanted]
            if wanted not in self._useful:
                self._done.add((wanted, source))

    def want_ring(self) -> bool:
        """Whether anybody waits for what only a division of the universe can give."""
        return any(self._needs_ring(request) for request in self)

    def retry(self, undivided: str, held_back: str, only: Request | None = None) -> list[AllocatorAction]:
        """Tries everything again, or what has just come. `undivided`: why nothing that needs a division can be had,
        if that is so; `held_back`: why nothing new may be given out at all.
        """
        actions: list[AllocatorAction] = []
        self._vain.clear()
        for request in list(self) if only is None else [only]:
            if undivided and self._needs_ring(request) and not request.undivided:
                request.waits_for = held_back or undivided
            else:
                actions += (self._claim if request.claim else self._lowest)(request, held_back)
        return actions if held_back or only is not None else [*actions, *self._claim_all()]

    def denied(self, source: PeerName, wanted: Range) -> list[AllocatorAction]:
        """Takes the answer of a peer that he has nothing to give."""
        ledger, address = self._ledger, wanted.start
        if wanted.end == address + 1 and address in ledger.held and ledger.ring.owner(address) == source:
            ledger.clashes[address] = source
        actions: list[AllocatorAction] = []
        for request in list(self):
            if request.claim and request.wanted == wanted and request.asked == source:
                actions.append(self._refuse(request, "another peer owns the address and has given it out"))
        return actions

    def _lowest(self, request: Request, held_back: str) -> list[AllocatorAction]:
        ledger, universe = self._ledger, self._ledger.universe
        known = self._known(request)
        if known is not None:
            return [self._grant(request, known)]
        if request.wanted.start >= universe.end or request.wanted.end <= universe.start:
            wanted, whole = range_text(request.wanted), range_text(universe)
            return [self._refuse(request, f"{wanted} is outside {whole}, which addresses are given out from")]
        if held_back:
            request.waits_for = held_back
            return []
        vain = self._vain.get(request.wanted)
        if vain is not None:
            request.waits_for = vain
            return []
        # The first and the last address of a subnet have meanings of their own.
        usable = Range(request.wanted.start + 1, request.wanted.end - 1)
        near = self._alone_from(usable) if ledger.ring.empty else usable.start
        address = ledger.space.take_near(usable, near)
        if address is not None:
            if request.wanted in self._asked:
                self._useful.add(request.wanted)
            self._done = {done for done in self._done if done[0] != request.wanted}
            return [self._grant(request, address)]
        request.waits_for, actions = self._ask(request.wanted, usable)
        self._vain[request.wanted] = request.waits_for
        return actions

    def _ask(self, wanted: Range, usable: Range) -> tuple[str, list[AllocatorAction]]:
        """Asks somebody for space, unless that is done already; returns also what there is to wait for."""
        ledger = self._ledger
        where = "" if wanted == ledger.universe else f" of {range_text(wanted)}"
        none = f"space: nobody has any left{where}"
        if ledger.ring.empty:
            return none, []
        asked = self._asked.get(wanted)
        if asked is not None and self._reachable(asked):
            return f"space from {ledger.called(asked)}", []
        donors = ledger.ring.donors(wanted)
        order = sorted(donors, key=lambda peer: donors[peer] * self._entropy.random(), reverse=True)
        there = [peer for peer in order if self._reachable(peer)]
        # What somebody gives us whose ring can't be merged with ours, we would never know to be ours.
        friends = (peer for peer in there if not self._contradicts(peer))
        asked = next((peer for peer in friends if (wanted, peer) not in self._done), None)
        if asked is not None:
            self._asked[wanted] = asked
            self._useful.discard(wanted)
            return f"space from {ledger.called(asked)}", [Tell(asked, SpaceRequest(wanted))]
        away = ", ".join(ledger.called(peer) for peer in order if peer not in there)
        if away:
            return f"space that only peers have who can't be reached: {away}", []
        contested = next(
            iter(ledger.space.contested.within(usable)), next(iter(ledger.space.contested), None)
        )
        return none if contested is None else CONTESTED.format(range_text(contested)), []

    def _alone_from(self, usable: Range) -> int:
        """Where a host begins that nobody has given a part: two that meet later have seldom given out the same."""
        return usable.start + self._ledger.own * SPREAD % 2**64 % max(1, usable.end - usable.start)

    def _claim(self, request: Request, held_back: str) -> list[AllocatorAction]:
        ledger, address = self._ledger, request.wanted.start
        owner = ledger.held.owner(address)
        if owner is not None:
            if owner in (request.owner, ANYBODY) or request.owner == ANYBODY:
                return [self._grant(request, address)]
            return [self._refuse(request, f"it belongs to {owner} on this host")]
        if held_back:
            request.waits_for = held_back
            return []
        if not ledger.is_inside(address) or ledger.space.take(address):
            return [self._grant(request, address)]
        peer = ledger.ring.owner(address)
        assert peer is not None
        if peer == ledger.own:
            request.waits_for = CONTESTED.format(range_text(request.wanted))
            return []
        if not self._reachable(peer):
            request.tries += 1
            request.waits_for = f"{ledger.called(peer)}, who owns it and can't be reached"
            if request.optimistic:
                return [self._grant(request, address)]
            if request.tries > limits.CLAIM_TRIES_MAX:
                return [self._refuse(request, f"{ledger.called(peer)} owns the address and can't be reached")]
            return []
        if request.asked == peer:
            return []
        request.asked = peer
        request.waits_for = f"{ledger.called(peer)}, who owns it"
        return [Tell(peer, SpaceRequest(request.wanted))]

    def _claim_all(self) -> list[AllocatorAction]:
        """Asks for what was given out before it was ours to give."""
        actions: list[AllocatorAction] = []
        for address in sorted(self._ledger.unclaimed):
            peer = self._ledger.ring.owner(address)
            if peer is not None and address not in self._claimed and self._reachable(peer):
                self._claimed.add(address)
                actions.append(Tell(peer, SpaceRequest(Range(address, address + 1))))
        return actions

    def _needs_ring(self, request: Request) -> bool:
        """Whether somebody may own what it is about: what is outside the universe is nobody's."""
        held = self._ledger.held
        if not request.claim:
            return self._known(request) is None
        address = request.wanted.start
        return self._ledger.is_inside(address) and held.owner(address) is None

    def _known(self, request: Request) -> int | None:
        """Returns what the owner has of what it wants: of subnets within each other, what was given for this one."""
        wanted = request.wanted
        held = {} if request.another else self._ledger.held.of(request.owner)
        inside = (address for address in held if wanted.start <= address < wanted.end)
        return min(inside, key=lambda address: held[address] != request.prefix, default=None)

    def _grant(self, request: Request, address: int) -> Granted:
        self.remove(request.number)
        return self._ledger.grant(request, address)

    def _refuse(self, request: Request, reason: str) -> Refused:
        self.remove(request.number)
        return Refused(request.number, reason)
