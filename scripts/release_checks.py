"""Check the assets of a release before they are published."""

import hashlib
import json
import zipfile
from pathlib import Path

import onnx
import release_readme
from documents import ROOT

from mnist.storage import artifacts

SUMS_FILE = "SHA256SUMS"
BLOCKED, BAD_INPUT, FAULT, INTERRUPTED = 1, 2, 3, 130  # exit codes


class ReleaseError(Exception):
    """The release must not be published. The message is one line, and ``code`` is the exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def verify(folder: Path) -> None:
    """Check all assets in a folder.

    Raises:
        ReleaseError: if an asset is damaged or contradicts the model card.
    """
    if changed := find_changes(folder):
        raise ReleaseError(f"{SUMS_FILE} does not match {', '.join(changed)} (build the release again)", FAULT)
    artifact = artifacts.load(artifacts.require_newest(folder))
    card = json.loads(artifact.path.with_suffix(".json").read_text(encoding="utf-8"))
    graph = onnx.load(artifact.path.with_suffix(".onnx"))
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    if metadata["weights_sha256"] != artifact.sha256 or json.loads(metadata["card"]) != card:
        raise ReleaseError("the ONNX file was not exported from the released model (build the release again)", FAULT)
    results = release_readme.read_metadata((folder / "README.md").read_text(encoding="utf-8"))["model-index"][0][
        "results"
    ][0]
    claimed = results["dataset"]["name"], results["metrics"][0]["value"]
    if claimed != (card["measured"]["measured_on"], round(card["measured"]["accuracy"], 6)):
        raise ReleaseError(f"README.md claims {claimed}, but the card says otherwise (build the release again)", FAULT)
    (wheel,) = folder.glob("*.whl")
    if missing := find_missing(wheel):
        raise ReleaseError(
            f"{wheel.name} lacks {', '.join(missing)} (add the files to package_data in setup.cfg)", FAULT
        )


def find_changes(folder: Path) -> list[str]:
    """Return the names of files that are missing, unlisted in SHA256SUMS, or different from their checksum there.

    Raises:
        OSError: if SHA256SUMS is missing, or a file cannot be read.
        ValueError: if SHA256SUMS has another format.
    """
    lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    present = {path.name: digest(path) for path in folder.iterdir() if path.name != SUMS_FILE}
    return sorted(name for name in listed.keys() | present.keys() if listed.get(name) != present.get(name))


def find_missing(wheel: Path) -> list[str]:
    """Return the files of the package that the wheel lacks."""
    paths = [path for path in (ROOT / "mnist").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with zipfile.ZipFile(wheel) as archive:
        return sorted({path.relative_to(ROOT).as_posix() for path in paths} - set(archive.namelist()))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
