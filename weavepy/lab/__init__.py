"""Hosts made of network namespaces on one machine: for the demo, benchmarks and tests.

Rules. Routers are run by their command line only, as a person would. Whatever is made is removed, also on ^C
and on failure, and only processes inside the lab's own namespaces are ended.
"""
