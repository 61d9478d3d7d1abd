"""The search for recipes: which configurations it runs, what it measures on, its file of results and its report."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import search
import torch
from search import SPACES, Result
from strategies import PATIENCE

from mnist import datasets, recipe_changes, recipes, trainer, transforms
from mnist.gate import intervals
from mnist.progress import DivergedError

RESULTS = Path("search.jsonl")
PRESENT = recipes.get("standard")
STANDARD = ("--recipe", "standard", "--dataset", "subset", "--validation", "800", "--jobs", "1")


@pytest.fixture(autouse=True)
def _newly_loaded():
    search.divide_training_images.cache_clear()
    yield
    search.divide_training_images.cache_clear()


@pytest.fixture
def few_steps(monkeypatch):
    """Train for five steps."""
    monkeypatch.setattr(recipes, "MNIST_TRAINING_IMAGES", 400)


def run_search(*arguments: object) -> int:
    return search.main([*STANDARD, "--output", str(RESULTS), *map(str, arguments)])


def lines() -> list[bytes]:
    return RESULTS.read_bytes().splitlines(keepends=True)


def result(recipe=PRESENT, correct: int = 900, total: int = 1000, **changes) -> Result:
    values = {
        "recipe": recipe,
        "changed": (),
        "seed": recipe.seed,
        "measured_on": "some images",
        "accuracy": correct / total,
        "correct": correct,
        "total": total,
        "loss": 0.1,
        "seconds": 1.0,
    }
    return Result(**{**values, **changes})


# ---- Configurations --------------------------------------------------------------------------------------------------


def test_every_recipe_but_baseline_has_a_space():
    assert list(SPACES) == [name for name in recipes.RECIPES if name != "baseline"]


@pytest.mark.parametrize("name", SPACES)
def test_space_contains_the_present_choice_and_fixes_the_cost(name):
    present = vars(recipes.get(name))
    assert [field for field, values in SPACES[name].items() if present[field] not in values] == []
    assert not {"architecture", "epochs", "seed"} & set(SPACES[name])


@pytest.mark.parametrize("name", ["standard", "fast"])
def test_configurations_are_the_whole_space_once(name):
    found = search.configurations(name)
    expected = {
        recipes.get(name, **dict(zip(SPACES[name], values, strict=True)))
        for values in itertools.product(*SPACES[name].values())
    }
    assert found[0] == recipes.get(name)
    assert len(found) == len(expected)
    assert set(found) == expected


def test_configuration_is_the_same_everywhere():
    """The file of results stays useful only if these values never change, unless the space does."""
    assert recipe_changes.find(search.configurations("standard")[1], 60_000) == {"learning_rate": 0.003, "warmup": 0.2}
    assert recipe_changes.find(search.configurations("fast")[1], 60_000) == {
        "batch_size": 96,
        "beta1": 0.85,
        "weight_decay": 0.05,
        "label_smoothing": 0.0,
    }
    assert search.configurations("accurate-1k")[1] != search.configurations("accurate-2k")[1]


def test_plan_alternates_recipes_and_completes_the_seeds():
    planned = list(search.plan(["standard", "fast"], 3, seeds=2))
    assert [(recipe.name, recipe.seed) for recipe in planned] == [
        (name, seed) for seed in (0, 1, 0) for name in ("standard", "fast")
    ]
    assert [recipe_changes.find(recipe, 60_000) == {} for recipe in planned] == [True] * 4 + [False] * 2


def test_plan_ends_with_the_space():
    count = len(search.configurations("standard"))
    for limit in (None, 10_000):
        assert len(set(search.plan(["standard"], limit, seeds=2))) == 2 * count


# ---- Runs ------------------------------------------------------------------------------------------------------------


def test_search_trains_and_measures_on_training_images_alone(subset, monkeypatch, few_steps):
    class Untouchable(datasets.Dataset):
        def __getattribute__(self, name):
            assert name != "test", "the search used the test images"
            return super().__getattribute__(name)

    train = trainer.train
    trained_on = []
    monkeypatch.setattr(datasets, "load", lambda *_, **__: Untouchable("subset", subset.train, subset.test))
    monkeypatch.setattr(trainer, "train", lambda recipe, *images: trained_on.append(images) or train(recipe, *images))
    assert run_search("--runs", 1) == 0
    parts = subset.with_validation(800)
    (line,) = map(json.loads, lines())
    assert torch.equal(trained_on[0][0], parts.train.images)
    assert torch.equal(trained_on[0][1], parts.train.labels)
    assert (line["measured_on"], line["total"]) == (parts.test.description, 800)


def test_search_records_each_run(subset, few_steps):
    assert run_search("--runs", 2) == 0
    parts = subset.with_validation(800)
    assert len(lines()) == 2
    for number, line in enumerate(map(json.loads, lines())):
        recipe = search.configurations("standard")[number]
        model = trainer.train(dataclasses.replace(recipe, epochs=0.1), parts.train.images, parts.train.labels).model
        correct = (model(transforms.prepare(parts.test.images)).argmax(1) == parts.test.labels).sum()
        assert line["recipe"] == dataclasses.asdict(recipe)
        assert line["changed"] == ([], ["learning_rate", "warmup"])[number]
        assert (line["seed"], line["total"]) == (0, 800)
        assert abs(line["correct"] - correct) <= 1, "another memory layout can round differently"
        assert line["accuracy"] == line["correct"] / 800
        assert line["loss"] > 0
        assert line["seconds"] > 0


def test_search_runs_only_what_is_missing(few_steps, capsys):
    run_search("--runs", 2)
    first = lines()
    assert run_search("--runs", 2) == 0
    assert lines() == first
    assert run_search("--runs", 3) == 0
    assert lines()[:2] == first
    assert len(lines()) == 3
    assert "of 3 configurations" in capsys.readouterr().out
    assert run_search("--runs", 1, "--validation", 400) == 0
    assert len(lines()) == 4, "a result on other images is another result"


@pytest.mark.slow
@pytest.mark.parametrize("kept", [1, 12, 200, -1])
def test_search_repeats_a_run_whose_line_is_partial(few_steps, kept):
    run_search("--runs", 2)
    first, second = lines()
    RESULTS.write_bytes(first + second[:kept])
    assert len(search.read(RESULTS)) == 1
    assert RESULTS.read_bytes() == first + second[:kept], "reading changes nothing"
    assert run_search("--runs", 2) == 0
    assert lines()[0] == first
    without_time = [{**json.loads(line), "seconds": 0} for line in (second, lines()[1])]
    assert without_time[0] == without_time[1]
    assert len(lines()) == 2


@pytest.mark.parametrize(
    "content", [b"# Notes\n", b"a picture", b'{"recipe": "fast"}\n', b"\xff\xfe\n", b"[" * 9999 + b"\n"]
)
def test_search_leaves_a_file_of_something_else_unchanged(content, capsys):
    RESULTS.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        run_search("--runs", 1)
    assert RESULTS.read_bytes() == content
    assert f": error: {RESULTS}" in capsys.readouterr().err.splitlines()[-1]


def test_search_stops_at_an_interruption_and_keeps_its_results(monkeypatch, few_steps, capsys):
    train, calls = trainer.train, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(trainer, "train", interrupted)
    assert run_search("--runs", 3) == search.INTERRUPTED
    assert len(search.read(RESULTS)) == 1
    assert "The present choice is number 1 of 1 configurations." in capsys.readouterr().out
    assert run_search("--runs", 3) == 0
    assert len(search.read(RESULTS)) == 3


def test_search_records_a_diverged_run_and_continues(monkeypatch, few_steps, capsys):
    train = trainer.train

    def diverge(recipe, *images):
        if recipe == PRESENT.scaled_to(4000):
            raise DivergedError("the loss is no longer finite")
        return train(recipe, *images)

    monkeypatch.setattr(trainer, "train", diverge)
    assert run_search("--runs", 2) == 0
    diverged, other = search.read(RESULTS)
    assert (diverged.correct, diverged.accuracy, diverged.loss) == (0, 0.0, None)
    assert other.correct > 0
    assert "The present choice is number 2 of 2 configurations." in capsys.readouterr().out


def test_search_starts_no_run_after_the_deadline(monkeypatch, few_steps):
    now = itertools.count(step=40)  # seconds: the time passes with every look at the clock
    monkeypatch.setattr(time, "time", lambda: next(now))
    assert run_search("--minutes", 1.5) == 0
    assert len(lines()) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--runs", "0"),
        ("--runs", "x"),
        ("--runs", "1", "--jobs", "-1"),
        ("--runs", "1", "--validation", "0"),
        ("--runs", "1", "--validation", "4000"),
        ("--runs", "1", "--recipe", "baseline"),
        ("--runs", "1", "--output", "missing/results.jsonl"),
    ],
)
def test_search_refuses_bad_options(arguments, few_steps, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_search(*arguments)
    assert ": error: " in capsys.readouterr().err.splitlines()[-1]
    assert not RESULTS.exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to interrupt")
def test_search_in_several_processes_is_interrupted_by_ctrl_c(tmp_path):
    program = [sys.executable, search.__file__, "--recipe", "fast", "--dataset", "subset", "--validation", "800"]
    searching = subprocess.Popen(
        [*program, "--jobs", "2", "--minutes", "30", "--output", RESULTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        encoding="utf-8",
    )
    while searching.poll() is None and not (RESULTS.exists() and lines()):
        time.sleep(0.05)
    os.killpg(searching.pid, signal.SIGINT)
    out, err = searching.communicate(timeout=PATIENCE)
    assert searching.returncode == search.INTERRUPTED, err
    assert "interrupted (the same command continues the search" in out
    assert "Traceback" not in err
    assert 1 <= len(search.read(RESULTS)) == len(lines())


# ---- The report ------------------------------------------------------------------------------------------------------


def test_report_ranks_configurations_by_their_mean(capsys):
    better = recipes.get("standard", learning_rate=0.02)
    results = [
        result(PRESENT, 900),
        result(dataclasses.replace(PRESENT, seed=1), 960),
        result(better, 950),
        result(dataclasses.replace(better, seed=1), 940),
    ]
    text = search.report(results)
    low, high = (100 * end for end in (intervals.proportion(945, 1000).low, intervals.proportion(945, 1000).high))
    assert f"| 1 | learning-rate 0.02 | 2 | 94.50 % | {low:.2f} to {high:.2f} |" in text
    assert "| 2 | present choice | 2 | 93.00 % |" in text
    assert text.startswith("`standard`, measured on: some images\n")
    assert text.endswith("The present choice is number 2 of 2 configurations.")


def test_report_shows_the_best_and_the_present_choice():
    others = [search.configurations("standard")[number] for number in range(1, 9)]
    text = search.report([result(each, 990 - number) for number, each in enumerate(others)] + [result(correct=10)])
    ranks = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][2:]
    assert ranks == ["| 1", "| 2", "| 3", "| 4", "| 5", "| 9"]
    assert "The present choice is number 9 of 9 configurations." in text


def test_report_gives_equal_results_the_same_rank():
    text = search.report([result(search.configurations("standard")[1]), result()])
    assert "The present choice is number 1 of 2 configurations." in text


def test_report_separates_recipes_and_images():
    results = [result(), result(measured_on="other images"), result(recipes.get("fast", beta1=0.9))]
    titles = [line for line in search.report(results).splitlines() if line.startswith("`")]
    assert titles == [
        "`fast`, measured on: some images",
        "`standard`, measured on: other images",
        "`standard`, measured on: some images",
    ]
    assert "The present choice has not been run." in search.report(results)


def test_report_option_trains_nothing(monkeypatch, capsys):
    monkeypatch.setattr(trainer, "train", pytest.fail)
    monkeypatch.setattr(datasets, "load", pytest.fail)
    assert run_search("--report") == 0
    assert capsys.readouterr().out == "no results yet\n"
    search.append(RESULTS, result(loss=math.nan))
    assert run_search("--report") == 0
    assert "`standard`, measured on: some images" in capsys.readouterr().out
