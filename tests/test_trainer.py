import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import operator
from types import SimpleNamespace

import pytest
import samples
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import generator
from torch import nn
from torch.nn import functional as F

from mnist import architecture, batches, checkpointing, devices, recipes, trainer, transforms
from mnist.checkpointing import StateError
from mnist.devices import DeviceError
from mnist.errors import MnistError
from mnist.progress import DivergedError
from mnist.storage import checkpoints
from mnist.trainer import TrainingError

IMAGES = torch.randint(0, 256, (50, 1, 28, 28), dtype=torch.uint8, generator=generator(0))
LABELS = torch.arange(50) % 10


def weights(run: trainer.TrainingResult) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_training_is_deterministic(recipe):
    chosen = recipes.get(recipe, batch_size=16, epochs=2)
    first, second = (trainer.train(chosen, IMAGES, LABELS) for _ in range(2))
    other = trainer.train(recipes.get(recipe, batch_size=16, epochs=2, seed=1), IMAGES, LABELS)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def saved_states(recipe: recipes.Recipe, **options) -> tuple[trainer.TrainingResult, dict[int, checkpoints.Checkpoint]]:
    """Train; return the result and the saved checkpoints by step, each after packing and unpacking."""
    start, packed = samples.checkpoint(recipe), {}

    def save(step, state):
        packed[step] = checkpoints.pack(dataclasses.replace(start, training=state))

    run = trainer.train(recipe, IMAGES, LABELS, checkpointing=checkpointing.Checkpointing(save, **options))
    return run, {step: checkpoints.unpack(content, str(step)) for step, content in packed.items()}


@pytest.mark.parametrize(
    "recipe",
    [
        "standard",
        "baseline",
        "fast",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("accurate-1k", "robust")),
    ],
)
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(recipe):
    chosen = recipes.get(recipe, batch_size=16, epochs=2.5)  # 4, 4 and 2 steps
    complete, states = saved_states(chosen, steps=1)
    assert list(states) == list(range(1, 11))
    for step, checkpoint in states.items():
        reports = []
        resumed = trainer.train(chosen, IMAGES, LABELS, state=checkpoint.training, report=reports.append)
        assert torch.equal(weights(resumed), weights(complete)), f"from step {step}"
        assert all(torch.equal(a, b) for a, b in zip(resumed.model.buffers(), complete.model.buffers(), strict=True))
        assert resumed.usage.images == complete.usage.images == 125
        assert resumed.usage.seconds > 0
        assert [report.step for report in reports] == list(range(step + 1, 11))
        assert without_speed(resumed.log) == without_speed(complete.log)


def without_speed(log) -> list[dict]:
    """Return the entries of a training log without their speed, which depends on the machine's load."""
    return [{name: value for name, value in vars(entry).items() if name != "images_per_second"} for entry in log]


@pytest.mark.slow
@settings(max_examples=10)
@given(st.integers(5, 50), st.sampled_from([0.5, 1, 7.3, 12]), st.data())
def test_log_of_a_resumed_run_has_no_gaps_and_no_duplicates(batch_size, epochs, data):
    chosen = recipes.get("standard", batch_size=batch_size, epochs=epochs, learning_rate=0.001)
    complete, states = saved_states(chosen, steps=1)
    step = data.draw(st.sampled_from(sorted(states)))
    resumed = trainer.train(chosen, IMAGES, LABELS, state=states[step].training)
    assert without_speed(resumed.log) == without_speed(complete.log)
    interval = complete.log[0].step
    assert [entry.step for entry in complete.log] == [*range(interval, len(states), interval), len(states)]


def test_log_agrees_with_the_progress_reports():
    """One line for each report; the learning rate is that of the step."""
    chosen, reports = recipes.get("standard", batch_size=25, epochs=3), []
    run = trainer.train(chosen, IMAGES, LABELS, report=reports.append)
    assert all(vars(entry).items() <= vars(report).items() for entry, report in zip(run.log, reports, strict=True))
    assert [entry.images for entry in run.log] == [25, 50, 75, 100, 125, 150]
    assert [entry.learning_rate for entry in run.log] == learning_rates(chosen, 6)


