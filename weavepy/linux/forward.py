"""The one thing of ours in other people's chains: ACCEPT rules in iptables' FORWARD where its policy is DROP.

Rules of this file. Docker sets that policy, and then bridged frames are cut (where bridges call iptables), and what is
routed from and to exposed subnets. Of a chain we read its policy and the rules that carry our comment, and nothing
else. They are appended: whatever an administrator drops on purpose stays dropped. The easy mistake: to ask iptables
loads its module and makes its tables, so whether there are any is asked first, of somebody else.
"""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux.firewall import Exposure
from weavepy.linux.programs import find_program, run_program
from weavepy.linux.rtnl import BRIDGE

_MARK: Final = ["-m", "comment", "--comment", "weavepy", "-j", "ACCEPT"]
_CHAIN: Final = "FORWARD"


def keep_forwarding(exposures: Sequence[Exposure]) -> bool:
    """Adds and removes rules of ours so that they are those that are needed; returns whether any wasn't."""
    changed = False
    for program, family in _programs():
        listed = run_program([program, "-w", "2", "-S", _CHAIN])
        dropping, present = read_chain(listed)
        bridged = _bridges_call(family)
        wanted = wanted_rules(exposures if family == "ip" else (), bridged=bridged) if dropping else []
        changed |= _change(program, present, wanted)
    return changed


def remove_forwarding() -> list[str]:
    """Removes all our rules and returns the names of the chains that had some."""
    removed = []
    for program, _ in _programs():
        with contextlib.suppress(LocalError):
            _, present = read_chain(run_program([program, "-w", "2", "-S", _CHAIN]))
            if _change(program, present, []):
                removed.append(f"{program} {_CHAIN}")
    return removed


def read_chain(listed: str) -> tuple[bool, list[list[str]]]:
    """Returns (whether the policy drops, our rules) of what `iptables -S FORWARD` says."""
    lines = listed.splitlines()
    ours = [shlex.split(line)[2:] for line in lines if line.startswith("-A ") and "weavepy" in line]
    return f"-P {_CHAIN} DROP" in lines, [rule for rule in ours if rule[-len(_MARK) :] == _MARK]


def wanted_rules(exposures: Sequence[Exposure], *, bridged: bool) -> list[list[str]]:
    """Returns the rules that let pass what the overlay needs, written as iptables lists them."""
    rules = [["-i", BRIDGE, "-o", BRIDGE]] if bridged else []
    for subnet in sorted({exposure.subnet for exposure in exposures}):
        rules += [["-s", subnet, "-i", BRIDGE], ["-d", subnet, "-o", BRIDGE]]
    return [[*rule, *_MARK] for rule in rules]


def _change(program: str, present: list[list[str]], wanted: list[list[str]]) -> bool:
    for number, rule in enumerate(present):
        if rule not in wanted or rule in present[:number]:
            run_program([program, "-w", "2", "-D", _CHAIN, *rule])
    for rule in wanted:
        if rule not in present:
            run_program([program, "-w", "2", "-A", _CHAIN, *rule])
    return sorted(present) != sorted(wanted)


def _programs() -> Iterator[tuple[str, str]]:
    """Yields (program, family) of each iptables that has a FORWARD chain here."""
    for family, program in (("ip", "iptables"), ("ip6", "ip6tables")):
        names = Path(f"/proc/net/{family}_tables_names")
        with contextlib.suppress(OSError):
            if "filter" in names.read_text().split() and find_program(f"{program}-legacy"):
                yield f"{program}-legacy", family
        with contextlib.suppress(LocalError):
            run_program(["nft", "list", "chain", family, "filter", _CHAIN])  # only whether it is there
            if find_program(f"{program}-nft"):
                yield f"{program}-nft", family


def _bridges_call(family: str) -> bool:
    name = "bridge-nf-call-iptables" if family == "ip" else "bridge-nf-call-ip6tables"
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/bridge", name).read_text().strip() == "1"
    return False
