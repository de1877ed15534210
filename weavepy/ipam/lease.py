"""The lease that a host has on what it owns, where space of hosts that are gone is taken over (`--reclaim-after`).

All hosts with the option are members of one roster (`ipam/roster.py`). A host may give out addresses while the roster
has its present session and it was in contact with a majority of the members within half the time; after the whole time
its addresses expire, and it needs a new session. A member that a majority has missed for the time and a margin is
taken out of the roster, and the one who proposed that, its heir, takes over its space.

Why no address is in use twice. Let t be when a majority Q of the members of roster m had promised to take G over, and
c the last time that G, by roster n, was in contact with a majority M. Suppose c > t - R, R being the longest time that
any of Q wants. Each of Q has missed G since t - R - margin at least, and has known the same members for as long. If the
members of n and m are the same, or G has heard of m's as of a possible next roster, then Q and M have a host in common;
it was in contact with G at c and has missed it since before c - margin: impossible, as views lag by less than the
margin. Else somebody of M took part in deciding on a later roster before c - margin, and G had heard of that by c. So
c <= t - R: G has expired by t, and is given a new session by a roster that follows, which says that it was taken over.
What G gave to others before it was fenced, at c + R/2, is known to the heir: every member is gone as long as G, or has
been there long enough for its ring to arrive. A member whose lease was taken forgets its ring, and nobody believes it.
Who is no member and owns nothing may have seen what G gave away all the same: it forgets its ring with every new
roster, and isn't believed until it has heard of the last one.

Rules of this file. `now` is monotonic; every call returns what is to be done, in order, `Save` before what tells of it.
Nothing expires and nobody is taken over before three hosts or more have agreed on a first roster. The thing people
get wrong: the clock has to go on while the host sleeps (CLOCK_BOOTTIME), else a suspended host doesn't know that it was
away.
"""

from collections.abc import Callable, Collection, Mapping

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.actions import Announce
from weavepy.ipam.attendance import Attendance
from weavepy.ipam.leaseactions import Expire, ForgetRing, LeaseAction, LeaseNews, TakeOver
from weavepy.ipam.leasestore import LeaseStore
from weavepy.ipam.roster import Changes, Council
from weavepy.wire.lease import CHANNEL, LeaseState, Roster, Statement, decode_lease_state_untrusted
from weavepy.wire.peername import format_peer_name


