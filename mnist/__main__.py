"""The entry point of the command-line interface, for ``mnist`` and ``python -m mnist``."""

import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Import and run the command-line interface. Ctrl-C is reported in one line, even during the imports."""
    try:
        from mnist import cli

        cli.main()
    except KeyboardInterrupt:
        if sys.stderr:
            sys.stderr.write("error: interrupted (no file was left half-written)\n")
        sys.exit(130)


if __name__ == "__main__":
    # With -m, Python would also import modules from the current folder, which may be untrusted.
    if Path(sys.path[0]).resolve() == Path.cwd() != Path(__file__).resolve().parent.parent:
        del sys.path[0]
    main()
