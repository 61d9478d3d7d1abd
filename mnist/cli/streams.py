"""Wrap stdout and stderr so that a failed write does not end a command.

If the disk is full, or the pipe or terminal is closed, every write to these streams fails, but the command may still
have results to save. Therefore, the first error is stored, later output is discarded, and the command continues.
"""

import errno
import io
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

SECONDS_BETWEEN_ATTEMPTS = 0.01  # delay between attempts to write to a full non-blocking pipe
_CLOSED_PIPE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)


class ForgivingOutput(io.RawIOBase):
    """An unbuffered output stream that stores the first write error and then discards all output."""

    def __init__(self, raw: io.RawIOBase, owner: object = None) -> None:
        self._raw = raw
        self._owner = owner  # keeps the original stream alive: it closes ``raw`` when it is deleted
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any, /) -> int:
        """Write bytes, or discard them after an error; return the number of bytes consumed."""
        if self.error is None:
            try:
                while (written := self._raw.write(data)) is None:
                    time.sleep(SECONDS_BETWEEN_ATTEMPTS)
            except OSError as error:
                self.error = error
            else:
                return written
        return len(data)


def protect(errors: str) -> None:
    """Replace `sys.stdout` and `sys.stderr` with streams whose writes never fail.

    Args:
        errors: error handler for characters that a stream cannot encode.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_closed_descriptors()
    sys.stdout, sys.stderr = (_protected(stream, errors) for stream in (sys.stdout, sys.stderr))


def _open_closed_descriptors() -> None:
    """Open the null device on each closed descriptor from 0 to 2, so that no later file gets this descriptor."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _protected(stream: TextIO | None, errors: str) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # not a file, such as the output of a notebook
    stream.reconfigure(errors=errors)
    raw = getattr(stream.buffer, "raw", stream.buffer)  # with python -u there is no buffer
    if not isinstance(raw, io.RawIOBase) or isinstance(raw, ForgivingOutput):
        return stream
    forgiving: Any = ForgivingOutput(raw, owner=stream)
    return io.TextIOWrapper(
        forgiving if raw is stream.buffer else io.BufferedWriter(forgiving),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def lost_output() -> OSError | None:
    """Flush both streams; return the error that caused lost output, or None. A pipe that its reader closed is fine."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))
        if isinstance(raw, ForgivingOutput) and raw.error and raw.error.errno not in _CLOSED_PIPE:
            return raw.error
    return None
