"""Run the `run:` steps of a job of a workflow in a clean clone, with the variables that GitHub's runner sets.

    .venv/bin/python scripts/run_workflow.py train /tmp/clone --set DATASET=subset

It reads the steps from the workflow file, so that what is written for GitHub is what is tested. Only committed changes
are in the clone. Steps that use an action are not run; of an upload it checks that there is something to upload.
Every difference from the workflow is printed.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from documents import ROOT

SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")  # as the runner calls it for `shell: bash`

# The conditions of steps, for a push to main. A condition that is not here is an error.
CONDITIONS = {
    None: True,
    "${{ !cancelled() }}": True,
    "github.event_name == 'push'": True,
    "github.event_name == 'pull_request'": False,
    "github.event_name == 'schedule'": False,
}

# What the runner's environment has besides GitHub's variables: a home, and how this machine reaches package indexes.
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_", "UV_", "PYENV_", "SSL_", "REQUESTS_", "CURL_", *PROXIES)


def main() -> None:
    """Run the job; exit with 1 if a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("clone", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--workflow", type=Path, default=ROOT / ".github" / "workflows" / "ci.yml")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable (no value: unset)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="replace a variable of make")
    parser.add_argument("--without", action="append", default=[], metavar="COMMAND", help="do not run such steps")
    options = parser.parse_args()
    workflow = yaml.safe_load(options.workflow.read_text(encoding="utf-8"))
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, options.clone], check=True)  # noqa: S607
    sys.exit(run_job(workflow, options.job, options.clone.resolve(), options))


def run_job(workflow: dict[str, Any], name: str, folder: Path, options: argparse.Namespace) -> int:
    """Run the steps of a job in ``folder``; return 1 if one fails, and 0 otherwise."""
    job = workflow["jobs"][name]
    runner = folder.with_name(f"{folder.name} (runner)")
    runner.mkdir()
    environment = _runner_environment(folder, runner)
    environment |= _choose({**workflow.get("env", {}), **job.get("env", {})}, options.env)
    for step in job["steps"]:
        if step.get("if") not in CONDITIONS:
            raise SystemExit(f"error: unknown condition {step['if']!r} (add it to CONDITIONS)")
        title = step.get("name") or step.get("run", "").partition("\n")[0] or step["uses"].partition("@")[0]
        if not CONDITIONS[step.get("if")]:
            say(f"not on a push: {title}")
        elif "uses" in step:
            say(f"not run here: {title}")
            _check_upload(step, folder)
        elif any(command in step["run"] for command in options.without):
            say(f"difference: left out: {title}")
        else:
            command = _replace(step["run"], options.set)
            say(f"running: {command.strip()}")
            variables = environment | step.get("env", {}) | _read(runner / "env")
            code = subprocess.call([*SHELL, command], cwd=folder, env=variables, stdin=subprocess.DEVNULL)
            if code != 0:
                say(f"failed with exit code {code}: {command.strip()}")
                return 1
    say("the job summary:")
    print((runner / "summary").read_text(encoding="utf-8"), flush=True)
    return 0


def say(line: str) -> None:
    """Print a line that stands out from the output of the steps."""
    print(f"--- {line}", flush=True)


def _check_upload(step: dict[str, Any], folder: Path) -> None:
    """Fail if a step would upload nothing."""
    if "/upload-" in step["uses"]:
        for path in step["with"]["path"].split():
            if not any((folder / path).iterdir()):
                raise SystemExit(f"error: there is nothing to upload in {path}")


def _runner_environment(folder: Path, runner: Path) -> dict[str, str]:
    """Return the variables that a step sees, with new files to write into."""
    for name in ("summary", "env", "output", "path"):
        (runner / name).touch()
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT) or name.lower() in PROXIES}
    return kept | {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ENV": str(runner / "env"),
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_OUTPUT": str(runner / "output"),
        "GITHUB_PATH": str(runner / "path"),
        "GITHUB_REF_NAME": "main",
        "GITHUB_REPOSITORY": "someone/mnist",
        "GITHUB_STEP_SUMMARY": str(runner / "summary"),
        "GITHUB_WORKSPACE": str(folder),
        "RUNNER_OS": "Linux",
    }


def _choose(given: dict[str, str], options: list[str]) -> dict[str, str]:
    """Return the workflow's variables, replaced by those of the options."""
    chosen = {name: str(value) for name, value in given.items()}
    for option in options:
        name, _, value = option.partition("=")
        before = f" in place of {chosen.pop(name)}" if name in chosen else ""
        say(f"difference: {name}={value or '(not set)'}{before}")
        chosen |= {name: value} if value else {}
    return chosen


def _replace(command: str, options: list[str]) -> str:
    """Replace variables of make, NAME=value, in a command."""
    for option in options:
        name, _, value = option.partition("=")
        for word in command.split():
            if word.startswith(f"{name}=") and word != option:
                say(f"difference: {option} in place of {word}")
                command = command.replace(word, f"{name}={shlex.quote(value)}")
    return command


def _read(path: Path) -> dict[str, str]:
    """Return the variables that earlier steps have written for later ones."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


if __name__ == "__main__":
    main()
