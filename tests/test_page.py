"""The drawing page in a real browser. If none is installed, the tests are skipped, except in CI."""

import base64
import dataclasses
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CONTRAST
from PIL import Image, ImageDraw
from playwright.sync_api import expect
from samples import save_model
from strategies import PATIENCE, generator
from torch import nn

from mnist import architecture, preparation, transforms
from mnist.architecture import ARCHITECTURES, CNN, Classifier
from mnist.deploy import inference, page
from mnist.deploy.layers import LayerError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
HOSTILE = "<script>document.title = 'hacked'</script>"
HOSTILE_NAMES = [f"</script>{HOSTILE}", "<!--<script>", *DIGITS[2:]]
MAX_PAGE_BYTES = 300_000
VIEWPORTS = [(360, 740), (360, 640), (740, 360), (768, 1024), (1280, 800)]  # pixels

# Read the sheet's pixels from a copy: Chromium warns if a canvas without willReadFrequently is read.
READ_INK = """() => {
  const sheet = document.getElementById("sheet");
  const copy = new OffscreenCanvas(sheet.width, sheet.height).getContext("2d");
  copy.drawImage(sheet, 0, 0);
  const { data } = copy.getImageData(0, 0, sheet.width, sheet.height);
  const inked = [...data.keys()].filter(i => i % 4 === 3 && data[i] === 255);
  return { count: inked.length, blue: inked.length ? data[inked[0] - 1] : null };
}"""

# Drawings: lists of strokes, whose points are in fractions of the sheet's side.
ONE = [[(0.52, 0.15), (0.5, 0.85)]]
SEVEN = [[(0.28, 0.2), (0.72, 0.2), (0.45, 0.85)]]
TWO = [[(0.3, 0.3), (0.5, 0.15), (0.68, 0.3), (0.6, 0.5), (0.28, 0.85), (0.72, 0.85)]]
THREE = [[(0.3, 0.2), (0.55, 0.15), (0.66, 0.3), (0.48, 0.48), (0.7, 0.65), (0.55, 0.85), (0.28, 0.78)]]
FOUR = [[(0.45, 0.15), (0.25, 0.6), (0.75, 0.6)], [(0.6, 0.35), (0.58, 0.9)]]
FIVE = [
    [(0.32, 0.18), (0.3, 0.45), (0.55, 0.42), (0.68, 0.62), (0.5, 0.85), (0.28, 0.78)],
    [(0.32, 0.18), (0.68, 0.17)],
]
ZERO = [[(0.5 + 0.24 * math.sin(turn / 5), 0.5 - 0.34 * math.cos(turn / 5)) for turn in range(0, 33, 3)]]


@pytest.fixture(scope="module")
def known(trained, tmp_path_factory) -> Artifact:
    """A good model, with HTML in its card."""
    measured = {"measured_on": "the test split, 1,000 images", "accuracy": 0.9876, "threshold": 0.5}
    folder = tmp_path_factory.mktemp("models")
    return artifacts.load(save_model(trained.model, folder, recipe={"name": HOSTILE}, measured=measured))


def with_card(artifact: Artifact, classes=DIGITS, threshold=0.5) -> Artifact:
    """Return the artifact with other class names and another threshold in its card."""
    dataset = dataclasses.replace(artifact.card.dataset, classes=tuple(classes))
    card = dataclasses.replace(
        artifact.card, dataset=dataset, measured=dataclasses.replace(artifact.card.measured, threshold=threshold)
    )
    return dataclasses.replace(artifact, card=card)


