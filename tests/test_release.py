"""Test the release program: its checks before training, the assets that it builds, and its checks of them."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import onnx
import pytest
import release
import release_checks
import release_readme
import yaml
from documents import ROOT
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from samples import save_model

import mnist as package
from mnist import cli, recipes
from mnist.deploy import export
from mnist.storage import artifacts
from mnist.storage.card import DatasetInfo

VERSION = package.__version__
WORKFLOWS = ROOT / ".github" / "workflows"
HOSTILE = (
    'x"\n---\nlicense: other\n# Heading | <script>alert(1)</script> **bold** `code` {{ 7 * 7 }} '
    "[link](https://example.org) ![image](x.png) <https://example.org> \\ \u2028 \u202e &lt;b&gt; é 数"
)

needs_posix = pytest.mark.skipif(os.name == "nt", reason="the fake gh is a shell script")


@pytest.fixture(scope="module")
def shipped(trained, subset, tmp_path_factory) -> Path:
    """Return a folder with the `models` and `reports` of a training run that passed the gate."""
    folder = tmp_path_factory.mktemp("shipped")
    model = save_model(trained.model, folder / "models", data=subset, recipe=vars(recipes.get("standard", epochs=15.0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITHUB_ACTIONS", raising=False)
        with pytest.raises(SystemExit) as exited:
            cli.main(["gate", str(model), "--dataset", "subset", "--reports-dir", str(folder / "reports")])
    assert not exited.value.code
    return folder


def prepare(folder: Path, shipped: Path, patch: pytest.MonkeyPatch) -> None:
    """Make ``folder`` the working folder, write a changelog, and replace the slow parts: training and the wheel."""

    def train(dataset: str, baseline: Path | None) -> Path:
        shutil.copytree(shipped, ".", dirs_exist_ok=True)
        return next(Path("models").glob("*.pth"))

    def build_wheel(target: Path) -> None:
        with zipfile.ZipFile(target / f"mnist-{VERSION}-py3-none-any.whl", "w") as archive:
            for path in (ROOT / "mnist").rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, path.relative_to(ROOT).as_posix())

    changelog = folder / "changelog.md"
    changelog.write_text(
        f"# Changelog\n\n## {VERSION} (today)\n\n- New — naïve.\n\n## 0.0.1\n\n- Old.\n", encoding="utf-8"
    )
    patch.chdir(folder)
    patch.setattr(release, "CHANGELOG", changelog)
    patch.setattr(release, "train", train)
    patch.setattr(release, "build_wheel", build_wheel)


@pytest.fixture
def workplace(shipped, tmp_path, monkeypatch) -> Path:
    prepare(tmp_path, shipped, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def assets(shipped, tmp_path_factory) -> Path:
    """Return the folder of a complete release, which tests must not change."""
    folder = tmp_path_factory.mktemp("complete")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, shipped, patch)
        assert release.main(["build", "--dataset", "subset"]) == 0
    return folder / "release"


@pytest.fixture
def copied(assets, tmp_path) -> Path:
    """Return a copy of a complete release, which a test may change."""
    return shutil.copytree(assets, tmp_path / "copied")


def forbid_training(monkeypatch):
    monkeypatch.setattr(release, "train", lambda *arguments: pytest.fail("the program started training"))


def error_line(capsys) -> str:
    """Return the single line that a failed command has printed."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    return captured.err


# ---- Before training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [VERSION, "v99.0.0", f"v{VERSION}-rc1", "v"])
def test_build_refuses_a_tag_of_another_version(workplace, monkeypatch, capsys, tag):
    forbid_training(monkeypatch)
    assert release.main(["build", "--dataset", "mnist", "--tag", tag]) == release_checks.BAD_INPUT
    assert f"the tag is {tag}, but" in error_line(capsys)
    assert not Path("release").exists()


