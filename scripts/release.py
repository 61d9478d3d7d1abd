"""Build the assets of a release from a model that passes the gate.

    python scripts/release.py build --dataset mnist --tag v0.1.0    train, run the gate, and write release/
    python scripts/release.py baseline                              download the last release's model into baseline/

`build` checks the tag and the changelog before it trains, and checks every asset before it writes the folder. The exit
code is 1 if the gate blocks the model, 2 for bad input, and 3 if a program or a check of an asset fails. In these
cases, the folder is not written, and nothing is published.
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
from release_checks import BAD_INPUT, BLOCKED, FAULT, INTERRUPTED, SUMS_FILE, ReleaseError, digest, find_changes, verify

from mnist import __version__, datasets
from mnist.deploy import export, onnx_check, page
from mnist.errors import MnistError
from mnist.storage import artifacts, registry, training_logs
from mnist.storage import card as cards
from mnist.storage.artifacts import Artifact

CHANGELOG = ROOT / "CHANGELOG.md"
MODELS_FOLDER = Path("models")
REPORTS_FOLDER = Path("reports")
DATA_FOLDER = Path("data")
MAX_ACCURACY_DIFFERENCE = 1e-3  # allowed between card and report, because rounding may change a few predictions


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
    except Exception:  # otherwise, Python would exit with 1, which means that the gate blocks the model
        traceback.print_exc()
        return FAULT
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="train a model and build every asset of its release")
    command.add_argument(
        "--dataset", choices=["auto", "mnist", "subset"], default="auto", help="(default: %(default)s)"
    )
    command.add_argument(
        "--baseline", type=Path, help="the model of the last release, which the new one is compared with"
    )
    command.add_argument("--tag", help="the tag of the release, like v1.2.3; requires --dataset mnist")
    command.add_argument(
        "--output", type=Path, default=Path("release"), help="the folder to write (default: %(default)s)"
    )
    command = commands.add_parser("baseline", help="download the model of the last release with gh, and print its path")
    command.add_argument(
        "--output", type=Path, default=Path("baseline"), help="the folder to write (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def build(dataset: str, output: Path, *, tag: str | None = None, baseline: Path | None = None) -> None:
    """Train a model and write every asset of its release to the folder ``output``.

    Raises:
        ReleaseError: if the tag, the changelog or the folder is wrong, if the gate blocks the model, or if an asset
            fails its check. ``output`` is then unchanged.
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
    """Check the tag and the data set, and return the section of this version from the changelog.

    Raises:
        ReleaseError: if the tag or the data set is wrong, or the changelog has no entries for this version.
    """
    text = CHANGELOG.read_text(encoding="utf-8")
    if tag is not None:
        if tag != f"v{__version__}":
            raise ReleaseError(
                f"the tag is {tag}, but mnist/__init__.py has version {__version__} (change one of them)"
            )
        if dataset != "mnist":
            raise ReleaseError("the model of a tagged release must be trained on MNIST (use --dataset mnist)")
        if find_section(text, "Unreleased"):
            raise ReleaseError(f"CHANGELOG.md has entries under Unreleased (move them to the section {__version__})")
    notes = find_section(text, __version__)
    if not notes:
        raise ReleaseError(f"CHANGELOG.md has no entries for this version (add a section '## {__version__}')")
    return notes


