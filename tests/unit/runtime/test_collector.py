"""The collector's settings, in a process of its own: they are the whole process's."""

import subprocess
import sys

CHECK = """
import gc
from weavepy.runtime.collector import keep_collector_away
keep_collector_away()
assert gc.get_freeze_count() > 0
before = [generation["collections"] for generation in gc.get_stats()]
kept = [[] for _ in range(1_000_000)]
young, middle, old = (g["collections"] - b for g, b in zip(gc.get_stats(), before))
assert 50 <= young <= 110, young
assert old == 0, old
kept.append(kept)
del kept
assert gc.collect() > 1_000_000  # cycles still end
"""


def test_what_is_kept_makes_no_full_collections() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
