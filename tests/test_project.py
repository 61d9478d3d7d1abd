"""Test the Makefile, the set-up, the documents, and that settings which appear in several files agree."""

import configparser
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import documents
import pytest
from strategies import PATIENCE

CHECKOUT = Path(__file__).parent.parent

needs_make = pytest.mark.skipif(
    os.name == "nt" or shutil.which("make") is None, reason="the Makefile needs make and Unix"
)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Copy the Makefile into a folder with an unusual name and a finished set-up."""
    folder = tmp_path / "folder #1 with spaces, ümlauts and [brackets]"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(CHECKOUT / "Makefile", folder)
    (folder / "scripts" / "bootstrap.py").touch()
    (folder / ".venv" / "bin").mkdir(parents=True)
    return folder


def make(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},  # without the variables of the make that runs the tests
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return finished.stdout


# ---- The Makefile ----------------------------------------------------------------------------------------------------


@needs_make
def test_make_help_lists_every_target(checkout):
    targets = (
        re.search(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        .group(1)
        .split()
    )
    for shown in (make(checkout), make(checkout, "help")):
        assert [target for target in targets if f"make {target} " not in shown] == ["venv"]


@needs_make
def test_make_variables_become_options(checkout):
    program = checkout / ".venv" / "bin" / "python"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n', encoding="utf-8")
    program.chmod(0o755)
    variables = ["RECIPE=baseline", "EPOCHS=2", "SEED=3", "DATASET=subset", "DEVICE=cpu", "ARGS=--batch-size 8"]
    shown = make(checkout, "train", *variables).split()
    assert " ".join(shown) == (
        "<-m> <mnist> <train> <--recipe> <baseline> <--dataset> <subset> <--device> <cpu> "
        "<--epochs> <2> <--seed> <3> <--batch-size> <8>"
    )
    assert "<a model.pth>" in make(checkout, "gate", "MODEL=a model.pth")
    assert make(checkout, "bench", "BASE=HEAD~1").split()[-3:] == ["<scripts/benchmark.py>", "<--base>", "<HEAD~1>"]
    assert make(checkout, "train", "RESUME=1").split()[:4] == ["<-m>", "<mnist>", "<train>", "<--resume>"]
    assert " ".join(make(checkout, "release-check", "DATASET=mnist", "TAG=v1.2.3", "BASELINE=an old.pth").split()) == (
        "<scripts/release.py> <build> <--dataset> <mnist> <--baseline> <an old.pth> <--tag> <v1.2.3>"
    )
    quick, complete = (make(checkout, "test", variable).split() for variable in ("CI=", "CI=true"))
    assert quick[:2] == complete[:2] == ["<-m>", "<pytest>"]
    assert ("<--cov>" in quick, "<-m>" in quick[2:]) == (False, True)
    assert ("<--cov>" in complete, "<-m>" in complete[2:]) == (True, False)
    assert "<not slow>" in make(checkout, "test", "CI=0") != make(checkout, "test", "CI=true")
    assert make(checkout, "test", "ARGS=-k shape").split() == ["<-m>", "<pytest>", "<-k>", "<shape>"]


@needs_make
@pytest.mark.parametrize("value", ["0", "no", "No", "false", "off", " no ", ""])
def test_make_accepts_off_values_of_a_switch(checkout, value):
    program = checkout / ".venv" / "bin" / "python"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n', encoding="utf-8")
    program.chmod(0o755)
    assert "<--resume>" not in make(checkout, "train", f"RESUME={value}")
    (checkout / "models").mkdir()
    make(checkout, "distclean", f"CONFIRM={value}")
    assert (checkout / "models").exists()


@needs_make
@pytest.mark.parametrize(
    ("given", "nearest"),
    [("RECIP=fast", "RECIPE"), ("epoch=3", "EPOCHS"), ("RESUM=1", "RESUME"), ("CONFRIM=yes", "CONFIRM")],
)
def test_make_suggests_the_nearest_variable(checkout, given, nearest):
    with pytest.raises(subprocess.CalledProcessError) as error:
        make(checkout, "train", given)
    assert f"unknown variable {given.partition('=')[0]}: did you mean {nearest}?" in error.value.stderr


@needs_make
def test_make_refuses_base_for_baseline(checkout):
    with pytest.raises(subprocess.CalledProcessError) as error:
        make(checkout, "gate", "BASE=models/old.pth")
    assert "did you mean BASELINE?" in error.value.stderr


@needs_make
def test_make_clean_keeps_models_and_data(checkout):
    kept = [
        "models/m.pth",
        "reports/m/report.html",
        "data/MNIST/raw/x",
        "figures/mine.png",
        "mnist/errors.py",
        "tests/t.py",
        ".venv/x",
    ]
    gone = ["figures/augmentation_samples.png", ".coverage", ".hypothesis/x", "mnist/__pycache__/x", "build/x"]
    for name in kept + gone:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    make(checkout, "clean")
    assert all((checkout / name).exists() for name in kept)
    assert not any((checkout / name).exists() for name in gone)


@needs_make
def test_make_distclean_asks_for_confirmation(checkout):
    for name in ("models/m.pth", "data/x"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    shown = make(checkout, "distclean")
    assert make(checkout, "distclean") == shown
    assert all(word in shown for word in ("models", "data", "CONFIRM=yes"))
    assert (checkout / "models" / "m.pth").exists()
    make(checkout, "distclean", "CONFIRM=yes")
    assert not (checkout / "models").exists()
    assert not (checkout / "data").exists()
    assert make(checkout, "distclean").endswith(": nothing\n")


# ---- The set-up ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """Import the set-up program from a copy of the checkout; it records its commands instead of running them."""
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "scripts/bootstrap.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("bootstrap", tmp_path / "scripts" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []

    def record(command, hint):
        module.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        module.PYTHON.touch()
        module.commands.append([str(word) for word in command])

    monkeypatch.setattr(module, "run", record)
    return module


@needs_make
def test_bootstrap_runs_once(bootstrap):
    bootstrap.main()
    assert [command[1:3] for command in bootstrap.commands] == [["-m", "venv"], ["-m", "pip"], ["-m", "uv"]]
    bootstrap.main()
    assert len(bootstrap.commands) == 3


def test_bootstrap_leaves_another_environment_alone(bootstrap, tmp_path):
    (tmp_path / "other").mkdir()
    try:
        (tmp_path / ".venv").symlink_to(tmp_path / "other")
    except OSError:
        pytest.skip("this account may not create links")
    with pytest.raises(SystemExit, match=r"error: \.venv is a symbolic link"):
        bootstrap.main()
    assert bootstrap.commands == []


@needs_make
def test_bootstrap_runs_once_if_started_several_times(bootstrap):
    threads = [threading.Thread(target=bootstrap.main) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bootstrap.commands) == 3


@needs_make
@pytest.mark.parametrize("name", ["setup.cfg", "constraints.txt"])
def test_bootstrap_updates_after_a_changed_requirement(bootstrap, tmp_path, name):
    bootstrap.main()
    (tmp_path / name).write_text((tmp_path / name).read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    bootstrap.main()
    assert len(bootstrap.commands) == 6
    assert not any("--clear" in command for command in bootstrap.commands), (
        "the environment is updated, not created again"
    )


@needs_make
def test_bootstrap_starts_over_for_another_python_or_folder(bootstrap, monkeypatch):
    bootstrap.main()
    stamp = json.loads(bootstrap.STAMP.read_text(encoding="utf-8"))
    bootstrap.STAMP.write_text(json.dumps({**stamp, "place": "3.10 elsewhere"}), encoding="utf-8")
    bootstrap.main()
    bootstrap.PYTHON.unlink()
    bootstrap.main()
    assert ["--clear" in command for command in bootstrap.commands[::3]] == [False, True, True]


@needs_make
def test_bootstrap_keeps_the_chosen_build_of_torch(bootstrap, monkeypatch):
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    bootstrap.main()
    monkeypatch.delenv("UV_TORCH_BACKEND")
    bootstrap.main()
    assert len(bootstrap.commands) == 3


@needs_make
def test_bootstrap_runs_again_after_a_failure(bootstrap, monkeypatch):
    """It does not clear the environment, which may be the user's own."""

    def fail(command, hint):
        raise SystemExit("error: no network")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "run", fail)
        with pytest.raises(SystemExit, match="no network"):
            bootstrap.main()
    bootstrap.main()
    assert len(bootstrap.commands) == 3
    assert "--clear" not in bootstrap.commands[0]


