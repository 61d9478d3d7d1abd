"""Mutation test: make small changes to the modules that decide, and check that the tests detect them.

    python scripts/mutants.py                         run a random sample of mutants, at most 30 minutes
    python scripts/mutants.py --module '*/criteria.py' --count 40
    python scripts/mutants.py --list --seed 1         only print the sample

A mutant is a copy of the checkout with one change, such as `<` replaced with `<=`. A mutant is killed if a test of the
changed module fails or takes too long; otherwise it survives. The tests run in copies of the checkout in a temporary
folder. A first run without any change records which tests execute which lines; for a mutant, the tests that execute the
changed line run first. The exit code is 1 if fewer than 95 % of the mutants are killed, and 2 if the tests fail without
any change. The mutants in equivalent_mutants.toml change nothing that matters, and are skipped.

No mutation-testing library is used. mutmut mutates neither decorated functions nor module-level code, such as the
corruptions and the criteria. Cosmic-ray can neither draw a sample nor stop after a given time, and runs the same test
command for all modules.
"""

import argparse
import ast
import contextlib
import difflib
import fnmatch
import itertools
import json
import os
import queue
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mutant_tests
from hostile_environments import copy_checkout
from mutant_tests import Order, Recorder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
SCOPE = (
    "mnist/gate/**/*.py",
    "mnist/batches.py",
    "mnist/checkpointing.py",
    "mnist/metrics.py",
    "mnist/report/risk_coverage.py",
    "mnist/trainer.py",
)
# For each module, the names of its test files without test_ and .py. Files that kill most mutants soonest come first.
TESTS = {
    "mnist/gate/__init__.py": ("gate", "claims", "cli_gate", "onnx_models"),
    "mnist/gate/candidates.py": ("ranking", "onnx_models"),
    "mnist/gate/claims.py": ("claims",),
    "mnist/gate/comparison.py": ("gate", "cli_gate"),
    "mnist/gate/contract.py": ("measurement",),
    "mnist/gate/corruptions.py": ("corruptions",),
    "mnist/gate/criteria.py": ("gate", "cli_gate"),
    "mnist/gate/gradients.py": ("measurement",),
    "mnist/gate/intervals.py": ("intervals",),
    "mnist/gate/measurement.py": ("measurement",),
    "mnist/gate/performance.py": ("measurement",),
    "mnist/gate/onnx_models.py": ("onnx_models",),
    "mnist/gate/policy.py": ("gate", "cli_gate"),
    "mnist/gate/probes.py": ("corruptions", "measurement"),
    "mnist/gate/ranking.py": ("ranking",),
    "mnist/gate/regressions.py": ("gate", "cli_gate"),
    "mnist/gate/sampling.py": ("measurement",),
    "mnist/gate/single_images.py": ("measurement",),
    "mnist/gate/slices.py": ("slices", "measurement"),
    "mnist/gate/triggers.py": ("triggers", "measurement"),
    "mnist/gate/verdicts.py": ("gate", "cli_gate"),
    "mnist/batches.py": ("trainer", "distributed"),
    "mnist/checkpointing.py": ("trainer", "distributed"),
    "mnist/metrics.py": ("metrics", "card"),
    "mnist/report/risk_coverage.py": ("metrics",),
    "mnist/trainer.py": ("trainer", "distributed"),
}
REQUIRED_SHARE = 0.95  # minimum share of the mutants that must be killed
TIMEOUT_FACTOR = 3  # the tests of a mutant may take this many times as long as the tests without a mutation
TIMEOUT_SECONDS = 30.0  # added to the timeout
SLOW_SECONDS = 1.0  # tests that take longer run after the others
PASSED, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130  # exit codes

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
UNARY: dict[type[ast.unaryop], str] = {ast.Not: "not ", ast.USub: "-", ast.Invert: "~"}
PAIRS = (("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("any", "all"), ("argmin", "argmax"))
SWAPPED_NAMES = dict(PAIRS) | {second: first for first, second in PAIRS}
MAX_INCREMENTED = 100  # adding 1 to a larger number has hardly any effect

# Error messages, and arguments that affect only the speed, the device, the representation, or internal checks. On the
# CPU, PyTorch's sort is stable even without the argument.
SKIPPED_NODES = (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list"}
SKIPPED_KEYWORDS = {"device", "fused", "memory_format", "repr", "stable", "strict"}
SKIPPED_CALLS = {"manual_seed"}  # any other seed is as good


# ---- Mutants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """The replacement of the bytes from ``start`` to ``end`` of a source."""

    start: int
    end: int
    new: bytes

    def apply(self, source: bytes) -> bytes:
        """Return the edited source."""
        return source[: self.start] + self.new + source[self.end :]


@dataclass(frozen=True)
class Equivalent:
    """A mutant that no test can kill, because no user and no verdict of the gate could notice the change."""

    module: str
    original: str  # the edited lines, without indentation and comments, as one line
    mutated: str  # these lines after the edit
    reason: str


@dataclass(frozen=True)
class Mutant:
    """A module with one edit."""

    module: str  # its path in the checkout, with slashes
    source: bytes  # before the edit
    edit: Edit

    @property
    def line(self) -> int:
        """The number of the edited line."""
        return self.source.count(b"\n", 0, self.edit.start) + 1

    @property
    def mutated(self) -> bytes:
        """The source after the edit."""
        return self.edit.apply(self.source)

    @property
    def change(self) -> tuple[str, str, str]:
        """The module, and the edited lines before and after the edit, without indentation and comments, as one line."""
        start = self.source.rfind(b"\n", 0, self.edit.start) + 1
        end = (self.source + b"\n").index(b"\n", self.edit.end)
        after = self.source[start : self.edit.start] + self.edit.new + self.source[self.edit.end : end]
        lines = (text.decode().splitlines() for text in (self.source[start:end], after))
        return self.module, *(" ".join(line.partition("  # ")[0].strip() for line in each) for each in lines)

    def diff(self) -> str:
        """Return the location and the changed lines."""
        before, after = (text.decode().splitlines() for text in (self.source, self.mutated))
        changed = list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]  # without file names and position
        return "\n".join([f"{self.module}:{self.line}", *(f"    {line}" for line in changed)])


class _Source:
    """The bytes of a module, and the positions of its nodes in them."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._line_starts = [0, *(match.end() for match in re.finditer(rb"\n", text))]

    def start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._line_starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._line_starts[node.end_lineno - 1] + node.end_col_offset

    def replace(self, node: ast.expr | ast.stmt, new: str) -> Edit:
        return Edit(self.start(node), self.end(node), new.encode())

    def replace_between(self, left: ast.expr, right: ast.expr, operator: str, new: str) -> Edit:
        start = self.text.index(operator.encode(), self.end(left), self.start(right))
        return Edit(start, start + len(operator), new.encode())


def edits(text: bytes) -> list[Edit]:
    """Return all edits of a source, sorted by position."""
    source = _Source(text)
    found = [edit for node in _walk(ast.parse(text)) for edit in _edits_of(node, source)]
    return sorted(dict.fromkeys(found), key=lambda edit: (edit.start, edit.end, edit.new))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that may be edited."""
    match node:
        case ast.keyword(arg=name) if name in SKIPPED_KEYWORDS:
            return
        case ast.Call(func=ast.Attribute(attr=name)) if name in SKIPPED_CALLS:
            return
    if isinstance(node, SKIPPED_NODES):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in SKIPPED_FIELDS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _edits_of(node: ast.AST, source: _Source) -> Iterator[Edit]:
    """Yield the edits of a node itself, not those of its children."""
    if isinstance(node, ast.expr):
        yield from _edits_of_operators(node, source)
        yield from _edits_of_operands(node, source)
    elif isinstance(node, ast.stmt):
        yield from _edits_of_statements(node, source)


def _edits_of_operators(node: ast.expr, source: _Source) -> Iterator[Edit]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for (first, second), operator in zip(itertools.pairwise([left, *comparators]), ops, strict=True):
                yield source.replace_between(first, second, *COMPARISONS[type(operator)])
        case ast.BinOp(op=ast.BitOr(), right=ast.Constant(value=None)):
            pass  # a type
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
            yield source.replace_between(left, right, *ARITHMETIC[type(operator)])
        case ast.BoolOp(op=operator, values=values):
            names = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
            for first, second in itertools.pairwise(values):
                yield source.replace_between(first, second, *names)
        case ast.UnaryOp(op=operator) if type(operator) in UNARY:
            yield Edit(source.start(node), source.start(node) + len(UNARY[type(operator)]), b"")


def _edits_of_operands(node: ast.expr, source: _Source) -> Iterator[Edit]:
    match node:
        case ast.Constant(value=bool(value)):
            yield source.replace(node, str(not value))
        case ast.Constant(value=int(value) | float(value)):
            numbers = [value + 1, 2 * value] if value < MAX_INCREMENTED else [2 * value]
            for number in numbers:
                if number != value:
                    yield source.replace(node, repr(number))
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in SWAPPED_NAMES:
            yield Edit(source.end(node) - len(name), source.end(node), SWAPPED_NAMES[name].encode())
        case ast.Call(keywords=keywords):
            for keyword in keywords:
                if keyword.arg and keyword.arg not in SKIPPED_KEYWORDS:
                    yield _drop_keyword(keyword, source)
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):  # numeric bounds are mutated as constants
                if bound and not isinstance(bound, ast.Constant | ast.UnaryOp):
                    end = source.end(bound)
                    yield Edit(source.start(bound), end, b"(%b) + 1" % source.text[source.start(bound) : end])


def _edits_of_statements(node: ast.stmt, source: _Source) -> Iterator[Edit]:
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant) or value.value is not None:
            yield source.replace(value, "None")
        case ast.Expr(value=ast.Call()):
            yield source.replace(node, "pass")
        case ast.AugAssign(target=target, op=operator, value=value):
            yield source.replace(node, "pass")
            if type(operator) in ARITHMETIC:
                yield source.replace_between(target, value, *(f"{name}=" for name in ARITHMETIC[type(operator)]))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield source.replace(node, "pass")


