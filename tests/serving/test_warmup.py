"""TensorFlow Serving can read the warm-up requests, and the model answers.

Read by Google's own protobuf, from messages declared here after the published
definitions; and by the official stubs where these are installed.
"""

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from medgan_tf import tasks
from medgan_tf.models import casnet
from medgan_tf.serving import saved_model, signatures, warmup

# All wait for a SavedModel.
pytestmark = pytest.mark.slow

# message -> its fields: (name, number, message or None for text, repeated).
MESSAGES = {
    "ModelSpec": [("name", 1, None, False), ("signature_name", 3, None, False)],
    "Input": [("key", 1, None, False), ("value", 2, None, False)],
    "PredictRequest": [
        ("model_spec", 1, "ModelSpec", False),
        ("inputs", 2, "Input", True),
    ],
    "PredictLog": [("request", 1, "PredictRequest", False)],
    "PredictionLog": [("predict_log", 6, "PredictLog", False)],
}


def declared():
    """PredictionLog as a class of protobuf."""
    file = descriptor_pb2.FileDescriptorProto(
        name="test.proto", package="test", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        for name, number, other, is_repeated in fields:
            descriptor.field.add(
                name=name,
                number=number,
                type=kinds.TYPE_MESSAGE if other else kinds.TYPE_BYTES,
                type_name=f".test.{other}" if other else None,
                label=kinds.LABEL_REPEATED
                if is_repeated
                else kinds.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("test.PredictionLog")
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of PET and MR."""
    task = tasks.adapted(tasks.TASKS["pet_ct"], more_sources=["MR"])
    generator = casnet.CasNet(1, 1, ngf=1)
    generator(tf.zeros([1, 256, 256, 2]))
    folder = tmp_path_factory.mktemp("model")
    saved_model.write(generator, task, 2, folder, "pet_ct")
    return folder


def requests(folder):
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    return list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())


def test_each_signature_answers_its_request(model):
    loaded = tf.saved_model.load(str(model))
    names = []
    for record in requests(model):
        log = declared().FromString(record)
        # Nothing was left over or out.
        assert len(log.SerializeToString()) == len(record)
        request = log.predict_log.request
        assert request.model_spec.name == b"pet_ct"
        name = request.model_spec.signature_name.decode()
        signature = loaded.signatures[name]
        _, specs = signature.structured_input_signature
        inputs = {
            key: tf.io.parse_tensor(value, specs[key].dtype)
            for key, value in (
                (entry.key.decode(), entry.value) for entry in request.inputs
            )
        }
        answer = signature(**inputs)
        assert {len(values) for values in answer.values()} == {1}
        names.append(name)
    assert names == ["serving_default", "serve_png_bytes", "serve_examples"]


def test_the_official_stubs_read_them(model):
    """pip install --no-deps tensorflow-serving-api"""
    stubs = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    for record in requests(model):
        log = stubs.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        for tensor in log.predict_log.request.inputs.values():
            assert tf.make_ndarray(tensor).shape[0] == 1


def test_a_length_above_127_takes_a_second_byte():
    """300 = 0b10_0101100 (Protocol Buffers, "Encoding")."""
    log = warmup.prediction_log("m" * 300, "", {})
    # ModelSpec.name: tag 0a, length ac 02.
    assert b"\x0a\xac\x02" + b"m" * 300 in log


def test_requests_name_the_inputs_of_their_signature():
    task = tasks.TASKS["mr_motion"]
    for name, inputs in signatures.smallest_requests(task, 1).items():
        specs = signatures.specs(task, 1)[name]
        assert list(inputs) == [spec.name for spec in specs]