@pytest.fixture(scope="module")
def pages(known, tmp_path_factory) -> dict[str, Path]:
    """Pages of a good model: unchanged, never sure, with words or HTML as class names, and without a card."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    rendered = {
        "good": page.render(known),
        "unsure": page.render(with_card(known, threshold=1.0)),
        "words": page.render(with_card(known, classes=CLOTHES)),
        "hostile": page.render(with_card(known, classes=HOSTILE_NAMES)),
        "bare": page.render(dataclasses.replace(known, card=None)),
    }
    for name, html in rendered.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in rendered}


@pytest.fixture(scope="module")
def new_tab(browser, pages):
    """Open a tab that records console messages, errors and requests as complaints."""
    known = {path.as_uri() for path in pages.values()}

    def open_tab(complaints, **options):
        tab = browser.new_page(**options)
        tab.set_default_timeout(1000 * PATIENCE)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url) if request.url not in known else None)
        return tab

    return open_tab


@pytest.fixture(scope="module")
def shared_tab(new_tab):
    """One tab for all tests, because opening one is slow, and its complaints."""
    complaints = []
    tab = new_tab(complaints)
    yield tab, complaints
    tab.close()


@pytest.fixture
def opened(new_tab, shared_tab, pages):
    """Open a page, in a new tab if there are options; fail at the end of the test if there were complaints."""
    tab, complaints = shared_tab
    own = []

    def open_page(name="good", width=1280, height=800, **options):
        if options:
            own.append(new_tab(complaints, **options))
        shown = own[-1] if options else tab
        shown.set_viewport_size({"width": width, "height": height})
        shown.goto(pages[name].as_uri())
        return shown

    yield open_page
    for shown in own:
        shown.close()
    assert complaints == []


def on_sheet(shown, point):
    box = shown.locator("#sheet").bounding_box()
    return box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]


def draw(shown, strokes):
    for first, *others in strokes:
        shown.mouse.move(*on_sheet(shown, first))
        shown.mouse.down()
        for point in others:
            shown.mouse.move(*on_sheet(shown, point))
        shown.mouse.up()


def assert_prediction(shown, text):
    expect(shown.locator("#prediction")).to_have_text(text)


def probabilities(shown) -> list[float]:
    return [float(text.split()[0]) for text in shown.locator("#bars .number").all_inner_texts()]


def wait_until(shown, condition: str) -> None:
    """Wait without Playwright's wait_for_function, which needs the eval that the page's policy forbids."""
    end = time.monotonic() + PATIENCE
    while not shown.evaluate(condition):
        assert time.monotonic() < end, f"not true after {PATIENCE} seconds: {condition}"
        shown.wait_for_timeout(50)


def inked(shown) -> int:
    """Return the number of opaque pixels on the sheet."""
    return shown.evaluate(READ_INK)["count"]


# ---- Agreement with Python -------------------------------------------------------------------------------------------


def ink_maps(digits) -> dict[str, np.ndarray]:
    """Return ink maps of many shapes, by name."""
    maps = {"empty": np.zeros((40, 30)), "full": np.ones((50, 50)), "a full box": np.ones((20, 20))}
    for length in (1, 2, 3, 19, 20, 21, 57):
        maps |= {f"a line of {length} down": np.ones((length, 1)), f"a line of {length} across": np.ones((1, length))}
    for height, width in ((28, 28), (280, 280), (300, 41), (9, 200), (64, 100), (3, 2)):
        pixel = np.zeros((height, width))
        pixel[height // 3, width // 2] = 1
        maps[f"a pixel of {height} x {width}"] = pixel
        for seed in range(6):
            maps[f"strokes {seed} on {height} x {width}"] = strokes(height, width, generator(seed))
    for index, factor in enumerate((1, 2, 5, 10)):
        digit = Image.fromarray(digits[index, 0].numpy())
        enlarged = digit.resize((28 * factor, 28 * factor + 3), Image.Resampling.BICUBIC)
        maps[f"a digit {factor} times as large"] = np.asarray(enlarged) / 255
    return {name: ink.astype(np.float32) for name, ink in maps.items()}


def strokes(height: int, width: int, g: torch.Generator) -> np.ndarray:
    """Draw three random lines with soft edges, by drawing at four times the size."""
    canvas = Image.new("L", (4 * width, 4 * height))
    points = torch.rand(3, 4, 2, generator=g) * torch.tensor([4 * width, 4 * height])
    for line, thickness in zip(points.tolist(), torch.randint(1, 40, (3,), generator=g).tolist(), strict=True):
        ImageDraw.Draw(canvas).line([tuple(point) for point in line], fill=255, width=thickness)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX)) / 255


def symmetric_maps() -> dict[str, np.ndarray]:
    """Return rings and a faint pixel, whose centres of mass lie exactly between two pixels."""
    maps = {"a faint pixel": np.full((1, 1), 0.4)}
    for height, width in ((40, 40), (41, 41), (100, 30), (31, 100)):
        y, x = np.mgrid[:height, :width]
        radius = np.hypot((2 * y + 1) / height - 1, (2 * x + 1) / width - 1)
        maps[f"a ring of {height} x {width}"] = np.clip(4 - 10 * np.abs(radius - 0.8), 0, 1)
    return {name: ink.astype(np.float32) for name, ink in maps.items()}


def assert_prepared_as_in_python(shown, maps):
    packed = [[base64.b64encode(ink.tobytes()).decode(), *ink.shape] for ink in maps.values()]
    prepared = shown.evaluate(
        """maps => maps.map(([packed, height, width]) => {
          const bytes = Uint8Array.from(atob(packed), character => character.charCodeAt(0));
          return [...window.mnist.fit(new Float32Array(bytes.buffer), height, width)];
        })""",
        packed,
    )
    for (name, ink), pixels in zip(maps.items(), prepared, strict=True):
        difference = np.abs(np.array(pixels).reshape(28, 28) - preparation.fit(ink).astype(int)).max()
        assert difference <= 1, f"{name}: {difference} grey levels"


def test_fit_equals_python(opened, subset):
    assert_prepared_as_in_python(opened(), ink_maps(subset.test.images))


def test_fit_equals_python_for_symmetric_ink(opened):
    assert_prepared_as_in_python(opened(), symmetric_maps())


# JavaScript that returns the sheet as a PNG file, and the page's results for it.
READ_ANSWER = """() => {
  const sheet = document.getElementById("sheet");
  const { data } = sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height);
  const opacity = new Uint8Array(data.length / 4);
  for (let i = 0; i < opacity.length; i++) opacity[i] = data[4 * i + 3];
  const { probabilities, reason } = window.mnist.recognize(opacity, sheet.height, sheet.width);
  return {
    png: sheet.toDataURL("image/png").split(",")[1],
    probabilities: probabilities ?? [],
    reason: reason ?? null,
    shownReason: document.getElementById("result").dataset.reason || null,
    shown: document.getElementById("prediction").textContent,
  };
}"""


def random_drawing(rng: np.random.Generator) -> list[list[tuple[float, float]]]:
    """Draw a jittered digit of any size, alone or with an underline, frame, dot or second digit; or draw a scribble."""

    def placed(drawing, left, top, size):
        jitter = rng.normal(0, 0.02, (len(drawing), max(map(len, drawing)), 2))
        return [
            [(left + size * (x + dx), top + size * (y + dy)) for (x, y), (dx, dy) in zip(stroke, noise, strict=False)]
            for stroke, noise in zip(drawing, jitter, strict=True)
        ]

    digits = [ONE, SEVEN, ZERO, TWO, THREE, FOUR, FIVE]
    first = digits[rng.integers(len(digits))]
    kind = rng.choice(["alone", "underline", "frame", "dot", "two", "scribble"], p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    if kind == "scribble":
        return [[tuple(point) for point in rng.uniform(0.1, 0.9, (rng.integers(2, 12), 2))] for _ in range(2)]
    if kind == "two":
        second = digits[rng.integers(len(digits))]
        gap = rng.uniform(0.3, 0.5)
        return placed(first, 0, 0.2, 0.5) + placed(second, gap, 0.2, 0.5)
    size = rng.uniform(0.3, 0.9)
    left, top = rng.uniform(0, 1 - size, 2)
    drawing = placed(first, left, top, size)
    if kind == "underline":
        drawing += [[(left, top + 0.95 * size), (left + size, top + 0.95 * size)]]
    if kind == "frame":
        drawing += [[(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.02)]]
    if kind == "dot":
        drawing += [[tuple(rng.uniform(0.05, 0.95, 2))]]
    return drawing


def assert_page_equals_python(shown, artifact: Artifact, count: int) -> None:
    rng = np.random.default_rng(count)
    kinds = set()
    for number in range(count):
        shown.get_by_role("button", name="Clear").click()
        draw(shown, random_drawing(rng))
        answer = shown.evaluate(READ_ANSWER)
        expected = inference.predict(artifact, base64.b64decode(answer["png"]))
        reason = expected.reason.value if expected.reason else None
        assert (answer["reason"], answer["shownReason"]) == (reason, reason), f"drawing {number}"
        assert answer["probabilities"] == pytest.approx(list(expected.probabilities), abs=1e-3), f"drawing {number}"
        if expected.probabilities:
            assert answer["shown"] == (expected.label or "not sure")
        kinds.add(reason)
    assert None in kinds
    assert len(kinds) > 1


def test_recognize_equals_python(opened, known):
    assert_page_equals_python(opened(), known, count=15)


def test_recognize_equals_python_at_a_high_resolution(opened, known):
    """The sheet has more pixels than ``MAX_READ_SIDE``, so both programs reduce it."""
    assert_page_equals_python(opened(device_scale_factor=3), known, count=5)


@pytest.mark.slow
def test_recognize_equals_python_for_many_drawings(opened, known):
    """The environment variable DRAWINGS sets the number of drawings."""
    assert_page_equals_python(opened(), known, count=int(os.environ.get("DRAWINGS", "100")))


@pytest.mark.parametrize(
    ("noise", "visible"),
    [("", False), ("pixels.data[4 * 77 + 3] ^= 1;", True), ("pixels.data.fill(255);", True)],
)
def test_changed_pixels_are_reported(browser, pages, noise, visible):
    """Fingerprinting protection adds noise to what getImageData returns."""
    shown = browser.new_page()
    shown.add_init_script(
        "const original = CanvasRenderingContext2D.prototype.getImageData;"
        "CanvasRenderingContext2D.prototype.getImageData = function (...box) {"
        f"const pixels = original.apply(this, box); {noise} return pixels; }};"
    )
    shown.goto(pages["good"].as_uri())
    expect(shown.get_by_text("Your browser changes the pixels")).to_be_visible(visible=visible)
    shown.close()


def logits_in(browser, folder: Path, artifact: Artifact, digits: torch.Tensor) -> torch.Tensor:
    path = folder / "page.html"
    path.write_text(page.render(artifact), encoding="utf-8")
    assert path.stat().st_size < MAX_PAGE_BYTES
    shown = browser.new_page()
    shown.goto(path.as_uri())
    found = shown.evaluate(
        "images => images.map(image => [...window.mnist.logits(Uint8Array.from(image))])", digits.flatten(1).tolist()
    )
    shown.close()
    return torch.tensor(found)


def with_statistics(model: nn.Module, g: torch.Generator) -> nn.Module:
    """Set random statistics, scales and shifts in every batch norm of the model."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in filter(lambda values: values is not None, (layer.running_var, layer.weight)):
                values.data.copy_(torch.rand(values.shape, generator=g) + 0.5)
            for values in filter(lambda values: values is not None, (layer.running_mean, layer.bias)):
                values.data.copy_(torch.randn(values.shape, generator=g) * 0.3)
    return model


