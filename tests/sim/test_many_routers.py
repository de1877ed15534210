"""Five routers and more: discovery, tables against the model, partitions, and peers that shouldn't get in."""

import random
from itertools import pairwise

import pytest
from model import together, tree, walk
from world import PORT, Host, World

from weavepy import events as ev
from weavepy import limits
from weavepy.events import Address, ConnId, PeerName
from weavepy.mesh.surrogate import Unread

SETTLED_S = 4.0  # a change is published after 1 s, relayed, and tables follow 0.1 s later


def chain(seed: int, count: int, **config: object) -> tuple[World, list[Host]]:
    """Each host is told of the one before it only."""
    world = World(seed)
    hosts = [world.host(number, **config) for number in range(1, count + 1)]
    hosts[0].start()
    for before, host in pairwise(hosts):
        host.start(before)
    return world, hosts


def graph_of(hosts: list[Host]) -> dict[PeerName, set[PeerName]]:
    """The links that both ends call established, from what each host itself says."""
    claims = {host.name: host.established() for host in hosts}
    return {a: {b for b in links if a in claims.get(b, ())} for a, links in claims.items()}


def full_mesh(hosts: list[Host]) -> bool:
    names = {host.name for host in hosts}
    return all(host.established() == names - {host.name} for host in hosts)


def expect_tables(hosts: list[Host]) -> None:
    graph = graph_of(hosts)
    for host in hosts:
        assert host.tables is not None
        peers = {name: (link, component) for name, link, component in host.tables.peers}
        assert set(peers) == set(graph)
        _, unicast = walk(graph, host.name, None)
        for name, (link, component) in peers.items():
            hop = unicast.get(name, PeerName(0))
            assert link == 0 if hop == 0 else host.links[link].peer == hop
            for other, (_, other_component) in peers.items():
                if host.name not in (name, other):
                    assert (component == other_component) == together(graph, host.name, name, other)
        trees = {source: {host.links[link].peer for link in out} for source, out in host.tables.trees}
        for source in graph:
            assert trees.get(source, set()) == tree(graph, host.name, source)


def test_chain_of_joins_becomes_a_full_mesh() -> None:
    world, hosts = chain(3, 5)
    world.run_until(lambda: full_mesh(hosts), 10)
    world.run(SETTLED_S)
    assert all(len(host.pipes) == 4 for host in hosts)
    expect_tables(hosts)


def test_equal_seeds_give_equal_runs() -> None:
    traces = []
    for seed in (8, 8, 9):
        world, hosts = chain(seed, 5)
        world.run(40)
        assert full_mesh(hosts)
        traces.append(world.trace())
    assert traces[0] == traces[1] != traces[2]


def test_chain_without_discovery_forwards_along_the_chain() -> None:
    world, hosts = chain(4, 5, discovery=False)
    world.run(SETTLED_S + 4)
    assert [len(host.established()) for host in hosts] == [1, 2, 2, 2, 1]
    expect_tables(hosts)


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs_get_the_tables_of_the_model(seed: int) -> None:
    world = World(seed)
    draw = random.Random(seed)
    hosts = [world.host(number, discovery=False) for number in range(1, 9)]
    for index, host in enumerate(hosts):
        host.start(*draw.sample(hosts[:index], min(index, draw.randint(1, 3))))
    world.run(40)
    expect_tables(hosts)
    victim = draw.choice(hosts)
    victim.power_off()
    world.run(20)
    hosts.remove(victim)
    expect_tables([h for h in hosts if h.name in walk(graph_of(hosts), hosts[0].name, None)[1]])


def test_lost_host_is_forgotten_everywhere_and_comes_back() -> None:
    world, hosts = chain(5, 5)
    world.run(10)
    lost, rest = hosts[2], [*hosts[:2], *hosts[3:]]
    lost.power_off()
    world.run_until(lambda: full_mesh(rest), 15)
    world.run(SETTLED_S)
    assert all(lost.name in host.forgotten and lost.name not in host.known() for host in rest)
    expect_tables(rest)
    lost.start(hosts[4])
    world.run_until(lambda: full_mesh(hosts), 10)
    world.run(SETTLED_S)
    expect_tables(hosts)


def test_partition_and_heal() -> None:
    world, hosts = chain(6, 5)
    world.run(10)
    left, right = hosts[:2], hosts[2:]
    world.cut(*((a.number, b.number) for a in left for b in right))
    world.run(20)
    assert full_mesh(left)
    assert full_mesh(right)
    expect_tables(left)
    expect_tables(right)
    world.heal()
    world.run_until(lambda: full_mesh(hosts), 60)  # only host 3 was ever told of host 2
    world.run(SETTLED_S)
    expect_tables(hosts)


def test_wrong_password_gets_nothing() -> None:
    world, hosts = chain(7, 3)
    world.run(10)
    stranger = world.host(66, password=b"some other password").start(hosts[0])
    world.run(60)
    assert stranger.known() == {stranger.name}
    assert not stranger.links
    assert all(stranger.name not in host.known() and len(host.links) == 2 for host in hosts)
    assert any("wrong password" in line for line in hosts[0].logged)
    assert stranger.router is not None
    assert "password" in stranger.router.targets()["10.0.0.1"]
    assert not any("horse" in line for _, _, _, line in world.log)


