"""Beside a real Docker daemon that makes its own rules: containers of its own are attached, and nothing of its is cut.

Only where dockerd and a static busybox are installed (`docker.io` and `busybox-static` on Debian).
"""

import contextlib
import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from roads import wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import NETNS

BUSYBOX = Path("/bin/busybox")
START_S = 60.0

pytestmark = [
    pytest.mark.deep,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("dockerd") is None or not BUSYBOX.exists(), reason="needs dockerd and a static busybox"
    ),
]


class Docker:
    """A daemon in a host's network namespace."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.directory = host.directory / "docker"
        self.address = f"unix://{self.directory}/docker.sock"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        plugins = "mount -t tmpfs none /run && mkdir -p /run/docker/plugins && exec"
        options = (
            f"--data-root {self.directory}/data --exec-root {self.directory}/exec -p {self.directory}/pid "
            f"-H {self.address} --storage-driver vfs --bip 172.29.{self.host.address.rpartition('.')[2]}.1/24"
        )
        script = f"{plugins} dockerd {options} >> {self.directory}/log 2>&1"
        argv = ["nsenter", f"--net={NETNS / self.host.name}", "unshare", "-m", "sh", "-c", script]
        self._running = subprocess.Popen(argv)
        deadline = time.monotonic() + START_S
        while self.docker("version", check=False).returncode:
            log = (self.directory / "log").read_text() if (self.directory / "log").exists() else ""
            assert self._running.poll() is None, log[-2000:]
            assert time.monotonic() < deadline, log[-2000:]
            time.sleep(0.1)

    def stop(self) -> None:
        if self._running is not None:
            self._running.terminate()
            self._running.wait(timeout=60)
            self._running = None

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", self.address, *words], capture_output=True, text=True, check=check, timeout=60
        )

    def run(self, *words: str) -> int:
        """Starts a container and returns the pid of its first process."""
        name = self.docker("run", "-d", *words, "small", "/bin/busybox", "sleep", "600").stdout.strip()
        return int(json.loads(self.docker("inspect", name).stdout)[0]["State"]["Pid"])

    def load(self) -> None:
        """Makes the image `small`, of busybox alone: there is nowhere to pull from."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            tar.add(BUSYBOX.resolve(), "bin/busybox")
        subprocess.run(
            ["docker", "-H", self.address, "import", "-", "small"],
            input=made.getvalue(),
            capture_output=True,
            check=True,
            timeout=60,
        )


@contextlib.contextmanager
def docker_on(host: Host) -> Iterator[Docker]:
    docker = Docker(host)
    try:
        docker.start()
        docker.load()
        yield docker
    finally:
        with contextlib.suppress(Exception):
            docker.docker("kill", *docker.docker("ps", "-q").stdout.split(), check=False)
        docker.stop()


def inside(pid: int, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def reaches(pid: int, address: str) -> bool:
    return inside(pid, "ping", "-c", "3", "-i", "0.2", "-W", "1", address).returncode == 0


def forward(host: Host) -> list[str]:
    return host.run(["iptables", "-S", "FORWARD"]).stdout.splitlines()


def test_containers_of_a_real_docker(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    outside = lab.add_container("outside")
    lab.plug(outside, "outside", "10.99.0.77")
    password = new_password_file(lab.directory / "password")
    with docker_on(one) as first, docker_on(two) as second:
        launch(one, password, "h1")
        launch(two, password, "h2", one.address)
        wait_for_links(one, 1)
        assert forward(one)[0] == "-P FORWARD DROP"
        near, near2, far = first.run(), first.run("--network", "none"), second.run()
        found = {
            pid: host.weavepy("attach", f"pid:{pid}").stdout.strip()
            for host, pid in ((one, near), (one, near2), (two, far))
        }
        gateway = one.weavepy("expose").stdout.strip()
        for client in found:
            for pid, address in found.items():
                assert client == pid or reaches(client, address), forward(one)
        assert reaches(near, gateway)
        assert reaches(far, gateway)
        # Docker's own network still does what it did: to its gateway, and out to the underlay.
        assert reaches(near, "172.29.1.1")
        assert reaches(near, "10.99.0.77")
        # By the exposed address a container without a network of Docker's gets out too.
        inside(near2, "ip", "route", "add", "default", "via", gateway)
        assert reaches(near2, "10.99.0.77")
        # The daemon starts again and writes its rules anew.
        first.docker("kill", *first.docker("ps", "-q").stdout.split())
        first.stop()
        first.start()
        again = first.run()
        address = one.weavepy("attach", f"pid:{again}").stdout.strip()
        assert reaches(far, address)
        assert reaches(again, found[far])
        assert reaches(again, "10.99.0.77")
        assert [rule for rule in forward(one) if "weavepy" in rule]
        one.weavepy("reset", "--force")
        assert not [rule for rule in forward(one) if "weavepy" in rule]
        assert forward(one)[0] == "-P FORWARD DROP"
        assert reaches(again, "10.99.0.77")