class Unusual(Classifier):
    """Supported layers and settings that no architecture uses."""

    shifts = ((2, -3), (0, 0))

    def __init__(self, g: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=g)))
            self.features = nn.Sequential(
                nn.Conv2d(1, 6, (3, 5), stride=(2, 1), padding=(3, 1)),
                nn.Sequential(nn.Identity(), nn.ReLU(), nn.AvgPool2d((2, 3), stride=(1, 2))),
                nn.BatchNorm2d(6, affine=False),
                nn.Conv2d(6, 9, 3, groups=3, bias=False),
                nn.MaxPool2d(3, stride=2),
                nn.Flatten(),
            )
            features = self.features(torch.zeros(2, 1, 28, 28)).shape[1]
            self.head = nn.Linear(features, 10, bias=False)

    def layers(self):
        return self.features, self.head


@pytest.mark.parametrize("name", [*ARCHITECTURES, "unusual"])
def test_logits_equal_python(browser, known, tmp_path, subset, name):
    model = Unusual(generator(1)) if name == "unusual" else architecture.build(name, generator(1))
    model = with_statistics(model, generator(2)).eval()
    digits = subset.test.images[::100]
    with torch.inference_mode():
        expected = model(transforms.prepare(digits))
    found = logits_in(browser, tmp_path, dataclasses.replace(known, model=model), digits)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(found.argmax(1), expected.argmax(1))


