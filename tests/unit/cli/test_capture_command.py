"""`weavepy capture` with a scripted router: what it asks for, shows and writes, and how it ends."""

import builtins
import io
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import RawPcapReader, rdpcap
from scripted_router import ScriptedRouter

from weavepy.cli import main
from weavepy.cli.frames import Frame, FrameReader, PcapWriter, TextWriter
from weavepy.cli.libpcap import compile_filter
from weavepy.errors import UsageError

SELF, TWO, THREE, STRANGER = 0x02_00_00_00_00_01, 0x02_00_00_00_00_02, 0x02_00_00_00_00_03, 0x0266
OUT, IN, RELAYED, COUNTS = 0, 1, 2, 255
SECOND = 1_000_000_000
HEAD = b"HTTP/1.0 200 OK\r\nX-Weavepy-Capture: 7\r\nConnection: close\r\n\r\n"
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PING = bytes(ETHER / IP(src="10.32.1.1", dst="10.32.1.2") / ICMP() / Raw(bytes(56)))
ASK = bytes(ETHER / ARP(psrc="10.32.1.1", pdst="10.32.1.2"))
WAIT_S = 20


def copy(octets=b"", *, at=0, source=SELF, destination=TWO, length=None, direction=OUT, gso=(0, 0)):
    """A frame as the router delivers it."""
    length = len(octets) if length is None else length
    header = (at, source, destination, length, len(octets), direction, 0, gso[0], 0, gso[1], 0, 0)
    return struct.pack("=QQQIIBxBBHHHH4x", *header) + octets


def counts(captured, dropped):
    return copy(source=captured, destination=dropped, direction=COUNTS)


def report(dropped=None):
    peers = [
        {"Name": "02:00:00:00:00:01", "NickName": "one"},
        {"Name": "02:00:00:00:00:02", "NickName": "two"},
        {"Name": "02:00:00:00:00:03", "NickName": "th\x1b[31mree"},
        {"Name": "02:00:00:00:00:04", "NickName": "twins"},
        {"Name": "02:00:00:00:00:05", "NickName": "twins"},
    ]
    captures = [] if dropped is None else [{"Number": 7, "Captured": 99, "Dropped": dropped}]
    return {
        "Router": {"Peers": peers},
        "Captures": [{"Number": 6, "Captured": 0, "Dropped": 1000}, *captures],
    }


def octets_in(file: Path | io.BytesIO) -> list[bytes]:
    """The frames of a pcap file, as scapy reads them."""
    with RawPcapReader(str(file) if isinstance(file, Path) else file) as reader:
        assert reader.nano
        return [octets for octets, _ in reader]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["capture", *arguments])


def test_frames_are_written_as_pcap(router: ScriptedRouter, tmp_path: Path) -> None:
    path = tmp_path / "frames.pcap"
    router.answers.append(
        HEAD + copy(PING, at=7 * SECOND + 123456789) + copy(ASK[:20], at=8 * SECOND, length=42)
    )
    router.will_answer(report(dropped=3))
    result = invoke("-w", str(path), "-c", "2")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "capturing; ^C ends it\n2 frames captured, 3 dropped\n"
    with RawPcapReader(str(path)) as reader:
        assert reader.linktype == 1
        assert reader.nano
        (first, one), (second, two) = reader
    assert (first, one) == (
        PING,
        RawPcapReader.PacketMetadata(sec=7, usec=123456789, wirelen=len(PING), caplen=len(PING)),
    )
    assert (second, two.wirelen, two.caplen) == (ASK[:20], 42, 20)
    assert rdpcap(str(path))[0][IP].dst == "10.32.1.2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    asked = {"peer": "", "direction": "", "snaplen": 65557, "filter": ""}
    assert router.requests == [("POST /capture", asked), ("GET /report", None)]


