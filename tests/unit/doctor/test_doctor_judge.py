"""The doctor's judgement: made-up facts in, findings out; each finding there is comes up here."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import weavepy.doctor
from weavepy.doctor.facts import (
    ContainerFacts,
    DockerFacts,
    Facts,
    FirewallFacts,
    Holder,
    HostRoute,
    Interface,
    KernelFacts,
    PathFacts,
    RouterFacts,
    StateFacts,
)
from weavepy.doctor.finding import Finding
from weavepy.doctor.firewall import Chain, from_iptables
from weavepy.doctor.judge import judge

KERNEL = KernelFacts(
    True, True, True, True, True, dict.fromkeys(("csum", "tso", "uso", "gso", "gro"), True), True, {"a": "b"}
)
END = "vethweab12"
BRIDGE = Interface("weave", "bridge", 1376, True)
TAP = Interface("vethwe-tap", "tun", 1376, True, "weave")
VETH = Interface(END, "veth", 1376, True, "weave")
CONTAINER = ContainerFacts("netns:web", END, "ethwe", 1376, True)
HELD = tuple(Holder(p, 6783, "python3", 42, True) for p in ("tcp", "udp"))
PATH = PathFacts("192.0.2.2", 6783, "192.0.2.1", "eth0", 1500, True)


def connection(state: str = "established", info: str = "", **attrs: Any) -> dict[str, Any]:
    return {"Address": "192.0.2.2:6783", "Outbound": True, "State": state, "Info": info, "Attrs": attrs}


def report(*connections: dict[str, Any], **more: Any) -> dict[str, Any]:
    attachments = [{"Target": "netns:web", "Cidrs": ["10.32.1.1/24"], "Interface": "ethwe", "Mac": ""}]
    return {"Router": {"Port": 6783, "Connections": list(connections)}, "Attachments": attachments, **more}


UP = connection(cipher="aes-256-gcm", encrypted=True, mtu=1376, peer_mtu=1376, path_mtu=1500)
RUNNING = RouterFacts("running", 42, report=report(UP))
HEALTHY = Facts(
    port=6783,
    router=RUNNING,
    kernel=KERNEL,
    holders=HELD,
    firewall=FirewallFacts((Chain("nftables", "inet", "weavepy", "input", "input"),), True),
    paths=(PATH,),
    datagram_overhead=78,
    synchronised=True,
    docker=DockerFacts("ready", "27.0"),
    interfaces=(BRIDGE, TAP, VETH),
    routes=(HostRoute("192.0.2.0/24", "eth0"),),
    containers=(CONTAINER,),
    state=StateFacts("/var/lib/weavepy", True, True, 1 << 40, 1000),
)
STOPPED = replace(
    HEALTHY,
    router=RouterFacts("stopped"),
    holders=(),
    paths=(),
    interfaces=(),
    containers=None,
)


def told(*connections: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"router": replace(RUNNING, report=report(*connections, **more))}


def odd(facts: Facts) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.level != "ok"]


def test_a_healthy_host() -> None:
    assert odd(HEALTHY) == []
    areas = [finding.area for finding in judge(HEALTHY)]
    listed = "router kernel ports firewall mtu clock docker addresses bridge containers state peers"
    assert list(dict.fromkeys(areas)) == listed.split()


def test_a_link_by_sleeve_has_an_mtu_of_its_own() -> None:
    by_sleeve = connection(name="sleeve", encrypted=True, cipher="nacl", mtu=1410)
    assert odd(replace(HEALTHY, **told(by_sleeve))) == []


def test_a_host_whose_router_is_not_running() -> None:
    assert [(f.level, f.area) for f in odd(STOPPED)] == [("warning", "router")]


@pytest.mark.parametrize(
    ("change", "level", "area", "words"),
    [
        # router
        ({"router": RouterFacts("stopped")}, "warning", "router", "not running; `weavepy launch`"),
        ({"router": RouterFacts("died", 7)}, "problem", "router", "(pid 7) ended; weavepy logs"),
        ({"router": RouterFacts("mute", 7, "no answer")}, "problem", "router", "no answer; weavepy logs"),
        ({"router": RouterFacts("closed", 7, "no right")}, "unchecked", "router", "no right"),
        (told(UP, Warnings=["encryption is off"]), "warning", "router", "encryption is off"),
        # kernel
        ({"kernel": replace(KERNEL, tun_device=False)}, "problem", "kernel", "no /dev/net/tun; modprobe tun"),
        ({"kernel": replace(KERNEL, tun_driver=False)}, "warning", "kernel", "TUN; modprobe tun"),
        ({"kernel": replace(KERNEL, bridge=False)}, "warning", "kernel", "bridge; modprobe bridge"),
        ({"kernel": replace(KERNEL, veth=False)}, "warning", "kernel", "veth; modprobe veth"),
        ({"kernel": replace(KERNEL, steering=False)}, "problem", "kernel", "filter; Linux 4.5"),
        (
            {"kernel": replace(KERNEL, offloads={"uso": False, "gro": True})},
            "warning",
            "kernel",
            "not in use; 6.2",
        ),
        ({"kernel": replace(KERNEL, aes=False)}, "warning", "kernel", "no AES; virtual machine"),
        # ports
        (
            {"holders": (*HELD, Holder("tcp", 6782, "nginx", 9))},
            "warning",
            "ports",
            "6782/tcp; nginx; --status-addr",
        ),
        ({"holders": HELD[:1]}, "problem", "ports", "6783/udp is not held; weavepy launch"),
        # firewall: more of it below
        (
            {
                "firewall": FirewallFacts(
                    from_iptables("*filter\n:FORWARD DROP [0:0]\n", "ip", "iptables"), True
                )
            },
            "problem",
            "firewall",
            "containers' frames are dropped; bridge-nf-call-iptables; iptables -I FORWARD",
        ),
        # mtu
        ({"paths": (replace(PATH, mtu=900),)}, "warning", "mtu", "192.0.2.2; eth0 has 900; --mtu 822"),
        ({"paths": (replace(PATH, mtu=600),)}, "warning", "mtu", "600; to 1500"),
        (told(connection(mtu=1376, path_mtu=1400)), "warning", "mtu", "probes found 1400; --mtu 1322"),
        (told(connection(mtu=1376, peer_mtu=1300)), "warning", "mtu", "1300; this host 1376; same --mtu"),
        (
            {"interfaces": (BRIDGE, TAP, replace(VETH, mtu=1500))},
            "warning",
            "mtu",
            f"{END} has an MTU of 1500",
        ),
        ({"containers": (replace(CONTAINER, mtu=1500),)}, "warning", "mtu", "ethwe in netns:web; 1500"),
        # clock, docker
        ({"synchronised": False}, "warning", "clock", "clock; chrony"),
        ({"docker": DockerFacts("refused")}, "warning", "docker", "nobody listens; systemctl start docker"),
        ({"docker": DockerFacts("mute")}, "warning", "docker", "doesn't answer"),
        ({"docker": DockerFacts("closed")}, "unchecked", "docker", "no permission"),
        # addresses
        (
            {"routes": (HostRoute("10.32.0.0/16", "eth1"),)},
            "problem",
            "addresses",
            "10.32.0.0/16 by eth1; 10.32.1.0/24",
        ),
        (
            {"routes": (HostRoute("10.47.0.0/16", "eth1"),)},
            "warning",
            "addresses",
            "10.47.0.0/16; 10.32.0.0/12",
        ),
        ({"routes": (HostRoute("10.0.0.0/8", "wg0"),)}, "problem", "addresses", "10.0.0.0/8 by wg0"),
        # bridge
        ({"interfaces": (TAP, VETH)}, "problem", "bridge", "weave is gone; weavepy launch"),
        (
            {"interfaces": (replace(BRIDGE, up=False), TAP, VETH)},
            "problem",
            "bridge",
            "down; ip link set weave up",
        ),
        ({"interfaces": (BRIDGE, VETH)}, "problem", "bridge", "vethwe-tap is gone; weavepy launch"),
        ({"interfaces": (BRIDGE, replace(TAP, up=False), VETH)}, "problem", "bridge", "vethwe-tap is down"),
        ({"interfaces": (BRIDGE, replace(TAP, master=""), VETH)}, "problem", "bridge", "not in the bridge"),
        # containers
        (
            {"interfaces": (BRIDGE, TAP, replace(VETH, master=""))},
            "problem",
            "containers",
            f"{END} (of netns:web)",
        ),
        ({"interfaces": (BRIDGE, TAP, replace(VETH, up=False))}, "problem", "containers", "is down; up"),
        ({"interfaces": (BRIDGE, TAP)}, "problem", "containers", "netns:web has lost its interface; detach"),
        ({"containers": (replace(CONTAINER, mtu=None),)}, "problem", "containers", "lost its interface"),
        (
            {"containers": (replace(CONTAINER, up=False),)},
            "problem",
            "containers",
            "ethwe in netns:web is down",
        ),
        (
            {"containers": (ContainerFacts("pid:7", gone="no process"),)},
            "warning",
            "containers",
            "pid:7; no process",
        ),
        # state
        (
            {"state": StateFacts("/s", True, False, 1 << 40, 9)},
            "problem",
            "state",
            "/s is not writable; --state-dir",
        ),
        ({"state": StateFacts("/s", False, False, 1 << 40, 9)}, "problem", "state", "cannot be made"),
        ({"state": StateFacts("/s", True, True, 1 << 20, 9)}, "problem", "state", "is full; make room"),
        ({"state": StateFacts("/s", True, True, 1 << 40, 0)}, "problem", "state", "is full; make room"),
        ({"state": StateFacts("/s", True, True, 32 << 20, 9)}, "warning", "state", "32 MiB; make room"),
        (
            {"state": StateFacts("/s", True, True, 1 << 40, 9, ("k",))},
            "warning",
            "state",
            "read k; chmod -R go= /s",
        ),
        # peers
        (
            told(connection("failed", "another password")),
            "problem",
            "peers",
            "another password; --password-file",
        ),
        (told(connection("retrying", "odd, retry in 2s")), "problem", "peers", "odd; weavepy logs"),
        (
            told(connection(cipher="xsalsa20-poly1305", fallen_back=True, why="nothing\x1b arrives")),
            "warning",
            "peers",
            "slowly, by sleeve, since by fastpath nothing\\x1b arrives; let all UDP",
        ),
        (told(connection("pending", since_s=9.0)), "problem", "peers", "no frame came through; udp"),
        (told(connection("pending", since_s=0.1)), "warning", "peers", "is pending; again"),
        (told(connection("connecting")), "warning", "peers", "is connecting; again"),
        (told(UP, Unresolved=["db (no such name)"]), "problem", "peers", "db; DNS"),
        (told(), "warning", "peers", "alone; weavepy connect"),
    ],
)
def test_each_finding(change: dict[str, Any], level: str, area: str, words: str) -> None:
    found = odd(replace(HEALTHY, **change))
    texts = [f"{f.text}; {f.todo}" for f in found if (f.level, f.area) == (level, area)]
    assert any(all(word in text for word in words.split("; ")) for text in texts), found
    assert all(finding.todo or finding.level == "unchecked" or finding.area == "router" for finding in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"holders": (Holder("udp", 6783, "weaver", 9),)},
            "6783/udp is held by a Weave Net router (pid 9); weave stop",
        ),
        ({"holders": (Holder("tcp", 6783, "nginx", 9),)}, "6783/tcp is held by nginx (pid 9); --port"),
        ({"holders": (Holder("tcp", 6783),)}, "6783/tcp is held by a program that this user may not see"),
        ({"interfaces": (replace(BRIDGE, kind="dummy"),)}, "weave is not a bridge; ip link delete weave"),
        ({"interfaces": (TAP,)}, "not by our router; ip link delete vethwe-tap"),
    ],
)
def test_each_finding_before_a_launch(change: dict[str, Any], words: str) -> None:
    found = [f for f in odd(replace(STOPPED, **change)) if f.area != "router"]
    assert [f.level for f in found] == ["problem"]
    assert all(word in f"{found[0].text}; {found[0].todo}" for word in words.split("; "))


def test_what_could_not_be_looked_at_is_said() -> None:
    facts = Facts(6783, RouterFacts("stopped"), unknown={"firewall": "needs root", "ports": "no /proc"})
    found = [(f.area, f.text) for f in judge(facts) if f.level == "unchecked"]
    assert found == [("ports", "not checked: no /proc"), ("firewall", "not checked: needs root")]


def test_another_user_sees_a_running_router_without_complaint() -> None:
    hidden = tuple(Holder(p, port) for p, port in (("tcp", 6783), ("udp", 6783), ("tcp", 6782)))
    assert odd(replace(HEALTHY, holders=hidden)) == []


def test_what_peers_and_programs_are_called_cannot_drive_the_terminal() -> None:
    facts = replace(STOPPED, holders=(Holder("tcp", 6783, "\x1b[2J", 9),))
    assert not any("\x1b" in f.text for f in judge(facts))
    assert not any("\x1b" in f.text for f in judge(replace(HEALTHY, **told(connection("failed", "\x1b[2J")))))


@pytest.mark.parametrize("name", ["facts", "firewall", "judge"])
def test_judgement_touches_no_outside_world(name: str) -> None:
    source = Path(weavepy.doctor.__file__).with_name(f"{name}.py").read_text()
    modules = [
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    outside = {"os", "socket", "subprocess", "pathlib", "time", "json", "weavepy.linux", "weavepy.client"}
    assert outside.isdisjoint(modules)


def test_a_running_router_without_its_own_table_is_told_of() -> None:
    flushed = replace(HEALTHY, firewall=FirewallFacts((), True))
    assert [(f.level, "table inet weavepy" in f.text) for f in odd(flushed)] == [("warning", True)]
    stopped = replace(flushed, router=RouterFacts("stopped"))
    assert not any("table inet weavepy" in f.text for f in judge(stopped))
