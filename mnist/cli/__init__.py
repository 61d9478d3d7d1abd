"""The command line: each command parses its options, calls the library, and prints the result.

PyTorch takes seconds to import. Commands import it, and every module that needs it, only when they run, so that
``--help`` and a misspelt option are answered at once.
"""

import io
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from mnist import __version__, files
from mnist.cli import data, deploy, display, gate, models, predict, train
from mnist.cli.process import BAD_INPUT, INTERRUPTED, TERMINATED
from mnist.errors import MnistError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its exit code; bad input is reported in one line on stderr, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=display.SYMBOLS_ERROR_HANDLER)
    terminated = False

    def terminate(number: int, frame: object) -> NoReturn:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(cli.main(arguments, prog_name="mnist", standalone_mode=False))
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "mnist"
        message = f"{error.format_message().rstrip('.')} (see '{path} --help')"
    except (click.ClickException, MnistError) as error:
        message = str(error)
    except OSError as error:
        message = files.explain(error)
    except click.Abort:
        display.write("error: interrupted (no file was left half-written)", err=True)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
    display.write(f"error: {message}", err=True)
    sys.exit(BAD_INPUT)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Train a classifier for MNIST digits with under 25,000 parameters, and judge whether it may ship.

    \b
    mnist train           get the data, train, save, and judge
    mnist gate            judge the newest model; exit code 1 if it must not ship
    mnist predict IMAGE   recognize the digit in a picture
    mnist demo            write a web page to draw digits on

    Bad input is reported in one line on stderr, with exit code 2.
    """
    if context.invoked_subcommand is None:
        display.write(context.get_help())


for command in (
    data.data,
    data.augment,
    data.verify,
    train.train,
    gate.gate,
    models.models,
    models.compare,
    predict.predict,
    deploy.export,
    deploy.demo,
):
    cli.add_command(command)