class Dilated(CNN):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=2, dilation=2)


class Unsupported(CNN):
    def layers(self):
        return *super().layers(), nn.Tanh()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Dilated, page.PageError, r"^the page cannot run a convolution with dilation \(2, 2\)$"),
        (Unsupported, LayerError, r"do not support the layer Tanh\(\)"),
    ],
)
def test_render_refuses_unsupported_layer(known, kind, error, message):
    with torch.random.fork_rng(devices=[]):
        model = kind()
    with pytest.raises(error, match=message):
        page.render(dataclasses.replace(known, model=model))


def test_render_refuses_weights_that_are_not_finite(known):
    model = architecture.build("cnn", generator(0))
    nn.init.constant_(model.fc2.bias, torch.nan)
    with pytest.raises(page.PageError, match="a weight is NaN or infinite"):
        page.render(dataclasses.replace(known, model=model))


# ---- Drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digit", "drawing"), [("1", ONE), ("0", ZERO), ("7", SEVEN)])
def test_mouse_drawing_is_recognized(opened, digit, drawing):
    shown = opened()
    draw(shown, drawing)
    assert_prediction(shown, digit)
    expect(shown.locator("#details")).to_contain_text("sure")
    expect(shown.locator("#bars .top .name")).to_have_text(digit)
    assert abs(sum(probabilities(shown)) - 100) < 1


