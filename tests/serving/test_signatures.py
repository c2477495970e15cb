"""PNG files and Examples give what float slices give."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from medgan_tf import tasks
from medgan_tf.data import records, sample
from medgan_tf.models import casnet
from medgan_tf.serving import signatures

# All wait for a generator's graph.
pytestmark = pytest.mark.slow

PET_CT = tasks.TASKS["pet_ct"]
MR_MOTION = tasks.TASKS["mr_motion"]
# PET, and MR as a second channel.
TWO = tasks.adapted(PET_CT, more_sources=["MR"])


def served(task, channels):
    """Each signature as a function of NumPy arrays."""
    tf.keras.utils.set_random_seed(1)
    generator = casnet.CasNet(1, 1, ngf=1)
    generator(tf.zeros([1, 256, 256, channels]))
    # As drawn, its images are nearly constant: any scaling would pass.
    last = generator.blocks[0].last
    last.kernel.assign(20 * last.kernel)
    specs = signatures.specs(task, channels)
    return {
        name: tf.function(function, input_signature=specs[name])
        for name, function in signatures.endpoints(
            generator, task, channels
        ).items()
    }


@pytest.fixture(scope="module")
def pet_ct():
    return served(PET_CT, 1)


@pytest.fixture(scope="module")
def mr_motion():
    return served(MR_MOTION, 1)


@pytest.fixture(scope="module")
def two():
    return served(TWO, 2)


def grey(seed, highest=65535):
    rng = np.random.default_rng(seed)
    return rng.integers(0, highest + 1, [256, 256]).astype(np.uint16)


def png(values):
    """As Pillow, another program, writes it."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def read_png(content):
    image = Image.open(io.BytesIO(content))
    assert image.mode.startswith("I;16")
    return np.asarray(image).astype(np.float64)


def in_units(answer):
    """The values that the PNG files of an answer stand for."""
    return np.stack(
        [
            slope * read_png(content) + offset
            for content, slope, offset in zip(
                answer["translated_bytes"].numpy(),
                answer["translated_slope"].numpy().astype(np.float64),
                answer["translated_offset"].numpy().astype(np.float64),
                strict=True,
            )
        ]
    )[..., None]


def test_png_files_of_suv_come_back_as_png_files_of_hu(pet_ct):
    images = [grey(0), grey(1)]
    slopes, offsets = np.float32([2e-4, 3e-4]), np.float32([0.5, -1])
    answer = pet_ct["serve_png_bytes"](
        png_bytes=tf.constant([png(image) for image in images]),
        slope=tf.constant(slopes),
        offset=tf.constant(offsets),
    )
    suv = [s * i + o for s, i, o in zip(slopes, images, offsets, strict=True)]
    expected = pet_ct["serving_default"](
        source=tf.constant(np.float32(suv)[..., None])
    )["translated"].numpy()

    assert np.ptp(expected) > 1000
    # 3000 HU in 65535 steps.
    np.testing.assert_allclose(answer["translated_slope"], 0.0457771, 1e-5)
    np.testing.assert_array_equal(answer["translated_offset"], [-1000, -1000])
    # Half a step.
    difference = np.abs(in_units(answer) - expected).max()
    assert difference <= 0.5 * 0.0457771 * 1.01


def test_a_png_of_mr_comes_back_at_the_scale_of_its_volume(mr_motion):
    scales = np.float32([800, 90])
    images = [grey(0, 1000), grey(1, 1000)]
    answer = mr_motion["serve_png_bytes"](
        png_bytes=tf.constant([png(image) for image in images]),
        slope=tf.constant([1.0, 0.1]),
        offset=tf.zeros([2]),
        source_scale=tf.constant(scales),
    )
    source = np.float32([images[0], np.float32(0.1) * images[1]])[..., None]
    expected = mr_motion["serving_default"](
        source=tf.constant(source), source_scale=tf.constant(scales)
    )["translated"].numpy()
    steps = scales / 65535
    np.testing.assert_allclose(answer["translated_slope"], steps, 1e-6)
    np.testing.assert_array_equal(answer["translated_offset"], [0, 0])
    difference = np.abs(in_units(answer) - expected).max(axis=(1, 2, 3))
    assert (difference <= 0.51 * steps).all()


