"""What `weavepy launch` tells the router process: every option by where it came from, and secrets by a pipe
only.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from weavepy.cli import launch as module
from weavepy.cli import main
from weavepy.runtime.launch import Launch
from weavepy.runtime.options import LaunchOptions, options_from_json

SECRET = "kJ8-2vXq_9sLw0zRt7"


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Collects requests instead of starting routers."""
    collected: list[dict[str, Any]] = []
    for name in [name for name in os.environ if name.startswith(("WEAVE_", "WEAVEPY_", "IPALLOC_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "weavepy.toml").write_text("")
    monkeypatch.setenv("WEAVEPY_CONFIG", str(tmp_path / "weavepy.toml"))
    monkeypatch.setattr(module, "_start_router", collected.append)
    return collected


def launch(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["launch", *arguments])
    assert result.exit_code == code, result.output
    return result


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "weavepy.toml").write_text(text)


def test_said_nothing_asks_nothing(requests: list[dict[str, Any]]) -> None:
    launch()
    assert requests == [
        {
            "state_dir": "/var/lib/weavepy",
            "run_dir": "/run/weavepy",
            "foreground": False,
            "peers": [],
            "resume": False,
            "flags": {},
            "environment": {},
            "config": {},
        }
    ]


def test_each_source_is_kept_apart(
    requests: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, 'port = 1\nmtu = 1300\nno-discovery = true\nstate-dir = "/s"\n')
    monkeypatch.setenv("WEAVE_PORT", "2")
    monkeypatch.setenv("WEAVEPY_SHARDS", "2")
    launch("--port", "3", "--status-addr", "", "--run-dir", "relative", "one", "two:7")
    (request,) = requests
    assert request["flags"] == {"port": 3, "status_addr": ""}
    assert request["environment"] == {"shards": 2}
    assert request["config"] == {"port": 1, "mtu": 1300, "no_discovery": True}
    assert request["state_dir"] == "/s"
    assert request["run_dir"] == os.path.abspath("relative")
    assert request["peers"] == ["one", "two:7"]


@pytest.mark.parametrize("variable", ["IPALLOC_RANGE", "WEAVE_IPALLOC_RANGE", "WEAVEPY_IPALLOC_RANGE"])
def test_the_range_by_the_names_that_weaves_plugin_and_addon_gave_it(
    requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "10.192.0.0/12")
    launch()
    assert requests[0]["environment"] == {"ipalloc_range": "10.192.0.0/12"}


def test_our_variable_wins_over_weaves(
    requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAVE_MTU", "1300")
    monkeypatch.setenv("WEAVEPY_MTU", "1400")
    monkeypatch.setenv("WEAVEPY_NO_DISCOVERY", "1")
    launch()
    assert requests[0]["environment"] == {"mtu": 1400, "no_discovery": True}


def test_every_option_is_understood_by_the_router(requests: list[dict[str, Any]]) -> None:
    """One flag per option and one option per flag: neither side knows something that the other doesn't."""
    said = {
        "cipher": "auto",
        "name": "02:00:00:00:00:01",
        "nickname": "n",
        "host": "10.0.0.1",
        "port": "7000",
        "mtu": "1400",
        "conn_limit": "5",
        "trusted_subnets": "10.0.0.0/8",
        "ipalloc_range": "10.1.0.0/16",
        "ipalloc_default_subnet": "10.1.2.0/24",
        "ipalloc_init": "consensus=3",
        "reclaim_after": "600",
        "dns_domain": "foo.bar",
        "dns_listen_address": "127.0.0.1:53",
        "dns_ttl": "30",
        "dns_fallback_timeout": "2.5s",
        "resolv_conf": "/r",
        "http_addr": "127.0.0.1:1",
        "status_addr": "127.0.0.1:2",
        "no_offload": "tso",
        "shards": "2",
        "rekey_interval": "5",
        "log_level": "debug",
    }
    switches = ["no_encryption", "no_discovery", "no_dns", "dns_on_host", "no_fastpath", "json_logs"]
    arguments = [f"--{name.replace('_', '-')}" for name in switches]
    for name, value in said.items():
        arguments += [f"--{name.replace('_', '-')}", value]
    launch(*arguments)
    flags = requests[0]["flags"]
    options = options_from_json({**flags, "no_dns": False})  # which --dns-on-host contradicts
    assert set(flags) == set(LaunchOptions.__slots__)
    times = {"rekey_interval": 5.0, "dns_fallback_timeout": 2.5}
    assert {name: getattr(options, name) for name in times} == times
    assert {name: str(getattr(options, name)) for name in said.keys() - times} == {
        name: value for name, value in said.items() if name not in times
    }
    assert all(getattr(options, name) for name in switches if name != "no_dns")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("1m", 60.0), ("3", 3.0), ("0.5", 0.5)]
)
def test_times_as_weave_net_has_them(requests: list[dict[str, Any]], text: str, seconds: float) -> None:
    launch("--dns-fallback-timeout", text)
    assert requests[0]["flags"] == {"dns_fallback_timeout": pytest.approx(seconds)}


@pytest.mark.parametrize("text", ["5x", "", "-1s", "1h", "s", "٣s", "1e3", "nan"])
def test_a_time_that_is_none_is_refused(requests: list[dict[str, Any]], text: str) -> None:
    assert "write seconds" in launch("--dns-fallback-timeout", text, code=2).stderr
    assert requests == []


@pytest.mark.parametrize("key", ["cypher", "no_discovery", "peers", "resume", "foreground", "help"])
def test_an_unknown_key_is_named(requests: list[dict[str, Any]], tmp_path: Path, key: str) -> None:
    configure(tmp_path, f"{key} = 1\n")
    result = launch(code=2)
    assert f"unknown key '{key}'" in result.stderr
    assert requests == []


def test_broken_and_missing_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, "port = = 1\n")
    assert "weavepy.toml" in launch(code=1).stderr
    monkeypatch.setenv("WEAVEPY_CONFIG", str(tmp_path / "gone"))
    assert "no configuration file" in launch(code=1).stderr
    assert CliRunner().invoke(main, ["status"]).exit_code == 1


