"""The commands against real routers, each in a namespace of its own."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from weavepy.cli.setup import _CAPABILITIES
from weavepy.lab.hosts import Host, Lab

SECRET = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"
WAIT_S = 15.0


@pytest.fixture
def password(lab: Lab) -> str:
    path = lab.directory / "password"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return str(path)


def name_of(host: Host) -> str:
    found = re.search(r"(?<= Name: )[0-9a-f:]+", host.weavepy("status", check=False).stdout)
    assert found is not None
    return found[0]


def until(condition: Callable[[], bool]) -> None:
    """Polls what no event tells us of; fails after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def well(host: Host) -> bool:
    return host.weavepy("status", check=False).returncode == 0


def refused(host: Host, *arguments: str) -> tuple[int, str]:
    done = host.weavepy(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    return done.returncode, done.stderr


# ---- launch


def test_launch_needs_a_password_or_a_word(lab: Lab) -> None:
    host = lab.add_host()
    code, text = refused(host, "launch")
    assert code == 1
    assert "--password-file" in text
    assert "--no-encryption" in text
    assert "warning: encryption is off" in host.weavepy("launch", "--no-encryption").stderr
    status = host.weavepy("status")
    assert "Encryption: disabled" in status.stdout
    assert "Warning: encryption is off" in status.stdout


def test_launching_twice(lab: Lab, password: str) -> None:
    host = lab.add_host()
    host.weavepy("launch", "--password-file", password)
    code, text = refused(host, "launch")
    assert (code, f"already running (pid {host.router_pid()})" in text) == (1, True)
    assert well(host)  # the first one never noticed


def test_a_state_directory_belongs_to_one_router(lab: Lab, password: str) -> None:
    host, other = lab.add_host(), lab.add_host()
    host.weavepy("launch", "--password-file", password)
    code, text = refused(other, "launch", "--password-file", password, "--state-dir", str(host.state_dir))
    assert (code, f"in use by process {host.router_pid()}" in text) == (1, True)
    # What was opened before the refusal is closed again.
    other.weavepy("launch", "--password-file", password)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_is_taken(lab: Lab, password: str, kind: str) -> None:
    host = lab.add_host()
    script = (
        "import socket\n"
        f"s = socket.socket(socket.AF_INET, socket.SOCK_{'STREAM' if kind == 'tcp' else 'DGRAM'})\n"
        "s.bind(('0.0.0.0', 6783))\n"
        f"{'s.listen()' if kind == 'tcp' else ''}\n"
        "print('listening', flush=True)\nimport time; time.sleep(600)"
    )
    with host.running([sys.executable, "-c", script], "listening"):
        code, text = refused(host, "launch", "--password-file", password)
        assert code == 1
        assert f"6783/{kind}" in text
        assert "--port" in text
        host.weavepy("launch", "--password-file", password, "--port", "6790")
    assert '"Port": 6790' in host.weavepy("report").stdout


def test_a_taken_status_address_matters_only_if_it_was_asked_for(lab: Lab, password: str) -> None:
    host = lab.add_host()
    script = (
        "import socket, time\ns = socket.create_server(('127.0.0.1', 6782))\n"
        "print('listening', flush=True); time.sleep(600)"
    )
    with host.running([sys.executable, "-c", script], "listening"):
        code, text = refused(host, "launch", "--password-file", password, "--status-addr", "127.0.0.1:6782")
        assert (code, "--status-addr 127.0.0.1:6782" in text) == (1, True)
        assert "no status over HTTP" in host.weavepy("launch", "--password-file", password).stderr


def test_not_root(lab: Lab) -> None:
    host = lab.add_host()
    done = host.run(
        [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            sys.executable,
            "-P",
            "-m",
            "weavepy.cli",
            "launch",
            "--no-encryption",
        ],
        check=False,
    )
    if "No module named weavepy" in done.stderr or "ermission denied" in done.stderr:
        pytest.skip("the checkout is closed to other users")
    assert done.returncode == 1
    assert "root" in done.stderr


def test_what_makes_no_sense_is_a_usage_error(lab: Lab, password: str) -> None:
    """The unit doesn't try again then: `RestartPreventExitStatus=2`."""
    host = lab.add_host()
    for wrong in (("--port", "0"), ("--host", "myhost"), ("host:99999",), ("--no-encryption",)):
        code, text = refused(host, "launch", "--password-file", password, *wrong)
        assert (code, wrong[0] in text) == (2, True)
    with foreground(host, ["--password-file", password, "--mtu", "1"]) as (process, _notify):
        assert process.wait(WAIT_S) == 2


def test_no_tun_device(lab: Lab) -> None:
    host = lab.add_host()
    script = "mount -t tmpfs none /dev/net && exec " + " ".join([sys.executable, "-m", "weavepy.cli"])
    run, state = str(host.run_dir), str(host.state_dir)
    arguments = f" launch --no-encryption --run-dir {run} --state-dir {state}"
    done = host.run(["unshare", "-m", "sh", "-c", script + arguments], check=False)
    assert done.returncode == 1
    assert "/dev/net/tun" in done.stderr


# ---- the same router again


def test_a_restarted_router_is_the_same(lab: Lab, password: str) -> None:
    one, two = lab.add_host(), lab.add_host()
    one.weavepy("launch", "--password-file", password, "--nickname", "first", "--port", "7000")
    two.weavepy("launch", "--password-file", password, f"{one.address}:7000")
    until(lambda: well(two) and "All well" in two.weavepy("status").stdout)
    name = name_of(one)
    one.weavepy("stop")
    assert one.weavepy("status", check=False).returncode == 3
    one.weavepy("launch")
    assert name_of(one) == name
    report = json.loads(one.weavepy("report").stdout)["Router"]
    assert (report["NickName"], report["Port"], report["Encryption"]) == ("first", 7000, True)
    two.weavepy("stop")
    two.weavepy("launch")
    assert two.weavepy("status", "targets").stdout == f"{one.address}:7000\n"
    until(lambda: "All well" in two.weavepy("status", check=False).stdout)


def test_after_kill_9_a_launch_is_enough(lab: Lab, password: str) -> None:
    host = lab.add_host()
    host.weavepy("launch", "--password-file", password)
    name = name_of(host)
    host.kill_router()
    assert (host.run_dir / "weavepy.pid").exists()
    assert host.weavepy("status", check=False).returncode == 3
    host.weavepy("launch")
    assert name_of(host) == name


def test_a_password_from_the_environment_survives(lab: Lab) -> None:
    host = lab.add_host()
    command = [sys.executable, "-m", "weavepy.cli", "launch"]
    command += ["--run-dir", str(host.run_dir), "--state-dir", str(host.state_dir)]
    host.run(command, env={"WEAVE_PASSWORD": SECRET})
    pid = host.router_pid()
    assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    kept = host.state_dir / "password"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    host.weavepy("stop")
    host.weavepy("launch")
    assert "Encryption: enabled" in host.weavepy("status").stdout
    assert SECRET not in host.weavepy("logs").stdout + host.weavepy("report").stdout
    for path in [*host.run_dir.iterdir(), *host.state_dir.iterdir()]:
        if path != kept and path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


# ---- connect


def test_connect_says_what_happened(lab: Lab, password: str) -> None:
    one, two, clear, other = (lab.add_host() for _ in range(4))
    wrong = lab.directory / "wrong"
    wrong.write_text("Zq8_another-uncommon-secret-771x\n")
    wrong.chmod(0o600)
    one.weavepy("launch", "--password-file", password, "--cipher", "aes-256-gcm")
    two.weavepy("launch", "--password-file", password)
    assert two.weavepy("connect", one.address).stdout == f"{one.address}: connected\n"
    assert "All well: 1 of 1 peers" in two.weavepy("status").stdout

    other.weavepy("launch", "--password-file", str(wrong))
    code, text = refused(other, "connect", one.address)
    assert (code, "wrong password" in text) == (1, True)
    code, text = refused(other, "status")
    assert code == 1

    clear.weavepy("launch", "--no-encryption")
    code, text = refused(clear, "connect", one.address)
    assert (code, "peer has a password" in text) == (1, True)

    clear.weavepy("stop")
    clear.weavepy("launch", "--password-file", password, "--cipher", "chacha20-poly1305")
    assert clear.weavepy("connect", one.address).stdout == f"{one.address}: connected\n"
    lines = clear.weavepy("status", "connections").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith(f"-> {one.address}:6783 "))
    assert "established encrypted   sleeve " in line
    assert "(not fastpath: no cipher of fastpath that both ends list)" in line

    clear.weavepy("stop")
    clear.weavepy("launch", "--name", name_of(one))
    code, text = refused(clear, "connect", one.address)
    assert (code, "name collision" in text) == (1, True)

    code, text = refused(two, "connect", f"{one.address}:1")
    assert (code, "connection refused" in text) == (1, True)
    two.weavepy("forget", f"{one.address}:1")
    done = two.weavepy("connect", two.address)
    assert "this host itself" in done.stdout
    assert "All well: 1 of 1 peers" in two.weavepy("status").stdout
    code, text = refused(two, "forget", "nobody")
    assert (code, "nobody is not a target" in text) == (1, True)


