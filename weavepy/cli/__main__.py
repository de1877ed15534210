"""Lets `python -m weavepy.cli` be the command."""

from weavepy.cli import main

main(prog_name="weavepy")
