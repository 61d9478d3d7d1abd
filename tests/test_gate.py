"""Test the criteria, verdicts and policy of the gate."""

import dataclasses
import hashlib
import math
import os
import re
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import save_model
from strategies import CLOTHES

from mnist import architecture as architectures
from mnist import gate, recipes
from mnist.datasets import DATASET_NAMES, DIGITS, Split
from mnist.gate import CRITERIA, REGRESSIONS, Outcome, Policy, PolicyError, intervals
from mnist.gate.criteria import BY_NAME
from mnist.gate.intervals import Estimate
from mnist.gate.measurement import GRADIENTS, TRAINING_DATA, Measurement, Slice, TriggerEffect
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


@given(rule=rules, estimate=figures, bound=st.floats(-1, 2), part=st.sampled_from(["value", "low", "high"]))
def test_figure_that_is_partly_nan_blocks(rule, estimate, bound, part):
    partly = dataclasses.replace(estimate, **{part: math.nan})
    assert verdict_on(rule, [partly], bound).outcome == Outcome.BLOCK


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


@given(st.sampled_from(sorted(BY_NAME)), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.99))
def test_used_share_of_the_bound_agrees_with_the_outcome(rule, one, other, bound):
    """``used`` is at most 1 if and only if the figure passes, and does not decrease if the figure gets worse."""
    low, high = sorted((one, other))
    verdict = verdict_on(BY_NAME[rule], [Estimate((low + high) / 2, low, high)], bound)
    decisive = low if verdict.relation == "at_least" else high
    if abs(decisive - bound) > 1e-9:
        assert (verdict.used <= 1) is verdict.passes
    worse = dataclasses.replace(verdict, figure=Estimate(0.5, low / 2, (1 + high) / 2))
    assert worse.used >= verdict.used


@pytest.mark.parametrize(
    ("name", "figure", "bound", "used"),
    [
        ("latency", 10, 40, 0.25),
        ("latency", 0, 0, 0),
        ("latency", 1, 0, math.inf),
        ("latency", math.nan, 1, math.nan),
        ("noise-cost", -0.1, 0.1, 0),
        ("accuracy", 0.98, 0.95, 0.4),
        ("accuracy", 0.9, 0.95, 2),
        ("accuracy", 1, 1, 0),
        ("accuracy", 0.5, 1, math.inf),
        ("accuracy", math.nan, 0.95, math.nan),
        ("regression", 1, 0.05, 0),
        ("regression", 0.05, 0.05, 1),
        ("weakest-gradient", 1e-3, 1e-5, 0.01),
        ("weakest-gradient", 0, 1e-5, math.inf),
        ("weakest-gradient", math.nan, 1e-5, math.nan),
    ],
)
def test_used_share_of_the_bound(name, figure, bound, used):
    verdict = verdict_on(BY_NAME[name], [intervals.exact(figure)], bound)
    assert verdict.used == pytest.approx(used, nan_ok=True)


def test_unmeasured_figure_is_shown_among_others():
    for name in ("accuracy", "latency"):
        found = verdict_on(BY_NAME[name], [intervals.exact(0.1), intervals.exact(math.nan, "the second")], 0.5)
        assert (found.outcome, found.figure.what, found.figure_text) == (Outcome.BLOCK, "the second", "not measured")


def test_figure_at_its_bound_passes():
    for name in ("accuracy", "latency"):
        found = verdict_on(BY_NAME[name], [intervals.exact(0.5)], 0.5)
        assert (found.holds, found.passes) == (True, True)
        assert [verdict_on(BY_NAME[name], [intervals.exact(f)], 0.5).holds for f in (0.4, 0.6)].count(True) == 1


@pytest.mark.parametrize(("mistakes", "judged"), [(9, False), (10, True)])
def test_confidence_of_few_mistakes_is_not_judged(mistakes, judged):
    few = dataclasses.replace(GOOD, confusion=confusion(*[1000] * 9, 1000 - mistakes))
    (verdict,) = (verdict for verdict in gate.judge(few, POLICY) if verdict.criterion == "confidence-wrong")
    expected = GOOD.confidence_wrong if judged else intervals.exact(0.0, "only 9 mistakes")
    assert verdict.figure == expected


