"""Any history of hosts that begin alone, some with a division of their own, some with another range: what is given out
by right is given out once in each division, and an operator's word on each host that is in a conflict ends it.
"""

from hypothesis import given, settings
from hypothesis import strategies as st
from island import START, UNIVERSE, Island

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.conflicts import RepairError, kind
from weavepy.wire.ipam import Range

WIDE = Range(START, START + 512)
HOSTS = (1, 2, 3, 4)
SORTS: dict[str, dict[str, object]] = {
    "usual": {"chosen": False},
    "first": {"chosen": False, "quorum": 1},
    "wide": {"universe": WIDE, "quorum": 1},
    "observer": {"chosen": False, "observer": True},
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["allocate", "free", "claim", "prime", "restart", "join", "split", "time", "lose", "take"]
        ),
        st.integers(1, 4),
        st.integers(0, 30),
    ),
    min_size=5,
    max_size=50,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(SORTS)), min_size=4, max_size=4), STEPS)
def test_hosts_that_begin_alone_meet(sorts: list[str], steps: list[tuple[str, int, int]]) -> None:
    island = Island(*HOSTS)
    island.groups = [{host} for host in HOSTS]
    for host, sort in zip(HOSTS, sorts, strict=True):
        island[host].config = dict(SORTS[sort])
        island[host].start()
    for step, host, number in steps:
        member = island[host]
        match step:
            case "allocate":
                member.allocate(f"c{number}", UNIVERSE if number % 3 else member.allocator.universe)
            case "free":
                member.do(member.allocator.free(f"c{number}", now=island.now))
            case "claim":
                member.claim(f"c{number}", START + 8 * number + host)
            case "prime":
                member.do(member.allocator.prime(island.now))
            case "restart":
                held = {owner: member.allocator.addresses(owner) for owner in member.allocator.owners()}
                member.start()
                assert {owner: member.allocator.addresses(owner) for owner in held} == held
            case "join":
                island.groups = [{host, 1 + number % 4}, set(HOSTS) - {host}] if number % 2 else None
            case "split":
                island.groups = [{host}, set(HOSTS) - {host}]
            case "time":
                island.pass_time(float(number))
            case "lose":
                for _ in range(min(number, len(island.post_box))):
                    island.post_box.popleft()
            case "take":
                try:
                    member.do(member.allocator.repair(island.now))
                except RepairError:
                    pass
        check_within_divisions(island)
    for host in HOSTS:
        if sorts[host - 1] == "wide":  # what nobody has divided can't be agreed to
            island[host].do(island[host].allocator.prime(island.now))
    island.groups = None
    island.pass_time(120.0)
    check_within_divisions(island)
    agree(island)
    rings = {kind(island[host].allocator.ring) for host in HOSTS}
    assert len(rings) == 1, rings
    island.check(settled=True)


def agree(island: Island) -> None:
    """What an operator does: all give way to the ring of one host who chose his range, or else of the first."""
    chosen = [host for host in HOSTS if island[host].config.get("universe") == WIDE]
    counts = island[(chosen or list(HOSTS))[0]]
    for _ in range(4):
        for host in HOSTS:
            one = island[host].allocator
            wanted = counts.allocator.ring
            if kind(one.ring) == kind(wanted):
                continue
            theirs = [c for c in one.conflicts if kind(c.ring) == kind(wanted)]
            if theirs:
                named = next(
                    (p for p in theirs[0].peers if not also_elsewhere(p, one.conflicts, theirs)), None
                )
                try:
                    island[host].do(one.repair(island.now, peer=named))
                except RepairError:
                    pass
        island.pass_time(60.0)
        check_within_divisions(island)
    island.pass_time(limits.CONFLICT_KEPT_S + 60.0)


def also_elsewhere(peer: PeerName, conflicts: list, wanted: list) -> bool:  # type: ignore[type-arg]
    return any(peer in one.peers for one in conflicts if one not in wanted)


def check_within_divisions(island: Island) -> None:
    """No address has two owners by right in one division."""
    rightful: dict[tuple[object, int], int] = {}
    for host, member in island.members.items():
        one = member.allocator
        doubtful = set(one.unclaimed)
        for owner in one.owners():
            for address in one.addresses(owner):
                if one.ring.empty or address in doubtful or not one.ledger.is_inside(address):
                    continue
                assert rightful.setdefault((kind(one.ring), address), host) == host, (address, owner)