def test_a_file_that_is_there_is_replaced_and_closed_to_others(
    router: ScriptedRouter, tmp_path: Path
) -> None:
    path = tmp_path / "old"
    path.write_bytes(bytes(10000))
    path.chmod(0o644)
    router.answers.append(HEAD + copy(PING))
    router.will_answer(report())
    assert invoke("-w", str(path), "-c1").exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 24 + 16 + len(PING)


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_what_somebody_else_laid_there_is_not_filled(
    kind: str, router: ScriptedRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "frames.pcap"
    if kind == "file":
        path.write_bytes(b"theirs")
        path.chmod(0o666)
    else:
        os.mkfifo(path, 0o666)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        own = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)
        router.answers.append(HEAD + copy(PING))
        result = invoke("-w", str(path), "-c1")
        assert result.exit_code == 1
        assert "it is somebody else's" in result.stderr
        assert os.read(reader, 100) == (b"theirs" if kind == "file" else b"")
    finally:
        os.close(reader)
    assert stat.S_IMODE(path.stat().st_mode) in (0o666, 0o644)


def test_a_filter_of_any_octets_is_told_to_be_wrong() -> None:
    result = invoke("host \udcff")
    assert result.exit_code == 2
    assert "the filter" in result.stderr


def test_what_is_asked_for(router: ScriptedRouter, tmp_path: Path) -> None:
    router.answers.append(HEAD + copy(PING))
    router.will_answer(report())
    words = (
        "--peer",
        "two",
        "--direction",
        "in",
        "-s",
        "96",
        "-c",
        "1",
        "-w",
        str(tmp_path / "f"),
        "icmp",
        "or",
        "arp",
    )
    assert invoke(*words).exit_code == 0
    program = compile_filter("icmp or arp").hex()
    assert router.requests[0][1] == {"peer": "two", "direction": "in", "snaplen": 96, "filter": program}


def test_pcap_on_standard_output(router: ScriptedRouter) -> None:
    router.answers.append(HEAD + copy(PING) + copy(ASK))
    router.will_answer(report())
    result = invoke("-w", "-", "-c", "2")
    assert result.exit_code == 0
    assert octets_in(io.BytesIO(result.stdout_bytes)) == [PING, ASK]


def test_lines_say_what_went_where(router: ScriptedRouter) -> None:
    frames = [
        copy(PING, at=SECOND + 2000),
        copy(ASK, destination=0),
        copy(PING, source=TWO, destination=SELF, direction=IN),
        copy(PING[:40], length=98, source=THREE, destination=STRANGER, direction=RELAYED),
        copy(bytes(ETHER / IP() / TCP(sport=1, dport=2) / Raw(bytes(3000))), gso=(1, 1300)),
        copy(
            bytes(ETHER / IP() / UDP(sport=9, dport=53) / DNS(qd=DNSQR(qname=b"a\x1b[2Jb"))),
            source=4,
            direction=IN,
        ),
        copy(b"\x07" * 14 + b"rest", source=0x020000000004, direction=IN),
        copy(b"short", source=0x020000000005, direction=IN),
    ]
    router.answers.append(HEAD + b"".join(frames))
    for _ in range(4):
        router.will_answer(report())
    result = invoke("-c", str(len(frames)))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    ping = "Ether / IP / ICMP 10.32.1.1 > 10.32.1.2 echo-request 0 / Raw, 98 octets"
    assert lines[0].partition(" ")[2] == f"out to two: {ping}"
    assert lines[0].partition(".")[2].startswith("000002 ")
    assert lines[1].partition(" ")[2].startswith("out to all: Ether / ARP who has 10.32.1.2")
    assert lines[2].partition(" ")[2] == f"in from two: {ping}"
    assert "relayed from 02:00:00:00:00:03 to 00:00:00:00:02:66: " in lines[3]
    assert lines[3].endswith(", 98 octets, 40 captured")
    assert lines[4].endswith(", 3054 octets, super-frame of 1300-octet segments")
    assert "\x1b" not in result.stdout
    assert "in from 02:00:00:00:00:04: " in lines[6]
    assert lines[7].endswith("Raw, 5 octets")
    assert len(lines) == len(frames)


def test_verbose_shows_all_fields(router: ScriptedRouter) -> None:
    router.answers.append(HEAD + copy(PING))
    for _ in range(2):
        router.will_answer(report())
    result = invoke("-v", "-c", "1")
    assert "    ###[ IP ]###\n" in result.stdout
    assert "10.32.1.1" in result.stdout


