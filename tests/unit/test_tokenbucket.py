"""The token bucket: its burst, and what it gets back with time."""

from weavepy.tokenbucket import TokenBucket


def test_bucket_refills_up_to_its_burst() -> None:
    bucket = TokenBucket(3, 1.0, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.5)
    assert bucket.take(101.5)
