"""`--dns-on-host` with a real systemd-resolved, in a network and mount namespace of its own: which names of a host come
to us, and what is left when we are gone.

Installing systemd-resolved makes it a machine's own resolver, so nothing here does: without it, the test is skipped.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space
from weavepy.linux.rtnl import DNS_ADDRESS

RESOLVED = Path("/lib/systemd/systemd-resolved")
MISSING = [name for name in (str(RESOLVED), "dbus-daemon", "resolvectl") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: systemd-resolved, dbus)"
    ),
]

# What only root can see of /run is this host's own, and so is /etc/resolv.conf.
RUN = """
set -e
mount --make-rprivate /
for directory in systemd dbus; do
    mkdir -p /run/$directory
    mount -t tmpfs -o mode=755 private /run/$directory
done
mkdir /run/systemd/resolve /run/systemd/resolved.conf.d
chown systemd-resolve: /run/systemd/resolve
cp $0/resolved.conf /run/systemd/resolved.conf.d/
mount --bind $0/resolv.conf "$(realpath -m /etc/resolv.conf)"
dbus-daemon --system --nofork --nosyslog &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.02; done
exec /lib/systemd/systemd-resolved
"""
# Answers every question about an A record with 203.0.113.5, others with nothing, and prints the names.
UPSTREAM = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    message, client = s.recvfrom(4096)
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    print(".".join(labels), flush=True)
    is_a = message[at + 1 : at + 3] == b"\\0\\1"
    answer = bytes.fromhex("c00c00010001000000010004cb007105") if is_a else b""
    counts = bytes([0, 1, 0, is_a, 0, 0, 0, 0])
    s.sendto(message[:2] + b"\\x81\\x80" + counts + message[12 : at + 5] + answer, client)
"""


class ResolvedHost(Host):
    """A host whose commands see the files of its systemd-resolved, `pid`."""

    pid = 0

    def command(self, argv: Sequence[str]) -> list[str]:
        mounts = [f"--mount=/proc/{self.pid}/ns/mnt"] if self.pid else []
        words = super().command([])
        return [words[0], *mounts, *words[1:], *argv]


@contextlib.contextmanager
def resolved(host: Host, upstream: str) -> Iterator[ResolvedHost]:
    directory = host.directory
    (directory / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (directory / "resolved.conf").write_text(
        f"[Resolve]\nDNS={upstream}\nFallbackDNS=\nMulticastDNS=no\nLLMNR=no\nCache=no\n"
    )
    running = subprocess.Popen(
        host.command(["unshare", "--mount", "sh", "-c", RUN, str(directory)]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    made = ResolvedHost(host.name, directory, host.address)
    made.pid = running.pid
    try:
        deadline = time.monotonic() + 10.0
        while made.run(["resolvectl", "status"], check=False).returncode != 0:
            if running.poll() is not None or time.monotonic() > deadline:
                os.killpg(running.pid, signal.SIGKILL)
                assert running.stderr is not None
                raise AssertionError(running.stderr.read().decode())
            time.sleep(0.05)
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def lookup(space: Space, name: str) -> str:
    """Returns what the C library of a host has for a name."""
    return (space.run(["getent", "ahostsv4", name], check=False).stdout.split() or ["-"])[0]


def questions(host: Host) -> str:
    """Returns how many questions came to us."""
    metrics = host.run(["curl", "-s", "http://127.0.0.1:6782/metrics"]).stdout
    return next(line for line in metrics.splitlines() if 'event="udp_queries"' in line)


def told(host: Host) -> list[str]:
    """Returns the server and the domain that resolved has for the bridge."""
    lines = (
        host.run(["resolvectl", "dns", "weave"]).stdout,
        host.run(["resolvectl", "domain", "weave"]).stdout,
    )
    return [line.partition(": ")[2].strip() for line in lines]


def test_a_host_resolves_our_names_and_no_others_by_us(lab: Lab) -> None:
    plain, elsewhere, web = lab.add_host(), lab.add_host(), lab.add_container("web")
    argv = ["python3", "-c", UPSTREAM, elsewhere.address]
    with elsewhere.running(argv, "ready") as upstream, resolved(plain, elsewhere.address) as host:
        launched = host.weavepy("launch", "--no-encryption", "--dns-on-host")
        assert "This host resolves weave.local too, by systemd-resolved." in launched.stdout
        assert "resolve" not in launched.stderr + host.weavepy("status").stdout  # it is no warning
        host.weavepy("dns-add", "10.9.8.7", "-h", "web.weave.local")
        assert told(host) == ["169.254.67.83", "~weave.local"]
        assert [lookup(host, name) for name in ("web.weave.local", "nobody.weave.local")] == ["10.9.8.7", "-"]
        before = questions(host)
        assert lookup(host, "www.example.com") == "203.0.113.5"
        assert questions(host) == before
        # A container's other questions go past the stub to what is behind it: once each, so none comes back to us.
        host.weavepy("attach", "10.32.1.1/24", web.target)
        (lab.directory / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec getent ahostsv4 other.example.org'
        argv = ["unshare", "--mount", "sh", "-c", script, str(lab.directory / "resolv.conf")]
        assert web.run(argv).stdout.split()[0] == "203.0.113.5"
        # A crash leaves it as it is, and the next launch sets it again; a stop takes it back.
        host.kill_router()
        assert [lookup(host, name) for name in ("web.weave.local", "www.example.com")] == ["-", "203.0.113.5"]
        host.run(["resolvectl", "revert", "weave"])
        host.weavepy("launch")
        assert (told(host), lookup(host, "web.weave.local")) == (
            ["169.254.67.83", "~weave.local"],
            "10.9.8.7",
        )
        host.weavepy("stop")
        assert told(host) == ["", ""]
        assert [lookup(host, name) for name in ("web.weave.local", "www.example.com")] == ["-", "203.0.113.5"]
        # What it can't ask is said, and not told.
        refused = host.weavepy(
            "launch", "--no-encryption", "--dns-on-host", "--dns-listen-address", "127.0.0.1:5355"
        )
        assert "systemd-resolved can't ask 127.0.0.1:5355 by the bridge" in refused.stderr
        assert told(host) == ["", ""]
        host.weavepy("stop")
        host.weavepy(
            "launch", "--no-encryption", "--dns-on-host", "--dns-listen-address", "127.0.0.1:53,0.0.0.0:5355"
        )
        assert (told(host)[0], lookup(host, "web.weave.local")) == ("169.254.67.83:5355", "10.9.8.7")
        host.weavepy("reset")
        assert upstream.stdout is not None
        upstream.terminate()
        names = upstream.stdout.read().split()
        assert (set(names), names.count("other.example.org")) == ({"www.example.com", "other.example.org"}, 1)