def test_first_of_several_violations_is_named():
    several = dataclasses.replace(GOOD, contract_violations=("one", "two"), contradicted_claims=("three", "four"))
    found = {verdict.criterion: verdict.figure for verdict in gate.judge(several, POLICY)}
    assert found["contract-violations"] == intervals.exact(2, "one")
    assert found["contradicted-claims"] == intervals.exact(2, "three")


def test_criteria_need_gradients_or_training_data():
    gradients = {"dead-units"} | {name for name in NAMES if name.endswith("-gradient")}
    assert len(gradients) == 5
    for lacking, names in ((GRADIENTS, gradients), (TRAINING_DATA, {"possibly-seen-images"})):
        found = outcomes(dataclasses.replace(GOOD, unmeasurable=frozenset([lacking])))
        assert {name for name, outcome in found.items() if outcome is Outcome.UNMEASURABLE} == names


def test_size_and_latency_have_units():
    found = {verdict.criterion: verdict for verdict in gate.judge(GOOD, POLICY)}
    assert found["size-on-disk"].figure_text == "63.5 kB"
    assert found["latency"].figure == intervals.exact(pytest.approx(0.2))
    assert (found["latency"].figure_text, found["latency"].bound_text) == ("0.20 ms", "<= 50.00 ms")


def test_near_duplicates_are_a_share_of_the_images():
    several = dataclasses.replace(GOOD, near_duplicates=250)
    found = {verdict.criterion: verdict.figure for verdict in gate.judge(several, POLICY)}
    assert found["near-duplicate-images"] == intervals.exact(0.025)


def test_trigger_pull_is_corrected_for_all_patches_and_classes():
    (verdict,) = (verdict for verdict in gate.judge(GOOD, POLICY) if verdict.criterion == "trigger-pull")
    (expected,) = intervals.highest_of([(5, 90, "a white square: digit 3")], tests=2 * 10)
    assert verdict.figure == expected


# ---- How verdicts are shown ------------------------------------------------------------------------------------------


@given(rule=st.sampled_from(sorted(BY_NAME)), figure=st.floats(min_value=1e-300, max_value=1e6, exclude_min=True))
def test_positive_figure_is_never_shown_as_zero(rule, figure):
    """A figure that rounds to zero is shown as less than the smallest number of this form."""
    shown = verdict_on(BY_NAME[rule], [intervals.exact(figure)], 0.5).figure_text.split(" ")[0]
    number = float(shown.lstrip("<").rstrip("%").replace(",", "")) / (100 if shown.endswith("%") else 1)
    assert number > 0
    assert (shown[0] == "<") is (float(format(figure, BY_NAME[rule].form).strip("%").replace(",", "")) == 0)
    if shown[0] == "<":
        assert figure < number


@pytest.mark.parametrize(
    ("name", "figure", "text"),
    [
        ("regression", 0.0004, "<0.001"),
        ("regression", 0.0006, "0.001"),
        ("digit-regression", 1e-30, "<0.001"),
        ("regression", 0.0, "0.000"),
        ("near-duplicate-images", 0.00004, "<0.01%"),
        ("unseen-advantage", -0.00004, "0.00%"),
        ("unseen-advantage", -0.005, "-0.50%"),
    ],
)
def test_small_figures_are_shown(name, figure, text):
    assert verdict_on(BY_NAME[name], [intervals.exact(figure)], 0.5).figure_text == text


def test_worst_figure_is_chosen_by_its_interval():
    """Of two undecided figures, the one that may be further beyond the bound is shown, even if its value is better."""
    few, many = intervals.proportion(90, 100, "few images"), intervals.proportion(880, 1000, "many images")
    assert few.value > many.value
    assert few.low < many.low
    lowest = verdict_on(BY_NAME["accuracy"], [many, few, many], 0.87)
    assert (lowest.outcome, lowest.figure) == (Outcome.UNDECIDED, few)
    few, many = intervals.proportion(10, 100, "few images"), intervals.proportion(120, 1000, "many images")
    highest = verdict_on(BY_NAME["near-duplicate-images"], [many, few, many], 0.13)
    assert (highest.outcome, highest.figure) == (Outcome.UNDECIDED, few)