@pytest.mark.parametrize("dataset", ["subset", "auto"])
def test_build_with_a_tag_requires_mnist(workplace, monkeypatch, capsys, dataset):
    forbid_training(monkeypatch)
    assert release.main(["build", "--dataset", dataset, "--tag", f"v{VERSION}"]) == release_checks.BAD_INPUT
    assert "must be trained on MNIST" in error_line(capsys)


@pytest.mark.parametrize(
    "text", ["", "# Changelog\n", f"## {VERSION}0\n\n- x\n", f"## {VERSION}\n\n## 0.0.1\n\n- Old.\n"]
)
def test_build_refuses_a_changelog_without_this_version(workplace, monkeypatch, capsys, text):
    forbid_training(monkeypatch)
    release.CHANGELOG.write_text(text, encoding="utf-8")
    assert release.main(["build"]) == release_checks.BAD_INPUT
    assert "no entries for this version" in error_line(capsys)


def test_build_with_a_tag_refuses_unreleased_entries(workplace, monkeypatch, capsys):
    forbid_training(monkeypatch)
    text = release.CHANGELOG.read_text(encoding="utf-8")
    release.CHANGELOG.write_text(text.replace("\n\n", "\n\n## Unreleased\n\n- New.\n\n", 1), encoding="utf-8")
    tag = ["--dataset", "mnist", "--tag", f"v{VERSION}"]
    assert release.main(["build", *tag]) == release_checks.BAD_INPUT
    assert "entries under Unreleased" in error_line(capsys)
    release.CHANGELOG.write_text(text.replace("\n\n", "\n\n## Unreleased\n\n", 1), encoding="utf-8")
    assert release.read_notes(tag[-1], "mnist") == "- New — naïve."


def test_build_keeps_a_folder_of_the_user(workplace, monkeypatch, capsys):
    forbid_training(monkeypatch)
    Path("release").mkdir()
    Path("release", "mine.txt").write_text("mine", encoding="utf-8")
    assert release.main(["build"]) == release_checks.BAD_INPUT
    assert "files that this program did not write" in error_line(capsys)
    assert Path("release", "mine.txt").read_text(encoding="utf-8") == "mine"


def add(folder):
    (folder / "mine.txt").write_text("mine", encoding="utf-8")


def edit(folder):
    (folder / "NOTES.md").write_text("edited", encoding="utf-8")


def remove(folder):
    (folder / "NOTES.md").unlink()


def add_folder(folder):
    (folder / "mine").mkdir()


def remove_sums(folder):
    (folder / "SHA256SUMS").unlink()


def break_sums(folder):
    (folder / "SHA256SUMS").write_text("no sums\n", encoding="utf-8")


@pytest.mark.parametrize("change", [add, edit, remove, add_folder, remove_sums, break_sums])
def test_require_replaceable_refuses_a_changed_release(copied, change):
    release.require_replaceable(copied)
    change(copied)
    with pytest.raises(release_checks.ReleaseError, match="did not write"):
        release.require_replaceable(copied)


# ---- Training and the gate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [(1, 1, "the gate blocks the model"), (2, 2, "exit code 2"), (3, 3, "exit code 3"), (-9, 3, "exit code -9")],
)
def test_build_publishes_nothing_if_training_fails(tmp_path, monkeypatch, capsys, code, exit_code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(release.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code))
    assert release.main(["build", "--dataset", "subset"]) == exit_code
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_train_passes_the_baseline_to_the_gate(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command[1:])
        number = len(commands)
        Path("models").mkdir(exist_ok=True)
        Path("models", f"mnist_model_2026010{number}_000000.pth").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(release.subprocess, "run", run)
    assert release.train("subset", None).name == "mnist_model_20260101_000000.pth"
    assert release.train("mnist", Path("old.pth")).name == "mnist_model_20260102_000000.pth"
    for command, expected in zip(commands, [("subset", None), ("mnist", Path("old.pth"))], strict=True):
        assert command[:3] == ["-m", "mnist", "train"]
        options = cli.cli.get_command(None, "train").make_context("train", command[3:]).params
        assert (options["dataset"], options["baseline"], options["judged"]) == (*expected, True)


