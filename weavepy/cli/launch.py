"""`weavepy launch`: starts the router process and says when it is ready, or why it isn't.

Rules of this file. The password goes to the router through a pipe, never as an argument or in its
environment, where others could see it for as long as the router lives. The router gets its options unmerged,
by where they came from, because only it knows the last launch.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, Final

import click
from click.core import ParameterSource

from weavepy import limits
from weavepy.cli import EXIT_TIMED_OUT, CommandError
from weavepy.cli.config import check_keys, read_config, run_dir_option, state_dir_option
from weavepy.errors import LocalError

_DAEMON = (sys.executable, "-P", "-m", "weavepy.daemon")
_PASSWORD_VARIABLES = ("WEAVEPY_PASSWORD", "WEAVE_PASSWORD")
# Flags that say where and how to run, not what the router is.
_NOT_OPTIONS = ("peers", "resume", "state_dir", "run_dir", "foreground", "password_file")


def _env(name: str, *, weave: bool = False) -> list[str]:
    """The variables of a flag; `weave`: Weave Net had it too."""
    return [f"WEAVEPY_{name}", f"WEAVE_{name}"] if weave else [f"WEAVEPY_{name}"]


_UNITS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Takes seconds, or a time as Weave Net's flags have it: 5s, 500ms, 1m."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|)", value)
    if not found:
        raise click.BadParameter(
            f"{value!r} is no time; write seconds, or a number with s, ms or m behind it"
        )
    return float(found[1]) * _UNITS[found[2]]


@click.command()
@click.argument("peers", nargs=-1, metavar="[PEER]...")
@click.option("--resume", is_flag=True, help="Connect to the peers that the router last had.")
@click.option(
    "--password-file", envvar=_env("PASSWORD_FILE"), metavar="FILE", help="File with the network's password."
)
@click.option(
    "--no-encryption", is_flag=True, envvar=_env("NO_ENCRYPTION"), help="Really send everything in clear."
)
@click.option(
    "--cipher", envvar=_env("CIPHER"), help="auto, aes-256-gcm or chacha20-poly1305.  [default: auto]"
)
@click.option(
    "--name", envvar=_env("NAME"), help="Peer name like 02:00:00:00:00:01.  [default: from the host's key]"
)
@click.option("--nickname", envvar=_env("NICKNAME"), help="Name for people.  [default: the host name]")
@click.option(
    "--host", envvar=_env("HOST"), metavar="ADDRESS", help="Listen on this address only.  [default: all]"
)
@click.option("--port", type=int, envvar=_env("PORT", weave=True), help="TCP and UDP port.  [default: 6783]")
@click.option(
    "--mtu", type=int, envvar=_env("MTU", weave=True), help="MTU of the containers' network.  [default: 1376]"
)
@click.option(
    "--no-discovery", is_flag=True, envvar=_env("NO_DISCOVERY"), help="Connect to named peers only."
)
@click.option(
    "--conn-limit", type=int, envvar=_env("CONN_LIMIT"), help="Most connections, 0: no limit.  [default: 200]"
)
@click.option(
    "--trusted-subnets",
    envvar=_env("TRUSTED_SUBNETS"),
    metavar="LIST",
    help="Don't encrypt frames to and from hosts in these, like 10.0.0.0/8,fd00::/8, that say the same.",
)
@click.option(
    "--ipalloc-range",
    envvar=[*_env("IPALLOC_RANGE", weave=True), "IPALLOC_RANGE"],
    metavar="SUBNET",
    help="Give out addresses of this, '' for none.  [default: 10.32.0.0/13]",
)
@click.option(
    "--ipalloc-default-subnet",
    envvar=_env("IPALLOC_DEFAULT_SUBNET", weave=True),
    metavar="SUBNET",
    help="Where addresses come from if nobody says.  [default: the range, 10.32.0.0/12 if none is given]",
)
@click.option(
    "--ipalloc-init",
    envvar=_env("IPALLOC_INIT", weave=True),
    metavar="HOW",
    help="Who divides the range at first: consensus[=NUMBER of peers], seed=PEER,... or observer.  "
    "[default: consensus]",
)
@click.option(
    "--reclaim-after",
    type=int,
    envvar=_env("RECLAIM_AFTER"),
    metavar="SECONDS",
    help="Take over the addresses of hosts that are gone for so long, if most hosts agree; the same on all.  "
    "[default: never]",
)
@click.option(
    "--http-addr", envvar=_env("HTTP_ADDR", weave=True), help="Serve the whole API here too.  [default: off]"
)
@click.option(
    "--status-addr",
    envvar=_env("STATUS_ADDR", weave=True),
    help="Serve status and report here, '' for nowhere.  [default: 127.0.0.1:6782]",
)
@click.option("--no-dns", is_flag=True, envvar=_env("NO_DNS"), help="Answer no questions about names.")
@click.option(
    "--dns-on-host",
    is_flag=True,
    envvar=_env("DNS_ON_HOST"),
    help="Have this host itself resolve the containers' names, by systemd-resolved.",
)
@click.option(
    "--dns-domain",
    envvar=_env("DNS_DOMAIN"),
    metavar="DOMAIN",
    help="Domain of the containers' names, the same on all hosts.  [default: weave.local.]",
)
@click.option(
    "--dns-listen-address",
    envvar=_env("DNS_LISTEN_ADDRESS"),
    metavar="ADDRESS:PORT,...",
    help="Answer questions about names here.  [default: 169.254.67.83:53]",
)
@click.option(
    "--dns-ttl", type=int, envvar=_env("DNS_TTL"), help="Seconds that answers may be kept.  [default: 1]"
)
@click.option(
    "--dns-fallback-timeout",
    callback=_seconds,
    envvar=_env("DNS_FALLBACK_TIMEOUT"),
    metavar="TIME",
    help="Wait for the host's resolvers so long, like 5s or 500ms.  [default: 5s]",
)
@click.option(
    "--resolv-conf",
    envvar=_env("RESOLV_CONF"),
    metavar="FILE",
    help="Ask the resolvers in this about other names.  [default: /etc/resolv.conf]",
)
@click.option(
    "--no-fastpath",
    is_flag=True,
    envvar=[*_env("NO_FASTPATH"), "WEAVE_NO_FASTDP"],
    help="Use Weave Net's sleeve overlay with all peers.",
)
@click.option(
    "--no-offload", envvar=_env("NO_OFFLOAD"), metavar="LIST", help="Of tso,uso,gso,gro,csum; or all."
)
@click.option("--shards", type=int, envvar=_env("SHARDS"), help="Threads that move frames.  [default: 1]")
@click.option("--rekey-interval", type=float, envvar=_env("REKEY_INTERVAL"), hidden=True)
@click.option("--log-level", envvar=_env("LOG_LEVEL"), help="debug, info, warning or error.  [default: info]")
@click.option("--json-logs", is_flag=True, envvar=_env("JSON_LOGS"), help="Log JSON lines.")
@state_dir_option
@run_dir_option
@click.option("--foreground", is_flag=True, help="Run in this process, log to standard error (for systemd).")
@click.pass_context
def launch(ctx: click.Context, /, **_values: object) -> None:
    """Start this host's router, and connect it to PEERs (host or host:port).

    Without flags it starts as it was last launched, and without PEERs (or with --resume) with those it last
    had. Flags can also be given as environment variables (WEAVEPY_PORT, ...) and in
    /etc/weavepy/weavepy.toml (port = 6783).
    """
    request = _request(ctx)
    for name in _PASSWORD_VARIABLES:
        os.environ.pop(name, None)
    if request["foreground"]:
        _become_router(request)
    _start_router(request)


def _request(ctx: click.Context) -> dict[str, Any]:
    """Sorts what was said by where it was said; see `runtime.launch.Launch` for the shape."""
    config = read_config()
    known = {option.lstrip("-") for parameter in ctx.command.params for option in parameter.opts}
    check_keys(config, known - {"peers", "resume", "foreground", "help"})
    request: dict[str, Any] = {key: ctx.params[key] for key in ("state_dir", "run_dir", "foreground")}
    request["peers"] = list(ctx.params["peers"])
    request["resume"] = ctx.params["resume"]
    said: dict[str, dict[str, object]] = {"flags": {}, "environment": {}}
    for key, value in ctx.params.items():
        source = ctx.get_parameter_source(key)
        if key not in _NOT_OPTIONS and source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            said["flags" if source is ParameterSource.COMMANDLINE else "environment"][key] = value
    configured = {key.replace("-", "_"): value for key, value in config.items()}
    path = configured.get("password_file")
    if path is not None and not isinstance(path, str):
        raise LocalError("password-file in the configuration file must be a text")
    request |= said
    request["config"] = {key: value for key, value in configured.items() if key not in _NOT_OPTIONS}
    request |= _password(ctx, path)
    return request


def _password(ctx: click.Context, configured: str | None) -> dict[str, str]:
    """Finds out where the password comes from: a file flag, else a variable, else the configured file."""
    path = ctx.params["password_file"]
    given = next((os.environ[name] for name in _PASSWORD_VARIABLES if os.environ.get(name)), None)
    flagged = ctx.get_parameter_source("password_file") is ParameterSource.COMMANDLINE
    if given is not None and not flagged:
        return {"password": given}
    path = path or configured
    if path and ctx.params["no_encryption"] and not flagged:
        path = None  # a configured file is no contradiction to a flag
    return {"password_file": os.path.abspath(path)} if path else {}


def _become_router(request: dict[str, Any]) -> None:
    descriptor = os.memfd_create("launch")
    os.write(descriptor, json.dumps(request).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.dup2(descriptor, 0)
    os.execv(sys.executable, [*_DAEMON, "run"])


def _start_router(request: dict[str, Any]) -> None:
    """Starts the router detached and waits for its word."""
    import select
    import subprocess
    import tempfile

    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as stderr, os.fdopen(reading, "rb") as answer:
        process = subprocess.Popen(
            [*_DAEMON, "run", "--ready-fd", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(writing,),
            start_new_session=True,
            cwd="/",
        )
        os.close(writing)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died already, and what it said is in the file
        if not select.select([answer], [], [], limits.READY_TIMEOUT_S)[0]:
            process.kill()
            process.wait()
            raise CommandError(
                f"the router was not ready within {limits.READY_TIMEOUT_S:.0f} s and was stopped; "
                f"see {request['run_dir']}/weavepy.log",
                EXIT_TIMED_OUT,
            )
        text = answer.read()
        if not text:
            process.wait()
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
            raise CommandError(
                f"the router broke down at its start:\n{said or f'exit status {process.returncode}'}"
            )
    word = json.loads(text)
    if "error" in word:
        process.wait()
        raise CommandError(word["error"], word["code"])
    process.returncode = 0  # it lives on, and that is what we want
    for warning in word["warnings"]:
        click.echo(f"weavepy: warning: {warning}", err=True)
    click.echo(f"The router is ready (pid {word['pid']}).")
    for note in word["notes"]:
        click.echo(note)
