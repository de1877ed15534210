"""Bytes to values and back: gob, features, control messages, topology, the control messages of both overlays.

Rules of this package. Functions are total: a decoder returns a value or raises WireError, in time and memory
proportional to its input. No input or output, no clock, no policy.
"""
