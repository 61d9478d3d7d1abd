"""What can go wrong that its reader can put right."""


class MnistError(Exception):
    """Bad input, in one line that says what is wrong and what to do about it.

    The command line shows it as ``error: ...`` and exits with 2; anything else that is raised is a bug.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, as far as it fits into a line of ours; where it says nothing, its kind."""
    return str(error).partition("\n")[0] or type(error).__name__
