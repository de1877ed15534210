"""Weave Net 2.x's own router, by the binary `weaver` of the user's: no Debian package has it.

Rules of this file. The options are those that the `weave` script gives it, without Docker, DNS and address
allocation; containers are joined as `weave attach` does. Without Open vSwitch in the kernel it runs its sleeve
overlay, and so it is told to everywhere. The easy mistake: it captures by pcap, and loses frames whose checksums
were left to a device.
"""

import json
import secrets
from dataclasses import dataclass

from bench.systems import ADDRESSES, MissingError, Pair, Program, Site
from weavepy.lab.spaces import run_command, run_ip


@dataclass(frozen=True, slots=True)
class Weave:
    path: str | None = None

    def version(self) -> str:
        return run_command([self._weaver(), "--version"]).stdout.strip()

    def start(self, site: Site) -> Pair:
        env = {"WEAVE_PASSWORD": secrets.token_hex(16), "CHECKPOINT_DISABLE": "1"}
        pids, ends = [], []
        for number, host in enumerate(site.hosts, start=1):
            argv = [self._weaver(), "--name", f"02:00:00:00:00:0{number}", "--nickname", f"host{number}"]
            argv += [
                "--no-fastdp",
                "--no-dns",
                "--docker-api",
                "",
                "--db-prefix",
                str(host.directory / "weave"),
            ]
            argv += [site.hosts[0].address] if number == 2 else []
            pids.append(site.start(host, argv, env))
        for number, host in enumerate(site.hosts, start=1):
            site.await_link(host, "weave")
            shown = run_command(["ip", "-n", host.name, "-j", "link", "show", "weave"]).stdout
            mtu = json.loads(shown)[0]["mtu"]
            container = site.lab.add_container(f"w{host.name.rpartition('-')[2]}")
            run_ip(
                host.name,
                f"link add vethwepl mtu {mtu} type veth peer name ethwe mtu {mtu} netns {container.name}",
                "link set vethwepl master weave up",
            )
            run_ip(container.name, f"addr add {ADDRESSES[number - 1]}/24 dev ethwe", "link set ethwe up")
            container.run(["ethtool", "-K", "ethwe", "tx", "off"])
            ends.append(container)
        return site.await_answer(Pair(ends[0], ends[1], ADDRESSES[1], tuple(pids)))

    def _weaver(self) -> str:
        if self.path is None:
            raise MissingError(
                "no package has Weave Net: give `--weave PATH`, the weaver of its weaveworks/weave image"
            )
        return Program("weaver", "", self.path).find()