def test_state_without_a_log_can_be_resumed():
    """Version 0.1.0 saved no log."""
    chosen = recipes.get("standard", batch_size=25, epochs=2)
    complete, states = saved_states(chosen, steps=1)
    state = copy.deepcopy(states[2].training)
    for name in set(state["tracker"]) - {"seen", "seconds", "processor_seconds"}:
        del state["tracker"][name]
    resumed = trainer.train(chosen, IMAGES, LABELS, state=state)
    assert torch.equal(weights(resumed), weights(complete))
    assert without_speed(resumed.log) == without_speed(complete.log[2:])


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"steps": 3}, [3, 6, 8]), ({"steps": 4}, [4, 8]), ({"seconds": 0.0}, [*range(1, 9)]), ({"seconds": 99.0}, [8])],
)
def test_checkpoint_interval(options, expected):
    """There is always a checkpoint after the last step."""
    assert list(saved_states(recipes.get("standard", batch_size=16, epochs=2), **options)[1]) == expected


def test_checkpoint_is_due_some_seconds_after_the_last(monkeypatch):
    """The clock advances by one second with each reading, once per step and once per saved state."""
    readings = itertools.count()
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: next(readings)))
    recipe = recipes.get("baseline", batch_size=5, epochs=1)  # ten steps
    saved = []
    keep = checkpointing.Checkpointing(lambda step, state: saved.append(step), seconds=3)
    trainer.train(recipe, IMAGES, LABELS, checkpointing=keep)
    assert saved == [3, 6, 9, 10]


def test_interrupted_run_names_its_step():
    error = checkpointing.Interrupted(1500, 3000)
    assert str(error) == "interrupted after 1,500 of 3,000 steps"
    assert (error.step, error.steps) == (1500, 3000)


ZEROS = torch.zeros(2)


@pytest.mark.parametrize(
    ("value", "fresh", "expected"),
    [
        (torch.ones(2), ZEROS, True),
        (torch.ones(3), ZEROS, False),
        (torch.ones(2).double(), ZEROS, False),
        ([0.0, 0.0], ZEROS, False),
        ({"a": 1, "b": 2}, {"a": 3}, True),
        ({"b": 2}, {"a": 3}, False),
        ({"a": 1}, {"a": 3, "b": 4}, False),
        ({"a": "x", "b": 4}, {"a": 3, "b": 4}, False),
        ([("a", 1)], {"a": 1}, False),
        ([1, 2], [3, 4], True),
        ([1, 2], (3, 4), True),
        ([1], [3, 4], False),
        ([1, 2, 3], [3, 4], False),
        ([1, "x"], [3, 4], False),
        ({1, 2}, [3, 4], False),
        (True, True, True),
        (False, True, False),
        (1, True, False),
        ("a", "a", True),
        ("b", "a", False),
        (None, None, True),
        (0, None, False),
        (3, 4, True),
        (3.0, 4, False),
        (3, 4.0, True),
        (3.0, 4.0, True),
        (True, 4, False),
        (True, 4.0, False),
        ("3", 4, False),
        (None, 4.0, False),
    ],
)
def test_restored_value_has_the_structure_of_a_fresh_one(value, fresh, expected):
    assert checkpointing._has_structure(value, fresh) is expected


def test_checkpointing_does_not_change_the_weights():
    chosen = recipes.get("fast", batch_size=16, epochs=2)
    assert torch.equal(weights(saved_states(chosen, steps=1)[0]), weights(trainer.train(chosen, IMAGES, LABELS)))


def test_stopped_run_saves_a_checkpoint():
    saved = []
    stopping = checkpointing.Checkpointing(lambda step, state: saved.append(step), stop=lambda: True)
    with pytest.raises(checkpointing.Interrupted, match="after 1 of 8 steps"):
        trainer.train(recipes.get("standard", batch_size=16, epochs=2), IMAGES, LABELS, checkpointing=stopping)
    assert saved == [1]


def state_of(seed: int, name: str = "cnn") -> dict[str, torch.Tensor]:
    return architecture.build(name, generator(seed)).state_dict()


