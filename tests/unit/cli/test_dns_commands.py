"""`dns-add`, `dns-remove`, `dns-lookup`, `dns-args` and what else takes names, with a scripted router."""

import pytest
from scripted_router import ScriptedRouter, invoke


@pytest.mark.parametrize(
    ("words", "addresses", "target"),
    [
        (["abc"], [], "abc"),
        (["10.0.0.1", "abc"], ["10.0.0.1"], "abc"),
        (["10.0.0.1", "10.0.0.2"], ["10.0.0.1", "10.0.0.2"], ""),
    ],
)
def test_names_come_and_go_with_weaves_arguments(
    router: ScriptedRouter, words: list[str], addresses: list[str], target: str
) -> None:
    router.will_answer({})
    router.will_answer({"removed": 1})
    request = {"target": target, "addresses": addresses, "name": "a.weave.local"}
    for command in ("dns-add", "dns-remove"):
        result = invoke(command, *words, "-h", "a.weave.local")
        assert (result.exit_code, result.output) == (0, "")
    assert router.requests == [("POST /dns-add", request), ("POST /dns-remove", request)]


def test_wrong_words_are_usage_errors(router: ScriptedRouter) -> None:
    for words in (["abc", "10.0.0.1", "-h", "a"], ["abc"], ["-h", "a"], ["a", "b", "-h", "c"]):
        assert invoke("dns-add", *words).exit_code == 2, words
    assert router.requests == []


def test_removing_nothing_is_no_failure_but_said(router: ScriptedRouter) -> None:
    router.will_answer({"removed": 0})
    result = invoke("dns-remove", "abc")
    assert result.exit_code == 0
    assert "there was no such name on this host" in result.stderr
    assert router.requests == [("POST /dns-remove", {"target": "abc", "addresses": [], "name": ""})]


def test_lookup_prints_a_line_for_each_or_fails(router: ScriptedRouter) -> None:
    router.will_answer({"addresses": ["10.0.0.1", "10.0.0.2"]})
    router.will_answer({"addresses": []})
    result = invoke("dns-lookup", "a&b")
    assert (result.exit_code, result.stdout) == (0, "10.0.0.1\n10.0.0.2\n")
    result = invoke("dns-lookup", "web")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "web has no address now" in result.stderr
    assert router.requests[0][0] == "GET /dns-lookup?name=a%26b"


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        (("weave.local.", "169.254.67.83", 53), 0, "--dns=169.254.67.83 --dns-search=weave.local.", ""),
        (("weave.local.", "10.0.0.1", 5300), 0, "--dns=10.0.0.1 --dns-search=weave.local.", "port 5300"),
        ((None, None, None), 0, "", ""),
        (("weave.local.", None, None), 1, "", "there is no address of this host to ask"),
    ],
)
def test_arguments_for_docker(
    router: ScriptedRouter, answer: tuple[object, ...], code: int, out: str, err: str
) -> None:
    router.will_answer(dict(zip(("domain", "address", "port"), answer, strict=True)))
    result = invoke("dns-args")
    assert (result.exit_code, result.stdout) == (code, out)
    assert err in result.stderr


def test_attach_and_expose_take_names(router: ScriptedRouter) -> None:
    router.will_answer({"given": ["10.0.0.1/24"]})
    router.will_answer({"exposed": ["10.0.0.9/24"]})
    words = ["-h", "web", "-h", "www", "--rewrite-hosts", "--without-dns", "--add-host", "db:10.0.0.2"]
    assert invoke("attach", *words, "pid:7").stdout == "10.0.0.1\n"
    assert invoke("expose", "-h", "one", "10.0.0.9/24").stdout == "10.0.0.9\n"
    assert router.requests == [
        (
            "POST /attach",
            {
                "target": "pid:7",
                "cidrs": [],
                "names": ["web", "www"],
                "hosts": ["db:10.0.0.2"],
                "rewrite_hosts": True,
                "without_dns": True,
            },
        ),
        ("POST /expose", {"cidrs": ["10.0.0.9/24"], "masquerade": True, "names": ["one"]}),
    ]