@pytest.mark.parametrize(
    ("system", "driver", "index", "backend", "size"),
    [
        ("linux", False, True, "cpu", "0.5 GB"),
        ("linux", False, False, None, "3.5 GB"),
        ("linux", True, True, None, "3.5 GB"),
        ("darwin", False, True, None, "0.5 GB"),
        ("win32", False, True, None, "0.5 GB"),
    ],
)
def test_bootstrap_chooses_the_build_of_torch(
    bootstrap, tmp_path, monkeypatch, capsys, system, driver, index, backend, size
):
    monkeypatch.setattr(bootstrap.sys, "platform", system)
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(bootstrap, "is_reachable", lambda url: index)
    if driver:
        bootstrap.NVIDIA_DRIVER.touch()
    bootstrap.main()
    shown = capsys.readouterr().out
    assert (shown.count("\n"), size in shown) == (1, True)
    assert json.loads(bootstrap.STAMP.read_text(encoding="utf-8"))["torch"] == backend
    assert bootstrap.TOX_ENV.read_text(encoding="utf-8") == (f"UV_TORCH_BACKEND={backend}\n" if backend else "")
    assert os.environ.get("UV_TORCH_BACKEND") == backend


def test_bootstrap_uses_the_build_of_torch_of_the_user(bootstrap, monkeypatch):
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")
    monkeypatch.setattr(bootstrap, "is_reachable", pytest.fail)
    bootstrap.main()
    assert bootstrap.TOX_ENV.read_text(encoding="utf-8") == "UV_TORCH_BACKEND=cu130\n"


