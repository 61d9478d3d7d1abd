"""Test the mutation test: which mutants it makes, and which of a small project it reports as survivors."""

import ast
import itertools
import multiprocessing
import re
import shutil
import subprocess
import sys
import time

import mutant_tests
import mutants
import psutil
import pytest
from mutants import Edit, Mutant, Recording
from strategies import PATIENCE

CHECKOUT = mutants.ROOT
TOY = """\
LIMIT = 7


def is_large(number):
    return number > 3 and number < LIMIT
"""
TOY_TEST = """\
import toy


def test_is_large():
    assert toy.is_large(5)
    assert not toy.is_large(2)
    assert not toy.is_large(8)
"""


def mutated(source: str) -> set[str]:
    return {edit.apply(source.encode()).decode() for edit in mutants.edits(source.encode())}


@pytest.fixture(scope="module")
def possible_changes():
    return {mutant.change for mutant in mutants.find_mutants()}


# ---- Mutants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("a == b >= c", {"a != b >= c", "a == b > c"}),
        ("a is not b", {"a is b"}),
        ("a not in b", {"a in b"}),
        ("(a + b) * c", {"(a - b) * c", "(a + b) / c"}),
        ("a // b", {"a % b"}),
        ("a & b", {"a | b"}),
        ("a and b and c", {"a or b and c", "a and b or c"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("~a", {"a"}),
        ("f = 3", {"f = 4", "f = 6"}),
        ("f = 0", {"f = 1"}),
        ("f = 1", {"f = 2"}),
        ("f = 0.5", {"f = 1.5", "f = 1.0"}),
        ("f = 1_000", {"f = 2000"}),
        ("f = True", {"f = False"}),
        ("min(a)", {"max(a)", "pass"}),
        ("f = a.argmax", {"f = a.argmin"}),
        ("f = g(a, b=c)", {"f = g(a)"}),
        ("f = g.manual_seed(3).sort(stable=True)", set()),
        ("f = g(b=c, d=e)", {"f = g(d=e)", "f = g(b=c)"}),
        ("a.b = c", {"pass"}),
        ("a[b] = c", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("a[b:c]", {"a[(b) + 1:c]", "a[b:(c) + 1]"}),
        ("def f():\n    return a", {"def f():\n    return None"}),
    ],
)
def test_edits_of_a_source(source, expected):
    assert mutated(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "text = 'a + b'",
        "text = f'{a + b}'",
        "raise ValueError(1 + 2)",
        "assert 1 < 2",
        "a: int | None = b",
        "def f(a: Literal[1]) -> Literal[2]:\n    return None",
        "Numbers = dict[str, Tensor | None]",
        "@dataclass(frozen=True)\nclass A:\n    a: int\n    b: int",
        "f = zip(a, b, strict=True)",
        "__all__ = ['max']",
    ],
)
def test_edits_leave_out_types_and_messages(source):
    assert mutated(source) == set()


def test_edits_replace_the_operator_only():
    """Neither the layout nor other characters change, also after a letter of two bytes."""
    source = "f(\n    'é', (a)  # first\n    + (b),\n)\n"
    assert source.replace("+", "-") in mutated(source)


@pytest.mark.slow
@pytest.mark.parametrize("module", mutants.TESTS)
def test_mutants_compile_and_differ(module):
    """Try every tenth mutant."""
    source = (CHECKOUT / module).read_bytes()
    original = ast.dump(ast.parse(source))
    for mutant in itertools.islice(mutants.find_mutants(module), None, None, 10):
        assert ast.dump(ast.parse(mutant.mutated)) != original, mutant.diff()


def test_diff_names_the_line():
    source = b"a = 1\nb = c + d\n"
    assert Mutant("m.py", source, Edit(12, 13, b"-")).diff() == "m.py:2\n    -b = c + d\n    +b = c - d"


