"""Where a flag's value comes from when it isn't on the command line: the environment, then the configuration
file.

Rules of this file. A key that the file has and no flag has is a mistake and gets named: a misspelt `cypher`
that is silently ignored would be a security hole. Environment variables are WEAVEPY_*, and WEAVE_* where
Weave Net had one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from weavepy.errors import LocalError, UsageError

CONFIG_FILE = "/etc/weavepy/weavepy.toml"
RUN_DIR = "/run/weavepy"
STATE_DIR = "/var/lib/weavepy"

_F = TypeVar("_F", bound=Callable[..., Any])


def read_config() -> dict[str, object]:
    """Returns the configuration file's keys and values, none if there is no file. WEAVEPY_CONFIG names
    another.
    """
    path = os.environ.get("WEAVEPY_CONFIG", CONFIG_FILE)
    try:
        with open(path, "rb") as file:
            import tomllib  # slow, and mostly there is no file

            return tomllib.load(file)
    except FileNotFoundError:
        if "WEAVEPY_CONFIG" in os.environ:
            raise LocalError(f"there is no configuration file {path}; see WEAVEPY_CONFIG") from None
        return {}
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise LocalError(f"{path}: {error}") from None


def check_keys(config: Collection[str], known: Collection[str]) -> None:
    """Refuses a key that isn't the long name of a flag of `launch`."""
    if unknown := sorted(set(config) - set(known)):
        path = os.environ.get("WEAVEPY_CONFIG", CONFIG_FILE)
        raise UsageError(
            f"{path}: unknown key {unknown[0]!r}; the keys are the long flags of `weavepy launch`"
        )


def directory(value: str | None, key: str, default: str) -> str:
    """Returns an absolute directory: the flag or environment `value`, else the configuration's `key`, else
    default.
    """
    if value is None:
        configured = read_config().get(key, default)
        if not isinstance(configured, str):
            raise LocalError(f"{key} in the configuration file must be a text")
        value = configured
    return os.path.abspath(value)


def run_dir_option(command: _F) -> _F:
    """Adds --run-dir, which tells routers on one machine apart."""
    return click.option(
        "--run-dir",
        envvar="WEAVEPY_RUN_DIR",
        callback=lambda _ctx, _param, value: directory(value, "run-dir", RUN_DIR),
        help=f"Directory of the router's socket, pid and log.  [default: {RUN_DIR}]",
    )(command)


def state_dir_option(command: _F) -> _F:
    """Adds --state-dir, where identity and options are kept."""
    return click.option(
        "--state-dir",
        envvar="WEAVEPY_STATE_DIR",
        callback=lambda _ctx, _param, value: directory(value, "state-dir", STATE_DIR),
        help=f"Directory of what survives a restart.  [default: {STATE_DIR}]",
    )(command)