@pytest.mark.parametrize("size", [0.25, 0.5, 0.9])
def test_drawing_of_any_size_is_recognized(opened, size):
    shown = opened()
    draw(shown, [[(0.1 + size * x, 0.05 + size * y) for x, y in stroke] for stroke in SEVEN])
    assert_prediction(shown, "7")


def test_prediction_is_live_and_announced_after_a_stroke(opened):
    shown = opened()
    status = shown.get_by_role("status")
    assert_prediction(shown, "draw a digit")
    expect(status).to_be_empty()
    shown.mouse.move(*on_sheet(shown, (0.5, 0.2)))
    shown.mouse.down()
    shown.mouse.move(*on_sheet(shown, (0.5, 0.8)), steps=5)
    assert_prediction(shown, "1")
    expect(status).to_be_empty()
    shown.mouse.up()
    expect(status).to_contain_text("1, ")
    expect(status).to_contain_text("sure")


def test_click_makes_a_dot(opened):
    shown = opened()
    shown.mouse.click(*on_sheet(shown, (0.5, 0.5)))
    expect(shown.locator("#prediction")).not_to_have_text("draw a digit")
    assert inked(shown) > 500


def test_second_finger_does_not_draw(opened):
    shown = opened(width=360, height=740, has_touch=True, is_mobile=True)
    fingers = shown.context.new_cdp_session(shown)

    def touch(kind, *places):
        points = [on_sheet(shown, place) for place in places]
        at = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (0.5, 0.15))
    touch("touchStart", (0.5, 0.15), (0.1, 0.9))
    for step in range(1, 11):
        touch("touchMove", (0.5, 0.15 + 0.07 * step), (0.1 + 0.07 * step, 0.9))
    touch("touchEnd")
    assert_prediction(shown, "1")
    assert shown.evaluate("scrollY") == 0, "drawing with a finger must not scroll the page"


def test_keyboard_draws_and_clears(opened):
    shown = opened()
    shown.keyboard.press("Tab")
    shown.keyboard.press("Tab")
    shown.keyboard.press("Tab")
    expect(shown.get_by_role("application", name="Drawing area")).to_be_focused()
    expect(shown.locator("#pen")).to_be_visible()
    for _ in range(10):
        shown.keyboard.press("ArrowUp")
    assert_prediction(shown, "draw a digit")
    shown.keyboard.press("Space")
    expect(shown.get_by_role("status")).to_have_text("pen down")
    for _ in range(20):
        shown.keyboard.press("ArrowDown")
    shown.keyboard.press("Space")
    assert_prediction(shown, "1")
    expect(shown.get_by_role("status")).to_contain_text("1, ")
    for key in ("Escape", "Delete", "Backspace"):
        shown.keyboard.press("Space")
        shown.keyboard.press(key)
        assert_prediction(shown, "draw a digit")
        expect(shown.locator("#pen")).not_to_have_class("pen down")