def test_stranger_who_only_listens_learns_nothing_that_depends_on_the_password() -> None:
    world, hosts = chain(7, 1)
    conn = ConnId(7)
    sent = hosts[0].router.handle(  # type: ignore[union-attr]
        ev.Accepted(conn, Address("10.0.0.99", 1), hosts[0].address, 1500), world.now
    )
    sends = [effect for effect in sent if isinstance(effect, ev.Send)]
    assert sum(len(send.data) for send in sends) == 7 + 33


def test_peer_without_encryption_is_refused() -> None:
    world, hosts = chain(7, 1)
    plain = world.host(2, password=None, ciphers=("clear",)).start(hosts[0])
    world.run(10)
    assert not plain.links
    assert not hosts[0].links


def test_router_told_of_itself_gives_up_at_once() -> None:
    world = World(1)
    one = world.host(1)
    one.start(one)
    world.run(300)
    assert not one.pipes
    assert one.router is not None
    assert one.router.targets() == {"10.0.0.1": "failed: the address is this router's own"}
    assert sum("own" in line for line in one.logged) <= 2


def test_namesakes_refuse_each_other_for_good() -> None:
    world = World(1)
    one = world.host(1).start()
    twin = world.host(2, name=one.name).start(one)
    world.run(300)
    assert not one.links
    assert twin.router is not None
    assert "name collision" in twin.router.targets()["10.0.0.1"]
    assert sum("collision" in line for line in twin.logged) == 1


def test_connection_limit_holds_on_both_sides() -> None:
    world = World(2)
    hub = world.host(1, conn_limit=3, discovery=False).start()
    others = [world.host(n, discovery=False).start(hub) for n in range(2, 8)]
    world.run(60)
    assert len(hub.links) == 3
    refused = [host for host in others if not host.links]
    assert len(refused) == 3
    assert refused[0].router is not None
    assert refused[0].router.targets()["10.0.0.1"].startswith(("failed: ", "connecting"))
    hub.connect(*refused)
    world.run(30)
    assert len(hub.links) == 3
    assert hub.router is not None
    assert set(hub.router.targets().values()) == {"failed: connection limit reached (3)"}
    hub.handle(ev.ForgetPeers(tuple(hub.router.targets())))
    assert "limit" not in str(hub.router.report(world.now)["Connections"])


def test_discovered_peers_beyond_the_limit_are_no_failed_connections() -> None:
    world = World(2)
    first = world.host(1).start()
    for number in range(2, 6):
        world.host(number).start(first)
    world.run(20)
    limited = world.host(6, conn_limit=1).start(first)
    limited_by_peers = world.host(7, conn_limit=2).start()
    limited_by_peers.connect(first)
    world.run(60)
    for host in (limited, limited_by_peers):
        assert host.router is not None
        connections = host.router.report(world.now)["Connections"]
        assert isinstance(connections, list)
        assert {connection["State"] for connection in connections} == {"established"}
        assert len(host.known()) == 7


def test_a_host_without_discovery_is_dialled_by_others_but_dials_only_whom_it_is_told() -> None:
    world = World(2)
    hub = world.host(1).start()
    quiet = world.host(2, discovery=False).start(hub)
    shy = world.host(3, discovery=False).start(hub)
    world.run(20)
    assert quiet.established() == shy.established() == {hub.name}
    world.host(4).start(hub)
    world.run(20)
    assert quiet.established() == shy.established() == {hub.name, world.hosts[4].name}


def test_peer_without_a_common_overlay_is_refused_with_a_reason() -> None:
    world = World(2)
    one = world.host(1, ciphers=("aes-256-gcm",)).start()
    two = world.host(2, ciphers=("chacha20-poly1305",)).start(one)
    world.run(10)
    assert not one.links
    assert two.router is not None
    assert "no overlay in common" in two.router.targets()["10.0.0.1"]
    assert any("no overlay in common" in line for line in one.logged)


def test_duplicate_connection_is_closed() -> None:
    world = World(2)
    one, two = world.host(1), world.host(2)
    one.start()
    two.start(one)
    world.run(5)
    two.handle(ev.ConnectPeers((("one-by-port", one.address),)))
    # Named with its port, and connected there already: nothing is dialled.
    world.run(5)
    assert len(one.pipes) == 1
    one.handle(ev.ConnectPeers((("two-by-port", Address("10.0.0.2", PORT)),)))
    # The connection came in from another port, so this is dialled, found to be a duplicate, and remembered.
    world.run(300)
    assert len(one.pipes) == len(two.pipes) == len(one.links) == 1
    assert one.router is not None
    assert one.router.targets() == {"two-by-port": "established"}
    assert sum("multiple connections" in line for line in one.logged) <= 2


