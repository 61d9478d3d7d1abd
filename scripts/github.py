"""Run GitHub's command-line program `gh`, and format workflow commands. This module needs only the standard library."""

import subprocess


class GitHubError(Exception):
    """Failed call of `gh`. The message is the first line of the program's stderr."""


def gh(*arguments: str, body: str | None = None) -> str:
    """Run `gh` with ``body`` as its stdin, and return its stdout.

    Raises:
        GitHubError: if `gh` is missing or fails.
    """
    try:
        finished = subprocess.run(["gh", *arguments], input=body, capture_output=True, encoding="utf-8")  # noqa: S607
    except FileNotFoundError as error:
        raise GitHubError("gh is not installed (install it from https://cli.github.com)") from error
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines()
        raise GitHubError(lines[0] if lines else f"gh {arguments[0]} failed with exit code {finished.returncode}")
    return finished.stdout


def command(name: str, message: str) -> str:
    """Return a workflow command on one line, like ``::error::message``."""
    return f"::{name}::" + message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
