"""Types of command-line arguments."""

import argparse


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number
