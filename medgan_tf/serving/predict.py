"""A volume in, an exported model, a volume out on exactly the same voxels.

Imports no network: a SavedModel, its `medgan.json` and the preprocessing that
cut the training slices are all it takes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from medgan_tf import errors, sealed, tasks
from medgan_tf.data import preprocess
from medgan_tf.data import volume as volumes

_LOG = logging.getLogger(__name__)

INFO_FILE = "assets.extra/medgan.json"
GRAPH_FILE = "saved_model.pb"
SIGNATURE = "serving_default"
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\]")
# Where in the graph, which says nothing to a caller.
_NODES = re.compile(r"\{\{.*?\}\}|\[Op:\w+\]")


@dataclasses.dataclass(frozen=True)
class Model:
    """An exported model, loaded.

    Attributes:
      loaded: holds the variables, which a signature alone does not keep.
      translate: the signature `serving_default`.
      task: what it takes and gives, and how its slices were cut.
      info: `medgan.json` as a dict.
    """

    loaded: object
    translate: Callable[..., dict[str, tf.Tensor]]
    task: tasks.Task
    info: dict


def load(folder: str | os.PathLike) -> Model:
    """Loads what `export` wrote.

    Args:
      folder: a version folder, or the one above it: then the highest number.

    Raises:
      errors.ArtefactError: there is no such model, or it is damaged.
    """
    version = _version_folder(pathlib.Path(folder))
    try:
        info = sealed.read(version / INFO_FILE)
        task = tasks.from_stored(info["task_row"])
        _check_format(folder, info)
        _check_graph(version, info)
        loaded = tf.saved_model.load(str(version))
        translate = loaded.signatures[SIGNATURE]
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        tf.errors.OpError,
    ) as error:
        raise errors.ArtefactError(
            f"--model={folder} cannot be loaded "
            f"({str(error).splitlines()[0]}); export it again with export.py."
        ) from error

    return Model(loaded, translate, _of_any_width(task), info)


def translate_volume(
    model: Model,
    sources: Sequence[volumes.Volume],
    *,
    batch_size: int = 4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> volumes.Volume:
    """Translates every slice of a patient's volume or volumes.

    Args:
      model: from `load`.
      sources: one of each modality that the model takes, in its unit, in any
        orientation; the first decides on the grid.
      batch_size: slices at a time.
      progress: wraps the iteration over batches, such as tqdm.

    Returns:
      A volume in the target's unit with the shape and affine of the first;
      the target's value of air where nothing was translated.

    Raises:
      errors.DataError: the volume is empty or in another unit.
    """
    cut = cut_slices(sources, model.task)
    translated = translate_slices(
        model,
        cut.slices,
        scales_of(cut, model.task),
        batch_size=batch_size,
        progress=progress,
    )
    return preprocess.from_slices(
        translated, cut.geometry, fill=model.task.target.air
    )


def cut_slices(
    sources: Sequence[volumes.Volume], task: tasks.Task
) -> preprocess.CutVolume:
    """The slices of a patient; tells if they are tiles of a larger body."""
    cut = preprocess.cut(sources, task)
    if (count := len(cut.geometry.offsets)) > 1:
        _LOG.info(
            "The body is larger than %d x %d pixels: %d overlapping tiles of "
            "each slice are translated.",
            *(cut.geometry.size, cut.geometry.size, count),
        )
    return cut


def translate_slices(
    model: Model,
    slices: np.ndarray,
    scales: Sequence[float],
    *,
    batch_size: int = 4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> np.ndarray:
    """Translates slices of one patient, batch by batch.

    Args:
      model: from `load`.
      slices: float32 [B, 256, 256, C], in the units of the sources.
      scales: from `scales_of`.
      batch_size: slices at a time.
      progress: wraps the iteration over batches, such as tqdm.

    Returns:
      float32 [B, 256, 256] in the target's unit.

    Raises:
      DataError: a check in the model's graph fails.
    """
    translated = np.empty(slices.shape[:3], np.float32)
    # A GPU works on a batch while the one before is fetched from it.
    under_way = collections.deque()

    def fetch():
        at, outputs = under_way.popleft()
        translated[at : at + len(outputs)] = outputs.numpy()[..., 0]

    try:
        for first in progress(range(0, len(slices), batch_size)):
            batch = slices[first : first + batch_size]
            inputs = {"source": tf.constant(batch)}
            if scales:
                each = scales[0] if len(scales) == 1 else scales
                inputs["source_scale"] = tf.constant([each] * len(batch))
            under_way.append((first, model.translate(**inputs)["translated"]))
            if len(under_way) > 1:
                fetch()
        while under_way:
            fetch()
    except tf.errors.InvalidArgumentError as error:
        raise errors.DataError(
            f"The model refuses the slices ({in_words(error.message)}); check "
            "the file and its unit."
        ) from error
    return translated


def in_words(message: str) -> str:
    """What a check in a model's graph says, without the names of its nodes."""
    found = _ASSERTION.search(message)
    # Where it happened comes before the last line, the node after it.
    last_line = message.partition("\n\t [[")[0].strip().splitlines()[-1]
    text = found.group(1) if found else _NODES.sub(" ", last_line)
    return " ".join(text.split())[:300]


