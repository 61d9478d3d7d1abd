"""Test the HTML report in a browser. Without a browser, these tests are skipped and say how to install one."""

import dataclasses

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browser import CONTRAST, OUTSIDE, WIDTHS
from samples import save_model
from strategies import CLOTHES, generator

from mnist import architecture, gate, report
from mnist.gate import probes
from mnist.storage import artifacts


@pytest.fixture(scope="module")
def pages(trained, subset, tmp_path_factory):
    """Write reports of a good model, on digits and on clothes, with an untrained baseline, and of two bad models."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    untrained, broken = (architecture.build("cnn", generator(seed)) for seed in (0, 1))
    torch.nn.init.constant_(broken.fc2.bias, torch.nan)
    written = {}
    models = {"good": trained.model, "clothes": trained.model, "untrained": untrained, "broken": broken}
    recipe = {"name": "<script>document.title = 'hacked'</script>"}
    policy = gate.load_policy(dataset="subset")
    untrained_artifact = artifacts.load(save_model(untrained, folder, data=subset, recipe=recipe, log=trained.log[:30]))
    for name, model in models.items():
        test = dataclasses.replace(subset.test, classes=CLOTHES) if name == "clothes" else subset.test
        log = trained.log if model is trained.model else ()
        artifact = artifacts.load(save_model(model, folder / name, data=subset, recipe=recipe, log=log))
        baseline = untrained_artifact if model is trained.model else None
        evaluation = gate.evaluate(artifact, dataclasses.replace(subset, test=test), policy, baseline)
        content = report.build(evaluation, test)
        written[name] = (report.write(content, test, evaluation.measurement, folder / name), content)
    return written


@pytest.fixture(scope="module")
def shared_tab(browser):
    """One tab for all tests, and its network requests, console messages and errors."""
    problems = []
    page = browser.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    yield page, problems
    page.close()


@pytest.fixture
def opened(shared_tab, pages):
    """Return a function that opens a report; fail on network requests, console messages and errors."""
    page, problems = shared_tab

    def open_page(name, scheme="light", width=1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(media="screen", color_scheme=scheme)
        page.goto(pages[name][0].as_uri())
        return page

    yield open_page
    assert problems == []


@pytest.mark.parametrize("name", ["good", "untrained", "broken"])
def test_page_starts_with_the_decision(opened, pages, name):
    page, content = opened(name), pages[name][1]
    assert page.locator("h1").inner_text() == ("Ship" if content["decision"] == "ship" else "Blocked")
    blocking = [verdict["criterion"] for verdict in content["verdicts"] if verdict["blocks"]]
    assert all(criterion in page.locator("header").inner_text() for criterion in blocking)


@pytest.mark.parametrize("name", ["good", "untrained", "broken"])
def test_page_shows_every_verdict(opened, pages, name):
    rows = {row[1]: row for row in opened(name).locator("table.criteria tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )}  # fmt: skip
    for verdict in pages[name][1]["verdicts"]:
        outcome, _, figure, bound, reason = rows[verdict["criterion"]]
        assert outcome.startswith(verdict["outcome"])
        assert figure.startswith(verdict["shown"]["figure"])
        assert verdict["shown"]["interval"] in figure
        assert (bound, reason) == (verdict["shown"]["bound"], verdict["reason"])


def test_page_lists_criteria_that_do_not_pass_first(opened):
    outcomes = opened("untrained").locator("table.criteria .badge").all_inner_texts()
    assert outcomes == sorted(outcomes, key=lambda outcome: ["block", "undecided", "pass"].index(outcome.split(",")[0]))
    assert outcomes[0] == "block"


def test_page_shows_every_digit_probe_and_mistake(opened, pages):
    """Every image can be loaded."""
    page, content = opened("good"), pages["good"][1]
    text = page.locator("main").inner_text()
    assert all(f"digit {digit}" in text for digit in range(10))
    assert all(probe["name"] in text for probe in content["probes"] if probe["kind"] != "pixel noise")
    shown = len(content["mistakes"]) + sum(len(content["comparison"][what]) for what in ("lost", "gained"))
    assert page.locator(".images img").count() == shown
    assert page.locator("img").evaluate_all("images => images.every(image => image.naturalWidth === 28)")
    points = len(content["calibration"]) + len(probes.PIXEL_NOISE_SIGMAS)
    assert page.locator("svg circle").count() == points + 1, "and the threshold of the model"


def test_page_shows_every_count_of_the_confusion_matrix(opened, pages):
    cells = opened("good").locator(".confusion tbody td").all_inner_texts()
    assert [int(cell or 0) for cell in cells] == [n for row in pages["good"][1]["confusion"] for n in row]


def test_page_names_classes_that_are_not_digits(opened, pages):
    page, content = opened("clothes"), pages["clothes"][1]
    for cells in (".confusion thead th", ".confusion tbody th", "section[aria-labelledby=digits] li:not(.axis) .name"):
        assert page.locator(cells).all_inner_texts() == list(CLOTHES)
    names = page.locator(".images strong").all_inner_texts()
    shown = [*content["mistakes"], *content["comparison"]["lost"], *content["comparison"]["gained"]]
    assert names == [
        " → ".join(CLOTHES[label] for label in dict.fromkeys((image["label"], image["prediction"]))) for image in shown
    ]
    assert page.locator("h2#digits").inner_text() == "Classes"


def test_page_of_a_broken_model_shows_its_contract_violations(opened, pages):
    text = opened("broken").locator("main").inner_text()
    assert all(violation in text for violation in pages["broken"][1]["contract_violations"])
    assert "not measured" in text
    assert "Robustness" not in text


def test_page_shows_text_from_the_card_without_running_it(opened, pages):
    page = opened("good")
    assert "<script>document.title = 'hacked'</script>" in page.locator("main").inner_text()
    assert page.title() == f"Ship: {pages['good'][1]['model']}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["good", "clothes", "broken"])
def test_page_fits_the_width_of_the_window(opened, name, width):
    page = opened(name, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["good", "untrained", "broken"])
def test_page_decides_in_one_screen(opened, pages, name, width):
    """The verdict, the criteria that failed or are closest to their bounds, and the change need no scrolling."""
    page, content = opened(name, width=width), pages[name][1]
    for part in ("h1", ".decision", ".decision > section:last-child li, .decision > section:last-child p"):
        box = page.locator(part).last.bounding_box()
        assert box["y"] + box["height"] <= 800
    shown = page.locator("section[aria-labelledby=first] li strong").all_inner_texts()
    failed = [verdict["criterion"] for verdict in content["verdicts"] if verdict["blocks"]]
    doubtful = [verdict["criterion"] for verdict in content["verdicts"] if verdict["outcome"] != "pass"]
    used = sorted((v for v in content["verdicts"] if v["used"] is not None), key=lambda v: v["used"], reverse=True)
    assert shown[:3] == (failed or doubtful or [verdict["criterion"] for verdict in used])[:3]
    change = page.locator("section[aria-labelledby=change]").inner_text()
    if content["comparison"]:
        assert content["comparison"]["figures"][0]["shown"]["difference"] in change
    else:
        assert "not compared" in change


def test_contents_link_to_every_section(opened):
    page = opened("good")
    links = page.locator("nav a").evaluate_all("links => links.map(link => link.hash.slice(1))")
    cards = page.locator("main > section")
    assert links == cards.evaluate_all("cards => cards.map(card => card.getAttribute('aria-labelledby'))")
    assert all(page.locator(f"#{name}").count() == 1 for name in links)


@pytest.mark.parametrize("section", ["digits", "robustness"])
def test_bound_is_drawn_at_its_place_on_the_zoomed_axis(opened, pages, section):
    """Bars and the bound share an axis that starts below all values."""
    page, content = opened("good"), pages["good"][1]
    criterion = {"digits": "digit-accuracy", "robustness": "slice-accuracy"}[section]
    bound = next(verdict["bound"] for verdict in content["verdicts"] if verdict["criterion"] == criterion)
    row = page.locator(f"section[aria-labelledby={section}] .bars li:has(.bound)").first
    start = float(row.locator("xpath=..").locator(".axis .track-labels span").first.inner_text().rstrip(" %")) / 100
    track = row.locator(".track").bounding_box()
    places = {part: row.locator(f".{part}").bounding_box() for part in ("bound", "fill")}
    accuracies = {
        "digits": content["digits"][0]["value"],
        "robustness": min(each["value"] for each in content["slices"]),
    }
    assert 0 < start < bound
    assert places["bound"]["x"] == pytest.approx(track["x"] + track["width"] * (bound - start) / (1 - start), abs=1.5)
    expected = track["width"] * (accuracies[section] - start) / (1 - start)
    assert places["fill"]["width"] == pytest.approx(expected, abs=1.5)


def test_reliability_diagram_has_an_interval_for_each_bin(opened, pages):
    page, bins = opened("good"), pages["good"][1]["calibration"]
    assert page.locator("svg line.interval").count() == len(bins)
    assert all(bin["low"] <= bin["accuracy"] <= bin["high"] for bin in bins)


def test_slices_are_listed_the_worst_first(opened, pages):
    shown = opened("good").locator("section[aria-labelledby=robustness] .bars:has(.bound) .name").all_inner_texts()
    slices = sorted(pages["good"][1]["slices"], key=lambda each: each["value"])
    assert [name for name in shown if name] == [each["name"] for each in slices]


def test_learning_curves_of_model_and_baseline_are_drawn(opened, pages, trained):
    lines = opened("good").locator("section[aria-labelledby=training] polyline")
    points = [len(points.split()) for points in lines.evaluate_all("lines => lines.map(l => l.getAttribute('points'))")]
    assert points == [len(trained.log), 30] * 2
    assert opened("untrained").locator("section[aria-labelledby=training]").count() == 0


@pytest.mark.parametrize("name", ["good", "broken"])
def test_page_prints_cleanly(opened, name):
    """On paper, the page is light in any colour scheme, nothing is cut off, and the table of contents is hidden."""
    page = opened(name, "dark", width=700)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert not page.locator("nav").is_visible()


@pytest.mark.parametrize(
    ("name", "scheme", "width"), [("good", "light", 1280), ("clothes", "dark", 390), ("broken", "light", 768)]
)
def test_page_is_accessible(opened, name, scheme, width):
    """Axe-core finds no violation of WCAG or of its own best practices."""
    found = Axe().run(opened(name, scheme, width)).response
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found["violations"]] == []
    assert len(found["passes"]) > 10


@pytest.mark.parametrize("name", ["good", "clothes", "untrained"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_enough_contrast_in_light_and_dark(opened, name, scheme):
    contrast, text = opened(name, scheme).evaluate(CONTRAST)
    assert contrast >= 4.5, f"{text!r} has a contrast of {contrast:.1f}"


def test_page_has_a_light_and_a_dark_scheme(opened):
    colors = [
        opened("good", scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colors[0] != colors[1]
