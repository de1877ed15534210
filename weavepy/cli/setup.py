"""`weavepy keygen`, `systemd-unit` and `version`: what one needs before there is a router.

Rules of this file. Everything goes to standard output and nothing is written anywhere, so that the operator
decides where secrets and units live.
"""

from __future__ import annotations

import os
import shutil
import sys

import click

from weavepy import __version__
from weavepy.cli.config import RUN_DIR, STATE_DIR, run_dir_option, state_dir_option

# NET_ADMIN: bridge, TAP, veth. NET_RAW: announcing a container's address. SYS_ADMIN and SYS_PTRACE: entering
# a container's network namespace by its pid. CHOWN: giving the API's socket to the group weavepy.
# DAC_READ_SEARCH: reading the operator's password file. NET_BIND_SERVICE: the port of DNS.
_CAPABILITIES = " ".join(
    f"CAP_{name}"
    for name in [
        "NET_ADMIN",
        "NET_RAW",
        "NET_BIND_SERVICE",
        "SYS_ADMIN",
        "SYS_PTRACE",
        "CHOWN",
        "DAC_READ_SEARCH",
    ]
)

_UNIT = """\
[Unit]
Description=weavepy router: one private, encrypted network for containers on many hosts
After=network.target
Before=docker.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command} launch --foreground{directories}
Restart=always
RestartSec=2
RestartPreventExitStatus=2
TimeoutStopSec=15
LimitNOFILE=16384
CapabilityBoundingSet={capabilities}
NoNewPrivileges=yes
DeviceAllow=/dev/net/tun rw
ProtectKernelModules=yes
ProtectClock=yes
RestrictRealtime=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""


@click.command()
def keygen() -> None:
    """Print a new 256-bit secret, good as the password of a network."""
    import secrets

    from weavepy.crypto.password import SECRET_BYTES, new_secret

    click.echo(new_secret(secrets.token_bytes(SECRET_BYTES)))


@click.command()
@state_dir_option
@run_dir_option
def systemd_unit(state_dir: str, run_dir: str) -> None:
    """Print a unit that starts the router at boot as it was last launched.

    For example: weavepy systemd-unit > /etc/systemd/system/weavepy.service
    """
    directories = ""
    if state_dir != STATE_DIR:
        directories += f" --state-dir {_quoted(state_dir)}"
    if run_dir != RUN_DIR:
        directories += f" --run-dir {_quoted(run_dir)}"
    click.echo(
        _UNIT.format(command=_quoted(_own_path()), directories=directories, capabilities=_CAPABILITIES),
        nl=False,
    )


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"weavepy {__version__}")


def _own_path() -> str:
    """Returns the absolute path of this very command: the one beside our interpreter if there is one."""
    beside = os.path.join(os.path.dirname(sys.executable), "weavepy")
    return beside if os.access(beside, os.X_OK) else shutil.which("weavepy") or os.path.abspath(sys.argv[0])


def _quoted(text: str) -> str:
    """Quotes for a unit file (systemd.syntax(7)); a percent sign would be a specifier there."""
    text = text.replace("%", "%%").replace("$", "$$")
    if any(c in text for c in " \t\"'\\;"):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
