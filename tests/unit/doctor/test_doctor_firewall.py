"""What the packet filter does to a packet, by the lists that nft and iptables-save print."""

from typing import Any

import pytest

from weavepy.doctor.firewall import (
    DROPS,
    PASSES,
    UNSURE,
    Chain,
    Packet,
    from_iptables,
    from_nft,
    judge_packet,
)

UDP = Packet("udp", "new", source="192.0.2.2", destination="192.0.2.1", dport=6783, interface_in="eth0")
OLD = Packet("udp", "established", source="192.0.2.2", dport=6783, interface_in="eth0")


def iptables(*rules: str, policy: str = "ACCEPT") -> tuple[Chain, ...]:
    head = ["*filter", f":INPUT {policy} [0:0]", ":FOO - [0:0]", ":BAR - [0:0]"]
    return from_iptables("\n".join([*head, *rules, "COMMIT"]), "ip", "iptables")


def outcome(chains: tuple[Chain, ...], packet: Packet = UDP) -> str:
    return judge_packet(chains, packet, ("input", "prerouting")).outcome


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        ([], "ACCEPT", PASSES),
        ([], "DROP", DROPS),
        (["-A INPUT -p udp -m udp --dport 6783 -j DROP"], "ACCEPT", DROPS),
        (
            ["-A INPUT -p udp -m udp --dport 6783 -j REJECT --reject-with icmp-port-unreachable"],
            "ACCEPT",
            DROPS,
        ),
        (["-A INPUT -p udp -m udp --dport 6784:6790 -j DROP"], "ACCEPT", PASSES),
        (["-A INPUT -p udp -m udp --dport 6000: -j DROP"], "ACCEPT", DROPS),
        (["-A INPUT -p udp -m udp ! --dport 53 -j DROP"], "ACCEPT", DROPS),
        (["-A INPUT -p udp -m multiport --dports 53,6780:6783 -j DROP"], "ACCEPT", DROPS),
        (["-A INPUT -p tcp -j DROP"], "ACCEPT", PASSES),
        (["-A INPUT -s 192.0.2.0/24 -j DROP"], "ACCEPT", DROPS),
        (["-A INPUT ! -s 192.0.2.0/24 -j DROP"], "ACCEPT", PASSES),
        (["-A INPUT ! -i lo -j DROP"], "ACCEPT", DROPS),
        (["-A INPUT -i eth+ -j ACCEPT"], "DROP", PASSES),
        (["-A INPUT -i lo -j ACCEPT"], "DROP", DROPS),
        (["-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], "DROP", DROPS),
        (['-A INPUT -p udp -m comment --comment "a -j DROP b" -j ACCEPT'], "DROP", PASSES),
        (["-A INPUT -j FOO", "-A FOO -p udp -j DROP"], "ACCEPT", DROPS),
        (["-A INPUT -j FOO", "-A FOO -j RETURN", "-A FOO -j DROP"], "ACCEPT", PASSES),
        (["-A INPUT -g FOO", "-A INPUT -j ACCEPT"], "DROP", DROPS),
        (["-A INPUT -j FOO", "-A FOO -j BAR", "-A BAR -j FOO"], "ACCEPT", PASSES),  # the kernel forbids it
        (["-A INPUT -j LOG --log-prefix x", "-A INPUT"], "ACCEPT", PASSES),
        (["-A INPUT -m set --match-set good src -j ACCEPT"], "DROP", UNSURE),
        (["-A INPUT -m set --match-set bad src -j DROP"], "ACCEPT", PASSES),  # not about us
        (["-A INPUT -p udp -m set --match-set bad src -m udp --dport 6783 -j DROP"], "ACCEPT", UNSURE),
        (["-A INPUT -m set --match-set good src -j FOO", "-A FOO -j ACCEPT"], "DROP", UNSURE),
        (
            ["-A INPUT -j FOO", "-A FOO -m set --match-set x src -j RETURN", "-A FOO -j DROP"],
            "ACCEPT",
            UNSURE,
        ),
        (["-A INPUT -j FOO", "-A FOO -m set --match-set x src -j RETURN"], "DROP", DROPS),
        (['-A INPUT "unclosed'], "ACCEPT", PASSES),
    ],
)
def test_iptables(rules: list[str], policy: str, expected: str) -> None:
    assert outcome(iptables(*rules, policy=policy)) == expected


def test_states_families_and_translation() -> None:
    stateful = iptables("-A INPUT -m state --state ESTABLISHED -j ACCEPT", policy="DROP")
    assert (outcome(stateful), outcome(stateful, OLD)) == (DROPS, PASSES)
    assert outcome(from_iptables("*filter\n:INPUT DROP [0:0]\n", "ip6", "iptables")) == PASSES
    assert outcome(from_iptables("*nat\n:PREROUTING DROP [0:0]\n", "ip", "iptables")) == PASSES
    assert outcome(from_iptables("*raw\n:PREROUTING DROP [0:0]\n", "ip", "iptables")) == DROPS


