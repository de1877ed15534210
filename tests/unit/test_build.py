"""What setup.py says when the machine lacks something to build with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "setup.py"

# Runs setup.py as a machine would see it on which some files aren't there.
SCRIPT = """
import pathlib, runpy, sys
lacking, sys.argv = sys.argv[1].split(","), ["setup.py", "build_ext"]
exists = pathlib.Path.exists
pathlib.Path.exists = lambda path: path.name not in lacking and exists(path)
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("lacking", "package"),
    [
        ("evp.h", "libssl-dev"),
        ("virtio_net.h", "linux-libc-dev"),
        ("stdlib.h", "libc6-dev"),
        ("Python.h", "python3-dev"),
        ("evp.h,Python.h", "libssl-dev python3-dev"),
    ],
)
def test_a_missing_header_is_named_by_its_package(lacking: str, package: str) -> None:
    done = build(lacking)
    assert done.returncode == 1
    assert done.stderr == f"weavepy: to build the data path, first run: apt-get install {package}\n"


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    done = build("nothing", PATH=str(tmp_path))
    assert (done.returncode, done.stderr.split()[-1]) == (1, "gcc")


def build(lacking: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, lacking],
        cwd=SETUP.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
