"""The commands with a scripted router behind the socket, and as real processes."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_router import ScriptedRouter, invoke

from weavepy import __version__, client
from weavepy.cli import COMMANDS, REMOVED

HEAVY = (
    "asyncio",
    "aiohttp",
    "uvloop",
    "pyroute2",
    "nacl",
    "ssl",
    "http.client",
    "logging",
    "subprocess",
    "sqlite3",
)


@pytest.mark.usefixtures("run_dir")
@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "peers"),
        ("report",),
        ("connect", "a"),
        ("forget", "a"),
        ("attach", "10.0.0.1/24", "pid:1"),
        ("detach", "pid:1"),
        ("stop",),
        ("prime",),
        ("rmpeer", "a"),
        ("status", "ipam"),
        ("ipam", "check"),
        ("ipam", "repair"),
    ],
)
def test_without_a_router_every_command_says_so_with_3(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 3
    assert "the router is not running" in result.stderr
    assert "weavepy launch" in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("run_dir")
@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("status", "nonsense"),
        ("connect",),
        ("forget",),
        ("attach",),
        ("detach",),
        ("launch", "--nonsense"),
        ("launch", "--port", "x"),
        ("logs", "-n", "-1"),
        ("rmpeer",),
        ("prime", "--timeout", "-1"),
        ("ipam", "nonsense"),
        ("demo", "--hosts", "1"),
    ],
)
def test_usage_errors_are_2(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_every_command_has_help() -> None:
    listed = invoke("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage:")


@pytest.mark.parametrize(("well", "code"), [("yes", 0), ("no", 1)])
def test_status_exits_by_the_verdict(router: ScriptedRouter, well: str, code: int) -> None:
    router.will_answer("All well.\n", headers=f"X-Weavepy-Well: {well}\r\n")
    result = invoke("status")
    assert (result.exit_code, result.stdout) == (code, "All well.\n")
    assert router.requests == [("GET /status", None)]


def test_status_parts_and_report(router: ScriptedRouter) -> None:
    router.will_answer("a\n")
    router.will_answer('{"Ready": true}\n')
    assert invoke("status", "targets").stdout == "a\n"
    assert json.loads(invoke("report").stdout) == {"Ready": True}
    assert [line for line, _ in router.requests] == ["GET /status/targets", "GET /report"]


def test_a_template_picks_from_the_report(router: ScriptedRouter) -> None:
    router.will_answer("a b", headers="Content-Type: text/plain; charset=utf-8\r\n")
    router.will_answer("template, line 1, column 3: no", "400 Bad Request", "Content-Type: text/plain\r\n")
    assert invoke("report", "-f", "{{.A}} & é").stdout == "a b\n"
    result = invoke("report", "--format", "{{.B}}")
    assert (result.exit_code, result.stderr) == (1, "weavepy: template, line 1, column 3: no\n")
    assert [line for line, _ in router.requests] == [
        "GET /report?format=%7B%7B.A%7D%7D%20%26%20%C3%A9",
        "GET /report?format=%7B%7B.B%7D%7D",
    ]


def test_a_template_that_is_none_is_wrong_usage_and_nobody_is_asked(router: ScriptedRouter) -> None:
    result = invoke("report", "-f", "{{.A")
    assert result.exit_code == 2
    assert result.stderr == "weavepy: template, line 1, column 1: {{ without }}\n"
    assert router.requests == []


@pytest.mark.parametrize("name", REMOVED)
def test_commands_that_weave_removed_keep_its_message(name: str) -> None:
    result = invoke(name, "10.2.1.1/24", "-ti", "--name", "x", "ubuntu")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"The '{name}' command has been removed as of Weave Net version 2.0" in result.stderr
    assert f"\n  {name} " not in invoke("--help").stdout


def test_connect_tells_each_peers_fate(router: ScriptedRouter) -> None:
    router.will_answer(
        {
            "results": [
                {"peer": "a", "state": "established", "text": ""},
                {"peer": "b", "state": "failed", "text": "connection refused"},
                {"peer": "c", "state": "connecting", "text": ""},
                {"peer": "d", "state": "pending", "text": ""},
                {"peer": "e", "state": "self", "text": "the address is this router's own"},
            ]
        }
    )
    result = invoke("connect", "--replace", "a", "b", "c", "d", "e")
    assert result.exit_code == 1
    assert result.stdout == "a: connected\ne: is this host itself; nothing to do\n"
    assert result.stderr == (
        "b: connection refused\n"
        "c: not connected after 10 s, still trying\n"
        "d: not connected after 10 s, still trying: the control connection is up, but no frame came through; "
        "is UDP blocked?\n"
    )
    request = {"peers": ["a", "b", "c", "d", "e"], "replace": True, "wait_s": 10.0}
    assert router.requests == [("POST /connect", request)]


@pytest.mark.parametrize(
    ("arguments", "state", "code"),
    [(("a",), "established", 0), (("a",), "connecting", 4), (("--no-wait", "a"), "connecting", 0)],
)
def test_connect_exit_codes(
    router: ScriptedRouter, arguments: tuple[str, ...], state: str, code: int
) -> None:
    router.will_answer({"results": [{"peer": "a", "state": state, "text": ""}]})
    assert invoke("connect", *arguments).exit_code == code


def test_attach_and_detach_print_addresses(router: ScriptedRouter) -> None:
    router.will_answer({"given": ["10.0.0.1/24", "10.0.0.2/24"], "cidrs": ["10.0.0.3/24"]})
    router.will_answer({"removed": ["10.0.0.1/24"]})
    assert invoke("attach", "10.0.0.1/24", "10.0.0.2/24", "pid:1").stdout == "10.0.0.1 10.0.0.2\n"
    assert invoke("detach", "pid:1").stdout == "10.0.0.1\n"
    assert router.requests == [
        ("POST /attach", {"target": "pid:1", "cidrs": ["10.0.0.1/24", "10.0.0.2/24"]}),
        ("POST /detach", {"target": "pid:1", "cidrs": []}),
    ]


@pytest.mark.parametrize(
    ("command", "answer", "page"),
    [
        (("attach", "netns:a/b"), {"given": ["10.0.0.1/24"]}, "GET /ipam/waiting?owner=netns%3Aa%2Fb"),
        (("expose",), {"exposed": ["10.0.0.1/24"]}, "GET /ipam/waiting?owner=weave%3Aexpose"),
    ],
)
def test_what_is_waited_for_is_said_once_while_it_is(
    router: ScriptedRouter,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    answer: dict[str, list[str]],
    page: str,
) -> None:
    monkeypatch.setattr(client, "TURN_S", 0.0)
    router.will_answer(answer, after=5)
    for reason in ("", "the others", "the others", "space"):
        router.will_answer({"waits_for": reason})
    router.will_answer({"error": "no"}, "400 Bad Request")
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (0, "10.0.0.1\n")
    assert result.stderr == "weavepy: waiting for the others\nweavepy: waiting for space\n"
    assert [line for line, _ in router.requests[1:]] == [page] * 5


def test_who_waits_for_an_answer_in_vain_is_told_so(
    router: ScriptedRouter, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TURN_S", 0.0)
    router.will_answer({"late": True}, after=1)
    router.will_answer({})
    asked: list[None] = []
    with pytest.raises(client.RouterTimeoutError, match="didn't answer within 0 s"):
        client.Client(str(run_dir), 0.01).post("/attach", {}, 0.0, lambda: asked.append(None))
    assert asked
    client.Client(str(run_dir)).post("/attach", {})  # and the late answer is for nobody


def test_expose_and_hide_print_addresses_and_warnings_apart(router: ScriptedRouter) -> None:
    router.will_answer({"exposed": ["10.0.0.1/24", "10.0.0.2/24"], "warnings": ["look out"]})
    router.will_answer({"removed": ["10.0.0.1/24"]})
    result = invoke("expose", "--without-masquerade", "ip:10.0.0.1/24", "10.0.0.2/24")
    assert (result.exit_code, result.stdout) == (0, "10.0.0.1 10.0.0.2\n")
    assert result.stderr == "weavepy: warning: look out\n"
    assert invoke("hide").stdout == "10.0.0.1\n"
    assert router.requests == [
        ("POST /expose", {"cidrs": ["ip:10.0.0.1/24", "10.0.0.2/24"], "masquerade": False}),
        ("POST /hide", {"cidrs": []}),
    ]


def test_detach_and_hide_say_that_there_was_nothing_to_take(router: ScriptedRouter) -> None:
    for command, what in (
        (["detach", "pid:1"], "pid:1 had no such address"),
        (["hide"], "no such address was"),
    ):
        router.will_answer({"removed": []})
        result = invoke(*command)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith(f"weavepy: warning: {what}")


def test_ps_lists_the_host_first_and_knows_whom_it_does_not_know(router: ScriptedRouter) -> None:
    report = {
        "Router": {"Name": "02:00:00:00:00:01"},
        "Exposed": [{"Cidr": "10.0.0.9/24", "Masquerade": True}],
        "Attachments": [
            {"Target": "netns:web", "Mac": "02:00:00:00:00:07", "Cidrs": ["10.0.0.1/24", "10.1.0.1/16"]}
        ],
    }
    for _ in range(3):
        router.will_answer(report)
    host, web = (
        "weave:expose 02:00:00:00:00:01 10.0.0.9/24",
        "netns:web 02:00:00:00:00:07 10.0.0.1/24 10.1.0.1/16",
    )
    assert invoke("ps").stdout == f"{host}\n{web}\n"
    assert invoke("ps", "netns:web").stdout == f"{web}\n"
    result = invoke("ps", "netns:web", "netns:db")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "weavepy: netns:db has no addresses here; `weavepy ps` lists who has\n"


def test_a_refusal_is_told_with_1(router: ScriptedRouter) -> None:
    router.will_answer({"error": "a is not a target"}, "400 Bad Request")
    result = invoke("forget", "a")
    assert (result.exit_code, result.stderr) == (1, "weavepy: a is not a target\n")


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense", b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"HTTP/1.0 500 Oops\r\n\r\n"],
)
def test_a_broken_answer_is_told_with_1(router: ScriptedRouter, answer: bytes) -> None:
    router.answers.append(answer)
    result = invoke("status")
    assert result.exit_code == 1
    assert result.stderr.startswith("weavepy: the router ")


def test_a_silent_router_is_4(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weavepy.client.Client.__init__.__defaults__", (0.05,))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(run_dir / "weavepy.sock"))
        silent.listen()
        result = invoke("status")
    assert result.exit_code == 4
    assert "didn't answer" in result.stderr


def test_logs(run_dir: Path) -> None:
    assert invoke("logs").exit_code == 1
    (run_dir / "weavepy.log").write_text("".join(f"line {n}\n" for n in range(200)))
    assert invoke("logs").stdout == "".join(f"line {n}\n" for n in range(100, 200))
    assert invoke("logs", "-n", "1").stdout == "line 199\n"
    assert invoke("logs", "-n", "0").stdout == ""


def _heed_interrupts() -> None:
    """Who runs the tests in the background ignores ^C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_logs_follow_a_rotation(run_dir: Path) -> None:
    path = run_dir / "weavepy.log"
    path.write_text("one\n")
    command = [sys.executable, "-m", "weavepy.cli", "logs", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "one\n"
            with path.open("a") as file:
                file.write("two\n")
            assert process.stdout.readline() == "two\n"
            path.rename(run_dir / "weavepy.log.1")
            path.write_text("three\n")
            assert process.stdout.readline() == "three\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_keygen_and_version() -> None:
    first, second = invoke("keygen").stdout, invoke("keygen").stdout
    assert first != second
    assert len(first.strip()) == 43
    assert invoke("version").stdout == f"weavepy {__version__}\n"


def test_the_unit_starts_the_same_router(run_dir: Path) -> None:
    unit = invoke("systemd-unit").stdout
    assert f"launch --foreground --state-dir {run_dir.parent}/state --run-dir {run_dir}\n" in unit
    assert "Type=notify\n" in unit
    assert "Restart=always\n" in unit
    quoted = invoke("systemd-unit", "--state-dir", "/a b/100%").stdout
    assert '--state-dir "/a b/100%%"' in quoted


@pytest.mark.usefixtures("run_dir")
@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["status"], 3), (["launch", "--help"], 0)])
def test_nothing_slow_is_imported(arguments: list[str], code: int) -> None:
    """The budget of 100 ms is kept by what isn't imported, which a busy machine can't blur."""
    script = (
        "import sys\nfrom weavepy.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: code = end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.split("\n")[-2] == f"[] {code}"


@pytest.mark.usefixtures("run_dir")
def test_exit_codes_of_the_real_command() -> None:
    def code(*arguments: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", "weavepy.cli", *arguments], capture_output=True, check=False
        ).returncode

    assert (code("version"), code("status"), code("nonsense"), code("logs")) == (0, 3, 2, 1)
