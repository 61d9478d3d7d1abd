"""Make `.venv` with everything that the make targets need, once.

Run by the Makefile with any Python from 3.10 on, so it uses the standard library alone. It does nothing where `.venv`
is up to date, and of several that start at once one works while the others wait.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"
PYTHON = VENV / "bin" / "python"


def main():
    """Bring `.venv` up to date, or exit with one line that says what is in the way."""
    # An older Python must get as far as this line.
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(
            "error: Python 3.10 or newer is needed, and this is {}.{} (say which: make PYTHON=python3.12 ...)".format(
                *sys.version_info
            )
        )
    with _only_one():
        wanted = _fingerprint()
        if STAMP.is_file() and STAMP.read_text() == wanted:
            return
        print("setting up .venv (a minute or two, this once)", flush=True)
        clear = ["--clear"] if STAMP.is_file() else []  # what we made ourselves may go; what we find is added to
        _run([sys.executable, "-m", "venv", *clear, VENV], "on Debian and Ubuntu: apt install python3-venv")
        constraints = ["--constraint", ROOT / "constraints.txt"]
        hint = "is the package index within reach?"
        _run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, "uv"], hint)
        install = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON]
        _run([*install, *constraints, "--editable", f"{ROOT}[dev]"], hint)
        STAMP.write_text(wanted)


@contextlib.contextmanager
def _only_one():
    """Hold the lock on the set-up; the system releases it when this process ends, however it does."""
    with (ROOT / ".venv.lock").open("w") as lock:
        with contextlib.suppress(ImportError):  # no fcntl, no make either: on Windows the suite is run by tox
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint():
    """What `.venv` depends on: the declared packages, the Python, the folder, and which build of torch is asked for."""
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "scripts/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    digest.update(f"{sys.version_info[:2]} {ROOT} {os.environ.get('UV_TORCH_BACKEND')}".encode())
    return digest.hexdigest()


def _run(command, hint):
    code = subprocess.call([str(word) for word in command])
    if code != 0:
        sys.exit(f"error: {' '.join(map(str, command[1:5]))} ... failed ({hint})")


if __name__ == "__main__":
    main()
