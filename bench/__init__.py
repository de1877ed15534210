"""Benchmarks: `python -m bench overlay` and its like. See bench/README.md."""
