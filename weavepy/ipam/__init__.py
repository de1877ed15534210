"""Addresses with nothing central: a ring that says who may give out what, and each owner's own space.

Pure machines: numbers and `now` go in, news come out. Addresses are numbers, ranges half open.
"""
