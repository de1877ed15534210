"""The roster: which hosts hold a lease on the space that they own, as a chain of versions. Each version is agreed on by
a majority of the members of the one before (single-decree Paxos over gossip, one decree for each version).

Rules of this file. A host's statement is its own to change; what it has promised or accepted is saved before it is
told, and of two statements of a host the one with the higher serial counts. So merging is commutative, associative
and idempotent. A promise to a proposer that wants to take space over is given only by who agrees that its owners are
gone; once a majority has promised, anybody may accept: whoever is to be taken over can't use anything any more, until
a later version gives it a new session. The thing people get wrong: a roster that was accepted by one member may have
been decided without our knowing, so whoever asks for a majority needs it of each of them.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from weavepy import limits
from weavepy.events import PeerName
from weavepy.wire.lease import (
    COUNTER_MAX,
    NO_BALLOT,
    Ballot,
    LeaseState,
    Roster,
    Statement,
    encode_lease_state,
)

Agrees = Callable[[Collection[PeerName]], bool]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a merge has changed: whose statements, and whether the roster."""

    statements: frozenset[PeerName] = frozenset()
    roster: bool = False


class Council:
    """One host's part in agreeing on the roster. `mine`: what it said last, in an earlier run maybe."""

    def __init__(self, mine: Statement, roster: Roster | None) -> None:
        self.own = mine.peer
        self.roster = roster if roster is not None else Roster(0, ())
        self.statements: dict[PeerName, Statement] = {mine.peer: mine}
        self._electorate: frozenset[PeerName] | None = None  # until something changes

    # ---- reading

    @property
    def mine(self) -> Statement:
        """What this host says."""
        return self.statements[self.own]

    @property
    def members(self) -> dict[PeerName, int]:
        """The members, each with the session that holds his lease; none before anything was agreed on."""
        return dict(self.roster.members) if self.roster.version else {}

    def dismissed(self) -> frozenset[PeerName]:
        """Returns the members of whom one of them says, as an operator told him, that they don't come back."""
        members = dict(self.roster.members)
        said = (self.statements[name].dismissed for name in members if name in self.statements)
        # Who has another session by now has come back.
        return frozenset(name for one in said for name, session in one if members.get(name) == session)

    def electorate(self) -> frozenset[PeerName]:
        """Returns who votes on the next roster."""
        if self._electorate is None:
            self._electorate = frozenset(name for name, _ in self.roster.members) - self.dismissed()
        return self._electorate

    def possible(self) -> list[frozenset[PeerName]]:
        """Returns who votes next by the roster that is known, and by each that may have been decided on already."""
        values = {s.value for s in self.statements.values() if s.version == self.roster.version and s.value}
        dismissed = self.dismissed()
        later = (frozenset(name for name, _ in value.members) - dismissed for value in values)
        return [self.electorate(), *later]

    def unfinished(self) -> bool:
        """Whether a proposal for the next roster has begun and isn't decided yet."""
        return any(one.accepted.round for one in self._voters())

    def state(self, names: Iterable[PeerName], *, roster: bool = True) -> LeaseState:
        """Returns some statements, to be gossiped, and the roster if it is to go with them."""
        told = self.roster if roster and self.roster.version else None
        return LeaseState(told, tuple(self.statements[name] for name in names if name in self.statements))

    # ---- changing

    def found(self, founders: Iterable[PeerName]) -> None:
        """Says who votes on the first roster; nothing if there is one already."""
        if not self.roster.version:
            self.roster = Roster(0, tuple((name, 0) for name in sorted(founders)))
            self._electorate = None

    def say(self, **fields: object) -> None:
        """Changes what this host says."""
        changed = self.mine._replace(**fields)  # type: ignore[arg-type]
        if changed != self.mine:
            self.statements[self.own] = changed._replace(serial=self.mine.serial + 1)
            self._electorate = None

    def merge(self, theirs: LeaseState) -> Changes:
        """Takes what another host knows and returns what of it was new."""
        changed = set()
        self._electorate = None
        for one in theirs.statements:
            known = self.statements.get(one.peer)
            newer = len(self.statements) < limits.PEERS_MAX if known is None else _later(one, known)
            if newer and one.peer == self.own and one.serial >= COUNTER_MAX:
                continue  # nobody's earlier life
            if newer:
                self.statements[one.peer] = one
                changed.add(one.peer)
                if one.peer == self.own:
                    # Said in an earlier life that we don't remember: it holds, and we go on from there.
                    self.say(serial=one.serial + 1, session=one.session + 1 if one.session else 0)
        return Changes(frozenset(changed), theirs.roster is not None and self._adopt(theirs.roster))

    def propose(self, gone: Iterable[PeerName]) -> None:
        """Begins a round for the next roster, one without `gone`, that is higher than any known."""
        voters = self._voters()
        rounds = [r for one in (*voters, self.mine) for r in (one.promise.round, one.accepted.round)]
        self._catch_up()
        if max(rounds) < COUNTER_MAX:
            self.say(promise=Ballot(max(rounds) + 1, self.own), gone=tuple(sorted(gone)))

    def think(self, agrees: Agrees, wanted: Callable[[Collection[PeerName]], Roster]) -> bool:
        """Draws the conclusions: promises, accepts, decides. `agrees` tells whether peers are gone as we see it,
        `wanted` what the next roster without them should be. Returns whether there is a new roster.
        """
        decided = False
        while True:
            self._catch_up()
            voters = self._voters()
            if (value := self._decided(voters)) is not None:
                decided = self._adopt(value) or decided
                continue
            before = self.mine
            if self.own in self.electorate():
                self._vote(voters, agrees)
                self._lead(agrees, wanted)
            if self.mine == before:
                return decided

    def _vote(self, voters: Iterable[Statement], agrees: Agrees) -> None:
        """Accepts what a majority has promised to its proposer, else promises to the highest that we can agree with."""
        for one in voters:
            mine = self.mine
            theirs = one.accepted
            if theirs.proposer == one.peer and theirs >= mine.promise and theirs > mine.accepted:
                self.say(promise=one.accepted, accepted=one.accepted, value=one.value, gone=())
        asking = [s for s in voters if s.promise.proposer == s.peer and s.promise > self.mine.promise]
        agreed = [s.promise for s in asking if agrees(s.gone)]
        if agreed:
            self.say(promise=max(agreed), gone=())

    def _lead(self, agrees: Agrees, wanted: Callable[[Collection[PeerName]], Roster]) -> None:
        """Proposes a roster once a majority has promised: one that was accepted before, if there is any."""
        mine = self.mine
        if mine.promise.proposer != self.own or mine.accepted == mine.promise:
            return
        promised = [one for one in self._voters() if one.promise == mine.promise]
        if not self._enough(len(promised)):
            return
        latest = max(promised, key=lambda one: one.accepted)
        if latest.accepted == NO_BALLOT and not agrees(mine.gone):
            return  # somebody is there again
        value = latest.value if latest.value is not None else wanted(mine.gone)
        self.say(accepted=mine.promise, value=value, gone=())

    def _decided(self, voters: Iterable[Statement]) -> Roster | None:
        counts: dict[Ballot, int] = {}
        values: dict[Ballot, Roster] = {}
        for one in voters:
            if one.value is not None:
                counts[one.accepted] = counts.get(one.accepted, 0) + 1
                values[one.accepted] = one.value
        return next((values[ballot] for ballot, votes in counts.items() if self._enough(votes)), None)

    def _adopt(self, roster: Roster) -> bool:
        # Two rosters of one version can't be; if somebody makes them up, all still end up with the same.
        if roster.version and (roster.version, roster) > (self.roster.version, self.roster):
            self.roster = roster
            self._electorate = None
            return True
        return False

    def _catch_up(self) -> None:
        if self.mine.version < self.roster.version:
            members = dict(self.roster.members)
            dismissed = tuple(one for one in self.mine.dismissed if members.get(one[0]) == one[1])
            self.say(
                version=self.roster.version,
                promise=NO_BALLOT,
                accepted=NO_BALLOT,
                value=None,
                gone=(),
                dismissed=dismissed,
            )

    def _voters(self) -> list[Statement]:
        found = (self.statements.get(name) for name in sorted(self.electorate()))
        return [one for one in found if one is not None and one.version == self.roster.version]

    def _enough(self, votes: int) -> bool:
        return votes > len(self.electorate()) // 2


def _later(one: Statement, other: Statement) -> bool:
    """Tells which of two statements of a host counts; of the same serial, which can't be, all take the same."""
    if one.serial != other.serial or one == other:
        return one.serial > other.serial
    return _encoded(one) > _encoded(other)


def _encoded(one: Statement) -> bytes:
    return encode_lease_state(LeaseState(None, (one,)))