def test_train_refuses_two_new_models(tmp_path, monkeypatch):
    def run(command, **options):
        Path("models").mkdir()
        for day in (1, 2):
            Path("models", f"mnist_model_2026010{day}_000000.pth").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(release.subprocess, "run", run)
    with pytest.raises(release_checks.ReleaseError, match="2 new models"):
        release.train("subset", None)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"decision": "block"}, release_checks.BLOCKED),
        ({"card": None}, release_checks.FAULT),
        ({"verdicts": [{"criterion": "accuracy", "value": 0.5}]}, release_checks.FAULT),
        ({"verdicts": [{"criterion": "accuracy", "value": float("nan")}]}, release_checks.FAULT),
    ],
)
def test_build_publishes_nothing_if_the_report_disagrees(workplace, monkeypatch, capsys, change, code):
    train = release.train

    def train_and_change(dataset, baseline):
        model = train(dataset, baseline)
        path = Path("reports", model.stem, "report.json")
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
        return model

    monkeypatch.setattr(release, "train", train_and_change)
    assert release.main(["build", "--dataset", "subset"]) == code
    error_line(capsys)
    assert not Path("release").exists()
    assert not list(workplace.glob(".release-*"))


# ---- The assets ------------------------------------------------------------------------------------------------------


def test_build_writes_every_asset_and_its_checksum(assets):
    (weights,) = assets.glob("*.pth")
    model = [f"{weights.stem}{suffix}" for suffix in (".digests", ".json", ".onnx", ".pth")]
    others = ["NOTES.md", "README.md", "draw.html", "report.html", "report.json", "requirements-predict.txt"]
    others.append(f"mnist-{VERSION}-py3-none-any.whl")
    lines = (assets / "SHA256SUMS").read_bytes().decode().splitlines()
    assert [line.split("  ")[1] for line in lines] == sorted(model + others)
    assert {path.name for path in assets.iterdir()} == {*model, *others, "SHA256SUMS"}
    assert (assets / "NOTES.md").read_text(encoding="utf-8") == "- New — naïve.\n"
    assert release_checks.find_changes(assets) == []


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_checksums_can_be_checked_by_sha256sum(copied):
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=copied).returncode == 0
    edit(copied)
    assert subprocess.run(check, cwd=copied, capture_output=True).returncode == 1


def test_build_replaces_its_own_release(assets, workplace, capsys):
    shutil.copytree(assets, "release")
    before = Path("release").stat().st_ino
    assert release.main(["build", "--dataset", "subset"]) == 0
    assert Path("release").stat().st_ino != before
    assert not list(workplace.glob(".release-*"))
    shown = capsys.readouterr().out
    for path in Path("release").iterdir():
        assert f"{path.stat().st_size:,} bytes  SHA-256 {release_checks.digest(path)}" in shown


def test_replace_restores_the_earlier_release_on_failure(copied, tmp_path):
    with pytest.raises(OSError, match="missing"):
        release.replace(copied, tmp_path / "missing")
    assert release_checks.find_changes(copied) == []


# ---- README.md -------------------------------------------------------------------------------------------------------


