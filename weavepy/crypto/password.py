"""How good a password is, and how to make one that needs no such question.

Rules of this file. The estimate only ever warns, so it is short rather than clever: it looks for words,
years, rows of keys and repetitions, and takes the rest for random. Text that a person made up may still get
too many bits, since no estimate knows what it means to them.
"""

import base64
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from string import ascii_lowercase
from typing import Final

SECRET_BYTES: Final = 32
_LOOKED_AT: Final = 64  # characters; by then the question is settled

_CLASSES: Final = (
    ("[a-z]", 26),
    ("[A-Z]", 26),
    ("[0-9]", 10),
    (r"[\x00-/:-@\[-`{-\x7f]", 33),
    (r"[^\x00-\x7f]", 100),
)
_CHEAP_CHARS_MIN: Final = 3  # shorter runs and repetitions happen by chance
_RUN_BITS: Final = 8.0  # where a row of keys or an alphabet starts, which way it goes, how far
_ROWS: Final = tuple(
    row + " " + row[::-1]
    for row in (
        "qwertyuiop",
        "asdfghjkl",
        "zxcvbnm",
        "qwertzuiop",
        "azertyuiop",
        "01234567890",
        ascii_lowercase,
    )
)
_YEAR_BITS: Final = 7.0
_YEAR: Final = re.compile(r"(?:19|20)[0-9]{2}")

_WORD_CHARS_MIN: Final = 4
_WORD_BITS: Final = 14.0  # one of some 16,000 words that people know
_WORD_BITS_PER_CHAR: Final = 2.2  # of long words
_WORD: Final = re.compile(r"[A-Za-z014@$!|357]{4,}")
_CASES: Final = re.compile(r"[^A-Z]+|[^a-z]+|.[^A-Z]+")  # all small, all capital, or the first one capital
_DISGUISES: Final = str.maketrans("014@$!|357", "oiaasiiest")
_PAIRS_IN_WORDS: Final = 0.6
_PAIRS: Final = frozenset(
    re.findall(
        "[a-z]+",
        """
    th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me
    de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns ho di fo pe ec pr no ct us ac ot
    il tr ly nc et ut ss so rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai
    sh ir su id os iv ia am fi ci vi pl ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke fr oo av ag
    if ap gr od bo sp rd do
    """,
    )
)


def estimate_bits(password: str) -> float:
    """Estimates how many bits an attacker, who knows how people choose, has to guess.

    It is the cheapest way to read the text as a row of words, runs, repetitions, years and random characters.
    """
    text = password[:_LOOKED_AT]
    char_bits = math.log2(sum(size for pattern, size in _CLASSES if re.search(pattern, text)) or 1)
    cheapest = [0.0] + [math.inf] * len(text)  # cheapest[n]: bits of the first n characters
    for at in range(len(text)):
        for length, bits in ((1, char_bits), *_readings(text, at)):
            cheapest[at + length] = min(cheapest[at + length], cheapest[at] + bits)
    return cheapest[-1]


def new_secret(entropy: bytes) -> str:
    """Turns 32 random octets into text that is safe in URLs, shells and files: 43 characters, 256 bits."""
    if len(entropy) != SECRET_BYTES:
        raise ValueError("a secret is made of 32 random octets")
    return base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()


def _readings(text: str, at: int) -> Iterator[tuple[int, float]]:
    """Yields (length, bits) of what the text at `at` may be, other than a random character."""
    if (run := _run_length(text, at)) >= _CHEAP_CHARS_MIN:
        yield run, _RUN_BITS
    if (repeated := _repeated_length(text, at)) >= _CHEAP_CHARS_MIN:
        yield repeated, math.log2(at) + math.log2(repeated)
    if _YEAR.match(text, at):
        yield 4, _YEAR_BITS
    if match := _WORD.match(text, at):
        letters = match.group()
        for length in range(_WORD_CHARS_MIN, len(letters) + 1):
            word = letters[:length]
            plain = word.lower().translate(_DISGUISES)
            if _CASES.fullmatch(word) and _looks_like_words(plain):
                disguised = sum(a != b for a, b in zip(plain, word, strict=True))
                yield length, max(_WORD_BITS, length * _WORD_BITS_PER_CHAR) + disguised


def _run_length(text: str, at: int) -> int:
    """Counts neighbouring keys, letters of the alphabet or digits, or one character over and over."""
    lower = text[at:].lower()
    same = len(lower) - len(lower.lstrip(lower[0]))
    return max(same, *(next((n for n in range(len(lower), 0, -1) if lower[:n] in row), 0) for row in _ROWS))


def _repeated_length(text: str, at: int) -> int:
    """Counts how far the text goes on with something that it said before."""
    return next(
        (n for n in range(len(text) - at, 0, -1) if text.find(text[at : at + n], 0, at + n - 1) >= 0), 0
    )


def _looks_like_words(letters: str) -> bool:
    pairs = [first + second in _PAIRS for first, second in pairwise(letters)]
    return sum(pairs) >= _PAIRS_IN_WORDS * len(pairs)
