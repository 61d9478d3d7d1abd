"""The decision: criteria, the policy that sets their bounds, and for a measured model a verdict on each.

A criterion on sampled figures is judged on their 95 % confidence intervals: wholly within the bound it passes, wholly
beyond it blocks, and across it is undecided: there are too few images to tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mnist.datasets import TRAIN_TEST_OVERLAP, Dataset
from mnist.gate.comparison import Comparison, compare
from mnist.gate.criteria import CRITERIA, REGRESSIONS, Criterion, Outcome, Verdict
from mnist.gate.measurement import Measurement, Probe, measure
from mnist.gate.policy import POLICY, Policy, PolicyError, load_policy
from mnist.storage.artifacts import Artifact

__all__ = [
    "CRITERIA",
    "POLICY",
    "REGRESSIONS",
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
    "compare",
    "evaluate",
    "judge",
    "load_policy",
    "measure",
]


def judge(measurement: Measurement, policy: Policy, comparison: Comparison | None = None) -> list[Verdict]:
    """A verdict on every criterion; on those about a regression where there is another model to compare with."""
    of_model = [rule.judge(measurement, policy.bounds[rule.name], policy.undecided) for rule in CRITERIA]
    if comparison is None:
        return of_model
    return of_model + [rule.judge(comparison, policy.bounds[rule.name], policy.undecided) for rule in REGRESSIONS]


def blocked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts for which the model must not ship."""
    return [verdict for verdict in verdicts if verdict.blocks]


@dataclass(frozen=True)
class Evaluation:
    """A model, what was measured of it, and the verdicts."""

    artifact: Artifact
    measurement: Measurement
    verdicts: Sequence[Verdict]
    comparison: Comparison | None = None  # with the baseline, image by image
    baseline: "Evaluation | None" = None  # on the same images, by the same policy

    @property
    def changed(self) -> list[tuple[Verdict, Verdict]]:
        """The verdicts whose outcome differs from the baseline's: pairs of the baseline's verdict and the new one."""
        if self.baseline is None:
            return []
        before = {verdict.criterion: verdict for verdict in self.baseline.verdicts}
        pairs = [(before[verdict.criterion], verdict) for verdict in self.verdicts if verdict.criterion in before]
        return [(old, new) for old, new in pairs if old.outcome is not new.outcome]


def evaluate(artifact: Artifact, dataset: Dataset, policy: Policy, baseline: Artifact | None = None) -> Evaluation:
    """Measure a model on the test images of ``dataset``, compare it with the baseline if there is one, and judge it.

    The baseline is measured on the same images and judged by the same policy, but not compared with another model.
    """
    before = evaluate(baseline, dataset, policy) if baseline else None
    test = dataset.test
    may_have_seen = bool(artifact.trained_on & TRAIN_TEST_OVERLAP.get(dataset.name, set()))
    measurement = measure(
        artifact.model,
        artifact.initial_model(),
        test,
        dataset.train,
        bytes=artifact.bytes,
        possibly_seen=len(test) if may_have_seen else 0,
    )
    comparison = compare(test.labels, measurement.logits, before.measurement.logits, test.classes) if before else None
    return Evaluation(artifact, measurement, judge(measurement, policy, comparison), comparison, before)
