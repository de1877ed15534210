"""The import contract of docs/architecture.md: imports point left only, and pure packages touch no outside world.

Every module is parsed, not imported, so an import counts wherever it stands: in a function, under TYPE_CHECKING, in
a branch that never runs.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "weavepy"
MODULES = sorted(ROOT.rglob("*.py"))

BASE = {"errors", "limits", "events", "printable", "tokenbucket"}
PURE = {"wire": BASE, "crypto": BASE | {"wire"}}
PURE |= {"mesh": BASE | {"wire", "crypto"}, "switch": BASE | {"wire", "crypto"}}
PURE |= {"ipam": BASE | {"wire"}, "names": BASE | {"wire"}}
PURE |= {"sessions": BASE | {"wire", "crypto", "mesh", "switch"}}
PURE |= {"network": BASE | {"wire", "mesh", "switch"}}
PURE |= {"channels": BASE | {"wire", "mesh", "network", "ipam", "names"}}
PURE |= {"router": PURE["sessions"] | {"sessions", "network", "channels", "ipam", "names"}}
PURE |= {"gotemplate": BASE}
RIM = {"linux": BASE, "store": BASE}
RIM |= {"runtime": BASE | set(PURE) | set(RIM) | {"_fastpath"}}
# What a layer may import besides itself. A module of no layer may import nothing, so a new one has to be put here.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "limits": set(),
    "printable": set(),
    "events": {"errors", "limits"},
    "tokenbucket": set(),
    **PURE,
    **RIM,
    "daemon": BASE | set(PURE) | set(RIM) | {"runtime", "_fastpath"},
    "client": {"errors", "limits"},
    "doctor": {"errors", "limits", "printable", "client", "linux", "runtime.status", "_fastpath"},
    "cli": {
        "errors",
        "limits",
        "printable",
        "client",
        "lab",
        "doctor",
        "crypto.password",
        "gotemplate",
    },  # `demo`, `doctor`, `keygen` and `report -f`
    "lab": {"errors", "limits", "client", "cli"},
}
IMPURE = {
    "asyncio",
    "importlib",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
}
IMPURE |= {"signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "uvloop"}
THIRD_PARTY = {"crypto": {"nacl"}}  # of the pure layers; those of BASE need none either
CALLS_FORBIDDEN = {"open", "print", "input", "__import__", "exec", "eval"}


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Yields the full name of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def violations(path: Path, source: str) -> list[str]:
    """Lists what a module imports or calls against the contract."""
    layer = layer_of(path)
    tree = ast.parse(source)
    pure = layer in PURE or layer in BASE
    found = []
    for name in imports(tree, ["weavepy", *path.relative_to(ROOT).parent.parts]):
        top, _, rest = name.partition(".")
        if top == "weavepy":
            if rest == "__version__":
                continue
            allowed = MAY_IMPORT.get(layer, set()) | {layer}
            if not any(rest == one or rest.startswith(one + ".") for one in allowed):
                found.append(name)
        elif (
            (top == "pyroute2" and layer != "linux")
            or (pure and top in IMPURE)
            or (pure and top not in sys.stdlib_module_names and top not in THIRD_PARTY.get(layer, set()))
        ):
            found.append(name)
    if pure:
        calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        found += [call.id for call in calls if isinstance(call, ast.Name) and call.id in CALLS_FORBIDDEN]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_left_only(path: Path) -> None:
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_belongs_to_a_layer_and_says_what_it_is(path: Path) -> None:
    assert layer_of(path) in MAY_IMPORT
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_tree_was_found() -> None:
    assert {"errors", "limits", "events", "wire", "crypto"} <= {layer_of(path) for path in MODULES}


# The checker itself: what it has to catch, and what it has to let pass.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wire/x.py", "import time"),
        ("wire/x.py", "import os.path"),
        ("wire/x.py", "from socket import socket"),
        ("wire/x.py", "def f():\n    import random"),
        ("wire/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio"),
        ("wire/x.py", "from weavepy import crypto"),
        ("wire/x.py", "from weavepy.crypto.channel import ControlChannel"),
        ("wire/x.py", "from ..mesh import routes"),
        ("wire/x.py", "from .. import router"),
        ("wire/x.py", "import nacl"),
        ("wire/x.py", "open('/etc/passwd')"),
        ("wire/x.py", "from importlib import import_module"),
        ("limits.py", "from weavepy import events"),
        ("events.py", "from weavepy.wire import gob"),
        ("errors.py", "import threading"),
        ("crypto/x.py", "from weavepy.router import Router"),
        ("mesh/x.py", "from weavepy.switch.fastpath import Link"),
        ("switch/x.py", "import weavepy.mesh.routes"),
        ("router.py", "from weavepy.runtime import shell"),
        ("router.py", "from weavepy import _fastpath"),
        ("runtime/x.py", "import pyroute2"),
        ("runtime/x.py", "from weavepy import daemon"),
        ("store.py", "from weavepy.runtime import shell"),
        ("linux/x.py", "from weavepy.router import Router"),
        ("client.py", "from weavepy.runtime import api"),
        ("cli/x.py", "from weavepy.router import Router"),
        ("cli/x.py", "def f():\n    from weavepy.linux import overlay"),
        ("cli/x.py", "from weavepy.crypto.handshake import Handshake"),
        ("cli/x.py", "from weavepy import daemon"),
        ("lab/x.py", "from weavepy.runtime import shell"),
        ("lab/x.py", "from pyroute2 import NetNS"),
        ("unheard_of.py", "from weavepy import errors"),
    ],
)
def test_the_checker_catches(module: str, source: str) -> None:
    assert len(violations(ROOT / module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "wire/x.py",
            "import struct\nfrom weavepy import limits\nfrom weavepy.wire import gob\nfrom . import gob",
        ),
        ("crypto/x.py", "from nacl import bindings\nfrom weavepy.wire.features import Features"),
        ("router.py", "import weavepy.mesh.routes\nfrom weavepy.switch import fastpath"),
        ("runtime/x.py", "import time, socket\nfrom weavepy import _fastpath, __version__"),
        ("linux/x.py", "import os\nfrom pyroute2 import NetNS"),
        ("daemon.py", "from weavepy.linux import overlay\nfrom weavepy.runtime import shell"),
        ("cli/x.py", "from weavepy.client import Client\nfrom weavepy.crypto.password import new_secret"),
        ("lab/x.py", "import subprocess\nfrom weavepy.cli import main"),
    ],
)
def test_the_checker_lets_pass(module: str, source: str) -> None:
    assert violations(ROOT / module, source) == []
