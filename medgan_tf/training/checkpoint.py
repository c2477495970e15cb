"""The state of a run on disk: run.json, checkpoints, and the way back.

workdir/
  run.json             resolved method, task, settings, data, versions
  metrics.jsonl        every number that was logged
  train/ validation/   TensorBoard events
  checkpoints/ckpt-N   everything that training changes, the last two; one that
                       was found damaged is kept as ckpt-N....corrupt, one of
                       a training that diverged as ckpt-N....diverged
  best/ckpt-N          the generator that validated best, best.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import logging
import math
import os
import pathlib
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

import medgan_tf
from medgan_tf import errors, methods, sealed, tasks
from medgan_tf.data import records
from medgan_tf.models import casnet
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

# Settings that decide on what is learnt; the others only on how long and how
# often.
_MADE_WITH = (
    "seed",
    "batch_size",
    "precision",
    "vgg_weights",
    "jitter_size",
    "flip",
    "best_metric",
)

RUN_FILE = "run.json"
BEST_FILE = "best.json"
# Held while a run is trained; the system frees it however the process ends.
LOCK_FILE = ".lock"
CORRUPT = ".corrupt"
DIVERGED = ".diverged"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder says of itself.

    Attributes:
      workdir: the folder.
      task: name of the row in TASKS.
      method: the resolved row.
      config: the settings.
      data: facts of the data set: fingerprint, folder, channels, simulated.
      versions: of the programs that wrote it.
    """

    workdir: pathlib.Path
    task: str
    method: methods.Method
    config: configs.TrainConfig
    data: dict
    versions: dict

    def restored_task(self) -> tasks.Task | None:
        """The task on the run's data; see `tasks.restored`."""
        return tasks.restored(self.data["task_row"])

    def save(self) -> None:
        """Makes the folder and writes run.json, whole or not at all.

        Raises:
          errors.ResourceError: the folder cannot be written.
        """
        content = dataclasses.asdict(self)
        del content["workdir"]
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            sealed.write(self.workdir / RUN_FILE, content)
        except OSError as error:
            raise errors.ResourceError(
                f"--workdir={self.workdir} cannot be written "
                f"({error.strerror}); choose another folder."
            ) from error


