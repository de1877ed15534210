"""Weave Net's `POST /expose/ADDRESS/LENGTH`: what it takes, and how it is answered."""

import pytest
from test_api import RecordingControl, raw, run_full


@pytest.mark.parametrize(
    ("said", "masquerade"),
    [
        *((f"?skipNAT={text}", False) for text in ("1", "t", "T", "TRUE", "true", "True")),
        *((f"?skipNAT={text}", True) for text in ("0", "f", "F", "FALSE", "false", "False", "")),
        ("", True),
    ],
)
def test_weave_nets_way_to_expose_takes_every_word_that_go_takes(said: str, masquerade: bool) -> None:
    async def scenario(control: RecordingControl, port: int) -> None:
        request = f"POST /expose/10.0.0.9/24{said} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
        assert await raw(port, request) == (204, b"")
        assert control.calls == [("expose", ["10.0.0.9/24"], masquerade)]

    run_full(scenario)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/expose/10.0.0.9/24?skipNAT=tRUE", 400, '"skipNAT" must be true or false\n'),
        ("/expose/10.0.0.9/24?skipNAT=yes", 400, '"skipNAT" must be true or false\n'),
        ("/expose/10.0.0/24", 400, "'10.0.0/24' is not an address"),
        ("/expose/10.0.0.9/33", 400, "'10.0.0.9/33' is not an address"),
        ("/expose/net:10.0.0.0/24", 400, "'net:10.0.0.0/24' is not an address"),
        ("/expose/10.0.0.66/24", 500, "unable to expose: no bridge\n"),
    ],
)
def test_weave_nets_way_to_expose_is_answered_in_plain_text(path: str, status: int, said: str) -> None:
    async def scenario(control: RecordingControl, port: int) -> None:
        answer = await raw(port, f"POST {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        assert (answer[0], answer[1].decode().startswith(said)) == (status, True), answer
        assert control.calls == []

    run_full(scenario)
