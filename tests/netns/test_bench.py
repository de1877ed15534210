"""The overlay benchmark, run small: what it measures, what it writes, and that nothing of it stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.measures import Meter, build_load
from bench.overlay import set_underlay_gso
from bench.systems import MissingError, Site, catalogue
from weavepy.lab.hosts import Lab
from weavepy.lab.traffic import ping

ROOT = Path(__file__).parents[2]


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "overlay", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_of(pid: int) -> list[str]:
    places = (Path("/run/netns"), Path("/tmp"))
    return [str(path) for place in places if place.is_dir() for path in place.glob(f"wp{pid}x*")]


def test_systems_are_measured_side_by_side_and_nothing_stays(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    measures = ["tcp1_gbps", "cpu_s_per_gb", "rss_mb", "udp64_pps", "rtt_p50_ms", "rtt_p99_ms"]
    argv = ["--systems", "weavepy,vxlan,veth,weave", "--rounds", "1", "--seconds", "1", "--json", str(file)]
    with start(*argv, "--measures", ",".join(measures)) as process:
        out, said = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert left_of(process.pid) == []
    document: dict[str, Any] = json.loads(file.read_text())
    assert set(document["systems"]) == {"weavepy", "vxlan", "veth"}
    for name, found in document["systems"].items():
        assert set(found) == set(measures)
        for measure, entry in found.items():
            if measure == "rss_mb" and name != "weavepy":
                assert entry == {"median": None, "samples": []}
            else:
                assert entry["median"] > 0, (name, measure)
                assert entry["samples"] == [entry["median"]]
        assert found["rtt_p50_ms"]["median"] <= found["rtt_p99_ms"]["median"]
    assert document["failures"] == []
    assert "--weave PATH" in document["left_out"]["weave"]
    assert set(document["versions"]) == {"weavepy", "vxlan", "veth"}
    assert {"kernel", "cpu", "cpus", "date"} <= set(document)
    assert document["options"]["underlay_gso"] == "on"
    assert "(1.00)" in out
    assert "left out: weave:" in out


def test_an_interrupted_run_keeps_what_it_has_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    argv = ["--systems", "weavepy", "--rounds", "50", "--seconds", "1", "--json", str(file)]
    with start(*argv, "--measures", "rss_mb,udp64_pps") as process:
        assert process.stderr is not None
        assert "round 1 of 50, weavepy" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert left_of(process.pid) == []
    assert json.loads(file.read_text())["systems"]["weavepy"]["udp64_pps"]["samples"]


def test_a_system_that_does_not_come_up_is_left_out_with_its_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "weaver"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo weave 0\necho out of yarn; exit 3\n')
    broken.chmod(0o755)
    measures = ["--measures", "rss_mb", "--rounds", "1"]
    with start("--systems", "veth,weave", "--weave", str(broken), *measures) as process:
        out, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "left out: weave: a daemon ended; logged: out of yarn" in out, said
    assert left_of(process.pid) == []


def test_datagrams_are_counted_where_they_arrive(lab: Lab) -> None:
    site = Site(lab)
    meter = Meter(catalogue()["veth"].make(None).start(site), build_load(lab.directory), 1)
    slow = meter.flood(64, rate=2000, seconds=0.5)
    assert slow.sent == pytest.approx(1000, rel=0.1)
    assert slow.received <= slow.sent
    many = meter.flood(1400, flows=64, seconds=0.2)
    assert many.in_window <= many.received <= many.sent
    assert many.received > 64
    site.hosts[1].run(["ip", "link", "set", site.road.interfaces[1], "down"])
    assert meter.flood(64, rate=1000, seconds=0.2).received == 0


def test_round_trips_under_load_are_timed(lab: Lab) -> None:
    meter = Meter(catalogue()["veth"].make(None).start(Site(lab)), build_load(lab.directory), 1)
    found = meter.loaded()
    assert found["rtt_p99_loaded_ms"] > 0
    assert 0 <= found["ping_loss_loaded"] <= 1


@pytest.mark.deep
def test_what_dns_costs_the_data_plane_is_measured_beside_a_stand_in(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    argv = ["beside", "--clients", "2", "--seconds", "1", "--rounds", "1", "--json", str(file)]
    done = subprocess.run([sys.executable, "-m", "bench", *argv], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["beside"]
    assert [name for name, row in rows.items() if row["unit"] == "Gb/s"] == [
        "TCP alone",
        "TCP beside its DNS",
        "TCP beside a stand-in that takes as much CPU",
        "TCP beside one that takes the least",
    ]
    assert all(row["median"] > 0 for row in rows.values())
    assert rows["CPU for an answer at 380/s"]["unit"] == "us"


@pytest.mark.parametrize("gso", ["on", "off"])
def test_bare_carries_frames_with_trains_and_without(lab: Lab, gso: str) -> None:
    site = Site(lab)
    try:
        pair = catalogue()["bare"].make(None).start(site)
        set_underlay_gso(site, gso)
        assert ping(pair.client, pair.address, count=3, size=10000).complete
        assert Meter(pair, build_load(lab.directory), 1).tcp1()["tcp1_gbps"] > 0.02
    finally:
        site.close()


@pytest.mark.deep
@pytest.mark.parametrize("name", ["wireguard-go", "nebula", "tinc", "openvpn", "n2n", "fastd"])
def test_each_peer_that_is_installed_comes_up(lab: Lab, name: str) -> None:
    system = catalogue()[name].make(None)
    try:
        assert system.version()
    except MissingError as missing:
        pytest.skip(str(missing))
    site = Site(lab)
    try:
        pair = system.start(site)
        assert len(pair.pids) >= 2
        assert all(os.path.exists(f"/proc/{pid}") for pid in pair.pids)
    finally:
        site.close()


ASK = ["ask", "127.0.0.1", "53", "0", "1", "1000", "", "127.0.0.1"]
ANSWER = ["answer", "127.0.0.1", "5300", "lo", "1", "-1"]


@pytest.mark.parametrize(
    "argv", [["recv"], ["send", "x"], ["nonsense"], ["echo", "10.0.0.1", "0", "1"], ASK, ANSWER]
)
def test_the_load_program_refuses_what_it_does_not_know(tmp_path: Path, argv: list[str]) -> None:
    assert shutil.which("cc")
    done = subprocess.run([build_load(tmp_path), *argv], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert done.stderr.startswith("load: ")
