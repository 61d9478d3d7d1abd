"""Test that files are refused by their size before their content is read or decompressed."""

import io
import zipfile

import pytest
import torch

from mnist.storage import artifacts, card, checkpoints, pickles
from mnist.storage.pickles import RefusedError


@pytest.mark.parametrize(
    ("read", "limit"),
    [(artifacts.load, 10_000_000), (card.read, 1_000_000), (checkpoints.read, 100_000_000)],
    ids=["model", "card", "checkpoint"],
)
def test_reader_refuses_a_file_above_its_limit(tmp_path, read, limit):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(Exception, match=f"more than the limit of {limit:,}(?![,\\d])"):
        read(path)


def compressed(content: bytes) -> bytes:
    """Return an archive with its records compressed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as copy:
        for record in archive.infolist():
            copy.writestr(record.filename, archive.read(record))
    return packed.getvalue()


def test_load_refuses_records_larger_than_the_file():
    """The file is a little smaller than its records, so any larger limit accepts it."""
    tensor = torch.randint(0, 256, (10_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensor[:2_000] = 0
    content = io.BytesIO()
    torch.save({"tensor": tensor}, content)
    assert torch.equal(pickles.load(content.getvalue(), "file")["tensor"], tensor)
    packed = compressed(content.getvalue())
    assert len(packed) < len(tensor) < 1.25 * len(packed)
    with pytest.raises(RefusedError, match="compressed"):
        pickles.load(packed, "file")
