"""`weavepy capture`: the containers' frames, as they are before they are sealed and after they were opened.

Rules of this file. Nothing is left behind: a file is opened when the router has agreed, the capture ends with this
process however it ends. What is written belongs to root alone, for it is traffic in clear. ^C is how one ends it,
so it isn't a failure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import click

from weavepy.cli import CommandError
from weavepy.cli.config import run_dir_option
from weavepy.cli.frames import FrameReader, PcapWriter, TextWriter, check_scapy
from weavepy.cli.libpcap import compile_filter
from weavepy.client import Client, RouterNotRunningError, Stream
from weavepy.errors import LocalError, UsageError

_SNAPLEN_MAX = 65557  # the longest frame
_LOOK_PERIOD_S = 0.2  # how long ^C may take to be noticed,
_STUCK_S = 2.0  # and how long the output may then take for what it gets still


@click.command()
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option("-w", "--write", "path", metavar="FILE", help="Write a pcap file; - is standard output.")
@click.option(
    "--peer", default="", metavar="PEER", help="Only what comes from, goes to or is relayed for it."
)
@click.option("--direction", type=click.Choice(["in", "out", "relayed"]), help="Only what goes this way.")
@click.option("-c", "--count", type=click.IntRange(1), metavar="N", help="End after N frames.")
@click.option(
    "-s", "--snaplen", type=click.IntRange(0), default=0, metavar="N", help="Octets of each frame; 0: all."
)
@click.option("-v", "--verbose", is_flag=True, help="Show all fields of each frame.")
@run_dir_option
def capture(
    words: tuple[str, ...],
    path: str | None,
    peer: str,
    direction: str | None,
    count: int | None,
    snaplen: int,
    verbose: bool,
    run_dir: str,
) -> None:
    """Show the frames of containers here that go to peers or come from them, and what is relayed.

    They are seen before they are sealed and after they were opened. FILTER is as for tcpdump, for example
    `icmp or tcp port 80`. Ends by ^C, and then says how many frames there were.
    """
    program = compile_filter(" ".join(words))
    if path is None:
        check_scapy()
    elif path == "-" and sys.stdout.isatty():
        raise UsageError("-w - would write octets to the terminal; send them to a file or a program")
    request = {
        "peer": peer,
        "direction": direction or "",
        "snaplen": min(snaplen or _SNAPLEN_MAX, _SNAPLEN_MAX),
        "filter": program.hex(),
    }
    client = Client(run_dir)
    try:
        with (
            _Ended() as ended,
            contextlib.closing(client.stream("/capture", request)) as stream,
            _writer(path, client, verbose) as writer,
        ):
            click.echo("capturing; ^C ends it", err=True)
            _copy(client, stream, writer, count, ended)
    except OSError as error:
        raise CommandError(f"cannot write what was captured: {error.strerror}") from None
    except _StuckError:  # before there was anything to write
        raise CommandError(f"nobody reads {path}") from None


class _StuckError(Exception):
    """Somebody asked us to end, and our output takes nothing more."""


class _Ended:
    """Becomes true when somebody asks us to end. Not an exception, which could cut a frame in two, unless the output
    is stuck; asked twice, we end as anybody would.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Ended:
        self._before = {
            signal.SIGALRM: signal.signal(signal.SIGALRM, self._stuck),
            signal.SIGINT: signal.signal(signal.SIGINT, self._ask),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._ask),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self.done_writing()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def done_writing(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ask(self, number: int, _frame: object) -> None:
        self.asked = True
        signal.signal(number, self._before[number])
        signal.setitimer(signal.ITIMER_REAL, _STUCK_S)

    def _stuck(self, *_: object) -> None:
        raise _StuckError


@contextlib.contextmanager
def _writer(path: str | None, client: Client, verbose: bool) -> Iterator[PcapWriter | TextWriter]:
    if path is None:
        yield TextWriter(sys.stdout, _Labels(client).label, verbose)
    elif path == "-":
        yield PcapWriter(sys.stdout.buffer)
    else:
        with _open_file(path) as file:
            yield PcapWriter(file)


def _open_file(path: str) -> BinaryIO:
    """Opens a file that only we can read, also if it was there before and others could; never one of somebody else,
    who may have laid it there for us to fill.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        there = os.fstat(descriptor)
        if there.st_uid != os.geteuid() and not stat.S_ISCHR(there.st_mode):
            os.close(descriptor)
            raise CommandError(f"cannot write {path}: it is somebody else's, who could read it")
        if stat.S_ISREG(there.st_mode):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
    return os.fdopen(descriptor, "wb")


def _copy(
    client: Client, stream: Stream, writer: PcapWriter | TextWriter, count: int | None, ended: _Ended
) -> None:
    """Copies frames until `count` of them, a signal, or the router's end."""
    reader, captured, lost = FrameReader(), 0, False
    try:
        writer.flush()
        while not ended.asked and captured != count:
            data = stream.recv(_LOOK_PERIOD_S)
            if data == b"":
                lost = True
                break
            for frame in reader.feed(data or b""):
                writer.write(frame)
                captured += 1
                if ended.asked or captured == count:
                    break
            if data:
                writer.flush()
    except (BrokenPipeError, _StuckError):
        # Whoever read our output, `head` perhaps, has enough. Nobody is to find that out once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        ended.done_writing()
        dropped = max(reader.dropped, _dropped(client, stream.headers.get("x-weavepy-capture", "")))
        click.echo(f"{captured} frame{'' if captured == 1 else 's'} captured, {dropped} dropped", err=True)
    if lost:
        raise RouterNotRunningError("the router stopped, and the capture with it; see `weavepy logs`")


def _dropped(client: Client, number: str) -> int:
    """Asks the router for what the last octets from it couldn't tell yet."""
    try:
        captures = client.get("/report").get("Captures", ())
    except LocalError:
        return 0
    return next((int(c["Dropped"]) for c in captures if str(c["Number"]) == number), 0)


class _Labels:
    """How peers are called: by nickname where that is enough, else by name."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._labels: dict[int, str] = {}

    def label(self, peer: int) -> str:
        if peer not in self._labels:
            self._learn()
        return self._labels.setdefault(peer, peer.to_bytes(6, "big").hex(":"))

    def _learn(self) -> None:
        try:
            peers = self._client.get("/report")["Router"]["Peers"] or ()
        except LocalError:
            return
        nicknames = [peer["NickName"] for peer in peers]
        for peer in peers:
            name, nickname = peer["Name"], peer["NickName"]
            clear = nickname.isprintable() and nicknames.count(nickname) == 1
            self._labels[int(name.replace(":", ""), 16)] = nickname if nickname and clear else name
