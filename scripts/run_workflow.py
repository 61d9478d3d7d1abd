"""Run the `run:` steps of a workflow job in a clean clone, with the variables that GitHub's runner sets.

    .venv/bin/python scripts/run_workflow.py train /tmp/clone --set DATASET=subset

The steps are read from the workflow file, so the tested commands are the same as on GitHub. The clone contains only
committed changes. Steps that use an action are not run; for an upload, the program checks that there is something to
upload. It prints every difference from the workflow.
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

CI_WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")  # the runner's command for `shell: bash`

# The conditions of steps and their values for a push to main. Any other condition is an error.
CONDITIONS = {
    None: True,
    "${{ !cancelled() }}": True,
    "github.event_name == 'push'": True,
    "github.event_name == 'pull_request'": False,
    "github.event_name == 'schedule'": False,
}

# Environment variables of this machine that the steps need: programs, the home folder, and access to package indexes.
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
KEPT_PREFIXES = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_", "UV_", "PYENV_", "SSL_", "REQUESTS_", "CURL_", *PROXIES)


def main() -> None:
    """Clone the repository and run the job; exit with 1 if a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", help="its name in the workflow, like train")
    parser.add_argument("clone", type=Path, help="the folder of the clone, which must not exist")
    parser.add_argument("--workflow", type=Path, default=CI_WORKFLOW, help="(default: ci.yml)")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an environment variable (unset it if there is no value)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="replace the value of a make variable"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="COMMAND", help="leave out steps that contain this text"
    )
    options = parser.parse_args()
    workflow = yaml.safe_load(options.workflow.read_text(encoding="utf-8"))
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, options.clone], check=True)  # noqa: S607
    sys.exit(run_job(workflow, options.job, options.clone.resolve(), options))


def run_job(workflow: dict[str, Any], name: str, folder: Path, options: argparse.Namespace) -> int:
    """Run the steps of a job in ``folder``; return 1 if a step fails, otherwise 0."""
    job = workflow["jobs"][name]
    runner = folder.with_name(f"{folder.name} (runner)")
    runner.mkdir()
    environment = _runner_environment(folder, runner)
    environment |= _change({**workflow.get("env", {}), **job.get("env", {})}, options.env)
    for step in job["steps"]:
        if step.get("if") not in CONDITIONS:
            raise SystemExit(f"error: unknown condition {step['if']!r} (add it to CONDITIONS)")
        title = step.get("name") or step.get("run", "").partition("\n")[0] or step["uses"].partition("@")[0]
        if not CONDITIONS[step.get("if")]:
            say(f"skipped, because it does not run on a push: {title}")
        elif "uses" in step:
            say(f"skipped, because it uses an action: {title}")
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
    """Print a line with a prefix that distinguishes it from the output of the steps."""
    print(f"--- {line}", flush=True)


def _check_upload(step: dict[str, Any], folder: Path) -> None:
    """Exit with an error if a step uploads a folder that is empty."""
    if "/upload-" in step["uses"]:
        for path in step["with"]["path"].split():
            if not any((folder / path).iterdir()):
                raise SystemExit(
                    f"error: {path} is empty, so there is nothing to upload (did an earlier step write it?)"
                )


def _runner_environment(folder: Path, runner: Path) -> dict[str, str]:
    """Return the environment of the steps, and create the files that they may write to."""
    for name in ("summary", "env", "output", "path"):
        (runner / name).touch()
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(KEPT_PREFIXES) or name.lower() in PROXIES
    }
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


def _change(given: dict[str, str], options: list[str]) -> dict[str, str]:
    """Return the workflow's variables after applying the changes of ``--env``."""
    variables = {name: str(value) for name, value in given.items()}
    for option in options:
        name, _, value = option.partition("=")
        before = f" in place of {variables.pop(name)}" if name in variables else ""
        say(f"difference: {name}={value or '(not set)'}{before}")
        variables |= {name: value} if value else {}
    return variables


def _replace(command: str, options: list[str]) -> str:
    """Replace the values of make variables in a command with those of ``--set``."""
    for option in options:
        name, _, value = option.partition("=")
        for word in command.split():
            if word.startswith(f"{name}=") and word != option:
                say(f"difference: {option} in place of {word}")
                command = command.replace(word, f"{name}={shlex.quote(value)}")
    return command


def _read(path: Path) -> dict[str, str]:
    """Return the variables that earlier steps wrote for later ones."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


if __name__ == "__main__":
    main()