def test_training_starts_from_the_given_weights():
    init, before = state_of(99), state_of(99)
    recipe = recipes.get("baseline", learning_rate=1e-7, batch_size=50)
    trained = trainer.train(recipe, IMAGES, LABELS, init=init).model.state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-6)
        assert torch.equal(init[name], tensor), "the given weights are not changed"
    assert not all(torch.equal(trained[name], tensor) for name, tensor in before.items())


def test_initial_weights_determine_the_final_weights():
    recipe = recipes.get("standard", batch_size=16, epochs=2)
    first, same, other = (weights(trainer.train(recipe, IMAGES, LABELS, init=state_of(seed))) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    drawn = trainer.train(recipe, IMAGES, LABELS)
    assert torch.equal(weights(trainer.train(recipe, IMAGES, LABELS, init=state_of(recipe.seed))), weights(drawn))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["standard", "fast"])
def test_resumed_run_does_not_need_the_initial_model(recipe):
    """A run that started from a model ends with the same weights, whether it is resumed with that model or without."""
    chosen = recipes.get(recipe, batch_size=16, epochs=1.5)
    init = state_of(5, chosen.architecture)
    start, packed = samples.checkpoint(chosen), []

    def save(step, state):
        packed.append(checkpoints.pack(dataclasses.replace(start, training=state)))

    complete = trainer.train(
        chosen, IMAGES, LABELS, init=init, checkpointing=checkpointing.Checkpointing(save, steps=2)
    )
    assert len(packed) == 3
    for content in packed:
        for initial in (init, None):  # the initial model may no longer exist
            state = checkpoints.unpack(content, "file").training
            resumed = trainer.train(chosen, IMAGES, LABELS, init=initial, state=state)
            assert torch.equal(weights(resumed), weights(complete))
            assert all(
                torch.equal(a, b) for a, b in zip(resumed.model.buffers(), complete.model.buffers(), strict=True)
            )


class Odd(architecture.Classifier):
    """A network with dropout, a frozen layer and an unused layer."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(28 * 28, 20).requires_grad_(False)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(20, 10)
        self.unused = nn.Linear(3, 3)

    def layers(self):
        return nn.Flatten(), self.frozen, nn.ReLU(), self.dropout, self.last


def test_runs_with_dropout_and_frozen_layers_are_reproducible(monkeypatch):
    monkeypatch.setitem(architecture.ARCHITECTURES, "odd", Odd)
    recipe = recipes.get("standard", architecture="odd", batch_size=16, epochs=2)
    complete, saved = saved_states(recipe, steps=3)
    assert torch.equal(weights(trainer.train(recipe, IMAGES, LABELS)), weights(complete))
    for checkpoint in saved.values():
        resumed = trainer.train(recipe, IMAGES, LABELS, state=checkpoint.training)
        assert torch.equal(weights(resumed), weights(complete))
    initial = architecture.build("odd", generator(recipe.seed))
    assert torch.equal(complete.model.frozen.weight, initial.frozen.weight)
    assert not torch.equal(complete.model.last.weight, initial.last.weight)


def test_dropout_differs_between_steps_and_processes():
    seeds = {trainer._seed_of_step(seed, step, rank) for seed in (0, 1) for step in range(10) for rank in range(3)}
    assert len(seeds) == 2 * 10 * 3


@pytest.mark.parametrize("state", [{}, {"model": {}}, {"model": 3}])
def test_state_of_another_run_is_refused(state):
    with pytest.raises(StateError, match="belongs to another run"):
        trainer.train(recipes.get("standard"), IMAGES, LABELS, state=state)


@functools.cache
def state_after_one_step(recipe: str) -> dict:
    return saved_states(recipes.get(recipe, batch_size=25, epochs=1), steps=1)[1][1].training


def places(value) -> list[tuple]:
    """Return the keys that lead to each entry of nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(key, *rest) for key, item in items for rest in [(), *places(item)]]