def test_forgotten_target_is_not_dialled_again_and_targets_are_kept() -> None:
    world = World(2)
    one, two = world.host(1).start(), world.host(2, discovery=False)
    two.start(one)
    world.run(5)
    two.connect(world.host(3))
    assert two.persisted == {"targets": '["10.0.0.1", "10.0.0.3"]'}
    two.handle(ev.ForgetPeers(("10.0.0.1",)))
    assert two.persisted == {"targets": '["10.0.0.3"]'}
    world.run(5)
    assert two.established() == {one.name}  # it is only not dialled again
    one.kill()
    one.start()
    world.run(60)
    assert not two.links


def test_strangers_are_turned_away_beyond_their_share() -> None:
    world, hosts = chain(7, 1)
    router = hosts[0].router
    assert router is not None

    def accepted(number: int, host: str) -> bool:
        effects = router.handle(
            ev.Accepted(ConnId(number), Address(host, 5), hosts[0].address, 1500), world.now
        )
        return ev.Close(ConnId(number)) not in effects

    assert [accepted(2 * n + 1, "192.0.2.1") for n in range(9)] == [True] * 8 + [False]
    assert accepted(101, "192.0.2.2")
    closed = [e for e in router.handle_timer(world.now + 3.1) if isinstance(e, ev.Close)]
    assert len(closed) == 9
    world.now += 3.1
    assert accepted(201, "192.0.2.1")


def test_garbage_of_a_member_costs_its_connection_only() -> None:
    world, hosts = chain(8, 3)
    world.run(10)
    one, two = hosts[0], hosts[1]
    session = one.router._sessions.by_peer[two.name]  # type: ignore[union-attr]
    (damaged,) = (index for index, link in one.links.items() if link.peer == two.name)
    (other,) = (index for index in one.links if index != damaged)
    frame = session.connection._result.channel.seal(b"\x04garbage")  # type: ignore[union-attr]
    one._transmit(session.connection.conn, frame)
    world.run(0.1)
    assert damaged not in one.links
    world.run(10)
    assert full_mesh(hosts)
    assert other in one.links


def test_report_has_the_keys_that_scripts_read() -> None:
    world, hosts = chain(8, 2)
    hosts[1].connect(world.host(9))
    world.run(10)
    assert hosts[1].router is not None
    report = hosts[1].router.report(world.now)
    assert report["Name"] == "02:00:00:00:00:02"
    assert report["Encryption"] is True
    assert report["Targets"] == ["10.0.0.1", "10.0.0.9"]
    up, down = report["Connections"]  # type: ignore[misc]
    assert (up["State"], up["Outbound"], up["Address"]) == ("established", True, f"10.0.0.1:{PORT}")
    assert up["Info"] == "encrypted   fastpath 02:00:00:00:00:01(host1)"
    assert up["Attrs"]["cipher"] == "aes-256-gcm"
    assert up["Attrs"]["mtu"] == 1376
    assert up["Attrs"]["remote"] == f"10.0.0.1:{PORT}"
    assert down["Address"] == f"10.0.0.9:{PORT}"
    assert down["State"] in ("retrying", "failed")
    assert "timed out" in down["Info"]
    assert report["UnicastRoutes"] == [
        {"Dest": "02:00:00:00:00:01", "Via": "02:00:00:00:00:01"},
        {"Dest": "02:00:00:00:00:02", "Via": "00:00:00:00:00:00"},
    ]


def test_unknown_channels_are_relayed_but_not_without_end() -> None:
    world, hosts = chain(9, 4, discovery=False)
    world.run(10)
    sender = hosts[0].router
    assert sender is not None
    seen: list[bytes] = []

    class Listener:
        name = "unheard-of"

        def merge_gossip_untrusted(self, payload: bytes, now: float) -> None:  # noqa: ARG002
            seen.append(payload)

        merge_broadcast_untrusted = handle_unicast_untrusted = merge_gossip_untrusted

        def complete(self) -> None:
            return None

    hosts[3].router._gossip.add_channel(Listener())  # type: ignore[union-attr,arg-type]
    before = world.now
    sender._gossip.publish("unheard-of", Unread((b"hello",)))
    hosts[0]._perform(sender._settle(world.now))
    sent = sum(host.sent_bytes for host in hosts)
    world.run(2)
    assert seen == [b"hello"]  # two hosts that don't know the channel are on the way
    assert sum(host.sent_bytes for host in hosts) - sent < 1000
    assert world.now - before <= limits.GOSSIP_INTERVAL_S


@pytest.mark.parametrize(("channels", "payloads"), [(30, 1), (1, 400)])
def test_gossip_of_unknown_channels_dies_down(channels: int, payloads: int) -> None:
    """More channels or payloads than anybody expects pass each router once and not round and round."""
    world, hosts = chain(9, 5)
    world.run(10)
    sender = hosts[0].router
    assert sender is not None
    for channel in range(channels):
        for payload in range(payloads):
            sender._gossip.publish(f"unheard-of-{channel}", Unread((b"hello %d" % payload,)))
    before = sum(host.sent_bytes for host in hosts)
    hosts[0]._perform(sender._settle(world.now))
    world.run(1)
    sent = sum(host.sent_bytes for host in hosts) - before
    assert sent < channels * payloads * 16 * 100  # 4 + 4 x 3 transmissions of at most 100 octets each
    world.run(2)
    assert sum(host.sent_bytes for host in hosts) - before - sent < 2000
