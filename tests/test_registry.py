"""`mnist models`, and the choice of the model that is used by default."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from judged_models import write_decision
from samples import save_model
from strategies import generator, printed

from mnist import architecture
from mnist.storage import registry

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def three(tmp_path):
    """Save three untrained models, the oldest first."""
    return [
        save_model(architecture.build("cnn", generator(day)), tmp_path / "models", now=NOON + timedelta(days=day))
        for day in range(3)
    ]


def choose(tmp_path):
    path, message = registry.choose(tmp_path / "models", tmp_path / "reports")
    return path, message


def test_choose_takes_the_newest_model_that_passed(three, tmp_path):
    write_decision(three[0], "ship", tmp_path / "reports" / "a")
    write_decision(three[1], "ship", tmp_path / "reports" / "b")
    path, message = choose(tmp_path)
    assert path == three[1]
    assert f"{three[2]} is newer, but has not been judged" in message
    blocked = write_decision(three[2], "block", tmp_path / "reports" / "c")
    path, message = choose(tmp_path)
    assert path == three[1]
    assert f"{three[2]} is newer, but was blocked ({blocked})" in message
    write_decision(three[2], "ship", tmp_path / "reports" / "d", created="2021-01-01T00:00:00+00:00")
    assert choose(tmp_path) == (three[2], "")


def test_choose_warns_if_no_model_has_passed(three, tmp_path):
    path, message = choose(tmp_path)
    assert path == three[2]
    assert message.startswith("WARNING: no model in ")
    assert "has not been judged (judge it: mnist gate " in message
    write_decision(three[2], "block", tmp_path / "reports" / "a")
    path, message = choose(tmp_path)
    assert path == three[2]
    assert message.startswith("WARNING: no model in ")
    assert "was blocked" in message


def test_newest_report_decides_whatever_its_name(three, tmp_path):
    write_decision(three[0], "block", tmp_path / "reports" / "a", created="2026-02-02T00:00:00+00:00")
    write_decision(three[0], "ship", tmp_path / "reports" / "z", created="2026-02-01T00:00:00+00:00")
    (found,) = registry.judgements(tmp_path / "reports").values()
    assert found.decision == "block"


def test_report_of_schema_3_counts(three, tmp_path):
    digest = registry.hashlib.sha256(three[0].read_bytes()).hexdigest()
    (tmp_path / "reports" / "old").mkdir(parents=True)
    content = json.dumps({"schema": 3, "decision": "ship", "card": {"sha256": digest}})
    (tmp_path / "reports" / "old" / "report.json").write_text(content, encoding="utf-8")
    assert registry.judgements(tmp_path / "reports")[digest].decision == "ship"


@pytest.mark.parametrize("content", ["", "[]", "nonsense", "{}", '{"decision": "ship", "card": null}', "[" * 100_000])
def test_unreadable_report_is_ignored(three, tmp_path, content):
    write_decision(three[0], "ship", tmp_path / "reports" / "good")
    (tmp_path / "reports" / "bad").mkdir(parents=True)
    (tmp_path / "reports" / "bad" / "report.json").write_text(content, encoding="utf-8")
    assert [judgement.decision for judgement in registry.judgements(tmp_path / "reports").values()] == ["ship"]


def test_models_lists_the_newest_first(mnist, three, tmp_path):
    write_decision(three[1], "ship", tmp_path / "reports" / "a")
    write_decision(three[0], "block", tmp_path / "reports" / "b")
    found = json.loads(mnist("models", "--json").out)
    assert [(tmp_path / each["model"], each["verdict"]) for each in found] == [
        (three[2], "not judged"),
        (three[1], "ship"),
        (three[0], "block"),
    ]
    assert all(each["recipe"] and each["bytes"] and each["accuracy"] is not None for each in found)
    printed = mnist("models").out
    names = [line.split()[0] for line in printed.splitlines() if line.startswith("  mnist_model_")]
    assert names == [path.name for path in reversed(three)]


def test_models_lists_a_damaged_card_with_its_problem(mnist, three):
    three[1].with_suffix(".json").write_text("{", encoding="utf-8")
    finished = mnist("models")
    assert finished.code == 0
    assert f"{three[1].name}" in finished.out
    assert "is not a model card" in finished.out


def test_models_without_a_model_says_how_to_train_one(mnist):
    finished = mnist("models")
    assert (finished.code, finished.out) == (0, "there is no model in models (train one: make train, or mnist train)\n")


def test_verdict_does_not_count_after_the_card_was_replaced(three, tmp_path):
    write_decision(three[0], "ship", tmp_path / "reports" / "a")
    judged = write_decision(three[2], "ship", tmp_path / "reports" / "b")
    card = json.loads(three[2].with_suffix(".json").read_text(encoding="utf-8"))
    content = json.loads(judged.read_text(encoding="utf-8"))
    for known, expected in ((card, three[2]), ({**card, "card_sha256": "0" * 64}, three[0]), (None, three[0])):
        judged.write_text(json.dumps({**content, "card": known}), encoding="utf-8")
        assert choose(tmp_path)[0] == expected
    judged.write_text(json.dumps({**content, "card": card}), encoding="utf-8")
    three[2].with_suffix(".json").write_bytes(three[1].with_suffix(".json").read_bytes())
    path, message = choose(tmp_path)
    assert path == three[0]
    assert "is damaged" in message


def test_models_names_another_policy_than_the_default(mnist, three, tmp_path):
    judged = write_decision(three[2], "ship", tmp_path / "reports" / "a")
    content = json.loads(judged.read_text(encoding="utf-8"))
    content["policy"] = {"path": "mine/gate.toml", "sha256": "0" * 64}
    judged.write_text(json.dumps(content), encoding="utf-8")
    assert f"{Path('models') / three[2].name}: judged by mine/gate.toml" in mnist("models").out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("predict", "seven.png"), ("demo", "--output", "page.html"), ("export", "--dataset", "subset")],
    ids=lambda command: command[0],
)
def test_commands_use_the_newest_model_that_passed(mnist, trained, subset, tmp_path, command):
    printed(7).save(tmp_path / "seven.png")
    good = save_model(trained.model, tmp_path / "models", data=subset, now=NOON)
    newer = save_model(architecture.build("cnn", generator(0)), tmp_path / "models", now=NOON + timedelta(days=1))
    finished = mnist(*command)
    assert finished.code == 0
    assert f"WARNING: no model in models has passed the gate: {newer.relative_to(tmp_path)}" in finished.err
    write_decision(good, "ship", tmp_path / "reports" / "a")
    write_decision(newer, "block", tmp_path / "reports" / "b")
    finished = mnist(*command)
    assert finished.code == 0
    assert f"{newer.relative_to(tmp_path)} is newer, but was blocked" in finished.err
    assert good.stem in finished.out + finished.err
