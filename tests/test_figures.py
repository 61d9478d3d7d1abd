"""Test the figures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from strategies import generator

from mnist import drawings
from mnist.report import figures


def names(count: int) -> list[str]:
    return [str(number % 10) for number in range(count)]


@pytest.mark.slow
def test_draw_augmentation_writes_a_png(tmp_path):
    """The size of the image grows with the number of rows and columns."""
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


def test_check_replaceable_accepts_only_own_figures(tmp_path):
    own, other, text, broken = (tmp_path / name for name in ("own.png", "other.png", "text.png", "broken.png"))
    drawings.check_replaceable(own)
    drawings.draw_inputs([(torch.zeros(28, 28, dtype=torch.uint8).numpy(), "a title")], own)
    drawings.check_replaceable(own)
    figure = Figure()
    figure.savefig(other)  # marked by Matplotlib, as any plot
    text.write_text("not an image", encoding="utf-8")
    broken.write_bytes(own.read_bytes()[:20])
    for path in (other, text, broken, tmp_path):
        with pytest.raises(drawings.ForeignFileError, match=r"exists and was not drawn by this program .*--force"):
            drawings.check_replaceable(path)


def test_draw_augmentation_shows_originals_above_their_versions(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    originals, augmented = (torch.rand(*shape, 28, 28, generator=generator(0)) for shape in ((5,), (2, 5)))
    figures.draw_augmentation(originals, augmented, [*"31415"], "of a test", tmp_path / "a.png")
    axes = drawn[0].axes
    shown = torch.stack([torch.from_numpy(axis.images[0].get_array().data) for axis in axes])
    assert torch.equal(shown, torch.cat([originals, augmented.flatten(0, 1)]))
    assert [axis.get_title() for axis in axes[:5]] == list("31415")
    assert [axis.get_ylabel() for axis in axes[::5]] == ["original", "augmented", "augmented"]
    assert "of a test" in drawn[0].get_suptitle()


@pytest.mark.slow
def test_draw_augmentation_is_deterministic(tmp_path):
    def draw(name: str, seed: int) -> bytes:
        originals = torch.rand(5, 28, 28, generator=generator(seed))
        path = tmp_path / name
        figures.draw_augmentation(originals, originals[None], names(5), "a test", path)
        return path.read_bytes()

    assert draw("first", 0) == draw("second", 0) != draw("third", 1)


def test_draw_augmentation_shows_class_names_as_plain_text(tmp_path, monkeypatch):
    """Long names are smaller; `$` does not start a formula."""
    drawn = []
    write = drawings.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (drawn.append(figure), write(figure, path)))
    originals = torch.rand(3, 28, 28, generator=generator(0))
    figures.draw_augmentation(originals, originals[None], ["7", "Ankle boot", "$^$"], "of $^$", tmp_path / "a.png")
    titles = [axis.title for axis in drawn[0].axes[:3]]
    assert [title.get_text() for title in titles] == ["7", "Ankle boot", "$^$"]
    assert titles[1].get_fontsize() < titles[0].get_fontsize()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (8, 8, 1), (9, 8, 2), (64, 8, 8)])
def test_draw_inputs_shows_each_image_below_its_title(tmp_path, monkeypatch, count, columns, rows):
    drawn = []
    monkeypatch.setattr(drawings, "save_figure", lambda figure, path: drawn.append(figure))
    inputs = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator(0)).numpy()
    drawings.draw_inputs([(image, f"image {number}") for number, image in enumerate(inputs)], tmp_path / "inputs.png")
    axes = drawn[0].axes
    assert len(axes) == rows * columns
    assert drawn[0].axes[-1].get_subplotspec().get_geometry()[:2] == (rows, columns)
    for number, axis in enumerate(axes):
        if number < count:
            assert (axis.images[0].get_array() == inputs[number]).all()
            assert axis.get_title() == f"image {number}"
            assert axis.images[0].get_clim() == (0, 255)
        else:
            assert not axis.images


def test_draw_inputs_shows_titles_as_plain_text(tmp_path):
    black = torch.zeros(28, 28, dtype=torch.uint8).numpy()
    drawings.draw_inputs([(black, "costs $5^$.png"), (black, r"\frac{")], tmp_path / "new" / "inputs.png")
    with Image.open(tmp_path / "new" / "inputs.png") as picture:
        assert picture.format == "PNG"


def test_draw_frontier_shows_every_recipe_and_publication(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    ours, published = {"small": (1_000, [0.98, 0.99]), "large": (20_000, [0.995])}, {"A. Author": (7_000, 0.994)}
    figures.draw_frontier(ours, published, tmp_path / "frontier.png")
    axis = drawn[0].axes[0]
    points = {line.get_marker(): [] for line in axis.lines if line.get_linestyle() != "--"}
    for line in axis.lines:
        if line.get_linestyle() == "--":
            continue
        points[line.get_marker()].append((line.get_xdata()[0], *line.get_ydata().round(3)))
    assert points == {
        "None": [(1_000, 1, 2), (20_000, 0.5, 0.5)],
        "o": [(1_000, 1.5), (20_000, 0.5)],
        "s": [(7_000, 0.6)],
    }
    assert {text.get_text() for text in axis.texts} == {"small", "large", "[1]"}
    assert drawn[0].get_supxlabel() == "[1] A. Author"
    assert len(axis.get_legend().get_texts()) == 3, "one entry for each kind of point, and for the frontier"
    (frontier,) = (line for line in axis.lines if line.get_linestyle() == "--")
    assert list(frontier.get_xdata()) == [1_000, 7_000, 20_000]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1))
def test_pareto_frontier_has_exactly_the_undominated_points(points):
    def dominated(point):
        return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)

    assert figures.pareto_frontier(points) == sorted({point for point in points if not dominated(point)})
