"""A body that no client of good will sends is refused, and costs little."""

import json
import resource

import numpy as np
import pytest

pytest.importorskip("kserve", reason="medgan_tf[serve] is not installed")

from medgan_tf.serving.server import (  # noqa: E402
    protocol_v1,
    protocol_v2,
    statuses,
)

SIGNATURES = {
    "serving_default": {"inputs": {"source": {}, "source_scale": {}}},
    "serve_examples": {"inputs": {"examples": {}}},
}


def read_v1(values, **more):
    content = {"inputs": {"source": values}, **more}
    return protocol_v1.read(json.dumps(content).encode(), SIGNATURES)


def read_v2(**tensor):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], **tensor}
    return protocol_v2.read(json.dumps({"inputs": [tensor]}).encode(), None)


@pytest.fixture
def gigabyte():
    """No more memory than that, beside what is in use."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("read", [read_v1, lambda v: read_v2(data=v)])
def test_one_long_text_does_not_make_all_values_as_long(read, gigabyte):
    # As texts of one length, 22 GB.
    values = ["x" * 300_000, *["y"] * 20_000]
    with pytest.raises(statuses.RefusedError, match="no number"):
        read(values)


@pytest.mark.parametrize("depth", [9, 70, 600, 900])
def test_bytes_in_lists_in_lists_are_refused(depth):
    lists = "[" * depth + '{"b64": ""}' + "]" * depth
    with pytest.raises(statuses.RefusedError, match="not base64"):
        read_v1(json.loads(lists))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"datatype": "BYTES", "data": 5}, "no bytes"),
        ({"datatype": "BYTES", "data": True}, "no bytes"),
        ({"datatype": "BYTES", "data": {"a": 1}}, "no bytes"),
        ({"data": {"a": 1}}, "no number"),
        ({"data": "1"}, "no number"),
        ({"data": [True]}, "no number"),
        ({"data": [[1, 2], [3]]}, "rows that differ"),
        ({}, "found 0 values, expected 1"),
        ({"shape": [0, 2**63], "data": []}, "shape of x"),
        ({"shape": [0, 2**62, 2**62], "data": []}, "shape of x"),
    ],
)
def test_values_of_v2_that_are_no_array_are_refused(tensor, words):
    with pytest.raises(statuses.RefusedError, match=words):
        read_v2(**tensor)


def test_numbers_of_any_json_kind_become_float32():
    question = read_v1([[1, 2.5], [-3, 1e300], [2**64 - 1, 0]])
    found = question.inputs["source"]
    assert found.dtype == np.float32
    expected = [[1, 2.5], [-3, np.inf], [2.0**64, 0]]
    np.testing.assert_array_equal(found, np.float32(expected))
