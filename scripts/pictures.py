"""Measure how well models recognize real pictures, and how often they read something else as a digit.

    .venv/bin/python scripts/pictures.py --pictures DIR --models models/a.pth models/b.pth
    .venv/bin/python scripts/pictures.py --pictures DIR --models models/a.pth --half first
    .venv/bin/python scripts/pictures.py --pictures DIR --models models/a.pth --sets photos letters --thresholds
    .venv/bin/python scripts/pictures.py --generated 500 --models models/a.pth

DIR holds pictures and a file labels.jsonl with a line for each: ``file`` (its path below DIR), ``kind`` (photo, paint,
printed, crop28, drawn, multi or notdigit), ``detail``, ``label`` (0 to 9, a text, or null) and ``looks_like_a_digit``.
For each set (a folder below DIR) and kind, the program prints how many pictures were recognized, how many predictions
were accepted (the model was sure), and how many of the accepted predictions are wrong. A row for each set sums its
kinds of digits. Percentages have 95 % confidence intervals. ``--half first`` and ``--half second`` each use one half of
the pictures, divided by a hash of their names, so that one half can be held out for a final check.

``--sets`` uses only some sets. ``--thresholds`` prints, for several values of ``predict --min-confidence``, how many
predictions for digits are accepted, how many of these are wrong, and how many pictures without a digit are read as one.

``--generated 500`` measures on 500 generated pages of each kind in scripts/clutter.py. The pages show digits of the
offline subset with frames, lines, dots and other clutter. A page counts as declined if the model is not sure or finds
no digit.
"""

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import clutter
import documents
import numpy as np
from arguments import positive

from mnist import datasets
from mnist.deploy import inference
from mnist.gate import intervals
from mnist.preparation import ImageError
from mnist.storage.artifacts import Artifact

SEED = 0  # seed of the generated pages
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)  # confidence thresholds, in addition to the model's own
FORMS = {"photo", "paint", "printed", "crop28", "drawn"}  # kinds of pictures with one digit


@dataclass(frozen=True)
class Picture:
    """A labelled picture."""

    path: Path
    group: str  # name of the table row: set and kind
    label: str | None  # None: no digit, or several digits


@dataclass(frozen=True)
class Answer:
    """The result of a model for one picture."""

    picture: Picture
    best: str  # the most probable digit; empty if no digit was found
    sure: str | None  # the digit if the model is sure; None if it is not sure or no digit was found
    confidence: float = 0.0  # confidence of the best digit; 0 if the result is "not sure" at any threshold

    @property
    def correct(self) -> bool:
        return self.best == self.picture.label

    @property
    def wrong(self) -> bool:
        """True if the model is sure of a wrong digit, or of any digit if the picture does not show exactly one."""
        return self.sure is not None and self.sure != self.picture.label


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pictures", type=Path, help="folder with labels.jsonl")
    source.add_argument("--generated", type=positive, metavar="N", help="draw N pages of each kind")
    parser.add_argument(
        "--kinds", nargs="+", choices=clutter.KINDS, default=list(clutter.KINDS), help="with --generated"
    )
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="weights files")
    parser.add_argument("--half", choices=("first", "second"), help="use only half of the pictures")
    parser.add_argument("--sets", nargs="+", help="use only these folders below DIR")
    parser.add_argument("--thresholds", action="store_true", help="print a table of confidence thresholds")
    parser.add_argument("--mistakes", action="store_true", help="list the pictures with a wrong accepted prediction")
    options = parser.parse_args()
    if options.generated is not None:
        for path in options.models:
            print(f"\n{path}\n")
            print(measure_generated(inference.load(path), options.kinds, options.generated))
        return
    pictures = read_labels(options.pictures, options.half)
    if options.sets:
        pictures = [picture for picture in pictures if picture.group.partition(":")[0] in options.sets]
    for path in options.models:
        model = inference.load(path)
        predictions = inference.predict_files(model, [picture.path for picture in pictures])
        answers = [_answer(picture, found) for picture, found in zip(pictures, predictions, strict=True)]
        print(f"\n{path}\n")
        print(_table(answers))
        if options.thresholds:
            print()
            print(_threshold_table(answers, model.threshold))
        if options.mistakes:
            for answer in answers:
                if answer.wrong:
                    print(f"{answer.picture.path}: {answer.picture.label or 'no digit'}, answered {answer.sure}")