def test_a_router_that_stops_is_3_and_what_was_captured_stays(router: ScriptedRouter, tmp_path: Path) -> None:
    path = tmp_path / "f"
    router.answers.append(HEAD + copy(PING) + counts(1, 5) + copy(ASK)[:50])
    router.will_answer("gone", "500 Gone")
    result = invoke("-w", str(path))
    assert result.exit_code == 3
    assert "1 frame captured, 5 dropped\n" in result.stderr
    assert "the router stopped" in result.stderr
    assert octets_in(path) == [PING]


@pytest.mark.usefixtures("run_dir")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tcp", "port"], "syntax error"),
        (["port", "99999"], "99999"),
        (["-w", "f", "nonsense", "and", "more"], "nonsense"),
        (["icmp", "and", "tcp"], "rejects all packets"),
        (["inbound"], "--direction"),
        (["tcp", "and", "ifindex", "3"], "--direction"),
        (["-c", "0"], "-c"),
        (["-s", "-1"], "-s"),
        (["--direction", "up"], "--direction"),
    ],
)
def test_wrong_usage_is_2_and_asks_nobody(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "router is not running" not in result.stderr
    with pytest.raises(UsageError):
        compile_filter("icmp\0")


@pytest.mark.usefixtures("run_dir")
def test_without_a_router_nothing_is_written(tmp_path: Path) -> None:
    result = invoke("-w", str(tmp_path / "f"))
    assert result.exit_code == 3
    assert "weavepy launch" in result.stderr
    assert not (tmp_path / "f").exists()


def test_a_refusal_is_told_and_nothing_is_written(router: ScriptedRouter, tmp_path: Path) -> None:
    router.will_answer({"error": "there is no peer 'x'; the peers are: two"}, "400 Bad Request")
    kept = tmp_path / "kept"
    kept.write_text("kept")
    result = invoke("-w", str(kept), "--peer", "x")
    assert (result.exit_code, result.stderr) == (1, "weavepy: there is no peer 'x'; the peers are: two\n")
    assert kept.read_text() == "kept"


@pytest.mark.parametrize("name", ["missing/f", "link", "."])
def test_a_file_that_cannot_be_written(router: ScriptedRouter, tmp_path: Path, name: str) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")  # in /tmp it may be somebody's trap
    router.answers.append(HEAD + copy(PING))
    result = invoke("-w", str(tmp_path / name))
    assert result.exit_code == 1
    assert f"cannot write {tmp_path / name}" in result.stderr
    assert (tmp_path / "target").read_text() == "kept"


def test_a_full_disk(router: ScriptedRouter) -> None:
    router.answers.append(HEAD + copy(PING))
    router.will_answer(report())
    result = invoke("-w", "/dev/full")
    assert result.exit_code == 1
    assert "No space left" in result.stderr


@pytest.mark.usefixtures("run_dir")
def test_without_scapy_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = invoke()
    assert result.exit_code == 1
    assert "pip install 'weavepy[capture]'" in result.stderr
    assert "-w FILE" in result.stderr


@pytest.mark.usefixtures("run_dir")
def test_without_libpcap_a_filter_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weavepy.cli.libpcap._NAMES", ("libpcap.so.none",))
    result = invoke("-w", "f", "icmp")
    assert result.exit_code == 1
    assert "apt-get install libpcap0.8" in result.stderr
    assert invoke("-w", "f").exit_code == 3  # not needed


def test_writing_a_file_needs_no_scapy(
    router: ScriptedRouter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "scapy":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    router.answers.append(HEAD + copy(PING))
    router.will_answer(report())
    assert invoke("-c1", "-w", str(tmp_path / "f")).exit_code == 0


def test_frames_come_together_however_the_stream_is_cut() -> None:
    data = b"".join(copy(bytes([n]) * n, at=n) for n in range(40)) + counts(40, 2)
    for step in (1, 7, 47, 48, 49, 1000, len(data)):
        reader, found = FrameReader(), []
        for at in range(0, len(data), step):
            found += list(reader.feed(data[at : at + step]))
        assert [(frame.time_ns, frame.octets) for frame in found] == [(n, bytes([n]) * n) for n in range(40)]
        assert reader.dropped == 2


def test_a_reader_that_is_left_early_goes_on_where_it_was() -> None:
    reader = FrameReader()
    first = next(iter(reader.feed(copy(b"one") + copy(b"two"))))
    assert first.octets == b"one"
    assert [frame.octets for frame in reader.feed(b"")] == [b"two"]


def test_every_frame_can_be_shown() -> None:
    """Whatever is in it: scapy has its own mind about malformed ones."""
    out = io.StringIO()
    writer = TextWriter(out, str, verbose=True)
    for n in range(200):
        octets = (PING * 3)[: n % 99] if n % 2 else bytes((n * k) % 256 for k in range(n))
        writer.write(Frame(n, SELF, TWO, n, OUT, 0, 0, octets))
    assert all(c.isprintable() or c == "\n" for c in out.getvalue())


def test_the_pcap_header_is_there_before_any_frame() -> None:
    file = io.BytesIO()
    PcapWriter(file)
    assert octets_in(io.BytesIO(file.getvalue())) == []
    assert file.getvalue() == struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)


# ---- as a process


class OpenRouter:
    """Answers a capture and keeps the connection open; other requests get the report."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(directory / "weavepy.sock"))
        self.socket.listen()
        self.socket.settimeout(WAIT_S)

    def accept(self, answer: bytes) -> socket.socket:
        connection, _ = self.socket.accept()
        connection.settimeout(WAIT_S)
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536)
        connection.sendall(answer)
        return connection

    def answer_report(self) -> None:
        body = json.dumps(report(dropped=11)).encode()
        self.accept(b"HTTP/1.0 200 OK\r\n\r\n" + body).close()


@pytest.fixture
def open_router(run_dir: Path) -> Iterator[OpenRouter]:
    made = OpenRouter(run_dir)
    with made.socket:
        yield made


def start(*arguments: str, stdout: Any = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "weavepy.cli", "capture", *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=os.environ.copy())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_well(open_router: OpenRouter, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "f"
    with start("-w", str(path)) as process:
        try:
            with open_router.accept(HEAD + copy(PING)) as connection:
                assert process.stderr is not None
                assert process.stderr.readline() == b"capturing; ^C ends it\n"
                connection.sendall(copy(ASK) + copy(PING)[:-1])  # cut where it ends
                while path.stat().st_size < 24 + 32 + len(PING) + len(ASK):
                    pass
                process.send_signal(number)
                open_router.answer_report()
                assert connection.recv(1) == b""  # and so the capture at the router ends
            assert process.wait(WAIT_S) == 0
            assert process.stderr.read() == b"2 frames captured, 11 dropped\n"
        finally:
            process.kill()
    assert octets_in(path) == [PING, ASK]


def test_a_pipe_that_nobody_reads_does_not_keep_it(open_router: OpenRouter, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with start("-w", str(path)) as process:
        try:
            with open_router.accept(HEAD):
                process.send_signal(signal.SIGINT)
                assert process.wait(WAIT_S) == 1
            assert process.stderr is not None
            assert process.stderr.read() == f"weavepy: nobody reads {path}\n".encode()
        finally:
            process.kill()


def test_who_reads_the_output_may_have_enough(open_router: OpenRouter) -> None:
    with start("-w", "-") as process:
        try:
            with open_router.accept(HEAD) as connection:
                assert process.stdout is not None
                assert process.stderr is not None
                assert len(process.stdout.read(24)) == 24
                process.stdout.close()
                connection.sendall(copy(PING))
                open_router.answer_report()
                assert process.wait(WAIT_S) == 0
            assert process.stderr.read().endswith(b"captured, 11 dropped\n")
        finally:
            process.kill()


def test_an_output_that_is_stuck_does_not_keep_it(open_router: OpenRouter) -> None:
    read, write = os.pipe()
    try:
        with start("-w", "-", stdout=write) as process:
            try:
                with open_router.accept(HEAD) as connection:
                    assert process.stderr is not None
                    process.stderr.readline()
                    connection.sendall(copy(bytes(60000)) * 3)  # more than a pipe holds
                    process.send_signal(signal.SIGINT)
                    open_router.answer_report()
                    assert process.wait(WAIT_S) == 0
            finally:
                process.kill()
    finally:
        os.close(read)
        os.close(write)
