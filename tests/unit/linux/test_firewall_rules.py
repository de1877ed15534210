"""The texts of our rules, and what is read of iptables' chain."""

import pytest

from weavepy.linux import forward
from weavepy.linux.announce import arp_announcement
from weavepy.linux.firewall import Exposure, bridge_rules, inet_rules
from weavepy.linux.forward import read_chain, wanted_rules
from weavepy.linux.target import parse_cidrs

NAT, PLAIN = Exposure("10.32.1.9/24", True), Exposure("10.44.0.9/16", False)
MARK = ["-m", "comment", "--comment", "weavepy", "-j", "ACCEPT"]


def test_only_what_is_to_be_masqueraded_is() -> None:
    rules = inet_rules([NAT, PLAIN])
    assert rules.count("masquerade") == 2
    assert "ip saddr 10.32.1.0/24" in rules
    assert "10.44" not in rules
    assert "postrouting" not in inet_rules([PLAIN])


@pytest.mark.parametrize("exposures", [[], [NAT]])
def test_advertisements_and_redirects_are_dropped_whatever_is_exposed(exposures: list[Exposure]) -> None:
    assert 'iifname "weave" icmpv6 type { nd-router-advert, nd-redirect } drop' in inet_rules(exposures)
    assert "icmpv6 type { nd-router-advert, nd-redirect } drop" in bridge_rules(exposures)


def test_another_hosts_answer_for_an_address_of_ours_stays_out() -> None:
    assert "arp saddr ip { 10.32.1.9, 10.44.0.9 } drop" in bridge_rules([PLAIN, NAT])
    assert "10." not in bridge_rules([])


def test_nothing_about_the_name_servers_address_crosses_the_tap() -> None:
    own, forward = bridge_rules([]).split("chain forward")
    assert own.count('"vethwe-tap"') == 3
    assert 'iifname "vethwe-tap" ip daddr 169.254.67.83 drop' in own
    assert 'oifname "vethwe-tap" arp daddr ip 169.254.67.83 drop' in forward
    assert 'iifname "vethwe-tap" arp saddr ip 169.254.67.83 drop' in forward


def test_forwarding_needs_a_pair_for_each_subnet_and_a_rule_for_bridged_frames() -> None:
    assert wanted_rules([NAT], bridged=True) == [
        ["-i", "weave", "-o", "weave", *MARK],
        ["-s", "10.32.1.0/24", "-i", "weave", *MARK],
        ["-d", "10.32.1.0/24", "-o", "weave", *MARK],
    ]
    assert wanted_rules([], bridged=False) == []


def test_of_a_chain_only_the_policy_and_our_rules_are_read() -> None:
    listed = (
        "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"
        '-A FORWARD -m comment --comment "not weavepy" -j ACCEPT\n'
        "-A FORWARD -i weave -o weave -m comment --comment weavepy -j ACCEPT\n"
    )
    assert read_chain(listed) == (True, [["-i", "weave", "-o", "weave", *MARK]])
    assert read_chain("-P FORWARD ACCEPT\n") == (False, [])


def test_rules_are_changed_to_what_is_wanted_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [["-i", "weave", "-o", "weave", *MARK], ["-s", "10.9.0.0/16", "-i", "weave", *MARK]]
    ran: list[list[str]] = []
    listing = "-P FORWARD DROP\n" + "".join(f"-A FORWARD {' '.join(rule)}\n" for rule in chain)

    def run(argv: list[str], _text: str = "") -> str:
        ran.append(list(argv))
        return listing

    monkeypatch.setattr(forward, "run_program", run)
    monkeypatch.setattr(forward, "_programs", lambda: [("iptables-nft", "ip")])
    monkeypatch.setattr(forward, "_bridges_call", lambda _family: True)
    assert forward.keep_forwarding([NAT])
    changes = [(argv[3], argv[5:7]) for argv in ran if argv[3] != "-S"]
    assert changes == [
        ("-D", ["-s", "10.9.0.0/16"]),
        ("-A", ["-s", "10.32.1.0/24"]),
        ("-A", ["-d", "10.32.1.0/24"]),
    ]


def test_weave_nets_grammar_of_addresses() -> None:
    assert [str(i) for i in parse_cidrs(["ip:10.32.1.1/24", "10.32.1.2/24"])] == [
        "10.32.1.1/24",
        "10.32.1.2/24",
    ]


def test_an_announcement_is_a_request_for_the_senders_own_address() -> None:
    mac, address = bytes.fromhex("020000000007"), bytes([10, 32, 1, 1])
    frame = arp_announcement(mac, address)
    assert frame[:14] == b"\xff" * 6 + mac + b"\x08\x06"
    assert frame[20:22] == b"\x00\x01"
    assert frame[22:] == mac + address + bytes(6) + address
