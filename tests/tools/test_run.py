"""A script answers a mistake with one line and the documented exit code."""

import os
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

SCRIPT = '''
"""Does what it is told.

    script.py --task=pet_ct
"""

import errno
import os
import signal
import sys
import types
import warnings

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

TASK = flags.DEFINE_enum(
    "task", None, ["pet_ct", "mr_ct"], "What to translate.", required=True
)
RATE = flags.DEFINE_float("rate", 0.5, "How fast to learn.")
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", 0)
RAISE = flags.DEFINE_string("raise", "", "What goes wrong.")


class ResourceExhaustedError(Exception):
    message = "OOM when allocating\\nshape[9]"


sys.modules["tensorflow"] = types.SimpleNamespace(
    errors=types.SimpleNamespace(
        ResourceExhaustedError=ResourceExhaustedError
    )
)

FAULTS = {
    "data": errors.DataError("no images in pet/,\\nexpected some"),
    "stopped": errors.Stopped("stopped by SIGTERM, state saved", 143),
    "memory": MemoryError("Unable to allocate 8 TiB"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "read-only": OSError(errno.EROFS, "Read-only file system", "/cd/x"),
    "device": ResourceExhaustedError(),
    "interrupt": KeyboardInterrupt(),
    "bug": ZeroDivisionError("our fault"),
    "missing": FileNotFoundError(errno.ENOENT, "No such file", "x.nii"),
}


def main(arguments):
    if RAISE.value == "SIGTERM":
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            print("taken for an error of somebody's own")
    elif RAISE.value == "warning":
        warnings.warn("left and right are a guess", stacklevel=1)
        warnings.warn("left and right are a guess", stacklevel=2)
    elif RAISE.value:
        raise FAULTS[RAISE.value]
    print(TASK.value, SEED.value, arguments)
    print(os.environ["TF_CPP_MIN_LOG_LEVEL"])


def run() -> None:
    _run.run(main, POSITIONAL)


if __name__ == "__main__":
    run()
'''


@pytest.fixture
def script(tmp_path):
    """Runs the script above: (*command line, positional=...) -> finished."""

    def call(*command_line, positional=(), **environment):
        file = tmp_path / "script.py"
        source = SCRIPT.replace("POSITIONAL", repr(positional))
        file.write_text(source.lstrip(), encoding="utf-8")
        inherited = dict(os.environ)
        inherited.pop("TF_CPP_MIN_LOG_LEVEL", None)
        return subprocess.run(
            [sys.executable, file, *command_line],
            capture_output=True,
            text=True,
            timeout=60,
            env=inherited | environment,
        )

    return call


def test_flags_and_arguments_reach_main(script):
    done = script(
        "in.nii",
        "--task=mr_ct",
        "--seed=7",
        "out.nii",
        positional=("IN", "OUT"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "mr_ct 7 ['in.nii', 'out.nii']\n3\n"


def test_a_log_level_that_the_user_set_is_kept(script):
    done = script("--task=mr_ct", TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stdout.endswith("\n0\n"), done.stderr


def test_a_flagfile_gives_flags(script, tmp_path):
    recipe = tmp_path / "recipe.flags"
    recipe.write_text("# A remark.\n--task=pet_ct\n--seed=3\n")
    done = script(f"--flagfile={recipe}")
    assert done.stdout.startswith("pet_ct 3 []"), done.stderr


@pytest.mark.parametrize(
    ("command_line", "line"),
    [
        ([], "--task is required"),
        (["--task=foo"], "--task=foo: expected one of pet_ct, mr_ct"),
        (["--task"], "--task needs a value"),
        (["--task=pet_ct", "--seed=x"], "--seed=x: expected a whole number"),
        (
            ["--task=pet_ct", "--seed=-1"],
            "--seed=-1: -1 is not a non-negative integer",
        ),
        (["--task=pet_ct", "--rate=fast"], "--rate=fast: expected a number"),
        (["--task=pet_ct", "--colour=red"], "unknown flag --colour"),
        (
            ["--task=pet_ct", "--ratee=1"],
            "unknown flag --ratee, did you mean --rate?",
        ),
        (
            ["--flagfile=no.flags"],
            "--flagfile: [Errno 2] No such file or directory: 'no.flags'",
        ),
        (["--task=pet_ct", "seed=1"], "expected flags only, got seed=1"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(script, command_line, line):
    done = script(*command_line)
    assert done.returncode == 1
    assert done.stderr == f"script.py: {line}; see --help\n"
    assert done.stdout == ""


def test_a_missing_argument_is_told_by_its_name(script):
    done = script("--task=pet_ct", "in.nii", positional=("INPUT", "OUTPUT"))
    assert done.returncode == 1
    assert done.stderr == (
        "script.py: expected INPUT OUTPUT, got in.nii; see --help\n"
    )


@pytest.mark.parametrize(
    ("fault", "exit_code", "line"),
    [
        ("data", 3, "no images in pet/, expected some"),
        ("stopped", 143, "stopped by SIGTERM, state saved"),
        (
            "memory",
            6,
            "out of memory, make the batch or the volume smaller. "
            "Unable to allocate 8 TiB",
        ),
        (
            "disk",
            6,
            "the disk is full, free some space. "
            "[Errno 28] No space left on device",
        ),
        (
            "quota",
            6,
            "the disk is full, free some space. "
            "[Errno 122] Disk quota exceeded",
        ),
        ("read-only", 6, "/cd/x: read-only; choose another place."),
        (
            "device",
            6,
            "out of memory or disk space. OOM when allocating shape[9]",
        ),
        ("interrupt", 130, "interrupted"),
    ],
)
def test_an_error_that_the_user_can_mend_is_one_line(
    script, fault, exit_code, line
):
    done = script("--task=pet_ct", f"--raise={fault}")
    assert done.returncode == exit_code
    assert done.stderr == f"script.py: {line}\n"


def test_a_warning_is_one_line_and_told_once(script):
    done = script("--task=pet_ct", "--raise=warning")
    assert done.returncode == 0
    assert done.stderr == "script.py: left and right are a guess\n"


def test_no_handler_of_errors_takes_sigterm_for_one(script):
    done = script("--task=pet_ct", "--raise=SIGTERM")
    assert done.returncode == 143
    assert done.stdout == ""
    assert done.stderr == (
        "script.py: stopped by SIGTERM, nothing half-written is left.\n"
    )


@pytest.mark.parametrize(
    ("fault", "last"),
    [("bug", "ZeroDivisionError: our fault"), ("missing", "'x.nii'")],
)
def test_a_fault_of_ours_keeps_its_traceback(script, fault, last):
    done = script("--task=pet_ct", f"--raise={fault}")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith(last)


def test_help_is_short_and_no_error(script):
    done = script("--help", "--task=nonsense", positional=("INPUT",))
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == textwrap.dedent("""\
        usage: script.py [--flag=value ...] INPUT

        Does what it is told.

        script.py --task=pet_ct

          --raise: What goes wrong.
          --rate: How fast to learn. (default: 0.5)
          --seed: Of the draws. (default: 0)
          --task: <pet_ct|mr_ct>: What to translate.
          --flagfile: a file with one flag per line
        """)


def test_help_comes_at_once(script):
    start = time.perf_counter()
    script("--help")
    # The aim is 0.5 s; three times that, because a busy machine is slow.
    assert time.perf_counter() - start < 1.5


def test_help_whose_reader_stops_early_ends_without_a_word():
    tool = pathlib.Path(__file__).parents[2] / "tools" / "export.py"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, tool, "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