def test_readme_metadata_has_the_figures_of_the_card(assets):
    text = (assets / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    metadata = release_readme.read_metadata(text)
    artifact = artifacts.load(next(assets.glob("*.pth")))
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    (metric,) = result["metrics"]
    assert (metadata["license"], metadata["pipeline_tag"]) == ("mit", "image-classification")
    assert result["dataset"] == {"name": artifact.card.measured.measured_on, "type": "subset"}
    assert (metric["type"], metric["value"]) == (
        "accuracy",
        pytest.approx(artifact.card.measured.accuracy, abs=1e-6),
    )
    for digit, accuracy in enumerate(artifact.card.measured.per_digit):
        assert f"\n| {digit} | {accuracy:.2%} | " in text


def test_readme_of_the_subset_does_not_claim_mnist(assets):
    text = (assets / "README.md").read_text(encoding="utf-8")
    metadata = release_readme.read_metadata(text)
    assert "mnist" not in metadata["tags"]
    assert "datasets" not in metadata
    assert "**This model is not trained on MNIST, and its results are not results on MNIST's test set.**" in text


def test_readme_of_an_mnist_model_names_mnist(shipped):
    artifact, report = read(shipped)
    dataset = dataclasses.replace(artifact.card.dataset, name="mnist")
    measured = dataclasses.replace(artifact.card.measured, accuracy=0.987654)
    card = dataclasses.replace(artifact.card, dataset=dataset, measured=measured)
    text = release_readme.render(dataclasses.replace(artifact, card=card), report)
    metadata = release_readme.read_metadata(text)
    (result,) = metadata["model-index"][0]["results"]
    assert (metadata["datasets"], result["dataset"]["type"]) == (["ylecun/mnist"], "ylecun/mnist")
    assert result["metrics"][0]["value"] == 0.987654
    assert "is not trained on MNIST" not in text


def test_readme_code_runs(assets, tmp_path, monkeypatch, subset):
    monkeypatch.chdir(assets)
    text = (assets / "README.md").read_text(encoding="utf-8")
    Image.fromarray(subset.test.images[0, 0].numpy()).save(tmp_path / "seven.png")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(snippet.replace("seven.png", (tmp_path / "seven.png").as_posix()), {})


def read(folder: Path):
    artifact = artifacts.load(next(folder.glob("models/*.pth")))
    report = json.loads((folder / "reports" / artifact.path.stem / "report.json").read_text(encoding="utf-8"))
    return artifact, report


def with_text(shipped: Path, text: str) -> str:
    """Return the README of a model with ``text`` for every value of card and report that a user may choose."""
    artifact, report = read(shipped)
    dataset = DatasetInfo(name=text, train=text, test=text, sha256=text, classes=(text,) * 10)
    measured = dataclasses.replace(artifact.card.measured, measured_on=text)
    recipe = dataclasses.replace(artifact.card.recipe, name=text)
    card = dataclasses.replace(artifact.card, dataset=dataset, measured=measured, recipe=recipe, created=text)
    verdicts = [verdict | {"what": text, "reason": text} for verdict in report["verdicts"]]
    report = report | {"measured_on": text, "classes": [text] * 10, "verdicts": verdicts}
    return release_readme.render(dataclasses.replace(artifact, card=card), report)


def structure(markdown: str) -> list[str]:
    """Return the types of the elements in a Markdown text, without their content."""
    kinds = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown.split("---\n", 2)[2]):
        kinds += [token.type, *(child.type for child in token.children or ())]
    return kinds


def test_readme_shows_hostile_text_as_text(shipped):
    text = with_text(shipped, HOSTILE)
    assert structure(text) == structure(with_text(shipped, "harmless"))
    metadata, harmless = (
        release_readme.read_metadata(text),
        release_readme.read_metadata(with_text(shipped, "harmless")),
    )
    dataset, other = (m["model-index"][0]["results"][0].pop("dataset") for m in (metadata, harmless))
    assert metadata == harmless
    assert dataset == {"name": HOSTILE, "type": HOSTILE}
    assert other == {"name": "harmless", "type": "harmless"}


@given(st.text(max_size=100))
def test_quote_yaml_round_trips(text):
    assert yaml.safe_load(f"value: {release_readme.quote_yaml(text)}\n") == {"value": text}


@given(st.text() | st.text("&<>*_`[]()\\|~$!#@{}:. \n-+=\"'wx1"))
def test_escape_markdown_shows_the_text_unchanged(text):
    inline = MarkdownIt("commonmark").parseInline(f"- {release_readme.escape_markdown(text)}")
    (content,) = inline
    shown = "".join(character if character.isprintable() else " " for character in text)
    assert {child.type for child in content.children} == {"text"}
    assert "".join(child.content for child in content.children).split() == ["-", *shown.split()]


@pytest.mark.parametrize("link", ["http://example.org", "www.example.org", "WWW.example.org", "a@example.org"])
def test_escape_markdown_breaks_automatic_links(link):
    assert link not in release_readme.escape_markdown(link)