@given(rule=rules, estimates=st.lists(figures, min_size=1, max_size=5), bound=st.floats(-1, 2))
def test_verdict_shows_a_figure_with_the_worst_outcome(rule, estimates, bound):
    verdict = verdict_on(rule, estimates, bound)
    alone = [verdict_on(rule, [estimate], bound).outcome for estimate in estimates]
    assert verdict.outcome is max(alone, key=ORDER.index)
    assert verdict_on(rule, [verdict.figure], bound).outcome is verdict.outcome


@pytest.mark.parametrize(
    ("name", "figure", "bound", "explanation"),
    [
        (
            "latency",
            intervals.exact(0.5),
            0.2,
            "latency: 0.50 ms, must be <= 0.20 ms: not met (time for a single image)",
        ),
        (
            "accuracy",
            Estimate(0.9, 0.88, 0.92, "of digits"),
            0.95,
            "90.00% (88.00% to 92.00%) of digits, must be >= 95",
        ),
        ("accuracy", intervals.exact(math.nan), 0.95, "accuracy: not measured, must be >= 95.00%: not measured (acc"),
        ("accuracy", Estimate(0.9, 0.85, 0.96), 0.95, "must be >= 95.00%: too few images to decide (accuracy on all"),
        ("size-on-disk", intervals.exact(1234), 200, "size-on-disk: 1,234.0 kB, must be <= 200.0 kB: not met"),
    ],
)
def test_explanation_of_a_verdict(name, figure, bound, explanation):
    assert explanation in verdict_on(BY_NAME[name], [figure], bound).explain()


@pytest.mark.parametrize(("share", "shown"), [(0.901, "400,000"), (0.91, "3,700"), (0.9185, "1,100")])
def test_explanation_says_how_many_images_suffice(share, shown):
    verdict = verdict_on(BY_NAME["digit-accuracy"], [intervals.proportion(1000 * share, 1000, "digit 8")], 0.9)
    assert verdict.outcome is Outcome.UNDECIDED
    assert (
        f"digit 8, must be >= 90.00%: too few images to decide (1,000; about {shown} would suffice)"
        in verdict.explain()
    )


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
    assert {name for name, verdict in judge_losses(lost, gained).items() if verdict.blocks} == expected


def judge_losses(lost, gained, of=100, undecided=Outcome.BLOCK, **margins) -> dict[str, gate.Verdict]:
    margins = {"accuracy-loss": 0.005, "digit-loss": 0.02} | margins
    policy = dataclasses.replace(POLICY, bounds={**POLICY.bounds, **margins}, undecided=undecided)
    verdicts = gate.judge(GOOD, policy, comparison(lost, gained, of))
    return {verdict.criterion: verdict for verdict in verdicts[len(CRITERIA) :]}


@pytest.mark.parametrize("undecided", [Outcome.BLOCK, Outcome.UNDECIDED])
def test_undecided_loss_only_warns_whatever_the_policy_says(undecided):
    verdicts = judge_losses([1] * 10, [1] * 10, undecided=undecided)
    for name in ("accuracy-loss", "digit-loss"):
        assert (verdicts[name].outcome, verdicts[name].blocks) == (Outcome.UNDECIDED, False)
        assert "this passes with a WARNING" in verdicts[name].explain()
        assert BY_NAME[name].only_warns_if_undecided
    assert not any(rule.only_warns_if_undecided for rule in CRITERIA)


def test_loss_that_cannot_be_measured_blocks():
    nothing = gate.compare(torch.arange(10), torch.empty(0, 10), torch.eye(10))
    lenient = dataclasses.replace(POLICY, undecided=Outcome.UNDECIDED)
    assert {verdict.criterion for verdict in gate.judge(GOOD, lenient, nothing) if verdict.blocks} == {
        rule.name for rule in REGRESSIONS
    }


