"""Set up `.venv` with everything that the make targets need.

The Makefile runs it with any Python from 3.10 on, so that it uses the standard library alone. On Windows, which has no
make, run `python scripts/bootstrap.py`. If `.venv` is up to date it does nothing; of several that start at once, one
works and the others wait.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.json"
TOX_ENV = VENV / "tox.env"  # variables that the Makefile gives to tox, one NAME=value a line
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

CPU_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
SECONDS_TO_ANSWER = 4.0
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def main():
    """Bring `.venv` up to date, or exit with one line that says what is wrong."""
    # An older Python must be able to compile this file.
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(
            "error: Python 3.10 or newer is needed, and this is {}.{} (choose one: make PYTHON=python3.12 ...)".format(
                *sys.version_info
            )
        )
    with _only_one():
        installed = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.is_file() else {}
        wanted = _wanted(installed)
        if installed == wanted and PYTHON.exists():
            return
        # An environment for another Python or folder is made again; any other is brought up to date.
        stale = installed and (installed["place"] != wanted["place"] or not PYTHON.exists())
        update = installed and not stale and installed["torch"] == wanted["torch"]
        if update:
            print("updating .venv: the requirements have changed", flush=True)
        else:
            wanted["torch"], reason = _torch_backend(wanted["torch"])
            print(f"setting up .venv, once: {reason}", flush=True)
        run(
            [sys.executable, "-m", "venv", *(["--clear"] if stale else []), VENV], "on Debian: apt install python3-venv"
        )
        if wanted["torch"]:
            os.environ["UV_TORCH_BACKEND"] = wanted["torch"]
        hint = "check the connection to the package index"
        constraints = ["--constraint", "constraints.txt"]
        run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, "uv"], hint)
        install = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON]
        # A relative path: in an absolute one, # and brackets would have a meaning.
        run([*install, *constraints, "--editable", ".[dev]"], hint)
        backend = wanted["torch"]
        TOX_ENV.write_text(f"UV_TORCH_BACKEND={backend}\n" if backend else "", encoding="utf-8")
        STAMP.write_text(json.dumps(wanted), encoding="utf-8")


@contextlib.contextmanager
def _only_one():
    """Hold the lock on the set-up. The system releases it when this process ends, in any way."""
    with (ROOT / ".venv.lock").open("w", encoding="utf-8") as lock:
        with contextlib.suppress(ImportError):  # Windows has no fcntl
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wanted(installed):
    """Return what `.venv` depends on: Python and folder, the declared packages, and the build of torch."""
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return {
        "place": "{}.{} {}".format(*sys.version_info[:2], ROOT),
        "packages": digest.hexdigest(),
        "torch": os.environ.get("UV_TORCH_BACKEND", installed.get("torch")),
    }


def _torch_backend(chosen):
    """Return the build of torch to install, for UV_TORCH_BACKEND, or None for the package index's; and a reason."""
    if chosen:
        return chosen, f"PyTorch for {chosen}, as UV_TORCH_BACKEND says or said"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None, "downloads about 0.5 GB"
    if NVIDIA_DRIVER.exists():
        return None, "downloads about 3.5 GB, as PyTorch comes with CUDA for the NVIDIA GPU of this machine"
    if answers(CPU_WHEELS):
        return "cpu", "downloads about 0.5 GB; PyTorch for the CPU, as there is no NVIDIA driver"
    return None, "downloads about 3.5 GB, as PyTorch's index of smaller CPU wheels cannot be reached"


def answers(url):
    """Return whether a server answers within a few seconds. A name look-up may take longer than any time-out."""
    replies = []

    def ask():
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  a constant, or a test's own server
        # Nested, so that a Python before 3.9 can compile this file, and is told that it is too old.
        with contextlib.suppress(OSError):  # noqa: SIM117
            with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):  # noqa: S310
                replies.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return bool(replies)


def run(command, hint):
    """Run a command in the repository; exit with one line that ends with ``hint`` if it fails."""
    code = subprocess.call([str(word) for word in command], cwd=ROOT)
    if code != 0:
        sys.exit(f"error: {' '.join(map(str, command[1:5]))} ... failed ({hint})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the next make continues the set-up")
