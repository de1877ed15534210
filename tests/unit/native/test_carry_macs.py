"""Where MACs live and where frames go on, as Weave Net does it, among peers by sleeve."""

import contextlib

import pytest
from frames import NONE
from test_carry import know, make, mesh, settle
from test_engine import BROADCAST, MAC2, MAC3, SELF, B, C, ethernet

from weavepy._fastpath import unpack


@pytest.fixture
def world():
    with contextlib.ExitStack() as stack:
        yield make(stack)


def test_a_mac_moves_between_here_and_a_peer_by_sleeve(world):
    host, b, c, _ = world
    know(host, b)
    host.capture(ethernet(MAC3, MAC2))  # it has moved to us: told everybody at once
    assert b.frames(1) == [(SELF, B, ethernet(MAC3, MAC2))]
    assert c.frames(1) == [(SELF, C, ethernet(MAC3, MAC2))]
    b.send(ethernet(BROADCAST, MAC2))  # and isn't taken back within a second
    settle(host, b)
    assert host.quiet()
    assert (host.count("mac_moves"), host.count("drop_mac_conflict")) == (1, 1)
    assert [e[:2] for e in host.engine.mac_entries()] == [(MAC2, 0)]


def test_what_is_known_elsewhere_goes_on_along_the_tree_and_nothing_goes_back(world):
    """As Weave Net floods what arrives for a MAC that isn't here: behind us there may be who knows better."""
    host, b, c, d = world
    know(host, c, MAC3)
    mesh(host, ((B, (c.index, 0x33003)), (SELF, (b.index,))))
    b.send(ethernet(MAC3, MAC2))
    assert host.injected() == (NONE, ethernet(MAC3, MAC2))
    assert c.frames(1) == [(B, C, ethernet(MAC3, MAC2))]
    assert unpack([d.recv()]) == [(NONE, ethernet(MAC3, MAC2))]
    b.send((B, B, ethernet(MAC3, MAC2)), (SELF, SELF, ethernet(MAC3, MAC2)), (SELF, C, ethernet(MAC3, MAC2)))
    settle(host, b)
    assert (host.count("drop_no_route"), host.count("drop_source_peer")) == (1, 2)
    assert host.quiet()
    assert b.silent()
