"""Every command in the README and in docs/operating.md is run, in order, on hosts of a lab."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from roads import time_until_reached, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.traffic import ping

ROOT = Path(__file__).parent.parent.parent


def commands(document: str) -> list[str]:
    """The lines of the indented code blocks, also of those in lists."""
    lines = (ROOT / document).read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("    ") and line.strip()]


def run(host: Host, line: str, names: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    for name, meant in names.items():
        line = re.sub(rf"\b{name}\b(?!\.)", meant, line)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WEAVE_", "WEAVEPY_"))} | {
        "PATH": f"{directory}/bin:{os.environ['PATH']}",
        "WEAVEPY_RUN_DIR": str(host.run_dir),
        "WEAVEPY_STATE_DIR": str(host.state_dir),
        "WEAVEPY_CONFIG": os.devnull,
    }
    shell = ["sh", "-ec", f"cd {directory}; {line}"]
    return host.run(shell, check=False, env=env)


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Path:
    """A directory with a `weavepy` on its path."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "weavepy"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m weavepy.cli "$@"\n')
    script.chmod(0o755)
    for _ in range(2):
        lab.add_host()
    return tmp_path


def test_readme(lab: Lab, place: Path) -> None:
    web, db = lab.add_container("web"), lab.add_container("db")
    names = {"host1": lab.hosts[0].address, "web": web.name, "db": db.name}
    lines = [line for line in commands("README.md") if line.startswith("weavepy ")]
    assert len(lines) == 5
    printed = []
    for line in lines:
        command, _, comment = line.partition("#")
        host = lab.hosts[1] if comment.strip().startswith("host2") else lab.hosts[0]
        done = run(host, command, names, place)
        assert done.returncode == 0, (line, done.stderr)
        printed.append(done.stdout.strip())
    assert ping(web, printed[-1]).complete


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in ("README.md", "CONTRIBUTING.md", "bench/README.md"):
        for line in commands(document):
            if line.startswith("make "):
                assert re.search(rf"^(\.PHONY:.* )?{line.split()[1]}\b.*:", makefile, re.MULTILINE), line


def test_operating(lab: Lab, place: Path) -> None:
    web, db = lab.add_container("web"), lab.add_container("db")
    names = {"host2": lab.hosts[1].address, "web": web.name}
    first, second = lab.hosts
    lines = commands("docs/operating.md")
    assert sum(line.startswith("weavepy ") for line in lines) >= 15
    for line in lines:
        if line.startswith("weavepy capture"):
            done = run_beside_ping(lab, web, db, line, place)
        else:
            done = run(first, line, names, place)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if line.startswith("weavepy launch --password-file"):
            assert run(second, line.replace("host1", "host2"), {}, place).returncode == 0
        elif line.startswith("tcpdump -nn -r"):
            assert "ICMP echo" in done.stdout
    assert not first.state_dir.exists() or not any(first.state_dir.iterdir())
    run(second, "weavepy reset", names, place)
    shutil.rmtree(place, ignore_errors=True)


def run_beside_ping(
    lab: Lab, web: Space, db: Space, line: str, place: Path
) -> subprocess.CompletedProcess[str]:
    """Runs a line on the first host while its container pings the second's; host2 is a nickname in it."""
    for number, (host, container) in enumerate(zip(lab.hosts, (web, db), strict=True), start=1):
        run(host, f"weavepy attach 10.32.1.{number}/24 {container.target}", {}, place)
    with web.running(["ping", "-i", "0.2", "10.32.1.2"], "bytes from"):
        return run(lab.hosts[0], line, {}, place)


def test_migrating_from_weave(lab: Lab, place: Path) -> None:
    """With a bridge and a container as Weave Net leaves them behind on the host that changes over."""
    first, second = lab.hosts
    old, web, far = (lab.add_container(name) for name in ("old", "web", "far"))
    lines = commands("docs/migrating-from-weave.md")
    assert len(lines) == 6
    assert all(line.startswith("weavepy ") for line in lines)
    secret = place / "secret.key"
    secret.write_text("kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4\n")
    secret.chmod(0o600)
    # As others see it, this one may be Weave Net's.
    first.weavepy("launch", "--password-file", str(secret), "--no-fastpath")
    first.weavepy("attach", "10.32.0.9/12", far.target)
    run_ip(
        second.name,
        "link add weave mtu 1376 type bridge",
        f"link add vethwepl123 mtu 1376 type veth peer name ethwe mtu 1376 netns {old.name}",
        "link set vethwepl123 master weave up",
        "link set weave up",
    )
    run_ip(old.name, "addr add 10.32.0.5/12 dev ethwe", "link set ethwe up")
    names = {"host1": first.address, "web": web.name}
    given = ""
    for line in lines:
        if line == "weavepy reset":
            time_until_reached(old, "10.32.0.9")
            assert ping(web, "10.32.0.9").complete
            assert ping(old, given).complete
        done = run(second, line, names, place)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "launch" in line:
            wait_for_links(second, 1)
            claim = f"curl -sf --unix-socket {second.run_dir}/weavepy.sock -X PUT http://localhost/ip/old/10.32.0.5/12"
            assert run(second, claim, {}, place).returncode == 0
        if "attach" in line:
            given = done.stdout.strip()
    assert "vethwepl123" in second.run(["ip", "-o", "link"]).stdout  # what was Weave Net's is there for it
    assert "weave:" in second.run(["ip", "-o", "link"]).stdout
    assert "ethwe" not in web.run(["ip", "-o", "link"]).stdout
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize(
    "document",
    ["README.md", "bench/README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))],
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        assert (ROOT / document).parent.joinpath(target).exists(), target
