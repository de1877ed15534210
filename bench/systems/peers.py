"""The other peers that Debian packages: nebula, tinc, openvpn, n2n and fastd.

Rules of this file. Each class says what its configuration follows; nothing is tuned, in either direction. The
first host is the one that dials. The easy mistake: leaving an MTU at 1500 makes the underlay fragment; where a
peer's manual has a rule for its MTU, the rule is followed, and else its default is left alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from bench.systems import ADDRESSES, Pair, Program, Site
from weavepy.lab.spaces import run_command


@dataclass(frozen=True, slots=True)
class Nebula:
    """As in its example config.yml: the second host is the lighthouse, everything is allowed."""

    path: str | None = None

    @property
    def program(self) -> Program:
        return Program("nebula", "nebula", self.path, {"nebula-cert": "nebula"})

    def version(self) -> str:
        return self.program.version()

    def start(self, site: Site) -> Pair:
        cert, ca = self.program.tool("nebula-cert"), site.hosts[0].directory / "ca"
        authority = ["-ca-crt", f"{ca}.crt", "-ca-key", f"{ca}.key"]
        run_command([cert, "ca", "-name", "bench", "-out-crt", f"{ca}.crt", "-out-key", f"{ca}.key"])
        pids = []
        for host, address in reversed(list(zip(site.hosts, ADDRESSES, strict=True))):
            lighthouse = address == ADDRESSES[1]
            mine = host.directory / "host"
            keys = ["-out-crt", f"{mine}.crt", "-out-key", f"{mine}.key"]
            run_command([cert, "sign", *authority, "-name", host.name, "-ip", f"{address}/24", *keys])
            everything = [{"port": "any", "proto": "any", "host": "any"}]
            config = {
                "pki": {"ca": f"{ca}.crt", "cert": f"{mine}.crt", "key": f"{mine}.key"},
                "static_host_map": {} if lighthouse else {ADDRESSES[1]: [f"{site.hosts[1].address}:4242"]},
                "lighthouse": {"am_lighthouse": lighthouse, "hosts": [] if lighthouse else [ADDRESSES[1]]},
                "listen": {"host": "0.0.0.0", "port": 4242},
                "punchy": {"punch": True},
                "tun": {"dev": "nebula1", "mtu": 1300},
                "firewall": {"outbound": everything, "inbound": everything},
            }
            path = host.directory / "config.yml"  # which JSON is, too
            path.write_text(json.dumps(config))
            pids.append(site.start(host, [self.program.find(), "-config", str(path)]))
        return site.await_answer(Pair(*site.hosts, ADDRESSES[1], tuple(pids)))


@dataclass(frozen=True, slots=True)
class Tinc:
    """tinc 1.0 in switch mode, as its manual's example configuration; ciphers and MTU are its defaults."""

    path: str | None = None

    @property
    def program(self) -> Program:
        return Program("tincd", "tinc", self.path)

    def version(self) -> str:
        return self.program.version()

    def start(self, site: Site) -> Pair:
        tincd = self.program.find()
        places = [host.directory / "tinc" for host in site.hosts]
        for number, (host, place) in enumerate(zip(site.hosts, places, strict=True)):
            (place / "hosts").mkdir(parents=True)
            dials = "ConnectTo = host1\n" if number == 0 else ""
            (place / "tinc.conf").write_text(f"Name = host{number}\nMode = switch\nInterface = tap0\n{dials}")
            (place / "hosts" / f"host{number}").write_text(f"Address = {host.address}\n")
            up = place / "tinc-up"
            up.write_text(
                f"#!/bin/sh\nip link set $INTERFACE up\nip addr add {ADDRESSES[number]}/24 dev $INTERFACE\n"
            )
            up.chmod(0o700)
            run_command([tincd, "-c", str(place), "-K2048"])
        for mine, other in ((0, 1), (1, 0)):
            name = f"host{other}"
            (places[mine] / "hosts" / name).write_text((places[other] / "hosts" / name).read_text())
        pids = [
            site.start(host, [tincd, "-D", "-c", str(place), f"--pidfile={place}/pid"])
            for host, place in reversed(list(zip(site.hosts, places, strict=True)))
        ]
        return site.await_answer(Pair(*site.hosts, ADDRESSES[1], tuple(pids)))


