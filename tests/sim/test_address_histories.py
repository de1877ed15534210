"""Random histories of networks that give out addresses (tests/sim/histories.py), a block of seeds per test."""

import pytest
from histories import History

BLOCK = 25
QUICK, DEEP = 300, 10_000


def blocks(begin: int, end: int, size: int) -> list[range]:
    return [range(first, first + size) for first in range(begin, end, size)]


def live_through(seeds: range) -> None:
    for seed in seeds:
        History(seed).run()


@pytest.mark.parametrize("seeds", blocks(0, QUICK, BLOCK), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_no_address_is_given_out_twice_and_nobody_waits_for_ever(seeds: range) -> None:
    live_through(seeds)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seeds", blocks(QUICK, DEEP, 485), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_ten_thousand_histories(seeds: range) -> None:
    live_through(seeds)


def test_a_history_is_repeated_exactly() -> None:
    traces, stories = [], []
    for seed in (110, 110, 111):
        history = History(seed)
        history.run()
        traces.append(history.world.trace())
        stories.append(history.story)
    assert traces[0] == traces[1] != traces[2]
    assert stories[0] == stories[1]


def test_a_failure_tells_the_story_and_how_to_see_it_again() -> None:
    history = History(3)

    def broken() -> None:
        raise AssertionError("for the test")

    history.world.check_settled = broken  # type: ignore[method-assign]
    with pytest.raises(AssertionError) as caught:
        history.run()
    text = str(caught.value)
    assert text.startswith("seed 3: for the test")
    assert "host 1 starts, told of nobody" in text
    assert text.endswith("again: .venv/bin/python tests/sim/histories.py 3")
