"""Make `.venv` with everything that the make targets need, once.

Run by the Makefile with any Python from 3.10 on, so it uses the standard library alone. It does nothing where `.venv`
is up to date, and of several that start at once one works while the others wait.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.json"
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
        installed = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.is_file() else {}
        wanted = _wanted(installed)
        if installed == wanted and PYTHON.exists():
            return
        print("setting up .venv (a minute or two, this once)", flush=True)
        # What was made here for another Python or folder must go; all else is brought up to date.
        stale = installed and (installed["place"] != wanted["place"] or not PYTHON.exists())
        _run(
            [sys.executable, "-m", "venv", *(["--clear"] if stale else []), VENV], "on Debian: apt install python3-venv"
        )
        if wanted["torch"]:
            os.environ["UV_TORCH_BACKEND"] = wanted["torch"]
        constraints = ["--constraint", ROOT / "constraints.txt"]
        hint = "is the package index within reach?"
        _run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, "uv"], hint)
        install = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON]
        _run([*install, *constraints, "--editable", f"{ROOT}[dev]"], hint)
        STAMP.write_text(json.dumps(wanted), encoding="utf-8")


@contextlib.contextmanager
def _only_one():
    """Hold the lock on the set-up; the system releases it when this process ends, however it does."""
    with (ROOT / ".venv.lock").open("w", encoding="utf-8") as lock:
        with contextlib.suppress(ImportError):  # no fcntl, no make either: on Windows the suite is run by tox
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wanted(installed):
    """What `.venv` depends on: Python and folder, the packages declared, and which build of torch was asked for."""
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return {
        "place": "{}.{} {}".format(*sys.version_info[:2], ROOT),
        "packages": digest.hexdigest(),
        "torch": os.environ.get("UV_TORCH_BACKEND", installed.get("torch")),
    }


def _run(command, hint):
    code = subprocess.call([str(word) for word in command])
    if code != 0:
        sys.exit(f"error: {' '.join(map(str, command[1:5]))} ... failed ({hint})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the next make goes on with setting up")
