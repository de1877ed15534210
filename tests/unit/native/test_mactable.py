"""The MAC table, against a model of its rules."""

import random

import pytest

from weavepy._fastpath import MacTable

A, B = 0x020000000001, 0x020000000002


def mac(n):
    return n.to_bytes(6, "big")


def test_learn_and_look_up():
    table = MacTable(100)
    assert table.lookup(mac(1)) is None
    assert table.learn_remote(mac(1), A, 0)
    assert table.learn_local(mac(2), 0)
    assert (table.lookup(mac(1)), table.lookup(mac(2))) == (A, 0)


def test_a_mac_moves_at_once_and_then_once_a_second():
    table = MacTable(100)
    table.learn_remote(mac(1), A, 5000)
    assert table.learn_local(mac(1), 5001)
    assert table.lookup(mac(1)) == 0
    assert not table.learn_remote(mac(1), A, 5500)
    assert table.lookup(mac(1)) == 0
    assert table.learn_remote(mac(1), B, 6001)
    assert table.lookup(mac(1)) == B


def test_a_pinned_mac_stays():
    table = MacTable(100)
    table.learn_remote(mac(1), A, 0)
    assert table.pin(mac(1), 1)
    assert not table.learn_remote(mac(1), A, 999999)
    assert table.lookup(mac(1)) == 0
    assert table.forget_peer(0) == 0
    assert table.expire(10**9, 1) == 0
    table.unpin(mac(1))
    assert table.lookup(mac(1)) is None
    assert table.learn_remote(mac(1), A, 1000000)


PEERS = [0x020000000001 + n for n in range(5)]


def test_full_means_not_learnt():
    table = MacTable(16)
    for n in range(16):
        assert table.learn_remote(mac(n), PEERS[n % 4], 0)
    table.learn_remote(mac(99), PEERS[4], 0)
    assert table.lookup(mac(99)) is None
    for n in range(100, 108):  # nobody fills it so that a container's MAC has no room
        assert table.pin(mac(n), 0)
    assert not table.pin(mac(99), 0)
    for n in range(100, 108):
        table.unpin(mac(n))
    assert all(table.lookup(mac(n)) == PEERS[n % 4] for n in range(16))
    assert sum(table.forget_peer(peer) for peer in PEERS) == 16
    assert table.entries() == []


def test_nobody_has_more_than_a_quarter():
    table = MacTable(400)
    for n in range(1000):
        assert table.learn_remote(mac(n), A, 0)  # accepted, but no longer remembered
        assert table.learn_local(mac(1000 + n), 0)
    assert len(table.entries()) == 200
    assert table.learn_remote(mac(5000), B, 0)
    assert table.lookup(mac(5000)) == B
    assert table.expire(10000, 1) == 201
    assert table.learn_remote(mac(1), A, 0)
    assert table.lookup(mac(1)) == A


def test_times_wrap():
    """Milliseconds in 32 bits wrap after 49 days."""
    table = MacTable(16)
    table.learn_remote(mac(1), A, 2**32 - 10)
    assert table.expire(100, 1000) == 0
    assert table.expire(2**32 - 11, 1000) == 0  # seen by a shard whose clock is ahead
    assert table.learn_remote(mac(1), B, 500)
    assert table.expire(2000, 1000) == 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="6 bytes"):
        MacTable(4).lookup(b"short")
    with pytest.raises(ValueError, match="capacity"):
        MacTable(0)


class Model:
    def __init__(self, capacity):
        self.capacity, self.rows = capacity, {}

    def learn(self, key, peer, now):
        row = self.rows.get(key)
        if row is None:
            share = sum(row[0] == peer for row in self.rows.values())
            if len(self.rows) < self.capacity and share < self.capacity // 4:
                self.rows[key] = [peer, now, now - 1000, False]
            return True
        if row[0] == peer:
            row[1] = now
            return True
        if row[3] or now - row[2] < 1000:
            return False
        row[:3] = [peer, now, now]
        return True

    def pin(self, key, now):
        if key not in self.rows and len(self.rows) >= self.capacity * 3 // 2:
            return False
        row = self.rows.setdefault(key, [0, now, now - 1000, True])
        row[0], row[1], row[3] = 0, now, True
        return True

    def drop(self, gone):
        before = len(self.rows)
        self.rows = {k: r for k, r in self.rows.items() if r[3] or not gone(r)}
        return before - len(self.rows)


@pytest.mark.parametrize("seed", range(5))
def test_like_the_model(seed):
    rng = random.Random(seed)
    table, model, now = MacTable(40), Model(40), 10000
    for _ in range(20000):
        key, now = rng.randrange(60), now + rng.randrange(60)
        match rng.randrange(12):
            case 0:
                assert table.pin(mac(key), now) == model.pin(key, now)
            case 1 | 2:
                table.unpin(mac(key))
                model.rows.pop(key, None)
            case 3 if rng.random() < 0.2:
                peer = rng.choice(PEERS)
                assert table.forget_peer(peer) == model.drop(lambda r, peer=peer: r[0] == peer)
            case 4 if rng.random() < 0.2:
                assert table.expire(now, 3000) == model.drop(lambda r, now=now: now - r[1] > 3000)
            case 5 | 6 | 7:
                assert table.learn_local(mac(key), now) == model.learn(key, 0, now)
            case _:
                peer = rng.choice(PEERS)
                assert table.learn_remote(mac(key), peer, now) == model.learn(key, peer, now)
        row = model.rows.get(key)
        assert table.lookup(mac(key)) == (row[0] if row else None)
    expected = sorted((mac(k), r[0], r[1], r[3]) for k, r in model.rows.items())
    assert sorted(table.entries()) == expected
