"""What the options about addresses come down to, and what of them can't be right."""

import pytest

from weavepy.errors import UsageError
from weavepy.runtime.addressplan import DEFAULT_RANGE, DEFAULT_SUBNET, SLOTS, AddressPlan, plan, universe_of
from weavepy.runtime.options import options_from_json


def test_without_a_word_the_range_is_half_of_the_subnet_and_the_other_half_is_never_given_out() -> None:
    said = plan(None, None, None)
    assert said == AddressPlan(DEFAULT_RANGE, DEFAULT_SUBNET)
    assert list(DEFAULT_SUBNET.subnets()) == [DEFAULT_RANGE, SLOTS]
    config = said.config(1, "one")  # type: ignore[arg-type]
    assert config is not None
    assert (config.universe.start, config.universe.end) == (0x0A200000, 0x0A280000)
    assert (config.quorum, config.seeds, config.observer) == (None, (), False)


def test_a_range_is_its_own_default_subnet() -> None:
    said = plan("10.2.0.0/16", None, None)
    assert (str(said.subnet), said.chosen) == ("10.2.0.0/16", True)
    assert str(plan("10.2.0.0/16", "10.2.3.0/24", None).subnet) == "10.2.3.0/24"
    assert str(plan(None, "10.32.3.0/24", None).subnet) == "10.32.3.0/24"


def test_an_empty_range_gives_nothing_out() -> None:
    assert plan("", None, None).config(1, "one") is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("consensus", (None, (), False)),
        ("consensus=1", (1, (), False)),
        ("consensus=4", (3, (), False)),
        ("consensus=5", (3, (), False)),
        ("seed=::2,::1,::2", (None, (1, 2), False)),
        ("observer", (None, (), True)),
    ],
)
def test_who_divides_it(init: str, expected: tuple[object, ...]) -> None:
    config = plan(None, None, init).config(1, "one")  # type: ignore[arg-type]
    assert config is not None
    assert (config.quorum, config.seeds, config.observer) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ipalloc_range": "10.2.0.1/16"}, "write 10.2.0.0/16"),
        ({"ipalloc_range": "10.2/16"}, "write it as ADDRESS/LENGTH"),
        ({"ipalloc_range": "10.2.0.0/31"}, "/30 is the smallest"),
        ({"ipalloc_range": "fd00::/64"}, "give an IPv4 subnet"),
        ({"ipalloc_range": "0.0.0.0/0"}, "choose private ones"),
        ({"ipalloc_range": "224.0.0.0/8"}, "choose private ones"),
        (
            {"ipalloc_range": "", "ipalloc_default_subnet": "10.2.0.0/16"},
            "--ipalloc-default-subnet needs a range",
        ),
        ({"ipalloc_range": "", "ipalloc_init": "observer"}, "--ipalloc-init needs a range"),
        ({"ipalloc_default_subnet": "10.2.0.0/16"}, "no address of the range 10.32.0.0/13"),
        ({"ipalloc_init": "consensus=0"}, "1 to 10000"),
        ({"ipalloc_init": "consensus=x"}, "1 to 10000"),
        ({"ipalloc_init": "seed="}, "names look like ::1"),
        ({"ipalloc_init": "seed=host1"}, "names look like ::1"),
        ({"ipalloc_init": "observer=1"}, "choose consensus"),
        ({"ipalloc_init": ""}, "choose consensus"),
    ],
)
def test_what_cant_be_right_is_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options_from_json(options)


def test_a_universe_is_all_of_its_range() -> None:
    assert universe_of(DEFAULT_SUBNET) == (0x0A200000, 0x0A300000)
