"""Train on two machines: two network namespaces of this computer, connected by a virtual Ethernet cable.

    sudo .venv/bin/python scripts/two_machines.py

Each machine runs torchrun and has its own folders for models and checkpoints. The program checks that

- two machines end with the weights of a single process, up to rounding, and only the first one saves them;
- different data on the second machine stop both machines with a clear message;
- a run whose second machine is killed and restarted ends with the same weights, up to rounding, although the
  checkpoints exist only on the first machine.

The program needs Linux, the command `ip` (Debian package iproute2) and the right to create network namespaces (root, or
CAP_NET_ADMIN and CAP_SYS_ADMIN). The exit code is 0 if all checks pass, 1 if one fails, and 77 if the namespaces cannot
be created. The program takes about a minute.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from mnist import datasets, runs
from mnist.storage import artifacts

UNAVAILABLE = 77  # exit code: the namespaces cannot be created
ADDRESSES = ("10.77.0.1", "10.77.0.2")  # IP addresses of the first and the second machine
PORT = 29400
NETNS_ETC = Path("/etc/netns")  # `ip netns exec` mounts the files of NETNS_ETC/NAMESPACE over those in /etc
MAX_SECONDS = 300.0  # time limit for all runs together; they take a minute on an idle machine with two cores
KILLED_AFTER = 30  # number of steps, of 63, before the kill; a checkpoint is written every 10 steps
TRAIN = ("train", "--no-gate", "--device", "cpu", "--checkpoint-interval", "10")
ON_SUBSET = (*TRAIN, "--dataset", "subset", "--recipe", "baseline", "--epochs", "1")
# Maximum difference of a weight from that of a single process. Rounding errors grow during training: with four seeds,
# two processes on one machine differed from one process by 9e-6 to 8e-4. One wrong label caused differences of 4e-3
# to 1e-2.
MAX_DIFFERENCE = 2e-3

# Kills this process and torchrun, its parent, as a power failure would.
KILLED_PROGRAM = f"""
import os, signal, sys
from mnist import cli
from mnist.storage import checkpoints
save = checkpoints.CheckpointWriter.save
def save_or_die(self, step, state):
    save(self, step, state)
    if step >= {KILLED_AFTER}:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.CheckpointWriter.save = save_or_die
cli.main(sys.argv[1:])
"""


class SetupError(Exception):
    """The namespaces cannot be created."""


class CheckError(Exception):
    """A check that failed."""


@dataclass(frozen=True)
class Machine:
    """A network namespace."""

    namespace: str
    interface: str
    address: str
    folder: Path  # working folder of its processes


def main() -> int:
    """Run all checks and return the exit code."""
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # exit normally, so that the namespaces are removed
    deadline = time.monotonic() + MAX_SECONDS
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            machines = stack.enter_context(connected_machines(Path(folder)))
        except SetupError as error:
            print(f"two machines were not simulated: {error}")
            return UNAVAILABLE
        try:
            expected = train_alone(Path(folder))
            for check in (check_training, check_different_data, check_restart):
                print(
                    f"{check(machines, expected, deadline)} ({MAX_SECONDS - deadline + time.monotonic():.0f} s)",
                    flush=True,
                )
        except CheckError as error:
            print(f"FAILED: {error}")
            return 1
    return 0


@contextlib.contextmanager
def connected_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Create two connected network namespaces; at the end, remove the namespaces and kill their processes."""
    name = f"mnist-{secrets.token_hex(4)}"
    first, second = (
        Machine(f"{name}-{number}", f"mnist{number}", address, folder / str(number))
        for number, address in enumerate(ADDRESSES, start=1)
    )
    try:
        for machine in (first, second):
            machine.folder.mkdir()
            ip("netns", "add", machine.namespace)
            write_host_names(machine.namespace)
        cable = ("type", "veth", "peer", "name", second.interface, "netns", second.namespace)
        ip("link", "add", first.interface, "netns", first.namespace, *cable)
        for machine in (first, second):
            ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", machine.interface)
            for interface in ("lo", machine.interface):
                ip("-n", machine.namespace, "link", "set", interface, "up")
        yield first, second
    finally:
        for machine in (first, second):
            with contextlib.suppress(SetupError):
                for process in ip("netns", "pids", machine.namespace).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                ip("netns", "delete", machine.namespace)
            shutil.rmtree(NETNS_ETC / machine.namespace, ignore_errors=True)
        with contextlib.suppress(OSError):  # other namespaces have files there
            NETNS_ETC.rmdir()


