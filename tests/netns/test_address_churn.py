"""Containers that come and go on five hosts whose routers are killed: no address twice, and none is lost for ever."""

import random
import time
from ipaddress import IPv4Interface

import pytest
from inside import addresses
from roads import wait_for_links

from weavepy.client import Client, RouterNotRunningError
from weavepy.lab.hosts import Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import Space

HOSTS = 5
CONTAINERS = 6  # on each host: as many as there are addresses in all
RANGE = "10.32.0.0/27"


class Record:
    """What every container should have, as we were told."""

    def __init__(self, lab: Lab) -> None:
        self.hosts = lab.hosts
        self.clients = [Client(str(host.run_dir)) for host in lab.hosts]
        self.containers = [
            (number, lab.add_container(f"c{number}-{n}"))
            for number in range(HOSTS)
            for n in range(CONTAINERS)
        ]
        self.has: dict[str, str] = {}

    def attach(self, number: int, container: Space) -> None:
        answer = self.clients[number].post("/attach", {"target": container.target, "cidrs": []}, 40.0)
        (given,) = answer["given"]
        before = self.has.get(container.target)
        assert before in (None, given), f"{container.target} had {before} and got {given}"
        assert given not in {cidr for target, cidr in self.has.items() if target != container.target}
        self.has[container.target] = given

    def detach(self, number: int, container: Space) -> None:
        answer = self.clients[number].post("/detach", {"target": container.target, "cidrs": []}, 40.0)
        had = self.has.pop(container.target, None)
        assert answer["removed"] == ([had] if had else [])

    def expect(self) -> None:
        """Compares with what the routers and the kernel say."""
        for _, container in self.containers:
            had = self.has.get(container.target)
            assert addresses(container, "ethwe") == ([had] if had else [])
        reported = {
            entry["Target"]: entry["Cidrs"]
            for client in self.clients
            for entry in client.get("/report")["Attachments"]
        }
        assert reported == {target: [cidr] for target, cidr in self.has.items()}

    def kill(self, number: int) -> None:
        self.hosts[number].kill_router()
        self.hosts[number].weavepy("launch")
        self.ready(number)

    def ready(self, number: int) -> None:
        """Waits until what was attached is attached again."""
        targets = {container.target for n, container in self.containers if n == number}
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                report = self.clients[number].get("/report")
            except RouterNotRunningError:
                continue
            if {entry["Target"] for entry in report["Attachments"]} == targets & self.has.keys():
                return
        raise AssertionError(f"h{number} didn't come back with what it had")


def churn(lab: Lab, changes: int, kills: int, seed: int) -> None:
    for _ in range(HOSTS):
        lab.add_host()
    password = lab.directory / "password"
    new_password_file(password)
    for number, host in enumerate(lab.hosts):
        peers = [other.address for other in lab.hosts if other is not host]
        launch(host, password, f"h{number}", "--ipalloc-range", RANGE, *peers)
    for host in lab.hosts:
        wait_for_links(host, HOSTS - 1)
    draw, record = random.Random(seed), Record(lab)
    due = set(draw.sample(range(changes), kills))
    for change in range(changes):
        number, container = draw.choice(record.containers)
        if container.target in record.has:
            record.detach(number, container)
        else:
            record.attach(number, container)
        if change in due:
            record.kill(draw.randrange(HOSTS))
    record.expect()
    # All there is can still be had: first by everybody, then by one host alone.
    for host in lab.hosts:
        wait_for_links(host, HOSTS - 1, 40.0)
    for number, container in record.containers:
        record.attach(number, container)
    record.expect()
    assert len({IPv4Interface(cidr).ip for cidr in record.has.values()}) == HOSTS * CONTAINERS == 30


def test_no_address_is_given_twice_and_none_is_lost(lab: Lab) -> None:
    churn(lab, changes=40, kills=3, seed=1)


@pytest.mark.deep
@pytest.mark.parametrize("seed", [2, 3])
def test_nor_in_five_hundred_changes(lab: Lab, seed: int) -> None:
    churn(lab, changes=500, kills=25, seed=seed)
