"""The path-MTU search by itself, over a model path that swallows what is too large for it."""

import random
from collections.abc import Callable

import pytest

from weavepy import limits
from weavepy.switch.pathmtu import PathMtu, Probes

RTT_S = 0.02


class Path:
    """Answers probes up to `mtu` after RTT_S, unless `loses` says that this one is lost."""

    def __init__(self, mtu: int, ceiling: int, loses: Callable[[int], bool] = lambda _size: False) -> None:
        self.mtu = mtu
        self.loses = loses
        self.now = 100.0
        self.sent: list[int] = []
        self.sizes: list[int] = [limits.PATH_MTU_MIN]  # each that data could use
        self.search = PathMtu(ceiling)
        self._answers: list[tuple[float, int]] = []
        self._send(self.search.start(self.now))

    def run(self, seconds: float) -> "Path":
        end = self.now + seconds
        while True:
            timer = self.search.next_timer()
            answer = self._answers[0][0] if self._answers else None
            at = min((t for t in (timer, answer) if t is not None), default=None)
            if at is None or at > end:
                self.now = end
                return self
            self.now = max(self.now, at)
            if at == answer:
                self._send(self.search.handle_answer(self._answers.pop(0)[1], self.now))
            else:
                before = (len(self.sent), timer)
                self._send(self.search.handle_timer(self.now))
                assert (len(self.sent), self.search.next_timer()) != before, "the timer spins"

    def too_big(self) -> None:
        self._send(self.search.handle_too_big(self.now))

    def move(self, mtu: int) -> None:
        self.mtu = mtu
        self._send(self.search.handle_moved(self.now))

    def _send(self, sizes: Probes) -> None:
        if self.search.size != self.sizes[-1]:
            self.sizes.append(self.search.size)
        for size in sizes:
            self.sent.append(size)
            assert limits.PATH_MTU_MIN <= size <= limits.PATH_MTU_MAX
            if size <= self.mtu and not self.loses(size):
                self._answers.append((self.now + RTT_S, size))


def within(found: int, mtu: int) -> bool:
    return mtu - limits.PATH_MTU_STEP < found <= mtu


@pytest.mark.parametrize("ceiling", [576, 600, 1280, 1500, 9000])
def test_the_right_ceiling_takes_one_probe_and_one_round_trip(ceiling: int) -> None:
    path = Path(ceiling, ceiling).run(RTT_S)
    assert path.search.complete
    assert path.search.size == ceiling
    assert path.sent == ([ceiling] if ceiling > limits.PATH_MTU_MIN else [])


@pytest.mark.parametrize("ceiling", [1500, 9000])
@pytest.mark.parametrize("mtu", [576, 600, 1000, 1280, 1400, 1450, 1492, 1500, 9000])
def test_any_path_is_found_with_few_probes(mtu: int, ceiling: int) -> None:
    path = Path(mtu, ceiling).run(0)
    while not path.search.complete:
        path.run(0.1)
    assert within(path.search.size, min(mtu, ceiling))
    assert path.now < 100 + 26
    assert len(path.sent) <= 90  # companions included
    assert path.sizes == sorted(path.sizes)


@pytest.mark.parametrize("mtu", [1280, 1400, 1420, 1500])
def test_sizes_that_paths_really_have_are_found_exactly(mtu: int) -> None:
    assert Path(mtu, 9000).run(30).search.size == mtu


@pytest.mark.parametrize("mtu", [1280, 1400])
def test_data_crawls_no_longer_than_one_size_takes_to_be_given_up(mtu: int) -> None:
    path = Path(mtu, 1500).run(limits.PROBES_MAX * limits.PROBE_TIMEOUT_S + 2 * RTT_S)
    assert path.search.size >= 1280


def test_single_losses_change_nothing() -> None:
    count = iter(range(10_000))
    path = Path(1400, 1500, lambda _size: next(count) % 2 == 0).run(120)
    assert path.search.size == 1400
    assert path.sizes == sorted(path.sizes)


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_path_is_used_well_nearly_always(seed: int) -> None:
    chance = random.Random(seed)
    path = Path(1500, 1500, lambda _size: chance.random() < 0.36)  # a fifth lost each way
    well = sum(path.run(1).search.size == 1500 for _ in range(1800))
    assert well > 1600


@pytest.mark.parametrize(
    ("before", "after"), [(1500, 1280), (1500, 600), (9000, 1500), (1280, 576), (1400, 1399)]
)
def test_a_black_hole_that_appears_later_is_found(before: int, after: int) -> None:
    path = Path(before, before).run(3)
    assert path.search.size == before
    path.mtu = after
    path.run(limits.PATH_MTU_CONFIRM_S + limits.PROBES_MAX * limits.PROBE_TIMEOUT_S + RTT_S)
    assert path.search.size <= after
    assert within(path.run(30).search.size, after)


def test_an_outage_is_no_black_hole() -> None:
    path = Path(1500, 1500).run(3)
    path.mtu = 0
    path.run(11)
    path.mtu = 1500
    path.run(2)
    assert path.search.size == 1500
    assert path.search.complete


def test_the_lost_size_is_asked_for_again_before_it_is_given_up() -> None:
    """An outage ends between two tries: what was lost in it doesn't count against the size."""
    path = Path(1500, 1500).run(3)
    path.mtu = 0
    path.run(limits.PATH_MTU_CONFIRM_S - 3 + 2 * limits.PROBE_TIMEOUT_S + 2 * RTT_S)
    assert path.sent == [1500, 1500, 1500, limits.PATH_MTU_MIN, 1500, limits.PATH_MTU_MIN]
    path.mtu = 1500
    assert path.run(1).search.size == 1500
    assert path.sizes == [limits.PATH_MTU_MIN, 1500]


