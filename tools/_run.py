"""What every script shares: flags, help, and errors in one line.

A script ends with

    def run() -> None:
        _run.run(main)


    if __name__ == "__main__":
        run()

and imports TensorFlow only inside `main`, so that `--help` and a mistyped
flag answer at once.
"""

import errno
import inspect
import logging
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import types
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from medgan_tf import allocator, errors

# Because TensorFlow reads this when it is first imported, and a screen full
# of its notes hides ours. What matters is raised as an exception too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_HELP_FLAGS = ("--help", "-help", "-h", "-?")

# No room, no room in the user's quota, no room for a file of that size.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# absl's wording of one line -> ours.
_REWORDED = (
    (r"^flag --(\w+)=None: .* value other than None\.$", r"--\1 is required"),
    (r"^flag --", "--"),
    (r"^Missing value for flag (\S+)$", r"\1 needs a value"),
    (r"^Unknown command line flag '(.+?)'", r"unknown flag --\1"),
    (r"\. Did you mean: (.*) \?$", r", did you mean --\1?"),
    (r"^ERROR:: Unable to open flagfile: ", "--flagfile: "),
    (r": value should be one of <(.*)>$", r": expected one of \1"),
    (r": invalid literal for int\(\).*$", ": expected a whole number"),
    (r": could not convert string to float.*$", ": expected a number"),
)


