"""What is taken for a good password, and the making of one."""

import random
import string

import pytest

from weavepy.crypto.password import estimate_bits, new_secret
from weavepy.limits import PASSWORD_BITS_WARN


@pytest.mark.parametrize(
    ("password", "most"),
    [
        ("", 0),
        ("a", 5),
        ("password", 20),
        ("Password1", 25),
        ("P@ssw0rd2024!", 40),
        ("weave", 16),
        ("a" * 100, 10),
        ("abc" * 30, 20),
        ("weave" * 5, 25),
        ("12345678901234567890", 20),
        ("qwertyuiopasdfghjkl", 20),
        ("zyxwvutsrqponmlkjihgfedcba", 10),
        ("Tr0ub4dor&3", 45),
        ("s3cret-Pass", 45),
        ("correct horse battery staple", PASSWORD_BITS_WARN),
        ("19841984198419841984", 20),
    ],
)
def test_what_people_choose_is_weak(password: str, most: float) -> None:
    assert 0 <= estimate_bits(password) <= most
    assert estimate_bits(password) < PASSWORD_BITS_WARN


def test_random_text_is_worth_nearly_what_it_holds() -> None:
    rng = random.Random(1)
    for alphabet, length in (
        (string.ascii_letters + string.digits, 22),
        (string.ascii_lowercase + string.digits, 30),
        ("0123456789abcdef", 32),
        (string.ascii_letters + string.digits + string.punctuation, 20),
    ):
        for _ in range(50):
            assert estimate_bits("".join(rng.choices(alphabet, k=length))) >= PASSWORD_BITS_WARN


def test_the_nine_characters_that_weave_net_suggests_get_a_warning() -> None:
    assert 45 < estimate_bits("wfvAwt7sj") < PASSWORD_BITS_WARN


def test_saying_it_twice_is_worth_little() -> None:
    rng = random.Random(2)
    for length in (5, 10, 20, 30):
        text = "".join(rng.choices(string.ascii_lowercase, k=length))
        assert estimate_bits(text * 2) <= estimate_bits(text) + 11


def test_any_text_has_an_estimate_soon() -> None:
    assert estimate_bits("пароль\0\n😀" * 50_000) > 0


def test_our_own_secrets_are_always_good_enough() -> None:
    rng = random.Random(3)
    for _ in range(200):
        secret = new_secret(rng.randbytes(32))
        assert len(secret) == 43
        assert set(secret) <= set(string.ascii_letters + string.digits + "-_")
        assert estimate_bits(secret) > 150


def test_a_secret_holds_all_of_its_256_bits() -> None:
    assert new_secret(bytes(32)) == "A" * 43
    secrets = {new_secret((1 << bit).to_bytes(32, "big")) for bit in range(256)}
    assert len(secrets) == 256


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_secret_needs_32_octets(length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        new_secret(bytes(length))
