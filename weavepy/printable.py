"""Text from others, made safe to print.

Rules of this file. It stands beside `errors.py` and `limits.py`: everybody who shows what a peer, a container or a
program said may use it.
"""


def visible(text: str) -> str:
    """Escapes what a terminal would obey instead of show."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
