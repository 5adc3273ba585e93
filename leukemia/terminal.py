"""Colours in a shell: on a terminal only, and not where NO_COLOR is set."""

import os
import re
from typing import TextIO

RED, YELLOW = "31", "33"
WORDS = {
    "error": RED,
    "failed": RED,
    "not read": RED,
    "Problem": RED,
    "LEAKS": RED,
    "WARNING": YELLOW,
    "NOTE": YELLOW,
}
_STARTS = re.compile(rf"(?m)(?:(?<=^)|(?<= ))({'|'.join(WORDS)})(?=:| )")


def emphasised(text: str, stream: TextIO) -> str:
    """A text with the words coloured that must not be overlooked, if the stream shows colours."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return _STARTS.sub(lambda found: f"\x1b[1;{WORDS[found[1]]}m{found[1]}\x1b[0m", text)