def find_section(text: str, heading: str) -> str:
    """Return the text of the section ``## heading``, or "" if it is missing; the heading may end with a date."""
    match = re.search(rf"^## {re.escape(heading)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else ""


def require_replaceable(folder: Path) -> None:
    """Raise ReleaseError unless ``folder`` is missing or contains an unchanged release that this program wrote."""
    if not os.path.lexists(folder):
        return
    try:
        unchanged = not folder.is_symlink() and not find_changes(folder) and any(folder.glob("mnist_model_*.pth"))
    except (OSError, ValueError):  # SHA256SUMS is missing or has another format, or the folder contains a folder
        unchanged = False
    if not unchanged:
        raise ReleaseError(f"{folder} has files that this program did not write (move it, or use another --output)")


def download_baseline(folder: Path) -> Path | None:
    """Download the model and card of the last release with `gh`; return the weights file, or None without a release.

    Raises:
        ReleaseError: if `gh` fails, if the release has no model with a card, or if ``folder`` exists.
    """
    if os.path.lexists(folder):
        raise ReleaseError(f"{folder} exists already (remove it, or use another --output)")
    published = ("--exclude-drafts", "--exclude-pre-releases")  # `gh release download` also skips both
    if not json.loads(_run("gh", "release", "list", *published, "--limit", "1", "--json", "tagName")):
        return None
    _run("gh", "release", "download", "--pattern", "mnist_model_*", "--dir", str(folder))
    artifact = artifacts.load(artifacts.require_newest(folder))
    if artifact.card is None:
        raise ReleaseError(f"{artifact.path} has no model card (add the card to the release)")
    return artifact.path


# ---- The assets ------------------------------------------------------------------------------------------------------


def train(dataset: str, baseline: Path | None) -> Path:
    """Train a model with the default recipe, run the gate, and return the weights file.

    Raises:
        ReleaseError: if the gate blocks the model, or training fails.
    """
    before = set(MODELS_FOLDER.glob("mnist_model_*.pth"))
    options = ["--baseline", str(baseline)] if baseline else []
    command = [sys.executable, "-m", "mnist", "train", "--dataset", dataset, *options]
    code = subprocess.run(command, check=False).returncode
    if code == BLOCKED:
        raise ReleaseError(
            f"the gate blocks the model: nothing is published (see the report in {REPORTS_FOLDER})", BLOCKED
        )
    if code != 0:
        message = f"training failed with exit code {code}: nothing is published (see its error above)"
        raise ReleaseError(message, BAD_INPUT if code == BAD_INPUT else FAULT)
    new = set(MODELS_FOLDER.glob("mnist_model_*.pth")) - before
    if len(new) != 1:
        raise ReleaseError(
            f"{len(new)} new models are in {MODELS_FOLDER}, not 1 (do not train in the same folder at the same time)"
        )
    return new.pop()


def write_assets(folder: Path, artifact: Artifact, notes: str) -> None:
    """Write every asset of the release of ``artifact`` into ``folder``, and then their checksums."""
    report = read_report(artifact)
    reports = find_report(artifact).parent
    files_of_model = [artifact.path, cards.card_path(artifact.path), cards.digests_path(artifact.path)]
    if artifact.log:
        files_of_model.append(training_logs.log_path(artifact.path))
    reports_of_model = [reports / "report.html", reports / "report.json"]
    for path in (*files_of_model, *reports_of_model, ROOT / "requirements-predict.txt"):
        shutil.copyfile(path, folder / path.name)
    content = export.to_onnx(artifact)
    test = datasets.load(report["card"]["dataset"]["name"], DATA_FOLDER, mirror=os.environ.get("MNIST_MIRROR")).test
    onnx_check.check(content, artifact.model, test.images)
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
    (folder / SUMS_FILE).write_text(sums, encoding="utf-8", newline="\n")


def find_report(artifact: Artifact) -> Path:
    """Return the path of the newest report.json for ``artifact``.

    Raises:
        ReleaseError: if there is no report.
    """
    judgement = registry.judgements(REPORTS_FOLDER).get(artifact.sha256)
    if judgement is None:
        raise ReleaseError(f"there is no report on {artifact.path} in {REPORTS_FOLDER} (run make gate)", FAULT)
    return judgement.report


def read_report(artifact: Artifact) -> dict[str, Any]:
    """Return the gate's report on ``artifact``.

    Raises:
        ReleaseError: if the report is on another model, if it blocks the model, or if its accuracy differs from the
            card's.
    """
    path = find_report(artifact)
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if artifact.card is None or report["card"] != json.loads(json.dumps(dataclasses.asdict(artifact.card))):
        raise ReleaseError(f"{path} is not the report on {artifact.path} (run make gate)", FAULT)
    if report["decision"] != "ship":
        raise ReleaseError(f"the gate blocks the model: nothing is published (see {path})", BLOCKED)
    measured = next(verdict["value"] for verdict in report["verdicts"] if verdict["criterion"] == "accuracy")
    if not abs(measured - artifact.card.measured.accuracy) <= MAX_ACCURACY_DIFFERENCE:
        raise ReleaseError(
            f"the gate measured an accuracy of {measured:.2%}, but the card says otherwise (train again)", FAULT
        )
    return report


def build_wheel(folder: Path) -> None:
    """Build the wheel of the package into ``folder``, and check that it can be installed and imported.

    A copy of the sources is built, so that the wheel contains no stale files from `build/`. The setuptools of this
    environment builds it, so that no network is needed.
    """
    uv = [sys.executable, "-m", "uv"]
    with tempfile.TemporaryDirectory() as scratch:
        # Python reports the resolved paths of modules, but on macOS, the temporary folder is a symbolic link.
        source, built, installed = (Path(scratch).resolve() / name for name in ("source", "built", "installed"))
        shutil.copytree(ROOT / "mnist", source / "mnist", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        python = ["--python", sys.executable]
        _run(*uv, "build", "--quiet", "--wheel", "--no-build-isolation", *python, "--out-dir", str(built), str(source))
        (wheel,) = built.glob("*.whl")
        _run(*uv, "pip", "install", "--quiet", "--no-deps", *python, "--target", str(installed), str(wheel))
        program = "import mnist; print(mnist.__version__, mnist.__file__, sep='\\n')"
        printed = _run(sys.executable, "-c", program, env={**os.environ, "PYTHONPATH": str(installed)}, cwd=installed)
        if printed.splitlines() != [__version__, str(installed / "mnist" / "__init__.py")]:
            raise ReleaseError(
                f"the installed wheel reports {printed.strip()!r} instead of version {__version__}", FAULT
            )
        shutil.copy(wheel, folder)


def replace(output: Path, built: Path) -> None:
    """Rename ``built`` to ``output``; move an earlier release at ``output`` into the temporary folder of ``built``."""
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
    """Run a program and return its stdout; its stderr is not captured."""
    try:
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", **options)
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is not installed (install it and try again)") from None
    except subprocess.CalledProcessError as error:
        raise ReleaseError(f"{' '.join(command[:5])} failed with exit code {error.returncode}", FAULT) from error
    output: str = finished.stdout
    return output


def _show_baseline(path: Path | None) -> None:
    if path:
        print(path)
    else:
        line = "there is no release yet, so the gate does not compare the model with another"
        print(github.command("notice", line) if "GITHUB_ACTIONS" in os.environ else line, file=sys.stderr)


def _show_assets(folder: Path) -> None:
    for path in _list(folder):
        print(f"{path.name:<36} {path.stat().st_size:>10,} bytes  SHA-256 {digest(path)}")
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