def test_is_reachable_does_not_wait_for_a_silent_server(bootstrap, monkeypatch):
    """The DNS lookup hangs, which the timeout of a socket does not limit."""
    looked_up, replied = threading.Event(), threading.Event()

    def hang(*arguments, **options):
        looked_up.set()
        replied.wait(PATIENCE)
        raise OSError

    monkeypatch.setattr(bootstrap, "MAX_SECONDS_TO_REPLY", 0.1)
    monkeypatch.setattr(bootstrap.urllib.request, "urlopen", hang)
    assert not bootstrap.is_reachable("https://127.0.0.1/")
    assert looked_up.is_set()
    replied.set()


def test_is_reachable_requires_a_reply_without_error(bootstrap):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path == "/there/" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        replies = [bootstrap.is_reachable(f"{address}/{path}/") for path in ("there", "gone")]
        server.shutdown()
    assert replies == [True, False]


def test_bootstrap_run_reports_a_failed_command_with_a_hint():
    program = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT / 'scripts')!r}); import bootstrap; "
        "bootstrap.run([sys.executable, '-c', 'raise SystemExit(3)'], 'try again')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.endswith("failed (try again)\n")


# ---- Documents and settings ------------------------------------------------------------------------------------------


def test_replace_section_changes_nothing_else(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("above\n<!-- times -->\nold\n<!-- end of times -->\nbelow\n", encoding="utf-8")
    for text in ("first", "second\n"):
        documents.replace_section(document, "times", text)
    assert document.read_text(encoding="utf-8") == "above\n<!-- times -->\n\nsecond\n\n<!-- end of times -->\nbelow\n"


@pytest.mark.parametrize("content", ["", "<!-- times -->\n", "<!-- end of times -->\n"])
def test_replace_section_requires_the_section(tmp_path, content):
    document = tmp_path / "document.md"
    document.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="has no section 'times'"):
        documents.replace_section(document, "times", "text")
    assert document.read_text(encoding="utf-8") == content


def test_replace_row_replaces_the_row_or_appends_it(tmp_path):
    document = tmp_path / "document.md"
    text = "<!-- times -->\n\n| name | s |\n| --- | ---: |\n| a | 1 |\n| b | 2 |\n\n<!-- end of times -->\n"
    document.write_text(text, encoding="utf-8")
    for line in ("| a | 3 |", "| c | 4 |"):
        documents.replace_row(document, "times", line)
    expected = text.replace("| a | 1 |\n| b | 2 |", "| a | 3 |\n| b | 2 |\n| c | 4 |")
    assert document.read_text(encoding="utf-8") == expected


