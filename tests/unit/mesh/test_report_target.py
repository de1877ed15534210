"""What the report says of addresses that aren't connected: Weave Net's states, and when they are tried again."""

import pytest

from weavepy.events import Address
from weavepy.mesh.dialler import TargetStatus
from weavepy.mesh.report import report_target

A = Address("10.0.0.2", 6783)


@pytest.mark.parametrize(
    ("status", "state", "info", "attributes"),
    [
        (TargetStatus(A, "attempting", None, None), "connecting", "", {}),
        (TargetStatus(A, "attempting", "refused", None), "retrying", "refused", {}),
        (TargetStatus(A, "retrying", "refused", 107.25), "failed", "refused", {"retry_s": 7.25}),
        (TargetStatus(A, "retrying", "refused", 99.0), "failed", "refused", {"retry_s": 0.0}),  # due
        (TargetStatus(A, "retrying", "limit", None), "failed", "limit", {}),  # when somebody else goes
        (TargetStatus(A, "retrying", None, 100.0), "connecting", "", {}),  # there was no room yet
        (TargetStatus(A, "failed", "it is us", None), "failed", "it is us", {"retry_s": None}),
    ],
)
def test_states(status: TargetStatus, state: str, info: str, attributes: dict[str, object]) -> None:
    assert report_target(status, 100.0) == {
        "Address": "10.0.0.2:6783",
        "Outbound": True,
        "State": state,
        "Info": info,
        "Attrs": attributes,
    }