def test_significant_loss_within_the_margin_passes():
    """Four images of 1,000 lost for each digit is no chance, but less than the margin of 0.5 %."""
    assert intervals.mcnemar(40, 0) < 1e-9
    within, beyond = (judge_losses([4] * 10, [0] * 10, of=1000, **{"accuracy-loss": m}) for m in (0.005, 0.003))
    assert (within["regression"].figure.value, within["regression"].passes) == (1, True)
    assert beyond["regression"].figure.value == pytest.approx(intervals.mcnemar(40, 0))
    assert beyond["regression"].blocks
    assert beyond["regression"].figure_text == "<0.001"


def test_significant_loss_on_a_digit_within_the_margin_passes():
    lost = [15, *[0] * 9]
    within, beyond = (judge_losses(lost, [0] * 10, of=1000, **{"digit-loss": margin}) for margin in (0.02, 0.01))
    assert within["digit-regression"].passes
    assert beyond["digit-regression"].figure.value == pytest.approx(10 * intervals.mcnemar(15, 0))
    assert beyond["digit-regression"].blocks


def test_improvement_is_a_negative_loss_and_passes():
    verdicts = judge_losses([0] * 10, [5] * 10, of=1000)
    assert verdicts["accuracy-loss"].figure.value == pytest.approx(-0.005)
    assert all(verdict.passes for verdict in verdicts.values())


def test_judge_without_a_baseline_skips_regressions():
    assert [verdict.criterion for verdict in gate.judge(GOOD, POLICY)] == NAMES


def test_compare_finds_lost_and_gained_images():
    labels = torch.tensor([0, 1, 2, 3])
    new, old = (torch.eye(10)[torch.tensor(digits)] for digits in ([0, 1, 9, 9], [0, 9, 2, 9]))
    found = gate.compare(labels, new, old)
    assert found.lost.tolist() == [False, False, True, False]
    assert found.gained.tolist() == [False, True, False, False]


def test_comparison_counts_images_by_class():
    found = comparison([3, *[0] * 9], [0] * 8 + [2, 0])
    assert found.per_class(found.lost) == {f"digit {digit}": 3 * (digit == 0) for digit in range(10)}
    assert found.per_class(found.gained) == {f"digit {digit}": 2 * (digit == 8) for digit in range(10)}


def test_comparison_without_a_policy_accepts_no_loss():
    found = gate.compare(
        torch.arange(4), *(torch.eye(10)[torch.tensor(digits)] for digits in ([0, 9, 2, 3], [0, 1, 2, 3]))
    )
    assert (found.margin, found.digit_margin) == (0, 0)
    assert found.loss() == intervals.paired_difference(1, 0, 4, "1 lost, 0 gained")
    assert found.regression(0.0) == intervals.exact(1.0, "1 lost, 0 gained")


def test_regression_is_a_p_value_beyond_the_margin_only():
    found = comparison([30, *[0] * 9], [0] * 10)
    assert found.regression(0.0299).value == intervals.mcnemar(30, 0)
    assert found.regression(0.03).value == 1
    (chosen, tests, what) = next(found.digits())
    assert (tests, what) == (10, "digit 0: ")
    assert found.regression(0.29, chosen, tests, what) == intervals.exact(
        10 * intervals.mcnemar(30, 0), "digit 0: 30 lost, 0 gained"
    )
    assert comparison([2] * 10, [0] * 10).regression(0.0, chosen, tests).value == 1, "a p-value is at most 1"


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


def test_evaluate_measures_and_judges_an_artifact(saved, trained, subset):
    artifact, policy = saved(trained.model), gate.load_policy(dataset="subset")
    found = gate.evaluate(artifact, subset, policy)
    assert found.candidate is artifact
    assert (found.measurement.images, found.measurement.bytes) == (len(subset.test), artifact.bytes)
    assert found.verdicts == gate.judge(found.measurement, policy)
    assert (found.comparison, found.baseline, found.changed) == (None, None, [])