@pytest.mark.parametrize("text", ["MNIST test set, 10,000 images", "97.90% to 98.42%", "<= 1.0e-03", ">= 5", "12:30"])
def test_escape_markdown_keeps_ordinary_text_readable(text):
    assert release_readme.escape_markdown(text) == text


# ---- Checks of the assets --------------------------------------------------------------------------------------------


def reseal(folder: Path) -> None:
    """Write SHA256SUMS for the current files."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    sums = "".join(f"{release_checks.digest(folder / name)}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def swap_onnx_card(folder):
    path = next(folder.glob("*.onnx"))
    model = onnx.load(path)
    onnx.helper.set_model_props(
        model, {entry.key: entry.value.replace("subset", "mnist") for entry in model.metadata_props}
    )
    onnx.save(model, path)


def swap_onnx_weights(folder):
    path = next(folder.glob("*.onnx"))
    model = onnx.load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props} | {"weights_sha256": "0" * 64}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def inflate_accuracy(folder):
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"value: 0\.9\d*", "value: 0.999", text), encoding="utf-8")


def rename_data(folder):
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('name: "offline subset, test split', 'name: "MNIST test set', 1), encoding="utf-8")


@pytest.mark.parametrize(
    "lacking", ["mnist/gate/gate.toml", "mnist/report/report.schema.json", "mnist/templates/report.html.jinja"]
)
def test_verify_finds_a_file_that_the_wheel_lacks(copied, lacking):
    (wheel,) = copied.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name != lacking}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    reseal(copied)
    with pytest.raises(release_checks.ReleaseError, match=f"lacks {lacking}"):
        release_checks.verify(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_onnx_card, "ONNX"),
        (swap_onnx_weights, "ONNX"),
        (inflate_accuracy, "README.md claims"),
        (rename_data, "README.md claims"),
    ],
)
def test_verify_finds_an_asset_that_contradicts_the_card(copied, change, message):
    release_checks.verify(copied)
    change(copied)
    reseal(copied)
    with pytest.raises(release_checks.ReleaseError, match=message) as caught:
        release_checks.verify(copied)
    assert caught.value.code == release_checks.FAULT


def test_verify_finds_a_changed_byte_in_any_asset(copied):
    for path in sorted(copied.iterdir()):
        if path.name != "SHA256SUMS":
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(release_checks.ReleaseError, match=re.escape(f"SHA256SUMS does not match {path.name}")):
                release_checks.verify(copied)
            path.write_bytes(content)


def test_build_publishes_nothing_if_an_asset_fails_its_check(workplace, monkeypatch, capsys):
    to_onnx = export.to_onnx
    monkeypatch.setattr(release.export, "to_onnx", lambda a: to_onnx(dataclasses.replace(a, sha256="0" * 64)))
    assert release.main(["build", "--dataset", "subset"]) == release_checks.FAULT
    assert "ONNX" in error_line(capsys)
    assert not Path("release").exists()


def test_main_distinguishes_a_crash_from_a_blocked_model(workplace, monkeypatch, capsys):
    monkeypatch.setattr(release_readme, "render", lambda *arguments: 1 / 0)
    assert release.main(["build", "--dataset", "subset"]) == release_checks.FAULT
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert not Path("release").exists()


@pytest.mark.slow
def test_build_wheel_builds_an_installable_wheel(tmp_path):
    pytest.importorskip("uv", reason="uv builds the wheel")
    pytest.importorskip("setuptools", reason="the wheel is built with it")
    release.build_wheel(tmp_path)
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == f"mnist-{VERSION}-py3-none-any.whl"
    assert release_checks.find_missing(wheel) == []


# ---- The last release's model ----------------------------------------------------------------------------------------


@pytest.fixture
def gh(tmp_path, monkeypatch, shipped):
    """Install a fake gh, which lists ``releases`` and downloads the files of ``models``."""

    def install(releases: str, models: Path = shipped / "models", code: int = 0) -> None:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "gh"
        program.write_text(
            f"""#!/bin/sh
