"""What a run leaves to look at: metrics.jsonl, and TensorBoard's picture of it.

`metrics.jsonl` is the record, because TensorBoard loses events on a full
disk without a word.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from medgan_tf import errors, run_record


class Summaries:
    """Writes scalars and image strips of one run.

    Args:
      workdir: the run folder; `train/` and `validation/` below it hold the
        event files.
    """

    def __init__(self, workdir: str | os.PathLike):
        self._folder = pathlib.Path(workdir)
        self._writers = {}

    def scalars(self, split: str, step: int, values: dict[str, float]) -> None:
        """Writes named numbers of a step, for "train" or "validation".

        Raises:
          errors.ResourceError: the record cannot be written.
        """
        with _telling_lack(self._folder / run_record.FILE):
            run_record.append(self._folder, split, step, values)
        with self._writing(split, step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def strip(self, split: str, step: int, images: list[np.ndarray]) -> None:
        """Writes images [H, W] in [-1, 1] side by side.

        Raises:
          errors.ResourceError: they cannot be written.
        """
        strip = (np.concatenate(images, axis=1) + 1) / 2
        with self._writing(split, step):
            tf.summary.image(
                "samples/source_target_u_blocks", strip[None, ..., None]
            )

    def close(self) -> None:
        """Closes the event files.

        Raises:
          errors.ResourceError: they cannot be written.
        """
        for split, writer in self._writers.items():
            with _telling_lack(self._folder / split):
                writer.close()

    @contextlib.contextmanager
    def _writing(self, split: str, step: int) -> Iterator[None]:
        """Inside, what is summarised goes to the events of a split."""
        folder = self._folder / split
        with _telling_lack(folder):
            if split not in self._writers:
                # Because its error is a sentence; TensorFlow's is none.
                folder.mkdir(exist_ok=True)
                self._writers[split] = tf.summary.create_file_writer(
                    str(folder)
                )
            with self._writers[split].as_default(step):
                yield
            self._writers[split].flush()


@contextlib.contextmanager
def _telling_lack(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or error.message
        # TensorFlow puts in which kernel failed.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", reason, flags=re.DOTALL)
        raise errors.ResourceError(
            f"{path} cannot be written ({' '.join(reason.split())}); free some "
            "space, or mend what is in the way: the same command goes on from "
            "the last checkpoint."
        ) from error
