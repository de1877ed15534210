"""HTTP of real routers as Weave Net's scripts and Prometheus use it: from inside a host's namespace, over TCP."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families
from roads import connections, start, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.traffic import ping

_SCRIPT = """
import json, sys, urllib.error, urllib.request
method, url, body, headers = json.loads(sys.argv[1])
request = urllib.request.Request(url, body.encode() if body is not None else None, headers, method=method)
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        found = answer.status, answer.read().decode(), dict(answer.headers)
except urllib.error.HTTPError as error:
    found = error.code, error.read().decode(), dict(error.headers)
print(json.dumps(found))
"""


def http(host: Host, url: str, body: str | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Asks as curl would: a form if there is a body. Returns (status, text, headers)."""
    what = [
        "GET" if body is None else "POST",
        f"http://{url}",
        body,
        {k.replace("_", "-"): v for k, v in headers.items()},
    ]
    done = host.run([sys.executable, "-c", _SCRIPT, json.dumps(what)])
    status, text, answered = json.loads(done.stdout)
    return status, text, answered


def test_what_prometheus_gets_of_a_network_that_works(lab: Lab) -> None:
    for _ in range(2):
        lab.add_host()
    one, _ = start(lab, [[], [lab.hosts[0].address]])
    for host in lab.hosts:
        wait_for_links(host, 1)
    assert ping(one, "10.32.1.2", count=5, size=1000).complete
    status, page, headers = http(lab.hosts[0], "127.0.0.1:6782/metrics")
    assert (status, headers["Content-Type"].startswith("text/plain; version=")) == (200, True)
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.value)
    for name in (
        "transmit_bytes_total",
        "receive_bytes_total",
        "transmit_frames_total",
        "receive_frames_total",
    ):
        assert found[f"weavepy_link_{name}"][0] >= (5000 if "bytes" in name else 5), name
    assert 0 < found["weavepy_link_round_trip_seconds"][0] < 1
    assert found["weavepy_link_established"] == [1]
    assert found["weavepy_link_reconnects_total"] == [0]
    assert sum(found["weave_connections"]) == 1
    assert found["weave_connection_terminations_total"] == [0]
    assert found["weavepy_attachments"] == [1]
    assert found["process_resident_memory_bytes"][0] > 1e7
    secret = (lab.directory / "password").read_text().strip()
    assert secret not in page

    lab.hosts[1].weavepy("stop")
    lab.hosts[1].weavepy("launch")
    wait_for_links(lab.hosts[0], 1)
    _, page, _ = http(lab.hosts[0], "127.0.0.1:6782/metrics", Accept="application/openmetrics-text")
    assert page.endswith("# EOF\n")
    lines = page.splitlines()
    assert [
        line.rpartition(" ")[2] for line in lines if line.startswith("weavepy_link_reconnects_total{")
    ] == ["1.0"]
    assert "weave_connection_terminations_total 1.0" in lines


def test_weaves_requests(lab: Lab) -> None:
    one, two, three = (lab.add_host() for _ in range(3))
    password = new_password_file(lab.directory / "password")
    api = "127.0.0.1:6784"
    launch(one, password, "h1", "--no-discovery", "--http-addr", api)
    for host, name in ((two, "h2"), (three, "h3")):
        launch(host, password, name, "--no-discovery")

    assert http(one, f"{api}/connect", f"peer={two.address}&peer={three.address}")[:2] == (200, "")
    wait_for_links(one, 2)
    assert http(one, f"{api}/status/targets")[1].split() == [two.address, three.address]
    assert http(one, f"{api}/connect", f"peer={three.address}&replace=true")[:2] == (200, "")
    assert http(one, f"{api}/status/targets")[1].split() == [three.address]
    assert len(connections(one)) == 2  # a live one stays
    assert http(one, f"{api}/forget", f"peer={three.address}&peer=nobody")[:2] == (200, "")
    assert http(one, f"{api}/status/targets")[1] == ""
    status, text, _ = http(one, f"{api}/connect", "peer=10.99.0.1:99999")
    assert (status, "port is 1 to 65535" in text) == (400, True)
    status, text, _ = http(one, f"{api}/connect", f"peer={two.address}", Origin="http://evil.example")
    assert (status, "browser" in text) == (400, True)
    assert http(one, f"{api}/status/targets")[1] == ""

    assert http(one, "127.0.0.1:6782/connect", f"peer={two.address}")[0] == 404  # where one can only read
    for address in (api, "127.0.0.1:6782"):
        assert json.loads(http(one, f"{address}/report", Accept="application/json")[1])["Ready"] is True
        assert http(one, f"{address}/report")[0] == 400
        assert http(one, f"{address}/report?format=%7B%7B.Router.NickName%7D%7D")[1] == "h1"
        assert "Name: " in http(one, f"{address}/status")[1]
        assert http(one, f"{address}/status/dns")[:2] == (200, "")


def test_reports_by_template_and_failed_targets_as_weave_shows_them(lab: Lab) -> None:
    host = lab.add_host()
    launch(host, new_password_file(lab.directory / "password"), "h1", f"{host.address}:1", host.address)
    template = '{{range .Router.Connections}}{{if eq .State "failed" "retrying"}}{{.Address}} {{end}}{{end}}'
    while len(host.weavepy("report", "-f", template).stdout.split()) < 2:
        pass  # the lab's time limit ends this
    shown = host.weavepy("status", "connections").stdout
    refused, ourselves = sorted(shown.splitlines(), key=lambda line: "own" in line)
    assert refused.startswith(f"-> {host.address}:1 ")
    assert " connection refused" in refused
    assert ("failed" in refused) == (" UTC" in refused)
    assert "failed      the address is this router's own, retry: never" in ourselves
    name = host.weavepy("report", "-f", "{{.Router.Name}}").stdout.strip()
    assert name in host.weavepy("status", check=False).stdout
    done = host.weavepy("report", "-f", "{{.Nothing}}", check=False)
    assert (done.returncode, "there is no field Nothing" in done.stderr) == (1, True)
    assert (
        host.weavepy("report", "-f", "{{if .Proxy}}y{{else}}n{{end}} {{.DNS.Domain}}").stdout
        == "n weave.local.\n"
    )