[ {code} = 0 ] || exit {code}
case "$*" in
    "release list --exclude-drafts --exclude-pre-releases --limit 1 --json tagName") echo '{releases}' ;;
    "release download --pattern mnist_model_* --dir "*) mkdir "$6" && cp "{models}"/* "$6" ;;
    *) exit 99 ;;
esac
""",
            encoding="utf-8",
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    return install


@needs_posix
def test_baseline_downloads_the_last_model(gh, shipped, capsys):
    gh('[{"tagName": "v0.0.1"}]')
    assert release.main(["baseline"]) == 0
    model = next(shipped.glob("models/*.pth"))
    assert capsys.readouterr().out == f"{Path('baseline', model.name)}\n"
    assert Path("baseline", model.name).read_bytes() == model.read_bytes()


@needs_posix
@pytest.mark.parametrize(("variable", "prefix"), [("1", "::notice::"), (None, "")])
def test_baseline_reports_that_there_is_no_release_yet(gh, capsys, monkeypatch, variable, prefix):
    if variable:
        monkeypatch.setenv("GITHUB_ACTIONS", variable)
    else:
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    gh("[]")
    assert release.main(["baseline"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{prefix}there is no release yet")


@needs_posix
def test_baseline_fails_if_gh_fails(gh, capsys):
    gh("[]", code=4)
    assert release.main(["baseline"]) == release_checks.FAULT
    assert "gh release list" in error_line(capsys)


@needs_posix
@pytest.mark.parametrize("kept", ["*.json", "*.pth"])
def test_baseline_refuses_a_release_without_model_or_card(gh, capsys, shipped, tmp_path, kept):
    models = tmp_path / "some"
    models.mkdir()
    for path in shipped.glob(f"models/{kept}"):
        shutil.copy(path, models)
    gh('[{"tagName": "v0.0.1"}]', models)
    assert release.main(["baseline"]) == release_checks.BAD_INPUT
    error_line(capsys)


def test_baseline_keeps_an_existing_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("baseline").mkdir()
    assert release.main(["baseline"]) == release_checks.BAD_INPUT
    assert "exists already" in error_line(capsys)


def test_baseline_reports_a_missing_gh(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert release.main(["baseline"]) == release_checks.BAD_INPUT
    assert error_line(capsys) == "error: gh is not installed (install it and try again)\n"


# ---- The workflow ----------------------------------------------------------------------------------------------------


def workflow(name: str) -> dict:
    return yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))


def steps(job: dict) -> list[dict]:
    return job["steps"]


def test_release_workflow_trains_on_mnist():
    (command,) = [
        s["run"] for s in steps(workflow("release.yml")["jobs"]["build"]) if "release-check" in s.get("run", "")
    ]
    assert 'make release-check DATASET=mnist TAG="$TAG" BASELINE="$baseline"' in command


def test_release_workflow_writes_only_in_the_publish_job():
    jobs = workflow("release.yml")["jobs"]
    writing = {name for name, job in jobs.items() if "write" in job["permissions"].values()}
    assert writing == {"publish"}
    assert not any(
        "make" in step.get("run", "") or "checkout" in step.get("uses", "") for step in steps(jobs["publish"])
    )
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("test", "build")
    assert jobs["publish"]["if"] == "github.event_name == 'push'"


def test_release_workflow_pins_the_actions_that_ci_pins():
    pins = {}
    for name in ("ci.yml", "release.yml"):
        text = (WORKFLOWS / name).read_text(encoding="utf-8")
        for action, commit in re.findall(r"uses: ([\w/-]+)@(\S+ # v[\d.]+)$", text, re.MULTILINE):
            assert re.match(r"[0-9a-f]{40} ", commit)
            assert pins.setdefault(action, commit) == commit
        assert text.count("uses:") == len(re.findall(r"uses: [\w/-]+@[0-9a-f]{40} # v", text))