def measure_generated(model: Artifact, kinds: Iterable[str], count: int) -> str:
    """Return a table of the predictions for ``count`` generated pages of each kind."""
    digits = datasets.load_subset().test
    rows = []
    for kind in kinds:
        outcomes: Counter[str] = Counter()
        for number in range(count):
            index = number * len(digits) // count  # the digits are sorted by class
            digit = digits.images[index, 0].numpy()
            label = None if kind in clutter.SEVERAL_DIGITS else str(int(digits.labels[index]))
            found = inference.predict(model, clutter.page(kind, digit, np.random.default_rng([SEED, number])))
            outcomes["right" if found.label == label else "declined" if found.label is None else "wrong"] += 1
            outcomes["best"] += found.best[0] == label
            outcomes["none"] += not found.best[0]
        right, declined, wrong = (outcomes[each] for each in ("right", "declined", "wrong"))
        counts = [outcomes["best"], right, outcomes["none"], declined, wrong]
        rows.append([kind, *(f"{100 * each / count:.1f} %" for each in counts), _share(right + declined, count)])
    header = [
        "page",
        "top-1 accuracy",
        "correct",
        "nothing found",
        "declined",
        "wrong digit",
        "correct or declined",
    ]
    return documents.table(header, rows, "lrrrrrr")


def read_labels(folder: Path, half: str | None = None) -> list[Picture]:
    """Return the labelled pictures of a folder, except non-digits that a person could mistake for a digit."""
    pictures = []
    for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        is_digit = entry["kind"] in FORMS
        if entry["looks_like_a_digit"] and not is_digit:
            continue
        if half and (hashlib.sha256(entry["file"].encode()).digest()[0] % 2 == 0) != (half == "first"):
            continue
        name = Path(entry["file"]).parts[0]
        group = f"{name}: {entry['kind']}" if is_digit or entry["kind"] == "multi" else f"{name}: no digit"
        pictures.append(Picture(folder / entry["file"], group, str(entry["label"]) if is_digit else None))
    return pictures


def _answer(picture: Picture, prediction: inference.Prediction | ImageError) -> Answer:
    if isinstance(prediction, ImageError):
        return Answer(picture, "", None)
    confidence = prediction.best[1] if prediction.reason is None else 0.0
    return Answer(picture, prediction.best[0], prediction.label, confidence)


def _threshold_table(answers: Iterable[Answer], own: float) -> str:
    """Return a table of the results at several confidence thresholds; ``own`` is the model's threshold."""
    digits = [answer for answer in answers if answer.picture.label is not None]
    others = [answer for answer in answers if answer.picture.label is None]
    rows = []
    for threshold in sorted({own, *THRESHOLDS}):
        answered = [answer for answer in digits if answer.confidence >= threshold]
        wrong = sum(not answer.correct for answer in answered)
        shown = f"{threshold:.2f}" + " (the model's)" * (threshold == own)
        false = sum(answer.confidence >= threshold for answer in others)
        rows.append(
            [
                shown,
                *(
                    _share(*each) if each[1] else ""
                    for each in ((len(answered), len(digits)), (wrong, len(digits)), (false, len(others)))
                ),
            ]
        )
    header = ["minimum confidence", "digits accepted", "digits misread", "other pictures accepted"]
    return documents.table(header, rows, "lrrr")


def _table(answers: Iterable[Answer]) -> str:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.picture.group].append(answer)
        if answer.picture.label is not None:
            groups[f"{answer.picture.group.partition(':')[0]}: all digits"].append(answer)
    header = ["pictures", "number", "top-1 accuracy", "accepted", "accepted but wrong"]
    rows = []
    for name, group in sorted(groups.items()):
        digits = group[0].picture.label is not None
        correct = _share(sum(answer.correct for answer in group), len(group)) if digits else ""
        answered = _share(sum(answer.sure is not None for answer in group), len(group))
        rows.append([name, f"{len(group)}", correct, answered, _share(sum(each.wrong for each in group), len(group))])
    return documents.table(header, rows, "lrrrr")


def _share(count: int, total: int) -> str:
    share = intervals.proportion(count, total)
    return f"{count} ({100 * share.value:.1f} %; {100 * share.low:.1f} to {100 * share.high:.1f})"


if __name__ == "__main__":
    main()
