"""Feed a reader of files with inputs that a coverage-guided fuzzer makes up, and see that it refuses them and no more.

    uv pip install --python .venv/bin/python atheris
    .venv/bin/python scripts/fuzz.py idx|card|artifact|checkpoint|image [--minutes 10]

Anything but the documented error ends it with a traceback and leaves the input in the working folder, as ``crash-...``.
At its end it renews its line of docs/reliability.md. What was found is kept as a test.
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
MEMORY = 4096  # MiB that the process may have; torch and the fuzzer's own tables take most


def main() -> None:
    """Fuzz in a process of its own: libFuzzer ends the one that it runs in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    if "MNIST_FUZZING" in os.environ:
        _fuzz(options.target)
    with tempfile.TemporaryDirectory() as corpus:
        finished = subprocess.run(
            [sys.executable, __file__, options.target],
            env=os.environ | {"MNIST_FUZZING": f"{corpus} {round(60 * options.minutes)}", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            check=False,
        )
    print(finished.stderr[-3000:])
    if finished.returncode:
        sys.exit(finished.returncode)
    runs = next(line.split()[1] for line in finished.stderr.splitlines() if line.startswith("Done"))
    row = documents.row([options.target, f"{int(runs):,}", f"{options.minutes:g}", "every one read or refused"])
    documents.replace_row(DOCUMENT, "fuzzing", row)
    print(row)


def _fuzz(target: str) -> None:
    import atheris

    read = ["mnist", "torch._weights_only_unpickler", "pickletools", "json", "PIL"]
    with atheris.instrument_imports(include=read):
        import json  # noqa: F401

        from mnist import datasets, preparation  # noqa: F401
        from mnist.storage import artifacts, checkpoints  # noqa: F401

    corpus, seconds = os.environ["MNIST_FUZZING"].split()
    seeds, test_one = TARGETS[target]()
    for number, seed in enumerate(seeds):
        (Path(corpus) / str(number)).write_bytes(seed)
    longest = max(map(len, seeds)) * 2
    flags = [f"-max_total_time={seconds}", f"-max_len={longest}", f"-rss_limit_mb={MEMORY}", "-timeout=20"]
    atheris.Setup([sys.argv[0], *flags, corpus], test_one)
    atheris.Fuzz()


# ---- What is fuzzed: valid files to begin with, and what is done with each input -------------------------------------


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
    """The weights and the card of the smallest network."""
    import torch

    from mnist import architecture
    from mnist.storage import artifacts

    model = architecture.build("compact-1k", torch.Generator())
    with tempfile.TemporaryDirectory() as folder:
        path = artifacts.save(
            model,
            Path(folder),
            recipe={"architecture": "compact-1k", "name": "accurate-1k", "seed": 0},
            dataset={"name": "mnist"},
            training={"seconds": 1.5},
            measured={"per_digit": [0.5, None]},
        )
        return path.read_bytes(), path.with_suffix(".json").read_bytes()


def _card() -> tuple[list[bytes], Callable[[bytes], None]]:
    from mnist.storage import artifacts

    folder = Path(tempfile.mkdtemp())
    weights, card = _model()
    (folder / "model.pth").write_bytes(weights)

    def test_one(content: bytes) -> None:
        # Sealed anew, or the fuzzer would never get past the checksum; and as it is.
        sealed = artifacts.seal(content.replace(b"SEAL", b"0" * 64))
        for written in (content, sealed):
            (folder / "model.json").write_bytes(written)
            try:
                artifact = artifacts.load(folder / "model.pth")
            except artifacts.MnistError:
                continue
            artifact.initial_model()

    import json

    values = json.loads(card) | {"card_sha256": "SEAL"}
    return [json.dumps(values).encode(), b'{"schema": 2}', b"[[[[", b"1e999"], test_one


def _artifact() -> tuple[list[bytes], Callable[[bytes], None]]:
    import torch

    from mnist.storage import artifacts

    path = Path(tempfile.mkdtemp()) / "model.pth"
    small = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": torch.arange(3)}, small)

    def test_one(content: bytes) -> None:
        # As it is, and as the pickle in an archive that is whole, for the checksums in one stop nearly everything.
        for written in (content, _archive(small.getvalue(), content)):
            path.write_bytes(written)
            try:
                artifacts.load(path)
            except artifacts.ArtifactError:
                continue

    with zipfile.ZipFile(io.BytesIO(small.getvalue())) as archive:
        pickled = archive.read("archive/data.pkl")
    return [_model()[0], small.getvalue(), pickled, b"\x80\x02}q\x00.", b"PK\x05\x06" + bytes(18)], test_one


def _archive(like: bytes, pickled: bytes) -> bytes:
    """An archive like that one, with another pickle in it."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(like)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith(".pkl") else old.read(name))
    return changed.getvalue()


def _checkpoint() -> tuple[list[bytes], Callable[[bytes], None]]:
    import torch

    from mnist import recipes
    from mnist.storage import checkpoints

    about = {"name": "mnist", "sha256": "0"}
    start = checkpoints.Checkpoint(vars(recipes.get("standard")), about, {}, training={"a": torch.zeros(2)})
    packed = checkpoints.pack(start)

    def test_one(content: bytes) -> None:
        for written in (content, checkpoints.seal(content)):
            with contextlib.suppress(checkpoints.CheckpointError):
                checkpoints.unpack(written, "fuzzed")

    return [packed, packed[len(checkpoints.seal(b"")) :]], test_one


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
    "image": _image,
}

if __name__ == "__main__":
    main()
