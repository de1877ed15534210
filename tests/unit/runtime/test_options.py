"""Launch options: their checks, and which of several sources counts."""

import re

import pytest

from weavepy.errors import UsageError
from weavepy.runtime.options import (
    LaunchOptions,
    merge,
    options_from_json,
    parse_domain,
    parse_listen_addresses,
    split_host_port,
)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cipher": "rot13"}, "--cipher rot13"),
        ({"host": "myhost"}, "--host myhost"),
        ({"port": 0}, "--port 0"),
        ({"port": 65536}, "--port 65536"),
        ({"mtu": 575}, "--mtu 575"),
        ({"mtu": 9000}, "--mtu 9000"),
        ({"conn_limit": -1}, "--conn-limit -1"),
        ({"conn_limit": 4096}, "--conn-limit 4096"),
        ({"shards": 17}, "--shards 17"),
        ({"log_level": "loud"}, "--log-level loud"),
        ({"rekey_interval": 0.5}, "--rekey-interval 0.5"),
        ({"no_offload": "tso,lro"}, "--no-offload lro"),
        ({"status_addr": "nowhere"}, "--status-addr nowhere"),
        ({"http_addr": "1.2.3.4:99999"}, "--http-addr 1.2.3.4:99999"),
        ({"nickname": "x" * 256}, "--nickname"),
        ({"trusted_subnets": "10.0.0.0/8,lan"}, "--trusted-subnets lan"),
        ({"dns_domain": ""}, "--dns-domain"),
        ({"dns_domain": "."}, "--dns-domain ."),
        ({"dns_domain": "a..b"}, "--dns-domain a..b"),
        ({"dns_domain": "-a.b"}, "--dns-domain -a.b"),
        ({"dns_domain": "a b"}, "--dns-domain a b"),
        ({"dns_domain": "ä.de"}, "--dns-domain ä.de"),
        ({"dns_domain": "a" * 64}, "--dns-domain aaa"),
        ({"dns_domain": ".".join(["abcd"] * 40)}, "--dns-domain abcd"),
        ({"dns_listen_address": ""}, "--dns-listen-address : write it as ADDRESS:PORT"),
        ({"dns_listen_address": "127.0.0.1"}, "--dns-listen-address 127.0.0.1: write it as ADDRESS:PORT"),
        ({"dns_listen_address": "dns:53"}, "--dns-listen-address dns:53: write an IP address"),
        ({"dns_listen_address": "224.0.0.1:53"}, "--dns-listen-address 224.0.0.1:53: no host has"),
        ({"dns_listen_address": "[ff02::1]:53"}, "--dns-listen-address [ff02::1]:53: no host has"),
        (
            {"dns_listen_address": "255.255.255.255:53"},
            "--dns-listen-address 255.255.255.255:53: no host has",
        ),
        ({"dns_listen_address": "127.0.0.1:0"}, "--dns-listen-address 127.0.0.1:0"),
        ({"dns_listen_address": "127.0.0.1:53, 127.0.0.1:53"}, "--dns-listen-address 127.0.0.1:53, "),
        ({"dns_ttl": -1}, "--dns-ttl -1"),
        ({"dns_ttl": 86401}, "--dns-ttl 86401"),
        ({"dns_fallback_timeout": 0}, "--dns-fallback-timeout 0"),
        ({"dns_fallback_timeout": 61.0}, "--dns-fallback-timeout 61"),
        ({"dns_fallback_timeout": float("nan")}, "--dns-fallback-timeout nan"),
        ({"resolv_conf": "resolv.conf"}, "--resolv-conf resolv.conf: write the whole path"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"port": "6783"}, "'port' must be of type int"),
        ({"port": True}, "'port' must be of type int"),
        ({"no_discovery": 1}, "'no_discovery' must be of type bool"),
        ({"status_addr": 1}, "'status_addr' must be of type str"),
    ],
)
def test_what_cannot_work_is_refused_by_name(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match="^(option )?" + re.escape(said)):
        options_from_json(values)


def test_good_values_are_taken() -> None:
    options = options_from_json(
        {"rekey_interval": 5, "conn_limit": 0, "no_offload": "gso, tso", "status_addr": ""}
    )
    assert options.rekey_interval == 5.0
    assert options.max_connections() == 4095
    assert options.offloads_off() == {"gso", "tso"}
    assert options.status_addr == ""
    assert LaunchOptions(no_offload="all").offloads_off() == {"tso", "uso", "gso", "gro", "csum"}
    assert LaunchOptions().nickname_or_default()


STORED = {"port": 1, "mtu": 1000}
CONFIG = {"port": 2, "shards": 2}


def test_without_flags_the_last_launch_counts() -> None:
    used, kept = merge(flags={}, environment={}, stored=STORED, config=CONFIG)
    assert used == {"port": 1, "mtu": 1000, "shards": 2}
    assert kept == STORED


def test_the_environment_wins_over_the_last_launch_and_is_kept() -> None:
    used, kept = merge(flags={}, environment={"port": 3}, stored=STORED, config=CONFIG)
    assert used == {"port": 3, "mtu": 1000, "shards": 2}
    assert kept == {"port": 3, "mtu": 1000}


def test_flags_say_all_there_is_to_say() -> None:
    used, kept = merge(
        flags={"shards": 4}, environment={"port": 3, "shards": 9}, stored=STORED, config=CONFIG
    )
    assert used == {"port": 3, "shards": 4}
    assert kept == {"port": 3, "shards": 4}


def test_the_configuration_is_not_kept() -> None:
    _, kept = merge(flags={}, environment={}, stored={}, config=CONFIG)
    assert kept == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), (":80", ("", 80)), ("a:0", ("a", 0))],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert split_host_port(text, "--x") == expected


@pytest.mark.parametrize("text", ["weave.local.", "weave.local", "Weave.LOCAL"])
def test_a_domain_with_or_without_its_dot(text: str) -> None:
    assert parse_domain(text) == "weave.local."


def test_addresses_to_listen_on() -> None:
    assert LaunchOptions().dns_addresses() == [("169.254.67.83", 53)]
    assert parse_listen_addresses("127.0.0.1:53, [0:0::1]:5353") == [("127.0.0.1", 53), ("::1", 5353)]
