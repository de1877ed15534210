"""The errors of the program. Who broke the rule decides which one is raised.

`WireError` is the only exception that decoding bytes may raise; `RemoteProtocolError` closes one link and
nothing else; `LocalError` is for the person at the keyboard and says what to do.
"""


class WeavepyError(Exception):
    """Base of all errors that weavepy raises on purpose."""


class WireError(WeavepyError):
    """Bytes could not be decoded within their bounds."""


class RemoteProtocolError(WeavepyError):
    """A peer broke the protocol. Its link is closed; nothing else changes."""


class ClockSkewError(WeavepyError):
    """A peer's wall clock is too far from ours for what it gossips to be taken. Nobody broke a rule."""


class LocalError(WeavepyError):
    """The caller or the operator asked for something impossible; the text says what to do instead."""


class NotThereError(LocalError):
    """What was asked about doesn't exist here."""


class UsageError(LocalError):
    """What was typed can't be right, on this or any other machine: trying again won't help."""
