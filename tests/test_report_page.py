"""The report in a real browser. Without one these tests are skipped, and say how to get one."""

import dataclasses

import pytest
import torch
from browser import CONTRAST, WIDTHS
from samples import save_model
from strategies import CLOTHES, generator

from mnist import architecture, gate, report
from mnist.gate import measurement
from mnist.storage import artifacts


@pytest.fixture(scope="module")
def pages(trained, subset, tmp_path_factory):
    """Reports of a good model against an untrained one, of digits and of clothes; of that one; of a broken one."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    untrained, broken = (architecture.build("cnn", generator(seed)) for seed in (0, 1))
    torch.nn.init.constant_(broken.fc2.bias, torch.nan)
    written = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "PROBED", 100)
        patch.setattr(measurement, "SEEN", 100)
        models = {"good": trained.model, "words": trained.model, "untrained": untrained, "broken": broken}
        recipe = {"name": "<script>document.title = 'hacked'</script>"}
        policy = gate.load_policy(dataset="subset")
        older = artifacts.load(save_model(untrained, folder, recipe=recipe))
        for name, model in models.items():
            test = dataclasses.replace(subset.test, classes=CLOTHES) if name == "words" else subset.test
            artifact = artifacts.load(save_model(model, folder / name, recipe=recipe))
            baseline = older if model is trained.model else None
            evaluation = gate.evaluate(artifact, dataclasses.replace(subset, test=test), policy, baseline)
            content = report.build(evaluation, test)
            written[name] = (report.write(content, test, evaluation.measurement, folder / name), content)
    return written


@pytest.fixture
def opened(browser, pages):
    """Open a report, in light or dark, and see to it that nothing is fetched and nothing complains."""
    contexts, complaints = [], []

    def open_page(name, scheme="light", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
        page.goto(pages[name][0].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("name", ["good", "untrained", "broken"])
def test_the_page_says_first_whether_the_model_may_ship(opened, pages, name):
    page, content = opened(name), pages[name][1]
    assert page.locator("h1").inner_text() == ("Ship" if content["decision"] == "ship" else "Blocked")
    blocking = [verdict["criterion"] for verdict in content["verdicts"] if verdict["blocks"]]
    assert all(criterion in page.locator("header").inner_text() for criterion in blocking)


@pytest.mark.parametrize("name", ["good", "untrained", "broken"])
def test_every_criterion_is_shown_with_its_verdict_figure_and_bound(opened, pages, name):
    rows = {row[1]: row for row in opened(name).locator("table.criteria tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )}  # fmt: skip
    for verdict in pages[name][1]["verdicts"]:
        outcome, _, figure, bound, reason = rows[verdict["criterion"]]
        assert outcome.startswith(verdict["outcome"])
        assert figure.startswith(verdict["shown"]["figure"])
        assert verdict["shown"]["interval"] in figure
        assert (bound, reason) == (verdict["shown"]["bound"], verdict["reason"])


def test_what_is_not_a_pass_comes_first(opened):
    outcomes = opened("untrained").locator("table.criteria .badge").all_inner_texts()
    assert outcomes == sorted(outcomes, key=lambda outcome: ["block", "undecided", "pass"].index(outcome.split(",")[0]))
    assert outcomes[0] == "block"


def test_every_digit_corruption_and_mistake_is_shown_and_every_image_loads(opened, pages):
    page, content = opened("good"), pages["good"][1]
    text = page.locator("main").inner_text()
    assert all(f"digit {digit}" in text for digit in range(10))
    assert all(probe["name"] in text for probe in content["probes"] if probe["kind"] != "pixel noise")
    shown = len(content["mistakes"]) + sum(len(content["comparison"][what]) for what in ("lost", "gained"))
    assert page.locator(".images img").count() == shown
    assert page.locator("img").evaluate_all("images => images.every(image => image.naturalWidth === 28)")
    assert page.locator("svg circle").count() == len(content["calibration"]) + len(measurement.PIXEL_SIGMAS)


def test_the_confusion_matrix_is_a_table_of_every_count(opened, pages):
    cells = opened("good").locator(".confusion tbody td").all_inner_texts()
    assert [int(cell or 0) for cell in cells] == [n for row in pages["good"][1]["confusion"] for n in row]


def test_classes_that_are_no_digits_have_their_names_wherever_they_are_shown(opened, pages):
    page, content = opened("words"), pages["words"][1]
    for cells in (".confusion thead th", ".confusion tbody th", "section[aria-labelledby=digits] .bars .name"):
        assert page.locator(cells).all_inner_texts() == list(CLOTHES)
    names = page.locator(".images strong").all_inner_texts()
    shown = [*content["mistakes"], *content["comparison"]["lost"], *content["comparison"]["gained"]]
    assert names == [
        " → ".join(CLOTHES[label] for label in dict.fromkeys((image["label"], image["prediction"]))) for image in shown
    ]
    assert page.locator("h2#digits").inner_text() == "Classes"


def test_of_a_broken_model_the_page_says_what_it_did_and_that_the_rest_was_not_measured(opened, pages):
    text = opened("broken").locator("main").inner_text()
    assert all(violation in text for violation in pages["broken"][1]["contract_violations"])
    assert "not measured" in text
    assert "Robustness" not in text


def test_text_from_the_card_is_shown_and_never_run(opened, pages):
    page = opened("good")
    assert "<script>document.title = 'hacked'</script>" in page.locator("main").inner_text()
    assert page.title() == f"Ship: {pages['good'][1]['model']}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["good", "words", "broken"])
def test_nothing_sticks_out_to_the_side(opened, name, width):
    page = opened(name, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", ["good", "words", "untrained"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(opened, name, scheme):
    contrast, text = opened(name, scheme).evaluate(CONTRAST)
    assert contrast >= 4.5, f"{text!r} has a contrast of {contrast:.1f}"


def test_light_and_dark_differ(opened):
    colours = [
        opened("good", scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours[0] != colours[1]
