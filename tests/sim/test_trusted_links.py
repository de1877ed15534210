"""Routers that trust the network between them, on both sides, on one, and without a password."""

import pytest
from world import Host, World

from weavepy.mesh.trust import parse_subnets

HERE, ELSEWHERE = "10.0.0.0/24", "192.0.2.0/24,fd00::/8"


def joined(one_trusts: str, two_trusts: str, **config: object) -> tuple[Host, Host]:
    world = World(1)
    one = world.host(1, trusted_subnets=parse_subnets(one_trusts), **config)
    two = world.host(2, trusted_subnets=parse_subnets(two_trusts), **config)
    one.start()
    two.start(one)
    world.run_until(lambda: bool(one.established() and two.established()), 3.0)
    return one, two


def said(host: Host) -> tuple[bool, object, str, object]:
    """Whether frames go in clear, and what the report says of that."""
    assert host.router is not None
    report = host.router.report(host.world.now)
    (connection,) = report["Connections"]  # type: ignore[misc]
    (link,) = host.links.values()
    return link.clear, connection["Attrs"]["encrypted"], connection["Info"].split()[0], report["Encryption"]


@pytest.mark.parametrize(
    ("one_trusts", "two_trusts", "clear"),
    [
        (HERE, HERE, True),
        (HERE, f"{ELSEWHERE},{HERE}", True),
        (HERE, "", False),
        ("", HERE, False),
        (HERE, ELSEWHERE, False),
        ("10.0.0.2/32", "10.0.0.2/32", False),  # that is the one, not the other
    ],
)
def test_frames_go_in_clear_only_if_both_trust_each_other(
    one_trusts: str, two_trusts: str, *, clear: bool
) -> None:
    one, two = joined(one_trusts, two_trusts)
    word = "unencrypted" if clear else "encrypted"
    assert said(one) == said(two) == (clear, not clear, word, True)


def test_trust_doesnt_let_anybody_in_who_lacks_the_password() -> None:
    world = World(1)
    trust = {"trusted_subnets": parse_subnets(HERE)}
    one, two = world.host(1, **trust), world.host(2, password=b"something else", **trust)
    one.start()
    two.start(one)
    world.run(5)
    assert not one.established() | two.established()


def test_without_a_password_trust_changes_nothing() -> None:
    one, two = joined(HERE, "", password=None, ciphers=("clear",))
    assert said(one) == said(two) == (True, False, "unencrypted", False)


def test_clear_frames_are_offered_only_by_who_trusts_somebody() -> None:
    for trusts, offered in ((HERE, True), ("", False)):
        host = World(1).host(1, trusted_subnets=parse_subnets(trusts)).start()
        assert host.router is not None
        assert ("clear" in host.router._feature.ciphers) is offered
