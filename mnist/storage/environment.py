"""The software and the machine that a model is trained with."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

import mnist
from mnist import resources
from mnist.storage.card import Environment

PACKAGE = Path(mnist.__file__).parent
MAX_GIT_SECONDS = 1.0  # time limit for one git command


def describe() -> Environment:
    """Describe the environment of this process for a model card."""
    commit, clean = source_commit()
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        platform=platform.platform(),
        threads=torch.get_num_threads(),
        mnist=mnist.__version__,
        commit=commit,
        clean=clean,
        processor=resources.processor_name(),
        torchvision=_version("torchvision"),
        numpy=_version("numpy"),
        pillow=_version("pillow"),
        scipy=_version("scipy"),
    )


@functools.cache
def source_commit(package: Path = PACKAGE) -> tuple[str | None, bool | None]:
    """Return the commit of the source tree that a package belongs to, and whether the package is unchanged.

    The result is cached, so call this before a long run, during which the tree can change. Both values are None unless
    the package is a tracked folder ``mnist`` at the top of a git work tree, so they are None for a copy in another
    project's work tree. They are also None if git is missing or takes too long.
    """
    prefix = _git(package, "rev-parse", "--show-prefix")
    if prefix != f"{package.name}/" or _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=normal", ".")
    return commit, None if commit is None or changes is None else not changes


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command that changes nothing, or None if it fails or takes too long."""
    # Variables such as GIT_DIR, which git sets for its hooks, would select another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        finished = subprocess.run(  # noqa: S603 (the arguments are constants of this module)
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=MAX_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.decode(errors="replace").strip()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
