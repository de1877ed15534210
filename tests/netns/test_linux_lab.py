"""The lab itself: what it builds, and that nothing is left of it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside import links

from weavepy.errors import LocalError
from weavepy.lab import cleanup, traffic
from weavepy.lab.checks import PATTERN
from weavepy.lab.hosts import Lab
from weavepy.lab.probes import count_packets

# A daemon: another session, and its parent has gone when it matters.
DAEMON = ["sh", "-c", "setsid sleep 600 </dev/null >/dev/null 2>&1 &"]
# Who runs the tests in the background ignores ^C, and children inherit that.
MAKER = f"""
import signal, time
from weavepy.lab.hosts import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)
with Lab() as lab:
    host = lab.add_host()
    host.run({DAEMON!r})
    print(lab.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def maker() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        yield process, name
        process.kill()
    cleanup.remove(name)


def test_hosts_reach_each_other_with_the_mtu_asked_for() -> None:
    with Lab(underlay_mtu=9000) as lab:
        one, two = lab.add_host(), lab.add_host()
        assert (one.name, two.address) == (f"{lab.name}-h1", "10.99.0.2")
        assert links(one)["eth0"]["mtu"] == 9000
        assert traffic.ping(one, two.address, size=8972, count=1).complete
        assert set(links(lab.add_container("c1"))) == {"lo"}


def test_labs_live_side_by_side() -> None:
    with Lab() as one, Lab() as two:
        assert one.name != two.name
        first, second = one.add_host(), two.add_host()
        assert first.address == second.address
        assert not {one.name, two.name} & set(Lab.sweep())  # their maker lives
    assert one.leftovers() == two.leftovers() == []


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(ending: type[BaseException]) -> None:
    lab = Lab()

    def use() -> None:
        with lab:
            lab.add_host().run(DAEMON)
            assert len(lab.leftovers()) == 4  # underlay, host, process, directory
            raise ending

    with pytest.raises(ending):
        use()
    assert lab.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(maker: tuple[subprocess.Popen[str], str], number: signal.Signals) -> None:
    process, name = maker
    assert any(line.startswith("process ") for line in cleanup.leftovers(name))
    process.send_signal(number)
    process.wait(10)
    assert cleanup.leftovers(name) == []


def test_what_a_killed_maker_left_is_swept_by_the_next_lab(maker: tuple[subprocess.Popen[str], str]) -> None:
    process, name = maker
    process.kill()
    cleanup.wait_gone([process.pid])
    # It has a pid until we take note of its end: so long no lab of anybody else sweeps it.
    assert cleanup.leftovers(name) != []
    process.wait(10)
    with Lab() as lab:
        assert cleanup.leftovers(name) == []
        assert lab.leftovers() != []


def test_a_kept_lab_stays() -> None:
    with Lab(keep=True) as lab:
        lab.add_host()
    assert f"namespace {lab.name}-h1" in lab.leftovers()
    cleanup.remove(lab.name)
    assert lab.leftovers() == []


def test_signal_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with Lab():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_command_that_fails_says_what_and_why() -> None:
    with Lab() as lab:
        host = lab.add_host()
        with pytest.raises(LocalError, match=r"exit code 3: .*sh -c.*: no reason"):
            host.run(["sh", "-c", "echo no reason >&2; exit 3"])
        assert host.run(["false"], check=False).returncode == 1
        with pytest.raises(LocalError, match=r"took longer than 0\.1 s"):
            host.run(["sleep", "5"], timeout_s=0.1)
        with (
            pytest.raises(LocalError, match="ended before it was ready"),
            host.running(["echo", "no"], "yes"),
        ):
            pass


def test_routers_of_a_lab_do_not_see_the_callers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVE_PASSWORD", "somebody's")
    monkeypatch.setenv("WEAVEPY_PORT", "1")
    with Lab() as lab:
        host = lab.add_host()
        monkeypatch.setattr(host, "command", lambda _argv: ["env"])
        seen = dict(line.split("=", 1) for line in host.weavepy("version").stdout.splitlines() if "=" in line)
    assert "WEAVE_PASSWORD" not in seen
    assert "WEAVEPY_PORT" not in seen
    assert seen["WEAVEPY_RUN_DIR"] == str(host.run_dir)
    assert seen["WEAVEPY_STATE_DIR"] == str(host.state_dir)


def test_the_yardstick_works_and_a_capture_of_it_can_be_read() -> None:
    with Lab() as lab:
        pair = traffic.vxlan_pair(lab)
        assert links(pair.client)["eth0"]["mtu"] == 1450
        with lab.underlay.capture("any", "underlay.pcap") as capture:
            assert traffic.ping(pair.client, pair.address, pattern=PATTERN, size=1000).complete
            assert traffic.ping(pair.client, pair.address, size=10_000).complete
        # What the demo looks for and must not find is found where nothing is encrypted.
        assert capture.read_bytes().count(PATTERN) > 0
        assert count_packets(capture, "udp port 4789") > 0
        assert count_packets(capture, "udp port 6783") == 0
        assert traffic.tcp(pair.client, pair.server, pair.address, seconds=1).gbps > 0.1
        sent = traffic.udp(pair.client, pair.server, pair.address, seconds=1, mbps=10, length=1000)
        assert sent.loss < 0.5
        assert sent.gbps == pytest.approx(0.01, rel=0.5)


def test_a_process_that_only_waits_for_its_parent_has_ended() -> None:
    child = subprocess.Popen(["sleep", "600"])
    child.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    cleanup.wait_gone([child.pid])
    child.wait()


def test_a_process_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "_KILL_WAIT_S", 0.1)
    with pytest.raises(LocalError, match=f"did not end: {os.getpid()}"):
        cleanup.wait_gone([os.getpid()])
