"""The files around the package: that the front door opens, and that what is written twice agrees."""

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

import pytest
from strategies import PATIENCE

CHECKOUT = Path(__file__).parent.parent

needs_make = pytest.mark.skipif(
    os.name == "nt" or shutil.which("make") is None, reason="make and what it runs are for Unix"
)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Copy the Makefile into a folder with an unusual name, where the set-up is already done."""
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
        env={"PATH": os.environ["PATH"]},  # nothing of the make that runs these tests
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return finished.stdout


# ---- The Makefile ----------------------------------------------------------------------------------------------------


@needs_make
def test_make_alone_and_make_help_list_every_target(checkout):
    targets = (
        re.search(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        .group(1)
        .split()
    )
    for shown in (make(checkout), make(checkout, "help")):
        assert [target for target in targets if f"make {target} " not in shown] == ["venv"]


@needs_make
def test_variables_become_options(checkout):
    program = checkout / ".venv" / "bin" / "python"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n', encoding="utf-8")
    program.chmod(0o755)
    variables = ["RECIPE=baseline", "EPOCHS=2", "SEED=3", "DATASET=subset", "DEVICE=cpu", "ARGS=--batch-size 8"]
    said = make(checkout, "train", *variables).split()
    assert " ".join(said) == (
        "<-m> <mnist> <train> <--recipe> <baseline> <--dataset> <subset> <--device> <cpu> "
        "<--epochs> <2> <--seed> <3> <--batch-size> <8>"
    )
    assert "<a model.pth>" in make(checkout, "gate", "MODEL=a model.pth")
    assert make(checkout, "train", "RESUME=1").split()[:4] == ["<-m>", "<mnist>", "<train>", "<--resume>"]
    assert " ".join(make(checkout, "release-check", "DATASET=mnist", "TAG=v1.2.3", "BASELINE=an old.pth").split()) == (
        "<scripts/release.py> <build> <--dataset> <mnist> <--baseline> <an old.pth> <--tag> <v1.2.3>"
    )
    assert make(checkout, "test").split()[:3] == ["<-m>", "<pytest>", "<--cov>"]
    assert "<not slow>" in make(checkout, "test", "CI=0") != make(checkout, "test", "CI=true")
    assert make(checkout, "test", "ARGS=-k shape").split() == ["<-m>", "<pytest>", "<-k>", "<shape>"]


@needs_make
@pytest.mark.parametrize("value", ["0", "no", "No", "false", "off", " no ", ""])
def test_make_switch_that_is_off_means_no(checkout, value):
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
def test_make_misspelt_variable_names_the_nearest(checkout, given, nearest):
    with pytest.raises(subprocess.CalledProcessError) as error:
        make(checkout, "train", given)
    assert f"no variable {given.partition('=')[0]} here; did you mean {nearest}?" in error.value.stderr


@needs_make
def test_clean_takes_what_can_be_made_again_and_never_a_model_or_the_data(checkout):
    kept = [
        "models/m.pth",
        "reports/m/report.html",
        "data/MNIST/raw/x",
        "figures/mine.png",
        "mnist/cli.py",
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
def test_distclean_says_what_it_would_remove_and_waits_to_be_told(checkout):
    for name in ("models/m.pth", "data/x"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    said = make(checkout, "distclean")
    assert make(checkout, "distclean") == said
    assert all(word in said for word in ("models", "data", "CONFIRM=yes"))
    assert (checkout / "models" / "m.pth").exists()
    make(checkout, "distclean", "CONFIRM=yes")
    assert not (checkout / "models").exists()
    assert not (checkout / "data").exists()
    assert make(checkout, "distclean").endswith(": nothing\n")


# ---- The set-up ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """The set-up script in a checkout of its own, with its commands written down instead of run."""
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "scripts/bootstrap.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("bootstrap", tmp_path / "scripts" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []

    def note(command, hint):
        module.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        module.PYTHON.touch()
        module.commands.append([str(word) for word in command])

    monkeypatch.setattr(module, "run", note)
    return module


@needs_make
def test_setting_up_is_done_once(bootstrap):
    bootstrap.main()
    assert [command[1:3] for command in bootstrap.commands] == [["-m", "venv"], ["-m", "pip"], ["-m", "uv"]]
    bootstrap.main()
    assert len(bootstrap.commands) == 3


@needs_make
def test_set_ups_at_once_are_one(bootstrap):
    threads = [threading.Thread(target=bootstrap.main) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bootstrap.commands) == 3


@needs_make
@pytest.mark.parametrize("name", ["setup.cfg", "constraints.txt"])
def test_a_changed_requirement_sets_up_anew(bootstrap, tmp_path, name):
    bootstrap.main()
    (tmp_path / name).write_text((tmp_path / name).read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    bootstrap.main()
    assert len(bootstrap.commands) == 6
    assert not any("--clear" in command for command in bootstrap.commands), "what works stays until the new is there"


@needs_make
def test_another_python_or_a_folder_that_moved_sets_up_from_scratch(bootstrap, monkeypatch):
    bootstrap.main()
    stamp = json.loads(bootstrap.STAMP.read_text(encoding="utf-8"))
    bootstrap.STAMP.write_text(json.dumps({**stamp, "place": "3.10 elsewhere"}), encoding="utf-8")
    bootstrap.main()
    bootstrap.PYTHON.unlink()
    bootstrap.main()
    assert ["--clear" in command for command in bootstrap.commands[::3]] == [False, True, True]


@needs_make
def test_the_build_of_torch_that_was_asked_for_once_is_kept(bootstrap, monkeypatch):
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    bootstrap.main()
    monkeypatch.delenv("UV_TORCH_BACKEND")
    bootstrap.main()
    assert len(bootstrap.commands) == 3


@needs_make
def test_a_set_up_that_failed_is_not_taken_for_done_and_an_environment_of_ones_own_is_not_cleared(
    bootstrap, tmp_path, monkeypatch
):
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
    monkeypatch.setattr(bootstrap, "answers", lambda url: index)
    if driver:
        bootstrap.NVIDIA_DRIVER.touch()
    bootstrap.main()
    shown = capsys.readouterr().out
    assert (shown.count("\n"), size in shown) == (1, True)
    assert json.loads(bootstrap.STAMP.read_text(encoding="utf-8"))["torch"] == backend
    assert bootstrap.TOX_ENV.read_text(encoding="utf-8") == (f"UV_TORCH_BACKEND={backend}\n" if backend else "")
    assert os.environ.get("UV_TORCH_BACKEND") == backend


def test_bootstrap_takes_the_users_build_of_torch(bootstrap, monkeypatch):
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")
    monkeypatch.setattr(bootstrap, "answers", pytest.fail)
    bootstrap.main()
    assert bootstrap.TOX_ENV.read_text(encoding="utf-8") == "UV_TORCH_BACKEND=cu130\n"


def test_bootstrap_gives_up_a_server_that_does_not_answer(bootstrap, monkeypatch):
    """The name look-up hangs, which no time-out of a socket covers."""
    looked_up, answered = threading.Event(), threading.Event()

    def hang(*arguments, **options):
        looked_up.set()
        answered.wait(PATIENCE)
        raise OSError

    monkeypatch.setattr(bootstrap, "SECONDS_TO_ANSWER", 0.1)
    monkeypatch.setattr(bootstrap.urllib.request, "urlopen", hang)
    assert not bootstrap.answers("https://127.0.0.1/")
    assert looked_up.is_set()
    answered.set()


def test_bootstrap_finds_a_server_that_answers(bootstrap):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path == "/there/" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answers = [bootstrap.answers(f"http://127.0.0.1:{server.server_port}/{path}/") for path in ("there", "gone")]
        server.shutdown()
    assert answers == [True, False]


def test_a_command_that_fails_is_named_with_a_hint():
    program = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT / 'scripts')!r}); import bootstrap; "
        "bootstrap.run([sys.executable, '-c', 'raise SystemExit(3)'], 'try again')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.endswith("failed (try again)\n")


# ---- What is written more than once ----------------------------------------------------------------------------------


@pytest.fixture
def documents(monkeypatch):
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    return importlib.import_module("documents")


def test_a_script_renews_its_section_of_a_document_and_nothing_else(documents, tmp_path):
    document = tmp_path / "document.md"
    document.write_text("above\n<!-- times -->\nold\n<!-- end of times -->\nbelow\n", encoding="utf-8")
    for text in ("first", "second\n"):
        documents.replace_section(document, "times", text)
    assert document.read_text(encoding="utf-8") == "above\n<!-- times -->\n\nsecond\n\n<!-- end of times -->\nbelow\n"


@pytest.mark.parametrize("content", ["", "<!-- times -->\n", "<!-- end of times -->\n"])
def test_a_document_without_the_section_is_left_alone(documents, tmp_path, content):
    document = tmp_path / "document.md"
    document.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="has no section 'times'"):
        documents.replace_section(document, "times", "text")
    assert document.read_text(encoding="utf-8") == content


def test_the_python_versions_agree_everywhere():
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


def test_the_extra_for_development_brings_all_the_others():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    # The fuzzer is for few, and not to be had for every system.
    assert f"mnist[{','.join(name for name in extras if name not in ('dev', 'fuzz'))}]" in extras["dev"]


def test_every_make_target_that_the_documents_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", ".github/workflows/ci.yml", ".github/workflows/release.yml"):
        named = set(
            re.findall(r"(?:`|^ *|run: )make ([a-z-]+)", (CHECKOUT / name).read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert named <= targets, name


def test_encoding_warnings_are_errors_in_every_module_of_the_project():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    filters = setup["tool:pytest"]["filterwarnings"].splitlines()
    patterns = [line.partition("EncodingWarning:")[2] for line in filters if line.startswith("error::EncodingWarning")]
    modules = ["mnist", *(path.stem for name in ("scripts", "tests") for path in (CHECKOUT / name).glob("*.py"))]
    assert [module for module in modules if not any(re.match(pattern, module) for pattern in patterns)] == []
