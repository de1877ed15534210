"""The two schedules of key changes: when, in which order, what a misbehaving peer gets, and both together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy import limits
from weavepy.crypto.datakeys import DataKeys
from weavepy.crypto.rekey import Install, ReceivingKeys, Retire, SendingKeys
from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.wire.fastpath import Epoch, EpochAck

INTERVAL, PATIENCE, LINGER = limits.REKEY_INTERVAL_S, limits.REKEY_ACK_TIMEOUT_S, limits.KEY_LINGER_S


def chain() -> DataKeys:
    return DataKeys(
        bytes(32),
        cipher="aes-256-gcm",
        version=1,
        sender_dialled=True,
        sender=PeerName(1),
        receiver=PeerName(2),
        conn_uid=3,
        lanes=2,
    )


def install(epoch: int) -> Install:
    keys = chain()
    for _ in range(epoch):
        keys.advance()
    return Install(epoch, keys.keys())


def sending(now: float = 1000.0) -> SendingKeys:
    sender = SendingKeys(chain())
    assert sender.next_timer() is None
    assert sender.start(now) == [install(0)]
    return sender


def receiving() -> ReceivingKeys:
    receiver = ReceivingKeys(chain())
    assert receiver.start() == [install(0)]
    return receiver


def test_the_sender_announces_then_waits_then_switches() -> None:
    sender = sending(1000.0)
    assert sender.next_timer() == 1000.0 + INTERVAL
    assert sender.handle_timer(1000.0 + INTERVAL - 0.1) == []
    now = 1000.0 + INTERVAL
    assert sender.handle_timer(now) == [Epoch(1)]
    assert (sender.epoch, sender.next_timer()) == (0, now + PATIENCE)
    assert sender.handle_timer(now + 1) == []
    assert sender.handle_ack(1, now + 2) == [install(1)]
    assert (sender.epoch, sender.next_timer()) == (1, now + 2 + INTERVAL)


def test_a_worn_key_is_changed_at_once_and_once() -> None:
    sender = sending(1000.0)
    assert sender.handle_worn(1001.0) == [Epoch(1)]
    assert sender.handle_worn(1001.0) == []
    assert sender.handle_ack(1, 1002.0) == [install(1)]
    assert sender.handle_worn(1003.0) == [Epoch(2)]


def test_a_sender_that_has_not_started_does_nothing() -> None:
    sender = SendingKeys(chain())
    assert sender.handle_timer(1e9) == []
    assert sender.handle_worn(1e9) == []
    with pytest.raises(RemoteProtocolError):
        sender.handle_ack(1, 1e9)


def test_another_interval() -> None:
    sender = SendingKeys(chain(), interval_s=0.5)
    sender.start(0.0)
    assert sender.handle_timer(0.5) == [Epoch(1)]


def test_an_answer_that_never_comes_ends_the_link() -> None:
    sender = sending(0.0)
    sender.handle_worn(10.0)
    assert sender.handle_timer(10.0 + PATIENCE - 0.1) == []
    with pytest.raises(RemoteProtocolError, match="did not acknowledge"):
        sender.handle_timer(10.0 + PATIENCE)


@pytest.mark.parametrize("epoch", [0, 1, 2, (1 << 64) - 1])
def test_an_acknowledgement_of_nothing(epoch: int) -> None:
    with pytest.raises(RemoteProtocolError, match="did not announce"):
        sending().handle_ack(epoch, 1001.0)


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_an_acknowledgement_of_another_epoch(epoch: int) -> None:
    sender = sending()
    sender.handle_worn(1001.0)
    with pytest.raises(RemoteProtocolError, match="did not announce"):
        sender.handle_ack(epoch, 1002.0)
    assert sender.epoch == 0


def test_a_repeated_acknowledgement_changes_nothing() -> None:
    sender = sending()
    sender.handle_worn(1001.0)
    sender.handle_ack(1, 1002.0)
    timer = sender.next_timer()
    assert sender.handle_ack(1, 1003.0) == []
    assert (sender.epoch, sender.next_timer()) == (1, timer)
    sender.handle_worn(1004.0)
    assert sender.handle_ack(1, 1005.0) == []
    assert sender.handle_ack(2, 1006.0) == [install(2)]


def test_the_receiver_installs_before_it_acknowledges_and_retires_later() -> None:
    receiver = receiving()
    assert receiver.next_timer() is None
    assert receiver.handle_announce(1) == [install(1), EpochAck(1)]
    assert (receiver.epoch, receiver.next_timer()) == (1, None)
    receiver.handle_used(1, 50.0)
    assert receiver.next_timer() == 50.0 + LINGER
    receiver.handle_used(1, 55.0)
    assert receiver.handle_timer(50.0 + LINGER - 0.1) == []
    assert receiver.handle_timer(50.0 + LINGER) == [Retire(0)]
    assert receiver.next_timer() is None
    assert receiver.handle_timer(1e9) == []


def test_a_repeated_announcement_is_acknowledged_again_and_nothing_else() -> None:
    receiver = receiving()
    receiver.handle_announce(1)
    receiver.handle_used(1, 50.0)
    assert receiver.handle_announce(1) == [EpochAck(1)]
    assert receiver.next_timer() == 50.0 + LINGER


def test_old_keys_stay_for_as_long_as_nothing_comes_under_the_new_ones() -> None:
    """The acknowledgement may be late by any time, and until then the sender goes on with the old keys."""
    receiver = receiving()
    receiver.handle_used(0, 40.0)
    receiver.handle_announce(1)
    receiver.handle_used(0, 60.0)
    assert receiver.next_timer() is None
    assert receiver.handle_timer(1e9) == []
    assert receiver.handle_announce(2) == [Retire(0), install(2), EpochAck(2)]
    receiver.handle_used(1, 70.0)
    assert receiver.next_timer() is None
    receiver.handle_used(2, 80.0)
    assert receiver.handle_timer(80.0 + LINGER) == [Retire(1)]


@pytest.mark.parametrize("epoch", [0, 2, (1 << 64) - 1])
def test_announcements_out_of_order(epoch: int) -> None:
    receiver = receiving()
    with pytest.raises(RemoteProtocolError, match="out of order"):
        receiver.handle_announce(epoch)
    assert receiver.epoch == 0
    receiver.handle_announce(1)
    receiver.handle_announce(2)
    with pytest.raises(RemoteProtocolError, match="out of order"):
        receiver.handle_announce(1)


def test_however_fast_a_peer_announces_there_are_keys_of_two_epochs() -> None:
    receiver, held = receiving(), {0}
    for epoch in range(1, 100):
        for action in receiver.handle_announce(epoch):
            if isinstance(action, Retire):
                held.remove(action.epoch)
            elif isinstance(action, Install):
                held.add(action.epoch)
            assert len(held) <= 2
    assert held == {98, 99}


@given(st.lists(st.sampled_from(["tick", "worn", "to receiver", "to sender"]), max_size=120))
def test_the_receiver_can_always_open_what_the_sender_seals(steps: list[str]) -> None:
    """Any interleaving, with the control connection's messages late but in order, as TCP has them."""
    sender, receiver = SendingKeys(chain(), interval_s=20.0), receiving()
    (sealing,) = sender.start(0.0)
    opening, announced, acknowledged, now = {0: install(0).keys}, [], [], 0.0
    for step in steps:
        actions = []
        if step == "tick":
            now += 3.0
            receiver.handle_used(sealing.epoch, now)
            for action in receiver.handle_timer(now):
                assert isinstance(action, Retire)
                del opening[action.epoch]
            try:
                actions = sender.handle_timer(now)
            except RemoteProtocolError:
                return
        elif step == "worn":
            actions = sender.handle_worn(now)
        elif step == "to receiver" and announced:
            for action in receiver.handle_announce(announced.pop(0).epoch):
                if isinstance(action, Install):
                    opening[action.epoch] = action.keys
                elif isinstance(action, Retire):
                    del opening[action.epoch]
                else:
                    acknowledged.append(action)
        elif step == "to sender" and acknowledged:
            (sealing,) = sender.handle_ack(acknowledged.pop(0).epoch, now)
        announced += actions
        assert opening[sealing.epoch] == sealing.keys


def test_keys_do_not_show() -> None:
    assert install(0).keys[0].hex() not in repr(install(0))
    assert repr(install(0)) == "Install(epoch=0)"
