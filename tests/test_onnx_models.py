"""ONNX models in processes of their own, and as the gate judges them."""

import hashlib
import io
import math
import os
import subprocess
import sys
import time

import foreign
import numpy as np
import psutil
import pytest
import torch
from commands import assert_one_clear_line
from documents import ROOT

from mnist import gate, transforms
from mnist.deploy import export
from mnist.gate import candidates, onnx_models
from mnist.gate.onnx_models import OnnxError
from mnist.gate.verdicts import Outcome
from mnist.storage import artifacts

NOT_MEASURABLE = {
    *("possibly-seen-images", "weakest-gradient", "strongest-gradient"),
    *("weakest-initial-gradient", "strongest-initial-gradient", "dead-units"),
}


@pytest.fixture(scope="module")
def weights(subset):
    return foreign.linear_weights(subset.train)


@pytest.fixture(scope="module")
def exported(saved_model, tmp_path_factory):
    """Export the good model to ONNX."""
    path = tmp_path_factory.mktemp("exported") / "good.onnx"
    path.write_bytes(export.to_onnx(artifacts.load(saved_model)))
    return path


@pytest.fixture
def write(tmp_path):
    def write(content, name="model.onnx"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


# ---- How a model takes images ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("range", ["0-1", "0-255", "normalized", "-1-1"])
def test_load_finds_the_range_of_the_pixels(weights, subset, write, range):
    model = onnx_models.load(write(foreign.classifier(weights, range=range, output="probabilities")), subset)
    images = subset.test.images[:200]
    expected = images.flatten(1).float().numpy() / 255 @ weights[0] + weights[1]
    with torch.inference_mode():
        found = model.model(transforms.prepare(images)).softmax(1)
    assert (found - torch.from_numpy(expected).softmax(1)).abs().max() < 1e-3
    assert f"pixels {range} (" in model.description
    assert model.description.endswith("output: probabilities")


def test_load_takes_the_range_that_is_given(weights, subset, write):
    path = write(foreign.classifier(weights, range="0-1"))
    assert "pixels normalized (" in onnx_models.load(path, subset, "normalized").description
    integers = write(foreign.classifier(weights, range="0-255", dtype="uint8"), "integers.onnx")
    with pytest.raises(OnnxError, match=r"expects uint8 pixels \(use --input-range 0-255 or auto\)"):
        onnx_models.load(integers, subset, "0-1")


def test_model_gets_integer_pixels_without_rounding_errors(subset, write):
    """A tree that asks whether a pixel is at most 4 must find 4."""
    levels = torch.arange(0, 250, 25)
    nodes = [
        foreign.helper.make_node("Slice", ["x", "start", "end", "axis"], ["first"]),
        foreign.helper.make_node("Greater", ["first", "levels"], ["above"]),
        foreign.helper.make_node("Cast", ["above"], ["y"], to=foreign.TensorProto.FLOAT),
    ]
    outputs = [foreign.helper.make_tensor_value_info("y", foreign.TensorProto.FLOAT, ["N", 10])]
    constants = {"levels": levels.float().numpy(), "start": [0], "end": [10], "axis": [1]}
    path = write(foreign.build(nodes, ["N", 784], outputs, constants))
    network = onnx_models.load(path, subset, "0-255").model
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    images[0, 0, 0, :10], images[1, 0, 0, :10] = levels, levels + 1
    assert network(transforms.prepare(images)).tolist() == [[0.0] * 10, [1.0] * 10]


# ---- The verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gate_judges_an_export_as_its_original(exported, saved_model, subset):
    original, model = artifacts.load(saved_model), candidates.load(exported, subset)
    policy = gate.load_policy(dataset="subset")
    expected, found = (gate.evaluate(each, subset, policy) for each in (original, model))
    assert torch.allclose(found.measurement.logits.softmax(1), expected.measurement.logits.softmax(1), atol=1e-4)
    assert found.measurement.confusion == expected.measurement.confusion
    assert found.measurement.parameters == expected.measurement.parameters
    verdicts = {verdict.criterion: verdict for verdict in found.verdicts}
    assert {name for name, each in verdicts.items() if each.outcome is Outcome.UNMEASURABLE} == NOT_MEASURABLE
    for verdict in expected.verdicts:
        if verdict.criterion not in NOT_MEASURABLE:
            assert verdicts[verdict.criterion].outcome is verdict.outcome


def test_unmeasurable_criteria_warn_or_block_as_the_policy_says(tmp_path):
    policy = gate.POLICY.read_text(encoding="utf-8")
    assert gate.load_policy().unmeasurable is Outcome.UNDECIDED
    (tmp_path / "strict.toml").write_text(policy.replace('unmeasurable = "warn"', 'unmeasurable = "block"'), "utf-8")
    assert gate.load_policy(tmp_path / "strict.toml").unmeasurable is Outcome.BLOCK
    for criterion in gate.CRITERIA:
        for outcome in (Outcome.UNDECIDED, Outcome.BLOCK):
            verdict = criterion.refuse(0.5, outcome)
            assert verdict.blocks == (outcome is Outcome.BLOCK)
            assert not verdict.passes
            assert "not measurable" in verdict.explain()
            assert ("WARNING" in verdict.explain()) != verdict.blocks


def test_gate_blocks_a_model_that_fails_while_it_is_measured(exported, subset):
    model = candidates.load(exported, subset)
    model.model._worker.close()
    evaluation = gate.evaluate(model, subset, gate.load_policy(dataset="subset"))
    assert "cannot be judged" in evaluation.measurement.contract_violations[0]
    assert len(gate.blocked(evaluation.verdicts)) > 10


# ---- Hostile files ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_endless_model_is_stopped(mnist, write, monkeypatch):
    monkeypatch.setattr(onnx_models, "MAX_ANSWER_SECONDS", 1.0)
    finished = mnist("gate", write(foreign.endless()), "--dataset", "subset")
    assert_one_clear_line(finished, "model.onnx cannot be judged: it took longer than 1 s")


def test_slow_model_is_stopped_after_all_its_answers(weights, subset, write, monkeypatch):
    monkeypatch.setattr(onnx_models, "MAX_TOTAL_SECONDS", 0.0)
    with pytest.raises(OnnxError, match=r"model\.onnx cannot be judged: its predictions took 0 s in total"):
        onnx_models.load(write(foreign.classifier(weights)), subset)


@pytest.mark.slow
def test_greedy_model_is_stopped(mnist, write, monkeypatch):
    monkeypatch.setattr(onnx_models, "MAX_MEMORY_BYTES", 400_000_000)
    finished = mnist("gate", write(foreign.huge(500_000_000)), "--dataset", "subset")
    assert_one_clear_line(finished, "model.onnx cannot be judged: it needs more than 0.4 GB of memory")


@pytest.mark.parametrize("numbers", [10**13, 2**62])
def test_impossible_allocation_is_refused(mnist, write, numbers):
    finished = mnist("gate", write(foreign.huge(numbers)), "--dataset", "subset")
    assert_one_clear_line(finished, "model.onnx cannot be judged: ")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x08" * 1000])
def test_damaged_file_is_refused(mnist, write, content):
    assert_one_clear_line(mnist("gate", write(content), "--dataset", "subset"), "model.onnx cannot be judged: ")


def test_large_file_is_refused_unread(mnist, tmp_path):
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(onnx_models.MAX_ONNX_BYTES + 1)
    assert_one_clear_line(mnist("gate", "large.onnx", "--dataset", "subset"), "more than the limit")


def test_process_does_not_import_files_of_the_folder(weights, subset, write, monkeypatch, tmp_path):
    (tmp_path / "onnx.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    assert onnx_models.load(write(foreign.classifier(weights)), subset).stored.parameters == 7850


def test_process_ends_with_the_model(weights, subset, write):
    before = set(psutil.Process().children())
    model = onnx_models.load(write(foreign.classifier(weights)), subset)
    (started,) = set(psutil.Process().children()) - before
    del model
    end = time.monotonic() + 10
    while started.is_running() and time.monotonic() < end:
        time.sleep(0.01)
    assert not started.is_running()


def test_missing_packages_are_named(mnist, write, weights, monkeypatch):
    monkeypatch.setattr(onnx_models, "find_spec", lambda name: None)
    path = write(foreign.classifier(weights))
    assert_one_clear_line(mnist("gate", path, "--dataset", "subset"), "python -m pip install 'mnist[export]'")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell a process that its parent has ended")
def test_process_ends_with_a_killed_parent(write, tmp_path):
    """A model that runs without end must not outlive a program that was killed."""
    program = """
import sys
from pathlib import Path
import torch
from mnist.gate.onnx_models import Worker
worker = Worker(Path("model.onnx"))
worker.open(Path("model.onnx").read_bytes())
print(worker._process.pid, flush=True)
worker.answer(torch.zeros(1, 1, 28, 28), "[N, 784]", "0-1")
"""
    write(foreign.endless())
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([worker], timeout=30)[1] == []


def test_digest_covers_weights_in_other_files(weights, subset, write, tmp_path):
    path = write(foreign.with_external_weights(foreign.classifier(weights), tmp_path, "weights.bin"))
    model = onnx_models.load(path, subset)
    first = model.sha256
    external = (tmp_path / "weights.bin").stat().st_size
    assert external > 0
    assert model.bytes == path.stat().st_size + external
    (tmp_path / "weights.bin").write_bytes(bytes(784 * 10 * 4))
    assert onnx_models.load(path, subset).sha256 != first


# ---- Parts of loading ------------------------------------------------------------------------------------------------


def test_limits_are_those_of_the_documentation():
    documented = (ROOT / "docs" / "judging.md").read_text(encoding="utf-8").replace("\n", " ")
    limits = f"more than {onnx_models.MAX_MEMORY_BYTES / 1e9:g} GB of memory, or takes more than "
    limits += f"{onnx_models.MAX_OPEN_SECONDS:g} s to open the file, {onnx_models.MAX_ANSWER_SECONDS:g} s for a batch, "
    assert f"{limits}or {onnx_models.MAX_TOTAL_SECONDS / 60:g} minutes in total" in documented


def trial(correct: int, loss: float, name: str = "0-1", probabilities: bool = False) -> onnx_models._Trial:
    return onnx_models._Trial("[N, 784]", name, 1000, correct, loss, probabilities)


def test_best_trial_has_the_lowest_loss_of_the_accurate_ones():
    """An accuracy is close to the highest if it is at most three percentage points lower."""
    assert onnx_models._best([trial(900, 0.5), trial(870, 0.4), trial(850, 0.1)]) == trial(870, 0.4)
    assert onnx_models._best([trial(960, 0.5), trial(880, 0.1)]) == trial(960, 0.5)
    assert onnx_models._best([trial(960, 0.3), trial(960, 0.2), trial(959, 0.4)]) == trial(960, 0.2)
    assert onnx_models._best([trial(960, math.nan), trial(960, 0.2)]) == trial(960, 0.2)


def test_probabilities_are_between_0_and_1_with_a_sum_of_1():
    exact = torch.full((2, 10), 0.1)
    assert onnx_models.are_probabilities(exact)
    assert onnx_models.are_probabilities(torch.eye(10))
    for error, expected in ((9e-4, True), (1.1e-3, False), (-9e-4, True), (-1.1e-3, False)):
        assert onnx_models.are_probabilities(exact + torch.tensor([[0.0], [error / 10]])) is expected
    negative = torch.tensor([[-0.1, 0.3, *[0.1] * 8]])
    assert not onnx_models.are_probabilities(negative)


def test_logits_of_probabilities_are_their_logarithms():
    scores = torch.tensor([[0.0, 1.0, 0.5, -0.1]])
    assert onnx_models.to_logits(scores, probabilities=False) is scores
    expected = torch.tensor([[math.log(1e-30), 0.0, math.log(0.5), math.nan]])
    torch.testing.assert_close(onnx_models.to_logits(scores, probabilities=True), expected, equal_nan=True)


def test_description_names_the_input_and_the_evidence():
    trials = [trial(950, 0.1, "normalized", probabilities=True), trial(100, 2.0), trial(300, 1.5, "0-255")]
    assert onnx_models._describe({"dtype": "float32", "batch": 8}, trials, trials[0]) == (
        "input float32 [N, 784], 8 images at a time, pixels normalized (95.0% of 1000 training images recognized; "
        "with 0-1: 10.0%, 0-255: 30.0%); output: probabilities"
    )
    assert onnx_models._describe({"dtype": "uint8", "batch": None}, trials[1:2], trials[1]) == (
        "input uint8 [N, 784], pixels 0-1 (10.0% of 1000 training images recognized); output: logits"
    )


class Echo:
    """In place of a worker: it keeps the pixels, and returns them as scores."""

    def answer(self, pixels, layout, pixel_range):
        self.pixels, self.arguments = pixels, (layout, pixel_range)
        return pixels[:, 0, 0, :10]


def test_network_restores_whole_pixels_only():
    """Images that were changed, for example by noise, keep their fractions."""
    echo = Echo()
    network = onnx_models.OnnxNetwork(echo, "[N, 784]", "0-255", probabilities=False)
    levels = torch.tensor([0.0, 7.0, 254.0, 255.0, 100.0005, 100.0015, 30.5, 63.998, 0.002, 3.0])
    pixels = torch.zeros(1, 1, 28, 28)
    pixels[0, 0, 0, :10] = levels
    found = network(transforms.normalize(pixels / 255))[0]
    whole = torch.tensor([True, True, True, True, True, False, False, False, False, True])
    assert torch.equal(found[whole], levels[whole].round())
    torch.testing.assert_close(found[~whole], levels[~whole], rtol=0, atol=2e-4)
    assert (found[~whole] != found[~whole].round()).all()
    assert echo.arguments == ("[N, 784]", "0-255")


def test_network_does_not_send_an_empty_batch():
    network = onnx_models.OnnxNetwork(None, "[N, 784]", "0-1", probabilities=True)
    assert network(torch.empty(0, 1, 28, 28)).shape == (0, 10)


def test_load_tries_500_images_and_reports_the_size(weights, subset, write):
    content = foreign.classifier(weights)
    model = onnx_models.load(write(content), subset)
    assert "of 500 training images recognized" in model.description
    assert (model.bytes, model.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert model.notices == (f"{model.path}: {model.description}",)
    assert (model.stored.parameters, model.stored.not_finite) == (7850, 0)


def test_time_of_all_answers_is_limited(weights, subset, write, monkeypatch):
    """Each answer reduces the remaining time."""
    monkeypatch.setattr(onnx_models, "MAX_TOTAL_SECONDS", 50.0)
    worker = onnx_models.load(write(foreign.classifier(weights)), subset).model._worker
    before = worker._remaining
    assert 0 < before < 50
    worker.answer(torch.zeros(1, 1, 28, 28), "[N, 784]", "0-1")
    assert worker._remaining < before
    worker._remaining = 0.5
    worker.answer(torch.zeros(1, 1, 28, 28), "[N, 784]", "0-1")
    worker._remaining = 0.0
    with pytest.raises(OnnxError, match="took 50 s in total"):
        worker.answer(torch.zeros(1, 1, 28, 28), "[N, 784]", "0-1")


@pytest.fixture
def worker(weights, subset, write):
    return onnx_models.load(write(foreign.classifier(weights)), subset).model._worker


def test_answer_that_holds_python_objects_is_refused(worker, monkeypatch):
    """Loading objects could run code; a worker that sends them is killed."""
    content = io.BytesIO()
    np.save(content, np.array([{}], dtype=object), allow_pickle=True)
    answers = iter([b"{}", content.getvalue()])
    monkeypatch.setattr(onnx_models.onnx_worker, "receive", lambda stream: next(answers))
    with pytest.raises(OnnxError, match="ONNX Runtime crashed"):
        worker.answer(torch.zeros(1, 1, 28, 28), "[N, 784]", "0-1")
    assert worker._process.poll() is not None


def test_close_ends_the_process(worker):
    worker.close()
    assert worker._process.poll() is not None
    assert worker._process.stdin.closed
    assert worker._process.stdout.closed


def test_watchdog_ends_its_thread(worker):
    with onnx_models._Watchdog(worker._process, seconds=60) as watchdog:
        assert watchdog._thread.is_alive()
    assert not watchdog._thread.is_alive()
    assert watchdog.reason == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_address_space_of_the_process_is_limited(weights, subset, write, monkeypatch):
    monkeypatch.setattr(onnx_models, "MAX_ADDRESS_SPACE", 200_000_000)
    with pytest.raises(OnnxError, match="cannot be judged"):
        onnx_models.load(write(foreign.classifier(weights)), subset)
