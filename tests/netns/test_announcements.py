"""An address that moves to another MAC on another host is reached at once, whoever still knows the old one."""

from roads import start, time_until_reached, wait_for_links

from weavepy.lab.hosts import Lab
from weavepy.lab.traffic import ping


def test_an_address_that_moves_is_reached_within_a_second(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    old, third = start(lab, [[], [one.address]])
    new = lab.add_container("new")
    wait_for_links(one, 1)
    time_until_reached(third, "10.32.1.1")
    assert ping(old, "10.32.1.2").complete
    mac = one.weavepy("ps", old.target).stdout.split()[1]
    assert mac in third.run(["ip", "neigh", "show", "10.32.1.1"]).stdout
    one.weavepy("detach", old.target)
    two.weavepy("attach", "10.32.1.1/24", new.target)
    assert time_until_reached(third, "10.32.1.1", within_s=1.0) < 1.0
    assert mac not in third.run(["ip", "neigh", "show", "10.32.1.1"]).stdout

    # And back, while the old MAC is as firmly known as can be; nothing but an announcement changes that.
    two.weavepy("detach", new.target)
    mac = third.run(["ip", "neigh", "show", "10.32.1.1"]).stdout.split()[4]
    third.run(["ip", "neigh", "replace", "10.32.1.1", "lladdr", mac, "dev", "ethwe", "nud", "reachable"])
    one.weavepy("attach", "10.32.1.1/24", old.target)
    assert time_until_reached(third, "10.32.1.1", within_s=1.0) < 1.0


def test_addresses_are_announced_again_after_a_restart(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    first, third = start(lab, [[], [one.address]])
    wait_for_links(one, 1)
    time_until_reached(third, "10.32.1.1")
    one.weavepy("expose", "10.32.1.9/24")
    one.weavepy("stop")
    for address in ("10.32.1.1", "10.32.1.9"):
        third.run(
            [
                "ip",
                "neigh",
                "replace",
                address,
                "lladdr",
                "02:00:00:00:00:77",
                "dev",
                "ethwe",
                "nud",
                "reachable",
            ]
        )
    one.weavepy("launch")
    wait_for_links(two, 1)
    for address in ("10.32.1.1", "10.32.1.9"):
        time_until_reached(third, address, within_s=2.0)
    assert ping(first, "10.32.1.2").complete