class Lease:
    """One host's lease. `founders`: who the ring was first divided among; `owners`: who owns something by it; both are
    empty while there is no ring. `boot` names this boot of the host; without it no contact outlives the run.
    """

    name = CHANNEL

    def __init__(
        self,
        own: PeerName,
        reclaim_after_s: int,
        now: float,
        *,
        founders: Callable[[], Collection[PeerName]],
        owners: Callable[[], Collection[PeerName]],
        reachable: Callable[[PeerName], bool],
        boot: str = "",
        stored: Mapping[str, str] | None = None,
    ) -> None:
        """`stored`: what the last run had saved."""
        if not limits.RECLAIM_AFTER_MIN_S <= reclaim_after_s <= limits.RECLAIM_AFTER_MAX_S:
            least, most = limits.RECLAIM_AFTER_MIN_S, limits.RECLAIM_AFTER_MAX_S
            raise ValueError(f"--reclaim-after: from {least} to {most} seconds")
        self._own = own
        self._founders, self._owners = founders, owners
        self._store = LeaseStore(boot, stored or {})
        mine, roster = self._store.restore(own, reclaim_after_s)
        self._council = Council(mine, roster)
        self._was_member = self._store.was_member  # and hasn't forgotten its ring since
        self._forgotten = False  # it has, in this run
        self._looked_on = self._council.roster.version  # our ring is of no earlier one, if we do
        self._taken = self._store.taken  # whose space we have taken over already
        # Nothing is known of the time before a boot: half of it counts as gone by.
        contact_at = self._store.contact_at
        self._contact_at = now - reclaim_after_s / 2 if contact_at is None else min(now, contact_at)
        if mine.session:
            self._council.say(session=mine.session + 1)  # how long we were away, others have to say
        self._expired = not mine.session  # there is nothing that could expire
        self._overdue = False  # they should have by now
        self._attendance = Attendance(own, reachable)
        self._names: frozenset[PeerName] = frozenset()  # of the roster,
        self._names_since = now  # and since when
        self._needed_since: float | None = None  # a new roster,
        self._needed_after = 0  # and after which
        self._proposed_at = float("-inf")
        self._told: Statement | None = None
        self._decided = False  # the roster by our own count: others may not have heard of it
        self._tick_at = now

    # ---- reading

    @property
    def roster(self) -> Roster | None:
        """Who holds leases; None before anything was agreed on."""
        return self._council.roster if self._council.roster.version else None

    def fenced(self, now: float) -> str:
        """Says why nothing may be given out now, neither addresses nor space; nothing if it may be."""
        if not self._council.roster.version and not self._council.mine.session:
            return ""
        if self._council.roster.version and not self._leased():
            missing = self._missing()
            text = "a majority of the hosts has not agreed yet that this host uses its addresses (--reclaim-after)"
            return f"{text}: missing {missing}; `weavepy rmpeer` those that are gone" if missing else text
        if now >= self._contact_at + self._fence_after_s() / 2:
            missing = self._missing() or "nobody by now"
            return f"no contact with a majority of the hosts (--reclaim-after): missing {missing}"
        return ""

    def may_give(self, peer: PeerName, now: float) -> bool:
        """Whether `peer` may be given space: once there is a roster, a member only, and while we aren't fenced."""
        roster = self._council.roster.version
        return not self.fenced(now) and (not roster or peer in self._council.members)

    def believes(self, peer: PeerName) -> bool:
        """Whether what `peer` says of the ring counts: no more when its space was taken over, until it is back, and not
        if it merely looks on and hasn't heard of the last roster.
        """
        roster, said = self._council.roster, self._council.statements.get(peer)
        if peer == self._own or peer in self._council.members:
            return True
        if peer in dict(roster.heirs):
            return False
        return said is None or said.version >= roster.version or peer in self._owners()

    def is_in_force(self) -> bool:
        """Whether hosts have agreed on a roster, which they do of those who own something."""
        return bool(self._council.roster.version)

    def report(self, now: float) -> dict[str, object]:
        """Returns what `status` shows."""
        votes: dict[str, list[str]] = {}
        for one in self._council.statements.values():
            proposer = self._council.statements.get(one.promise.proposer)
            if proposer is not None and proposer.promise == one.promise:
                for gone in proposer.gone:
                    votes.setdefault(format_peer_name(gone), []).append(format_peer_name(one.peer))
        return {
            "ReclaimAfter": self._council.mine.reclaim_after_s,
            "Fenced": self.fenced(now),
            "Contact": self._in_contact(),
            "Members": [format_peer_name(name) for name in sorted(self._council.members)],
            "Votes": {gone: sorted(voters) for gone, voters in sorted(votes.items())},
            "Warnings": self.warnings(),
        }

    def news(self) -> LeaseNews:
        """Returns what we say ourselves, to be broadcast when `Announce` says so."""
        return LeaseNews(frozenset({self._own}), self._decided, self._council)

    def complete(self) -> LeaseNews:
        """Returns everything we know, to be gossiped."""
        return LeaseNews(frozenset(self._council.statements), True, self._council)

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due."""
        times = [self._tick_at]
        period_s = self._fence_after_s()
        fence_at = self._contact_at + period_s / 2
        if fence_at > self._tick_at - limits.LEASE_TICK_S:  # `fenced` changes then
            times.append(fence_at)
        if not self._expired:
            times.append(self._contact_at + period_s)
        if self._needed_since is not None:
            times.append(max(self._proposal_at(), self._proposed_at + limits.LEASE_TICK_S))
        return min(times)

    # ---- what happens

    def handle_timer(self, now: float) -> list[LeaseAction]:
        """Does what is due by `now`."""
        return self._step(now)

    def topology_changed(self, now: float) -> list[LeaseAction]:
        """Looks who can be reached now, or who owns something."""
        return self._step(now)

    def dismiss(self, peer: PeerName, now: float) -> list[LeaseAction]:
        """Takes the operator's word that `peer` doesn't come back, or leaves (`peer` is ourselves): its vote isn't
        needed any more, and if it does come back what it had isn't its own.
        """
        session = dict(self._council.roster.members).get(peer)
        if session is not None:
            self._council.say(dismissed=tuple(sorted({*self._council.mine.dismissed, (peer, session)})))
        return self._step(now)

    # ---- what comes from others; raises WireError

    def merge_gossip_untrusted(
        self, payload: bytes, now: float
    ) -> tuple[LeaseNews | None, list[LeaseAction]]:
        """Takes what a neighbour gossiped; returns what was new, to be sent on, too."""
        changes = self._merge(decode_lease_state_untrusted(payload))
        if not changes.statements and not changes.roster:
            return None, []
        return LeaseNews(changes.statements, changes.roster, self._council), self._step(now)

    def merge_broadcast_untrusted(self, payload: bytes, now: float) -> tuple[LeaseNews, list[LeaseAction]]:
        """Takes what somebody broadcast; returns all that it was about, which goes on along its tree, too."""
        state = decode_lease_state_untrusted(payload)
        changes = self._merge(state)
        names = frozenset(one.peer for one in state.statements)
        news = LeaseNews(names, state.roster is not None, self._council)
        return news, self._step(now) if changes.statements or changes.roster else []

    def _merge(self, state: LeaseState) -> Changes:
        changes = self._council.merge(state)
        self._attendance.hear(changes.statements)
        return changes

    # ---- the machine

    def _step(self, now: float) -> list[LeaseAction]:
        council = self._council
        self._tick_at = now + limits.LEASE_TICK_S
        if self._founders():
            council.found(self._founders())
        self._heed_operators()
        self._look(now)
        self._decided = self._think(now)
        self._look(now)
        actions = self._own_lease()
        self._propose(now)
        if self._think(now):
            self._decided = True
            self._look(now)
            actions += self._own_lease()
        return self._all_actions(actions, now)

    def _heed_operators(self) -> None:
        """Says of who doesn't come back what an operator told any host: that of the members counts alone."""
        mine, members = self._council.mine, dict(self._council.roster.members)
        if self._own not in members:
            return
        said = {one for statement in self._council.statements.values() for one in statement.dismissed}
        news = {
            (peer, session) for peer, session in said if members.get(peer) == session and peer != self._own
        }
        self._council.say(dismissed=tuple(sorted({*mine.dismissed, *news})))

    def _think(self, now: float) -> bool:
        return self._council.think(lambda gone: self._are_gone(gone, now), self._next_roster)

    def _look(self, now: float) -> None:
        """Notes who is there, who has the lease, and how long all that lasts."""
        names = frozenset(name for name, _ in self._council.roster.members)
        if names != self._names:
            self._names, self._names_since = names, now
        self._attendance.look({*names, *self._owners()}, now)
        if not self._expired and now >= self._contact_at + self._fence_after_s():
            self._overdue = True  # also if the timer was late, or the host was down, and there is contact now
        if self._in_contact():
            self._contact_at = now

    def _own_lease(self) -> list[LeaseAction]:
        """Lets our addresses expire, and asks for a session."""
        council, actions = self._council, list[LeaseAction]()
        # Who was taken over may never have heard that he was a member.
        known = self._was_member or (self._own in dict(council.roster.heirs) and not self._forgotten)
        taken = known and council.roster.version and self._own not in council.members
        if not self._expired and (taken or self._overdue):
            self._expired, self._overdue = True, False
            council.say(session=council.mine.session + 1)
            actions.append(Expire())
        if self._own in council.members:
            self._was_member, self._forgotten = True, False
        elif taken:
            self._was_member, self._forgotten = False, True
            actions.append(ForgetRing())
        if council.mine.session == 0 and self._may_ask():
            council.say(session=1)
            self._expired = False  # what was given out before this is under the lease, too
        if self._leased():
            self._expired = False
        for gone, heir in council.roster.heirs:
            if heir == self._own and gone not in self._taken:
                self._taken.add(gone)
                actions.append(TakeOver(gone))
        self._taken &= {gone for gone, heir in council.roster.heirs if heir == self._own}
        return actions

    def _all_actions(self, actions: list[LeaseAction], now: float) -> list[LeaseAction]:
        """Puts what must last before all that tells of it, and what we have done behind it."""
        early = self._look_on()
        mine, store = self._council.mine, self._store
        before = store.save_said(mine, self.roster)
        after: list[LeaseAction] = [*store.save_done(was_member=self._was_member, taken=self._taken)]
        if self._in_contact():
            after += store.save_contact(now, mine.reclaim_after_s / 8)
        if mine != self._told:
            self._told = mine
            after.append(Announce())
        return [*early, *before, *actions, *after]

    def _look_on(self) -> list[LeaseAction]:
        """Forgets the ring of an earlier roster, before the new one is saved, if we only look on."""
        version = self._council.roster.version
        if version == self._looked_on:
            return []
        self._looked_on = version
        owners = self._owners()
        return [ForgetRing()] if owners and self._own not in {*owners, *self._council.members} else []

    # ---- contact and leases

    def _leased(self) -> bool:
        session = self._council.mine.session
        return bool(session) and self._council.members.get(self._own) == session

    def _in_contact(self) -> bool:
        """Whether a majority of those that vote next is there, whoever that is by now. Of two that are a roster
        neither can be taken over: that needs his own vote.
        """
        if not self._council.electorate():
            return False
        for voters in self._council.possible():
            there = sum(1 for peer in voters if self._attendance.is_there(peer))
            if there <= len(voters) // 2 and not (self._own in voters and len(voters) <= 2):
                return False
        return True

    def _may_ask(self) -> bool:
        """Whether to begin having a lease: nothing to lose by it is in sight, and our space isn't another's."""
        owners = self._owners()
        if not owners or not self._in_contact() or self._mute():
            return False
        if self._council.roster.version:
            return self._own not in dict(self._council.roster.heirs) or self._own not in owners
        return sum(1 for peer in self._council.statements if self._attendance.is_there(peer)) >= 3

    def _mute(self) -> list[PeerName]:
        """Returns the owners that were there in this run and know nothing of leases."""
        return self._attendance.mute(self._owners())

    def _fence_after_s(self) -> float:
        """After how long addresses expire: the shortest time that any member wants."""
        return min(one.reclaim_after_s for one in self._members_statements())

    def _take_after_s(self) -> float:
        return max(one.reclaim_after_s for one in self._members_statements()) + limits.LEASE_MARGIN_S

    def _members_statements(self) -> list[Statement]:
        names = {self._own, *self._names}
        return [one for name, one in self._council.statements.items() if name in names]

    # ---- the next roster

    def _are_gone(self, gone: Collection[PeerName], now: float) -> bool:
        """Whether all of `gone` are gone for long enough, and all others have been there for long enough."""
        if not gone:
            return True
        after_s, voters = self._take_after_s(), self._council.electorate()
        if self._own in gone or not voters.issuperset(gone):
            return False
        if self._mute() or now < self._names_since + after_s:
            return False
        for peer in voters - {self._own}:
            if peer in gone:
                known = peer in self._council.statements  # how long it may take until its addresses expire
                if not known or self._attendance.gone_for(peer, now) < after_s:
                    return False
            elif self._attendance.there_for(peer, now) < limits.LEASE_SETTLE_S:
                return False
        return True

    def _gone(self, now: float) -> list[PeerName]:
        """Returns who is to be taken over."""
        after_s = self._take_after_s()
        voters = self._council.electorate() & self._council.members.keys()
        missing = [peer for peer in sorted(voters) if self._attendance.gone_for(peer, now) >= after_s]
        return missing if self._are_gone(missing, now) else []

    def _next_roster(self, gone: Collection[PeerName]) -> Roster:
        """Returns the roster that follows: without `gone`, with the sessions that are asked for by who is there."""
        council = self._council
        members, heirs = council.members, dict(council.roster.heirs)
        removed = {*gone, *(council.dismissed() & members.keys())}
        for peer in removed:
            del members[peer]
            heirs.pop(peer, None)
        for peer, heir in heirs.items():
            if heir in removed:
                heirs[peer] = self._own
        heirs |= dict.fromkeys(sorted(removed), self._own)
        owners = self._owners()
        for peer, one in council.statements.items():
            if not one.session or peer in removed or not self._attendance.is_there(peer):
                continue
            # Who was taken over is let in again once he knows, and his heir has taken over what he had.
            returns = one.version == council.roster.version and peer not in owners
            if peer in members or peer not in heirs or returns:
                members[peer] = max(members.get(peer, 0), one.session)
                heirs.pop(peer, None)
        latest = tuple(heirs.items())[-limits.LEASE_HEIRS_MAX :]
        return Roster(council.roster.version + 1, tuple(sorted(members.items())), latest)

    def _needs_roster(self, gone: Collection[PeerName], now: float) -> bool:
        council, wanted = self._council, self._next_roster(gone)
        if council.roster.version:
            return council.unfinished() or wanted.members != council.roster.members
        asking = dict(wanted.members)
        missing = [o for o in self._owners() if o not in asking and self._attendance.there_for(o, now) >= 0]
        return council.unfinished() or (len(asking) >= 3 and not missing)

    def _propose(self, now: float) -> None:
        """Begins a round for the next roster if one is needed and it is our turn."""
        council = self._council
        gone = self._gone(now)
        if (
            self._own not in council.electorate()
            or not self._in_contact()
            or not self._needs_roster(gone, now)
        ):
            self._needed_since = None
            return
        if self._needed_since is None or self._needed_after != council.roster.version:
            self._needed_since, self._needed_after = now, council.roster.version
        if now >= self._proposal_at() and now >= self._proposed_at + limits.LEASE_TICK_S:
            self._proposed_at = now
            council.propose(gone)

    def _proposal_at(self) -> float:
        assert self._needed_since is not None
        before = sum(
            1 for peer in self._council.electorate() if peer < self._own and self._attendance.is_there(peer)
        )
        return self._needed_since + limits.LEASE_GATHER_S + before * limits.LEASE_TURN_S

    # ---- for people

    def _missing(self) -> str:
        missing = sorted(peer for peer in self._council.electorate() if not self._attendance.is_there(peer))
        return ", ".join(map(format_peer_name, missing))

    def warnings(self) -> list[str]:
        """Returns what keeps it from doing what it is for, each with what to do."""
        warnings = []
        if mute := self._mute():
            names = ", ".join(map(format_peer_name, mute))
            warnings.append(f"--reclaim-after takes nothing over: these hosts run without it: {names}")
        periods = {one.reclaim_after_s for one in self._members_statements()}
        if len(periods) > 1:
            warnings.append(
                f"--reclaim-after isn't the same on all hosts ({', '.join(map(str, sorted(periods)))} s): addresses "
                "expire after the shortest time, and are taken over after the longest"
            )
        if not self._council.roster.version:
            warnings.append(
                "--reclaim-after isn't in force yet: it needs three hosts with it, a majority of those that the "
                "addresses were first divided among, and all that own some"
            )
        elif len(self._council.members) <= 2:
            warnings.append("--reclaim-after takes nothing over: that needs three hosts")
        return warnings
