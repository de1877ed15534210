"""The demo, run as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

EXPECTED = {
    "full mesh discovered",
    "ping every pair",
    "nothing readable on the underlay",
    "wrong password gets nothing",
    "TCP throughput",
    "kill -9 and recovery",
    "nothing left behind",
}


def test_demo_holds_and_writes_its_results(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    argv = [sys.executable, "-m", "weavepy.cli", "demo", "--json", str(results)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(results.read_text())
    assert said["ok"] is True
    assert {check["name"] for check in said["checks"]} >= EXPECTED
    assert all(check["ok"] is True and check["detail"] for check in said["checks"])
    assert set(said["figures"]) == {"tcp_gbps", "vxlan_gbps", "rtt_ms", "ready_s"}
    assert all(value > 0 for value in said["figures"].values())
    for name in EXPECTED:
        assert name in done.stdout


def test_demo_says_at_once_what_it_cannot_write(tmp_path: Path) -> None:
    place = tmp_path / "no" / "such" / "place"
    argv = [sys.executable, "-m", "weavepy.cli", "demo", "--json", str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"cannot write {place}" in done.stderr
    assert "routers ready" not in done.stdout
