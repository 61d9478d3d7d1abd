"""Post the summary of the gate as one comment on a pull request, and update that comment on later runs.

    python3 scripts/pr_comment.py report    # posts report/*/summary.md

CI runs this program without a virtual environment, so the program uses only the standard library. $GITHUB_REPOSITORY
and $PULL_REQUEST (a number) identify the pull request. The program finds its earlier comment by a hidden marker, and
searches only comments by GitHub Actions.
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
COMMENT_AUTHOR = "github-actions[bot]"
MAX_COMMENT_CHARACTERS = 65_536  # GitHub's limit
COMMENTS_PER_PAGE = 100  # GitHub's maximum
FENCE = "```"
TRUNCATED = "\n_The rest is too long for a comment. See the job summary._\n"


def list_comments(repository: str, number: int) -> Iterator[dict[str, Any]]:
    """Yield the comments on a pull request, oldest first."""
    for page in itertools.count(1):
        address = f"repos/{repository}/issues/{number}/comments?per_page={COMMENTS_PER_PAGE}&page={page}"
        comments = json.loads(github.gh("api", address))
        yield from comments
        if len(comments) < COMMENTS_PER_PAGE:
            break


def find_comment(repository: str, number: int) -> int | None:
    """Return the ID of the comment with the marker, or None if there is none yet."""
    for comment in list_comments(repository, number):
        author = (comment["user"] or {}).get("login")  # a deleted account has no user
        if author == COMMENT_AUTHOR and (comment["body"] or "").startswith(MARKER):
            return int(comment["id"])
    return None


def truncate(text: str, limit: int) -> str:
    """Cut a text to at most ``limit`` characters at the end of a line; close an open code block or details element."""
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
    body = f"{MARKER}\n" + truncate(summary, MAX_COMMENT_CHARACTERS - len(MARKER) - 1)
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
        print(
            github.command(
                "error",
                f"{folder}/*/summary.md matches {len(found)} files instead of one (did the gate write its report?)",
            )
        )
        return 1
    try:
        post(os.environ["GITHUB_REPOSITORY"], int(os.environ["PULL_REQUEST"]), found[0].read_text(encoding="utf-8"))
    except github.GitHubError as error:
        print(github.command("error", f"The comment could not be posted: {error}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
