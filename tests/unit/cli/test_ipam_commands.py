"""`prime`, `rmpeer`, `ipam` and `reset` with a scripted router: what is asked, what is printed, how it ends."""

from pathlib import Path

import pytest
from scripted_router import ScriptedRouter, invoke

from weavepy.cli import ending, ipam


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipam, "TURN_S", 0.0)


def test_prime_waits_and_says_once_what_for(router: ScriptedRouter) -> None:
    for lacking in ("the others", "the others", ""):
        router.will_answer({"waits_for": lacking})
    result = invoke("prime")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "weavepy: waiting for the others\n")
    assert router.requests == [("POST /prime", {"timeout_s": 0.0})] * 3


def test_prime_gives_up_with_4_and_the_reason(router: ScriptedRouter) -> None:
    router.will_answer({"waits_for": "the first division; not connected: host2"})
    result = invoke("prime", "--timeout", "0")
    assert (result.exit_code, result.stderr) == (
        4,
        "weavepy: no addresses can be given out after 0 s: waiting for the first division; not connected: host2\n",
    )


def test_rmpeer_prints_weaves_line_for_each_and_the_worst_counts(router: ScriptedRouter) -> None:
    router.will_answer({"taken": 1048576, "known": True})
    router.will_answer({"error": "it is still heard"}, "400 Bad Request")
    router.will_answer({"taken": 0, "known": False})
    result = invoke("rmpeer", "host2", "host3", "hots4")
    assert result.exit_code == 1
    assert result.stdout == "1048576 IPs taken over from host2\n0 IPs taken over from hots4\n"
    assert "weavepy: host3: it is still heard\n" in result.stderr
    assert "warning: no host that has addresses is called hots4" in result.stderr
    assert [body for _, body in router.requests] == [
        {"peer": peer, "force": False} for peer in ("host2", "host3", "hots4")
    ]


def test_rmpeer_by_force_and_of_a_peer_that_has_nothing_any_more(router: ScriptedRouter) -> None:
    router.will_answer({"taken": 0, "known": True})
    result = invoke("rmpeer", "--force", "host2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "0 IPs taken over from host2\n", "")
    assert router.requests == [("POST /rmpeer", {"peer": "host2", "force": True})]


def test_ipam_alone_shows_its_help() -> None:
    result = invoke("ipam")
    assert result.exit_code == 0
    assert "check " in result.stdout
    assert "repair " in result.stdout


def test_check_says_what_is_wrong_with_1(router: ScriptedRouter) -> None:
    router.will_answer({"on": True, "findings": []})
    router.will_answer({"on": True, "findings": ["one thing; do this", "another"]})
    router.will_answer({"on": False, "findings": []})
    well, ill, off = invoke("ipam", "check"), invoke("ipam", "check"), invoke("ipam", "check")
    assert (well.exit_code, well.stdout) == (0, "all is well\n")
    assert (ill.exit_code, ill.stdout) == (1, "one thing; do this\nanother\n")
    assert (off.exit_code, off.stdout) == (0, "no addresses are given out on this host\n")


CLASH = {"owner": "pid:7", "address": "10.32.0.5", "peer": "02:00:00:00:00:02(two)"}


def test_repair_ends_with_1_while_something_clashes(router: ScriptedRouter) -> None:
    nothing = {"gave_way": "", "renumbered": [], "failed": [], "clashes": []}
    router.will_answer({**nothing, "gave_way": "the ring of two", "clashes": [CLASH]})
    result = invoke("ipam", "repair", "--with", "two")
    assert (result.exit_code, result.stdout) == (
        1,
        "this host goes by the ring of two now\n"
        "pid:7: 10.32.0.5 has been given out by 02:00:00:00:00:02(two), too; --renumber gives it another one\n",
    )
    new = {"owner": "pid:7", "address": "10.32.0.5", "new": "10.32.0.9/12"}
    router.will_answer({**nothing, "renumbered": [new]})
    result = invoke("ipam", "repair", "--renumber")
    assert (result.exit_code, result.stdout) == (0, "pid:7: 10.32.0.5 is 10.32.0.9/12 now\n")
    failed = {"owner": "c", "address": "10.32.0.5", "reason": "ask anew"}
    router.will_answer({**nothing, "failed": [failed], "clashes": [{**CLASH, "owner": "c"}]})
    result = invoke("ipam", "repair", "--renumber")
    assert (result.exit_code, result.stderr) == (1, "weavepy: c: 10.32.0.5 stays: ask anew\n")
    assert [body for _, body in router.requests] == [
        {"peer": "two", "renumber": False},
        {"peer": "", "renumber": True},
        {"peer": "", "renumber": True},
    ]


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done behind the handing over."""
    done: list[str] = []
    monkeypatch.setattr(ending, "stop_router", lambda _run_dir: done.append("stopped"))
    monkeypatch.setattr(ending, "remove", lambda _state_dir, _run_dir: done.append("removed"))
    return done


def test_reset_leaves_the_addresses_to_others_first(router: ScriptedRouter, removed: list[str]) -> None:
    router.will_answer({"left": 1024, "lost": 0, "name": "02:00:00:00:00:01"})
    result = invoke("reset")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "left 1024 IPs to other hosts\n", "")
    assert router.requests == [("POST /leave", {})]
    assert removed == ["stopped", "removed"]


def test_reset_says_what_nobody_has_taken_and_what_to_do(router: ScriptedRouter, removed: list[str]) -> None:
    router.will_answer({"left": 0, "lost": 512, "name": "02:00:00:00:00:01"})
    result = invoke("reset")
    assert result.exit_code == 0
    assert "512 IPs could not be left to anybody" in result.stderr
    assert "`weavepy rmpeer 02:00:00:00:00:01`" in result.stderr
    assert removed == ["stopped", "removed"]


def test_reset_that_cant_hand_over_removes_nothing_unless_forced(
    router: ScriptedRouter, removed: list[str]
) -> None:
    router.will_answer({"error": "no"}, "400 Bad Request")
    result = invoke("reset")
    assert (result.exit_code, result.stderr) == (
        1,
        "weavepy: no; nothing was removed, --force does it all the same\n",
    )
    assert removed == []
    router.will_answer({"error": "no"}, "400 Bad Request")
    assert invoke("reset", "--force").exit_code == 0
    assert removed == ["stopped", "removed"]


def test_reset_of_a_stopped_router_needs_force(run_dir: Path, removed: list[str]) -> None:
    state = run_dir.parent / "state"
    assert invoke("reset").exit_code == 0  # there is nothing that could be handed over
    state.mkdir()
    (state / "weavepy.db").touch()
    removed.clear()
    result = invoke("reset")
    assert result.exit_code == 3
    assert "start it first (`weavepy launch`), or use --force" in result.stderr
    assert removed == []
    assert invoke("reset", "--force").exit_code == 0
    assert removed == ["stopped", "removed"]
