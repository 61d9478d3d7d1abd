"""The base class of the errors that a user can correct."""


class MnistError(Exception):
    """Bad input. The message is one line: what is wrong and, in parentheses, what to do about it.

    The command-line interface prints it as ``error: ...`` and exits with code 2. It does the same for an
    ``OSError``; any other exception is a bug.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's type name if that line is empty."""
    return str(error).partition("\n")[0] or type(error).__name__