@pytest.mark.slow
def test_list_depends_on_the_seed_only(capsys):
    def listed(seed):
        assert mutants.main(["--list", "--count", "20", "--seed", str(seed)]) == mutants.PASSED
        return capsys.readouterr().out

    assert listed(1) == listed(1) != listed(2)
    assert len(re.findall(r"^mnist/.*:\d+$", listed(1), re.MULTILINE)) == 20


def test_list_of_one_module(capsys):
    assert mutants.main(["--list", "--module", "*/metrics.py"]) == mutants.PASSED
    assert set(re.findall(r"^mnist/.*(?=:)", capsys.readouterr().out, re.MULTILINE)) == {"mnist/metrics.py"}


@pytest.mark.parametrize("arguments", [("--module", "*/absent.py"), ("--count", "0"), ("--jobs", "0")])
def test_main_refuses_options_without_a_mutant(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        mutants.main(arguments)
    assert "error: no mutant to run" in capsys.readouterr().err


def test_tests_of_every_module_of_the_scope():
    modules = {path.relative_to(CHECKOUT).as_posix() for pattern in mutants.SCOPE for path in CHECKOUT.glob(pattern)}
    assert set(mutants.TESTS) == modules
    for names in mutants.TESTS.values():
        assert [name for name in names if not (CHECKOUT / "tests" / f"test_{name}.py").is_file()] == []


@pytest.mark.parametrize("entry", mutants.load_equivalent(), ids=lambda entry: entry.mutated)
def test_equivalent_mutant_is_a_mutant_of_the_source(entry, possible_changes):
    """Remove or correct an entry if the line has changed. If a line occurs twice, the reason must hold for both."""
    assert (entry.module, entry.original, entry.mutated) in possible_changes
    assert entry.reason.endswith(".")


def test_change_joins_the_edited_lines():
    source = b"a = f(\n    b=c,\n    d=e,\n)\n"
    changes = [Mutant("m.py", source, edit).change for edit in mutants.edits(source)]
    assert changes == [("m.py", "b=c, d=e,", "d=e,"), ("m.py", "b=c, d=e,", "b=c,")]


def test_main_skips_equivalent_mutants(toy, tmp_path, monkeypatch, capsys):
    entries = tmp_path / "equivalent.toml"
    entries.write_text(
        '[[mutant]]\nmodule = "toy.py"\noriginal = "LIMIT = 7"\nmutated = "LIMIT = 8"\nreason = "None."\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(mutants, "EQUIVALENT", entries)
    assert mutants.main(["--list"]) == mutants.PASSED
    out = capsys.readouterr().out
    assert "; 1 equivalent mutants skipped\n" in out
    assert "LIMIT = 14" in out
    assert "LIMIT = 8" not in out


# ---- Runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Replace the checkout by a project of one module and one test."""
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    (checkout / "toy.py").write_text(TOY, encoding="utf-8")
    (checkout / "tests" / "test_toy.py").write_text(TOY_TEST, encoding="utf-8")
    monkeypatch.setattr(mutants, "ROOT", checkout)
    monkeypatch.setattr(mutants, "TESTS", {"toy.py": ("toy",)})
    monkeypatch.setattr(mutant_tests, "PRELOADED", [])
    monkeypatch.setattr(mutants, "copy_checkout", lambda folder: shutil.copytree(checkout, folder))
    return checkout


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_run_tells_killed_mutants_from_survivors(toy, monkeypatch, capsys):
    """The tests call the function with neither limit, so they do not notice `<=`."""
    before = files(toy)
    chosen = [mutant for mutant in mutants.find_mutants() if mutant.edit.new in (b"or", b"<=")]
    monkeypatch.setattr(mutants, "find_mutants", lambda pattern: chosen)
    assert mutants.main(["--jobs", "2"]) == mutants.FAILED
    out = capsys.readouterr().out
    assert sorted(re.findall(r"^(killed|SURVIVED) +toy.py:5$", out, re.MULTILINE)) == ["SURVIVED", "killed"]
    survivor = "    return number > 3 and number < LIMIT"
    assert f"survived: toy.py:5\n    -{survivor}\n    +{survivor.replace('< ', '<= ')}\n" in out
    assert "1 of 2 mutants killed: 50.0% (95 % interval: 9.5% to 90.5%), required: 95%" in out
    assert files(toy) == before


@pytest.mark.slow
def test_main_passes_if_enough_mutants_are_killed(toy, monkeypatch):
    chosen = [mutant for mutant in mutants.find_mutants() if mutant.edit.new == b"or"]
    monkeypatch.setattr(mutants, "find_mutants", lambda pattern: chosen)
    assert mutants.main(["--jobs", "1"]) == mutants.PASSED


@pytest.mark.slow
def test_main_refuses_tests_that_fail_without_mutation(toy, capsys):
    (toy / "tests" / "test_toy.py").write_text("import absent", encoding="utf-8")
    assert mutants.main([]) == mutants.UNUSABLE
    assert capsys.readouterr().err == "error: the tests fail without any mutation: toy (repair them first)\n"


@pytest.mark.slow
def test_run_starts_no_mutant_after_the_time_limit(toy, capsys):
    """Nothing is known about the tests if no mutant ran."""
    assert mutants.main(["--minutes", "0"]) == mutants.FAILED
    assert "0 of 0 mutants killed: nan%" in capsys.readouterr().out


@pytest.mark.slow
def test_survives_is_false_after_the_timeout(toy, monkeypatch):
    (toy / "toy.py").write_text("while False:\n    pass\n", encoding="utf-8")
    source = (toy / "toy.py").read_bytes()
    monkeypatch.setattr(mutants, "TIMEOUT_SECONDS", 1)
    recording = Recording(seconds=0, durations={}, lines={})
    assert not mutants.survives(Mutant("toy.py", source, Edit(6, 11, b"True")), toy, [recording])
    assert multiprocessing.active_children() == []
    assert (toy / "toy.py").read_bytes() == source


@pytest.mark.slow
def test_record_finds_the_tests_that_execute_a_line(toy):
    (toy / "tests" / "test_toy.py").write_text(f"{TOY_TEST}\n\ndef test_other():\n    pass\n", encoding="utf-8")
    recording = mutants.record("toy", toy)
    assert list(recording.durations) == ["tests/test_toy.py::test_is_large", "tests/test_toy.py::test_other"]
    assert recording.lines["toy.py"]["5"] == ["tests/test_toy.py::test_is_large"]
    assert 0 < sum(recording.durations.values()) < recording.seconds


def test_order_starts_with_tests_that_execute_the_line():
    """Among these, the fast ones come first, and those of the first file."""
    mutant = Mutant("m.py", b"a = 1\n", Edit(4, 5, b"2"))
    first = Recording(9, durations={"slow": 5.0, "absent": 0.1, "late": 0.4, "soon": 0.3}, lines={})
    second = Recording(9, durations={"second": 0.2}, lines={"m.py": {"1": ["second"]}})
    first.lines["m.py"] = {"1": ["slow", "late", "soon"], "2": ["absent"]}
    assert mutants.order(mutant, [first, second]) == ["soon", "late", "second", "slow", "absent"]


def start_child(started):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]):
        started.set()
        time.sleep(1000)


@pytest.mark.slow
def test_kill_with_children_leaves_no_process():
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=start_child, args=(started,))
    process.start()
    assert started.wait(PATIENCE)
    children = psutil.Process(process.pid).children()
    mutant_tests.kill_with_children(process)
    assert len(children) == 1
    psutil.wait_procs(children, PATIENCE)
    assert not children[0].is_running()
    assert not process.is_alive()


def test_run_reports_the_results_before_ctrl_c(toy, monkeypatch, capsys):
    def interrupted(chosen, *_):
        yield chosen[0], False
        raise KeyboardInterrupt

    monkeypatch.setattr(mutants, "run", interrupted)
    assert mutants.main([]) == mutants.INTERRUPTED
    out = capsys.readouterr().out
    assert "survived: toy.py:" in out
    assert "0 of 1 mutants killed" in out