def write_host_names(namespace: str) -> None:
    """Assign host names to the addresses, and disable DNS: each lookup without a server would take 5 seconds."""
    names = [f"{address} machine{number}\n" for number, address in enumerate(ADDRESSES, start=1)]
    try:
        (NETNS_ETC / namespace).mkdir(parents=True)
        (NETNS_ETC / namespace / "hosts").write_text("".join(["127.0.0.1 localhost\n", *names]), encoding="utf-8")
        (NETNS_ETC / namespace / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{NETNS_ETC}: {error.strerror}") from error


def ip(*arguments: str) -> str:
    """Run the program ip and return its output."""
    program = shutil.which("ip")
    if program is None:
        raise SetupError("the program ip is missing (install it: apt-get install iproute2)")
    finished = subprocess.run([program, *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    if finished.returncode:
        raise SetupError(f"ip {' '.join(arguments)}: {' '.join(finished.stderr.split())}")
    return finished.stdout


def train_alone(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run with a single process."""
    settings = runs.Settings(
        recipe="baseline",
        dataset="subset",
        overrides={"epochs": 1.0},
        device="cpu",
        checkpoints_dir=folder / "checkpoints",
        models_dir=folder / "models",
    )
    result = runs.train(settings)
    assert result is not None
    return result.model.state_dict()


class Torchrun:
    """torchrun on one machine."""

    def __init__(self, machine: Machine, *command: str, max_restarts: int = 0) -> None:
        self._log = machine.folder / f"log {secrets.token_hex(4)}"
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv-id", "two machines"]
        # Both namespaces have this computer's name, so torchrun cannot detect which one has the endpoint's address.
        # keep_alive_interval=1: detect after 3 seconds that a machine is down.
        is_host = int(machine.address == ADDRESSES[0])
        launch += ["--rdzv-conf", f"is_host={is_host},keep_alive_interval=1"]
        launch += ["--local-addr", machine.address, "--max-restarts", str(max_restarts)]
        variables = {
            "GLOO_SOCKET_IFNAME": machine.interface,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(machine.folder),  # a killed torchrun leaves its log folder behind
            # Otherwise, a torchrun that joins after a restart waits for an address that was published before its start.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [shutil.which("ip") or "ip", "netns", "exec", machine.namespace, *launch, *command],
                cwd=machine.folder,
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, deadline: float) -> int:
        """Wait for torchrun and return its exit code; `ip netns exec` is replaced by torchrun."""
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise CheckError(f"a run did not end in time; its last messages:\n{self.log[-2000:]}") from None


def check_training(machines: tuple[Machine, Machine], expected: dict[str, torch.Tensor], deadline: float) -> str:
    """Check that two machines get the weights of one process, and that only the first machine saves them."""
    processes = [Torchrun(machine, "-m", "mnist", *ON_SUBSET) for machine in machines]
    return f"two machines: {check_weights(machines, processes, expected, deadline, resumed=0)}"


def check_weights(
    machines: tuple[Machine, Machine],
    processes: Sequence[Torchrun],
    expected: dict[str, torch.Tensor],
    deadline: float,
    resumed: int,
) -> str:
    """Wait for the processes, compare the only model with the expected weights, and remove the model."""
    for process in processes:
        if process.wait(deadline):
            raise CheckError(f"a run failed; its last messages:\n{process.log[-2000:]}")
    models = [list((machine.folder / "models").glob("*.pth")) for machine in machines]
    if [len(paths) for paths in models] != [1, 0]:
        raise CheckError(f"the first machine must save one model and the second none, but they saved {models}")
    if checkpoints := [path for machine in machines for path in (machine.folder / "checkpoints").glob("run_*")]:
        raise CheckError(f"checkpoints are left: {checkpoints}")
    artifact = artifacts.load(models[0][0])
    training = artifact.card.training if artifact.card else None
    if training is None or (training.processes, training.resumed) != (2, resumed):
        raise CheckError(f"expected 2 processes and {resumed} restarts, but the card says {training}")
    weights = artifact.model.state_dict()
    difference = max(float((weights[name] - tensor).abs().max()) for name, tensor in expected.items())
    if not difference <= MAX_DIFFERENCE:
        raise CheckError(f"a weight differs by {difference:.1e} from that of a single process")
    for path in models[0][0].parent.iterdir():
        path.unlink()
    return f"weights differ from those of one process by at most {difference:.1e}"


def check_different_data(machines: tuple[Machine, Machine], expected: dict[str, torch.Tensor], deadline: float) -> str:
    """Check that both machines stop, with a message, if one image of the second machine is missing."""
    test = datasets.load_subset().test
    for machine, count in zip(machines, (3, 2), strict=True):
        for digit in range(10):
            (machine.folder / "images" / str(digit)).mkdir(parents=True)
            for number, image in enumerate(test.images[test.labels == digit][: 3 if digit else count, 0].numpy()):
                Image.fromarray(image).save(machine.folder / "images" / str(digit) / f"{number}.png")
    processes = [Torchrun(machine, "-m", "mnist", *TRAIN, "--dataset", "images") for machine in machines]
    for process in processes:
        message = "error: the processes of this run do not match: data: "
        if process.wait(deadline) == 0 or process.log.count(message) != 1:
            raise CheckError(f"different data did not stop a run with {message!r}; its messages:\n{process.log}")
    return "different data on the second machine: both stop with a message"


def check_restart(machines: tuple[Machine, Machine], expected: dict[str, torch.Tensor], deadline: float) -> str:
    """Check that a run resumes from the first machine's checkpoint after the second machine is killed and restarted."""
    program = machines[1].folder / "killed.py"
    program.write_text(KILLED_PROGRAM, encoding="utf-8")
    first = Torchrun(machines[0], "-m", "mnist", *ON_SUBSET, max_restarts=1)
    killed = Torchrun(machines[1], str(program), *ON_SUBSET)
    if (code := killed.wait(deadline)) != -signal.SIGKILL:
        raise CheckError(f"the second machine ended with {code}, before it was killed:\n{killed.log[-2000:]}")
    second = Torchrun(machines[1], "-m", "mnist", *ON_SUBSET)
    return (
        "second machine killed and started again: "
        f"{check_weights(machines, [first, second], expected, deadline, resumed=1)}"
    )


if __name__ == "__main__":
    sys.exit(main())
