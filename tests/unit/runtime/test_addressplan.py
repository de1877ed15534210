"""What the options about addresses come down to, and what of them can't be right."""

from ipaddress import IPv4Network

import pytest

from weavepy.errors import LocalError, UsageError
from weavepy.runtime import addressplan
from weavepy.runtime.addressplan import (
    DEFAULT_RANGE,
    DEFAULT_SUBNET,
    AddressPlan,
    check_routes,
    plan,
    universe_of,
)
from weavepy.runtime.options import options_from_json


def test_without_a_word_the_range_is_half_of_the_subnet_and_the_other_half_is_never_given_out() -> None:
    said = plan(None, None, None)
    assert said == AddressPlan(DEFAULT_RANGE, DEFAULT_SUBNET)
    assert list(DEFAULT_SUBNET.subnets()) == [DEFAULT_RANGE, IPv4Network("10.40.0.0/13")]
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
        ({"reclaim_after": 60}, "--reclaim-after 60: 120 to 2592000 seconds"),
        ({"reclaim_after": 600, "ipalloc_range": ""}, "--reclaim-after needs a range"),
    ],
)
def test_what_cant_be_right_is_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options_from_json(options)


def test_a_universe_is_all_of_its_range() -> None:
    assert universe_of(DEFAULT_SUBNET) == (0x0A200000, 0x0A300000)


class Routes:
    """The host's own routes, as `overlapping` finds them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *routes: str) -> None:
        self.asked: set[IPv4Network] = set()
        self._routes = routes
        monkeypatch.setattr(addressplan, "overlapping", self)

    def __call__(self, networks: set[IPv4Network]) -> list[tuple[IPv4Network, str]]:
        self.asked = networks
        return [
            (network, f"{route} by eth0")
            for network in sorted(networks)
            for route in self._routes
            if network.overlaps(IPv4Network(route))
        ]


def test_a_route_to_what_is_given_out_by_default_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Routes(monkeypatch, "10.47.0.0/16")  # containers take all of the subnet for their neighbours
    with pytest.raises(
        LocalError, match=r"10\.32\.0\.0/12, overlap .* 10\.47\.0\.0/16 by eth0; .*--ipalloc-range"
    ):
        check_routes(plan(None, None, None), in_use=False)


def test_a_route_to_what_was_chosen_or_is_in_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = Routes(monkeypatch, "10.40.0.0/16")
    (warning,) = check_routes(plan(None, None, None), in_use=True)
    assert "10.32.0.0/12, overlaps this host's route to 10.40.0.0/16 by eth0" in warning
    assert len(check_routes(plan("10.40.0.0/14", "10.40.0.0/16", None), in_use=False)) == 2
    assert routes.asked == {IPv4Network("10.40.0.0/14"), IPv4Network("10.40.0.0/16")}
    assert check_routes(plan("10.192.0.0/12", None, None), in_use=False) == ()
    assert check_routes(plan("", None, None), in_use=False) == ()


def test_without_such_routes_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    Routes(monkeypatch, "192.168.0.0/16")
    assert check_routes(plan(None, None, None), in_use=False) == ()
