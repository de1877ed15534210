"""Results as documents, tables and differences; and what the command line refuses."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import fetch, overlay, plot, systems
from bench.compare import verdict
from bench.measures import MEASURES
from bench.report import medians, read_results, render, summarize, tables
from bench.systems import MissingError, Program, catalogue, go_module
from weavepy.errors import LocalError, UsageError

SAMPLES = {
    "weavepy": {"tcp1_gbps": [4.0, 9.0, 5.0], "rss_mb": [120.0], "ping_loss_loaded": [0.0215]},
    "vxlan": {"tcp1_gbps": [10.0, 10.0], "rss_mb": [], "ping_loss_loaded": [0.0]},
}


def results(path: Path, samples: Any = SAMPLES, **more: Any) -> str:
    path.write_text(json.dumps({"systems": summarize(samples), "kernel": "6.1", "options": {}} | more))
    return str(path)


def run(*argv: str) -> int:
    try:
        return command.main(argv)
    except SystemExit as end:  # argparse's way to refuse
        return int(end.code or 0)


def test_the_median_stands_beside_its_samples() -> None:
    document = summarize(SAMPLES)
    assert document["weavepy"]["tcp1_gbps"] == {"median": 5.0, "samples": [4.0, 9.0, 5.0]}
    assert document["vxlan"]["rss_mb"] == {"median": None, "samples": []}
    assert medians(document)["vxlan"] == {"tcp1_gbps": 10.0, "ping_loss_loaded": 0.0}


def test_tables_have_medians_ratios_and_dashes() -> None:
    lines = list(tables(summarize(SAMPLES), "vxlan"))
    assert lines[0].split() == ["TCP,", "1", "stream", "peak", "RSS"]
    assert lines[1].split() == ["Gb/s,", "more", "MB,", "less"]
    assert [line.split() for line in lines if line.startswith("weavepy")] == [
        ["weavepy", "5.00", "(0.50)", "120"],
        ["weavepy", "2.15"],  # percent; and no ratio to a loss of nothing
    ]
    assert ["vxlan", "10.00", "(1.00)", "-"] in [line.split() for line in lines]


def test_a_table_without_a_baseline_has_no_ratios() -> None:
    assert "(" not in "\n".join(tables(summarize(SAMPLES), None))


def test_columns_are_aligned() -> None:
    lines = list(render([["", "one"], ["a", "1"], ["long", "23456"]], rule_after=1))
    assert lines == ["        one", "----  -----", "a         1", "long  23456"]


def test_results_are_read_back(tmp_path: Path) -> None:
    assert read_results(results(tmp_path / "a.json"))["systems"] == summarize(SAMPLES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"systems": 1}',
        '{"systems": {"a": 1}}',
        '{"systems": {"a": {"tcp1_gbps": {}}}}',
        '{"systems": {"a": {"tcp1_gbps": {"median": "x"}}}}',
        '{"systems": {"a": {"speed": {"median": 1}}}}',
        '{"systems": {}, "systems_gso_off": 1}',
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert run("compare", str(path), str(path)) == 2
    assert "x.json" in capsys.readouterr().err


def test_compare_shows_ratios_and_whether_samples_overlap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {
        "weavepy": {"tcp1_gbps": [10.0, 11.0, 10.0], "rss_mb": [240.0]},
        "vxlan": {"tcp1_gbps": [9.0, 12.0]},
    }
    a, b = results(tmp_path / "a"), results(tmp_path / "b", later, kernel="6.18")
    assert run("compare", a, b) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["kernel", "differs:", "6.1", "|", "6.18"]
    assert ["weavepy", "TCP,", "1", "stream,", "Gb/s", "5.00", "10.00", "2.00", "better"] in lines
    assert ["weavepy", "peak", "RSS,", "MB", "120", "240", "2.00", "one", "sample"] in lines
    assert ["vxlan", "TCP,", "1", "stream,", "Gb/s", "10.00", "10.50", "1.05", "overlap"] in lines


def test_compare_without_anything_in_common_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", results(tmp_path / "a"), results(tmp_path / "b", {})) == 0
    assert "nothing that both have measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "more", "said"),
    [
        ([1, 2], [3, 4], True, "better"),
        ([1, 2], [3, 4], False, "worse"),
        ([3, 4], [1, 2], True, "worse"),
        ([3, 4], [1, 2], False, "better"),
        ([1, 3], [2, 4], True, "overlap"),
        ([1, 2], [2, 3], True, "overlap"),
        ([1], [9, 9], True, "one sample"),
    ],
)
def test_verdicts(before: list[float], after: list[float], more: bool, said: str) -> None:
    assert verdict(before, after, more) == said


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["compare", "a.json"], "B.json"),
        (["compare", "/nonexistent", "/nonexistent"], "cannot read /nonexistent"),
        (["overlay", "--systems", "weavepy,wavepy"], "no system is called 'wavepy'"),
        (["overlay", "--systems", ""], "no system is called ''"),
        (["overlay", "--measures", "speed"], "no measure is called 'speed'"),
        (["overlay", "--rounds", "0"], "--rounds: 1 to 100"),
        (["overlay", "--seconds", "61"], "--seconds: 1 to 60"),
        (["overlay", "--rounds", "many"], "many"),
        (["overlay", "--underlay-gso", "maybe"], "maybe"),
        (["overlay", "--systems", "veth", "--baseline", "vxlan"], "--baseline vxlan isn't among the systems"),
        (["overlay", "--nebula", "mine="], "--nebula mine=: give a PATH, or NAME=PATH"),
        (["overlay", "--nebula", "my own=/bin/nebula"], "give a PATH, or NAME=PATH"),
    ],
)
def test_what_cannot_be_right_ends_with_2(
    argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 2
    assert reason in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_found_out_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay.Overlay, "measure", lambda _: pytest.fail("measured"))
    assert run("overlay", "--systems", "veth", "--json", "/nonexistent/x") == 1
    assert "cannot write /nonexistent/x" in capsys.readouterr().err


def selected(*argv: str) -> dict[str, str | None]:
    parser = argparse.ArgumentParser()
    overlay.add_arguments(parser)
    args = parser.parse_args(["--peers", "/nonexistent", *argv])
    return {name: path for name, (_, path) in overlay.select(args).items()}


def test_all_systems_are_there_in_the_catalogues_order() -> None:
    names = [name for name in selected() if name not in fetch.BUILDS]
    assert names == list(catalogue())
    assert {"weavepy", "veth", "vxlan", "wireguard-go", "nebula", "tinc", "openvpn", "n2n", "fastd"} <= set(
        names
    )


def test_builds_stand_beside_the_installed_one_or_replace_it() -> None:
    found = selected("--nebula", "new=/a/nebula", "--nebula", "b=/b/nebula", "--wireguard-go", "/c/wg")
    assert found["nebula"] is None
    assert found["nebula-new"] == "/a/nebula"
    assert found["nebula-b"] == "/b/nebula"
    assert found["wireguard-go"] == "/c/wg"
    assert found["wireguard-go-latest"] == ""  # not built


def test_the_quick_run_takes_the_newest_wireguard_go_there_is(tmp_path: Path) -> None:
    assert list(selected("--quick")) == ["weavepy", "vxlan", "wireguard-go"]
    (tmp_path / "wireguard-go-latest").mkdir()
    (tmp_path / "wireguard-go-latest" / "wireguard").touch()
    assert list(selected("--quick", "--peers", str(tmp_path))) == ["weavepy", "vxlan", "wireguard-go-latest"]


def test_what_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems.shutil, "which", lambda _: None)
    with pytest.raises(MissingError, match="fastd isn't installed: apt-get install fastd"):
        Program("fastd", "fastd").version()
    with pytest.raises(LocalError, match="/x/fastd is no program") as caught:
        Program("fastd", "fastd", "/x/fastd").version()
    assert not isinstance(caught.value, MissingError)
    with pytest.raises(MissingError, match="--weave PATH"):
        catalogue()["weave"].make(None).version()


def test_a_tool_beside_the_program_comes_first(tmp_path: Path) -> None:
    for name in ("nebula", "nebula-cert"):
        (tmp_path / name).touch(mode=0o755)
    program = Program("nebula", "nebula", str(tmp_path / "nebula"), {"nebula-cert": "nebula"})
    assert program.tool("nebula-cert") == str(tmp_path / "nebula-cert")
    (tmp_path / "nebula-cert").unlink()
    program = Program("nebula", "nebula", str(tmp_path / "nebula"), {"no-such-tool": "itself"})
    with pytest.raises(MissingError, match="apt-get install itself"):
        program.version()


def test_a_go_build_names_its_module() -> None:
    info = b"\x00path\tgolang.zx2c4.com/wireguard\nmod\tgolang.zx2c4.com/wireguard\tv0.0.0-2026-abc\th1:x=\ndep\ta\tb\n"
    assert go_module(info) == "golang.zx2c4.com/wireguard v0.0.0-2026-abc"
    assert go_module(b"\x7fELF nothing of the kind") is None


def test_fetch_without_go(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fetch.shutil, "which", lambda _: None)
    assert run("fetch", "--if-go") == 0
    assert run("fetch") == 1
    assert "https://go.dev/dl/" in capsys.readouterr().err


def test_the_cpu_is_named() -> None:
    assert overlay.cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    assert overlay.cpu_model("") != ""


def test_a_run_that_measured_nothing_is_a_document_too() -> None:
    made = overlay.Overlay({}, list(MEASURES), 1, 1, "both").document({"rounds": 1})
    assert made["systems"] == made["systems_gso_off"] == {}
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize(
    ("baseline", "said"), [("vxlan", "(ratio to vxlan)"), ("tinc", "(no ratios: tinc is left out)")]
)
def test_a_run_says_what_its_ratios_are_to(
    baseline: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = overlay.Overlay({}, list(MEASURES), 1, 1, "on")
    bench.show({"systems": summarize(SAMPLES)}, baseline)
    out = capsys.readouterr().out
    assert said in out
    assert ("(1.00)" in out) == (baseline == "vxlan")


def test_without_matplotlib_a_plot_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LocalError, match="plots need matplotlib"):
        plot.require_matplotlib()


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    off = {"systems_gso_off": summarize({"weavepy": {"tcp1_gbps": [2.0]}})}
    assert run("plot", results(tmp_path / "a.json", **off), str(tmp_path / "picture")) == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "Overlay networks side by side" in (tmp_path / "picture.svg").read_text()


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="nothing in these results to draw"):
        plot.draw(read_results(results(tmp_path / "a.json", {})), str(tmp_path / "p"))


def test_the_commands_of_the_readme_are_understood() -> None:
    lines = (Path(command.__file__).parent / "README.md").read_text().splitlines()
    prefix = "    .venv/bin/python -m bench "
    commands = [line.removeprefix(prefix).split() for line in lines if line.startswith(prefix)]
    assert len(commands) >= 6
    for argv in commands:
        args = command.build_parser().parse_args(argv)
        if args.command == "overlay":
            assert overlay.select(args)
            overlay.chosen("measure", args.measures, MEASURES)


def test_the_readme_explains_every_measure_and_system() -> None:
    text = (Path(command.__file__).parent / "README.md").read_text()
    for name in [*MEASURES, *fetch.BUILDS, *(name for name in catalogue() if name != "weave")]:
        assert f"`{name}`" in text, name
