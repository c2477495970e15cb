"""A converted model gives the same numbers, or is refused."""

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, tasks
from medgan_tf.models import casnet
from medgan_tf.serving import formats

# All wait for a conversion, or for a generator's graph.
pytestmark = pytest.mark.slow

PET_CT = tasks.TASKS["pet_ct"]
# MR as a second channel, so that there is a scale.
TWO = tasks.adapted(PET_CT, more_sources=["MR"])
needs_onnx = pytest.mark.skipif(
    formats.tf2onnx is None, reason="tf2onnx or ONNX Runtime is not installed"
)


def tiny(channels, dropout=0.0):
    tf.keras.utils.set_random_seed(1)
    generator = casnet.CasNet(1, 1, ngf=2, dropout=dropout)
    generator(tf.zeros([1, 256, 256, channels]))
    # As drawn, its images are nearly constant: anything would be near.
    last = generator.blocks[0].last
    last.kernel.assign(5 * last.kernel)
    return generator


def inputs():
    """Two slices of PET in SUV and MR."""
    rng = np.random.default_rng(3)
    source = rng.uniform(0, 20, [2, 256, 256, 2]).astype(np.float32)
    return {"source": source, "source_scale": np.float32([12.0, 21.0])}


def by_hand(generator, source, source_scale):
    """Windows of [0, 20] SUV, [0, scale] and [-1000, 2000] HU."""
    high = np.stack([np.full(2, 20), source_scale], -1)[:, None, None]
    scaled = np.clip(source * (2 / high) - 1, -1, 1).astype(np.float32)
    return (generator(scaled).numpy() + 1) * 1500 - 1000


def check(facts, folder, name):
    file = folder / name
    assert list(folder.iterdir()) == [file]
    assert facts["file"] == name
    assert facts["num_bytes"] == file.stat().st_size
    # 217,000 weights of four bytes at ngf 4, so 54,000 at 2.
    assert 2e5 < facts["num_bytes"] < 4e5
    assert len(facts["parity"]) == 3
    assert all(0 <= row["largest"] <= 1e-4 for row in facts["parity"])
    lines = formats.table(facts).splitlines()
    assert lines[1].startswith("air alone")
    assert lines[-1].startswith(f"{name}: 0.")
    assert "ms on this CPU" in lines[-1]


def test_tensorflow_lite_gives_the_same_hu_without_flex(tmp_path):
    generator = tiny(2)
    expected = by_hand(generator, **inputs())
    facts = formats.write_tflite(generator, TWO, 2, tmp_path, "model")
    check(facts, tmp_path, "model.tflite")
    with pytest.warns(UserWarning, match="deprecated"):
        interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    operations = {o["op_name"] for o in interpreter._get_ops_details()}
    assert not [name for name in operations if "lex" in name]
    found = interpreter.get_signature_runner()(**inputs())["translated"]
    assert np.ptp(expected) > 300
    # 1e-4 of half the window of 3000 HU.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.15)


@needs_onnx
def test_onnx_runtime_gives_the_same_hu(tmp_path):
    generator = tiny(2)
    expected = by_hand(generator, **inputs())
    facts = formats.write_onnx(generator, TWO, 2, tmp_path, "model")
    check(facts, tmp_path, "model.onnx")
    session = formats.onnxruntime.InferenceSession(
        str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == ["source", "source_scale"]
    (found,) = session.run(["translated"], inputs())
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.15)


def test_what_differs_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "BOUND", 0.0)
    with pytest.raises(errors.ArtefactError, match="differs from TensorFlow"):
        formats.write_tflite(tiny(1), PET_CT, 1, tmp_path, "model")


def test_values_that_are_no_numbers_are_no_parity(tmp_path):
    """A converter that loses the weights gives NaN."""
    (tmp_path / "model").touch()
    zeros = np.zeros([1, 256, 256, 1], np.float32)
    with pytest.raises(errors.ArtefactError, match="differs"):
        formats._compared(
            tmp_path / "model",
            lambda inputs: zeros * np.nan,
            lambda inputs: zeros,
            PET_CT,
            1,
        )


def test_onnx_without_its_packages_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "tf2onnx", None)
    with pytest.raises(errors.UsageError, match=r"medgan_tf\[onnx\]"):
        formats.write_onnx(None, PET_CT, 1, tmp_path, "model")