@pytest.mark.slow
def test_evaluate_judges_the_baseline_by_the_same_policy(saved, trained, subset):
    untrained = saved(architectures.build("cnn", torch.Generator().manual_seed(0)))
    policy = gate.load_policy(dataset="subset")
    lenient = dataclasses.replace(policy, bounds={**policy.bounds, "accuracy": 0.0})
    found = gate.evaluate(saved(trained.model), subset, lenient, untrained)
    baseline = found.baseline
    assert baseline.candidate is untrained
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


@pytest.mark.slow
def test_evaluate_counts_test_images_that_were_trained_on(saved, trained, subset):
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


def test_policy_section_without_undecided_keeps_the_general_one(tmp_path):
    def change(text: str) -> str:
        text = text.replace('undecided = "block"', 'undecided = "warn"')
        return text + "\n[datasets.kmnist.bounds]\naccuracy = { at_least = 0.5 }\n"

    policy = gate.load_policy(policy_file(tmp_path, change), dataset="kmnist")
    assert policy.bounds["accuracy"] == 0.5
    assert policy.undecided is Outcome.UNDECIDED


def test_policy_says_where_it_is_from(tmp_path):
    path = policy_file(tmp_path, lambda text: text)
    policy = gate.load_policy(path, architecture="fast", recipe="fast", dataset="subset")
    assert policy.path == path
    assert policy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert policy.sections == ("architectures.fast", "recipes.fast", "datasets.subset")
    assert gate.load_policy(path, architecture="cnn", recipe="baseline", dataset="mnist").sections == ()


# ---- Bounds out of range ---------------------------------------------------------------------------------------------

NOT_POSITIVE = (0.0, -1e-9, -1.0, math.nan, math.inf, -math.inf, 1.01e12)
NEGATIVE = (-1e-9, -1.0, math.nan, math.inf, -math.inf, 1.01e12)


@pytest.mark.parametrize("name", BY_NAME)
def test_check_bound_refuses_every_bound_out_of_range(name):
    """A bound of 0 for "at least", or of 100 % for "at most", would let everything pass."""
    rule = BY_NAME[name]
    is_fraction = "%" in rule.form or name in ("regression", "digit-regression")
    refused = NOT_POSITIVE if rule.relation == "at_least" else NEGATIVE
    if is_fraction:
        refused += (1.001, 95.0) if rule.relation == "at_least" else (1.0, 1.001, 95.0)
    for bound in refused:
        with pytest.raises(ValueError, match=r"must be (above|at least) 0 and (at most|below) 1"):
            rule.check_bound(bound)
    rule.check_bound(POLICY.bounds[name])


@given(name=st.sampled_from(sorted(BY_NAME)), bound=st.floats(1e-6, 0.999))
def test_check_bound_accepts_every_bound_within_range(name, bound):
    BY_NAME[name].check_bound(bound)


@pytest.mark.parametrize(("name", "bound"), [("accuracy", 1.0), ("weakest-gradient", 1e12), ("latency", 0.0)])
def test_check_bound_accepts_the_ends_of_the_range(name, bound):
    BY_NAME[name].check_bound(bound)


@pytest.mark.parametrize("section", ["", "architectures.fast.", "recipes.fast.", "datasets.subset."])
@pytest.mark.parametrize("bound", ["1", "95", "-0.1", "nan", "inf"])
def test_policy_refuses_a_bound_out_of_range_in_any_section(tmp_path, section, bound):
    """It is refused even if the section does not apply to the model."""
    before = f"[{section}bounds]"
    path = policy_file(tmp_path, lambda text: _set_bound(text, before, f"noise-cost = {{ at_most = {bound} }}"))
    with pytest.raises(PolicyError, match="the bound of noise-cost must be at least 0 and below 1"):
        gate.load_policy(path)


def _set_bound(text: str, header: str, line: str) -> str:
    """Replace a general bound, or add a bound to a section."""
    name = line.partition(" ")[0]
    text = re.sub(rf"\n{name} = .*", "", text, count=1) if header == "[bounds]" else text
    return text.replace(f"\n{header}\n", f"\n{header}\n{line}\n", 1)


# ---- Files that are no policy ----------------------------------------------------------------------------------------


