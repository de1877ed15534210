"""Addresses as typed and as the kernel tells them."""

import asyncio
import socket

import pytest

from weavepy.errors import LocalError
from weavepy.events import Address
from weavepy.runtime.addresses import local_of, path_mtu, plain_host, remote_of, resolve, split_peer


@pytest.mark.parametrize(
    ("typed", "host", "port"),
    [
        ("host", "host", 0),
        ("host:7", "host", 7),
        ("10.0.0.1", "10.0.0.1", 0),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("fd00::1", "fd00::1", 0),
        ("[fd00::1]", "fd00::1", 0),
        ("[fd00::1]:7", "fd00::1", 7),
    ],
)
def test_what_can_be_typed(typed: str, host: str, port: int) -> None:
    assert split_peer(typed) == Address(host, port)


@pytest.mark.parametrize(
    "typed", ["", ":7", "h:0", "h:65536", "h:x", "h:-1", "h:٣", "[::1", "[::1]7", "a b", "a\n", "h:+7"]
)
def test_what_cannot(typed: str) -> None:
    with pytest.raises(LocalError):
        split_peer(typed)


def test_mapped_addresses_are_ipv4_addresses() -> None:
    assert plain_host("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_host("::ffff:1:2") == "::ffff:1:2"
    assert plain_host("fd00::1") == "fd00::1"


def test_a_dual_stack_socket_shows_ipv4_and_its_path_mtu() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as dialled:
            accepted, _ = server.accept()
            with accepted:
                assert local_of(accepted) == Address("127.0.0.1", port)
                assert remote_of(accepted) == local_of(dialled)
                assert path_mtu(accepted) == path_mtu(dialled) >= 65535


def test_path_mtu_over_ipv6() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        socket.create_connection(server.getsockname()[:2]) as dialled,
    ):
        assert path_mtu(dialled) >= 65535
        assert remote_of(dialled).host == "::1"


def test_literals_are_resolved_without_asking_anybody() -> None:
    assert asyncio.run(resolve("[FD00:0::1]:9")) == Address("fd00::1", 9)


def test_names_are_looked_up_and_the_first_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, *_: object, **__: object) -> list[object]:
        if host == "known":
            return [(0, 0, 0, "", ("10.1.1.1", 0)), (0, 0, 0, "", ("10.1.1.2", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert asyncio.run(resolve("known:8")) == Address("10.1.1.1", 8)
    with pytest.raises(LocalError, match=r"cannot resolve nowhere: Name or service not known"):
        asyncio.run(resolve("nowhere"))


def test_a_name_that_can_be_none_says_so() -> None:
    with pytest.raises(LocalError, match="cannot resolve"):
        asyncio.run(resolve("a..b"))