def scales_of(cut: preprocess.CutVolume, task: tasks.Task) -> list[float]:
    """What the model must be told of a volume beside its slices."""
    return [cut.windows[i][1] for i in scaled_channels(task)]


def scaled_channels(task: tasks.Task) -> list[int]:
    """Channels of the source whose scale is the volume's own (MR)."""
    return [i for i, m in enumerate(task.sources) if m.window is None]


def translate_many(
    items: Iterable,
    read: Callable,
    translate: Callable,
    write: Callable,
    failed: Callable | None = None,
) -> None:
    """Reads the next volume and writes the last while one is translated.

    At most three volumes are in memory. What was written before an error
    stays.

    Args:
      items: what `read` and `write` need to know of each volume.
      read: item -> what `translate` takes; in a thread of its own.
      translate: that -> a translated volume.
      write: item, translated volume -> a file; in a thread of its own.
      failed: takes an item and the error by which it shows that it cannot be
        read or translated, and the rest go on; None: the first error ends it.
        What is no fault of one item, such as a full disk, always does.
    """

    def tried(item, step: Callable, *faults: type[Exception]):
        """Whether a step went well, and what it gave."""
        try:
            return True, step()
        except faults as error:
            if failed is None:
                raise
            failed(item, error)
        return False, None

    with (
        futures.ThreadPoolExecutor(1, "read") as reader,
        futures.ThreadPoolExecutor(1, "write") as writer,
    ):
        reading = collections.deque()
        writing = collections.deque()
        waiting = collections.deque(items)

        def finish():
            item, done = writing.popleft()
            tried(item, done.result, errors.DataError)

        while waiting or reading:
            # The one to translate now, and the one after it.
            while waiting and len(reading) < 2:
                item = waiting.popleft()
                reading.append((item, reader.submit(read, item)))
            item, volume = reading.popleft()
            well, volume = tried(
                item, volume.result, errors.DataError, errors.ResourceError
            )
            if not well:
                continue
            well, translated = tried(
                item, functools.partial(translate, volume), errors.DataError
            )
            if not well:
                continue
            if writing:
                finish()
            writing.append((item, writer.submit(write, item, translated)))
        while writing:
            finish()


def _of_any_width(task: tasks.Task) -> tasks.Task:
    """The row, by which a body larger than a slice is tiled, not refused.

    Whoever has a model cannot prepare its training anew.
    """
    if task.too_large != "refuse":
        return task
    return dataclasses.replace(task, too_large="tile")


def _check_format(folder: str | os.PathLike, info: dict) -> None:
    found = info.get("format", "savedmodel")
    if found != "savedmodel":
        raise errors.ArtefactError(
            f"--model={folder} is {found}, for other programs; expected a "
            "SavedModel: export it with --format=savedmodel."
        )


def _check_graph(version: pathlib.Path, info: dict) -> None:
    """Refuses a graph with a flipped bit, which would give other numbers."""
    wanted = info.get("graph_sha256")
    found = hashlib.sha256((version / GRAPH_FILE).read_bytes()).hexdigest()
    if wanted not in (None, found):
        raise ValueError(f"{GRAPH_FILE} has another SHA-256 than when written")


def _version_folder(folder: pathlib.Path) -> pathlib.Path:
    if os.path.exists(folder / GRAPH_FILE):
        return folder
    versions = []
    if os.path.isdir(folder):
        versions = [f for f in folder.iterdir() if f.name.isdigit()]
    if not versions:
        raise errors.ArtefactError(
            f"--model={folder} holds no exported model; give the --output_dir "
            "that export.py had."
        )
    return max(versions, key=lambda f: int(f.name))
