"""How bytes reach the disk: whole or not at all, and never over a name that somebody else has taken."""

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes | bytearray) -> None:
    """Write ``content`` to ``path`` so that, whenever this is killed, the path holds its old content or all of the new.

    Written beside the target, flushed to the device, then renamed over it. On an error the target is as it was.

    Raises:
        OSError: the folder is missing or read-only, the disk is full, ...
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
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


def _flush_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a power cut. Windows has no such call, and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
