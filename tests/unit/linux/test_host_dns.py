"""What this host's own resolver is told, and what the operator is told where there is none."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from weavepy.linux import hostdns
from weavepy.linux.hostdns import forget_on_host, resolve_on_host

ADDRESS = ("169.254.67.83", 53)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is run instead of resolvectl; "domain" fails if it is for foo.bar."""
    ran: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> Any:
        ran.append(argv)
        if argv[-1] == "~slow":
            raise subprocess.TimeoutExpired(argv, 5)
        return SimpleNamespace(
            returncode=argv[-1] == "~foo.bar", stderr="one\nno bus\n" if "~" in argv[-1] else ""
        )

    monkeypatch.setattr(hostdns.subprocess, "run", run)
    monkeypatch.setattr(hostdns.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(hostdns, "_RUNS", tmp_path)
    return ran


def test_systemd_resolved_is_told_about_the_bridge(commands: list[list[str]]) -> None:
    text = "This host resolves weave.local too, by systemd-resolved."
    assert resolve_on_host(ADDRESS, "weave.local.") == (True, text)
    assert resolve_on_host((ADDRESS[0], 5353), "a.")[0]
    forget_on_host()
    assert commands == [
        ["resolvectl", "dns", "weave", "169.254.67.83"],
        ["resolvectl", "domain", "weave", "~weave.local"],
        ["resolvectl", "dns", "weave", "169.254.67.83:5353"],
        ["resolvectl", "domain", "weave", "~a"],
        ["resolvectl", "revert", "weave"],
    ]


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(("domain", "why"), [("foo.bar.", "failed: no bus; "), ("slow.", "timed out")])
def test_what_fails_is_said_with_another_way(domain: str, why: str) -> None:
    done, note = resolve_on_host(ADDRESS, domain)
    assert not done
    assert note.startswith("--dns-on-host: resolvectl domain weave ~")
    assert why in note
    assert f"server=/{domain[:-1]}/169.254.67.83" in note


@pytest.mark.parametrize(
    ("address", "server", "dnsmasq"),
    [
        (("10.0.0.1", 53), "10.0.0.1", "10.0.0.1"),
        (("127.0.0.1", 5353), "127.0.0.1:5353", "127.0.0.1#5353"),
        (("::1", 5353), "[::1]:5353", "::1#5353"),
    ],
)
def test_it_is_told_nothing_that_it_cannot_ask_by_the_bridge(
    commands: list[list[str]], address: tuple[str, int], server: str, dnsmasq: str
) -> None:
    done, note = resolve_on_host(address, "weave.local.")
    assert not done
    assert f"can't ask {server} by the bridge; have 169.254.67.83:53 in --dns-listen-address" in note
    assert note.endswith(f"server=/weave.local/{dnsmasq}")
    assert commands == []


def test_a_host_without_it_is_told_what_to_do(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostdns, "_RUNS", Path("/nonexistent"))
    done, note = resolve_on_host(("10.0.0.1", 5353), "weave.local.")
    assert not done
    assert "tell this host's resolver yourself to ask 10.0.0.1:5353 about weave.local" in note
    assert note.endswith("server=/weave.local/10.0.0.1#5353")
    forget_on_host()
    assert commands == []
