"""structlog to stdout: one JSON object a line, or colors on a terminal, and nothing else."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]
FOREIGN_EVENT = "library.logged"
# Local variables are left out: they hold pictures and the content of dropped files.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure(level: str, format: Format, stream: TextIO | None = None) -> None:  # noqa: A002 - a key's name
    """Send every record of this process, including libraries' records and warnings, through one renderer.

    The format `auto` is console on a terminal, else JSON. The default stream is stdout.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=False,
    )
    stream = stream or sys.stdout
    is_terminal = stream is not None and stream.isatty()
    last: list[Processor] = [_TRACEBACKS, _finite, _in_order, structlog.processors.JSONRenderer(default=str)]
    if format == "console" or (format == "auto" and is_terminal):
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain)]
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a file name that is not UTF-8 must not lose the record
    handler = _Handler(stream)  # if stdout is closed (None), logging uses stderr
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), _name_foreign],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.INFO))
    logging.getLogger("daemon").setLevel(number)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


class _Handler(logging.StreamHandler[Any]):
    """Reports once that the log cannot be written, instead of a traceback for every record."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's own signature
        """Report the first failure only."""
        if not self.has_failed and sys.stderr is not None:
            sys.stderr.write("styletransferd: the log cannot be written\n")
        self.has_failed = True


def close() -> None:
    """Flush the log; a log that cannot be written must not change the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def get(name: str) -> Any:
    """Get the logger of one module."""
    return structlog.get_logger(name)


def _name_foreign(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Move a library's free text to `message`, below a constant event name that can be counted."""
    event["message"] = event.pop("event")
    event["event"] = FOREIGN_EVENT
    event["logger"] = event["_record"].name
    return event


def _finite(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write NaN and infinities as text: JSON cannot represent them."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in event.items()
    }


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the keys first that readers look for first."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Log an uncaught exception as one parsable line instead of a bare traceback."""
    if issubclass(kind, KeyboardInterrupt):
        return
    info = (kind, error, traceback) if error is not None else None
    get("daemon").critical("service.crashed", error=f"{kind.__name__}: {error}", exc_info=info)