def test_connect_replace(lab: Lab, password: str) -> None:
    host = lab.add_host()
    host.weavepy("launch", "--password-file", password, "10.99.0.200", "10.99.0.201")
    host.weavepy("connect", "--no-wait", "10.99.0.202")
    assert host.weavepy("status", "targets").stdout.split() == ["10.99.0.200", "10.99.0.201", "10.99.0.202"]
    host.weavepy("connect", "--no-wait", "--replace", "10.99.0.203")
    host.weavepy("stop")
    host.weavepy("launch")
    assert host.weavepy("status", "targets").stdout == "10.99.0.203\n"


def test_resume(lab: Lab, password: str) -> None:
    host = lab.add_host()
    host.weavepy("launch", "--password-file", password, "10.99.0.200")
    host.weavepy("connect", "--no-wait", "10.99.0.201")
    host.weavepy("stop")
    code, text = refused(host, "launch", "--resume", "10.99.0.202")
    assert (code, "--resume" in text) == (2, True)
    host.weavepy("launch", "--resume")
    assert host.weavepy("status", "targets").stdout.split() == ["10.99.0.200", "10.99.0.201"]
    host.weavepy("stop")
    host.weavepy("launch", "10.99.0.200")
    assert host.weavepy("status", "targets").stdout.split() == ["10.99.0.200"]


