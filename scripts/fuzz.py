"""Run coverage-guided fuzzing on a file reader, and check that it reads or refuses every input.

    uv pip install --python .venv/bin/python atheris
    .venv/bin/python scripts/fuzz.py idx|card|artifact|checkpoint|exported|image [--minutes 10]

Any exception except the documented one stops the program with a traceback, and the input is written to the working
directory as `crash-...`. Add a test for this input. If all inputs pass, the program updates the reader's row in
docs/reliability.md.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import documents

DOCUMENT = documents.DOCS / "reliability.md"
MAX_MEMORY_MIB = 4096  # memory limit of the process; torch and the fuzzer's tables need most of it
MAX_SECONDS_PER_INPUT = 20
SHOWN_CHARACTERS = 3000  # number of characters at the end of the fuzzer's output that are shown
FUZZING_VARIABLE = "MNIST_FUZZING"  # environment variable that gives the fuzzing process a corpus folder and a duration


def main() -> None:
    """Fuzz in a separate process, because libFuzzer ends the process that it runs in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS), help="the reader to fuzz")
    parser.add_argument("--minutes", type=float, default=10, help="(default: %(default)s)")
    options = parser.parse_args()
    if FUZZING_VARIABLE in os.environ:
        _fuzz(options.target)
    with tempfile.TemporaryDirectory() as corpus:
        finished = subprocess.run(
            [sys.executable, __file__, options.target],
            env=os.environ | {FUZZING_VARIABLE: f"{corpus} {round(60 * options.minutes)}", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            check=False,
        )
    print(finished.stderr[-SHOWN_CHARACTERS:])
    if finished.returncode:
        sys.exit(finished.returncode)
    runs = next(line.split()[1] for line in finished.stderr.splitlines() if line.startswith("Done"))
    row = documents.row([options.target, f"{int(runs):,}", f"{options.minutes:g}", "every input read or refused"])
    documents.replace_row(DOCUMENT, "fuzzing", row)
    print(row)


def _fuzz(target: str) -> None:
    """Fuzz until the time limit, then end the process."""
    import atheris

    instrumented = ["mnist", "torch._weights_only_unpickler", "pickletools", "json", "PIL"]
    with atheris.instrument_imports(include=instrumented):
        import json  # noqa: F401

        from mnist import datasets, preparation  # noqa: F401
        from mnist.storage import artifacts, checkpoints  # noqa: F401

    corpus, seconds = os.environ[FUZZING_VARIABLE].split()
    seeds, test_one = TARGETS[target]()
    for number, seed in enumerate(seeds):
        (Path(corpus) / str(number)).write_bytes(seed)
    max_length = max(map(len, seeds)) * 2
    flags = [f"-max_total_time={seconds}", f"-max_len={max_length}", f"-rss_limit_mb={MAX_MEMORY_MIB}"]
    flags += [f"-timeout={MAX_SECONDS_PER_INPUT}"]
    atheris.Setup([sys.argv[0], *flags, corpus], test_one)
    atheris.Fuzz()


# ---- Targets: each function returns valid files as seeds, and the function that tests an input -----------------------


def _idx() -> tuple[list[bytes], Callable[[bytes], None]]:
    from mnist import datasets

    seeds = [b"\0\0\x08\x01\0\0\0\x02\x07\x08", b"\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x02abcd", b"\0\0\x08\0\x01"]

    def test_one(content: bytes) -> None:
        try:
            values = datasets.parse_idx(content, "fuzzed")
        except datasets.DatasetError:
            return
        assert values.numel() <= len(content)

    return seeds, test_one


def _model() -> tuple[bytes, bytes]:
    """Return the contents of the weights file and of the card of the smallest network."""
    import torch
    from samples import save_model

    from mnist import architecture

    model = architecture.build("compact-1k", torch.Generator())
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(model, Path(folder), recipe={"architecture": "compact-1k"})
        return path.read_bytes(), path.with_suffix(".json").read_bytes()


def _card() -> tuple[list[bytes], Callable[[bytes], None]]:
    from mnist.errors import MnistError
    from mnist.storage import artifacts
    from mnist.storage import card as cards

    folder = Path(tempfile.mkdtemp())
    weights, content_of_card = _model()
    (folder / "model.pth").write_bytes(weights)

    def test_one(content: bytes) -> None:
        # Also try a correct checksum, because no input with a wrong checksum reaches the code after the check.
        with_checksum = cards.seal(content.replace(b"SEAL", b"0" * 64))
        for written in (content, with_checksum):
            (folder / "model.json").write_bytes(written)
            try:
                artifact = artifacts.load(folder / "model.pth")
            except MnistError:
                continue
            artifact.initial_model()

    import json

    values = json.loads(content_of_card) | {"card_sha256": "SEAL"}
    return [json.dumps(values).encode(), b'{"schema": 2}', b"[[[[", b"1e999"], test_one


def _artifact() -> tuple[list[bytes], Callable[[bytes], None]]:
    import torch

    from mnist.storage import artifacts

    path = Path(tempfile.mkdtemp()) / "model.pth"
    small = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": torch.arange(3)}, small)

    def test_one(content: bytes) -> None:
        # Also try the input as the pickle in an intact archive, because archive checksums stop nearly all other inputs.
        for written in (content, _archive(small.getvalue(), content)):
            path.write_bytes(written)
            try:
                artifacts.load(path)
            except artifacts.ArtifactError:
                continue

    with zipfile.ZipFile(io.BytesIO(small.getvalue())) as archive:
        pickled = archive.read("archive/data.pkl")
    return [_model()[0], small.getvalue(), pickled, b"\x80\x02}q\x00.", b"PK\x05\x06" + bytes(18)], test_one


def _archive(template: bytes, pickled: bytes) -> bytes:
    """Return a copy of the archive ``template`` with another pickle."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(template)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith(".pkl") else old.read(name))
    return changed.getvalue()


def _checkpoint() -> tuple[list[bytes], Callable[[bytes], None]]:
    import samples
    import torch

    from mnist import recipes
    from mnist.storage import checkpoints

    packed = checkpoints.pack(
        samples.checkpoint(recipes.get("standard"), training={"a": torch.zeros(2), "batches": {"step": 1}})
    )

    def test_one(content: bytes) -> None:
        for written in (content, checkpoints.seal(content)):
            with contextlib.suppress(checkpoints.CheckpointError):
                checkpoints.unpack(written, "fuzzed")

    return [packed, packed[len(checkpoints.seal(b"")) :]], test_one


def _exported() -> tuple[list[bytes], Callable[[bytes], None]]:
    import numpy as np

    from mnist.deploy import export, exported
    from mnist.storage import artifacts

    path = Path(tempfile.mkdtemp()) / "model.pth"
    for written, suffix in zip(_model(), (".pth", ".json"), strict=True):
        path.with_suffix(suffix).write_bytes(written)
    content = export.to_onnx(artifacts.load(path))
    image = np.zeros((1, 28, 28), np.uint8)

    def test_one(content: bytes) -> None:
        path.with_suffix(".onnx").write_bytes(content)
        with contextlib.suppress(exported.ExportedModelError):
            exported.load(path.with_suffix(".onnx")).probabilities(image)

    return [content], test_one


def _image() -> tuple[list[bytes], Callable[[bytes], None]]:
    from PIL import Image

    from mnist import preparation

    path = Path(tempfile.mkdtemp()) / "image"
    picture = Image.new("L", (24, 24), 255)
    picture.paste(0, (10, 4, 13, 20))
    seeds = []
    for kind, mode in (("png", "RGBA"), ("jpeg", "RGB"), ("gif", "P"), ("tiff", "I"), ("webp", "RGB"), ("bmp", "1")):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, format=kind)
        seeds.append(buffer.getvalue())

    def test_one(content: bytes) -> None:
        path.write_bytes(content)
        found = preparation.prepare_file(path)
        assert isinstance(found, preparation.ImageError) or found.shape == (28, 28)

    return seeds, test_one


TARGETS: dict[str, Callable[[], tuple[list[bytes], Callable[[bytes], None]]]] = {
    "idx": _idx,
    "card": _card,
    "artifact": _artifact,
    "checkpoint": _checkpoint,
    "exported": _exported,
    "image": _image,
}

if __name__ == "__main__":
    main()