def _drop_keyword(keyword: ast.keyword, source: _Source) -> Edit:
    """Return the edit that removes an argument and one comma next to it."""
    start, end = source.start(keyword), source.end(keyword)
    if before := re.search(rb",\s*\Z", source.text[:start]):
        return Edit(before.start(), end, b"")
    after = re.compile(rb"\s*,\s*").match(source.text, end)
    return Edit(start, after.end() if after else end, b"")


def find_mutants(pattern: str = "*") -> list[Mutant]:
    """Return all mutants of the modules whose path matches a pattern."""
    modules = [module for module in TESTS if fnmatch.fnmatch(module, pattern)]
    sources = {module: (ROOT / module).read_bytes() for module in modules}
    return [Mutant(module, source, edit) for module, source in sources.items() for edit in edits(source)]


def load_equivalent() -> list[Equivalent]:
    """Read the list of equivalent mutants."""
    return [Equivalent(**entry) for entry in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]]


# ---- Runs ------------------------------------------------------------------------------------------------------------


class TestsFailError(Exception):
    """The tests fail without any mutation."""


@dataclass(frozen=True)
class Recording:
    """The tests of one test file, as they ran without a mutation."""

    seconds: float  # duration of the complete run
    durations: dict[str, float]  # seconds, keyed by the name that pytest gives to a test
    lines: dict[str, dict[str, list[str]]]  # for each module and line number, the tests that execute the line


