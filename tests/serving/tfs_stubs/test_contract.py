"""The official stubs of TensorFlow Serving get answers from our models.

The servicer below is ours and thin; TensorFlow Serving itself is not run.
"""

from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import tasks
from medgan_tf.models import casnet
from medgan_tf.serving import saved_model, warmup

predict_pb2 = pytest.importorskip(
    "tensorflow_serving.apis.predict_pb2",
    reason="pip install --no-deps tensorflow-serving-api",
)
from tensorflow_serving.apis import (  # noqa: E402
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

# All wait for a SavedModel.
pytestmark = pytest.mark.slow


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, signatures):
        self.signatures = signatures

    def Predict(self, request, context):
        name = request.model_spec.signature_name or "serving_default"
        if name not in self.signatures:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, name)
        inputs = {
            key: tf.constant(tf.make_ndarray(tensor))
            for key, tensor in request.inputs.items()
        }
        try:
            outputs = self.signatures[name](**inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = predict_pb2.PredictResponse()
        for key, tensor in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(tensor))
        return response


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    task = tasks.TASKS["mr_ct"]
    generator = casnet.CasNet(1, 1, ngf=1)
    generator(tf.zeros([1, 256, 256, 1]))
    folder = tmp_path_factory.mktemp("model")
    saved_model.write(generator, task, 1, folder, "mr_ct")
    return folder


@pytest.fixture(scope="module")
def stub(folder):
    loaded = tf.saved_model.load(str(folder))
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Servicer(loaded.signatures), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)
    server.stop(None)


def test_the_requests_in_the_model_are_answered_over_grpc(folder, stub):
    file = str(folder / warmup.FILE)
    answers = {}
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        answers[request.model_spec.signature_name] = {
            name: tf.make_ndarray(tensor)
            for name, tensor in stub.Predict(
                request, timeout=60
            ).outputs.items()
        }
    slices = answers["serving_default"]["translated"]
    assert slices.shape == (1, 256, 256, 1)
    np.testing.assert_array_equal(
        answers["serve_examples"]["translated"], slices
    )
    png = answers["serve_png_bytes"]
    values = tf.io.decode_png(png["translated_bytes"][0], 1, tf.uint16)
    found = (
        png["translated_slope"][0] * values.numpy().astype(np.float64)
        + png["translated_offset"][0]
    )
    assert np.abs(found - slices[0]).max() < 0.03


@pytest.mark.parametrize(
    ("signature", "change"),
    [
        ("x", {}),
        ("", {"source": np.full([1, 256, 256, 1], np.nan, np.float32)}),
        ("", {"source": np.zeros([1, 128, 128, 1], np.float32)}),
        ("", {"source_scale": np.float32([0])}),
    ],
    ids=["signature", "NaN", "size", "scale"],
)
def test_the_callers_errors_are_invalid_arguments(stub, signature, change):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "mr_ct"
    request.model_spec.signature_name = signature
    inputs = {
        "source": np.zeros([1, 256, 256, 1], np.float32),
        "source_scale": np.float32([100]),
        **change,
    }
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    with pytest.raises(grpc.RpcError) as told:
        stub.Predict(request, timeout=60)
    assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT
