"""An address is its container's as long as the container has it: commands at once, ^C, and a disk that is full."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from inside import addresses

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import Space

HTTP = "127.0.0.1:6784"


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(lab: Lab, *flags: str) -> Host:
    host = lab.add_host()
    launch(host, new_password_file(lab.directory / "password"), "h1", "--http-addr", HTTP, *flags)
    return host


def held(host: Host) -> dict[str, list[str]]:
    """Returns who has what by the allocator's books."""
    page = host.run(["curl", "-s", "-S", f"http://{HTTP}/ip"]).stdout
    return {entry["containerid"]: entry["addrs"] for entry in json.loads(page)["owned"]}


def configured(containers: list[Space]) -> dict[str, list[str]]:
    """Returns who has what by the kernel."""
    found = {container.target: addresses(container, "ethwe") for container in containers}
    return {target: cidrs for target, cidrs in found.items() if cidrs}


def test_attach_and_detach_of_one_container_at_once(lab: Lab) -> None:
    host, container = start(lab), lab.add_container("c")
    with ThreadPoolExecutor(2) as both:
        for _ in range(6):
            host.weavepy("attach", container.target)
            done = both.map(lambda command: host.weavepy(command, container.target), ("detach", "attach"))
            assert len(list(done)) == 2
            assert held(host) == configured([container])


def test_who_presses_c_while_there_is_no_address_gets_none_later(lab: Lab) -> None:
    host = start(lab, "--ipalloc-range", "10.32.0.0/30")
    containers = [lab.add_container(f"c{number}") for number in range(3)]
    for container in containers[:2]:
        host.weavepy("attach", container.target)
    env = {**os.environ, "WEAVEPY_RUN_DIR": str(host.run_dir)}
    argv = host.command([sys.executable, "-m", "weavepy.cli", "attach", containers[2].target])
    waiting = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: containers[2].target in host.weavepy("status", "ipam").stdout)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate()
    assert waiting.returncode != 0
    until(lambda: containers[2].target not in host.weavepy("status", "ipam").stdout)
    host.weavepy("detach", containers[0].target)
    assert held(host) == configured(containers)
    assert list(held(host)) == [containers[1].target]


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def test_a_full_disk_leaves_nothing_configured_that_isnt_kept(lab: Lab) -> None:
    with small_disk(lab.directory / "disk") as disk:
        host = start(lab, "--state-dir", str(disk))
        containers = [lab.add_container(f"c{number}") for number in range(2)]
        fill = disk / "fill"
        with pytest.raises(OSError, match="No space left"):
            fill.write_bytes(bytes(1 << 20))
        for command in (*(("attach", container.target) for container in containers), ("expose",)):
            done = host.weavepy(*command, check=False)
            assert done.returncode == 1
            assert "disk is full" in done.stderr
        assert configured(containers) == {}
        assert "inet 10." not in host.run(["ip", "-4", "addr", "show", "weave"]).stdout
        fill.unlink()
        given = {host.weavepy("attach", container.target).stdout for container in containers}
        assert len(given | {host.weavepy("expose").stdout}) == 3
        assert {k: v for k, v in held(host).items() if k != "weave:expose"} == configured(containers)
        host.weavepy("reset", "--state-dir", str(disk))