@pytest.mark.parametrize("variable", ["WEAVEPY_PASSWORD", "WEAVE_PASSWORD"])
def test_a_password_leaves_the_environment(
    requests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, SECRET)
    result = launch()
    assert requests[0]["password"] == SECRET
    assert variable not in os.environ
    assert SECRET not in result.output


def test_which_password_counts(
    requests: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, 'password-file = "/configured"\n')
    launch()
    monkeypatch.setenv("WEAVEPY_PASSWORD", SECRET)
    launch()
    monkeypatch.setenv("WEAVEPY_PASSWORD", SECRET)
    launch("--password-file", "relative")
    monkeypatch.delenv("WEAVEPY_PASSWORD", raising=False)
    launch("--no-encryption")
    said = [{key: r[key] for key in ("password", "password_file") if key in r} for r in requests]
    assert said == [
        {"password_file": "/configured"},
        {"password": SECRET},
        {"password_file": os.path.abspath("relative")},
        {},
    ]


def test_the_router_takes_the_request_as_it_is(requests: list[dict[str, Any]]) -> None:
    launch("--port", "7000", "--password-file", "/p", "one")
    Launch(**requests[0])


def test_in_the_foreground_the_secret_goes_by_a_descriptor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the new program's arguments nor its environment hold the password."""
    executed: list[tuple[str, list[str], str]] = []

    def execute(path: str, arguments: list[str]) -> None:
        given = os.pread(dup2_target, 65536, 0).decode()
        executed.append((path, arguments, given))
        raise SystemExit(0)

    dup2_target = os.open(tmp_path / "stdin", os.O_RDWR | os.O_CREAT)
    real_dup2 = os.dup2
    monkeypatch.setattr(os, "dup2", lambda source, _target: real_dup2(source, dup2_target))
    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.setenv("WEAVEPY_PASSWORD", SECRET)
    launch("--foreground")
    os.close(dup2_target)
    ((path, arguments, given),) = executed
    assert path == sys.executable
    assert SECRET not in "".join(arguments) + "".join(os.environ.values())
    assert json.loads(given)["password"] == SECRET
