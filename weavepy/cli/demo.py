"""`weavepy demo`: shows on one machine what many hosts would do.

Rules of this file. It only hands over to the laboratory; what is shown, and what must hold, is written there.
"""

from __future__ import annotations

import click


@click.command()
@click.option("--hosts", type=click.IntRange(2), default=3, show_default=True, help="How many hosts to make.")
@click.option("--keep", is_flag=True, help="Leave everything running to look at.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the results to this file.")
@click.pass_context
def demo(ctx: click.Context, hosts: int, keep: bool, json_file: str | None) -> None:
    """Build hosts from network namespaces, join them and check that it all works. Needs root, but no
    Docker.
    """
    from weavepy.lab.demo import run_demo

    ctx.exit(run_demo(hosts=hosts, keep=keep, json_file=json_file, out=click.echo))
