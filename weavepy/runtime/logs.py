"""Where log lines go: a rotated file in the run directory, and standard error in the foreground.

Rules of this file. Lines are written for the operator: time, level, part, text. Nothing here knows a
secret, and no other module may format one into a message: types that hold secrets leave them out of their
repr.
"""

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

from weavepy.printable import visible

FILE_NAME = "weavepy.log"
FILE_BYTES_MAX = 4 * 1024 * 1024
FILES_KEPT = 3


class JsonLines(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, text, and a traceback if there is
    one.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class PlainLines(logging.Formatter):
    """`2026-10-01T12:00:00.000Z info router: text`, control characters in the text made visible.

    Text from peers (a nickname) can reach the log; an escape sequence must not reach the terminal of its
    reader.
    """

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("weavepy.")
        text = visible(record.getMessage())
        line = f"{_utc(record)} {record.levelname.lower()} {name}: {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def start_logging(run_dir: Path, *, level: str, as_json: bool, foreground: bool) -> None:
    """Sends what the program logs to the file in `run_dir`, and to standard error if in the foreground."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            run_dir / FILE_NAME, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8"
        )
    ]
    if foreground:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(JsonLines() if as_json else PlainLines())
        root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries speak up only when something is wrong
    logging.getLogger("weavepy").setLevel(level.upper())
    logging.captureWarnings(True)


def stop_logging() -> None:
    """Closes the handlers that `start_logging` opened."""
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h.formatter, JsonLines | PlainLines)]:
        root.removeHandler(handler)
        handler.close()


def _utc(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
