"""VGG-19 features against Keras's own network and arithmetic by hand."""

import keras
import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from medgan_tf import errors
from medgan_tf.models import vgg19

SLICE = [1, 256, 256, 1]
# Values of a grey pixel for the channels blue, green and red: the pixel in
# 0..255 minus the channel's mean.
GREY = {
    -1.0: (-103.939, -116.779, -123.68),
    0.0: (23.561, 10.721, 3.82),
    1.0: (151.061, 138.221, 131.32),
}


@pytest.mark.parametrize(
    ("deepest", "parameters", "variables"),
    [
        ("block5_conv4", 20_024_384, 32),
        ("block5_conv1", 12_944_960, 26),
        ("block4_conv1", 3_505_728, 18),
        ("block1_conv1", 1_792, 2),
    ],
)
def test_it_is_built_only_as_deep_as_needed(
    count, deepest, parameters, variables
):
    found = count(lambda: vgg19.VGG19Features((deepest,)), SLICE)
    assert found == (parameters, variables)


def test_shapes_of_the_papers_layers():
    with tf.Graph().as_default():
        features = vgg19.VGG19Features()(tf.zeros(SLICE))
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "block1_conv1": (256, 256, 64),
        "block2_conv1": (128, 128, 128),
        "block3_conv1": (64, 64, 256),
        "block4_conv1": (32, 32, 512),
        "block5_conv1": (16, 16, 512),
    }


def test_only_the_named_layers_are_given_after_their_relu():
    network = vgg19.VGG19Features(("block1_conv2",))
    features = network(tf.random.stateless_normal([1, 16, 16, 1], [0, 0]))
    assert list(features) == ["block1_conv2"]
    assert np.min(features["block1_conv2"]) == 0
    assert np.max(features["block1_conv2"]) > 0


def test_nothing_of_it_is_trained():
    network = vgg19.VGG19Features(("block1_conv2",))
    assert network.trainable_variables == []
    assert len(network.non_trainable_variables) == 4


def test_a_gradient_goes_through_it_to_the_image():
    network = vgg19.VGG19Features(("block1_conv1",))
    image = tf.zeros([1, 16, 16, 1])
    with tf.GradientTape() as tape:
        tape.watch(image)
        total = tf.reduce_sum(network(image)["block1_conv1"])
    assert np.asarray(tape.gradient(total, image)).any()


