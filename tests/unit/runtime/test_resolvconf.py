"""Which resolvers the host has: from its resolv.conf, as it is now, and never ourselves."""

import os
from pathlib import Path

import pytest

from weavepy import limits
from weavepy.runtime.resolvconf import ResolvConf, parse_servers


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", []),
        ("search example.com\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver\t192.0.2.1  # first\n  nameserver 2001:DB8::1\n", ["192.0.2.1", "2001:db8::1"]),
        ("nameserver fe80::1%eth0", ["fe80::1%eth0"]),
        ("nameserver\nnameserver dns.example.com\nNAMESERVER 192.0.2.1\n#nameserver 192.0.2.2", []),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("\n".join(f"nameserver 192.0.2.{n}" for n in range(20)), [f"192.0.2.{n}" for n in range(8)]),
    ],
)
def test_what_a_file_names(text: str, servers: list[str]) -> None:
    assert parse_servers(text) == servers


def make(
    path: Path | None,
    clock: Clock,
    *ourselves: tuple[str, int],
    system: Path = Path("/nowhere"),
    behind: Path = Path("/nowhere"),
) -> ResolvConf:
    return ResolvConf(path, ourselves=ourselves, clock=clock, system=system, behind_stub=behind)


def test_a_change_is_seen_after_five_seconds_at_most(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", Clock()
    path.write_text("nameserver 192.0.2.1\n")
    conf = make(path, clock)
    assert conf.servers() == [("192.0.2.1", 53)]
    (tmp_path / "new").write_text("nameserver 192.0.2.2\n")
    os.replace(tmp_path / "new", path)
    clock.now += limits.RESOLV_CONF_PERIOD_S - 0.1
    assert conf.servers() == [("192.0.2.1", 53)]
    clock.now += 0.1
    assert conf.servers() == [("192.0.2.2", 53)]


def test_while_the_file_is_away_the_last_servers_stay(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", Clock()
    path.write_text("nameserver 192.0.2.1\n")
    conf = make(path, clock)
    assert conf.servers()
    path.unlink()
    clock.now += 10
    assert conf.servers() == [("192.0.2.1", 53)]
    path.write_text("nameserver 192.0.2.3\n")
    clock.now += 10
    assert conf.servers() == [("192.0.2.3", 53)]
    path.write_text("")
    clock.now += 10
    assert conf.servers() == []


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert make(tmp_path / "resolv.conf", Clock()).servers() == []
    assert make(tmp_path, Clock()).servers() == []  # a directory


def test_never_ourselves(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 169.254.67.83\nnameserver 192.0.2.1\nnameserver 0:0::1\n")
    conf = make(path, Clock(), ("169.254.67.83", 53), ("::1", 53))
    assert conf.servers() == [("192.0.2.1", 53)]
    conf = make(path, Clock(), ("169.254.67.83", 5353), ("::1", 53))
    assert conf.servers() == [("169.254.67.83", 53), ("192.0.2.1", 53)]


def test_who_listens_everywhere_is_every_address_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\nnameserver 127.8.9.10\nnameserver 192.0.2.1\n")
    assert make(path, Clock(), ("0.0.0.0", 53)).servers() == [("192.0.2.1", 53)]
    assert len(make(path, Clock(), ("0.0.0.0", 5353)).servers()) == 3


def test_behind_the_stub_of_systemd(tmp_path: Path) -> None:
    system, behind = tmp_path / "resolv.conf", tmp_path / "behind"
    system.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    behind.write_text("nameserver 192.0.2.1\nnameserver 169.254.67.83\n")
    ourselves = ("169.254.67.83", 53)
    assert make(None, Clock(), ourselves, system=system, behind=behind).servers() == [("192.0.2.1", 53)]
    # Named by the operator: as it is.
    assert make(system, Clock(), ourselves, behind=behind).servers() == [("127.0.0.53", 53)]


def test_a_stub_with_nothing_behind_it_is_all_there_is(tmp_path: Path) -> None:
    system, behind = tmp_path / "resolv.conf", tmp_path / "behind"
    system.write_text("nameserver 127.0.0.53\n")
    assert make(None, Clock(), system=system, behind=behind).servers() == [("127.0.0.53", 53)]
    behind.write_text("# none\n")
    assert make(None, Clock(), system=system, behind=behind).servers() == [("127.0.0.53", 53)]


def test_a_change_behind_the_stub_is_seen(tmp_path: Path) -> None:
    system, behind, clock = tmp_path / "resolv.conf", tmp_path / "behind", Clock()
    system.write_text("nameserver 127.0.0.53\n")
    behind.write_text("nameserver 192.0.2.1\n")
    conf = make(None, clock, system=system, behind=behind)
    assert conf.servers() == [("192.0.2.1", 53)]
    behind.write_text("nameserver 192.0.2.22\n")
    clock.now += 5
    assert conf.servers() == [("192.0.2.22", 53)]


def test_a_huge_file_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n" + "#" * 10**6 + "\nnameserver 192.0.2.2\n")
    assert make(path, Clock()).servers() == [("192.0.2.1", 53)]
