"""Random histories of a network that gives out addresses: everything that operators, containers and bad luck do.

Rules of this file. A seed decides everything, also which kinds of trouble there are: a history with a few of them finds
more than one with all. Trouble ends; then operators do what they would, everybody is up and hears everybody, and half a
minute later all has to be right again. `python tests/sim/histories.py SEED` tells the story of one seed.
"""

import random
import sys
from collections.abc import Callable

from addresses import AddressWorld, Grant, allocator_of
from world import Host

from weavepy.events import PeerName
from weavepy.wire.ipam import Range

START = 0x0A200000  # 10.32.0.0
TROUBLE = (
    "apart", "cuts", "one-way cuts", "kills", "power cuts", "restarts", "departures", "removals", "claims", "frees",
    "loss", "slow ways", "slow disks", "jumps", "resets", "greed", "cancels",
)  # fmt: skip
MODES = ("auto", "auto", "quorum", "seeds", "observers")
IN_NO_HURRY_S = 5.0  # an operator who cleans up
CONNECTED_WITHIN_S = 120.0
SETTLED_S = 30.0
GRANTED_WITHIN_S = 60.0


class History:
    """One run. `story` is what has happened so far, a line each."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(f"history {seed}")
        self.story: list[str] = []
        draw = self.draw
        self.trouble = {name for name in TROUBLE if draw.random() < 0.35}
        self.mode = draw.choice(MODES)
        self.count = draw.choice((3, 3, 3, 4, 4, 5, 5, 6, 7, 12) if seed % 10 == 0 else (3, 3, 3, 4, 4, 5, 6))
        self.world = AddressWorld(
            seed, Range(START, START + (1 << draw.choice((3, 3, 3, 4, 4, 4, 5, 5, 6, 8))))
        )
        self.numbers = iter(range(1, 250))
        self.owners = iter(range(1, 100_000))
        self.observers: set[int] = set()
        self.heirs: dict[PeerName, Host] = {}  # who took over from whom
        self.targets: dict[int, tuple[Host, ...]] = {}
        if "loss" in self.trouble:
            self.world.loss, self.world.duplication = draw.choice((0.05, 0.2)), 0.05

    def tell(self, text: str) -> None:
        self.story.append(f"{self.world.now - 1000:8.3f}  {text}")

    def run(self) -> None:
        """Lives through it; AssertionError tells the whole story."""
        try:
            self._live()
        except AssertionError as error:
            lines = "\n".join(self.story)
            raise AssertionError(
                f"seed {self.seed}: {error}\n{lines}\n"
                f"again: .venv/bin/python tests/sim/histories.py {self.seed}"
            ) from error

    def _live(self) -> None:
        size = self.world.universe.end - START
        self.tell(
            f"{self.count} hosts, {size} addresses, {self.mode}; trouble: {', '.join(sorted(self.trouble))}"
        )
        self._begin()
        moves = self._moves()
        for _ in range(self.draw.randint(10, 35)):
            self.draw.choice(moves)()
            self._pause()
        self._end_trouble()
        self._check()

    def _pause(self) -> None:
        self.world.run(self.draw.choice((0.002, 0.05, 0.5, 3.0, 8.0)) * self.draw.random())

    # ---- the beginning

    def _new_host(self, *, observer: bool | None = None) -> Host:
        draw, number = self.draw, next(self.numbers)
        settings: dict[str, object] = {}
        if self.mode == "quorum":
            settings["quorum"] = self.count // 2 + 1
        elif self.mode == "seeds":
            settings["seeds"] = tuple(0x020000000000 + n for n in range(1, min(self.count, 3) + 1))
        elif self.mode == "observers":
            settings["observer"] = number > 2 if observer is None else observer
            settings["quorum"] = 2 if self.seed % 2 else None
            if settings["observer"]:
                self.observers.add(number)
        disk_s = draw.choice((0.0, 0.01, 0.1)) if "slow disks" in self.trouble else 0.0
        host = self.world.address_host(number, disk_s=disk_s, **settings)
        if "jumps" in self.trouble:
            host.clock_offset_s = draw.random() * 1e6
        return host

    def _begin(self) -> None:
        draw, world = self.draw, self.world
        hosts: list[Host] = []
        for _ in range(self.count):
            host = self._new_host()
            alone = not hosts or ("apart" in self.trouble and draw.random() < 0.5)
            self.targets[host.number] = (
                () if alone else tuple(draw.sample(hosts, min(len(hosts), draw.randint(1, 2))))
            )
            hosts.append(host)
        if "slow ways" in self.trouble:
            for host in hosts:
                for other in hosts:
                    if draw.random() < 0.3:
                        world.delay(host.number, other.number, draw.choice((0.05, 0.4)))
        for host in hosts:
            self._start(host)
            world.run(draw.random() * draw.choice((0.1, 4.0)))

    def _start(self, host: Host) -> None:
        named = [other for other in self.targets[host.number] if other.number in self.world.hosts]
        self.tell(f"host {host.number} starts, told of {[other.number for other in named] or 'nobody'}")
        self.world.restart(host, *named)

    # ---- what happens

    def _moves(self) -> list[Callable[[], None]]:
        always = [self._allocate] * 5
        some: dict[str, list[Callable[[], None]]] = {
            "apart": [self._connect],
            "cuts": [self._cut, self._heal],
            "one-way cuts": [self._cut_one_way, self._heal],
            "kills": [self._kill],
            "power cuts": [self._power_off, self._power_off_in_mid_write],
            "restarts": [self._restart, self._restart],
            "departures": [self._depart],
            "removals": [self._remove],
            "claims": [self._claim, self._claim],
            "frees": [self._free] * 3,
            "jumps": [self._jump],
            "resets": [self._reset],
            "greed": [self._be_greedy],
            "cancels": [self._cancel],
        }
        return always + [move for name, moves in some.items() if name in self.trouble for move in moves]

    def _up(self) -> Host | None:
        return self.draw.choice(self.world.up()) if self.world.up() else None

    def _down(self) -> list[Host]:
        return [host for host in self.world.hosts.values() if host.router is None]

    def _allocate(self) -> None:
        if host := self._up():
            owner = f"c{next(self.owners)}"
            request = self.world.allocate(host, owner)
            self.tell(f"host {host.number}: {owner} wants an address{self._at_once(request.answer)}")

    def _be_greedy(self) -> None:
        if host := self._up():
            size = self.world.universe.end - START
            count = self.draw.randint(1, size)
            self.tell(f"host {host.number}: {count} containers want addresses")
            for _ in range(count):
                self.world.allocate(host, f"c{next(self.owners)}")

    def _claim(self) -> None:
        if host := self._up():
            owner = f"c{next(self.owners)}"
            address = self.draw.randrange(*self.world.universe)
            hasty = self.draw.random() < 0.2
            request = self.world.claim(host, owner, address, optimistic=hasty)
            how = "claims, unasked if need be," if hasty else "claims"
            self.tell(f"host {host.number}: {owner} {how} .{address - START}{self._at_once(request.answer)}")

    @staticmethod
    def _at_once(answer: object) -> str:
        if answer is None:
            return ""
        value, reason = answer.value, answer.reason  # type: ignore[attr-defined]
        return f": no, {reason}" if reason else f": .{value - START}"

    def _usable_grants(self) -> list[Grant]:
        return [grant for grant in self.world.all_grants() if grant.host.router is not None]

    def _free(self) -> None:
        if grants := self._usable_grants():
            for grant in self.draw.sample(grants, self.draw.randint(1, max(1, len(grants) // 3))):
                self.tell(f"host {grant.host.number}: {grant.owner} gives .{grant.address - START} back")
                self.world.free(grant)

    def _cancel(self) -> None:
        if waiting := [request for request in self.world.waiting() if request.owner]:
            request = self.draw.choice(waiting)
            self.tell(f"host {request.host.number}: {request.owner} doesn't want one any more")
            self.world.cancel(request)

    def _connect(self) -> None:
        if (host := self._up()) and (other := self._up()) and host is not other:
            self.tell(f"host {host.number} is told of host {other.number}")
            host.connect(other)

    def _cut(self) -> None:
        numbers = list(self.world.hosts)
        side = set(self.draw.sample(numbers, self.draw.randint(1, max(1, len(numbers) - 1))))
        self.tell(f"hosts {sorted(side)} are cut off from the others")
        self.world.cut(*((one, other) for one in side for other in numbers if other not in side))

    def _cut_one_way(self) -> None:
        if len(self.world.hosts) > 1:
            near, far = self.draw.sample(sorted(self.world.hosts), 2)
            self.tell(f"nothing gets from host {near} to host {far}")
            self.world.cut_one_way((near, far))

    def _heal(self) -> None:
        self.tell("all ways are open again")
        self.world.heal()

    def _kill(self) -> None:
        if host := self._up():
            self.tell(f"host {host.number} is killed")
            host.kill()

    def _power_off(self) -> None:
        if host := self._up():
            self.tell(f"host {host.number} loses its power")
            host.power_off()

    def _power_off_in_mid_write(self) -> None:
        """Waits for a host that writes, but not for long."""
        self.world.run_until(lambda: any(h.disk.busy for h in self.world.up()), 2.0, must=False)
        writing = [host for host in self.world.up() if host.disk.busy]
        if writing:
            host = self.draw.choice(writing)
            self.tell(f"host {host.number} loses its power in the middle of a write")
            host.power_off()

    def _restart(self) -> None:
        if down := self._down():
            self._start(self.draw.choice(down))

    def _reset(self) -> None:
        if (host := self._up()) and host.pipes:
            conn = self.draw.choice(sorted(host.pipes))
            self.tell(f"connection {conn} of host {host.number} is reset")
            host.reset(conn)

    def _jump(self) -> None:
        if host := self._up():
            seconds = self.draw.choice((10.0, 3600.0, 30 * 86400.0))
            self.tell(f"the clock of host {host.number} jumps by {seconds:.0f} s")
            host.jump(seconds)

    def _remove(self) -> None:
        """An operator gives up a dead host, and for good in most cases. As the manual says, he does so on one host that
        hears all others, and not in the seconds when what the dead one gave away may still be on its way.
        """
        if down := self._down():
            gone = self.draw.choice(down)
            self.world.run(IN_NO_HURRY_S)
            names = {up.name for up in self.world.up()}
            if (
                not names
                or gone.router is not None
                or gone.name in {p for up in self.world.up() for p in up.known()}
            ):
                return  # it is refused
            host = self.heirs.get(gone.name)
            if host is None or host.number not in self.world.hosts:
                host = self.heirs[gone.name] = self.draw.choice(self.world.up())
            if host.router is None or not names <= host.known():
                return
            self.tell(f"host {host.number} takes over what host {gone.number} had")
            self.world.remove_peer(host, gone.name)
            if self.draw.random() < 0.7:
                self.tell(f"host {gone.number} is thrown away")
                self.world.throw_away(gone)

    def _depart(self) -> None:
        """A host leaves, its machine is set up anew, and joins with another name."""
        if len(self.world.up()) < 2 or (host := self._up()) is None:
            return
        self.tell(f"host {host.number} leaves the network")
        self.world.leave(host)
        self.world.run(self.draw.choice((0.5, 3.0)))
        if host.router is not None:
            host.power_off()
        self.world.wipe(host)
        self._replace(host)

    def _replace(self, host: Host) -> None:
        fresh = self._new_host(observer=host.number in self.observers)
        self.targets[fresh.number] = (self.draw.choice(self.world.up() or list(self.world.hosts.values())),)
        self._start(fresh)

    # ---- the end

    def _end_trouble(self) -> None:
        world = self.world
        self.tell("the trouble is over")
        world.loss = world.duplication = 0.0
        world.heal()
        for host in self._down():
            self._start(host)
        self._replace_voters()
        self._connect_all()
        world.run(SETTLED_S)
        self._repair()
        self._remove_the_dead()

    def _replace_voters(self) -> None:
        """Where the operators asked for more voters than are left, and nothing is divided yet, they add some: with
        fewer it is right to wait.
        """
        wanted = {"quorum": self.count // 2 + 1, "observers": 2}.get(self.mode, 0)
        if any(not allocator_of(host).ring.empty for host in self.world.up()):
            return
        voters = sum(host.number not in self.observers for host in self.world.up())
        for _ in range(wanted - voters):
            fresh = self._new_host(observer=False)
            self.targets[fresh.number] = tuple(self.world.up()[:1])
            self._start(fresh)

    def _repair(self) -> None:
        """Operators end contradictions: whoever was given up and who has divided apart gives way."""
        world = self.world
        for _ in range(3):
            divisions = sorted({allocator_of(host).ring.seeds for host in world.up()} - {()})
            yielding = {host.number: (host, PeerName(0)) for host in world.stubborn()}
            if len(divisions) > 1:
                stays = self.draw.choice(divisions)
                apart = [h for h in world.up() if allocator_of(h).ring.seeds not in ((), stays)]
                # Who speaks for the other division gossips with a few neighbours now and then.
                world.run_until(lambda apart=apart: all(allocator_of(h).conflicts for h in apart), 300.0)  # type: ignore[misc]
                for host in apart:
                    yielding[host.number] = host, self._somebody_of(stays)
            if not yielding:
                return
            for host, peer in yielding.values():
                request = world.repair(host, peer or None)
                said = request.answer.reason if request.answer is not None else ""
                self.tell(
                    f"host {host.number} gives way {f'to the ring of {peer & 0xFF}' if peer else ''} {said}"
                )
            world.run(2 * SETTLED_S + 5.0)
        raise AssertionError("the contradictions never end")

    def _somebody_of(self, seeds: tuple[PeerName, ...]) -> PeerName:
        rings = [allocator_of(host).ring for host in self.world.up()]
        return next(min(ring.peers()) for ring in rings if ring.seeds == seeds)

    def _connect_all(self) -> None:
        """Operators see to it that everybody hears everybody."""
        world = self.world
        names = {host.name for host in world.up()}
        for host in world.up():
            missing = names - host.established() - {host.name}
            host.connect(*(other for other in world.up() if other.name in missing))
        world.run_until(lambda: all(host.known() == names for host in world.up()), CONNECTED_WITHIN_S)

    def _remove_the_dead(self) -> None:
        """Operators clean up: what belongs to nobody that is there, somebody takes over."""
        world = self.world
        for _ in range(2 * len(world.hosts)):
            names = {host.name for host in world.up()}
            found = sorted(
                (host.number, peer) for host in world.up() for peer in allocator_of(host).ring.peers() - names
            )
            if not found:
                return
            number, peer = found[0]
            self.tell(f"host {number} takes over what {peer:#x} had, who isn't there any more")
            world.remove_peer(world.hosts[number], peer)
            world.run(5.0)

    def _check(self) -> None:
        world = self.world
        self.tell("all is to be right now")
        world.check_settled()
        self._nobody_waits()
        both = len(world.up()) > 1 and self.draw.random() < 0.3
        for host in self.draw.sample(world.up(), 2 if both else 1):
            self._everything_is_there(host)
        shapes = {
            tuple((entry.token, entry.peer) for entry in allocator_of(host).ring.entries)
            for host in world.up()
        }
        assert len(shapes) == 1, "they disagree on who owns what"
        world.run_until(lambda: not any(host.disk.busy for host in world.up()), GRANTED_WITHIN_S)
        for host in world.up():
            assert not allocator_of(host).waiting, f"host {host.number} has forgotten to answer"

    def _left(self) -> int:
        """Returns how many addresses nobody has."""
        universe = self.world.universe
        held = {
            address
            for host in self.world.up()
            for owner in allocator_of(host).owners()
            for address in allocator_of(host).addresses(owner)
        }
        return len(set(range(universe.start + 1, universe.end - 1)) - held)

    def _nobody_waits(self) -> None:
        """Whoever still waits gets an answer, unless there is nothing left."""
        world = self.world
        world.run_until(lambda: not world.waiting() or not self._left(), GRANTED_WITHIN_S, must=False)
        world.run(2.0)
        for request in world.waiting():
            there = {r.number: r.waits_for for r in allocator_of(request.host).waiting}
            text = (
                f"{request.owner} on host {request.host.number} still waits for {there.get(request.number)}"
            )
            assert request.claim is None, text
            assert not self._left(), f"{text}, and {self._left()} are left"
            world.cancel(request)

    def _everything_is_there(self, host: Host) -> None:
        """One host can get all that nobody has, and then there is nothing left."""
        world, left = self.world, self._left()
        self.tell(f"host {host.number} wants all {left} addresses that are left")
        requests = [world.allocate(host, f"c{next(self.owners)}") for _ in range(left + 1)]
        world.run_until(
            lambda: sum(r.answer is not None for r in requests) >= left, GRANTED_WITHIN_S, must=False
        )
        answered = [
            request for request in requests if request.answer is not None and not request.answer.reason
        ]
        ring = allocator_of(host).ring
        assert len(answered) == left, (
            f"host {host.number} got {len(answered)} of {left} within {GRANTED_WITHIN_S:.0f} s; "
            f"it waits for {allocator_of(host).waiting[0].waits_for}; "
            f"{ {f'{peer:#x}': free for peer, free in ring.donors(world.universe).items()} }"
        )
        for request in requests:
            if request.answer is None:
                world.cancel(request)
        for grant in list(world.all_grants()):
            if grant.host is host and grant.owner in {request.owner for request in requests}:
                world.free(grant)
        world.run(1.0)


if __name__ == "__main__":
    history = History(int(sys.argv[1]))
    history.run()
    print("\n".join(history.story))