def test_random_weights_are_drawn_from_the_seed():
    first, again, other = (
        vgg19.VGG19Features(("block1_conv1",), seed=seed).get_weights()[0]
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.fixture
def looking_glass(tmp_path):
    """A first layer whose outputs 0-2 and 3-5 are its input and minus it."""
    kernel = np.zeros((3, 3, 3, 64), "float32")
    kernel[1, 1] = np.pad(np.hstack([np.eye(3), -np.eye(3)]), [(0, 0), (0, 58)])
    path = tmp_path / "weights.npz"
    np.savez(path, **layer("block1_conv1", kernel))
    network = vgg19.VGG19Features(("block1_conv1",), f"own:{path}")

    def seen(image):
        features = np.asarray(network(image)["block1_conv1"])
        return features[..., :3] - features[..., 3:6]

    return seen


def layer(name, kernel):
    return {
        f"{name}__kernel": kernel,
        f"{name}__bias": np.zeros(kernel.shape[-1], "float32"),
    }


@pytest.mark.parametrize("value", GREY)
def test_a_grey_pixel_becomes_what_the_weights_were_trained_with(
    looking_glass, value
):
    seen = looking_glass(tf.fill([1, 4, 4, 1], value))
    np.testing.assert_allclose(seen[0, 1, 2], GREY[value], atol=1e-4)


def test_a_colour_pixel_is_turned_from_rgb_into_bgr(looking_glass):
    red, green, blue = -1.0, 0.0, 1.0
    image = tf.constant([red, green, blue]) * tf.ones([1, 4, 4, 3])
    np.testing.assert_allclose(
        looking_glass(image)[0, 1, 2],
        [GREY[blue][0], GREY[green][1], GREY[red][2]],
        atol=1e-4,
    )


def test_a_grey_image_is_a_colour_image_of_three_equal_channels(looking_glass):
    image = tf.random.stateless_uniform([1, 4, 4, 1], [0, 1], -1.0, 1.0)
    np.testing.assert_array_equal(
        looking_glass(image), looking_glass(tf.repeat(image, 3, axis=-1))
    )


@pytest.mark.slow
def test_features_equal_those_of_kerass_own_vgg19(tmp_path):
    """Its preprocessing, its layers, and its file format."""
    theirs = keras.applications.VGG19(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    path = tmp_path / "vgg19.weights.h5"
    theirs.save_weights(path)
    names = ("block1_conv2", "block3_conv4", "block5_conv1")
    with pytest.raises(errors.ArtefactError, match="has MD5 .*write own:"):
        vgg19.VGG19Features(names, str(path))
    ours = vgg19.VGG19Features(names, f"own:{path}")
    image = tf.random.stateless_uniform([2, 32, 32, 3], [0, 1], -1.0, 1.0)
    expected = keras.Model(
        theirs.input, [theirs.get_layer(name).output for name in names]
    )(keras.applications.vgg19.preprocess_input(127.5 * (image.numpy() + 1)))
    found = ours(image)
    for name, values in zip(names, expected, strict=True):
        scale = np.abs(values).max()
        assert scale > 0
        np.testing.assert_allclose(found[name], values, atol=1e-5 * scale)


@pytest.mark.shared_data
def test_the_first_real_layer_equals_a_correlation_by_scipy(shared_data):
    path = shared_data / "vgg19_imagenet_blocks1-3.npz"
    with np.load(path) as stored:
        kernel = stored["block1_conv1__kernel"]
        bias = stored["block1_conv1__bias"]
    image = np.random.default_rng(0).uniform(-1, 1, [6, 7])
    grey = 127.5 * (image + 1)
    bgr = np.stack([grey - mean for mean in (103.939, 116.779, 123.68)], -1)
    padded = np.pad(bgr, [(1, 1), (1, 1), (0, 0)])
    network = vgg19.VGG19Features(("block1_conv1",), str(path))
    found = network(tf.constant(image[None, ..., None], tf.float32))
    for i in (0, 17, 63):
        expected = scipy.signal.correlate(padded, kernel[..., i], "valid")
        np.testing.assert_allclose(
            found["block1_conv1"][0, ..., i],
            np.maximum(expected[..., 0] + bias[i], 0),
            atol=1e-3,
        )


@pytest.mark.shared_data
def test_blocks_that_the_real_file_lacks_are_named(shared_data):
    path = str(shared_data / "vgg19_imagenet_blocks1-3.npz")
    message = r"lacks block4_conv1; it has block1_conv1, .*--set=style_layers"
    with pytest.raises(errors.ArtefactError, match=message):
        vgg19.VGG19Features(("block1_conv1", "block4_conv1"), path)


@pytest.mark.shared_data
def test_one_bit_of_imagenets_weights_is_missed(shared_data, tmp_path):
    with np.load(shared_data / "vgg19_imagenet_blocks1-3.npz") as stored:
        arrays = dict(stored)
    names = [name.removesuffix("__bias") for name in arrays if "bias" in name]
    assert set(names) == set(vgg19.SHA256)
    vgg19.VGG19Features(
        tuple(names), str(shared_data / "vgg19_imagenet_blocks1-3.npz")
    )
    arrays["block2_conv1__bias"].view("uint32")[5] ^= 1
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    message = r"block2_conv1 in .*weights.npz has SHA-256 .* 71a6dbaa.*own:"
    with pytest.raises(errors.ArtefactError, match=message):
        vgg19.VGG19Features(("block2_conv2",), str(path))
    vgg19.VGG19Features(("block2_conv2",), f"own:{path}")


def test_what_keras_downloads_is_compared_too(monkeypatch):
    theirs = keras.applications.VGG19(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    monkeypatch.setattr(keras.applications, "VGG19", lambda **_: theirs)
    with pytest.raises(errors.ArtefactError, match="block1_conv1 in imagenet"):
        vgg19.VGG19Features(("block1_conv1",), "imagenet")


def test_missing_layers_are_named_with_the_way_out(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **layer("block1_conv1", np.ones((3, 3, 3, 64), "float32")))
    with pytest.raises(errors.ArtefactError) as info:
        vgg19.VGG19Features(("block2_conv1",), str(path))
    for part in (
        "lacks block1_conv2, block2_conv1;",
        "it has block1_conv1.",
        "--set=style_layers=...",
        "--set=content_layers=...",
    ):
        assert part in str(info.value)
    assert "\n" not in str(info.value)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **layer("block1_conv1", np.ones((3, 3, 3, 32), "float32")))
    with pytest.raises(errors.ArtefactError, match=r"kernel \(3, 3, 3, 32\)"):
        vgg19.VGG19Features(("block1_conv1",), str(path))


def test_a_missing_file_is_told_with_the_choices(tmp_path):
    message = "no file .*weights.npz; give the path .* imagenet .* random"
    with pytest.raises(errors.ResourceError, match=message):
        vgg19.VGG19Features(("block1_conv1",), str(tmp_path / "weights.npz"))


@pytest.mark.parametrize(
    "damage", ["cut short", "changed", "text", "empty", "one array"]
)
def test_a_broken_npz_is_told_as_such(tmp_path, damage):
    path = tmp_path / "weights.npz"
    np.savez(path, **layer("block1_conv1", np.ones((3, 3, 3, 64), "float32")))
    whole = path.read_bytes()
    if damage == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "changed":
        path.write_bytes(whole[:2000] + bytes(100) + whole[2100:])
    elif damage == "text":
        path.write_text("not found", encoding="utf-8")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    with pytest.raises(errors.ArtefactError, match="not a readable .npz file"):
        vgg19.VGG19Features(("block1_conv1",), str(path))


def test_a_download_that_fails_is_told_with_three_ways_out(monkeypatch):
    def refuse(**_):
        raise OSError("URL fetch failure\non a second line")

    monkeypatch.setattr(keras.applications, "VGG19", refuse)
    with pytest.raises(errors.ResourceError) as info:
        vgg19.VGG19Features(("block1_conv1",), "imagenet")
    message = str(info.value)
    assert "(URL fetch failure)" in message and "\n" not in message
    assert "--vgg_weights=FILE" in message and "random" in message


@pytest.mark.parametrize("names", [("block1_conv3",), ()])
def test_unknown_layers_are_refused_with_those_there_are(names):
    with pytest.raises(ValueError, match="has the layers block1_conv1, .*got"):
        vgg19.VGG19Features(names)


def test_bfloat16_weights_give_bfloat16_features():
    network = vgg19.VGG19Features(("block1_conv1",), dtype="bfloat16")
    assert {str(weight.dtype) for weight in network.weights} == {"bfloat16"}
    exact = vgg19.VGG19Features(("block1_conv1",))
    image = tf.random.stateless_uniform([1, 8, 8, 1], [0, 1], -1.0, 1.0)
    found = network(image)["block1_conv1"]
    assert found.dtype == tf.bfloat16
    values = np.asarray(exact(image)["block1_conv1"])
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), values, atol=0.02 * values.max()
    )
