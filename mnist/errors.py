"""What can go wrong that its reader can put right."""


class MnistError(Exception):
    """Bad input, in one line that says what is wrong and what to do about it.

    The command line shows it as ``error: ...`` and exits with 2; anything else that is raised is a bug.
    """
