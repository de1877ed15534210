"""`--dns-listen-address` on real hosts: who is answered at which address, and what else may have the port."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from inside import addresses, inside

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS

# Connected sockets: what comes from another address than the one that was asked is no answer.
ASK = """
import socket, struct, sys
question = bytes.fromhex("000701000001000000000000") + b"\\3web\\5weave\\5local\\0\\0\\1\\0\\1"
outcomes = []
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as s:
            s.settimeout(1.0)
            try:
                s.connect(socket.getaddrinfo(address, 53, type=kind)[0][4])
                s.send(question if kind == socket.SOCK_DGRAM else struct.pack(">H", len(question)) + question)
                answer = s.recv(2000)[0 if kind == socket.SOCK_DGRAM else 2:]
                outcomes.append(f"{answer[3] & 15}:{len(answer) - len(question)}" if answer else "closed")
            except OSError as error:
                outcomes.append("closed" if isinstance(error, ConnectionError) else type(error).__name__)
print(*outcomes)
"""
ANSWERED, REFUSED, NOBODY = ["0:16", "0:16"], ["5:0", "closed"], ["closed", "closed"]  # by UDP, by TCP


def ask(space: Space, *addresses: str) -> list[str]:
    return space.run(["python3", "-c", ASK, *addresses]).stdout.split()


def launch(host: Host, where: str, container: Space) -> None:
    host.weavepy("launch", "--no-encryption", "--dns-listen-address", where)
    host.weavepy("attach", "10.32.1.1/24", "-h", "web", container.target)


@contextmanager
def listening(host: Host) -> Iterator[None]:
    """A program that shares its port with all who like, as unbound does."""
    with ExitStack() as opened:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = opened.enter_context(inside(host, lambda kind=kind: socket.socket(socket.AF_INET, kind)))  # type: ignore[misc]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("0.0.0.0", 53))
        yield


def test_at_every_address_of_a_host(lab: Lab) -> None:
    one, stranger, web = lab.add_host(), lab.add_host(), lab.add_container("web")
    other = "192.0.2.1"
    run_ip(one.name, f"addr add {other}/32 dev lo", "addr add fd99::1/64 dev eth0 nodad")
    run_ip(stranger.name, "addr add fd99::2/64 dev eth0 nodad", f"route add {other} via {one.address}")
    launch(one, "0.0.0.0:53,[::]:53", web)
    assert one.weavepy("dns-args").stdout.startswith(f"--dns={DNS_ADDRESS} ")
    assert ask(web, DNS_ADDRESS) == ANSWERED
    own = (DNS_ADDRESS, "127.0.0.1", "127.8.9.10", one.address, other, "::1", "fd99::1")
    assert ask(one, *own) == ANSWERED * len(own)
    assert ask(stranger, one.address, other, "fd99::1") == REFUSED * 3
    # Not even when it says to be a container, and gets what is sent to one.
    run_ip(stranger.name, "addr add 10.32.1.7/32 dev eth0", f"route add {one.address} dev eth0 src 10.32.1.7")
    assert ask(stranger, one.address) == REFUSED
    # Once exposed, the host is asked by containers at that address, too.
    one.weavepy("expose", "10.32.1.9/24")
    assert ask(web, "10.32.1.9") == ANSWERED
    # Nobody gets a part of the questions later.
    failed = None
    try:
        with listening(one):
            pass
    except OSError as error:
        failed = error
    assert failed is not None
    one.weavepy("stop")
    with listening(one):
        again = one.weavepy("launch", check=False)
    assert (again.returncode, "0.0.0.0:53: another program" in again.stderr) == (1, True)
    one.weavepy("launch")
    assert ask(web, DNS_ADDRESS) == ANSWERED
    # The bridge stays, without the address.
    one.weavepy("stop")
    one.weavepy("launch", "--no-encryption", "--no-dns")
    assert addresses(one, BRIDGE) == ["10.32.1.9/24"]


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="not installed: dnsmasq")
def test_another_resolver_of_the_host_is_told_by_hand(lab: Lab) -> None:
    one, web = lab.add_host(), lab.add_container("web")
    one.weavepy("launch", "--no-encryption")
    one.weavepy("attach", "10.32.1.1/24", "-h", "web", web.target)
    argv = [
        *("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file"),
        *("--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root"),
        f"--server=/weave.local/{DNS_ADDRESS}",
    ]
    with one.running(argv, "using nameserver"):
        assert ask(one, "127.0.0.1") == ANSWERED


def test_only_at_the_addresses_that_are_named(lab: Lab) -> None:
    one, stranger, web = lab.add_host(), lab.add_host(), lab.add_container("web")
    launch(one, f"{one.address}:53,192.0.2.1:53,[fe80::99%eth0]:53", web)
    assert one.weavepy("dns-args").stdout.startswith(f"--dns={one.address} ")
    assert ask(one, one.address, "127.0.0.1", DNS_ADDRESS) == ANSWERED + NOBODY + ["TimeoutError"] * 2
    assert ask(stranger, one.address) == REFUSED
    run_ip(one.name, "addr add 192.0.2.1/32 dev lo", "addr add fe80::99/64 dev eth0 nodad")
    assert ask(one, "192.0.2.1", "fe80::99%eth0") == ANSWERED * 2  # which weren't there yet
    one.weavepy("stop")
    one.weavepy("launch", "--no-encryption", "--dns-listen-address", "[::]:53")
    nowhere = one.weavepy("dns-args", check=False)  # by IPv4
    assert (nowhere.returncode, "there is no address of this host to ask" in nowhere.stderr) == (1, True)
