"""The gRPC side of the server: the Open Inference Protocol.

The service is `inference.GRPCInferenceService`, as KServe and Triton define
it; its `parameters` may name a signature, as those of REST.
"""

from __future__ import annotations

import functools

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.grpc import interceptors, servicer

from medgan_tf import ports
from medgan_tf.serving.server import desk as desks
from medgan_tf.serving.server import (
    kserve_model,
    protocol_v2,
    protocols,
    statuses,
)


def server(
    desk: desks.Desk, host: str, port: int, *, max_body_bytes: int
) -> tuple[grpc.aio.Server, int]:
    """The gRPC side, not yet started, and its port; 0 stands for any.

    Raises:
      ResourceError: the port cannot be had.
    """
    made = grpc.aio.server(
        interceptors=[_Statuses()],
        options=[
            ("grpc.max_receive_message_length", max_body_bytes),
            ("grpc.max_send_message_length", -1),
            # Or two servers could share a port.
            ("grpc.so_reuseport", 0),
        ],
    )
    services.add_GRPCInferenceServiceServicer_to_server(_Servicer(desk), made)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Because gRPC says in a log of its own that a port is in use.
    ports.listen("grpc_port", host, port).close()
    return made, made.add_insecure_port(address)


class _Servicer(servicer.InferenceServicer):
    def __init__(self, desk: desks.Desk):
        super().__init__(*kserve_model.plane(desk))
        self._desk = desk

    async def ModelInfer(self, request, context) -> messages.ModelInferResponse:
        self._desk.check_name(request.model_name, request.model_version)
        return await self._desk.answer(
            "grpc",
            functools.partial(_read_grpc, request),
            functools.partial(
                _write_grpc, request, self._desk.name, self._desk.version
            ),
        )


class _Statuses(interceptors.ExceptionToStatusInterceptor):
    """Tells a refusal by its own status; what else fails is KServe's."""

    async def handle_exception(self, ex, request, context, method) -> None:
        if isinstance(ex, statuses.RefusedError):
            await context.abort(grpc.StatusCode[ex.status], str(ex))
        await super().handle_exception(ex, request, context, method)


def _read_grpc(request) -> protocols.Question:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise statuses.invalid(
            "raw_input_contents", str(len(raws)), str(len(request.inputs))
        )
    inputs = {}
    for at, tensor in enumerate(request.inputs):
        contents = tensor.contents
        values = {
            "FP32": contents.fp32_contents,
            "BYTES": contents.bytes_contents,
        }
        inputs[tensor.name] = protocol_v2.tensor_of(
            tensor.name,
            tensor.datatype,
            list(tensor.shape),
            raw=raws[at] if raws else None,
            values=list(values.get(tensor.datatype, ())),
        )
    signature = protocols.DEFAULT_SIGNATURE
    if "signature_name" in request.parameters:
        signature = request.parameters["signature_name"].string_param
    outputs = {output.name: True for output in request.outputs}
    return protocols.Question(signature, inputs, outputs=outputs or None)


def _write_grpc(
    request, name, version, question, outputs
) -> messages.ModelInferResponse:
    response = messages.ModelInferResponse(
        model_name=name, model_version=version, id=request.id
    )
    for key, array in protocol_v2.wanted(question, outputs).items():
        is_text = array.dtype == object
        tensor = response.outputs.add(
            name=key,
            datatype="BYTES" if is_text else "FP32",
            shape=array.shape,
        )
        # An answer is as its request was.
        if request.raw_input_contents:
            response.raw_output_contents.append(protocol_v2.to_raw(array))
        elif is_text:
            tensor.contents.bytes_contents.extend(array.ravel())
        else:
            tensor.contents.fp32_contents.extend(array.ravel())
    return response