def run(mutants: Sequence[Mutant], jobs: int, minutes: float) -> Iterator[tuple[Mutant, bool]]:
    """Run the tests of each mutant; yield the mutant, and True if it was killed. Start no mutant after the time limit.

    Raises:
        TestsFailError: if the tests fail without any mutation.
    """
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()  # copies that no thread is using
        for number in range(jobs):
            copies.put(Path(scratch) / str(number) / "checkout")
            copy_checkout(Path(scratch) / str(number) / "checkout")

        @contextlib.contextmanager
        def borrowed() -> Iterator[Path]:
            copy = copies.get()
            try:
                yield copy
            finally:
                copies.put(copy)

        def measure(name: str) -> Recording:
            with borrowed() as copy:
                return record(name, copy)

        def judge(mutant: Mutant) -> bool | None:
            if time.monotonic() >= deadline:
                return None
            with borrowed() as copy:
                return not survives(mutant, copy, [recordings[name] for name in TESTS[mutant.module]])

        names = sorted({name for mutant in mutants for name in TESTS[mutant.module]})
        try:
            recordings = dict(zip(names, pool.map(measure, names), strict=True))
            for mutant, killed in zip(mutants, pool.map(judge, mutants), strict=True):
                if killed is not None:
                    yield mutant, killed
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def record(name: str, copy: Path) -> Recording:
    """Run a test file without a mutation.

    Raises:
        TestsFailError: if a test fails.
    """
    result = copy.parent / "recording.json"
    started = time.monotonic()
    if not mutant_tests.passes([name], copy, Recorder(copy, list(TESTS), result), timeout=None):
        raise TestsFailError(f"the tests fail without any mutation: {name} (repair them first)")
    return Recording(time.monotonic() - started, *json.loads(result.read_text(encoding="utf-8")))


