"""At which level a line that the engine's child prints is logged: the one place that decides it.

An error that matters raises an exception, so what TensorFlow prints is for whoever looks for a defect. Lines of
its logger (a letter and the date, or the date and a letter) have a level of their own, and errors stay visible.
What it prints before that logger is ready, or as errors on every machine without a GPU, is known by its words.
"""

from __future__ import annotations

import re
from typing import Final

_LOGGED: Final = re.compile(r"(?:\d{4}-\d\d-\d\d [\d:.]+: (?=. )|(?=.\d{4} ))([IWEF])")
_LEVELS: Final = {"I": "debug", "W": "debug", "E": "info", "F": "error"}
_CHATTER: Final = re.compile(
    "cuInit|CUDA_ERROR_NO_DEVICE|Could not find cuda drivers|Unable to register cu|TF-TRT|computation placer"
    "|absl::InitializeLog|oneDNN custom operations are on|CPU instructions|CPU Frequency"
)


def level(line: str) -> str:
    """Name the level of a line: debug, info or error."""
    if _CHATTER.search(line):
        return "debug"
    logged = _LOGGED.match(line)
    return _LEVELS[logged[1]] if logged else "info"