def nft(*rules: list[dict[str, Any]], policy: str = "accept", **chain: Any) -> dict[str, Any]:
    base = {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "input", "policy": policy}
    return {
        "nftables": [
            {"metainfo": {}},
            {
                "set": {
                    "family": "inet",
                    "table": "t",
                    "name": "s",
                    "elem": [{"prefix": {"addr": "192.0.2.0", "len": 24}}],
                }
            },
            {"chain": base | chain},
            {"chain": {"family": "inet", "table": "t", "name": "called"}},
            {"rule": {"family": "inet", "table": "t", "chain": "called", "expr": [{"drop": None}]}},
            *({"rule": {"family": "inet", "table": "t", "chain": "c", "expr": rule}} for rule in rules),
        ]
    }


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


DPORT = payload("udp", "dport")
STATE = {"ct": {"key": "state"}}
DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        ([], "drop", DROPS),
        ([[match(DPORT, 6783), DROP]], "accept", DROPS),
        (
            [[match(DPORT, {"set": [53, {"range": [6780, 6790]}]}), {"counter": {}}, {"reject": {}}]],
            "accept",
            DROPS,
        ),
        ([[match(DPORT, 53, "!="), DROP]], "accept", DROPS),
        ([[match(payload("tcp", "dport"), 53, "!="), DROP]], "accept", PASSES),
        ([[match(payload("th", "dport"), 6783), DROP]], "accept", DROPS),
        ([[match(payload("ip", "saddr"), "@s"), DROP]], "accept", DROPS),
        ([[match(payload("ip", "saddr"), "@other"), ACCEPT]], "drop", UNSURE),
        ([[match(payload("ip6", "saddr"), "::/0"), DROP]], "accept", PASSES),
        ([[match({"meta": {"key": "nfproto"}}, "ipv6"), DROP]], "accept", PASSES),
        ([[match({"meta": {"key": "iifname"}}, "eth*"), ACCEPT]], "drop", PASSES),
        ([[match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), DROP]], "accept", DROPS),
        ([[match(STATE, ["established", "related"], "in"), ACCEPT]], "drop", DROPS),
        ([[match(payload("icmp", "type"), "echo-request"), ACCEPT]], "drop", DROPS),
        ([[{"limit": {"rate": 5}}, ACCEPT]], "drop", UNSURE),
        ([[{"limit": {"rate": 5}}, match(DPORT, 6783), DROP]], "accept", UNSURE),
        ([[{"jump": {"target": "called"}}]], "accept", DROPS),
        ([[{"jump": {"target": "nowhere"}}]], "accept", PASSES),
        ([[{"vmap": {"key": STATE, "data": {"set": [["invalid", DROP], ["new", ACCEPT]]}}}]], "drop", PASSES),
        (
            [[{"vmap": {"key": DPORT, "data": {"set": [[6783, {"jump": {"target": "called"}}]]}}}]],
            "accept",
            DROPS,
        ),
        ([[{"vmap": {"key": STATE, "data": "@map"}}]], "drop", UNSURE),
        ([[{"queue": None}]], "drop", UNSURE),
        ([[{"log": None}], [{"return": None}], [DROP]], "accept", PASSES),
    ],
)
def test_nftables(rules: list[list[dict[str, Any]]], policy: str, expected: str) -> None:
    assert outcome(from_nft(nft(*rules, policy=policy), iptables_known=True)) == expected


def test_a_table_of_iptables_is_left_to_iptables_if_it_is_there() -> None:
    listing = nft([{"xt": {"type": "match", "name": "conntrack"}}, ACCEPT], policy="drop")
    assert outcome(from_nft(listing, iptables_known=True)) == PASSES
    assert outcome(from_nft(listing, iptables_known=False)) == UNSURE


def test_a_chain_at_an_interface_concerns_that_one_only() -> None:
    for device, expected in (("eth0", DROPS), ("eth1", PASSES)):
        chains = from_nft(nft(policy="drop", hook="ingress", dev=device), iptables_known=True)
        assert judge_packet(chains, UDP, ("ingress",)).outcome == expected


DOCKER = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
{more}-A DOCKER-USER -j RETURN
COMMIT
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", DROPS),
        ("-A DOCKER-USER -i weave -o weave -j ACCEPT\n", PASSES),
        ("-A DOCKER-USER -s 10.32.0.0/12 -d 10.32.0.0/12 -j ACCEPT\n", PASSES),
    ],
)
def test_the_rules_of_docker(more: str, expected: str) -> None:
    frame = Packet("tcp", "new", "ip", "10.32.1.1", "10.32.1.2", interface_in="weave", interface_out="weave")
    chains = from_iptables(DOCKER.format(more=more), "ip", "iptables")
    assert judge_packet(chains, frame, ("forward",)).outcome == expected


UFW = """
*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-after-input - [0:0]
:ufw-skip-to-policy-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 3 -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-not-local -j RETURN
-A ufw-after-input -p udp -m udp --dport 137 -j ufw-skip-to-policy-input
-A ufw-skip-to-policy-input -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
{more}COMMIT
"""


def test_the_rules_of_ufw() -> None:
    shut = from_iptables(UFW.format(more=""), "ip", "iptables")
    opened = from_iptables(
        UFW.format(more="-A ufw-user-input -p udp -m udp --dport 6783 -j ACCEPT\n"), "ip", "iptables"
    )
    assert outcome(opened) == PASSES
    assert outcome(shut) == DROPS
    assert outcome(shut, OLD) == PASSES
