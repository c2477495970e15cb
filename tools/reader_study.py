"""A reader study: do people take translated images for real ones?

COMMAND is one of
  create   chooses slices and writes the study's folder, which readers may
           see, and beside it the key and the readers' tokens
  serve    shows the study to readers in a browser and stores their answers
  analyse  takes the blinds off: scores, how often judged real, agreement,
           with intervals, as JSON, CSV and report.html

The images are those of trained runs (--workdirs) or lie in folders, a file
for each slice, PATIENT_SLICE.npy (.tif, .png), in the unit, with the same
slices in each (--image_dirs). See docs/reader-study.md.

Examples:
  reader_study.py create --study_dir=study --workdirs=runs/medgan,runs/pix2pix
  reader_study.py create --study_dir=study --task=pet_ct \\
      --image_dirs=target=real,medgan=ours,pix2pix=theirs
  reader_study.py serve --study_dir=study
  reader_study.py analyse --study_dir=study
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _run

if TYPE_CHECKING:
    from medgan_tf.data import sample
    from medgan_tf.evaluation import evaluate

COMMANDS = ("create", "serve", "analyse")

_STUDY_DIR = flags.DEFINE_string(
    "study_dir", None, "Folder of the study; create makes it.", required=True
)
_KEY = flags.DEFINE_string(
    "key", None, "Blinding key (default: STUDY_DIR_key.json)."
)
_WORKDIRS = flags.DEFINE_list(
    "workdirs",
    [],
    "create: run folders of train.py, [NAME=]DIR each; all of the same data.",
)
_IMAGE_DIRS = flags.DEFINE_list(
    "image_dirs",
    [],
    "create: folders of images, NAME=DIR each, one of them target=DIR.",
)
_TASK = flags.DEFINE_enum(
    "task", None, sorted(tasks.TASKS), "create: of --image_dirs."
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["validation", "test"], "create: patients of --workdirs."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "create: which one of --workdirs."
)
_NUM_TRIALS = flags.DEFINE_integer(
    "num_trials", 60, "create: how many a reader sees.", lower_bound=1
)
_NUM_READERS = flags.DEFINE_integer(
    "num_readers", 5, "create: how many tokens.", lower_bound=1
)
_WINDOW = flags.DEFINE_list(
    "window",
    [],
    "create: LOW,HIGH of the grey scale to begin with, in the unit (default: "
    "-300,700 HU; 0,7 SUV; 0,100 % of the maximum of MR).",
)
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "create: decides on slices and orders, tell no reader (default: drawn, "
    "and written into the key); analyse: of the resamples (default: 0).",
    lower_bound=0,
)
_INCOMPLETE = flags.DEFINE_bool(
    "incomplete", False, "analyse: although answers are missing."
)
_CASES = flags.DEFINE_enum(
    "cases",
    "patient",
    ["patient", "trial"],
    "analyse: what is independent of each other; trial: as if the slices of a "
    "patient were.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "analyse: for results (default: STUDY_DIR_analysis)."
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: address to listen at.")
_PORT = flags.DEFINE_integer(
    "port", 8600, "serve: 0: any that is free.", 0, 65535
)
_CERTFILE = flags.DEFINE_string(
    "certfile", None, "serve: certificate, PEM; needed for another --host."
)
_KEYFILE = flags.DEFINE_string(
    "keyfile", None, "serve: its private key, unless in --certfile."
)
_BEHIND_PROXY = flags.DEFINE_bool(
    "behind_proxy", False, "serve: a reverse proxy brings the encryption."
)
# Which command knows a flag that not all know.
_OF = {
    "create": (
        *("workdirs", "image_dirs", "task", "split", "checkpoint", "key"),
        *("num_trials", "num_readers", "window", "seed"),
    ),
    "serve": ("host", "port", "certfile", "keyfile", "behind_proxy"),
    "analyse": ("key", "seed", "incomplete", "cases", "output_dir"),
}


class _Images(NamedTuple):
    """What `trials.create` takes.

    Attributes:
      task: whose target is judged.
      samples: see there.
      methods: see there.
      origin: for the key.
    """

    task: tasks.Task
    samples: Callable[[], Iterable[sample.Sample]]
    methods: dict[str, evaluate.Translate]
    origin: dict


def main(arguments: list[str]) -> None:
    (command,) = arguments
    if command not in COMMANDS:
        raise errors.UsageError(
            f"COMMAND is {command!r}; expected {', '.join(COMMANDS)}."
        )
    known = {name for names in _OF.values() for name in names}
    given = {name for name in known if flags.FLAGS[name].present}
    if wrong := given - set(_OF[command]):
        raise errors.UsageError(
            f"--{min(wrong)} is no flag of {command}; leave it out."
        )
    {"create": _create, "serve": _serve, "analyse": _analyse}[command]()


def _create() -> None:
    if bool(_WORKDIRS.value) == bool(_IMAGE_DIRS.value):
        raise errors.UsageError(
            f"got {'both' if _WORKDIRS.value else 'neither'} --workdirs and "
            "--image_dirs; expected one of them."
        )
    window = _run.numbers("window", _WINDOW.value)
    if window and len(window) != 2:
        raise errors.UsageError("--window: expected LOW,HIGH; see --help")
    if _WORKDIRS.value:
        _run.import_tensorflow()
    from medgan_tf.evaluation import statistics
    from medgan_tf.reader_study import choice, trials

    images = _of_runs() if _WORKDIRS.value else _of_folders()
    seed = secrets.randbits(63) if _SEED.value is None else _SEED.value
    made = trials.create(
        _STUDY_DIR.value,
        images.samples,
        images.methods,
        trials.Plan(
            task=images.task,
            num_trials=_NUM_TRIALS.value,
            num_readers=_NUM_READERS.value,
            seed=seed,
            window=window or None,
            origin=images.origin,
        ),
        key_path=_KEY.value,
    )
    least, most = (f(made.per_patient.values()) for f in (min, max))
    print(
        f"{_NUM_TRIALS.value} trials of target, {', '.join(images.methods)}: "
        f"{len(made.per_patient)} patient(s) with "
        f"{least if least == most else f'{least} to {most}'} each."
    )
    if len(made.per_patient) < statistics.FEWEST_FOR_INTERVAL:
        print(
            "From fewer than "
            f"{statistics.FEWEST_FOR_INTERVAL} patients analyse can make no "
            "intervals, unless it is to take slices for independent."
        )
    print(
        f"{made.num_small} of {made.num_slices} slices were left out, with "
        f"less body than {choice.LEAST_BODY:.0%} of the largest section."
    )
    print(f"{made.folder}  what readers see")
    print(f"{made.key}  the key: keep it from readers")
    print(f"{made.tokens}  a token for each of {_NUM_READERS.value} readers")


def _of_runs() -> _Images:
    """The generators of runs that share their data."""
    import tensorflow as tf

    from medgan_tf.data import records
    from medgan_tf.training import checkpoint

    runs = {}
    for text in _WORKDIRS.value:
        name, folder = _named(text)
        run = checkpoint.load_run(folder)
        name = name or run.method.name
        if name in runs:
            raise errors.UsageError(
                f"--workdirs: two runs are called {name}; give NAME=DIR."
            )
        runs[name] = run
    first = next(iter(runs.values()))
    task, fingerprint = first.restored_task(), first.data["fingerprint"]
    for run in runs.values():
        if (
            run.data["fingerprint"] != fingerprint
            or run.restored_task() != task
        ):
            raise errors.ArtefactError(
                f"{run.workdir} and {first.workdir} were trained on different "
                "data; expected the same task and records."
            )
    dataset = records.open_dataset(first.data["folder"])
    records.check_task(dataset, task)
    if dataset.info["fingerprint"] != fingerprint:
        raise errors.ArtefactError(
            f"{dataset.folder} is no longer the data that {first.workdir} was "
            "trained on; restore it."
        )
    methods, origin = {}, {}
    for name, run in runs.items():
        # Where the generator draws, it draws the same each time.
        tf.keras.utils.set_random_seed(run.config.seed)
        generator, step = checkpoint.load_generator(run, _CHECKPOINT.value)
        methods[name] = tf.function(generator, reduce_retracing=True)
        origin[name] = {"workdir": str(run.workdir), "step": step}
    return _Images(
        task,
        lambda: dataset.samples(_SPLIT.value),
        methods,
        {"data_fingerprint": fingerprint, "split": _SPLIT.value, **origin},
    )


def _of_folders() -> _Images:
    """Images that are there already."""
    from medgan_tf.reader_study import folders

    if not _TASK.value:
        raise errors.UsageError(
            "--image_dirs needs --task, for the unit and the window."
        )
    if wrong := [
        name for name in ("split", "checkpoint") if flags.FLAGS[name].present
    ]:
        raise errors.UsageError(f"--{wrong[0]} goes together with --workdirs.")
    paths = {}
    for text in _IMAGE_DIRS.value:
        name, folder = _named(text)
        if not name or name in paths:
            raise errors.UsageError(
                f"--image_dirs={text}: expected NAME=DIR, each name once."
            )
        paths[name] = folder
    task = tasks.TASKS[_TASK.value]
    samples, methods = folders.open_folders(paths, task.target)
    return _Images(task, samples, methods, {"image_dirs": paths})


def _named(text: str) -> tuple[str, str]:
    """Name and folder of NAME=DIR; no name where there is only a folder."""
    name, _, folder = text.rpartition("=")
    return name, folder


def _serve() -> None:
    try:
        from medgan_tf.reader_study import server
    except ImportError as error:
        raise errors.UsageError(
            f"serve lacks a package ({error}); pip install 'medgan_tf[study]'."
        ) from error

    server.serve(
        _STUDY_DIR.value,
        _HOST.value,
        _PORT.value,
        certfile=_CERTFILE.value,
        keyfile=_KEYFILE.value,
        behind_proxy=_BEHIND_PROXY.value,
        started=lambda address: print(f"Serving at {address}", flush=True),
    )


def _analyse() -> None:
    from medgan_tf.evaluation import report
    from medgan_tf.reader_study import analysis, reading_report, readings

    study_dir = pathlib.Path(_STUDY_DIR.value).absolute()
    read, rows = readings.read(
        study_dir, _KEY.value, allow_incomplete=_INCOMPLETE.value
    )
    seed = _SEED.value or 0
    found = analysis.analyse(read, cases=_CASES.value, seed=seed)
    folder = pathlib.Path(
        _OUTPUT_DIR.value or study_dir.with_name(f"{study_dir.name}_analysis")
    )
    content = {
        "title": read.title,
        "num_answers": read.num_answers,
        "num_expected": read.num_expected,
        "readers": read.readers,
        "num_trials": len(read.trials),
        "labels": read.labels,
        "seed": seed,
        **dataclasses.asdict(found),
    }
    files = {
        "analysis.json": json.dumps(content, indent=2, allow_nan=False),
        "table3.csv": readings.csv_text(analysis.flat(found)),
        "answers.csv": readings.csv_text(rows),
    }
    for name, text in files.items():
        report.write_whole(folder / name, text.encode())
    reading_report.write(folder / "report.html", found, read)
    print(reading_report.text(found, read))
    for name in (*files, "report.html"):
        print(folder / name)


def run() -> None:
    _run.run(main, ("COMMAND",))


if __name__ == "__main__":
    run()
