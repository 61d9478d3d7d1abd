import torch
from PIL import Image
from strategies import generator

from mnist import figures


def test_the_picture_is_a_png_that_grows_with_rows_and_columns(tmp_path):
    sizes = []
    for rows, columns in ((1, 5), (3, 5), (3, 12)):
        path = tmp_path / "figures" / f"{rows}x{columns}.png"
        originals = torch.rand(columns, 28, 28, generator=generator(0))
        figures.draw_augmentation(originals, originals.repeat(rows, 1, 1, 1), torch.arange(columns), "a test", path)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
    assert sizes[0][1] < sizes[1][1]
    assert sizes[1][0] < sizes[2][0]


def test_the_same_data_gives_the_same_picture_and_other_data_another(tmp_path):
    def draw(name: str, seed: int) -> bytes:
        originals = torch.rand(5, 28, 28, generator=generator(seed))
        path = tmp_path / name
        figures.draw_augmentation(originals, originals[None], torch.arange(5), "a test", path)
        return path.read_bytes()

    assert draw("first", 0) == draw("second", 0) != draw("third", 1)