def test_keyboard_two_arrows_draw_a_diagonal(opened):
    shown = opened()
    shown.locator("#sheet").focus()
    shown.keyboard.press("Space")
    shown.keyboard.down("ArrowDown")
    for _ in range(5):
        shown.keyboard.down("ArrowRight")
    shown.keyboard.up("ArrowDown")
    shown.keyboard.up("ArrowRight")
    nib = shown.locator("#pen").evaluate("pen => [pen.style.left, pen.style.top]")
    assert [round(float(at.removesuffix("%"))) for at in nib] == [round(50 + 500 / 28), round(50 + 600 / 28)]


def test_clear_removes_drawing_and_prediction(opened):
    shown = opened()
    draw(shown, SEVEN)
    assert_prediction(shown, "7")
    shown.get_by_role("button", name="Clear").click()
    assert_prediction(shown, "draw a digit")
    expect(shown.get_by_role("status")).to_have_text("draw a digit")
    assert inked(shown) == 0
    assert shown.locator("#bars .number").all_inner_texts() == ["\N{EN DASH}"] * 10
    assert shown.locator("#bars .top").count() == 0
    assert shown.locator("#details").inner_text() == ""


def test_undo_removes_the_last_stroke(opened):
    shown = opened()
    draw(shown, [*ONE, [(0.1, 0.1), (0.9, 0.1)]])
    expect(shown.locator("#prediction")).not_to_have_text("1")
    shown.keyboard.press("Control+z")
    assert_prediction(shown, "1")
    shown.get_by_role("button", name="Undo").click()
    assert_prediction(shown, "draw a digit")
    shown.get_by_role("button", name="Undo").click()
    assert_prediction(shown, "draw a digit")


def test_prediction_below_the_threshold_is_not_sure(opened):
    shown = opened("unsure")
    draw(shown, SEVEN)
    assert_prediction(shown, "not sure")
    expect(shown.locator("#details")).to_contain_text("perhaps 7")


def test_class_names_may_be_words(opened):
    shown = opened("words", width=360)
    assert_prediction(shown, "draw something")
    draw(shown, SEVEN)
    assert_prediction(shown, CLOTHES[7])
    assert shown.locator("#bars .name").all_inner_texts() == CLOTHES
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360


def test_network_input_is_shown(opened):
    shown = opened()
    draw(shown, ZERO)
    levels = shown.locator("#network-input").evaluate(
        "seen => [...seen.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
    )
    seen = np.array(levels).reshape(28, 28)
    assert np.ptp(np.flatnonzero(seen.any(1))) == 19, "the longer side must have 20 pixels"
    assert seen[14, 14] == 0
    assert 2 <= (seen[14] > 127).sum() / 2 <= 3.5, "strokes must be as wide as MNIST's"


def test_drawing_survives_new_size_resolution_and_scheme(opened):
    shown = opened(device_scale_factor=1)
    draw(shown, SEVEN)
    large = inked(shown)
    shown.set_viewport_size({"width": 360, "height": 740})
    wait_until(shown, "() => sheet.width === sheet.clientWidth")
    assert 0 < inked(shown) < large
    screen = {"width": 400, "height": 740, "deviceScaleFactor": 3, "mobile": False}
    shown.context.new_cdp_session(shown).send("Emulation.setDeviceMetricsOverride", screen)
    wait_until(shown, "() => sheet.width === 3 * sheet.clientWidth")
    assert inked(shown) > large
    assert shown.evaluate(READ_INK)["blue"] < 150
    shown.emulate_media(color_scheme="dark")
    wait_until(shown, f"() => ({READ_INK})().blue > 250")
    assert_prediction(shown, "7")


# ---- Page ------------------------------------------------------------------------------------------------------------


