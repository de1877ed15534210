"""Addresses: how long the allocator takes for one, and a whole `weavepy attach` and `detach` on a host of its own.

Rules of this file. The commands are those that a user types, each a process of its own; the request alone is what a
program that talks to the router waits for, disk included. The thing people get wrong: an attach makes an interface,
which the kernel takes its time for, so containers are made before the clock runs.
"""

import argparse
import itertools
import random
import time
from collections.abc import Callable
from typing import Final

from bench.figures import Figures, timed
from weavepy.client import Client
from weavepy.events import PeerName
from weavepy.ipam.actions import Granted, Request
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.lab.hosts import Lab
from weavepy.lab.probes import launch
from weavepy.wire.ipam import Range

UNIVERSE: Final = Range(0x0A200000, 0x0A280000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=15, help="how often each is measured")
    parser.add_argument(
        "--batch", type=int, default=1000, help="addresses that the allocator gives in one sample"
    )
    parser.add_argument(
        "--containers", type=int, default=20, help="attached one after the other (needs root)"
    )
    parser.add_argument("--json", metavar="F", help="write the samples to this file")


def run(args: argparse.Namespace) -> int:
    """Measures everything, prints the table, and returns the exit code."""
    figures = Figures("addresses")
    _allocator(figures, args.samples, args.batch)
    if args.containers:
        _commands(figures, args.containers)
    figures.write(args.json)
    return 0


def _allocator(figures: Figures, samples: int, batch: int) -> None:
    own = PeerName(1)
    config = AllocatorConfig(own, 1, "host", UNIVERSE, seeds=(own,))
    numbers = itertools.count(1)
    allocators: list[Allocator] = []

    def fresh() -> None:
        allocators.append(
            Allocator(
                config,
                entropy=random.Random(1),
                reachable=lambda _peer: False,
                company=lambda: False,
                expected=lambda: 0,
            )
        )

    def give() -> None:
        for number in itertools.islice(numbers, batch):
            actions = allocators[-1].allocate(Request(number, f"c{number}", UNIVERSE, 12, False, 0.0), 0.0)
            assert any(isinstance(action, Granted) for action in actions)

    seconds = timed(give, samples, before=fresh)
    figures.add(f"allocate from own space, of {batch}", [s / batch * 1e6 for s in seconds], "us")


def _commands(figures: Figures, containers: int) -> None:
    with Lab() as lab:
        host = lab.add_host()
        launch(host, None, "host")
        targets = [lab.add_container(f"c{number}").target for number in range(containers)]
        client = Client(str(host.run_dir))

        def asked(path: str) -> Callable[[str], object]:
            return lambda target: client.post(path, {"target": target, "cidrs": []}, 30.0)

        def typed(command: str) -> Callable[[str], object]:
            return lambda target: host.weavepy(command, target)

        for name, call in (
            ("weavepy attach", typed("attach")),
            ("weavepy detach", typed("detach")),
            ("attach, the request alone", asked("/attach")),
            ("detach, the request alone", asked("/detach")),
        ):
            figures.add(name, [_milliseconds(call, target) for target in targets], "ms")


def _milliseconds(call: Callable[[str], object], target: str) -> float:
    began = time.perf_counter()
    call(target)
    return (time.perf_counter() - began) * 1e3
