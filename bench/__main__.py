"""`python -m bench COMMAND`: the benchmarks' command line.

Rules of this file. A command is a module with `add_arguments(parser)` and `run(args) -> int`. What was typed
wrongly ends with 2, what failed with 1, and both say why in one line.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

from weavepy.errors import LocalError, UsageError

COMMANDS: Final = {
    "overlay": "weavepy and other overlays side by side",
    "compare": "what changed between two results of overlay",
    "plot": "draw results of overlay again",
    "fetch": "build the newest peers from their Go modules",
    "micro": "the parts by themselves",
    "scale": "many hosts",
    "dns": "names: answers a second and how long they take, beside other servers",
    "beside": "what answering DNS costs the throughput between containers",
    "addresses": "how long an address takes, and a whole attach",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; see bench/README.md.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        if importlib.util.find_spec(f"bench.{name}") is not None:
            module = importlib.import_module(f"bench.{name}")
            command = commands.add_parser(name, help=purpose, description=purpose)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except LocalError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is left behind", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
