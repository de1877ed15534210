"""The arithmetic of the benchmarks, and reading what /proc and iperf3 print."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from bench import measures
from bench.measures import GROUPS, MEASURES, Flood, Meter, busy_seconds, peak_bytes, percentile, search
from bench.systems import Pair
from weavepy.errors import LocalError

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("p", "expected"), [(0, 1), (50, 50), (50.1, 51), (99, 99), (99.9, 100), (100, 100)])
def test_percentiles_are_values_that_were_seen(p: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), p) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7], 99.9) == 7


def test_busy_is_what_the_cpus_worked_for_us_and_no_waiting() -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice
    stat = f"cpu  {TICKS} {2 * TICKS} {4 * TICKS} 99999 8888 {8 * TICKS} {16 * TICKS} 777 66 5\ncpu0 1 2\n"
    assert busy_seconds(stat) == 1 + 2 + 4 + 8 + 16


def test_peak_memory_is_read_in_bytes() -> None:
    assert peak_bytes("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 1 kB\n") == 1234 * 1024


def test_a_daemon_that_is_gone_has_no_peak() -> None:
    with pytest.raises(LocalError, match="a daemon has ended"):
        peak_bytes("Name:\tx\nState:\tZ (zombie)\n")


@pytest.mark.parametrize("limit", [1, 37, 500, 999])
def test_the_search_closes_in_from_below(limit: int) -> None:
    tried: list[float] = []

    def passes(rate: float) -> float | None:
        tried.append(rate)
        return rate if rate <= limit else None

    found = search(passes, 1000, 10)
    assert found <= limit < found + 1000 / 2**10
    assert len(tried) == 10


def test_a_search_in_which_nothing_passes_finds_nothing() -> None:
    assert search(lambda _rate: None, 1000, 6) == 0.0


def test_the_search_answers_with_what_came_through_not_what_was_asked() -> None:
    assert search(lambda rate: rate * 0.9, 1000, 3) == pytest.approx(875 * 0.9)


def test_a_flood_counts_only_what_came_within_its_window() -> None:
    flood = Flood(sent=1000, in_window=600, received=900, seconds=2.0)
    assert flood.pps == 300
    assert flood.loss == pytest.approx(0.1)
    assert Flood(0, 0, 0, 1.0).loss == 1.0


def test_every_measure_comes_from_one_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(MEASURES)


def meter(monkeypatch: pytest.MonkeyPatch, end: dict[str, Any]) -> Meter:
    monkeypatch.setattr(measures, "iperf", lambda *_: {"end": end})
    nobody: Any = None
    return Meter(Pair(nobody, nobody, "10.77.0.2"), "load", 1)


def test_tcp_is_what_was_received_and_both_ways_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"bytes": 5e8, "bits_per_second": 4e9}
    end = {"sum_sent": {"bytes": 9e9, "bits_per_second": 7e10}, "sum_received": there}
    assert meter(monkeypatch, end).tcp4() == {"tcp4_gbps": 4.0}
    found = meter(monkeypatch, end).tcp1()
    assert found["tcp1_gbps"] == 4.0
    assert found["cpu_s_per_gb"] >= 0
    back = {"sum_received_bidir_reverse": {"bytes": 1, "bits_per_second": 2e9}}
    assert meter(monkeypatch, end | back).bidir() == {"bidir_gbps": 6.0}


@pytest.mark.parametrize(
    ("end", "run", "reason"),
    [
        ({}, Meter.tcp4, "iperf3 gave no sum_received"),
        ({"sum_received": {"bytes": "?", "bits_per_second": 1}}, Meter.tcp1, "gave no sum_received"),
        ({"sum_received": {"bytes": 1, "bits_per_second": 1}}, Meter.bidir, "no sum_received_bidir_reverse"),
        ({"sum_received": {"bytes": 0, "bits_per_second": 0}}, Meter.tcp1, "no TCP came through"),
    ],
)
def test_an_iperf_without_a_result_gives_no_number(
    monkeypatch: pytest.MonkeyPatch, end: dict[str, Any], run: Callable[[Meter], object], reason: str
) -> None:
    with pytest.raises(LocalError, match=reason):
        run(meter(monkeypatch, end))


@pytest.mark.parametrize(
    ("floods", "expected"),
    [
        ([Flood(100, 99, 100, 1)], 99),  # the flood itself came through
        ([Flood(100, 50, 60, 1)] + 12 * [Flood(100, 50, 60, 1)], 0),
        ([Flood(100, 50, 60, 1), Flood(100, 1, 1, 1), Flood(90, 88, 90, 1)] + 10 * [Flood(9, 1, 1, 1)], 88),
    ],
)
def test_the_rate_without_loss(monkeypatch: pytest.MonkeyPatch, floods: list[Flood], expected: int) -> None:
    left = iter(floods)
    one = meter(monkeypatch, {})
    monkeypatch.setattr(one, "flood", lambda *_, **__: next(left))
    assert one.lossfree() == {"udp64_pps_lossfree": expected}


def test_lost_pings_are_told_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = meter(monkeypatch, {})
    monkeypatch.setattr(one, "_round_trips", lambda: ([1_000_000, 2_000_000, 9_000_000], 4))
    assert one.rtt() == {"rtt_p50_ms": 2.0, "rtt_p99_ms": 9.0, "rtt_p999_ms": 9.0}


def test_a_system_without_daemons_has_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert meter(monkeypatch, {}).rss() == {}


def test_peaks_of_daemons_are_summed() -> None:
    nobody: Any = None
    alone = Meter(Pair(nobody, nobody, "", (os.getpid(),)), "load", 1).rss()["rss_mb"]
    assert Meter(Pair(nobody, nobody, "", (os.getpid(),) * 2), "load", 1).rss()["rss_mb"] >= 2 * alone > 0
