"""Tests against the original gossip library: every test here needs root and works inside namespaces of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_peer import Interop

from weavepy.lab.hosts import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this directory, and only these, as needing root."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture
def net() -> Iterator[Interop]:
    with Lab() as lab, Interop(lab) as made:
        yield made
