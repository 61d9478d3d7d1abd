"""The quality gate: it measures a model, compares it with a baseline, and decides whether it may ship."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist import recipe_changes
from mnist.datasets import Dataset, overlap
from mnist.gate import claims
from mnist.gate.candidates import Candidate
from mnist.gate.comparison import Comparison, compare
from mnist.gate.criteria import CRITERIA
from mnist.gate.measurement import Measurement, measure
from mnist.gate.policy import POLICY, Policy, PolicyError, load_policy
from mnist.gate.probes import Probe
from mnist.gate.regressions import REGRESSIONS
from mnist.gate.verdicts import Criterion, Outcome, Verdict
from mnist.storage.artifacts import Artifact

__all__ = [
    "CRITERIA",
    "POLICY",
    "REGRESSIONS",
    "Candidate",
    "Comparison",
    "Criterion",
    "Evaluation",
    "Measurement",
    "Outcome",
    "Policy",
    "PolicyError",
    "Probe",
    "Verdict",
    "blocked",
    "choose_policy",
    "compare",
    "evaluate",
    "judge",
    "judge_comparison",
    "load_policy",
    "measure",
]


def judge(measurement: Measurement, policy: Policy, comparison: Comparison | None = None) -> list[Verdict]:
    """Return a verdict for every criterion, including the regression criteria if there is a comparison."""
    of_model = [
        rule.refuse(policy.bounds[rule.name], policy.unmeasurable)
        if rule.needs in measurement.unmeasurable
        else rule.judge(measurement, policy.bounds[rule.name], policy.undecided)
        for rule in CRITERIA
    ]
    return of_model if comparison is None else of_model + judge_comparison(comparison, policy)


def judge_comparison(comparison: Comparison, policy: Policy) -> list[Verdict]:
    """Return a verdict for every regression criterion."""
    comparison = dataclasses.replace(
        comparison, margin=policy.bounds["accuracy-loss"], digit_margin=policy.bounds["digit-loss"]
    )
    return [rule.judge(comparison, policy.bounds[rule.name], policy.undecided) for rule in REGRESSIONS]


def choose_policy(candidate: Candidate, dataset: Dataset, path: Path = POLICY) -> Policy:
    """Read the policy for a model on a data set.

    The bounds of a recipe apply to models whose card says that they were trained with the unmodified recipe.

    Raises:
        PolicyError: if the file is not a valid policy.
    """
    recipe = None
    if card := candidate.card:
        training_images = card.dataset.training_images or len(dataset.train) + dataset.validation
        if not recipe_changes.find(card.recipe, training_images):
            recipe = card.recipe.name
    return load_policy(path, architecture=candidate.architecture, recipe=recipe, dataset=dataset.kind)


def blocked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts that block the model."""
    return [verdict for verdict in verdicts if verdict.blocks]


@dataclass(frozen=True)
class Evaluation:
    """The measurement of a model and the verdicts of the gate."""

    candidate: Candidate
    policy: Policy
    measurement: Measurement
    verdicts: Sequence[Verdict]
    comparison: Comparison | None = None  # comparison with the baseline, image by image
    baseline: "Evaluation | None" = None  # evaluation of the baseline, on the same images and by the same policy

    @property
    def figures(self) -> dict[str, float]:
        """The measured values, keyed by criterion name. A value is NaN if it was not measured."""
        return {verdict.criterion: verdict.figure.value for verdict in self.verdicts}

    @property
    def changed(self) -> list[tuple[Verdict, Verdict]]:
        """Pairs of the baseline's verdict and the new verdict, for the criteria whose outcomes differ."""
        if self.baseline is None:
            return []
        before = {verdict.criterion: verdict for verdict in self.baseline.verdicts}
        pairs = [(before[verdict.criterion], verdict) for verdict in self.verdicts if verdict.criterion in before]
        return [(old, new) for old, new in pairs if old.outcome is not new.outcome]


def evaluate(
    candidate: Candidate, dataset: Dataset, policy: Policy, baseline: Candidate | Evaluation | None = None
) -> Evaluation:
    """Measure a model on the test images, compare the model with the baseline if there is one, and judge it.

    A baseline model is measured on the same images; a baseline that is an evaluation must have been measured on them.
    The baseline is judged by the same policy, without a comparison.
    """
    if isinstance(baseline, Evaluation):
        verdicts = judge(baseline.measurement, policy)
        before: Evaluation | None = Evaluation(baseline.candidate, policy, baseline.measurement, verdicts)
    else:
        before = evaluate(baseline, dataset, policy) if baseline else None
    test = dataset.test
    measurement = measure(
        candidate.model,
        candidate.initial_model(),
        test,
        dataset.train,
        bytes=candidate.bytes,
        stored=None if isinstance(candidate, Artifact) else candidate.stored,
        possibly_seen=candidate.possibly_seen(dataset)[0],
        near_duplicates=overlap.count_near_duplicates(dataset),
    )
    if isinstance(candidate, Artifact):  # an ONNX file has no model card whose claims could be wrong
        contradicted = claims.contradicted(candidate, dataset, measurement)
        measurement = dataclasses.replace(measurement, contradicted_claims=contradicted)
    comparison = compare(test.labels, measurement.logits, before.measurement.logits, test.classes) if before else None
    verdicts = judge(measurement, policy, comparison)
    return Evaluation(candidate, policy, measurement, verdicts, comparison, before)