def load_within_10_seconds(path: Path) -> str:
    """Return the error of loading a policy; fail if the program waits for a file that does not end."""
    errors = []

    def load():
        try:
            gate.load_policy(path)
        except PolicyError as error:
            errors.append(str(error))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive(), f"the program still reads {path}"
    assert errors, f"{path} was accepted"
    return errors[0]


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither pipes nor devices in its file system")
def test_policy_that_is_a_pipe_or_a_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "pipe.toml", Path("/dev/zero")):
        assert "is a pipe or a device" in load_within_10_seconds(path)


def test_policy_that_is_huge_or_a_folder_is_refused(tmp_path):
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(10**12 if os.name != "nt" else 10**7)
    assert "more than the limit of 1,000,000" in load_within_10_seconds(tmp_path / "huge.toml")
    assert "is a folder" in load_within_10_seconds(tmp_path)


# ---- The sections that apply to a model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(saved_model):
    return artifacts.load(saved_model)


def claiming(artifact, recipe: recipes.Recipe, training_images: int | None = 60_000):
    """Return the artifact with another recipe and number of training images on its card."""
    dataset = dataclasses.replace(artifact.card.dataset, training_images=training_images)
    return dataclasses.replace(artifact, card=dataclasses.replace(artifact.card, recipe=recipe, dataset=dataset))


def is_at_least_as_strict(policy: Policy, other: Policy) -> bool:
    return all(
        bound >= other.bounds[name] if BY_NAME[name].relation == "at_least" else bound <= other.bounds[name]
        for name, bound in policy.bounds.items()
    )


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_claimed_recipe_never_makes_the_bounds_more_lenient(artifact, subset, name):
    """Whoever writes the card cannot choose the bounds: the weights show the architecture."""
    bare = gate.choose_policy(dataclasses.replace(artifact, card=None), subset)
    claims = [recipes.get(name), recipes.get(name, architecture="cnn"), recipes.get(name, epochs=0.1)]
    for claim in claims:
        assert is_at_least_as_strict(gate.choose_policy(claiming(artifact, claim), subset), bare)


@pytest.mark.parametrize("architecture", architectures.ARCHITECTURES)
def test_same_weights_have_the_same_bounds_with_any_changed_recipe(artifact, subset, architecture):
    weights = dataclasses.replace(artifact, architecture=architecture)
    bare = gate.choose_policy(dataclasses.replace(weights, card=None), subset)
    for name in recipes.RECIPES:
        changed = gate.choose_policy(claiming(weights, recipes.get(name, batch_size=7)), subset)
        assert (changed.bounds, changed.sections) == (bare.bounds, bare.sections)


CHANGES = {"epochs": 0.41, "batch_size": 81, "learning_rate": 0.016, "rotation": 1.0, "architecture": "cnn"}


@pytest.mark.parametrize("field", CHANGES)
def test_bounds_of_a_recipe_apply_only_if_it_is_unchanged(artifact, subset, field):
    mnist = dataclasses.replace(subset, name="mnist")
    for seed in (0, 77):
        unchanged = gate.choose_policy(claiming(artifact, recipes.get("fast", seed=seed)), mnist)
        assert "recipes.fast" in unchanged.sections
        assert unchanged.bounds["accuracy"] == 0.98
    changed = gate.choose_policy(claiming(artifact, recipes.get("fast", **{field: CHANGES[field]})), mnist)
    assert "recipes.fast" not in changed.sections
    assert changed.bounds["accuracy"] == 0.95


@pytest.mark.parametrize(("training_images", "epochs"), [(60_000, 0.4), (4_000, 6.0), (30_000, 0.8)])
def test_epochs_scaled_to_the_data_are_no_change(artifact, subset, training_images, epochs):
    mnist = dataclasses.replace(subset, name="mnist")
    scaled = claiming(artifact, recipes.get("fast", epochs=epochs), training_images)
    other = claiming(artifact, recipes.get("fast", epochs=epochs), training_images + 1000)
    assert "recipes.fast" in gate.choose_policy(scaled, mnist).sections
    assert "recipes.fast" not in gate.choose_policy(other, mnist).sections
    assert "recipes.fast" not in gate.choose_policy(claiming(artifact, recipes.get("fast", epochs=1.7)), mnist).sections