def survives(mutant: Mutant, copy: Path, recordings: Sequence[Recording]) -> bool:
    """Apply a mutation to a copy of the checkout, run its tests, and restore the copy."""
    module = copy / mutant.module
    module.write_bytes(mutant.mutated)
    timeout = TIMEOUT_FACTOR * sum(recording.seconds for recording in recordings) + TIMEOUT_SECONDS
    try:
        return mutant_tests.passes(TESTS[mutant.module], copy, Order(order(mutant, recordings)), timeout)
    finally:
        module.write_bytes(mutant.source)


def order(mutant: Mutant, recordings: Sequence[Recording]) -> list[str]:
    """Return the tests, those first that probably kill a mutant soonest.

    The tests that do not execute the line come last. They are needed, because a test can depend on a line that only
    another process executes, or only a fixture that an earlier test has set up.
    """
    keys = {}
    for file, recording in enumerate(recordings):
        executing = recording.lines.get(mutant.module, {}).get(str(mutant.line), [])
        for test, seconds in recording.durations.items():
            keys[test] = test not in executing, seconds > SLOW_SECONDS, file, seconds
    return sorted(keys, key=keys.__getitem__)


# ---- The command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a random sample of mutants, print the survivors, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="size of the sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="start no mutant later (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: %(default)s)")
    parser.add_argument(
        "--module", default="*", metavar="PATTERN", help="only modules with a matching path, such as */gate/*"
    )
    parser.add_argument("--list", action="store_true", help="only print the sample")
    options = parser.parse_args(arguments)
    equivalent = {(each.module, each.original, each.mutated) for each in load_equivalent()}
    possible = find_mutants(options.module)
    mutants = [mutant for mutant in possible if mutant.change not in equivalent]
    if not mutants or options.count < 1 or options.jobs < 1:
        parser.error("no mutant to run (check --module, --count and --jobs)")
    # Because the order is random, the mutants that run before the time limit are also a random sample.
    chosen = random.Random(options.seed).sample(mutants, min(options.count, len(mutants)))
    n_skipped = len(possible) - len(mutants)
    print(
        f"{len(chosen)} of {len(mutants)} mutants, seed {options.seed}; {n_skipped} equivalent mutants skipped",
        flush=True,
    )
    if options.list:
        print(*(mutant.diff() for mutant in chosen), sep="\n")
        return PASSED
    # Set this before torch is imported: threads that wait for each other are slow on a busy machine.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    results = []
    try:
        for mutant, killed in run(chosen, options.jobs, options.minutes):
            print(f"{'killed  ' if killed else 'SURVIVED'}  {mutant.module}:{mutant.line}", flush=True)
            results.append((mutant, killed))
    except TestsFailError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        report(results)
        return INTERRUPTED
    return report(results)


def report(results: Sequence[tuple[Mutant, bool]]) -> int:
    """Print the survivors and the share of killed mutants; return the exit code."""
    from mnist.gate import intervals  # not at the top: new processes import this module, but not yet mnist

    share = intervals.proportion(sum(killed for _, killed in results), len(results))
    for mutant, killed in results:
        if not killed:
            print(f"\nsurvived: {mutant.diff()}")
    print(
        f"\n{sum(killed for _, killed in results)} of {len(results)} mutants killed: {share.value:.1%} "
        f"(95 % interval: {share.low:.1%} to {share.high:.1%}), required: {REQUIRED_SHARE:.0%}"
    )
    return PASSED if share.value >= REQUIRED_SHARE else FAILED  # the share is NaN if no mutant ran, which fails


if __name__ == "__main__":
    sys.exit(main())
