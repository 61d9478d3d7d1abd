"""Inject faults into real training runs and check that no file is lost or damaged.

    .venv/bin/python scripts/fault_injection.py              takes some minutes; updates docs/reliability.md
    .venv/bin/python scripts/fault_injection.py --kills 20   shorter; only prints the table

Every run is a separate process that executes a complete `mnist train`: download, extraction, training, saving. The data
are the offline subset, packed like MNIST's archives. The exit code is 1 if anything is lost.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import documents
from arguments import positive
from faults import fail_every_write, flip_bits, kill_at_every_write, kill_at_random, start_at_once
from hostile_files import read_hostile_files
from sandbox import Sandbox

DOCUMENT = documents.DOCS / "reliability.md"
KILLS = 200  # number of kills at random instants, by default
BIT_FLIPS = 2_000
CONCURRENT_COMMANDS = 10  # number of concurrent commands of each kind


def main() -> None:
    """Inject every kind of fault and print the tallies; update the document if ``--kills`` is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills",
        type=positive,
        help=f"number of kills at random instants; update no document (default: {KILLS}, and update the document)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sandbox = Sandbox(folder)
        tallies = []
        for inject in (
            lambda: kill_at_random(sandbox, folder / "random", options.kills or KILLS),
            lambda: kill_at_every_write(sandbox, folder / "writes"),
            lambda: fail_every_write(folder / "disk"),
            lambda: flip_bits(sandbox, folder / "bits", BIT_FLIPS),
            lambda: read_hostile_files(folder / "hostile"),
            lambda: start_at_once(sandbox, folder / "concurrent", CONCURRENT_COMMANDS),
        ):
            tally = inject()
            tallies.append(tally)
            print(documents.row(tally.cells()), *tally.problems, sep="\n", flush=True)
    if not options.kills:
        header = ["fault", "times", "survived or refused", "lost", "details"]
        table = documents.table(header, [tally.cells() for tally in tallies], "lrrrl")
        documents.replace_section(DOCUMENT, "faults", table)
    sys.exit(any(tally.problems for tally in tallies))


if __name__ == "__main__":
    main()
