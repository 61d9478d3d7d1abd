"""Kill, starve and mislead real training runs, start them by the dozen, and see that nothing is lost.

    .venv/bin/python scripts/fault_injection.py            some minutes; renews its table in docs/reliability.md
    .venv/bin/python scripts/fault_injection.py --kills 20 shorter; prints alone

Every run is a process of its own, `mnist train` with all that belongs to it: fetching archives, extracting them,
training, saving. The digits are those of the offline subset, packed as MNIST's archives are. Exits with 1 if anything
is lost.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import documents
from faults import fail_every_write, flip_bits, kill_at_every_write, kill_at_random, start_at_once
from hostile_files import mislead
from sandbox import Sandbox

DOCUMENT = documents.DOCS / "reliability.md"


def main() -> None:
    """Do all of it, print it, and in a full run renew the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, help="at random instants, and no document (default: 200, and the document)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sandbox = Sandbox(folder)
        tallies = []
        for part in (
            lambda: kill_at_random(sandbox, folder / "random", options.kills or 200),
            lambda: kill_at_every_write(sandbox, folder / "writes"),
            lambda: [fail_every_write(folder / "faults")],
            lambda: [flip_bits(sandbox, folder / "bits", 2000)],
            lambda: [mislead(folder / "hostile")],
            lambda: [start_at_once(sandbox, folder / "crowd", 10)],
        ):
            for tally in part():
                tallies.append(tally)
                print(documents.row(tally.cells()), *tally.problems, sep="\n", flush=True)
    if not options.kills:
        header = ["what", "done", "survived or refused", "lost", ""]
        table = documents.table(header, [tally.cells() for tally in tallies], "lrrrl")
        documents.replace_section(DOCUMENT, "faults", table)
    sys.exit(any(tally.problems for tally in tallies))


if __name__ == "__main__":
    main()
