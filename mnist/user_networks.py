"""Networks that users define in their own modules, named as ``package.module:Class``."""

import importlib
import sys
from pathlib import Path

import torch

from mnist import architecture
from mnist.architecture import ArchitectureError, Classifier
from mnist.errors import first_line
from mnist.shapes import CLASSES, IMAGE_SIDE


def require(name: str) -> None:
    """Check that there is an architecture with this name; import a class that is named ``package.module:Class``.

    Raises:
        ArchitectureError: if there is no such architecture, or the class cannot be used as a network.
    """
    if ":" in name:
        register(name)
    elif name not in architecture.ARCHITECTURES:
        known = ", ".join(architecture.ARCHITECTURES)
        raise ArchitectureError(
            f"no architecture is called {name!r} (available: {known}, or MODULE:CLASS for a network of your own)"
        )


def register(name: str) -> None:
    """Import the class ``package.module:Class``, and add it to the known architectures under this name.

    The current folder is searched first. Importing a module runs its code, so only pass a name that the user gave,
    never one from a file.

    Raises:
        ArchitectureError: if the class cannot be imported, or is not a Classifier with ten logits per image.
    """
    module_name, _, class_name = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
        if not (isinstance(kind, type) and issubclass(kind, Classifier)):
            raise TypeError("it is not a subclass of mnist.architecture.Classifier")
        architecture.ARCHITECTURES[name] = kind
        network = architecture.build(name, torch.Generator())
        logits = architecture.predict(network, torch.zeros(2, 1, IMAGE_SIDE, IMAGE_SIDE))
        if logits.shape != (2, CLASSES):
            raise TypeError(f"its output for 2 images has the shape {list(logits.shape)}, not [2, {CLASSES}]")
    except (Exception, SystemExit) as error:  # the module can raise any error, or end the program
        architecture.ARCHITECTURES.pop(name, None)
        missing = isinstance(error, ModuleNotFoundError) and error.name in (module_name, module_name.split(".")[0])
        hint = " (run the command in the folder that contains the module, and write MODULE without .py)"
        raise ArchitectureError(
            f"{name} cannot be used as a network: {first_line(error)}{hint if missing else ''}"
        ) from error
    finally:
        sys.path.remove(folder)
