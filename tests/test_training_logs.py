import dataclasses
import json
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from samples import save_model
from strategies import generator

from mnist import architecture, drawings
from mnist.progress import LogEntry
from mnist.report import charts, figures
from mnist.storage import artifacts, integrity, training_logs

positive = st.floats(1e-12, 1e12)
entries = st.builds(
    LogEntry,
    step=st.integers(1, 10**9),
    images=st.integers(1, 10**12),
    loss=st.floats(0, 1e12),
    accuracy=st.floats(0, 1),
    learning_rate=positive,
    images_per_second=positive,
)
logs = st.lists(entries, min_size=1, max_size=5)
LOG = tuple(LogEntry(10 * n, 640 * n, 2.3 / n, 1 - 0.9 / n, 0.01, 5000.0) for n in range(1, 6))


def save(folder, log=LOG):
    model = architecture.build("cnn", generator(0))
    return save_model(model, folder, log=log)


@given(logs)
def test_log_round_trip(tmp_path_factory, log):
    path = save(tmp_path_factory.mktemp("models"), log)
    assert artifacts.load(path).log == tuple(log)
    lines = training_logs.log_path(path).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [dataclasses.asdict(entry) for entry in log]


@pytest.mark.parametrize("damage", [b"", b"{}\n", None])
def test_damaged_log_gives_a_warning_and_the_model_loads(tmp_path, damage):
    path = save(tmp_path)
    file = training_logs.log_path(path)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    artifact = artifacts.load(path)
    assert artifact.log == ()
    assert any("is damaged" in notice for notice in artifact.notices) == (damage is not None)
    (finding,) = integrity.check(path)
    assert finding.problem.endswith(f"{file.name} is missing or damaged")


@pytest.mark.parametrize("change", [{"loss": -1.0}, {"loss": None}, {"accuracy": 1.5}, {"images": 0}, {"step": "1"}])
def test_log_with_an_impossible_figure_is_refused(tmp_path, change):
    """The card has the SHA-256 of the wrong log, so only the values show that it is wrong."""
    forged = [vars(LOG[0]) | change]

    def to_bytes(log):
        return "".join(f"{json.dumps(entry)}\n" for entry in forged).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_logs, "to_bytes", to_bytes)
        path = save(tmp_path)
    artifact = artifacts.load(path)
    assert artifact.log == ()
    assert any("is not a training log" in notice for notice in artifact.notices)


def test_model_without_a_log_has_no_curve(tmp_path):
    artifact = artifacts.load(save(tmp_path, log=()))
    assert (artifact.log, artifact.notices) == ((), ())
    assert charts.learning_curves({"this model": artifact.log}) == []


# ---- Curves ----------------------------------------------------------------------------------------------------------


@given(logs, logs)
def test_curves_lie_within_their_axes(first, second):
    """Each entry gives one point; the ticks are in ascending order within the axes."""
    for chart in charts.learning_curves({"this model": first, "baseline": second}):
        assert {name: len(points) for name, points in chart.lines.items()} == {
            "this model": len(first),
            "baseline": len(second),
        }
        assert all(0 <= value <= 1 + 1e-9 for points in chart.lines.values() for point in points for value in point)
        for ticks in (chart.x_ticks, chart.y_ticks):
            places = [tick.place for tick in ticks]
            assert places == sorted(set(places))
            assert 0 <= places[0] <= places[-1] <= 1 + 1e-9
        assert len(chart.x_ticks) <= charts.MAX_TICKS + 1


def test_curve_of_the_loss_is_logarithmic():
    log = [dataclasses.replace(LOG[0], images=images, loss=loss) for images, loss in ((100, 1.0), (200, 0.1))]
    loss = charts.learning_curves({"this model": log})[0]
    places = {tick.label: tick.place for tick in loss.y_ticks}
    assert list(places) == ["0.1", "0.2", "0.5", "1"]
    assert loss.lines["this model"] == ((0.5, pytest.approx(1)), (1.0, pytest.approx(0)))
    assert places["0.5"] == pytest.approx(torch.tensor(5.0).log10().item())


@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30))
@example(math.nextafter(0.1, 0), 0.2)
@example(1e-30, 1e30)
def test_ticks_of_the_loss_enclose_all_losses(first, second):
    log = [dataclasses.replace(LOG[0], images=images, loss=loss) for images, loss in ((100, first), (200, second))]
    loss = charts.learning_curves({"this model": log})[0]
    assert all(-1e-9 <= place <= 1 + 1e-9 for _, place in loss.lines["this model"])
    assert [tick.place for tick in (loss.y_ticks[0], loss.y_ticks[-1])] == [0, 1]


def test_draw_learning_curves_overlays_the_logs(tmp_path, monkeypatch):
    drawn = []
    write = drawings.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (drawn.append(figure), write(figure, path)))
    figures.draw_learning_curves({"first: $a.pth": LOG, "second: b.pth": LOG[:2]}, tmp_path / "curves.png")
    loss, error = drawn[0].axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["first: $a.pth", "second: b.pth"]
    for axis, values in ((loss, [entry.loss for entry in LOG]), (error, [100 * (1 - e.accuracy) for e in LOG])):
        assert list(axis.lines[0].get_xdata()) == [entry.images for entry in LOG]
        assert list(axis.lines[0].get_ydata()) == values
        assert list(axis.lines[1].get_ydata()) == values[:2]
