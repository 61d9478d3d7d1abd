"""Set up `.venv` with everything that the make targets need.

The Makefile runs this program with Python 3.10 or newer. No package is installed yet, so the program uses only the
standard library. On Windows, which has no make, run `python scripts/bootstrap.py`. The program does nothing if `.venv`
is up to date. If several instances start at once, one does the work and the others wait.
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
TOX_ENV = VENV / "tox.env"  # variables that the Makefile passes to tox, one NAME=value per line
PYTHON_IN_VENV = "Scripts/python.exe" if os.name == "nt" else "bin/python"
PYTHON = VENV / PYTHON_IN_VENV

CPU_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
MAX_SECONDS_TO_REPLY = 4.0
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def main():
    """Bring `.venv` up to date, or exit with a one-line error."""
    # An older Python must be able to compile this file in order to print this message.
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(
            "error: Python 3.10 or newer is required, but this is {}.{} (choose one: make PYTHON=python3.12)".format(
                *sys.version_info
            )
        )
    if VENV.is_symlink():
        sys.exit("error: .venv is a symbolic link (remove it: the set-up would change the folder that it points to)")
    with _set_up_lock():
        installed = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.is_file() else {}
        wanted = _wanted(installed)
        if installed == wanted and PYTHON.exists():
            return
        # Recreate an environment that was made for another Python or folder; update any other environment.
        stale = installed and (installed["place"] != wanted["place"] or not PYTHON.exists())
        update = installed and not stale and installed["torch"] == wanted["torch"]
        if update:
            print("updating .venv: the requirements have changed", flush=True)
        else:
            wanted["torch"], reason = _torch_backend(wanted["torch"])
            print(f"setting up .venv, which happens once: {reason}", flush=True)
        run(
            [sys.executable, "-m", "venv", *(["--clear"] if stale else []), VENV],
            "on Debian, run apt install python3-venv",
        )
        if wanted["torch"]:
            os.environ["UV_TORCH_BACKEND"] = wanted["torch"]
        hint = "check the connection to the package index"
        constraints = ["--constraint", "constraints.txt"]
        run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, "uv"], hint)
        install = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON]
        # Use a relative path, because # and brackets would have a special meaning in an absolute path.
        replaced = []
        if installed and installed["torch"] != wanted["torch"]:  # uv does not replace another build of the same version
            replaced = ["--reinstall-package", "torch", "--reinstall-package", "torchvision"]
        run([*install, *constraints, *replaced, "--editable", ".[dev]"], hint)
        backend = wanted["torch"]
        TOX_ENV.write_text(f"UV_TORCH_BACKEND={backend}\n" if backend else "", encoding="utf-8")
        STAMP.write_text(json.dumps(wanted), encoding="utf-8")


@contextlib.contextmanager
def _set_up_lock():
    """Hold the set-up lock; the operating system releases it when the process ends, even if the process is killed."""
    with (ROOT / ".venv.lock").open("w", encoding="utf-8") as lock:
        with contextlib.suppress(ImportError):  # Windows has no fcntl
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wanted(installed):
    """Return the settings that `.venv` depends on: Python and folder, required packages, and build of torch."""
    digest = hashlib.sha256()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return {
        "place": "{}.{} {}".format(*sys.version_info[:2], ROOT),
        "packages": digest.hexdigest(),
        "torch": os.environ.get("UV_TORCH_BACKEND", installed.get("torch")),
    }


def _torch_backend(chosen):
    """Return the value for UV_TORCH_BACKEND (None for the default build of torch), and a reason to print."""
    if chosen:
        return chosen, f"PyTorch for {chosen}, as set in UV_TORCH_BACKEND now or earlier"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None, "downloads about 0.5 GB"
    if NVIDIA_DRIVER.exists():
        return None, "downloads about 3.5 GB, because this machine has an NVIDIA GPU and PyTorch includes CUDA"
    if is_reachable(CPU_WHEELS):
        return "cpu", "downloads about 0.5 GB; PyTorch for the CPU, because there is no NVIDIA driver"
    return None, "downloads about 3.5 GB, because PyTorch's index of the smaller CPU wheels cannot be reached"


def is_reachable(url):
    """Return True if a server replies in time.

    The request runs in a thread, because a socket timeout does not limit the DNS lookup.
    """
    replies = []

    def ask():
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  a constant, or the server of a test
        # Two nested statements, because Python versions before 3.9 must be able to compile this file (see main).
        with contextlib.suppress(OSError):  # noqa: SIM117
            with urllib.request.urlopen(request, timeout=MAX_SECONDS_TO_REPLY):  # noqa: S310
                replies.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(MAX_SECONDS_TO_REPLY)
    return bool(replies)


def run(command, hint):
    """Run a command in the repository; if it fails, exit with a one-line error that ends with ``hint``."""
    code = subprocess.call([str(word) for word in command], cwd=ROOT)
    if code != 0:
        sys.exit(f"error: {' '.join(map(str, command[1:5]))} ... failed ({hint})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("error: interrupted (run make again to continue the set-up)")
