"""wireguard-go, any build of it: upstream's, Tailscale's fork, Debian's.

Rules of this file. Keys and peers come from `wg`, as in the manual; the MTU is the device's own 1420. The easy
mistake: `wg` speaks to a daemon by a socket in /run/wireguard, so it has to look where the daemon does.
"""

import time
from dataclasses import dataclass, field
from typing import Final

from bench.systems import ADDRESSES, Pair, Program, Site
from weavepy.errors import LocalError
from weavepy.lab.hosts import Host
from weavepy.lab.spaces import run_command, run_ip

_PORT: Final = 51820
_SOCKET_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class WireguardGo:
    path: str | None = None
    program: Program = field(init=False)

    def __post_init__(self) -> None:
        tools = {"wg": "wireguard-tools"}
        object.__setattr__(self, "program", Program("wireguard-go", "wireguard-go", self.path, tools))

    def version(self) -> str:
        return self.program.version()

    def start(self, site: Site) -> Pair:
        wg = self.program.tool("wg")
        secrets = [run_command([wg, "genkey"]).stdout for _ in site.hosts]
        publics = [run_command([wg, "pubkey"], text_in=secret).stdout.strip() for secret in secrets]
        pids = [site.start(host, [self.program.find(), "--foreground", "wg0"]) for host in site.hosts]
        for mine, (host, pid) in enumerate(zip(site.hosts, pids, strict=True)):
            other = 1 - mine
            key = host.directory / "key"
            key.touch(mode=0o600)
            key.write_text(secrets[mine])
            argv = ["set", "wg0", "listen-port", str(_PORT), "private-key", str(key), "peer", publics[other]]
            argv += ["allowed-ips", f"{ADDRESSES[other]}/32"]
            # On both sides, as in the quick start: not every build learns an endpoint from what comes in.
            argv += ["endpoint", f"{site.hosts[other].address}:{_PORT}"]
            _configure(host, pid, [wg, *argv])
            run_ip(host.name, f"addr add {ADDRESSES[mine]}/24 dev wg0", "link set wg0 up")
        return site.await_answer(Pair(*site.hosts, ADDRESSES[1], tuple(pids)))


def _configure(host: Host, pid: int, argv: list[str]) -> None:
    """Runs `wg` where the daemon is, as soon as the daemon listens."""
    deadline = time.monotonic() + _SOCKET_WAIT_S
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", f"--mount=/proc/{pid}/ns/mnt", *argv]
    while (done := run_command(inside, check=False)).returncode != 0:
        if time.monotonic() > deadline:
            raise LocalError(f"wg can't configure {host.name}: {done.stderr.strip()[-300:]}")
        time.sleep(0.1)