def test_table_aligns_its_columns():
    table = documents.table(["name", "s"], [["a", documents.spread([1.0, 2.0, 4.0], 1, " s")]], "lr")
    assert table.splitlines() == ["| name | s |", "| --- | ---: |", "| a | 2.0 s (1.0 to 4.0) |"]


@pytest.mark.parametrize(
    ("cells", "alignment", "number"), [(["a"], "lr", 1), (["a", "1", "2"], "lr", 3), (["a", "1"], "l", 1)]
)
def test_table_refuses_a_wrong_number_of_cells(cells, alignment, number):
    with pytest.raises(ValueError, match=f"a row of the table has {number} cells, not 2"):
        documents.table(["name", "s"], [cells], alignment)


def test_python_versions_agree():
    setup, tox = configparser.ConfigParser(), configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    tox.read(CHECKOUT / "tox.ini", encoding="utf-8")
    classified = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    minors = re.search(r"py\{([\d, ]+)\}", tox["tox"]["env_list"]).group(1).split(", ")
    workflow = (CHECKOUT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert [f"3.{minor[1:]}" for minor in minors] == classified
    assert re.search(r"python: \[(.*)\]", workflow).group(1).replace('"', "").split(", ") == classified
    assert setup["options"]["python_requires"] == f">={classified[0]}"
    assert tox["testenv:lowest"]["base_python"] == f"python{classified[0]}"


def test_script_beside_the_clone_imports_the_package(tmp_path, monkeypatch):
    """An editable install puts the clone on sys.path, where its package has priority over its folder of this name."""
    pytest.importorskip("setuptools", minversion="77")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    clone, site, script = tmp_path / "mnist", tmp_path / "site", tmp_path / "script.py"
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "mnist/__init__.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, clone / name)
    build = f"import setuptools.build_meta as backend; backend.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    script.write_text(f"import site; site.addsitedir({str(site)!r}); import mnist; print(mnist.__file__)", "utf-8")
    finished = subprocess.run([sys.executable, "-S", script], check=True, capture_output=True, encoding="utf-8")
    assert Path(finished.stdout.strip()) == clone / "mnist" / "__init__.py"


def test_extra_dev_includes_the_other_extras():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    # Few developers need the fuzzer, and it is not available on every system.
    assert f"mnist[{','.join(name for name in extras if name not in ('dev', 'fuzz'))}]" in extras["dev"]


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", ".github/workflows/ci.yml", ".github/workflows/release.yml"):
        named = set(
            re.findall(r"(?:`|^ *|run: )make ([a-z-]+)", (CHECKOUT / name).read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert named <= targets, name


def test_encoding_warnings_are_errors_in_every_module():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    filters = setup["tool:pytest"]["filterwarnings"].splitlines()
    patterns = [line.partition("EncodingWarning:")[2] for line in filters if line.startswith("error::EncodingWarning")]
    modules = ["mnist", *(path.stem for name in ("scripts", "tests") for path in (CHECKOUT / name).glob("*.py"))]
    assert [module for module in modules if not any(re.match(pattern, module) for pattern in patterns)] == []


def test_core_modules_are_short_enough_to_read_at_once():
    """The first paragraph of docs/layout.md lists them, and states the limit."""
    introduction = (CHECKOUT / "docs" / "layout.md").read_text(encoding="utf-8").split("```")[0]
    modules = [CHECKOUT / "mnist" / f"{name}.py" for name in re.findall(r"`([\w/]+)`", introduction)]
    limit = int(re.search(r"fewer than ([\d,]+) lines", introduction).group(1).replace(",", ""))
    assert len(modules) == 10
    assert sum(len(module.read_text(encoding="utf-8").splitlines()) for module in modules) < limit


def test_no_module_has_more_than_350_lines():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in CHECKOUT.glob("mnist/**/*.py")}
    assert max(lengths.values()) <= 350, lengths


def test_layout_document_names_every_module():
    """Packages are listed without their modules."""
    document = (CHECKOUT / "docs" / "layout.md").read_text(encoding="utf-8")
    modules = {path.name for path in CHECKOUT.glob("mnist/*.py") if not path.name.startswith("_")}
    assert modules == set(re.findall(r"^  (\w+\.py) ", document, re.MULTILINE))
