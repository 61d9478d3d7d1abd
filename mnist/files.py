"""How bytes reach the disk: whole or not at all, and never over a name that somebody else has taken."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | bytearray) -> None:
    """Write ``content`` to ``path`` so that, whenever this is killed, the path holds its old content or all of the new.

    Written beside the target, flushed to the device, then renamed over it.

    Raises:
        OSError: the folder is missing or read-only, the disk is full, ...; the target is as it was.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the caller knows
        raise
    _flush_folder(path.parent)


def take_name(path: Path) -> bool:
    """Create ``path`` as an empty file and return True, or return False where something has that name already.

    Of any number of processes that try at once, exactly one is told True.
    """
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    return True


def to_json(value: Any) -> bytes:
    """The value as a JSON file holds it, with null for every number that is not finite, which JSON does not have."""
    return (json.dumps(_finite_or_none(value), indent=2, allow_nan=False) + "\n").encode()


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(item) for item in value]
    return value


def _flush_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a power cut, where the system has a way to: Windows and some disks do not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
