"""`fetch`: the newest wireguard-go, Tailscale's fork of it and nebula, built from their Go modules.

Rules of this file. Only the ordinary `go` client is asked, for modules by name. The easy mistake: the newest
version may need a newer Go than this machine has; then the newest that does build is taken, and said.
"""

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError
from weavepy.lab.spaces import run_command

PEERS_DIR: Final = Path(__file__).parents[1] / "build" / "peers"
_BUILD_WITHIN_S: Final = 600.0
_VERSIONS_TRIED: Final = 6


@dataclass(frozen=True, slots=True)
class Build:
    """A module, the commands in it, and what its main program is called once built."""

    kind: str
    module: str
    commands: tuple[str, ...]
    program: str
    pinned_by: str | None = None  # the module that names the version, where tags and branches don't


BUILDS: Final = {
    "wireguard-go-latest": Build("wireguard-go", "golang.zx2c4.com/wireguard", ("",), "wireguard"),
    "wireguard-go-tailscale": Build(
        "wireguard-go", "github.com/tailscale/wireguard-go", ("",), "wireguard-go", "tailscale.com"
    ),
    "nebula-latest": Build(
        "nebula", "github.com/slackhq/nebula", ("/cmd/nebula", "/cmd/nebula-cert"), "nebula"
    ),
}


def built(directory: Path) -> dict[str, str | None]:
    """Returns the path of each build's program, None for those that aren't there."""
    paths = {name: directory / name / build.program for name, build in BUILDS.items()}
    return {name: str(path) if path.exists() else None for name, path in paths.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", type=Path, default=PEERS_DIR, help="where to put them  [default: build/peers]"
    )
    parser.add_argument("--if-go", action="store_true", help="without Go, do nothing, successfully")


def run(args: argparse.Namespace) -> int:
    if shutil.which("go") is None:
        if args.if_go:
            print("no Go here: the newest wireguard-go and nebula are left out")
            return 0
        raise LocalError("fetch builds by Go, which isn't installed: see https://go.dev/dl/")
    failed = 0
    for name, build in BUILDS.items():
        try:
            print(f"{name}: {_install(build, args.dir.resolve() / name)}", flush=True)
        except LocalError as error:
            failed += 1
            print(f"{name}: not built: {error}", flush=True)
    return 1 if failed and not args.if_go else 0


def _install(build: Build, directory: Path) -> str:
    refused = ""
    for version in _versions(build):
        packages = [f"{build.module}{command}@{version}" for command in build.commands]
        env = {**os.environ, "GOBIN": str(directory)}
        with tempfile.TemporaryDirectory() as elsewhere:  # a go.mod around us has no say
            argv = ["go", "-C", elsewhere, "install", *packages]
            done = run_command(argv, check=False, timeout_s=_BUILD_WITHIN_S, env=env)
        if done.returncode == 0:
            return f"{build.module} {version}{refused}"
        refused = refused or f" (not {version}: {done.stderr.strip().splitlines()[-1]})"
    raise LocalError(f"go can't build {build.module}{refused}")


def _versions(build: Build) -> Iterator[str]:
    """Yields versions to try, the newest first."""
    if build.pinned_by is not None:
        with tempfile.TemporaryDirectory() as elsewhere:
            argv = ["go", "-C", elsewhere, "list", "-m", "-f", "{{.GoMod}}", f"{build.pinned_by}@latest"]
            go_mod = Path(run_command(argv, timeout_s=_BUILD_WITHIN_S).stdout.strip()).read_text()
        match = re.search(rf"^\s*(?:require )?{re.escape(build.module)} (\S+)", go_mod, re.MULTILINE)
        if match is None:
            raise LocalError(f"{build.pinned_by} no longer requires {build.module}")
        yield match[1]
        return
    yield "latest"
    with tempfile.TemporaryDirectory() as elsewhere:
        argv = ["go", "-C", elsewhere, "list", "-m", "-versions", build.module]
        listed = run_command(argv, timeout_s=_BUILD_WITHIN_S).stdout.split()[1:]
    yield from listed[::-1][1:_VERSIONS_TRIED]  # the last one listed is the latest