def test_each_channel_has_a_png_of_its_own(two):
    images = np.array([[grey(0), grey(1, 500)], [grey(2), grey(3, 500)]])
    slopes = np.float32([[3e-4, 1], [3e-4, 2]])
    answer = two["serve_png_bytes"](
        png_bytes=tf.constant([[png(i) for i in pair] for pair in images]),
        slope=tf.constant(slopes),
        offset=tf.zeros([2, 2]),
        source_scale=tf.constant([400.0, 900.0]),
    )
    source = images.transpose(0, 2, 3, 1) * slopes[:, None, None]
    expected = two["serving_default"](
        source=tf.constant(source.astype(np.float32)),
        source_scale=tf.constant([400.0, 900.0]),
    )["translated"].numpy()
    assert np.abs(in_units(answer) - expected).max() < 0.03


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    length = struct.pack(">I", len(content))
    return length + kind + content + struct.pack(">I", checksum)


def bomb():
    """A file of 65 bytes that claims 800 MB."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 16, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


GOOD = png(grey(0))
IS_NO_SLICE = "must be PNG files of 256 x 256 pixels, 16 bits, grey"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", IS_NO_SLICE),
        (b"\x00\xff garbage" * 100, IS_NO_SLICE),
        (bomb(), IS_NO_SLICE),
        (png(grey(0)[:128]), IS_NO_SLICE),
        # Read as 16 bits it would be 257 times as bright.
        (png(grey(0, 255).astype(np.uint8)), IS_NO_SLICE),
        (png(np.zeros([256, 256, 3], np.uint8)), IS_NO_SLICE),
        (GOOD[:26], "PNG"),
        (GOOD[:5000], "PNG"),
        (GOOD[:9000] + bytes([GOOD[9000] ^ 255]) + GOOD[9001:], "PNG"),
    ],
    ids=[
        "empty",
        "garbage",
        "bomb",
        "half the rows",
        "8 bits",
        "colours",
        "header alone",
        "cut",
        "a flipped byte",
    ],
)
def test_a_broken_png_is_the_callers_error(pet_ct, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        pet_ct["serve_png_bytes"](
            png_bytes=tf.constant([GOOD, content]),
            slope=tf.ones([2]),
            offset=tf.zeros([2]),
        )


@pytest.mark.parametrize(
    ("slope", "offset"),
    [([0.0], [0.0]), ([np.nan], [0.0]), ([1.0], [np.inf]), ([1.0, 1.0], [0.0])],
)
def test_a_slope_or_offset_that_gives_no_image_is_refused(
    pet_ct, slope, offset
):
    with pytest.raises(tf.errors.InvalidArgumentError):
        pet_ct["serve_png_bytes"](
            png_bytes=tf.constant([GOOD]),
            slope=tf.constant(slope),
            offset=tf.constant(offset),
        )


def test_examples_give_what_float_slices_give(two):
    rng = np.random.default_rng(0)
    source = rng.uniform(0, 20, [2, 256, 256, 2]).astype(np.float32)
    scales = np.float32([30, 15])
    examples = []
    for image, scale in zip(source, scales, strict=True):
        example = tf.train.Example()
        feature = example.features.feature
        feature["source"].float_list.value.extend(image.ravel())
        feature["source_scale"].float_list.value.append(scale)
        examples.append(example.SerializeToString())
    found = two["serve_examples"](examples=tf.constant(examples))
    expected = two["serving_default"](
        source=tf.constant(source), source_scale=tf.constant(scales)
    )
    np.testing.assert_array_equal(found["translated"], expected["translated"])
    ours = signatures.example(source[0], scales[:1])
    assert ours.SerializeToString(deterministic=True) == (
        tf.train.Example.FromString(examples[0]).SerializeToString(
            deterministic=True
        )
    )


def training_record():
    """Its feature `source` holds bytes of a normalised image."""
    image = np.zeros([256, 256, 1], np.float32)
    mask = np.ones([256, 256], bool)
    return records.encode(
        sample.Sample("ann", 0, image, image, mask, (0, 20), (-1000, 2000))
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"garbage", "Could not parse"),
        (lambda: b"", "source"),
        (training_record, "source"),
        (
            lambda: signatures.example(np.zeros([9])).SerializeToString(),
            "source",
        ),
    ],
    ids=["garbage", "empty", "training record", "nine values"],
)
def test_a_broken_example_is_the_callers_error(pet_ct, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        pet_ct["serve_examples"](examples=tf.constant([content()]))