def test_facts_show_the_card_as_text(opened):
    shown = opened()
    text = shown.locator("main").inner_text()
    for words in (
        HOSTILE,
        "15,106",
        "98.76\N{NO-BREAK SPACE}% of 1,000 images (the test split)",
        "training split, 4,000 images",
        "mnist_model_",
        "UTC",
    ):
        assert words in text
    assert "hacked" not in shown.title()


def test_class_names_cannot_end_the_model_block(opened):
    shown = opened("hostile")
    draw(shown, SEVEN)
    assert_prediction(shown, "7")
    assert shown.locator("#bars .name").all_inner_texts() == HOSTILE_NAMES
    assert "hacked" not in shown.title()


def test_facts_state_that_the_card_is_missing(opened):
    text = opened("bare").locator("main").inner_text()
    assert "There is no model card" in text
    assert "15,106" in text
    assert "accuracy" not in text


def test_render_accepts_a_card_without_an_accuracy(trained, tmp_path):
    artifact = artifacts.load(save_model(trained.model, tmp_path, measured={"accuracy": math.nan}))
    assert "recognizes" not in page.render(artifact)


def test_policy_blocks_connections(browser, pages):
    shown = browser.new_page()
    shown.goto(pages["good"].as_uri())
    refused = shown.evaluate(
        """() => new Promise(resolve => {
          document.addEventListener('securitypolicyviolation', event => resolve(event.effectiveDirective));
          fetch('https://example.org/').catch(() => {});
        })"""
    )
    shown.close()
    assert refused == "connect-src"


@pytest.mark.parametrize("name", ["good", "words"])
def test_layout_has_no_horizontal_overflow(opened, name):
    shown = opened(name)
    for drawing in ([], SEVEN):
        draw(shown, drawing)
        for width, height in VIEWPORTS:
            shown.set_viewport_size({"width": width, "height": height})
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            inside = "a => [...document.querySelectorAll('main *')].every(e => e.scrollWidth <= e.clientWidth + 1 || "
            inside += "!e.clientWidth || getComputedStyle(e).overflow === 'hidden')"
            assert shown.evaluate(inside), f"an element overflows at {width} x {height}"


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 800)])
def test_layout_shows_sheet_and_bars_at_once(opened, width, height):
    shown = opened(width=width, height=height)
    for place in ("#sheet", "#prediction", "#bars"):
        box = shown.locator(place).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= height


@pytest.mark.parametrize(("name", "drawings"), [("good", ([], SEVEN)), ("unsure", (SEVEN,)), ("bare", ([],))])
def test_contrast_in_light_and_dark(opened, name, drawings):
    shown = opened(name)
    shown.emulate_media(reduced_motion="reduce")  # otherwise colours are read during a transition
    for drawing in drawings:
        draw(shown, drawing)
        for scheme in ("light", "dark"):
            shown.emulate_media(color_scheme=scheme)
            contrast, text = shown.evaluate(CONTRAST)
            assert contrast >= 4.5, f"{text!r} has a contrast of {contrast:.1f}"


def test_colour_schemes_differ(opened):
    shown, colours = opened(), []
    for scheme in ("light", "dark"):
        shown.emulate_media(color_scheme=scheme)
        colours.append(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_reduced_motion_disables_transitions(opened):
    moving = (
        "[...document.querySelectorAll('main *')].filter(e => getComputedStyle(e).transitionDuration !== '0s').length"
    )
    shown = opened()
    shown.emulate_media(reduced_motion="no-preference")
    assert shown.evaluate(moving) > 0
    shown.emulate_media(reduced_motion="reduce")
    assert shown.evaluate(moving) == 0


def test_focusable_elements_have_names(opened):
    shown = opened()
    tree = shown.context.new_cdp_session(shown).send("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if any(said["name"] == "focusable" for said in node.get("properties", []))
    ]
    assert named == [
        ("RootWebArea", shown.title()),
        ("button", "Undo"),
        ("button", "Clear"),
        ("application", "Drawing area"),
    ]
    described = shown.locator("#sheet").get_attribute("aria-describedby")
    assert "arrow keys" in shown.locator(f"#{described}").inner_text()


def test_focus_is_visible(opened):
    shown = opened()
    for _ in range(3):
        shown.keyboard.press("Tab")
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
