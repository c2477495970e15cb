"""What a run leaves to look at: metrics.jsonl, and TensorBoard's picture of it.

`metrics.jsonl` is the record, because TensorBoard loses events on a full
disk without a word.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import time

import numpy as np
import tensorflow as tf

from medgan_tf import errors


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
        line = {"step": step, "split": split, "time": round(time.time(), 3)}
        for name, value in values.items():
            line[name] = value if math.isfinite(value) else None
        try:
            with open(self._folder / "metrics.jsonl", "ab+") as file:
                if file.tell():
                    # A crash may have cut the last line off.
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise errors.ResourceError(
                f"{self._folder}/metrics.jsonl cannot be written "
                f"({error.strerror}); free some space."
            ) from error
        with self._writer(split).as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer(split).flush()

    def strip(self, split: str, step: int, images: list[np.ndarray]) -> None:
        """Writes images [H, W] in [-1, 1] side by side."""
        strip = (np.concatenate(images, axis=1) + 1) / 2
        with self._writer(split).as_default(step):
            tf.summary.image(
                "samples/source_target_u_blocks", strip[None, ..., None]
            )
        self._writer(split).flush()

    def close(self) -> None:
        """Closes the event files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, split: str):
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(
                str(self._folder / split)
            )
        return self._writers[split]
