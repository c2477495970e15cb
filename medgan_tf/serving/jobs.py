"""A queue before a model: files come in, one volume is translated at a time.

Whatever belongs to a job lies in a folder of its own below one temporary
folder, under names of ours: nothing that a stranger calls a file becomes a
path. Of a file its voxels and its place are kept, no text of its header, and
the file itself goes once it is translated.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import pathlib
import queue
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from medgan_tf import allocator, errors, tasks
from medgan_tf.data import io, pairs, preprocess
from medgan_tf.data import volume as volumes
from medgan_tf.serving import predict, uploads

# Built-in patients that no run trains on, which count from 0.
PHANTOMS = {"Head": 900_000, "Torso": 900_001}

_LOG = logging.getLogger(__name__)


class FullError(errors.MedganError):
    """Enough volumes wait already."""

    exit_code = errors.ResourceError.exit_code


class _Removed(Exception):
    """Nobody waits for this job any more."""


@dataclasses.dataclass(frozen=True)
class Image:
    """One volume of a finished job, on the voxels of the first source.

    Attributes:
      file: its name in the folder of the job.
      kind: "source", "translated", "target" or "error".
      modality: name of the modality, such as "CT".
      unit: of the values.
      window: (low, high) in `unit` that shows all of it.
    """

    file: str
    kind: str
    modality: str
    unit: str
    window: tuple[float, float]


@dataclasses.dataclass(eq=False)
class Job:
    """What is known of one volume on its way.

    Attributes:
      name: cannot be guessed, so whoever knows it may see the job.
      folder: its files.
      sources: the volumes to translate, one for each channel.
      target: the volume to compare with, or None.
      phantom: seed of a built-in patient instead of `sources`, or None.
      state: "sending", "waiting", "translating", "done" or "failed".
      done: slices translated.
      total: slices there are; 0 until it is known.
      seconds_left: estimated, None until the first slices are done.
      notes: what a person should know of the files, a line each.
      images: of a finished job.
      error: why it failed.
    """

    name: str
    folder: pathlib.Path
    sources: list[pathlib.Path] = dataclasses.field(default_factory=list)
    target: pathlib.Path | None = None
    phantom: int | None = None
    state: str = "sending"
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    images: list[Image] = dataclasses.field(default_factory=list)
    error: Exception | None = None
    is_removed: bool = False
    touched: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def sent(self) -> pathlib.Path:
        """Where the files that came lie, apart from those that we make."""
        return self.folder / "sent"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed")


class Jobs:
    """Jobs of one model, and the thread that works through them.

    Args:
      model: from `predict.load`.
      most_unfinished: jobs sent, waiting or under way; one more is refused.
      most_kept: finished jobs whose images are kept.
      keep_s: seconds that they are kept since anyone asked for them.
    """

    def __init__(
        self,
        model: predict.Model,
        *,
        most_unfinished: int = 4,
        most_kept: int = 8,
        keep_s: float = 1800.0,
    ):
        self.model = model
        self._most_unfinished = most_unfinished
        self._most_kept = most_kept
        self._keep_s = keep_s
        self._root = tempfile.TemporaryDirectory(prefix="medgan_page_")
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._worker = threading.Thread(
            target=self._work, name="translate", daemon=True
        )
        self._worker.start()
        # For a server that ends without telling us.
        atexit.register(self.close)

    def open(self) -> Job:
        """A place in the queue, to be filled or removed.

        Raises:
          FullError: as many as we take are unfinished.
        """
        self._forget_old()
        name = secrets.token_urlsafe(16)
        job = Job(name, pathlib.Path(self._root.name) / name)
        with self._lock:
            unfinished = sum(not j.is_over for j in self._jobs.values())
            if unfinished >= self._most_unfinished or self._is_closed:
                raise FullError(
                    f"{unfinished} volumes wait already, expected fewer than "
                    f"{self._most_unfinished}; try again in a minute."
                )
            self._jobs[name] = job
        job.sent.mkdir(parents=True)
        return job

    def send_files(
        self,
        job: Job,
        sources: Sequence[tuple[str, BinaryIO]],
        target: tuple[str, BinaryIO] | None = None,
    ) -> None:
        """Checks the files of a job and puts it into the queue.

        Args:
          job: from `open`.
          sources: name and contents of each; of a name only the suffix counts.
          target: the same of what the translation is to be compared with.

        Raises:
          DataError: a file is not usable; the job is then to be removed.
          ResourceError: the disk is full.
        """
        task = self.model.task
        if len(sources) != len(task.sources):
            wanted = " and ".join(modality.name for modality in task.sources)
            raise errors.DataError(
                f"Found {len(sources)} source images, expected {wanted}."
            )
        # One at a time, because of the memory.
        with self._reading, uploads.own_words(job.sent):
            first = None
            for number, (source, modality) in enumerate(
                zip(sources, task.sources, strict=True), 1
            ):
                many = number if len(sources) > 1 else ""
                stem = f"source{many}_{modality.name}"
                path = uploads.save(job.sent, stem, *source)
                volume = uploads.read(path, job.notes)
                first = first or volume
                if volume is first:
                    uploads.check_size(path, volume, task)
                uploads.check(path, volume, modality)
                job.sources.append(path)
            if target:
                stem = f"target_{task.target.name}"
                job.target = uploads.save(job.sent, stem, *target)
                volume = uploads.read(job.target, job.notes)
                uploads.check(job.target, volume, task.target)
                preprocess.check_pair(
                    first, volume, (job.sources[0].name, job.target.name)
                )
        self._put(job)

    def send_phantom(self, job: Job, title: str) -> None:
        """Puts a built-in patient, a row of PHANTOMS, into the queue.

        Raises:
          DataError: there is no such patient.
        """
        if title not in PHANTOMS:
            raise errors.DataError(
                f"Found no simulated patient {title[:20]!r}, expected "
                f"{' or '.join(PHANTOMS)}."
            )
        job.phantom = PHANTOMS[title]
        self._put(job)

    def find(self, name: str) -> Job | None:
        """The job of that name, if it is still there."""
        job = self._jobs.get(name)
        if job:
            job.touched = time.monotonic()
        return job

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        names = list(self._jobs)
        before = names[: names.index(job.name)] if job.name in names else ()
        jobs = map(self._jobs.get, before)
        return sum(j is not None and not j.is_over for j in jobs)

    def remove(self, job: Job) -> None:
        """Forgets a job with its files, and stops it if it is under way."""
        with self._lock:
            self._jobs.pop(job.name, None)
            job.is_removed = True
            # Else the worker still writes there, and removes it at once.
            is_idle = job.state != "translating"
        if is_idle:
            shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Stops at the next batch of slices and removes every file."""
        atexit.unregister(self.close)
        with self._lock:
            self._is_closed = True
        self._waiting.put(None)
        self._worker.join(timeout=60)
        self._root.cleanup()

    def _put(self, job: Job) -> None:
        job.state = "waiting"
        self._waiting.put(job)

    def _forget_old(self) -> None:
        over = [job for job in list(self._jobs.values()) if job.is_over]
        over.sort(key=lambda job: job.touched)
        oldest = time.monotonic() - self._keep_s
        for rank, job in enumerate(reversed(over)):
            if rank >= self._most_kept or job.touched < oldest:
                self.remove(job)

    def _work(self) -> None:
        while not self._is_closed:
            try:
                job = self._waiting.get(timeout=min(60.0, self._keep_s))
            except queue.Empty:
                self._forget_old()
                continue
            if job is not None:
                self._try(job)

    def _try(self, job: Job) -> None:
        with self._lock:
            if job.is_removed:
                return
            job.state = "translating"
        state = "failed"
        try:
            with uploads.own_words(job.sent):
                job.images = self._translate(job)
            state = "done"
        except _Removed:
            pass
        except errors.MedganError as error:
            job.error = _bare(error)
        except Exception as error:
            _LOG.exception("A volume was not translated.")
            job.error = _bare(error)
        allocator.return_freed_memory()
        shutil.rmtree(job.sent, ignore_errors=True)
        with self._lock:
            job.state = state
        if job.is_removed:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _translate(self, job: Job) -> list[Image]:
        task = self.model.task
        if job.phantom is not None:
            _make_phantom(job, task)
        sources = [uploads.read(path, []) for path in job.sources]
        first, like = sources[0], job.sources[0]
        images = []

        def keep(file, array, kind, modality, window=None):
            volume = volumes.Volume(array, first.affine)
            io.write_volume(job.folder / file, volume, like)
            window = window or preprocess.window_of(volume, modality)
            images.append(
                Image(file, kind, modality.name, modality.unit, window)
            )

        for number, (volume, modality) in enumerate(
            zip(sources, task.sources, strict=True), 1
        ):
            shown = _on(first, volume, modality.air).array
            keep(f"source{number}.nii", shown, "source", modality)
        translated = predict.translate_volume(
            self.model, sources, progress=lambda steps: self._told(job, steps)
        )
        del sources
        keep("translated.nii.gz", translated.array, "translated", task.target)
        if job.target:
            target = uploads.read(job.target, [])
            truth = _on(first, target, task.target.air)
            error = translated.array - truth.array
            if not target.same_grid(first):
                error[~preprocess.coverage(target, first)] = 0.0
                job.notes.append(
                    f"The {task.target.name} was brought onto the voxels of "
                    f"the {task.source.name}."
                )
            # Because two MR images compare on one scale only.
            window = images[-1].window
            keep("target.nii", truth.array, "target", task.target, window)
            most = (window[1] - window[0]) / 4
            keep("error.nii", error, "error", task.target, (-most, most))
        return images

    def _told(self, job: Job, steps: range) -> Iterator[int]:
        """Counts the slices as they are done, and ends for whoever left."""
        job.total = steps.stop
        begun = time.monotonic()
        for first in steps:
            if job.is_removed or self._is_closed:
                raise _Removed
            job.done = first
            if first:
                per_slice = (time.monotonic() - begun) / first
                job.seconds_left = per_slice * (job.total - first)
            yield first
        job.done, job.seconds_left = job.total, 0.0


def _bare(error: Exception) -> Exception:
    """Without the frames that it came through, which hold whole volumes."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _on(
    grid: volumes.Volume, volume: volumes.Volume, air: float
) -> volumes.Volume:
    if volume.same_grid(grid):
        return volume
    return preprocess.resample(volume, grid, outside=air)


def _make_phantom(job: Job, task: tasks.Task) -> None:
    images = pairs.phantom_images(task, job.phantom, 0)
    sources = images.sources
    if sources is None:
        [(sources, _)] = pairs.simulate(task, "demo", images, pairs.Options())
    named = {f"source{n}.nii": volume for n, volume in enumerate(sources, 1)}
    job.sources = [job.sent / name for name in named]
    job.target = job.sent / "target.nii"
    named["target.nii"] = images.target
    for name, volume in named.items():
        io.write_volume(job.sent / name, volume)
    job.notes.append("A simulated patient, not a real one.")
