import torch
from PIL import Image
from strategies import generator

from mnist import figures


def names(count: int) -> list[str]:
    return [str(number % 10) for number in range(count)]


def test_the_picture_is_a_png_that_grows_with_rows_and_columns(tmp_path):
    sizes = []
    for rows, columns in ((1, 5), (3, 5), (3, 12)):
        path = tmp_path / "figures" / f"{rows}x{columns}.png"
        originals = torch.rand(columns, 28, 28, generator=generator(0))
        figures.draw_augmentation(originals, originals.repeat(rows, 1, 1, 1), names(columns), "a test", path)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
    assert sizes[0][1] < sizes[1][1]
    assert sizes[1][0] < sizes[2][0]


def test_originals_stand_in_the_first_row_and_their_versions_below_each_labelled(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: drawn.append(figure))
    originals, augmented = (torch.rand(*shape, 28, 28, generator=generator(0)) for shape in ((5,), (2, 5)))
    figures.draw_augmentation(originals, augmented, [*"31415"], "of a test", tmp_path / "a.png")
    axes = drawn[0].axes
    shown = torch.stack([torch.from_numpy(axis.images[0].get_array().data) for axis in axes])
    assert torch.equal(shown, torch.cat([originals, augmented.flatten(0, 1)]))
    assert [axis.get_title() for axis in axes[:5]] == list("31415")
    assert [axis.get_ylabel() for axis in axes[::5]] == ["original", "augmented", "augmented"]
    assert "of a test" in drawn[0].get_suptitle()


def test_the_same_data_gives_the_same_picture_and_other_data_another(tmp_path):
    def draw(name: str, seed: int) -> bytes:
        originals = torch.rand(5, 28, 28, generator=generator(seed))
        path = tmp_path / name
        figures.draw_augmentation(originals, originals[None], names(5), "a test", path)
        return path.read_bytes()

    assert draw("first", 0) == draw("second", 0) != draw("third", 1)


def test_the_frontier_shows_the_error_of_every_recipe_and_publication_over_its_parameters(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: drawn.append(figure))
    ours, published = {"small": (1_000, [0.98, 0.99]), "large": (20_000, [0.995])}, {"A. Author": (7_000, 0.994)}
    figures.draw_frontier(ours, published, tmp_path / "frontier.png")
    axis = drawn[0].axes[0]
    points = {line.get_marker(): [] for line in axis.lines}
    for line in axis.lines:
        points[line.get_marker()].append((line.get_xdata()[0], *line.get_ydata().round(3)))
    assert points == {
        "None": [(1_000, 1, 2), (20_000, 0.5, 0.5)],
        "o": [(1_000, 1.5), (20_000, 0.5)],
        "s": [(7_000, 0.6)],
    }
    assert {text.get_text() for text in axis.texts} == {"small", "large", "A. Author"}
    assert len(axis.get_legend().get_texts()) == 2, "each kind of point is explained once"