def open_run(
    workdir: str | os.PathLike,
    task: tasks.Task,
    method: methods.Method,
    config: configs.TrainConfig,
    dataset: records.Dataset,
) -> Run:
    """A new run, or the same run again; nothing is written yet.

    Raises:
      errors.ArtefactError: the folder holds another run, or a name that
        TensorFlow cannot read.
      errors.ResourceError: the folder cannot be written.
    """
    workdir = pathlib.Path(workdir)
    _check_name(workdir)
    run = Run(
        workdir,
        task.name,
        method,
        config,
        {
            "folder": str(dataset.folder),
            **{
                name: dataset.info[name]
                for name in (
                    "fingerprint",
                    "origin",
                    "is_simulated",
                    "source_channels",
                    "target_channels",
                    "task_row",
                )
            },
            # Older records have none.
            "ids_from": dataset.info.get("ids_from"),
            "train_patients": dataset.patients("train"),
        },
        {
            "medgan_tf": medgan_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
    # Because pathlib's own test fails on a name that is too long.
    if os.path.exists(workdir / RUN_FILE):
        _check_same(load_run(workdir), run)
        _check_folders(workdir)
    elif os.path.isdir(workdir) and any(
        # The last is left by a run that was killed as it began.
        not (entry.name == LOCK_FILE or entry.name.startswith(f".{RUN_FILE}."))
        for entry in workdir.iterdir()
    ):
        raise errors.ArtefactError(
            f"--workdir={workdir} is not empty and holds no {RUN_FILE}; "
            "expected a new folder or the one of a run: choose another."
        )
    _try_to_write(workdir)
    return run


def _check_name(workdir: pathlib.Path) -> None:
    """Refuses a folder in which TensorFlow would not find its files again."""
    if found := sorted(set(str(workdir)) & set("*?[\\")):
        raise errors.ArtefactError(
            f"--workdir={workdir} holds {' '.join(found)}, which TensorFlow "
            "takes for a pattern of names; rename the folder."
        )


def _check_folders(workdir: pathlib.Path) -> None:
    """Refuses a file where a folder of the run should be."""
    for name in ("checkpoints", "best", "train", "validation"):
        path = workdir / name
        if path.exists() and not path.is_dir():
            raise errors.ArtefactError(
                f"{path} is a file, expected a folder of the run; bring the "
                "folder back, or start again in a new --workdir."
            )


def _try_to_write(workdir: pathlib.Path) -> None:
    """Refuses a folder before hours of work go into it; leaves no trace."""
    missing = [
        folder
        for folder in (workdir, *workdir.parents)
        if not os.path.exists(folder)
    ]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise errors.ResourceError(
            f"--workdir={workdir} cannot be written ({error.strerror}); free "
            "some space, or choose another folder."
        ) from error
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def load_run(workdir: str | os.PathLike) -> Run:
    """Reads run.json.

    Raises:
      errors.ArtefactError: there is none, or it cannot be read, or the folder
        has a name that TensorFlow cannot read.
    """
    path = pathlib.Path(workdir) / RUN_FILE
    _check_name(path.parent)
    try:
        content = sealed.read(path)
        run = Run(
            path.parent,
            content["task"],
            methods.Method(**_tuples(content["method"])),
            configs.TrainConfig(**content["config"]),
            content["data"],
            content["versions"],
        )
        is_same_task = run.restored_task() is not None
    except FileNotFoundError as error:
        raise errors.ArtefactError(
            f"--workdir={workdir} holds no {RUN_FILE}; expected the folder of "
            "a run: give the --workdir that train.py had."
        ) from error
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.ArtefactError(
            f"{path} cannot be read ({error}); it was changed, or is of an "
            "older version: copy it again, or train again in a new folder."
        ) from error
    if not is_same_task:
        raise errors.ArtefactError(
            f"{path} was trained when the row of task {run.task} was another "
            "(windows, modalities or simulator); restore that row in tasks.py, "
            "or prepare and train again."
        )
    return run


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Keeps a second training out of the folder, which is made.

    Raises:
      errors.ResourceError: another process trains there, or the folder cannot
        be written.
    """
    path = run.workdir / LOCK_FILE
    try:
        run.workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise errors.ResourceError(
            f"--workdir={run.workdir} cannot be written ({error.strerror}); "
            "choose another folder."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise errors.ResourceError(
                f"--workdir={run.workdir} is in use by "
                f"{file.read().strip() or 'another process'}; wait for it, or "
                "choose another folder."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


class Checkpoints:
    """Saves and restores all that a trainer changes.

    Args:
      run: the run folder.
      trainer: what is saved and restored.
    """

    def __init__(self, run: Run, trainer: steps.Trainer):
        self._run = run
        self._trainer = trainer
        self._state = tf.train.Checkpoint(**trainer.checkpointable)
        _list_anew(run.workdir / "best")
        self._saved_step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._manager = self._managed()
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                generator=steps.named_weights(trainer.translator),
                step=self._saved_step,
            ),
            str(run.workdir / "best"),
            max_to_keep=1,
        )

    def restore(self) -> int:
        """Goes back to the last checkpoint that is whole.

        One that is damaged is said, renamed and kept.

        Returns:
          Its step; 0 if there never was one.

        Raises:
          errors.ArtefactError: checkpoints are there and none can be used, or
            one is whole and of another network.
        """
        folder = self._run.workdir / "checkpoints"
        found = _found(folder)
        for path in found:
            _check_readable(path)
            # Before it is restored: what a failed one leaves would stay.
            if _is_whole(path):
                _restore(self._state, path, "remove it to use the one before")
                _check_step(path, self._trainer.step)
                _tell_lost(folder, self._trainer.step)
                return self._trainer.step
            _put_aside(path, CORRUPT)
            # So that it is not counted among those kept.
            self._manager = self._managed()
            _log.warning(
                "%s is damaged and was renamed *%s; going back to the one "
                "before.",
                path,
                CORRUPT,
            )
        lost = _without_index(folder)
        # A single one may be the first save, broken off.
        if found or len(lost) > 1 or any(folder.glob(f"ckpt-*{CORRUPT}")):
            raise errors.ArtefactError(
                f"{folder}: no checkpoint there can be used; restore one from "
                "a copy, or start again in a new folder."
            )
        if lost or self.best_step is not None:
            _log.warning(
                "%s holds no whole checkpoint, though something was saved: "
                "training begins at step 0.",
                folder,
            )
        return 0

    def _managed(self) -> tf.train.CheckpointManager:
        folder = self._run.workdir / "checkpoints"
        _list_anew(folder)
        config = self._run.config
        max_to_keep = 2
        if config.on_divergence == "rollback":
            # One from before the first sign must be left when it is believed.
            max_to_keep += -(-2 * config.divergence_steps // config.save_every)
        return tf.train.CheckpointManager(
            self._state, str(folder), max_to_keep=max_to_keep
        )

    def go_back(self, before: int) -> int:
        """Goes back to the last checkpoint from before a step.

        Later ones are renamed and kept.

        Returns:
          Its step.

        Raises:
          errors.DivergedError: there is none.
        """
        later = [path for path in self._paths if _step_of(path) >= before]
        if len(later) == len(self._paths):
            raise errors.DivergedError(
                f"{self._run.workdir} holds no checkpoint from before step "
                f"{before} to go back to; start again in a new folder with a "
                "lower --set=learning_rate=... or --save_every."
            )
        for path in later:
            _put_aside(path, DIVERGED)
        self._manager = self._managed()
        return self.restore()

    @property
    def last(self) -> str:
        """The newest checkpoint, for people."""
        return self._paths[0] if self._paths else "none"

    @property
    def _paths(self) -> list[str]:
        return _found(self._run.workdir / "checkpoints")

    def save(self, step: int) -> None:
        """Saves everything; the last two checkpoints are kept."""
        _save(self._manager, step)

    def save_if_best(
        self, step: int, metric: str, value: float, higher_is_better: bool
    ) -> bool:
        """Keeps the generator if it validated better than any before."""
        # As the PSNR where all slices are equal to their targets.
        if not math.isfinite(value):
            return False
        before = self._best_so_far()
        if before:
            best = before["value"]
            if not (value > best if higher_is_better else value < best):
                return False
        self._saved_step.assign(step)
        _save(self._best, step)
        with _telling_lack(step, self._run.workdir):
            sealed.write(
                self._run.workdir / BEST_FILE,
                {"step": step, "metric": metric, "value": value},
            )
        return True

    @property
    def best_step(self) -> int | None:
        """The step that validated best so far."""
        best = self._best_so_far()
        return best and best["step"]

    def _best_so_far(self) -> dict | None:
        path = self._run.workdir / BEST_FILE
        if not path.exists():
            return None
        try:
            best = sealed.read(path)
            return {"step": best["step"], "value": best["value"]}
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise errors.ArtefactError(
                f"{path} cannot be read ({error}); remove it to choose "
                "the best anew."
            ) from error


def load_generator(
    run: Run, which: str = "best", precision: str = "float32"
) -> tuple[casnet.CasNet, int]:
    """The trained generator of a run, and the step it is from.

    Args:
      run: from `load_run`.
      which: "best", by validation, or "last".
      precision: Keras dtype policy to compute in; with "bfloat16" the
        weights are rounded to it too.

    Raises:
      errors.ArtefactError: the run has no such checkpoint.
    """
    path = _path_of(run, which)

    def build(policy):
        return steps.build_generator(
            run.method,
            run.data["source_channels"],
            run.data["target_channels"],
            policy,
        )

    generator = build("float32" if precision == "bfloat16" else precision)
    # The best checkpoint holds nothing else.
    is_averaged = run.method.averaging and which == "last"
    name = "averaged" if is_averaged else "generator"
    other = "last" if which == "best" else "best"
    step = tf.Variable(0, trainable=False, dtype=tf.int64)
    _restore(
        tf.train.Checkpoint(
            **{name: steps.named_weights(generator)}, step=step
        ),
        path,
        f"choose --checkpoint={other}, or train again",
    )
    _check_step(path, int(step.numpy()))
    if precision == "bfloat16":
        kept, generator = generator, build(precision)
        for weight, value in zip(generator.weights, kept.weights, strict=True):
            weight.assign(value)
    return generator, step_of(run, which)


def step_of(run: Run, which: str = "best") -> int:
    """The step of a checkpoint; see `load_generator`."""
    return _step_of(_path_of(run, which))


def _path_of(run: Run, which: str) -> str:
    folder = {"best": "best", "last": "checkpoints"}[which]
    found = _found(run.workdir / folder)
    if not found:
        raise errors.ArtefactError(
            f"{run.workdir} holds no {which} checkpoint; train it longer, or "
            "choose the other --checkpoint (there is no best one without "
            "validation patients)."
        )
    return found[0]


def _step_of(path: str) -> int:
    return int(path.rsplit("-", 1)[1])


def _check_step(path: str, step: int) -> None:
    """Refuses a checkpoint that another step than its name's is in."""
    if step != _step_of(path):
        raise errors.ArtefactError(
            f"{path} holds step {step}: its files were renamed; give all "
            "checkpoints their names back, or start again in a new folder."
        )


def _restore(state: tf.train.Checkpoint, path: str, remedy: str) -> None:
    try:
        status = state.restore(path)
        status.assert_existing_objects_matched()
        # The slots and counters that a generator alone does not need.
        status.expect_partial()
    except (tf.errors.OpError, ValueError, AssertionError, IndexError) as error:
        raise errors.ArtefactError(
            f"Checkpoint {path} cannot be restored "
            f"({str(error).splitlines()[0]}); {remedy}."
        ) from error


def _save(manager: tf.train.CheckpointManager, step: int) -> None:
    folder = pathlib.Path(manager.directory)
    try:
        with _telling_lack(step, folder):
            manager.save(checkpoint_number=step)
    except errors.ResourceError:
        # What it takes may be what others lack.
        for leftover in folder.glob("ckpt-*_temp"):
            shutil.rmtree(leftover, ignore_errors=True)
        raise


@contextlib.contextmanager
def _telling_lack(step: int, folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or error.message
        raise errors.ResourceError(
            f"Checkpoint of step {step} cannot be saved in {folder} "
            f"({reason}); free some space: the same command goes on from the "
            "one before."
        ) from error


def _found(folder: pathlib.Path) -> list[str]:
    """Paths of the checkpoints of a folder, the last first.

    By their own names: TensorFlow's list of them may be missing or damaged,
    or point elsewhere.
    """
    steps_found = sorted(
        int(match.group(1))
        for file in folder.glob("ckpt-*.index")
        if (match := re.fullmatch(r"ckpt-(\d+)\.index", file.name))
    )
    return [str(folder / f"ckpt-{step}") for step in reversed(steps_found)]


def _without_index(folder: pathlib.Path) -> list[int]:
    """Steps of checkpoints whose index is gone or was never written."""
    return sorted(
        {
            int(match.group(1))
            for file in folder.glob("ckpt-*.data-*")
            if (match := re.fullmatch(r"ckpt-(\d+)\.data-[-\w]+", file.name))
            and not os.path.exists(folder / f"ckpt-{match.group(1)}.index")
        }
    )


def _tell_lost(folder: pathlib.Path, step: int) -> None:
    """Says which later checkpoints have no index."""
    for lost in _without_index(folder):
        if lost > step:
            _log.warning(
                "%s/ckpt-%d has no index: its save was broken off, or the file "
                "is gone; going on from step %d.",
                *(folder, lost, step),
            )


def _list_anew(folder: pathlib.Path) -> None:
    """Writes TensorFlow's list of checkpoints from what is there.

    What a save left behind that was broken off is removed.
    """
    if not folder.is_dir():
        return
    for leftover in folder.glob("ckpt-*_temp"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = _found(folder)[::-1]
    # Names alone, so that the folder can be moved.
    names = [os.path.basename(path) for path in found]
    if names:
        # Because the function that writes it too warns at each call.
        state = tf.compat.v1.train.generate_checkpoint_state_proto(
            str(folder.absolute()),
            names[-1],
            all_model_checkpoint_paths=names,
            # One without a time would never be deleted.
            all_model_checkpoint_timestamps=[
                os.path.getmtime(f"{path}.index") for path in found
            ],
        )
        path = folder / "checkpoint"
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(str(state))
        os.replace(temporary, path)


def _check_readable(path: str) -> None:
    """Raises PermissionError for a checkpoint that is not ours to judge."""
    folder, name = os.path.split(path)
    for file in pathlib.Path(folder).glob(f"{name}.*"):
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))


def _is_whole(path: str) -> bool:
    """Whether every number of a checkpoint can be read: each has a checksum."""
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    # A damaged file is told by several kinds of exceptions, some bare.
    except Exception:
        return False
    return True


def _put_aside(path: str, why: str) -> None:
    folder, name = os.path.split(path)
    for file in pathlib.Path(folder).glob(f"{name}.*"):
        if not file.name.endswith((CORRUPT, DIVERGED)):
            file.rename(file.with_name(file.name + why))


def _check_same(before: Run, now: Run) -> None:
    """Raises unless `now` continues `before`."""
    differences = []
    if before.task != now.task:
        differences.append(f"task={before.task}")
    for field in dataclasses.fields(methods.Method):
        old = getattr(before.method, field.name)
        if old != getattr(now.method, field.name) and field.name != "title":
            name = "method" if field.name == "name" else field.name
            differences.append(f"{name}={old}")
    for name in _MADE_WITH:
        if getattr(before.config, name) != getattr(now.config, name):
            differences.append(f"{name}={getattr(before.config, name)}")
    if before.data["fingerprint"] != now.data["fingerprint"]:
        differences.append(f"other data ({before.data['folder']})")
    if differences:
        raise errors.ArtefactError(
            f"--workdir={now.workdir} holds a run with "
            f"{', '.join(differences)}; to go on with it give the same, to "
            "start another choose a new --workdir."
        )


def _tuples(row: dict) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
