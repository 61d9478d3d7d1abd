"""Download the newest model of the branch main, so that a pull request's model can be compared with it.

    python3 scripts/fetch_baseline.py

CI runs this program before the virtual environment exists, so the program uses only the standard library. It finds the
newest successful run of the workflow ci.yml on main, downloads its artifact `model`, and appends `BASELINE=<path>` to
$GITHUB_ENV.

If there is no such run, artifact or model, the program prints a notice and exits with 0, because the first run has no
model to compare with. Any other failure exits with 1, because without a baseline the gate cannot find regressions.
"""

import json
import os
import re
import sys
from pathlib import Path

import github

WORKFLOW_NAME = "ci.yml"
BRANCH = "main"
EVENTS = ("push", "schedule")  # not pull_request, because the branch of a fork may also be called main
ARTIFACT_NAME = "model"
NO_ARTIFACT_MESSAGES = (
    "no valid artifacts found to download",
    "no artifact matches any of the names or patterns provided",
)


class NoBaselineError(Exception):
    """There is no model of main to compare with yet."""


def newest_run() -> int:
    """Return the ID of the newest successful run on main.

    Raises:
        NoBaselineError: if there is no such run.
    """
    runs = []
    for event in EVENTS:
        filters = ("--workflow", WORKFLOW_NAME, "--branch", BRANCH, "--status", "success", "--event", event)
        runs += json.loads(github.gh("run", "list", *filters, "--limit", "1", "--json", "databaseId,createdAt"))
    if not runs:
        raise NoBaselineError(f"no successful run of {WORKFLOW_NAME}")
    return int(max(runs, key=lambda run: run["createdAt"])["databaseId"])


def download(run: int, folder: Path) -> None:
    """Download the artifact of a run into ``folder``.

    Raises:
        NoBaselineError: if the run has no such artifact, or the artifact has expired.
    """
    try:
        github.gh("run", "download", str(run), "--name", ARTIFACT_NAME, "--dir", str(folder))
    except github.GitHubError as error:
        if str(error).endswith(NO_ARTIFACT_MESSAGES):
            raise NoBaselineError(f"run {run} has no artifact {ARTIFACT_NAME!r}, or it has expired") from error
        raise


def newest_model(folder: Path) -> Path:
    """Return the weights file with the newest name in the folder `models` of an artifact.

    Raises:
        NoBaselineError: if there is no weights file.
        github.GitHubError: if the newest weights file has no model card, because the download is incomplete.
    """
    found = {}
    for path in (folder / "models").glob("mnist_model_*.pth"):
        if name := re.fullmatch(r"mnist_model_(\d{8}_\d{6})(?:_(\d+))?\.pth", path.name):
            found[name[1], int(name[2] or 1)] = path
    if not found:
        raise NoBaselineError(f"no model in the artifact {ARTIFACT_NAME!r}")
    newest = found[max(found)]
    if not newest.with_suffix(".json").is_file():
        raise github.GitHubError(f"{newest.name} has no model card in the same folder (run the job again)")
    return newest


def main() -> int:
    """Download the baseline and append its path to $GITHUB_ENV; return the exit code."""
    folder = Path(os.environ["RUNNER_TEMP"]).resolve() / "baseline"
    try:
        download(newest_run(), folder)
        model = newest_model(folder)
    except NoBaselineError as error:
        print(github.command("notice", f"There is no model of {BRANCH} to compare with yet: {error}."))
        return 0
    except github.GitHubError as error:
        print(github.command("error", f"The model of {BRANCH} could not be fetched: {error}"))
        return 1
    with Path(os.environ["GITHUB_ENV"]).open("a", encoding="utf-8") as file:
        file.write(f"BASELINE={model}\n")
    print(f"baseline: {model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
