"""Load files written by ``torch.save``. A hostile file cannot run code or use far more memory than its own size.

``torch.load(weights_only=True)`` runs no code either, but it decompresses records of any size, and a pickle can make it
allocate any amount of memory.
"""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from typing import Any

import torch

from mnist.errors import MnistError, first_line

# The functions and classes that a pickle of tensors and containers may refer to.
_ALLOWED_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch [A-Za-z0-9]+Storage"
)


class RefusedError(MnistError):
    """A file that is damaged, or contains anything but tensors, numbers and containers of them."""


def load(content: bytes | bytearray | memoryview, name: str) -> Any:
    """Return the value that was passed to ``torch.save``: tensors, numbers and containers of them.

    Args:
        content: contents of the file.
        name: name of the file, for error messages.

    Raises:
        RefusedError: if the file is damaged, or contains other objects.
    """
    if not content:
        raise RefusedError(f"{name} is empty")
    if bytes(content[:1]) == b"\x80":  # a pickle that is not in an archive
        raise RefusedError(f"{name} is a bare pickle, which could run code (save the state_dict with torch.save)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about some pickles before it refuses them
            return torch.load(_checked_copy(content, name), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(name) from error
    except RefusedError:
        raise
    except Exception as error:  # a damaged file can raise many types of errors, few of which are documented
        raise RefusedError(f"{name} is damaged or not a weights file (.pth): {first_line(error)}") from error


def _checked_copy(content: bytes | bytearray | memoryview, name: str) -> io.BytesIO:
    """Return a copy of the archive, after checking that it is not compressed and refers only to allowed globals."""
    checked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(checked, "w") as copy:
        records = archive.infolist()
        if sum(record.file_size for record in records) > len(content):
            raise RefusedError(f"{name} is damaged or compressed (torch.save does not compress its files)")
        for record in records:
            data = archive.read(record)  # also verifies the record's checksum
            if record.filename.endswith(".pkl") and not all(
                _ALLOWED_GLOBALS.fullmatch(argument)
                for opcode, argument, _ in pickletools.genops(data)
                if opcode.name == "GLOBAL" and argument
            ):
                raise _unsafe(name)
            copy.writestr(record.filename, data)
    checked.seek(0)
    return checked


def _unsafe(name: str) -> RefusedError:
    return RefusedError(f"{name} contains objects other than weights and could run code (save only the state_dict)")