def test_policy_depends_on_architecture_recipe_and_dataset(artifact, subset, tmp_path):
    kinds = {"architectures": artifact.architecture, "recipes": "fast", "datasets": "mnist"}
    sections = "".join(f"\n[{kind}.{name}]\nundecided = 'warn'\n" for kind, name in kinds.items())
    path = policy_file(
        tmp_path, lambda text: re.sub(r"(?ms)^\[(architectures|recipes|datasets).*", "", text) + sections
    )
    mnist = dataclasses.replace(subset, name="mnist")
    found = gate.choose_policy(claiming(artifact, recipes.get("fast")), mnist, path)
    assert found.sections == tuple(f"{kind}.{name}" for kind, name in kinds.items())


def test_lenient_bound_of_a_recipe_is_ignored_with_a_notice(tmp_path):
    section = "\n[recipes.standard.bounds]\naccuracy = { at_least = 0.5 }\nlatency = { at_most = 1 }\n"
    path = policy_file(tmp_path, lambda text: text + section)
    policy = gate.load_policy(path, architecture="cnn", recipe="standard", dataset="mnist")
    assert (policy.bounds["accuracy"], policy.bounds["latency"]) == (0.95, 1)
    (notice,) = policy.notices
    for words in (str(path), "[recipes.standard]", "accuracy", "ignored", "[architectures.cnn]"):
        assert words in notice
    assert gate.load_policy(path, architecture="cnn", recipe="baseline").notices == ()


@pytest.mark.parametrize("key", ["undecided", "unmeasurable"])
def test_recipe_cannot_turn_blocking_into_a_warning(tmp_path, key):
    """Other sections can, and a recipe can turn a warning into blocking."""
    for section, recipe_notices in (("recipes.standard", 1), ("architectures.cnn", 0)):
        path = policy_file(
            tmp_path, lambda text, s=section: f'{key} = "block"\n{without(text, key)}\n[{s}]\n{key} = "warn"\n'
        )
        policy = gate.load_policy(path, architecture="cnn", recipe="standard")
        assert len(policy.notices) == recipe_notices
        assert getattr(policy, key) is (Outcome.BLOCK if recipe_notices else Outcome.UNDECIDED)
    path = policy_file(
        tmp_path, lambda text: f'{key} = "warn"\n{without(text, key)}\n[recipes.standard]\n{key} = "block"\n'
    )
    policy = gate.load_policy(path, architecture="cnn", recipe="standard")
    assert (policy.notices, getattr(policy, key)) == ((), Outcome.BLOCK)


def without(text: str, key: str) -> str:
    """Remove the lines that set this key."""
    return re.sub(rf"(?m)^{key} = .*$", "", text)


def test_equal_bound_of_a_recipe_gives_no_notice(tmp_path):
    """It is as strict as the general bound."""
    section = "\n[recipes.standard.bounds]\naccuracy = { at_least = 0.95 }\nlatency = { at_most = 50 }\n"
    path = policy_file(tmp_path, lambda text: text + section)
    assert gate.load_policy(path, architecture="cnn", recipe="standard", dataset="mnist").notices == ()


def test_lenient_bound_of_an_architecture_applies(tmp_path):
    section = "\n[architectures.cnn.bounds]\naccuracy = { at_least = 0.5 }\n"
    path = policy_file(tmp_path, lambda text: text + section)
    policy = gate.load_policy(path, architecture="cnn", recipe="standard", dataset="mnist")
    assert (policy.bounds["accuracy"], policy.notices) == (0.5, ())
    assert gate.load_policy(path, architecture="fast", dataset="mnist").bounds["accuracy"] == 0.95


def test_shipped_policy_has_no_bound_that_is_ignored():
    for architecture in architectures.ARCHITECTURES:
        for recipe in recipes.RECIPES:
            assert gate.load_policy(architecture=architecture, recipe=recipe).notices == ()
