"""Steps that were left out because their numbers were not finite.

Counted on the device, so that no step waits for Python to look.
"""

from __future__ import annotations

import tensorflow as tf

# So many of the last ones are known by their number.
NUM_REMEMBERED = 16


class Skips(tf.Module):
    """A count of skipped steps, to be saved with a checkpoint.

    A step counts if at least one of its updates was left out.

    """

    def __init__(self):
        super().__init__(name="skips")
        self._total = _counter(0)
        self._in_a_row = _counter(0)
        self._steps = _counter([0] * NUM_REMEMBERED)

    def count(self, step: tf.Tensor, was_skipped: tf.Tensor) -> None:
        """Takes note of a step.

        Args:
          step: int64 scalar, its number, from 1.
          was_skipped: boolean scalar.
        """
        one = tf.cast(was_skipped, tf.int64)
        kept = self._steps.value()
        moved = tf.concat([kept[1:], [step]], axis=0)
        self._steps.assign(tf.where(was_skipped, moved, kept))
        self._total.assign_add(one)
        self._in_a_row.assign((self._in_a_row + 1) * one)

    @property
    def total(self) -> int:
        """In the whole run."""
        return int(self._total.numpy())

    @property
    def in_a_row(self) -> int:
        """Up to now; 0 after a step that was whole."""
        return int(self._in_a_row.numpy())

    @property
    def steps(self) -> list[int]:
        """Numbers of the last skipped steps, from 1, the latest last."""
        return [int(step) for step in self._steps.numpy() if step]


def _counter(value) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=tf.int64)
