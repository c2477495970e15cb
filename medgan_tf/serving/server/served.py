"""The signatures of a loaded model as functions of named arrays.

All that they refuse is a status; a model that fails says no more to a stranger
than that it did.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from medgan_tf.serving import predict, signatures
from medgan_tf.serving.server import protocols, statuses

# Slices at a time, so that the length of a request is no matter of memory.
BATCH = 8

_LOG = logging.getLogger(__name__)
# Whose message is for the caller.
_CALLERS = ("INVALID_ARGUMENT", "OUT_OF_RANGE")


class Served:
    """A model that answers.

    Attributes:
      signatures: name -> its inputs and outputs, as in `medgan.json`.
    """

    def __init__(self, model: predict.Model):
        self.signatures = model.info["signatures"]
        self._model = model
        self._functions = {
            name: model.loaded.signatures[name] for name in self.signatures
        }

    def warm_up(self) -> None:
        """Asks each signature once, so that the first caller need not wait."""
        source = self.signatures[predict.SIGNATURE]["inputs"]["source"]
        requests = signatures.smallest_requests(
            self._model.task, source["shape"][-1]
        )
        for name in self.signatures:
            inputs = {
                key: tf.make_ndarray(tensor)
                for key, tensor in requests[name].items()
            }
            self.ask(name, inputs)

    def ask(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The outputs of a signature.

        Args:
          signature: its name.
          inputs: name -> float32 array or array of bytes objects, all with
            a first axis of the same length.

        Returns:
          The same for the outputs.

        Raises:
          RefusedError: there is no such signature, the inputs are not
            its inputs, or the model refuses or fails.
        """
        described = protocols.known(signature, self.signatures)
        _check(inputs, described["inputs"])
        (length,) = {len(array) for array in inputs.values()}
        function = self._functions[signature]
        parts = []
        # Once where there is none: the refusal is the model's.
        for first in range(0, max(length, 1), BATCH):
            part = {
                name: tf.constant(
                    array[first : first + BATCH],
                    described["inputs"][name]["dtype"],
                )
                for name, array in inputs.items()
            }
            parts.append(_called(function, part))
        return {
            name: np.concatenate([part[name] for part in parts])
            for name in described["outputs"]
        }


def _called(function, inputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    try:
        return {
            name: tensor.numpy() for name, tensor in function(**inputs).items()
        }
    except tf.errors.OpError as error:
        status = statuses.of_number(error.error_code)
        if status in _CALLERS:
            raise statuses.RefusedError(
                status, predict.in_words(error.message)
            ) from error
        _LOG.exception("The model failed.")
        raise statuses.RefusedError(
            status, "The model failed; the server's log says why."
        ) from error


def _check(inputs: Mapping[str, np.ndarray], described: Mapping) -> None:
    if inputs.keys() != described.keys():
        raise statuses.invalid(
            "inputs",
            ", ".join(inputs)[:200] or "none",
            " and ".join(described),
        )
    for name, array in inputs.items():
        kind, sides = described[name]["dtype"], described[name]["shape"]
        is_right = (array.dtype == object) == (kind == "string")
        if not is_right:
            found = "bytes" if array.dtype == object else "numbers"
            raise statuses.invalid(name, found, kind)
        if array.ndim != len(sides) or any(
            side not in (None, length)
            for side, length in zip(sides, array.shape, strict=True)
        ):
            shape = ", ".join("B" if s is None else str(s) for s in sides)
            raise statuses.invalid(
                f"shape of {name}", str(list(array.shape)), f"[{shape}]"
            )
    lengths = {name: len(array) for name, array in inputs.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{n} of {name}" for name, n in lengths.items())
        raise statuses.invalid("inputs", found, "one of each for each slice")