@pytest.mark.slow
@settings(max_examples=100)
@given(st.sampled_from(["standard", "baseline"]), st.data())
def test_damaged_state_is_refused_or_trains(recipe, data):
    """No field of a saved state may be missing or of another kind without a clear error."""
    state = copy.deepcopy(state_after_one_step(recipe))
    *outer, last = data.draw(st.sampled_from(places(state)))
    holder = functools.reduce(operator.getitem, outer, state)
    other = data.draw(st.sampled_from(["nothing", None, True, 3, -1, 2.5, "x", [], {}, torch.zeros(3)]))
    if isinstance(other, str) and other == "nothing":
        del holder[last]
    else:
        holder[last] = other
    with contextlib.suppress(MnistError):
        trainer.train(recipes.get(recipe, batch_size=25, epochs=1), IMAGES, LABELS, state=state)


@pytest.mark.parametrize(
    "place", [("schedule", "last_epoch"), ("optimizer", "state", 0, "exp_avg"), ("batches", "step")]
)
def test_state_without_a_field_is_refused(place):
    state = copy.deepcopy(state_after_one_step("standard"))
    del functools.reduce(operator.getitem, place[:-1], state)[place[-1]]
    with pytest.raises(StateError, match="start a new"):
        trainer.train(recipes.get("standard", batch_size=25, epochs=1), IMAGES, LABELS, state=state)


def test_first_step_is_that_of_adam():
    """Algorithm 1 of Kingma and Ba (2015) gives rate * g / (|g| + eps) for the gradient g of the mean cross-entropy."""
    recipe = recipes.get("baseline", batch_size=50, rotation=0, translation=0, scaling=0)
    model = architecture.build("cnn", generator(recipe.seed))
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    loss = F.cross_entropy(model(transforms.prepare(IMAGES)), LABELS)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    expected = before - recipe.learning_rate * gradient / (gradient.abs() + 1e-8)
    trained = weights(trainer.train(recipe, IMAGES, LABELS))
    significant = gradient.abs() > 1e-5  # for smaller gradients, rounding can decide the sign
    assert significant.float().mean() > 0.5
    torch.testing.assert_close(trained[significant], expected[significant], rtol=0, atol=1e-5)


def test_optimizer_is_adamw_with_the_choices_of_the_recipe():
    """Algorithm 2 of Loshchilov and Hutter (2019), in double precision. The first step does not depend on the betas."""
    recipe = recipes.get("fast", beta1=0.5, beta2=0.7, learning_rate=0.1, weight_decay=0.3)
    model = architecture.build("fast", generator(0))
    optimizer = trainer.build_optimizer(recipe, model)
    expected = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    first = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    for step in (1, 2, 3):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator(step))
            gradient = parameter.grad.double()
            first[name] = 0.5 * first[name] + 0.5 * gradient
            second[name] = 0.7 * second[name] + 0.3 * gradient**2
            decay = 0.3 if parameter.ndim > 1 else 0.0
            update = (first[name] / (1 - 0.5**step)) / ((second[name] / (1 - 0.7**step)).sqrt() + 1e-8)
            expected[name] = expected[name] * (1 - 0.1 * decay) - 0.1 * update
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_training_memorizes_a_few_images():
    recipe = recipes.get("standard", epochs=80, batch_size=10, rotation=0, translation=0, scaling=0)
    reports = []
    trainer.train(recipe, IMAGES[:20], LABELS[:20], report=reports.append)
    assert reports[-1].accuracy == 1
    assert reports[-1].loss < reports[0].loss / 10


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_cross_entropy_with_label_smoothing(smoothing):
    recipe = recipes.get("baseline", batch_size=50, rotation=0, translation=0, scaling=0, label_smoothing=smoothing)
    targets = (1 - smoothing) * F.one_hot(LABELS, 10) + smoothing / 10
    log_probabilities = architecture.build("cnn", generator(recipe.seed))(transforms.prepare(IMAGES)).log_softmax(1)
    reports = []
    trainer.train(recipe, IMAGES, LABELS, report=reports.append)
    assert reports[0].loss == pytest.approx(-(targets * log_probabilities).sum(1).mean().item(), rel=1e-4)