@dataclass(frozen=True, slots=True)
class Openvpn:
    """The small set-up with peer-fingerprint of openvpn-examples(5), in user space, by its default AES-256-GCM."""

    path: str | None = None

    @property
    def program(self) -> Program:
        return Program("openvpn", "openvpn", self.path, {"openssl": "openssl"})

    def version(self) -> str:
        return self.program.version()

    def start(self, site: Site) -> Pair:
        openssl = self.program.tool("openssl")
        prints = [_certificate(openssl, host.directory) for host in site.hosts]
        pids = []
        for mine, host in reversed(list(enumerate(site.hosts))):
            other = 1 - mine
            argv = [
                self.program.find(),
                "--dev",
                "tun0",
                "--dev-type",
                "tun",
                "--proto",
                "udp",
                "--port",
                "1194",
            ]
            argv += ["--ifconfig", ADDRESSES[mine], ADDRESSES[other], "--tun-mtu", "1400", "--disable-dco"]
            argv += ["--cert", "crt.pem", "--key", "key.pem", "--peer-fingerprint", prints[other]]
            argv += ["--data-ciphers", "AES-256-GCM", "--keepalive", "60", "300"]
            argv += (
                ["--tls-server", "--dh", "none"]
                if mine
                else ["--tls-client", "--remote", site.hosts[1].address]
            )
            pids.append(site.start(host, argv))
        return site.await_answer(Pair(*site.hosts, ADDRESSES[1], tuple(pids)))


def _certificate(openssl: str, directory: Path) -> str:
    """Makes a self-signed certificate as OpenVPN's manual does, and returns its fingerprint."""
    crt, key = directory / "crt.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-sha256"]
    out = ["-days", "10", "-subj", f"/CN={directory.name}", "-keyout", str(key), "-out", str(crt)]
    run_command([openssl, "req", "-x509", *curve, *out])
    said = run_command([openssl, "x509", "-fingerprint", "-sha256", "-noout", "-in", str(crt)]).stdout
    return said.strip().partition("=")[2]


@dataclass(frozen=True, slots=True)
class N2n:
    """A supernode on the second host and an edge on each, as in its README; the edges then talk directly."""

    path: str | None = None

    @property
    def program(self) -> Program:
        return Program("edge", "n2n", self.path, {"supernode": "n2n"})

    def version(self) -> str:
        return self.program.version()

    def start(self, site: Site) -> Pair:
        supernode = site.start(site.hosts[1], [self.program.tool("supernode"), "-l", "7654"])
        pids = [supernode]
        for host, address in zip(site.hosts, ADDRESSES, strict=True):
            argv = [
                self.program.find(),
                "-d",
                "n2n0",
                "-a",
                address,
                "-c",
                "bench",
                "-l",
                f"{site.hosts[1].address}:7654",
            ]
            pids.append(site.start(host, argv, env={"N2N_KEY": "encryptme"}))
        return site.await_answer(Pair(*site.hosts, ADDRESSES[1], tuple(pids)))


@dataclass(frozen=True, slots=True)
class Fastd:
    """TAP mode with salsa2012+umac, the method its manual names first; the MTU by its manual's rule."""

    path: str | None = None

    @property
    def program(self) -> Program:
        return Program("fastd", "fastd", self.path)

    def version(self) -> str:
        return self.program.version()

    def start(self, site: Site) -> Pair:
        fastd = self.program.find()
        secrets = [
            run_command([fastd, "--generate-key", "--machine-readable"]).stdout.strip() for _ in site.hosts
        ]
        # IPv4 and UDP take 28 bytes, the method 24, the inner Ethernet header 14.
        mtu = site.lab.underlay_mtu - 28 - 24 - 14
        configs, publics = [], []
        for host, secret in zip(site.hosts, secrets, strict=True):
            config = host.directory / "fastd.conf"
            config.touch(mode=0o600)
            config.write_text(
                f'mode tap;\ninterface "fastd0";\nmethod "salsa2012+umac";\nmtu {mtu};\n'
                f'bind any:10000;\nsecret "{secret}";\n'
            )
            configs.append(config)
            show = [fastd, "--show-key", "--machine-readable", "--config", str(config)]
            publics.append(run_command(show).stdout.strip())
        pids = []
        for mine, host in enumerate(site.hosts):
            other = 1 - mine
            remote = f'remote "{site.hosts[other].address}" port 10000; ' if mine == 0 else ""
            up = f"ip addr add {ADDRESSES[mine]}/24 dev fastd0 && ip link set fastd0 up"
            with configs[mine].open("a") as config_file:
                config_file.write(f'peer "other" {{ key "{publics[other]}"; {remote}}}\non up "{up}";\n')
            pids.append(site.start(host, [fastd, "--config", str(configs[mine])]))
        return site.await_answer(Pair(*site.hosts, ADDRESSES[1], tuple(pids)))
