"""Options and assertions for the tests of the commands."""

from mnist.cli import process

QUICK = ("--dataset", "subset", "--epochs", 0.5, "--device", "cpu", "--no-gate")  # for `mnist train`
ON_FOLDER = ("--epochs", 2, "--device", "cpu", "--no-gate")  # for `mnist train` on a folder of few images


def assert_one_clear_line(finished, *words):
    """Assert that a command printed one line of error with these words, and exited with 2."""
    assert finished.code == process.BAD_INPUT, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    for word in words:
        assert word in finished.err
