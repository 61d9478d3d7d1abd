"""``python -m mnist``: the same commands as ``mnist``."""

from mnist.cli import main

if __name__ == "__main__":
    main()
