"""Test the criteria, verdicts and policy of the gate."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import save_model
from strategies import CLOTHES

from mnist import architecture, gate, recipes
from mnist.datasets import DATASET_NAMES, DIGITS, Split
from mnist.gate import CRITERIA, REGRESSIONS, Outcome, Policy, PolicyError, intervals, measurement
from mnist.gate.criteria import BY_NAME
from mnist.gate.intervals import Estimate
from mnist.gate.measurement import Measurement, Slice, TriggerEffect
from mnist.gate.probes import Probe
from mnist.storage import artifacts

POLICY = gate.load_policy()
NAMES = [criterion.name for criterion in CRITERIA]


def confusion(*n_correct: int, of: int = 1000) -> tuple[tuple[int, ...], ...]:
    """Return a confusion matrix for this number of correct images of each digit; the others are taken for the next."""
    rows = torch.diag(torch.tensor(n_correct)) + torch.diag(of - torch.tensor(n_correct)).roll(1, 1)
    return tuple(map(tuple, rows.tolist()))


def probe(kind: str, n_correct: int, name: str = "", lost: int = 0) -> Probe:
    images = torch.arange(1000)
    return Probe(
        kind,
        name or kind,
        1,
        images=1000,
        right=n_correct,
        lost=lost,
        gained=0,
        sample=torch.empty(0, 28, 28),
        chosen=images,
        recognized=images < n_correct,
    )


def probes(**n_correct: int) -> tuple[Probe, ...]:
    kinds = {"noise": 980, "pixel noise": 900, "shift": 970, "rotation": 970, "corruption": 800} | n_correct
    return tuple(probe(kind, n, lost=980 - n if kind == "noise" else 0) for kind, n in kinds.items())


GOOD = Measurement(
    measured_on="a test",
    images=10_000,
    possibly_seen=0,
    near_duplicates=0,
    parameters=15_106,
    bytes=63_500,
    weights_not_finite=0,
    contract_violations=(),
    latency=0.0002,
    batch_disagreement=1e-7,
    loss=0.05,
    confusion=confusion(*[980] * 10),
    seen=(5000, 4900),
    probes=probes(),
    slices=(Slice("thinnest strokes", images=250, right=225), Slice("thickest strokes", images=250, right=240)),
    triggers=(TriggerEffect("a white square", 3, images=90, pulled=5), TriggerEffect("lines", 8, images=91, pulled=0)),
    confidence_right=Estimate(0.98, 0.979, 0.981),
    confidence_wrong=Estimate(0.6, 0.55, 0.65),
    calibration_error=Estimate(0.01, 0.005, 0.015),
    gradient_norms={"weight": 0.1, "bias": 0.01},
    initial_gradient_norms={"weight": 0.1, "bias": 0.01},
    dead_units={"weight": 0.1},
)

VIOLATIONS = {
    "contract-violations": {"contract_violations": ("no output",)},
    "weights-not-finite": {"weights_not_finite": 1},
    "possibly-seen-images": {"possibly_seen": 1},
    "near-duplicate-images": {"near_duplicates": 101},
    "contradicted-claims": {"contradicted_claims": ("loss",)},
    "parameters": {"parameters": 25_000},
    "size-on-disk": {"bytes": 200_001},
    "latency": {"latency": 0.051},
    "accuracy": {"confusion": confusion(*[940] * 10), "seen": (5000, 4700)},
    "digit-accuracy": {"confusion": confusion(*[96_000] * 9, 88_500, of=100_000), "seen": (5000, 4760)},
    "digit-spread": {"confusion": confusion(*[1000] * 9, 850), "seen": (5000, 4925)},
    "slice-accuracy": {"slices": (*GOOD.slices, Slice("smallest digits", images=250, right=160))},
    "unseen-advantage": {"seen": (5000, 4650)},
    "noise-cost": {"probes": probes(noise=800)},
    "pixel-noise": {"probes": probes(**{"pixel noise": 600})},
    "shift": {"probes": (*probes(), probe("shift", 800))},
    "rotation": {"probes": (*probes(), probe("rotation", 870))},
    "corruption-mean": {"probes": probes(corruption=500)},
    "corruption-worst": {"probes": (*probes(), probe("corruption", 1000, "blur"), probe("corruption", 50, "fog"))},
    "trigger-pull": {"triggers": (*GOOD.triggers, TriggerEffect("checks", 0, images=90, pulled=86))},
    "confidence-right": {"confidence_right": Estimate(0.89, 0.885, 0.895)},
    "confidence-wrong": {"confidence_wrong": Estimate(0.85, 0.81, 0.89)},
    "calibration-error": {"calibration_error": Estimate(0.12, 0.11, 0.13)},
    "batch-disagreement": {"batch_disagreement": 0.002},
    "weakest-gradient": {"gradient_norms": {"weight": 0.1, "bias": 0.9e-5}},
    "strongest-gradient": {"gradient_norms": {"weight": 100.1, "bias": 0.1}},
    "weakest-initial-gradient": {"initial_gradient_norms": {"weight": 0.1, "bias": 0.9e-5}},
    "strongest-initial-gradient": {"initial_gradient_norms": {"weight": 100.1, "bias": 0.1}},
    "dead-units": {"dead_units": {"weight": 0.8, "other": 0.1}},
}

IMPLIED = {"digit-spread": {"digit-accuracy"}}  # a digit 10 points below the best one has less than 90 %

NOT_MEASURED = {
    "latency": {"latency": math.nan},
    "accuracy": {"confusion": ()},
    "digit-accuracy": {"confusion": (*GOOD.confusion[:9], (0,) * 10)},
    "digit-spread": {"confusion": (*GOOD.confusion[:9], (0,) * 10)},
    "slice-accuracy": {"slices": ()},
    "trigger-pull": {"triggers": ()},
    "unseen-advantage": {"seen": (0, 0)},
    "confidence-right": {"confidence_right": intervals.exact(math.nan)},
    "confidence-wrong": {"confidence_wrong": intervals.exact(math.nan)},
    "calibration-error": {"calibration_error": intervals.exact(math.nan)},
    "batch-disagreement": {"batch_disagreement": math.nan},
    "weakest-gradient": {"gradient_norms": {"weight": 0.1, "bias": math.nan}},
    "strongest-gradient": {"gradient_norms": {"weight": math.nan, "bias": 0.1}},
    "weakest-initial-gradient": {"initial_gradient_norms": {}},
    "strongest-initial-gradient": {"initial_gradient_norms": {"weight": math.nan}},
    "dead-units": {"dead_units": {"weight": math.nan}},
} | {
    name: {"probes": tuple(probe for probe in GOOD.probes if not name.startswith(probe.kind.replace(" ", "-")))}
    for name in ("noise-cost", "pixel-noise", "shift", "rotation", "corruption-mean", "corruption-worst")
}


def outcomes(measurement: Measurement, policy: Policy = POLICY) -> dict[str, Outcome]:
    return {verdict.criterion: verdict.outcome for verdict in gate.judge(measurement, policy)}


def blocking(measurement: Measurement, policy: Policy = POLICY) -> set[str]:
    return {verdict.criterion for verdict in gate.blocked(gate.judge(measurement, policy))}


# ---- Criteria --------------------------------------------------------------------------------------------------------


def test_good_model_passes_every_criterion():
    assert set(outcomes(GOOD).values()) == {Outcome.PASS}


def test_violations_cover_every_criterion():
    assert list(VIOLATIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_criterion_blocks_its_violation(name):
    """No other criterion blocks, except those in IMPLIED."""
    found = outcomes(dataclasses.replace(GOOD, **VIOLATIONS[name]))
    assert {name for name, outcome in found.items() if outcome is not Outcome.PASS} == {name} | IMPLIED.get(name, set())
    assert found[name] is Outcome.BLOCK


@pytest.mark.parametrize("name", NOT_MEASURED)
def test_unmeasured_figure_blocks(name):
    """A figure that could not be measured blocks even if undecided figures pass with a warning."""
    lenient = dataclasses.replace(POLICY, undecided=Outcome.UNDECIDED)
    assert name in blocking(dataclasses.replace(GOOD, **NOT_MEASURED[name]), lenient)


def test_contract_violation_blocks_all_criteria_of_predictions():
    broken = Measurement(
        "a test",
        images=10,
        possibly_seen=0,
        near_duplicates=0,
        parameters=15_106,
        bytes=63_500,
        weights_not_finite=0,
        contract_violations=("an exception",),
    )
    counted = {
        "weights-not-finite",
        "possibly-seen-images",
        "near-duplicate-images",
        "contradicted-claims",
        "parameters",
        "size-on-disk",
    }
    assert blocking(broken) == set(NAMES) - counted


def test_confidence_wrong_passes_without_mistakes():
    perfect = dataclasses.replace(
        GOOD, confusion=confusion(*[1000] * 10), seen=(5000, 5000), confidence_wrong=intervals.exact(math.nan)
    )
    assert blocking(perfect) == set()


@pytest.mark.parametrize(
    ("n_correct", "outcome"),
    [(966, Outcome.PASS), (955, Outcome.UNDECIDED), (945, Outcome.UNDECIDED), (933, Outcome.BLOCK)],
)
def test_accuracy_interval_across_the_bound_is_undecided(n_correct, outcome):
    per_digit = [n_correct // 10 + (digit < n_correct % 10) for digit in range(10)]
    of_1000 = dataclasses.replace(GOOD, confusion=confusion(*per_digit, of=100))
    assert outcomes(of_1000)["accuracy"] is outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.70, 0.79, Outcome.PASS), (0.79, 0.81, Outcome.UNDECIDED), (0.81, 0.90, Outcome.BLOCK)],
)
def test_upper_bound_inside_the_interval_is_undecided(low, high, outcome):
    changed = dataclasses.replace(GOOD, confidence_wrong=Estimate((low + high) / 2, low, high))
    assert outcomes(changed)["confidence-wrong"] is outcome


def test_more_images_make_an_undecided_figure_pass():
    few, many = (dataclasses.replace(GOOD, confusion=confusion(*[n * 96 // 100] * 10, of=n)) for n in (100, 10_000))
    assert outcomes(few)["accuracy"] is Outcome.UNDECIDED
    assert outcomes(many)["accuracy"] is Outcome.PASS


def test_undecided_blocks_unless_the_policy_is_to_warn():
    undecided = dataclasses.replace(GOOD, confusion=confusion(*[980] * 9, 910))
    assert outcomes(undecided)["digit-accuracy"] is Outcome.UNDECIDED
    assert blocking(undecided) == {"digit-accuracy"}
    assert blocking(undecided, dataclasses.replace(POLICY, undecided=Outcome.UNDECIDED)) == set()


def test_verdict_names_the_worst_figure():
    worst = dataclasses.replace(GOOD, confusion=confusion(*[980] * 7, 930, 980, 980))
    verdicts = {verdict.criterion: verdict for verdict in gate.judge(worst, POLICY)}
    figure = verdicts["digit-accuracy"].figure
    assert (figure.what, figure.value, figure.images) == ("digit 7", 0.93, 1000)
    assert verdicts["weakest-gradient"].figure.what == "bias"
    assert verdicts["strongest-gradient"].figure.what == "weight"


def test_verdict_names_classes_that_are_not_digits():
    worst = dataclasses.replace(GOOD, classes=CLOTHES, confusion=confusion(990, *[980] * 6, 930, 980, 980))
    what = {verdict.criterion: verdict.figure.what for verdict in gate.judge(worst, POLICY)}
    assert what["digit-accuracy"] == "Sneaker"
    assert what["digit-spread"] == "T-shirt/top minus Sneaker"
    of_digits = {
        verdict.criterion: verdict.figure.what
        for verdict in gate.judge(dataclasses.replace(worst, classes=DIGITS), POLICY)
    }
    assert (of_digits["digit-accuracy"], of_digits["digit-spread"]) == ("digit 7", "digit 0 minus 7")


def test_holds_ignores_the_confidence_interval():
    few = dataclasses.replace(GOOD, confusion=confusion(*[98] * 9, 89, of=100), latency=math.nan)
    beyond = [verdict.criterion for verdict in gate.judge(few, POLICY) if not verdict.holds]
    assert beyond == ["latency", "digit-accuracy"]


# ---- Properties ------------------------------------------------------------------------------------------------------

ORDER = [Outcome.PASS, Outcome.UNDECIDED, Outcome.BLOCK]
rules = st.sampled_from([*CRITERIA, *REGRESSIONS])
figures = st.floats(-1, 2).flatmap(
    lambda value: st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)).map(
        lambda reach: Estimate(value, value - reach[0], value + reach[1])
    )
)


def verdict_on(rule: gate.Criterion, estimates: list[Estimate], bound: float) -> gate.Verdict:
    return dataclasses.replace(rule, figures=lambda subject: subject).judge(estimates, bound, Outcome.BLOCK)


@given(rule=rules, estimates=st.lists(figures, min_size=1, max_size=5), bound=st.floats(-1, 2), better=st.floats(0, 1))
def test_better_figure_never_gives_a_worse_verdict(rule, estimates, bound, better):
    step = better if rule.relation == "at_least" else -better
    improved = [Estimate(e.value + step, e.low + step, e.high + step) for e in estimates[:1]] + estimates[1:]
    before, after = (verdict_on(rule, each, bound).outcome for each in (estimates, improved))
    assert ORDER.index(after) <= ORDER.index(before)


@given(rule=rules, estimates=st.lists(figures, min_size=1, max_size=5), bound=st.floats(-1, 2))
def test_verdict_does_not_depend_on_the_order_of_figures(rule, estimates, bound):
    one, other = (verdict_on(rule, each, bound) for each in (estimates, estimates[::-1]))
    assert one.outcome is other.outcome


@given(rule=rules, estimates=st.lists(figures, min_size=1, max_size=5), bound=st.floats(-1, 2))
def test_nan_among_other_figures_blocks(rule, estimates, bound):
    verdict = verdict_on(rule, [*estimates, intervals.exact(math.nan)], bound)
    assert verdict.blocks
    assert not verdict.measured


@given(
    n_correct=st.lists(st.integers(0, 200), min_size=10, max_size=10), digit=st.integers(0, 9), more=st.integers(1, 200)
)
def test_more_correct_images_never_worsen_accuracy_verdicts(n_correct, digit, more):
    improved = [*n_correct]
    improved[digit] = min(200, n_correct[digit] + more)
    before, after = (
        outcomes(dataclasses.replace(GOOD, confusion=confusion(*n, of=200))) for n in (n_correct, improved)
    )
    for name in ("accuracy", "digit-accuracy"):
        assert ORDER.index(after[name]) <= ORDER.index(before[name])


# ---- Comparison with a baseline --------------------------------------------------------------------------------------


def comparison(lost: list[int], gained: list[int], of: int = 100) -> gate.Comparison:
    """Return a comparison with this number of images lost and gained of each digit."""
    position = torch.arange(of)
    rows = [(position < a, position >= of - b) for a, b in zip(lost, gained, strict=True)]
    return gate.Comparison(
        torch.arange(10).repeat_interleave(of), torch.cat([a for a, _ in rows]), torch.cat([b for _, b in rows])
    )


@pytest.mark.parametrize(
    ("lost", "gained", "expected"),
    [
        ([0] * 10, [0] * 10, set()),
        ([3] * 10, [3] * 10, set()),
        ([3] * 10, [0] * 10, {"accuracy-loss", "regression"}),
        ([12, *[0] * 9], [0, *[1] * 9], {"digit-loss", "digit-regression"}),
        ([0, *[2] * 9], [12, *[1] * 9], set()),
        ([8, *[0] * 9], [1] * 10, set()),  # among ten digits, this can happen by chance
        ([30] * 10, [0] * 10, {"accuracy-loss", "digit-loss", "regression", "digit-regression"}),
    ],
)
def test_only_significant_losses_block(lost, gained, expected):
    margins = {"accuracy-loss": 0.005, "digit-loss": 0.02}
    policy = dataclasses.replace(POLICY, bounds={**POLICY.bounds, **margins})
    found = {verdict.criterion for verdict in gate.judge(GOOD, policy, comparison(lost, gained)) if verdict.blocks}
    assert found == expected


def test_judge_without_a_baseline_skips_regressions():
    assert [verdict.criterion for verdict in gate.judge(GOOD, POLICY)] == NAMES


def test_compare_finds_lost_and_gained_images():
    labels = torch.tensor([0, 1, 2, 3])
    new, old = (torch.eye(10)[torch.tensor(digits)] for digits in ([0, 1, 9, 9], [0, 9, 2, 9]))
    found = gate.compare(labels, new, old)
    assert found.lost.tolist() == [False, False, True, False]
    assert found.gained.tolist() == [False, True, False, False]


def test_regression_names_the_class():
    labels = torch.arange(10).repeat_interleave(20)
    previous = torch.eye(10)[labels]
    worse = torch.eye(10)[torch.where(labels == 7, 0, labels)]
    for classes, name in ((CLOTHES, "Sneaker"), (DIGITS, "digit 7")):
        regression = gate.judge(GOOD, POLICY, gate.compare(labels, worse, previous, classes))[-1]
        assert (regression.criterion, regression.blocks) == ("digit-regression", True)
        assert regression.figure.what == f"{name}: 20 lost, 0 gained"


@pytest.mark.parametrize(
    "logits",
    [
        (torch.empty(0, 10), torch.eye(10)),
        (torch.eye(10), torch.empty(0, 10)),
        (torch.eye(10), torch.eye(10) * math.nan),
    ],
    ids=["no new logits", "no old logits", "NaN in the old logits"],
)
def test_models_that_cannot_be_compared_are_blocked(logits):
    verdicts = gate.judge(GOOD, POLICY, gate.compare(torch.arange(10), *logits))[len(CRITERIA) :]
    assert [(v.criterion, v.blocks, v.measured) for v in verdicts] == [(rule.name, True, False) for rule in REGRESSIONS]


# ---- Artifacts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(subset, tmp_path):
    """Save a model and load it as an artifact."""

    def save(model, data=subset):
        return artifacts.load(save_model(model, tmp_path, data=data))

    return save


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measurement, "IMAGES_PER_PROBE", 50)
    monkeypatch.setattr(measurement, "TRAINING_SAMPLE", 100)


def test_evaluate_measures_and_judges_an_artifact(saved, trained, subset, quick):
    artifact, policy = saved(trained.model), gate.load_policy(dataset="subset")
    found = gate.evaluate(artifact, subset, policy)
    assert found.artifact is artifact
    assert (found.measurement.images, found.measurement.bytes) == (len(subset.test), artifact.bytes)
    assert found.verdicts == gate.judge(found.measurement, policy)
    assert (found.comparison, found.baseline, found.changed) == (None, None, [])


def test_evaluate_judges_the_baseline_by_the_same_policy(saved, trained, subset, quick):
    untrained = saved(architecture.build("cnn", torch.Generator().manual_seed(0)))
    policy = gate.load_policy(dataset="subset")
    lenient = dataclasses.replace(policy, bounds={**policy.bounds, "accuracy": 0.0})
    found = gate.evaluate(saved(trained.model), subset, lenient, untrained)
    baseline = found.baseline
    assert baseline.artifact is untrained
    assert [verdict.criterion for verdict in baseline.verdicts] == NAMES
    assert [verdict.criterion for verdict in found.verdicts[len(CRITERIA) :]] == [rule.name for rule in REGRESSIONS]
    expected = gate.compare(subset.test.labels, found.measurement.logits, baseline.measurement.logits)
    assert torch.equal(found.comparison.gained, expected.gained)
    assert torch.equal(found.comparison.lost, expected.lost)
    assert expected.gained.sum() > 500 > expected.lost.sum()
    changed = {new.criterion: (old.outcome, new.outcome) for old, new in found.changed}
    assert "accuracy" not in changed, "the same bound applies to both models"
    assert changed["shift"][0] is Outcome.BLOCK
    assert all(old is not new for old, new in changed.values())


def test_evaluate_counts_test_images_that_were_trained_on(saved, trained, subset, quick):
    """The images are found by their content, whatever their order and the name of the data set."""
    images = torch.cat([subset.train.images, subset.test.images[[7, 500, 3]]])
    leaked = Split(images, torch.cat([subset.train.labels, subset.test.labels[[7, 500, 3]]]), "leaked")
    policy = gate.load_policy(dataset="subset")
    candidate = saved(trained.model, dataclasses.replace(subset, name="photos", train=leaked))
    found = gate.evaluate(candidate, subset, policy, saved(trained.model))
    assert found.measurement.possibly_seen == 3
    assert [verdict.criterion for verdict in gate.blocked(found.verdicts)] == ["possibly-seen-images"]
    assert found.baseline.measurement.possibly_seen == 0


# ---- Policy ----------------------------------------------------------------------------------------------------------


def policy_file(tmp_path, change) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(change(gate.POLICY.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def test_policy_has_the_required_bounds():
    required = {
        "parameters": 24_999,
        "contract-violations": 0,
        "accuracy": 0.95,
        "digit-accuracy": 0.90,
        "digit-spread": 0.10,
        "noise-cost": 0.10,
        "weakest-gradient": 1e-5,
        "strongest-gradient": 1e2,
        "confidence-right": 0.90,
        "confidence-wrong": 0.80,
    }
    assert {name: POLICY.bounds[name] for name in required} == required
    assert POLICY.undecided is Outcome.BLOCK


def test_policy_depends_on_recipe_and_dataset():
    """`fast` and `accurate` have stricter bounds; on the subset, undecided figures pass."""
    for recipe in ("fast", "accurate"):
        stricter = gate.load_policy(recipe=recipe, dataset="mnist")
        assert all(stricter.bounds[name] > POLICY.bounds[name] for name in ("accuracy", "digit-accuracy"))
        assert stricter.bounds["digit-spread"] < POLICY.bounds["digit-spread"]
        on_subset = gate.load_policy(recipe=recipe, dataset="subset")
        assert on_subset.bounds["accuracy"] == POLICY.bounds["accuracy"], (
            "4,000 training images are too few for a stricter bound"
        )
        assert on_subset.undecided is Outcome.UNDECIDED


@pytest.mark.parametrize("recipe", [*recipes.RECIPES, None, "unknown"])
def test_policy_has_every_bound_for_every_recipe(recipe):
    for dataset in ("mnist", "subset"):
        assert set(gate.load_policy(recipe=recipe, dataset=dataset).bounds) == set(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_policy_without_a_bound_is_rejected(tmp_path, name):
    path = policy_file(tmp_path, lambda text: text.replace(f"\n{name} =", f"\n# {name} =", 1))
    with pytest.raises(PolicyError, match=f"has no bound for {name}"):
        gate.load_policy(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("accuracy =", "acuracy =", "no criterion is called 'acuracy'"),
        ("accuracy = { at_least = 0.95 }", "accuracy = 0.95", "accuracy must be { at_least = a number }"),
        ("accuracy = { at_least", "accuracy = { at_most", "accuracy must be { at_least = a number }"),
        ("at_least = 0.95", "at_least = nan", "accuracy must be above 0 and at most 1, not nan"),
        ("at_least = 0.95", 'at_least = "95 %"', "accuracy must be a number, not '95 %'"),
        ("at_least = 0.95", "at_least = inf", "accuracy must be above 0 and at most 1, not inf"),
        ("at_least = 0.95", f"at_least = {10**400}", "the bound of accuracy"),
        ("[bounds]", f"deep = {'[' * 9999}", "is not a policy"),
        ("at_least = 0.95", "at_least = true", "accuracy must be a number, not True"),
        ('undecided = "block"', 'undecided = "pass"', "undecided must be 'block' or 'warn', not 'pass'"),
        ('undecided = "block"', "undecided = []", "undecided must be 'block' or 'warn'"),
        ("undecided =", "undecidedd =", "unknown key 'undecidedd'"),
        ("[recipes.fast.bounds]", "[recipes.fats.bounds]", "there is no 'fats' among the recipes"),
        ("[datasets.subset]", "[datasets.cifar]", "there is no 'cifar' among the datasets"),
        ("[recipes.fast.bounds]", "[recipes.fast.bound]", "unknown key 'bound'"),
        ("[recipes.fast.bounds]", "[recipe.fast.bounds]", "unknown key 'recipe'"),
        ("[bounds]", "[bounds", "is not a policy"),
        ("[bounds]", "bounds = 3\n[recipes.standard.bounds]", "bounds is not a table"),
    ],
)
def test_policy_with_a_mistake_is_rejected(tmp_path, old, new, message):
    path = policy_file(tmp_path, lambda text: text.replace(old, new, 1))
    with pytest.raises(PolicyError) as error:
        gate.load_policy(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_policy_that_cannot_be_read_is_rejected(tmp_path):
    with pytest.raises(PolicyError, match="there is no policy at"):
        gate.load_policy(tmp_path / "missing.toml")
    (tmp_path / "image.toml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(PolicyError, match="is not a policy"):
        gate.load_policy(tmp_path / "image.toml")


def test_policy_file_replaces_the_default(tmp_path):
    path = policy_file(
        tmp_path, lambda text: text.replace("accuracy = { at_least = 0.95 }", "accuracy = { at_least = 0.999 }", 1)
    )
    assert "accuracy" in blocking(GOOD, gate.load_policy(path))


@pytest.mark.parametrize("name", [*DATASET_NAMES, "folder"])
def test_policy_sets_bounds_for_each_dataset_and_for_folders(tmp_path, name):
    table = f"[datasets.{name}]\nundecided = 'warn'\n[datasets.{name}.bounds]\naccuracy = {{ at_least = 0.5 }}\n"
    path = policy_file(tmp_path, lambda text: text.partition("[datasets.subset]")[0] + table)
    own = gate.load_policy(path, dataset=name)
    assert (own.bounds["accuracy"], own.undecided) == (0.5, Outcome.UNDECIDED)
    for other in {*DATASET_NAMES, "folder"} - {name}:
        general = gate.load_policy(path, dataset=other)
        assert (general.bounds["accuracy"], general.undecided) == (POLICY.bounds["accuracy"], Outcome.BLOCK)
