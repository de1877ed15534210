"""Tests of real interfaces: every test here needs root and works inside namespaces of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from weavepy.lab.hosts import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this directory, and only these, as needing root."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made