@pytest.mark.parametrize("after", [1400, 1500])
def test_a_path_that_grows_is_found_within_the_search_period(after: int) -> None:
    path = Path(1280, 1500).run(3600)
    assert path.search.size == 1280
    path.mtu = after
    assert path.run(limits.PATH_MTU_SEARCH_S + 15).search.size == after


def test_a_dip_does_not_last_the_whole_period() -> None:
    path = Path(1500, 1500).run(3600)
    path.mtu = 1280
    path.run(20)
    assert path.search.size == 1280
    path.mtu = 1500
    assert path.run(2 * limits.PATH_MTU_SEARCH_FIRST_S).search.size == 1500


def test_answers_that_nobody_asked_for_are_not_trusted() -> None:
    search = PathMtu(1500)
    assert search.handle_answer(1500, 0.0) == ()
    assert search.start(0.0) == (1500,)
    for size in (0, 1280, 1499, 9000, 1 << 40):
        assert search.handle_answer(size, 0.1) == ()
        assert search.size == limits.PATH_MTU_MIN
    search.handle_answer(1500, 0.1)
    search.handle_answer(9000, 0.2)
    assert search.size == 1500


def test_an_answer_counts_once() -> None:
    search = PathMtu(1500)
    search.start(0.0)
    search.handle_answer(1500, 0.1)
    due = search.next_timer()
    search.handle_answer(1500, 3.0)
    assert search.next_timer() == due


def test_the_kernels_refusal_counts_at_once_and_is_not_argued_with() -> None:
    path = Path(1500, 1500).run(3)
    path.mtu = 1400
    path.too_big()
    assert path.search.size == limits.PATH_MTU_MIN
    assert path.run(RTT_S).search.size == 1280
    assert path.run(10).search.size == 1400
    assert path.sent.count(1500) == 1


def test_refusals_one_after_the_other_go_down_and_then_stop() -> None:
    """A kernel that refuses trains of sizes that single probes have."""
    path = Path(1500, 1500).run(3)
    for _ in range(20):
        path.too_big()
        path.run(0)
    assert len(path.sent) == 2
    for _ in range(5):
        path.run(5)
        path.too_big()
    assert path.run(1).search.size < 1500


def test_another_path_is_confirmed_at_once_in_both_directions() -> None:
    path = Path(1280, 1500).run(3600)
    path.move(1500)
    assert path.run(1).search.size == 1500
    path.move(1280)
    assert path.run(limits.PROBES_MAX * limits.PROBE_TIMEOUT_S + 3 * RTT_S).search.size == 1280


def test_a_path_that_was_as_small_as_can_be_grows_when_it_is_another_one() -> None:
    path = Path(576, 1500).run(3600)
    assert path.search.size == limits.PATH_MTU_MIN
    path.move(1500)
    assert path.run(1).search.size == 1500


def test_a_peer_that_moves_all_the_time_costs_no_more_probes() -> None:
    path = Path(1500, 1500).run(3)
    path.mtu = 0
    before = len(path.sent)
    for _ in range(1000):
        path.move(0)
        path.run(0.01)
    assert len(path.sent) - before <= 2 * 10 / limits.PROBE_TIMEOUT_S + 1  # with companions


@pytest.mark.parametrize("mtu", [0, 576, 1400, 1500])
def test_probes_are_few_for_ever(mtu: int) -> None:
    path = Path(mtu, 1500).run(600)
    before = len(path.sent)
    path.run(3600)
    most = 3600 / limits.PATH_MTU_CONFIRM_S + 7 * 60
    assert len(path.sent) - before <= most
    assert path.search.size == max(mtu, limits.PATH_MTU_MIN)


@pytest.mark.parametrize("before", [1500, 1400])
def test_a_path_that_answers_no_probes_at_all_is_left_alone_for_a_while(before: int) -> None:
    path = Path(before, 1500).run(600)
    path.mtu = 0
    path.run(60)
    at = len(path.sent)
    path.run(60)
    assert len(path.sent) - at <= 60 * 4 * 0.8
    assert path.search.size == before
    path.mtu = before
    assert path.run(10).search.complete
    assert path.search.size == before


@pytest.mark.parametrize("ceiling", [-1, 0, 68, 575])
def test_a_kernel_that_says_nonsense_is_not_followed(ceiling: int) -> None:
    search = PathMtu(ceiling)
    assert search.start(0.0) == ()
    assert search.complete
    assert search.size == limits.PATH_MTU_MIN
    assert search.next_timer() == limits.PATH_MTU_SEARCH_S


def test_nobody_asks_for_more_than_jumbo_frames() -> None:
    assert PathMtu(65535).start(0.0) == (limits.PATH_MTU_MAX,)


@pytest.mark.parametrize(("before", "after"), [(1500, 9000), (1280, 1500), (576, 1400), (1500, 8950)])
def test_more_than_the_kernel_promised_is_found_within_the_search_period(before: int, after: int) -> None:
    path = Path(before, before).run(1000)
    assert path.search.size == before
    path.mtu = after
    assert path.run(limits.PATH_MTU_SEARCH_S + 5).search.size == after
    path.mtu = before
    assert within(path.run(40).search.size, before)


def test_a_jumbo_path_is_not_searched_for_more() -> None:
    path = Path(9000, 9000).run(3600)
    assert set(path.sent) == {9000}
