"""Test recipe files, the list of recipes, and the grouped help."""

import dataclasses
import errno
import json

import documents
import pytest
import seeds
from commands import QUICK, assert_one_clear_line
from hypothesis import given
from hypothesis import strategies as st

from mnist import files, recipe_files, recipes
from mnist.recipes import Recipe, RecipeError
from mnist.storage import artifacts


def write(folder, text: str):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@given(
    base=st.sampled_from(sorted(recipes.RECIPES)),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": st.floats(1e-6, 1),
            "epochs": st.integers(1, 50),
            "batch_size": st.integers(1, 512),
            "schedule": st.sampled_from(recipes.SCHEDULES),
            "seed": st.integers(0, 2**62),
        },
    ),
)
def test_file_replaces_the_given_fields_of_its_base(tmp_path_factory, base, changes):
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"base": base, **changes}.items()]
    path = write(tmp_path_factory.mktemp("recipes"), "\n".join(lines))
    assert recipe_files.read(path) == dataclasses.replace(recipes.get(base), name="mine", **changes)


def test_file_without_a_base_starts_from_the_default(tmp_path):
    recipe = recipe_files.get(str(write(tmp_path, "rotation = 3")), seed=4)
    assert recipe == dataclasses.replace(recipes.get(recipes.DEFAULT), name="mine", rotation=3.0, seed=4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("learnin_rate = 0.1", "there is no field 'learnin_rate' (did you mean 'learning_rate'?)"),
        ("learning-rate = 0.1", "did you mean 'learning_rate'?"),
        ('bases = "fast"', "did you mean 'base'?"),
        ('name = "accurate"', "there is no field 'name'"),
        ('base = "fest"', "no recipe is called 'fest'"),
        ('epochs = "2"', "epochs must be of type float, not '2'"),
        ("batch_size = 1.5", "batch_size must be of type int, not 1.5"),
        ("seed = true", "seed must be of type int, not True"),
        ("epochs = 0", "epochs must be above 0"),
        ("rotation = nan", "rotation must be between 0 and 180 degrees"),
        (f"epochs = 1{'0' * 400}", "int too large to convert to float"),
        ("[a]", "there is no field 'a'"),
        ("=", "is not a recipe"),
        ("a = [" * 2000, "is not a recipe"),
    ],
)
def test_file_with_an_error_is_refused_in_one_line(mnist, tmp_path, text, error):
    path = write(tmp_path, text)
    with pytest.raises(RecipeError):
        recipe_files.read(path)
    assert_one_clear_line(mnist("train", "--recipe", path.name, *QUICK), "mine.toml", error)


def test_missing_file_and_folder_are_refused_in_one_line(mnist, tmp_path):
    (tmp_path / "folder.toml").mkdir()
    assert_one_clear_line(mnist("train", "--recipe", "missing.toml"), "there is no recipe at missing.toml")
    assert_one_clear_line(mnist("train", "--recipe", "folder.toml"), "is a folder")


@pytest.mark.slow
def test_train_records_the_recipe_of_a_file_on_the_card(mnist, tmp_path):
    write(tmp_path, 'base = "fast"\narchitecture = "compact-1k"\nepochs = 0.1\nlabel_smoothing = 0.2\n')
    finished = mnist("train", "--recipe", "mine.toml", "--seed", 5, *QUICK)
    assert finished.code == 0
    card = artifacts.load(artifacts.newest(tmp_path / "models")).card
    expected = recipes.get("fast", architecture="compact-1k", epochs=0.5, label_smoothing=0.2, seed=5)
    assert card.recipe == dataclasses.replace(expected, name="mine")
    assert card.describe_recipe() == "mine"
    assert "Recipe mine, seed 5" in finished.out


# ---- The list of recipes ---------------------------------------------------------------------------------------------


def test_recipes_lists_all_with_their_figures(mnist):
    finished = mnist("recipes")
    assert finished.code == 0
    measured = recipe_files.results()
    for name in recipes.RECIPES:
        (line,) = (line for line in finished.out.splitlines() if line.split()[:1] == [name])
        assert (f"{measured[name].accuracy:.2%}" if name in measured else "not measured") in line
    described = json.loads(mnist("recipes", "--json").out)
    assert [Recipe(**{k: v for k, v in each.items() if k != "result"}) for each in described] == [
        *recipes.RECIPES.values()
    ]


def test_results_are_those_of_the_runs_in_the_documents():
    assert recipe_files.RESULTS.read_bytes() == seeds.summarize()
    table = (documents.DOCS / "benchmarks.md").read_text(encoding="utf-8")
    for name, result in recipe_files.results().items():
        shown = f"| `{name}` | {result.parameters:,} | {result.seeds} | {100 * result.accuracy:.2f} % "
        assert shown in table


def test_write_summaries_leaves_files_complete_on_failure(tmp_path, monkeypatch, capsys):
    document, results = tmp_path / "benchmarks.md", tmp_path / "recipe_results.json"
    document.write_text("<!-- seeds -->\n<!-- end of seeds -->\n", encoding="utf-8")
    results.write_text("old", encoding="utf-8")
    monkeypatch.setattr(documents, "DOCS", tmp_path)
    monkeypatch.setattr(recipe_files, "RESULTS", results)
    seeds.write_summaries()
    before = document.read_bytes()
    assert capsys.readouterr().out.strip() in before.decode()
    assert results.read_bytes() == seeds.summarize()

    def fail(descriptor, content):
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(files, "_write_and_flush", fail)
    monkeypatch.setattr(seeds, "summarize", lambda: b"new")
    with pytest.raises(OSError, match="full"):
        seeds.write_summaries()
    monkeypatch.setattr(documents, "replace_section", lambda *arguments: None)
    with pytest.raises(OSError, match="full"):
        seeds.write_summaries()
    assert document.read_bytes() == before
    assert results.read_bytes() != b"new"


# ---- Help and completion ---------------------------------------------------------------------------------------------


def test_help_of_train_lists_every_option_in_one_group(mnist):
    lines = mnist("train", "--help").out.splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        *("Recipe and network:", "Hyperparameters, which override those of the recipe:", "Data:", "Run:", "Gate:"),
        "Other options:",
    ]
    options = lines[lines.index(titles[0]) :]  # a line of the text above them can start with the name of an option
    names = [word.strip(",") for line in options if line.startswith("  -") for word in line.split()[:1]]
    assert len(names) == len(set(names))
    others = lines[lines.index("Other options:") :]
    assert [line.split()[0] for line in others if line.startswith("  -")] == ["--json", "-h,"]
    assert {f"--{field.name.replace('_', '-')}" for field in Recipe.options()} <= set(names)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed_for_each_shell(mnist, monkeypatch, shell):
    monkeypatch.setenv("_MNIST_COMPLETE", f"{shell}_source")
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *arguments: None)
    finished = mnist()
    assert finished.code == 0
    assert f"_MNIST_COMPLETE={shell}_complete" in finished.out


def test_completion_offers_recipes_and_files(mnist, monkeypatch):
    monkeypatch.setenv("_MNIST_COMPLETE", "bash_complete")
    for typed, expected in (("acc", "plain,accurate"), ("my", "file,my")):
        monkeypatch.setenv("COMP_WORDS", f"mnist train --recipe {typed}")
        monkeypatch.setenv("COMP_CWORD", "3")
        assert expected in mnist().out.splitlines()