def test_negatives_loss_is_cross_entropy_with_uniform_targets():
    """All negatives are the same image, so the result does not depend on which of them are drawn."""
    recipe = recipes.get("baseline", batch_size=50, rotation=0, translation=0, scaling=0)
    inputs = transforms.prepare(torch.cat([IMAGES, IMAGES[:13]]))  # 50 images and a quarter as many negatives
    model = architecture.build("cnn", generator(recipe.seed))
    logits, of_negatives = model(inputs).split([50, 13])
    uniform = torch.full((13, 10), 0.1)
    loss = F.cross_entropy(logits, LABELS) + 0.5 * F.cross_entropy(of_negatives[:1].expand(13, -1), uniform)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    trained = weights(trainer.train(recipe, IMAGES, LABELS, negatives=IMAGES[:1].expand(5, -1, -1, -1)))
    significant = gradient.abs() > 1e-5  # for smaller gradients, rounding can decide the sign
    expected = before - recipe.learning_rate * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(trained[significant], expected[significant], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "n_negatives"), [(50, 13), (25, 7), (4, 1)])
def test_batch_has_a_quarter_as_many_negatives(monkeypatch, batch_size, n_negatives):
    sizes, augment = [], trainer._augment

    def record(recipe, images, batch, *others):
        sizes.append((len(images), len(batch)))
        return augment(recipe, images, batch, *others)

    monkeypatch.setattr(trainer, "_augment", record)
    recipe = recipes.get("baseline", batch_size=batch_size, epochs=batch_size / 50)
    trainer.train(recipe, IMAGES, LABELS, negatives=IMAGES[:9])
    assert sizes == [(50, batch_size), (9, n_negatives)]


def test_training_equals_a_simple_loop():
    """Without augmentation, and with all images in a batch, the losses do not depend on the order of the images."""
    recipe = recipes.get("baseline", batch_size=50, epochs=8, learning_rate=0.01, rotation=0, translation=0, scaling=0)
    model = architecture.build("cnn", generator(recipe.seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(recipe.beta1, recipe.beta2))
    expected, reports = [], []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(transforms.prepare(IMAGES)), LABELS)
        expected.append(loss.item())
        loss.backward()
        optimizer.step()
    trainer.train(recipe, IMAGES, LABELS, report=reports.append)
    assert [report.loss for report in reports] == pytest.approx(expected, rel=2e-3)


def test_negatives_lower_the_confidence_on_them():
    recipe = recipes.get("standard", epochs=40, batch_size=10, rotation=0, translation=0, scaling=0)
    confidence = [
        architecture.predict(run.model, transforms.prepare(255 - IMAGES[20:])).softmax(1).amax(1).mean().item()
        for run in (trainer.train(recipe, IMAGES[:20], LABELS[:20], negatives=n) for n in (None, 255 - IMAGES[20:]))
    ]
    assert confidence[1] < 0.2 < confidence[0]


def test_run_with_negatives_resumes_with_the_same_weights():
    chosen = recipes.get("fast", batch_size=16, epochs=2.5)
    packed = []

    def save(step, state):
        packed.append(checkpoints.pack(dataclasses.replace(samples.checkpoint(chosen), training=state)))

    keep = checkpointing.Checkpointing(save, steps=3)
    complete = trainer.train(chosen, IMAGES, LABELS, negatives=IMAGES[:9], checkpointing=keep)
    assert len(packed) == 4
    for content in packed:
        state = checkpoints.unpack(content, "file").training
        resumed = trainer.train(chosen, IMAGES, LABELS, negatives=IMAGES[:9], state=state)
        assert torch.equal(weights(resumed), weights(complete))


