"""What KServe is told of the one model that is served."""

from __future__ import annotations

import kserve
from kserve.protocol import dataplane

from medgan_tf.serving.server import desk as desks
from medgan_tf.serving.server import protocol_v2, protocols, statuses


def plane(desk: desks.Desk) -> tuple[dataplane.DataPlane, Fixed]:
    """What KServe's endpoints ask, and what they would change.

    Args:
      desk: of the model.
    """
    known = kserve.ModelRepository()
    known.update(_Described(desk))
    return dataplane.DataPlane(known), Fixed()


class _Described(kserve.Model):
    """What KServe is told of the model: its name, and that it is there."""

    def __init__(self, desk: desks.Desk):
        super().__init__(desk.name)
        self.ready = True
        self._default = desk.signatures[protocols.DEFAULT_SIGNATURE]

    def get_input_types(self) -> list[dict]:
        return _types(self._default["inputs"])

    def get_output_types(self) -> list[dict]:
        return _types(self._default["outputs"])


class Fixed:
    """No caller can load or unload a model."""

    async def load(self, model_name: str) -> None:
        raise statuses.RefusedError(
            "UNIMPLEMENTED", "This server has one model and keeps it."
        )

    unload = load


def _types(tensors: dict) -> list[dict]:
    return [
        {
            "name": name,
            "datatype": protocol_v2.DATATYPES[tensor["dtype"]],
            "shape": [-1 if s is None else s for s in tensor["shape"]],
        }
        for name, tensor in tensors.items()
    ]