def run(
    main: Callable[[list[str]], int | None], positional: Sequence[str] = ()
) -> NoReturn:
    """Runs a script's `main` and ends the process with an exit code.

    A wrong flag or argument ends with 1 and one line on standard error; an
    error that the user can mend (`errors.MedganError`) with one line and its
    own code; a lack of memory or disk space with one line and 6; Ctrl-C with
    130. Any other exception is a fault of ours and keeps its traceback.

    `--help` ends with 0, where absl alone ends with 1: who asks for help made
    no error.

    Args:
      main: takes the arguments that are not flags, without the script's name.
      positional: what these arguments are, such as ("INPUT", "OUTPUT"); any
        other number of them is an error.
    """
    # The training loop has its own handler while it runs.
    signal.signal(signal.SIGTERM, _terminate)
    # Because TensorFlow tells through it how it saves a file.
    absl_logging.set_verbosity(absl_logging.WARNING)
    warn_in_one_line()
    program = pathlib.Path(sys.argv[0]).name
    module = sys.modules[main.__module__]

    def parse(argv: list[str]) -> list[str]:
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            try:
                print(_help_text(program, module, positional), flush=True)
            except BrokenPipeError:
                # `head` has read what it wants.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        try:
            arguments = flags.FLAGS(argv)[1:]
        except (flags.Error, ValueError) as error:
            raise errors.UsageError(_reword(str(error))) from error
        if len(arguments) != len(positional):
            raise errors.UsageError(
                f"expected {' '.join(positional) or 'flags only'}, got "
                f"{' '.join(arguments) or 'nothing'}; see --help"
            )
        return arguments

    try:
        app.run(main, flags_parser=parse)
    except errors.MedganError as error:
        _stop(program, str(error), error.exit_code)
    except _Terminated:
        message = "stopped by SIGTERM, nothing half-written is left."
        _stop(program, message, 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        _stop(program, "interrupted", 130)
    except Exception as error:
        lack = _what_is_lacking(error)
        if lack is None:
            raise
        _stop(program, lack, errors.ResourceError.exit_code)


def warn_in_one_line() -> None:
    """Shows what the library warns of as this script's words, each once."""
    program = pathlib.Path(sys.argv[0]).name
    told = set()

    def show(message, *_):
        if str(message) not in told:
            told.add(str(message))
            print(f"{program}: {message}", file=sys.stderr, flush=True)

    warnings.showwarning = show


def start_worker() -> None:
    """What a process that prepares data does first."""
    warn_in_one_line()
    import_tensorflow()


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, without its notes.

    Because TensorFlow writes a few lines to standard error whatever
    TF_CPP_MIN_LOG_LEVEL says. They are shown if the import fails.
    """
    allocator.keep_freed_memory()
    sys.stderr.flush()
    shown = os.dup(2)
    # An import that a signal breaks off is reported as one that failed.
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()
        except BaseException:
            notes.seek(0)
            os.write(shown, notes.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def command(script: str, *arguments: str) -> None:
    """Runs one of the scripts as a user would, and shows its command.

    A signal is left to the script, which ends as it would alone.

    Raises:
      Stopped: it failed, with its exit code; it has said why.
    """
    print(f"\n$ {shlex.join([script, *arguments])}", flush=True)
    path = pathlib.Path(__file__).with_name(script)
    with subprocess.Popen([sys.executable, str(path), *arguments]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt as signalled:
            # Ctrl-C reaches all processes of a terminal, SIGTERM only one.
            if isinstance(signalled, _Terminated):
                process.terminate()
            code = process.wait()
            if not code:
                raise
    if code:
        # A script that a signal killed outright has its negative number.
        raise errors.Stopped(
            f"{script} did not end well; see above.",
            128 - code if code < 0 else code,
        )


def numbers(flag: str, texts: list[str]) -> tuple[float, ...]:
    """The numbers that a flag lists.

    Raises:
      UsageError: they are no numbers, or not finite.
    """
    try:
        found = tuple(float(text) for text in texts)
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise errors.UsageError(
            f"--{flag}={','.join(texts)}: expected numbers; see --help"
        )
    return found


def show_log() -> None:
    """Shows what the library logs, as plain lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("medgan_tf")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # absl's own handler would say it again, with date and thread.
    logger.propagate = False


def _reword(message: str) -> str:
    """absl's account of wrong flags, in one line of our own words."""
    lines = []
    for line in message.splitlines():
        for pattern, replacement in _REWORDED:
            line = re.sub(pattern, replacement, line)
        head, choices, names = line.partition(": expected one of ")
        lines.append(head + choices + names.replace("|", ", "))
    return "; ".join([*lines, "see --help"])


def _what_is_lacking(error: Exception) -> str | None:
    """Names the lack of memory, space or permission behind `error`, if any."""
    tensorflow = sys.modules.get("tensorflow")
    if isinstance(error, MemoryError):
        return f"out of memory, make the batch or the volume smaller. {error}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk is full, free some space. {error}"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"{error.filename}: read-only; choose another place."
    if isinstance(error, PermissionError):
        return f"{error.filename}: permission denied; check who may read it."
    if tensorflow and isinstance(
        error, tensorflow.errors.ResourceExhaustedError
    ):
        return f"out of memory or disk space. {error.message}"
    return None


def _help_text(
    program: str, module: types.ModuleType, positional: Sequence[str]
) -> str:
    """The script's docstring and its own flags, fit for 80 columns."""
    own = flags.FLAGS.get_key_flags_for_module(module)
    lines = []
    for flag in sorted(own, key=lambda flag: flag.name):
        default = (
            ""
            if flag.default in (None, [], "")
            else f" (default: {flag.default})"
        )
        lines.append(f"--{flag.name}: {flag.help}{default}")
    lines.append("--flagfile: a file with one flag per line")
    return "\n".join(
        [
            f"usage: {' '.join([program, '[--flag=value ...]', *positional])}",
            "",
            inspect.cleandoc(module.__doc__ or ""),
            "",
            *(
                textwrap.fill(
                    line,
                    width=79,
                    initial_indent="  ",
                    subsequent_indent="      ",
                    break_on_hyphens=False,
                )
                for line in lines
            ),
        ]
    )


class _Terminated(KeyboardInterrupt):
    """SIGTERM; no `except Exception` on the way, here or in TensorFlow, may
    take it for an error of its own."""


def _terminate(number: int, frame) -> NoReturn:
    """Turns SIGTERM into an exception, so that what was begun is removed.

    A second one ends the process at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Terminated


def _stop(program: str, message: str, exit_code: int) -> NoReturn:
    """Says in one line why the script ends, and ends it."""
    line = " ".join(message.split("\n")).strip()
    print(f"{program}: {line}", file=sys.stderr)
    sys.exit(exit_code)
