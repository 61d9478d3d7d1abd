"""Test the programs that CI runs besides make, with a fake `gh` that records its calls and prints prepared replies."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import fetch_baseline
import github
import pr_comment
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = Path(__file__).parent.parent / "scripts"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a script named gh does not run on Windows")

FAKE_GH = f"""#!/bin/sh
exec {shlex.quote(sys.executable)} -I "$(dirname "$0")/fake_gh.py" "$@"
"""

FAKE_GH_PROGRAM = """
import json, pathlib, sys

here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
stdin = sys.stdin.buffer.read().decode() if "--input" in arguments else ""
with (here / "calls.jsonl").open("a", encoding="utf-8") as file:
    file.write(json.dumps([arguments, stdin]) + "\\n")
for reply in json.loads((here / "replies.json").read_text(encoding="utf-8")):
    if all(word in arguments for word in reply["words"]):
        break
else:
    sys.exit(f"no reply to {arguments}")
if reply["files"]:
    folder = pathlib.Path(arguments[arguments.index("--dir") + 1])
    for name in reply["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
sys.stdout.buffer.write(reply["out"].encode())
sys.stderr.write(reply["err"])
sys.exit(reply["code"])
"""


class FakeGh:
    """A fake `gh`, which replies to calls that contain given words and records all calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replies = []
        (folder / "fake_gh.py").write_text(FAKE_GH_PROGRAM, encoding="utf-8")
        program = folder / "gh"
        program.write_text(FAKE_GH, encoding="utf-8")
        program.chmod(0o755)

    def reply(self, *words, out="", err="", code=0, files=()):
        self.replies.append({"words": words, "out": out, "err": err, "code": code, "files": files})
        (self.folder / "replies.json").write_text(json.dumps(self.replies), encoding="utf-8")

    @property
    def calls(self) -> list[list]:
        """Return the arguments and stdin of every call."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def gh(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return FakeGh(folder)


def test_gh_reports_a_missing_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(github.GitHubError, match="gh is not installed"):
        github.gh("api")


def test_gh_reports_a_failure_without_a_message(gh):
    gh.reply("api", code=4)
    with pytest.raises(github.GitHubError, match="gh api failed with exit code 4"):
        github.gh("api", "x")


def test_command_is_one_line():
    assert github.command("error", "50 %\r\n::warning::x") == "::error::50 %25%0D%0A::warning::x"


@pytest.mark.parametrize("name", ["github", "fetch_baseline", "pr_comment"])
def test_program_needs_the_standard_library_only(name):
    """The program can be imported by a Python without site-packages."""
    program = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import {name}"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


# ---- fetch_baseline --------------------------------------------------------------------------------------------------

OLD, NEW = "mnist_model_20260101_000000", "mnist_model_20260102_000000"
MODEL_FILES = [f"models/{name}{suffix}" for name in (OLD, NEW) for suffix in (".pth", ".json")]


@pytest.fixture
def fetch(tmp_path, monkeypatch, capsys):
    """Run fetch_baseline; return the exit code, stdout, and the text appended to $GITHUB_ENV."""
    environment = tmp_path / "environment"
    environment.write_text("BEFORE=1\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_ENV", str(environment))
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path / "temp"))

    def run():
        code = fetch_baseline.main()
        before, _, added = environment.read_text(encoding="utf-8").partition("\n")
        assert before == "BEFORE=1"
        return code, capsys.readouterr().out, added

    return run


def reply_with_runs(gh, push=(), schedule=()):
    for event, runs in (("push", push), ("schedule", schedule)):
        listed = [{"databaseId": number, "createdAt": created} for number, created in runs]
        gh.reply("run", "list", "--event", event, out=json.dumps(listed))


def test_fetch_baseline_names_the_newest_model(gh, fetch, tmp_path):
    reply_with_runs(gh, push=[(7, "2026-01-02T00:00:00Z")])
    gh.reply("run", "download", files=[*MODEL_FILES, "site/index.html"])
    code, out, added = fetch()
    expected = tmp_path / "temp" / "baseline" / "models" / f"{NEW}.pth"
    assert (code, added) == (0, f"BASELINE={expected}\n")
    assert "::" not in out
    assert expected.is_file()
    assert expected.with_suffix(".json").is_file()
    folder = str(tmp_path / "temp" / "baseline")
    assert gh.calls[-1][0] == ["run", "download", "7", "--name", "model", "--dir", folder]


def test_fetch_baseline_lists_successful_runs_of_main_only(gh, fetch):
    reply_with_runs(gh)
    fetch()
    for (arguments, _), event in zip(gh.calls, ("push", "schedule"), strict=True):
        options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
        assert arguments[:2] == ["run", "list"]
        assert options == {
            "--workflow": "ci.yml",
            "--branch": "main",
            "--status": "success",
            "--event": event,
            "--limit": "1",
            "--json": "databaseId,createdAt",
        }


def test_fetch_baseline_chooses_the_newest_run_of_any_event(gh, fetch):
    reply_with_runs(gh, push=[(9, "2026-01-01T00:00:00Z")], schedule=[(8, "2026-01-02T00:00:00Z")])
    gh.reply("run", "download", files=MODEL_FILES)
    fetch()
    assert gh.calls[-1][0][2] == "8"


def test_fetch_baseline_without_a_run_is_a_notice(gh, fetch):
    reply_with_runs(gh)
    code, out, added = fetch()
    assert (code, added) == (0, "")
    assert out == "::notice::There is no model of main to compare with yet: no successful run of ci.yml.\n"


@pytest.mark.parametrize("message", fetch_baseline.NO_ARTIFACT_MESSAGES)
def test_fetch_baseline_without_an_artifact_is_a_notice(gh, fetch, message):
    reply_with_runs(gh, push=[(7, "2026-01-02T00:00:00Z")])
    gh.reply("run", "download", err=f"{message}\n", code=1)
    code, out, added = fetch()
    assert (code, added) == (0, "")
    reason = "run 7 has no artifact 'model', or it has expired"
    assert out == f"::notice::There is no model of main to compare with yet: {reason}.\n"


@pytest.mark.parametrize("files", [["site/index.html"], ["models/notes.txt"], ["models/mnist_model_x.pth"]])
def test_fetch_baseline_without_a_model_is_a_notice(gh, fetch, files):
    reply_with_runs(gh, push=[(7, "2026-01-02T00:00:00Z")])
    gh.reply("run", "download", files=files)
    code, out, added = fetch()
    assert (code, added) == (0, "")
    assert out == "::notice::There is no model of main to compare with yet: no model in the artifact 'model'.\n"


@pytest.mark.parametrize("failing", ["list", "download"])
def test_fetch_baseline_fails_if_gh_fails(gh, fetch, failing):
    gh.reply("run", failing, err="HTTP 401: Bad credentials\nTry authenticating\n", code=1)
    reply_with_runs(gh, push=[(7, "2026-01-02T00:00:00Z")])
    code, out, added = fetch()
    assert (code, added) == (1, "")
    assert out == "::error::The model of main could not be fetched: HTTP 401: Bad credentials\n"


def test_fetch_baseline_fails_without_a_model_card(gh, fetch):
    reply_with_runs(gh, push=[(7, "2026-01-02T00:00:00Z")])
    gh.reply("run", "download", files=[f"models/{NEW}.pth", f"models/{OLD}.json"])
    code, out, added = fetch()
    assert (code, added) == (1, "")
    assert f"{NEW}.pth has no model card" in out


def test_newest_model_orders_models_of_one_second(tmp_path):
    names = [NEW, f"{NEW}_2", f"{NEW}_10", OLD]
    (tmp_path / "models").mkdir()
    for name in names:
        for suffix in (".pth", ".json"):
            (tmp_path / "models" / f"{name}{suffix}").touch()
    assert fetch_baseline.newest_model(tmp_path).name == f"{NEW}_10.pth"


# ---- pr_comment ------------------------------------------------------------------------------------------------------

SUMMARY = '## Ship: a model ✅\n\n| `$(touch x)` | "quoted" |\n'


@pytest.fixture
def comment(tmp_path, monkeypatch, capsys):
    """Run pr_comment on a report with this summary; return the exit code and stdout."""
    monkeypatch.setenv("GITHUB_REPOSITORY", "octo/mnist")
    monkeypatch.setenv("PULL_REQUEST", "12")
    folder = tmp_path / "report"

    def run(summary=SUMMARY):
        (folder / "mnist_model").mkdir(parents=True)
        (folder / "mnist_model" / "summary.md").write_text(summary, encoding="utf-8")
        code = pr_comment.main(folder)
        return code, capsys.readouterr().out

    return run


def comments_address(page):
    return f"repos/octo/mnist/issues/12/comments?per_page=100&page={page}"


def listed(number, body, login=pr_comment.COMMENT_AUTHOR):
    return {"id": number, "body": body, "user": {"login": login} if login else None}


def test_pr_comment_is_created_once(gh, comment):
    gh.reply(comments_address(1), out=json.dumps([listed(1, "Hello", "octocat")]))
    gh.reply("--method")
    assert comment() == (0, "")
    arguments, stdin = gh.calls[-1]
    assert arguments == ["api", "--method", "POST", "repos/octo/mnist/issues/12/comments", "--input", "-", "--silent"]
    assert json.loads(stdin) == {"body": f"{pr_comment.MARKER}\n{SUMMARY}"}
    assert len(gh.calls) == 2


def test_pr_comment_is_updated_in_place_on_any_page(gh, comment):
    others = [
        listed(1, f"{pr_comment.MARKER}\nfake", "octocat"),
        listed(2, f"I quote {pr_comment.MARKER}"),
        listed(3, None),
        listed(4, f"{pr_comment.MARKER}\ngone", None),
    ]
    first = others + [listed(number, "Hello", "octocat") for number in range(10, 106)]
    assert len(first) == 100
    gh.reply(comments_address(1), out=json.dumps(first))
    gh.reply(comments_address(2), out=json.dumps([listed(200, f"{pr_comment.MARKER}\nold ✅")]))
    gh.reply("--method")
    assert comment() == (0, "")
    arguments, stdin = gh.calls[-1]
    assert arguments[:4] == ["api", "--method", "PATCH", "repos/octo/mnist/issues/comments/200"]
    assert json.loads(stdin)["body"] == f"{pr_comment.MARKER}\n{SUMMARY}"


def test_pr_comment_stops_after_an_empty_last_page(gh, comment):
    gh.reply(comments_address(1), out=json.dumps([listed(number, "", "octocat") for number in range(100)]))
    gh.reply(comments_address(2), out="[]")
    gh.reply("--method")
    assert comment() == (0, "")
    assert "POST" in gh.calls[-1][0]
    assert len(gh.calls) == 3


def test_pr_comment_fits_the_limit_of_github(gh, comment):
    gh.reply(comments_address(1), out="[]")
    gh.reply("--method")
    assert comment("a line ✅\n" * 20_000) == (0, "")
    body = json.loads(gh.calls[-1][1])["body"]
    assert pr_comment.MAX_COMMENT_CHARACTERS - 200 < len(body) <= pr_comment.MAX_COMMENT_CHARACTERS
    assert body.startswith(f"{pr_comment.MARKER}\na line ✅\n")


def test_pr_comment_fails_if_gh_fails(gh, comment):
    gh.reply("api", err="gh: Resource not accessible by integration (HTTP 403)\n", code=1)
    assert comment() == (
        1,
        "::error::The comment could not be posted: gh: Resource not accessible by integration (HTTP 403)\n",
    )


@pytest.mark.parametrize("count", [0, 2])
def test_pr_comment_needs_exactly_one_summary(gh, tmp_path, capsys, count):
    for number in range(count):
        (tmp_path / f"model {number}").mkdir()
        (tmp_path / f"model {number}" / "summary.md").touch()
    assert pr_comment.main(tmp_path) == 1
    expected = f"{tmp_path}/*/summary.md matches {count} files instead of one (did the gate write its report?)"
    assert capsys.readouterr().out == f"::error::{expected}\n"
    assert gh.calls == []


@given(
    parts=st.lists(
        st.sampled_from(
            [
                ["text"],
                ["```text", "⠀⣠⣶⠿" * 10, "⠀⣠⣶⠿" * 10, "```"],
                ["<details>", "<summary>x</summary>", "", "| a |", "", "</details>"],
            ]
        ),
        max_size=40,
    ),
    limit=st.integers(150, 1500),
)
def test_truncate_closes_what_it_cuts(parts, limit):
    text = "".join(f"{line}\n" for part in parts for line in part)
    cut = pr_comment.truncate(text, limit)
    if len(text) <= limit:
        assert cut == text
        return
    assert limit - 200 < len(cut) <= limit
    lines = cut.splitlines()
    assert sum(line.startswith("```") for line in lines) % 2 == 0
    assert lines.count("<details>") == lines.count("</details>")
    assert lines[-1] == pr_comment.TRUNCATED.strip()
    assert set(lines[:-1]) <= {*text.splitlines(), ""}, "no line is cut"
    same = next(number for number, (a, b) in enumerate(zip(text, cut, strict=False)) if a != b)
    assert same > limit - 200, "all lines but the last ones are the beginning of the text"
