"""What ``torch.save`` writes, read so that a hostile file can neither run code nor take more memory than it is long.

``torch.load(weights_only=True)`` runs no code either, but unpacks what is compressed, and lets a pickle ask for any
amount of memory.
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

_HARMLESS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch [A-Za-z0-9]+Storage"
)


class RefusedError(MnistError):
    """A file that is damaged, or would do something else than give tensors, numbers and tables of them."""


def load(content: bytes | bytearray | memoryview, name: str) -> Any:
    """The value that ``torch.save`` was given: tensors, numbers, and tables of them; ``name`` is for messages.

    Raises:
        RefusedError: it is damaged, or something else.
    """
    if not content:
        raise RefusedError(f"{name} is empty")
    if bytes(content[:1]) == b"\x80":  # a pickle, bare
        raise _suspicious(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it then refuses
            return torch.load(_harmless(content, name), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _suspicious(name) from error
    except RefusedError:
        raise
    except Exception as error:  # zipfile and torch.load raise many kinds for a damaged file, and document few
        raise RefusedError(f"{name} is damaged or no weights file: {first_line(error)}") from error


def _harmless(content: bytes | bytearray | memoryview, name: str) -> io.BytesIO:
    """The same archive of the same records, all looked at: none unfolds to more than it takes, or names a function."""
    harmless = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(harmless, "w") as copy:
        records = archive.infolist()
        if sum(record.file_size for record in records) > len(content):
            raise RefusedError(f"{name} is damaged, or unfolds to more than it is long, which weights never do")
        for record in records:
            held = archive.read(record)  # which compares its checksum, too
            if record.filename.endswith(".pkl") and not all(
                _HARMLESS.fullmatch(argument)
                for opcode, argument, _ in pickletools.genops(held)
                if opcode.name == "GLOBAL" and argument
            ):
                raise _suspicious(name)
            copy.writestr(record.filename, held)
    harmless.seek(0)
    return harmless


def _suspicious(name: str) -> RefusedError:
    return RefusedError(f"{name} holds something else than weights, which is not loaded: it could run code")