def test_a_unit_with_peers_that_is_killed_comes_back_with_what_was_connected_since(
    lab: Lab, password: str
) -> None:
    one, two = lab.add_host(), lab.add_host()
    two.weavepy("launch", "--password-file", password)
    line = ["--password-file", password, "10.99.0.200", "10.99.0.201"]
    with foreground(one, line) as (process, notify):
        assert notify.recv(100) == b"READY=1"
        one.weavepy("connect", two.address)
        one.weavepy("forget", "10.99.0.201")
        process.kill()
        process.wait()
    (one.directory / "notify").unlink()
    with foreground(one, line) as (process, notify):
        assert notify.recv(100) == b"READY=1"
        assert one.weavepy("status", "targets").stdout.split() == [two.address, "10.99.0.200"]
        until(lambda: "1 established" in one.weavepy("status", check=False).stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_the_connection_limit(lab: Lab, password: str) -> None:
    hub, first, second = (lab.add_host() for _ in range(3))
    hub.weavepy("launch", "--password-file", password, "--conn-limit", "1", "--no-discovery")
    first.weavepy("launch", "--password-file", password, "--no-discovery", hub.address)
    until(lambda: "All well" in first.weavepy("status", check=False).stdout)
    second.weavepy("launch", "--password-file", password, "--no-discovery")
    code, _ = refused(second, "connect", hub.address)
    assert code in (1, 4)
    code, text = refused(hub, "connect", second.address)
    assert (code, "connection limit reached (1)" in text) == (1, True)
    assert "All well" in first.weavepy("status").stdout


# ---- containers


def ping(lab: Lab, container: str, address: str) -> bool:
    command = ["nsenter", f"--net=/run/netns/{lab.name}-{container}", "ping", "-c1", "-W1", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_containers_outlive_stop_and_kill(lab: Lab, password: str) -> None:
    one, two = lab.add_host(), lab.add_host()
    first, second = lab.add_container("c1"), lab.add_container("c2")
    one.weavepy("launch", "--password-file", password)
    two.weavepy("launch", "--password-file", password, one.address)
    assert one.weavepy("attach", "10.32.1.1/24", first.target).stdout == "10.32.1.1\n"
    two.weavepy("attach", "10.32.1.2/24", second.target)
    until(lambda: ping(lab, "c1", "10.32.1.2"))
    one.weavepy("stop")
    assert "10.32.1.1/24" in first.run(["ip", "-o", "addr"]).stdout
    assert not ping(lab, "c1", "10.32.1.2")
    one.weavepy("launch")
    until(lambda: ping(lab, "c1", "10.32.1.2"))
    one.kill_router()
    one.weavepy("launch")
    until(lambda: ping(lab, "c1", "10.32.1.2"))
    until(lambda: len(json.loads(one.weavepy("report").stdout)["Attachments"]) == 1)
    assert one.weavepy("detach", first.target).stdout == "10.32.1.1\n"
    assert "ethwe" not in first.run(["ip", "-o", "link"]).stdout
    assert one.weavepy("detach", first.target).stdout.strip() == ""
    code, text = refused(one, "attach", "10.32.1.1/24", "netns:nowhere")
    assert (code, "nowhere" in text) == (1, True)


def test_reset_leaves_nothing(lab: Lab, password: str) -> None:
    host = lab.add_host()
    container = lab.add_container("c1")
    before = host.run(["ip", "-o", "link"]).stdout.count("\n")
    host.weavepy("launch", "--password-file", password)
    name = name_of(host)
    host.weavepy("attach", "10.32.1.1/24", container.target)
    host.kill_router()  # the worst case: nobody tidied up
    assert "removed" in reset(host, "--force")
    assert host.run(["ip", "-o", "link"]).stdout.count("\n") == before
    assert container.run(["ip", "-o", "link"]).stdout.count("\n") == 1
    assert not host.run_dir.exists()
    assert not host.state_dir.exists()
    assert reset(host) == "there was nothing to remove\n"
    host.weavepy("launch", "--password-file", password)
    assert name_of(host) != name
    assert "removed" in reset(host)  # of a running router: it is stopped first
    assert host.weavepy("status", check=False).returncode == 3


def reset(host: Host, *flags: str) -> str:
    directories = ("--state-dir", str(host.state_dir), "--run-dir", str(host.run_dir))
    return host.weavepy("reset", *directories, *flags).stdout


# ---- systemd


@contextlib.contextmanager
def foreground(
    host: Host, arguments: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Runs `launch --foreground` as the unit would: with the notify socket and the unit's capabilities
    only.
    """
    path = host.directory / "notify"
    capabilities = ",".join("+" + name.removeprefix("CAP_").lower() for name in _CAPABILITIES.split())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(WAIT_S)
        command = ["setpriv", f"--bounding-set=-all,{capabilities}", f"--inh-caps=-all,{capabilities}"]
        command += [sys.executable, "-m", "weavepy.cli", "launch", "--foreground", *arguments]
        command += ["--run-dir", str(host.run_dir), "--state-dir", str(host.state_dir)]
        with subprocess.Popen(
            host.command(command), env={**os.environ, "NOTIFY_SOCKET": str(path)}, stderr=subprocess.PIPE
        ) as process:
            try:
                yield process, notify
            finally:
                process.kill()


def test_the_unit_has_what_it_needs(lab: Lab, password: str) -> None:
    host = lab.add_host()
    container = lab.add_container("c1")
    with foreground(host, ["--password-file", password]) as (process, notify):
        assert notify.recv(100) == b"READY=1"
        assert host.router_pid() == process.pid
        host.weavepy("attach", "10.32.1.1/24", container.target)
        sleeper = subprocess.Popen(container.command(["sleep", "600"]))
        try:
            until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n")
            host.weavepy("attach", "10.32.1.2/24", f"pid:{sleeper.pid}")
        finally:
            sleeper.kill()
            sleeper.wait()
        process.send_signal(signal.SIGTERM)
        assert notify.recv(100) == b"STOPPING=1"
        assert process.wait(WAIT_S) == 0
        assert process.stderr is not None
        assert b"is ready" in process.stderr.read()
    assert not (host.run_dir / "weavepy.pid").exists()


def test_in_the_foreground_a_refusal_is_on_standard_error(lab: Lab) -> None:
    with foreground(lab.add_host(), []) as (process, _notify):
        assert process.wait(WAIT_S) == 1
        assert process.stderr is not None
        assert b"no password given" in process.stderr.read()


# ---- what it costs


def test_an_idle_router_is_small(lab: Lab, password: str) -> None:
    host = lab.add_host()
    host.weavepy("launch", "--password-file", password)
    status = Path(f"/proc/{host.router_pid()}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    assert int(found[1]) < 80 * 1024
    modules = Path(f"/proc/{host.router_pid()}/maps").read_text()
    assert "libcrypto" in modules  # the measure is of the real thing


def test_nobody_inherits_what_the_router_holds(lab: Lab, password: str) -> None:
    """A child that holds the TAP or the lock would block the next start."""
    host = lab.add_host()
    host.weavepy("launch", "--password-file", password)
    descriptors = Path(f"/proc/{host.router_pid()}/fdinfo")
    inherited = [
        entry.name
        for entry in descriptors.iterdir()
        if int(entry.name) > 2 and not int(entry.read_text().split("flags:")[1].split()[0], 8) & os.O_CLOEXEC
    ]
    assert inherited == []