def test_weight_decay_spares_biases_and_norms():
    model = architecture.build("fast", generator(0))
    optimizer = trainer.build_optimizer(recipes.get("fast", weight_decay=0.5, learning_rate=0.1), model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


@given(st.floats(0.01, 4), st.integers(1, 1000))
@example(1.5, 2)  # one image is left for the last epoch
@example(0.01, 10)  # less than one image
def test_fractional_epoch_has_that_fraction_of_the_images(epochs, count):
    images = batches.images_per_epoch(epochs, count)
    assert sum(images) == max(1, round(epochs * count))
    assert all(size == count for size in images[:-1])
    assert 0 < images[-1] <= count


def test_training_uses_training_mode(monkeypatch):
    """A user's network can be in evaluation mode at first, such as one that loads its own weights."""
    fast = architecture.ARCHITECTURES["fast"]
    monkeypatch.setitem(architecture.ARCHITECTURES, "fast", lambda: fast().eval())
    found = trainer.train(recipes.get("fast", epochs=1), IMAGES, LABELS).model
    means = [buffer for name, buffer in found.named_buffers() if name.endswith("running_mean")]
    assert means
    assert all(mean.any() for mean in means)


def test_batches_count_steps_and_epochs():
    found = batches.Batches(recipes.get("baseline", batch_size=4, epochs=2), 10, generator(0))
    assert (found.step, found.epoch) == (0, 0)
    assert (found.steps, found.epochs, found.images) == (6, 2, 20)
    assert [(found.step, found.epoch) for _ in found] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    state = found.state_dict()
    for step in (0, 7):
        with pytest.raises(ValueError, match=f"there is no step {step} in a run of 6 steps"):
            found.load_state_dict({**state, "step": step})
    for step in (1, 6):
        found.load_state_dict({**state, "step": step})
        assert found.step == step


def test_trained_model_is_in_evaluation_mode():
    assert not trainer.train(recipes.get("fast", epochs=1), IMAGES, LABELS).model.training


@settings(max_examples=15)
@given(st.integers(1, 60), st.integers(1, 50), st.integers(1, 3))
def test_reports_count_steps_and_images(batch_size, count, epochs):
    reports = []
    recipe = recipes.get("standard", batch_size=batch_size, epochs=epochs)
    run = trainer.train(recipe, IMAGES[:count], LABELS[:count], report=reports.append)
    assert run.usage.images == count * epochs
    assert run.usage.images_per_second == pytest.approx(run.usage.images / run.usage.seconds)
    assert [report.step for report in reports] == sorted({report.step for report in reports})
    last = reports[-1]
    assert (last.step, last.epoch, last.seconds_left) == (last.steps, epochs, 0)
    assert last.steps == epochs * -(-count // batch_size)
    assert all(0 <= report.accuracy <= 1 and report.loss > 0 for report in reports)


def learning_rates(recipe: recipes.Recipe, steps: int) -> list[float]:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(()))], lr=recipe.learning_rate)
    schedule = trainer.build_schedule(recipe, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999), "the schedule changes only the learning rate"
    return rates


@given(st.integers(4, 200))
def test_one_cycle_rises_to_one_peak_and_falls_to_near_zero(steps):
    rates = learning_rates(recipes.get("standard"), steps)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) <= 0.01 + 1e-12
    assert rates[-1] < 1e-5


@pytest.mark.parametrize("steps", [2, 3, 4, 10, 100])
def test_one_cycle_equals_its_formula(steps):
    """Smith and Topin (2018): the rate rises and falls by half a cosine each, from and to a fraction of its maximum."""
    recipe = recipes.get("standard", warmup=0.2)
    peak = max(0.2 * steps, 1.5) - 1
    expected = []
    for step in range(steps):
        rising = step <= peak
        start, end = (0.01 / 25, 0.01) if rising else (0.01, 0.01 / 25e4)
        part = step / peak if rising else (step - peak) / (steps - 1 - peak)
        expected.append(end + (start - end) * (1 + math.cos(math.pi * part)) / 2)
    assert recipe.learning_rate == 0.01
    assert learning_rates(recipe, steps) == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.1, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_one_cycle_accepts_any_number_of_steps(steps, warmup):
    rates = learning_rates(recipes.get("standard", warmup=warmup), steps)
    assert all(0 < rate <= 0.01 + 1e-12 for rate in rates)


@given(st.integers(1, 50))
def test_constant_schedule(steps):
    assert learning_rates(recipes.get("baseline"), steps) == [0.001] * steps


