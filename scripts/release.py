"""Build the assets of a release, from a model that the gate lets pass.

    python scripts/release.py build --dataset mnist --tag v0.1.0    train, judge, and write release/
    python scripts/release.py baseline                              download the last release's model into baseline/

``build`` checks the tag and the changelog before it trains, and its own output before it writes the folder. Exit codes:
1 if the gate blocks the model, 2 for bad input, 3 if a program or a check of an asset fails. Nothing is published then.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import github
import release_readme
from documents import ROOT
from release_checks import BAD_INPUT, BLOCKED, FAULT, INTERRUPTED, SUMS, ReleaseError, digest, find_changes, verify

from mnist import __version__, datasets
from mnist.deploy import export, page
from mnist.errors import MnistError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

CHANGELOG = ROOT / "CHANGELOG.md"
MODELS, REPORTS, DATA = Path("models"), Path("reports"), Path("data")  # where `mnist train` puts its files
MAX_ACCURACY_DIFFERENCE = 1e-3  # between card and report: rounding may flip the digit of a few images


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; every error is one line on stderr."""
    options = _parse(arguments)
    try:
        if options.command == "baseline":
            _show_baseline(download_baseline(options.output))
        else:
            build(options.dataset, options.output, tag=options.tag, baseline=options.baseline)
            _show_assets(options.output)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (MnistError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("error: interrupted (nothing is published)", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # Python's own exit code for it would be 1, which says that the gate blocked the model
        traceback.print_exc()
        return FAULT
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="train a model and build every asset of its release")
    command.add_argument("--dataset", choices=["auto", "mnist", "subset"], default="auto")
    command.add_argument("--baseline", type=Path, help="the last release's model: the new one must not be worse")
    command.add_argument("--tag", help="the tag of the release, v and the version; needs --dataset mnist")
    command.add_argument("--output", type=Path, default=Path("release"), help="the folder (default: %(default)s)")
    command = commands.add_parser("baseline", help="download the last release's model with gh, and print its path")
    command.add_argument("--output", type=Path, default=Path("baseline"), help="the folder (default: %(default)s)")
    return parser.parse_args(arguments)


def build(dataset: str, output: Path, *, tag: str | None = None, baseline: Path | None = None) -> None:
    """Train a model and write every asset of its release to the folder ``output``.

    Raises:
        ReleaseError: if the tag, the changelog or the folder is wrong, the gate blocks the model, or an asset fails
            its check. ``output`` is then as it was.
    """
    notes = read_notes(tag, dataset)
    require_replaceable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    artifact = artifacts.load(train(dataset, baseline))
    with tempfile.TemporaryDirectory(prefix=".release-", dir=output.parent) as scratch:
        built = Path(scratch, "assets")
        built.mkdir()
        write_assets(built, artifact, notes)
        verify(built)
        replace(output, built)


# ---- Before training -------------------------------------------------------------------------------------------------


def read_notes(tag: str | None, dataset: str) -> str:
    """Return this version's section of the changelog, if the tag and the data set are those of a release.

    Raises:
        ReleaseError: if they are not, or the changelog has no entries for this version.
    """
    text = CHANGELOG.read_text(encoding="utf-8")
    if tag is not None:
        if tag != f"v{__version__}":
            raise ReleaseError(f"the tag is {tag}, but mnist/__init__.py has version {__version__} (make them agree)")
        if dataset != "mnist":
            raise ReleaseError("a model with a tag must be trained on MNIST (give --dataset mnist)")
        if find_section(text, "Unreleased"):
            raise ReleaseError(f"CHANGELOG.md has entries under Unreleased (move them to the section {__version__})")
    notes = find_section(text, __version__)
    if not notes:
        raise ReleaseError(f"CHANGELOG.md has no entries for this version (add a section '## {__version__}')")
    return notes


def find_section(text: str, heading: str) -> str:
    """Return what is below ``## heading``, which a date may follow; an empty string if there is no such section."""
    match = re.search(rf"^## {re.escape(heading)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else ""


def require_replaceable(folder: Path) -> None:
    """Raise ReleaseError unless ``folder`` is missing, or is as this program wrote it."""
    if not os.path.lexists(folder):
        return
    try:
        own = not folder.is_symlink() and not find_changes(folder) and any(folder.glob("mnist_model_*.pth"))
    except (OSError, ValueError):  # no sums, sums of another format, or a folder inside
        own = False
    if not own:
        raise ReleaseError(f"{folder} has files that this program did not write (move it, or give another --output)")


def download_baseline(folder: Path) -> Path | None:
    """Download the last release's model and card with ``gh``; return the weights file, or None if there is no release.

    Raises:
        ReleaseError: if ``gh`` fails, the release has no model, or ``folder`` exists.
    """
    if os.path.lexists(folder):
        raise ReleaseError(f"{folder} exists already (remove it, or give another --output)")
    published = ("--exclude-drafts", "--exclude-pre-releases")  # gh's latest release is none of these
    if not json.loads(_run("gh", "release", "list", *published, "--limit", "1", "--json", "tagName")):
        return None
    _run("gh", "release", "download", "--pattern", "mnist_model_*", "--dir", str(folder))
    artifact = artifacts.load(artifacts.require_newest(folder))
    if artifact.card is None:
        raise ReleaseError(f"{artifact.path} has no model card, so it cannot be checked for damage")
    return artifact.path


# ---- The assets ------------------------------------------------------------------------------------------------------


def train(dataset: str, baseline: Path | None) -> Path:
    """Train a model with the default recipe and return its weights file. Training ends with the gate.

    Raises:
        ReleaseError: if the gate blocks the model, or training fails.
    """
    before = set(MODELS.glob("mnist_model_*.pth"))
    options = ["--baseline", str(baseline)] if baseline else []
    command = [sys.executable, "-m", "mnist", "train", "--dataset", dataset, *options]
    code = subprocess.run(command, check=False).returncode
    if code == BLOCKED:
        raise ReleaseError(f"the gate blocks the model: nothing is published (see the report in {REPORTS})", BLOCKED)
    if code != 0:
        message = f"training failed with exit code {code}: nothing is published"
        raise ReleaseError(message, BAD_INPUT if code == BAD_INPUT else FAULT)
    new = set(MODELS.glob("mnist_model_*.pth")) - before
    if len(new) != 1:
        raise ReleaseError(f"{len(new)} new models are in {MODELS}, not 1 (start no other training meanwhile)")
    return new.pop()


def write_assets(folder: Path, artifact: Artifact, notes: str) -> None:
    """Write every asset of the release of ``artifact`` into ``folder``, and their sums last."""
    report = read_report(artifact)
    reports = REPORTS / artifact.path.stem
    for path in (artifact.path, artifact.path.with_suffix(".json"), reports / "report.html", reports / "report.json"):
        shutil.copyfile(path, folder / path.name)
    content = export.to_onnx(artifact)
    test = datasets.load(report["card"]["dataset"]["name"], DATA, mirror=os.environ.get("MNIST_MIRROR")).test
    export.check(content, artifact.model, test.images)
    (folder / artifact.path.with_suffix(".onnx").name).write_bytes(content)
    pages = {
        "draw.html": page.render(artifact),
        "README.md": release_readme.render(artifact, report),
        "NOTES.md": f"{notes}\n",
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    build_wheel(folder)
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in _list(folder))
    (folder / SUMS).write_text(sums, encoding="utf-8", newline="\n")


def read_report(artifact: Artifact) -> dict[str, Any]:
    """Return the gate's report on ``artifact``.

    Raises:
        ReleaseError: if it is on another model, does not let this one ship, or measured another accuracy than the card.
    """
    path = REPORTS / artifact.path.stem / "report.json"
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if artifact.card is None or report["card"] != json.loads(json.dumps(dataclasses.asdict(artifact.card))):
        raise ReleaseError(f"{path} is not the report on {artifact.path}", FAULT)
    if report["decision"] != "ship":
        raise ReleaseError(f"the gate blocks the model: nothing is published (see {path})", BLOCKED)
    measured = next(verdict["value"] for verdict in report["verdicts"] if verdict["criterion"] == "accuracy")
    if not abs(measured - artifact.card.measured["accuracy"]) <= MAX_ACCURACY_DIFFERENCE:
        raise ReleaseError(f"the accuracy on the card is not the {measured:.2%} that the gate measured", FAULT)
    return report


def build_wheel(folder: Path) -> None:
    """Build the package's wheel into ``folder``, and check that it can be installed and imported.

    It is built from a copy of the sources, so that no stale file in the checkout's build/ gets into it, and with the
    setuptools of this environment, so that it needs no network.
    """
    uv = [sys.executable, "-m", "uv"]
    with tempfile.TemporaryDirectory() as scratch:
        # Resolved, as Python reports the path of a module: on macOS the temporary folder is behind a link.
        source, built, installed = (Path(scratch).resolve() / name for name in ("source", "built", "installed"))
        shutil.copytree(ROOT / "mnist", source / "mnist", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        python = ["--python", sys.executable]
        _run(*uv, "build", "--quiet", "--wheel", "--no-build-isolation", *python, "--out-dir", str(built), str(source))
        (wheel,) = built.glob("*.whl")
        _run(*uv, "pip", "install", "--quiet", "--no-deps", *python, "--target", str(installed), str(wheel))
        program = "import mnist; print(mnist.__version__, mnist.__file__, sep='\\n')"
        said = _run(sys.executable, "-c", program, env={**os.environ, "PYTHONPATH": str(installed)}, cwd=installed)
        if said.splitlines() != [__version__, str(installed / "mnist" / "__init__.py")]:
            raise ReleaseError(f"the installed wheel answers {said.strip()!r}, not version {__version__}", FAULT)
        shutil.copy(wheel, folder)


def replace(output: Path, built: Path) -> None:
    """Rename ``built`` to ``output``; an earlier release there moves beside ``built``, where it is removed later."""
    require_replaceable(output)
    earlier = built.with_name("earlier")
    if output.exists():
        output.rename(earlier)
    try:
        built.rename(output)
    except OSError:
        if earlier.exists():
            earlier.rename(output)
        raise


# ---- Tools -----------------------------------------------------------------------------------------------------------


def _list(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.name)


def _run(*command: str, **options: Any) -> str:
    """Run a program and return what it prints; its own messages go to stderr."""
    try:
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", **options)
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise ReleaseError(f"{' '.join(command[:5])} failed with exit code {error.returncode}", FAULT) from error
    output: str = finished.stdout
    return output


def _show_baseline(path: Path | None) -> None:
    if path:
        print(path)
    else:
        line = "there is no release yet: the gate compares the model with no other"
        print(github.command("notice", line) if "GITHUB_ACTIONS" in os.environ else line, file=sys.stderr)


def _show_assets(folder: Path) -> None:
    for path in _list(folder):
        print(f"{path.name:<36} {path.stat().st_size:>10,} bytes  SHA-256 {digest(path)}")
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
