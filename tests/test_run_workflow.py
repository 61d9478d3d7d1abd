"""Test scripts/run_workflow.py and the workflows."""

import argparse
import os
import shutil
from pathlib import Path

import pytest
import run_workflow
import yaml

needs_posix = pytest.mark.skipif(os.name == "nt", reason="the program runs the steps of Linux jobs")

WORKFLOWS = Path(__file__).parent.parent / ".github" / "workflows"


@pytest.fixture
def run(tmp_path):
    """Run steps as the job of a workflow, with the variable COLOR, in an empty folder."""
    folder = tmp_path / "clone #1"
    folder.mkdir()

    def run_steps(*steps: dict | str, env=(), replaced=(), without=()) -> int:
        shutil.rmtree(tmp_path / "clone #1 (runner)", ignore_errors=True)
        steps = [step if isinstance(step, dict) else {"run": step} for step in steps]
        workflow = {"env": {"COLOR": "red"}, "jobs": {"job": {"steps": steps}}}
        options = argparse.Namespace(env=list(env), set=list(replaced), without=list(without))
        return run_workflow.run_job(workflow, "job", folder, options)

    return run_steps


@needs_posix
def test_run_job_runs_the_steps_in_the_folder(run, tmp_path):
    assert run("echo $COLOR > a", "cat a a > b") == 0
    assert (tmp_path / "clone #1" / "b").read_text(encoding="utf-8") == "red\nred\n"


@needs_posix
def test_run_job_sets_only_the_variables_of_github(run, monkeypatch):
    monkeypatch.setenv("MNIST_MIRROR", "somewhere")
    monkeypatch.setenv("COLUMNS", "60")
    assert run('test "$GITHUB_ACTIONS$CI" = truetrue', 'test -z "$MNIST_MIRROR$COLUMNS"') == 0


@needs_posix
@pytest.mark.parametrize("command", ["false", "false | true", "false\ntrue"])
def test_run_job_stops_at_a_failing_step(run, tmp_path, command):
    assert run(command, "touch reached") == 1
    assert not (tmp_path / "clone #1" / "reached").exists()


@needs_posix
def test_run_job_passes_variables_and_prints_the_summary(run, capsys):
    assert (
        run('echo "FRUIT=a=b" >> "$GITHUB_ENV"', 'test "$FRUIT" = a=b', 'echo "# Fine" >> "$GITHUB_STEP_SUMMARY"') == 0
    )
    assert capsys.readouterr().out.endswith("the job summary:\n# Fine\n\n")


@needs_posix
def test_run_job_prints_every_difference(run, capsys):
    steps = ['test -z "$COLOR$B" || test "$B" = 2', "echo DATASET=mnist > out", "rm out"]
    assert run(*steps, env=["COLOR=", "B=2"], replaced=["DATASET=the subset"], without=["rm"]) == 0
    shown = capsys.readouterr().out
    assert "difference: COLOR=(not set) in place of red" in shown
    assert "difference: B=2\n" in shown
    assert "difference: DATASET=the subset in place of DATASET=mnist" in shown
    assert "difference: left out: rm out" in shown


@needs_posix
def test_run_job_skips_steps_that_are_not_for_a_push(run):
    assert run({"if": "github.event_name == 'pull_request'", "run": "false"}) == 0
    with pytest.raises(SystemExit, match=r"unknown condition 'github\.actor'"):
        run({"if": "github.actor", "run": "true"})


@needs_posix
def test_run_job_refuses_an_empty_upload(run):
    upload = {"uses": "actions/upload-artifact@1", "with": {"path": "models/\nsite/\n"}}
    assert run("mkdir models site && touch models/a site/b", upload) == 0
    with pytest.raises(SystemExit, match="site/ is empty, so there is nothing to upload"):
        run("rm site/b", upload)


# ---- The workflows ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def jobs(request) -> dict:
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))["jobs"]


@pytest.fixture(scope="module")
def ci() -> dict:
    return yaml.safe_load((WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))


def test_workflow_jobs_have_time_limits(jobs):
    assert all("timeout-minutes" in job for job in jobs.values())


def test_workflow_actions_are_pinned_to_commits(jobs):
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(len(action.partition("@")[2]) == 40 for action in used)


def test_ci_ok_depends_on_all_other_jobs(ci):
    assert set(ci["jobs"]["ci-ok"]["needs"]) == set(ci["jobs"]) - {"ci-ok"}
    assert ci["jobs"]["ci-ok"]["if"] == "${{ always() }}"


def test_concurrency_cancels_only_pull_requests(ci):
    assert ci["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"
    assert "github.run_id" in ci["concurrency"]["group"], (
        "runs of main must not share a group, because a waiting run is canceled by the next"
    )
    assert ci["jobs"]["publish"]["concurrency"] == {"group": "pages", "cancel-in-progress": False}


def test_only_some_jobs_have_write_permissions(jobs):
    writing = {name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"comment", "publish"}


def test_cache_keys_differ_between_kinds_of_jobs(ci):
    keys = {
        name: [step["with"]["key"] for step in job["steps"] if step.get("uses", "").startswith("actions/cache")]
        for name, job in ci["jobs"].items()
    }
    starts = [key.partition("${{ runner.os }}")[0] for found in keys.values() for key in found]
    assert len(starts) == len(set(starts)) == 4


@needs_posix
@pytest.mark.parametrize(("results", "code"), [("success skipped", 0), ("success failure", 1), ("cancelled", 1)])
def test_ci_ok_fails_if_another_job_has_failed(ci, run, monkeypatch, results, code):
    (step,) = ci["jobs"]["ci-ok"]["steps"]
    assert run({"run": step["run"], "env": {"RESULTS": results}}) == code
