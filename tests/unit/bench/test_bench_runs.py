"""The benchmarks run and hand over what a comparison needs. No figure is judged here."""

import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest

from bench import addresses, dns, micro, scale
from bench.__main__ import main
from bench.figures import Figures, machine, timed
from bench.mesh import Mesh
from weavepy import limits


def results(module: ModuleType, tmp_path: Path, *arguments: str) -> dict[str, dict]:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    file = tmp_path / "figures.json"
    assert module.run(parser.parse_args([*arguments, "--json", str(file)])) == 0
    document = json.loads(file.read_text())
    assert document.keys() >= {"kernel", "cpu", "cores", "python", "weavepy"}
    rows = document[module.__name__.partition(".")[2]]
    for row in rows.values():
        assert row.keys() == {"median", "samples", "unit"}
        assert min(row["samples"]) <= row["median"] <= max(row["samples"])
    return rows


def test_addresses(tmp_path: Path) -> None:
    rows = results(addresses, tmp_path, "--samples", "2", "--batch", "5", "--containers", "0")
    assert list(rows) == ["allocate from own space, of 5"]
    assert rows["allocate from own space, of 5"]["median"] > 0


def test_dns(tmp_path: Path) -> None:
    rows = results(
        dns, tmp_path, "--servers", "weavepy", "--seconds", "0.3", "--rounds", "1", "--rate", "1500"
    )
    assert rows["weavepy: p50 at 1500/s"]["median"] <= rows["weavepy: p99 at 1500/s"]["median"]
    assert rows["weavepy: CPU for an answer at 1500/s"]["median"] > 0


@pytest.mark.parametrize(("flag", "value"), [("--servers", "bind"), ("--rate", "0"), ("--rounds", "-1")])
def test_dns_refuses(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert main(["dns", flag, value]) == 2
    assert flag in capsys.readouterr().err


def test_micro(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = results(micro, tmp_path, "--samples", "2", "--batch", "4", "--peers", "3")
    for start in ("seal ", "open ", "slice ", "rebuild ", "look up a MAC", "gob: ", "topology: ", "routes: "):
        assert any(name.startswith(start) for name in rows)
    assert all(name in capsys.readouterr().out for name in list(rows)[:1])


def test_they_are_commands(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert main(["micro", "--samples", "1", "--batch", "2", "--peers", "2", "--json", str(file)]) == 0
    parts = ["--parts", "mesh", "--simulated", "3", "--virtual-seconds", "31"]
    assert main(["scale", *parts, "--json", str(file)]) == 0
    assert "scale" in json.loads(file.read_text())


def test_scale(tmp_path: Path) -> None:
    rows = results(
        scale,
        tmp_path,
        *("--parts", "engine", "mesh", "--configured", "1", "3", "--seconds", "0.05", "--samples", "2"),
        *("--simulated", "5", "--virtual-seconds", "40"),
    )
    assert rows["engine: throughput with 3 peers configured"]["median"] > 0
    assert len(rows["engine: throughput with 3 peers / with 1"]["samples"]) == 2
    for whose in ("weavepy's", "Weave Net's"):
        assert rows[f"mesh of 5, {whose} gossip: idle, longest turn"]["unit"] == "ms"


@pytest.mark.parametrize("shuffled", [False, True])
def test_simulated_mesh_is_a_full_mesh_that_gossips(shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_PAYLOAD_BYTES", 700)
    mesh = Mesh(6, shuffled=shuffled)
    mesh.join()
    report = mesh.router.report(mesh.now)
    assert [c["State"] for c in report["Connections"]] == ["established"] * 6  # type: ignore[attr-defined]
    records = mesh.router._topology.records
    assert {peer.record.name: peer.record for peer in mesh.peers}.items() <= records.items()
    kinds = set(mesh.idle(130).kinds)
    assert kinds >= {"timer", "heartbeat", "complete", "tcp heartbeat", "rekey", "probe"}
    mesh.restart_one(4)
    assert {peer.record.name: peer.record for peer in mesh.peers}.items() <= records.items()


def test_frames_of_the_benchmark_are_such_as_a_kernel_makes() -> None:
    header, frame = micro.super_frame(3000)
    assert len(header) == 10
    assert int.from_bytes(frame[16:18], "big") == len(frame) - 14
    assert len(micro._fastpath.pack(header, frame, 1440, 1)) == 3


def test_figures_keep_their_samples(tmp_path: Path) -> None:
    figures = Figures("some")
    figures.add("thing", [3.0, 1.0, 2.0], "ms")
    figures.write(None)
    figures.write(str(tmp_path / "f"))
    assert json.loads((tmp_path / "f").read_text())["some"] == {
        "thing": {"median": 2.0, "samples": [3.0, 1.0, 2.0], "unit": "ms"}
    }
    assert machine()["cores"]
    calls: list[str] = []
    assert len(timed(lambda: calls.append("call"), 2, before=lambda: calls.append("before"))) == 2
    assert calls == ["before", "call"] * 3


@pytest.mark.parametrize(("flag", "value"), [("--clients", "0"), ("--clients", "65"), ("--seconds", "0")])
def test_beside_refuses(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert main(["beside", flag, value]) == 2
    assert flag in capsys.readouterr().err
