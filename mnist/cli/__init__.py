"""The command-line interface: each command parses its options, calls the library, and prints the result.

PyTorch takes seconds to import. A command therefore imports PyTorch, and every module that needs it, only when it runs,
so ``--help`` and the error for a misspelled option appear at once. The module of a command is imported on first use.
"""

import difflib
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from mnist import __version__, files
from mnist.cli import display, process, streams
from mnist.errors import MnistError, first_line

# The module in this package that defines each command.
COMMANDS = {
    "augment": "data",
    "compare": "models",
    "data": "data",
    "demo": "deploy",
    "export": "deploy",
    "gate": "gate",
    "models": "models",
    "predict": "predict",
    "recipes": "recipes",
    "train": "train",
    "verify": "data",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its exit code.

    The exit code is 2 for bad input (reported in one line on stderr), 3 for an internal error, and 128 + N after signal
    N. If some output could not be written, the exit code is 2 instead of 0, unless the reader of a pipe closed it.
    """
    streams.protect(display.SYMBOLS_ERROR_HANDLER)
    warnings.filterwarnings("ignore", module="PIL")  # Pillow warns about odd files that it can read
    code = _run(arguments)
    if error := streams.lost_output():
        display.write(f"error: some output could not be written: {error.strerror}", err=True)
    sys.exit(code or (process.BAD_INPUT if error else 0))


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command, report its errors on stderr, and return its exit code."""
    settings = {"debug": False}
    with process.interruptible() as signals:
        try:
            return cli.main(arguments, prog_name="mnist", standalone_mode=False, obj=settings) or 0
        except SystemExit as exited:
            if not isinstance(exited.code, str):
                return exited.code or 0
            message = exited.code
        except (click.Abort, KeyboardInterrupt):
            display.write("error: interrupted (no file was left half-written)", err=True)
            return process.SIGNAL_BASE + signals[0] if signals else process.INTERRUPTED
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "mnist"
            message = f"{error.format_message().rstrip('.')} (see '{path} --help')"
        except (click.ClickException, MnistError) as error:
            message = str(error)
        except Exception as error:
            display.write(f"error: {_describe_internal_error(error, settings['debug'])}", err=True)
            return process.INTERNAL_ERROR
        display.write(f"error: {message}", err=True)
        return process.BAD_INPUT


def _describe_internal_error(error: Exception, debug: bool) -> str:
    """Return a one-line error report; save the traceback, or print it if ``debug`` is set or saving fails."""
    message = f"internal error: {type(error).__name__}: {first_line(error)}"
    if not debug and (path := process.save_traceback(error)):
        return f"{message} (please report it with the file {path})"
    import traceback

    for line in "".join(traceback.format_exception(error)).splitlines():
        display.write(line, err=True)
    return f"{message} (please report it with the lines above)"


class _Commands(click.Group):
    """The group of all commands. An operating-system error is reported in the same way as bad input."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"mnist.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            nearest = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
            raise click.UsageError(f"there is no command '{args[0]}'{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:  # otherwise, click would exit with 1 for a closed pipe
            raise MnistError(files.explain(error)) from error


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Print the traceback of an internal error instead of saving it in a file.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Train a classifier for MNIST digits with under 25,000 parameters, and judge whether it may ship.

    \b
    mnist train           download the data, train a model, save it, and judge it
    mnist gate            judge the newest model; exit code 1 if it must not ship
    mnist predict IMAGE   recognize the digit in a picture
    mnist demo            write a web page to draw digits on

    Exit codes: 0 success; 1 the model is blocked, or a file is not intact; 2 bad input, reported in one line on
    stderr; 3 an internal error; 128 + N ended by signal N (130: Ctrl-C).
    """
    context.obj["debug"] = debug
    if context.invoked_subcommand is None:
        for line in context.get_help().splitlines():
            display.write(line)
