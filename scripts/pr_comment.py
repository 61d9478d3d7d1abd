"""Post the gate's summary as one comment on a pull request, and update that comment on every later run.

    python3 scripts/pr_comment.py report    # posts report/*/summary.md

Run by CI without a virtual environment, so it uses the standard library alone. $GITHUB_REPOSITORY and $PULL_REQUEST
(the number) say where to post. The comment is found again by a hidden marker, among those of GitHub Actions only.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import github

MARKER = "<!-- mnist model report -->"
AUTHOR = "github-actions[bot]"
LIMIT = 65_536  # characters of a comment
PER_PAGE = 100  # comments, the most that GitHub returns at once
FENCE = "```"
TRUNCATED = "\n_The rest is too long for a comment: see the job summary._\n"


def list_comments(repository: str, number: int) -> Iterator[dict[str, Any]]:
    """Yield the comments on a pull request, oldest first."""
    for page in itertools.count(1):
        address = f"repos/{repository}/issues/{number}/comments?per_page={PER_PAGE}&page={page}"
        comments = json.loads(github.gh("api", address))
        yield from comments
        if len(comments) < PER_PAGE:
            break


def find_comment(repository: str, number: int) -> int | None:
    """Return the ID of the comment with the marker, or None if there is none yet."""
    for comment in list_comments(repository, number):
        author = (comment["user"] or {}).get("login")  # no user: the account was deleted
        if author == AUTHOR and (comment["body"] or "").startswith(MARKER):
            return int(comment["id"])
    return None


def truncate(text: str, limit: int) -> str:
    """Cut text after a line so that it has at most ``limit`` characters, closing an open code block or folded part."""
    if len(text) <= limit:
        return text
    room = limit - len(TRUNCATED) - len(f"{FENCE}\n\n</details>\n")
    kept = text[:room].rpartition("\n")[0] + "\n"
    lines = kept.splitlines()
    if sum(line.startswith(FENCE) for line in lines) % 2:
        kept += f"{FENCE}\n"
    if lines.count("<details>") > lines.count("</details>"):
        kept += "\n</details>\n"
    return kept + TRUNCATED


def post(repository: str, number: int, summary: str) -> None:
    """Update the comment with the marker, or create it."""
    body = f"{MARKER}\n" + truncate(summary, LIMIT - len(MARKER) - 1)
    comment = find_comment(repository, number)
    method, address = (
        ("POST", f"repos/{repository}/issues/{number}/comments")
        if comment is None
        else ("PATCH", f"repos/{repository}/issues/comments/{comment}")
    )
    github.gh("api", "--method", method, address, "--input", "-", "--silent", body=json.dumps({"body": body}))


def main(folder: Path) -> int:
    """Post the summary in ``folder``; return the exit code."""
    found = list(folder.glob("*/summary.md"))
    if len(found) != 1:
        print(github.command("error", f"{folder}/*/summary.md matches {len(found)} files instead of one"))
        return 1
    try:
        post(os.environ["GITHUB_REPOSITORY"], int(os.environ["PULL_REQUEST"]), found[0].read_text(encoding="utf-8"))
    except github.GitHubError as error:
        print(github.command("error", f"The comment could not be posted: {error}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