def test_training_augments_images_in_a_new_order_each_epoch(monkeypatch):
    seen, drawn = [], []
    prepare, draw_affine = transforms.prepare, transforms.draw_affine

    def record_images(images, moves):
        seen.append(images.clone())
        assert moves is not None
        return prepare(images, moves)

    def record_strengths(count, rotation, translation, scaling, generator, *, shear):
        drawn.append((count, rotation, translation, scaling, shear))
        return draw_affine(count, rotation, translation, scaling, generator, shear=shear)

    monkeypatch.setattr(transforms, "prepare", record_images)
    monkeypatch.setattr(transforms, "draw_affine", record_strengths)
    recipe = recipes.get("standard", epochs=2, batch_size=50, rotation=1.0, translation=0.2, scaling=0.3, shear=4.0)
    trainer.train(recipe, IMAGES, LABELS)
    assert drawn == [(50, 1.0, pytest.approx(5.6), 0.3, 4.0)] * 2
    orders = [[next(i for i in range(50) if torch.equal(IMAGES[i], image)) for image in batch] for batch in seen]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert list(range(50)) != orders[0] != orders[1]


@pytest.mark.parametrize("epochs", [1, 3])
def test_diverging_run_is_stopped_with_advice(epochs):
    recipe = recipes.get("baseline", learning_rate=1e30, epochs=epochs, batch_size=10)
    with pytest.raises(DivergedError, match="try a smaller learning rate"):
        trainer.train(recipe, IMAGES, LABELS)


def test_final_weights_must_be_finite():
    recipe = recipes.get("baseline", learning_rate=1e300, batch_size=50)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.train(recipe, IMAGES, LABELS)


def test_every_final_weight_must_be_finite(monkeypatch):
    """The square root has an infinite gradient at 0, so one of the two additional weights becomes NaN."""
    cnn = architecture.ARCHITECTURES["cnn"]

    def build():
        network = cnn()
        network.extra = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
        forward = network.forward
        network.forward = lambda images: forward(images) + 0 * network.extra.sqrt().sum()
        return network

    monkeypatch.setitem(architecture.ARCHITECTURES, "cnn", build)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.train(recipes.get("baseline", batch_size=50), IMAGES, LABELS)


@pytest.mark.slow
def test_training_measures_its_memory_and_processor_time():
    # 200 epochs, because Windows measures processor time in steps of 16 ms.
    run = trainer.train(recipes.get("standard", epochs=200), IMAGES, LABELS)
    assert run.usage.peak_memory > 50 * 2**20, "torch alone uses more"
    assert 0 < run.usage.startup_seconds < 3600, "seconds since the start of this process"
    assert 0 < run.usage.cpu_use <= 1.5 * torch.get_num_threads() + 1


def test_select_device_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.select("auto").type == "cuda"
    assert not torch.backends.cudnn.allow_tf32, "the logits of an image must not depend on the batch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.select("auto").type == "cpu"


@pytest.mark.parametrize("agrees", [True, False])
def test_select_device_takes_mps_if_it_agrees_with_the_cpu(monkeypatch, agrees):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "agrees_with_cpu", lambda device: agrees)
    assert devices.select("auto").type == ("mps" if agrees else "cpu")
    assert devices.select("mps").type == "mps", "a device that is named is always selected"


def test_agrees_with_cpu_accepts_the_cpu():
    assert devices.agrees_with_cpu(torch.device("cpu"))


def test_agrees_with_cpu_refuses_an_unusable_device():
    assert not devices.agrees_with_cpu(torch.device("meta"))


def test_agrees_with_cpu_refuses_wrong_batch_norm(monkeypatch):
    calls, norm = [], F.batch_norm

    def wrong_on_the_second_device(x, *arguments, **options):
        calls.append(x)
        return norm(x, *arguments, **options) * (1.05 if len(calls) > norms else 1)

    norms = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in architecture.build("fast", generator(0)).modules())
    monkeypatch.setattr(F, "batch_norm", wrong_on_the_second_device)
    assert not devices.agrees_with_cpu(torch.device("cpu"))
    assert len(calls) == 2 * norms


def test_select_device_refuses_unknown_and_absent_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no device is called 'tpu'"):
        devices.select("tpu")
    with pytest.raises(DeviceError, match="finds no cuda device"):
        devices.select("cuda")
