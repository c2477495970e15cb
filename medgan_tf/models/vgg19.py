"""The frozen feature extractor: the front part of VGG-19.

Section 2.3: features of a network pre-trained on photographs measure style
and content. Built only as deep as the deepest layer in use, because the five
blocks cost four times as much as a U-block.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from medgan_tf import errors, fan_out
from medgan_tf.models import winograd as winograds

# VGG-19 without its classifier: filters and number of convolutions per block.
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
LAYERS = tuple(
    f"block{i}_conv{j}"
    for i, (_, count) in enumerate(BLOCKS, start=1)
    for j in range(1, count + 1)
)
# Channels and filters from which Winograd's convolutions are the faster.
WIDE = 128
# Means of blue, green and red (0..255) that the weights were trained with.
BGR_MEANS = (103.939, 116.779, 123.68)
# SHA-256 of ImageNet's kernel and bias, float32, little endian, row by row. Of
# blocks 4 and 5 none is known to us: there Keras's MD5 of its file must do.
SHA256 = {
    "block1_conv1": (
        "c68eefa00d6af917fc28b127b756e48597c25cc11144b38fdf8ea65753c197e1"
    ),
    "block1_conv2": (
        "a0e2bb4fbef5e0ce3d8e2fbc6f903c713c9893a0aa2e26c687b0b5758c6af079"
    ),
    "block2_conv1": (
        "71a6dbaa06d7e454db3e56d6d2eb5f2defd8b60cccd5af5fc8a6b773be1c5aa5"
    ),
    "block2_conv2": (
        "ab1d44f13a37e4af119cc56c7e9a4f8ab4ba281019cb057737d5e2f47dae2268"
    ),
    "block3_conv1": (
        "df21209f6d1a0bfd90a17eb705fbb9b520ece764914a067b0d94cefe99a43318"
    ),
    "block3_conv2": (
        "3b44315d503e5f24957aef369df5e89a1d54fdcbd78e93c93df560d1ff0ba11d"
    ),
    "block3_conv3": (
        "f94ad0c1d2fcb380fe57649a0764a25e7602a436efb8767ce65faf28964f10d0"
    ),
    "block3_conv4": (
        "f0dc43a70868cb7edce398eac3422b45fb93333c2e6c274f89adc969c37791ee"
    ),
}
# Of Keras's file without the classifier; Keras compares it after a download.
FILE_MD5 = "253f8cb515780f3b799900260a226db6"
# Before the name of a file, "own:" says that its weights are not ImageNet's.
OWN = "own:"
# What numpy.load raises for a file that is cut short, damaged or no .npz at
# all; TypeError, because an .npy under that name is no context manager.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


class VGG19Features(keras.Model):
    """Features of VGG-19 after the ReLU of the named layers.

    Input [B, H, W, 1 or 3] in [-1, 1]; it is taken to 0..255 and, with one
    channel, repeated; then the means are subtracted, in the order blue,
    green, red that the weights know. Only this scale makes the paper's weight
    of 1e-4 a reasonable one: content grows with its square, style with its
    fourth power.

    Returns a dict, layer name -> [B, h, w, filters].

    Args:
      layer_names: which layers, such as ("block1_conv1",); by default the
        first convolution of each block, as in Section 2.3.
      weights: "imagenet" (Keras downloads them once and checks their hash),
        the path of an .npz with `block1_conv1__kernel` and so on or of
        Keras's .h5 file, each compared with SHA256 or FILE_MD5; "own:" and a
        path for other weights; or "random" (seeded; for tests and
        demonstrations).
      seed: of the random weights.
      dtype: of weights and features, such as "bfloat16": frozen weights
        need no float32 copy.
      winograd: make the wide convolutions with fewer products, see
        `models.winograd`; their kernels are then fixed from here on.

    Raises:
      errors.UsageError: an unknown layer name.
      errors.ArtefactError: weights missing from the file, of wrong shape or
        not ImageNet's.
      errors.ResourceError: no file, or no network to fetch the weights.
    """

    def __init__(
        self,
        layer_names: tuple[str, ...] = tuple(
            f"block{i}_conv1" for i in range(1, 6)
        ),
        weights: str = "random",
        seed: int = 0,
        name: str = "vgg19",
        dtype: str | None = None,
        winograd: bool = False,
    ):
        # No autocast: 0..255 is only rounded to the dtype after the means.
        super().__init__(
            name=name, dtype=dtype, trainable=False, autocast=False
        )
        unknown = sorted(set(layer_names) - set(LAYERS))
        if unknown or not layer_names:
            raise errors.UsageError(
                f"VGG-19 has the layers {', '.join(LAYERS)}; got "
                f"{', '.join(unknown) or 'none'}."
            )
        self.layer_names = tuple(layer_names)
        deepest = max(LAYERS.index(n) for n in layer_names)
        self.convolutions = []
        for index, layer_name in enumerate(LAYERS[: deepest + 1]):
            self.convolutions.append(
                keras.layers.Conv2D(
                    BLOCKS[int(layer_name[5]) - 1][0],
                    3,
                    padding="same",
                    activation="relu",
                    kernel_initializer=keras.initializers.HeNormal(
                        seed=seed + index
                    ),
                    trainable=False,
                    name=layer_name,
                    dtype=dtype,
                )
            )
        self.pool = keras.layers.MaxPooling2D(2, name="pool", dtype=dtype)
        self.build((1, 256, 256, 3))
        _load(self.convolutions, weights)
        # What takes the kernel's place, by the name of the convolution.
        self._kernel_sums = {
            c.name: winograds.kernel_sums(tf.convert_to_tensor(c.kernel))
            for c in self.convolutions
            if winograd and min(c.kernel.shape[2:]) >= WIDE
        }

    def build(self, input_shape):
        """Makes the weights, for which Keras alone would run `call`."""
        for convolution in self.convolutions:
            if _begins_block(convolution):
                input_shape = self.pool.compute_output_shape(input_shape)
            convolution.build(input_shape)
            input_shape = convolution.compute_output_shape(input_shape)

    def call(self, image):
        x = (tf.cast(image, tf.float32) + 1.0) * 127.5
        # [B, H, W, 1] -> [B, H, W, 3]; a colour image is RGB here, BGR there
        x = tf.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x[..., ::-1]
        x = tf.cast(x - tf.constant(BGR_MEANS), self.compute_dtype)
        features = {}
        for convolution in self.convolutions:
            # Pooling stands between the blocks: 256 -> 128 -> 64 -> 32 -> 16
            if _begins_block(convolution):
                x = self.pool(x)
            sums = self._kernel_sums.get(convolution.name)
            if sums is None:
                x = convolution(x)
            else:
                bias = tf.convert_to_tensor(convolution.bias)
                x = winograds.rectified(x, sums, bias)
            if convolution.name in self.layer_names:
                # Two losses may read it beside the next convolution.
                x, features[convolution.name] = fan_out.readers(x, 2)
        return features

    def count_sums(self, batch_size: int) -> int:
        """How many numbers Winograd's method holds at most.

        The sums of all kernels, and those of the image and the products in
        the convolution that has most.
        """
        wide = [c for c in self.convolutions if c.name in self._kernel_sums]
        kernels = sum(math.prod(c.kernel.shape[2:]) for c in wide)
        pixels_and_channels = (
            math.prod(c.get_build_config()["input_shape"][1:3])
            * sum(c.kernel.shape[2:])
            for c in wide
        )
        # So many taps for a kernel, and for four pixels.
        images = batch_size * max(pixels_and_channels, default=0) // 4
        return winograds.TAPS * (kernels + images)


def _begins_block(convolution: keras.layers.Conv2D) -> bool:
    """Whether it is the first after a pooling."""
    return convolution.name.endswith("_conv1") and (
        convolution.name != LAYERS[0]
    )


def _load(convolutions: list[keras.Layer], weights: str) -> None:
    """Sets kernels and biases from what `weights` names."""
    if weights == "random":
        return
    is_own = weights.startswith(OWN)
    weights = weights.removeprefix(OWN)
    if weights == "imagenet":
        stored = _imagenet(weights)
    elif not pathlib.Path(weights).is_file():
        raise errors.ResourceError(
            f"VGG-19 weights: no file {weights}; give the path of an .npz or "
            ".h5 file, imagenet (downloads them) or random (for trying out)."
        )
    elif weights.endswith(".h5"):
        if not is_own:
            _check(weights, "MD5", _md5(weights), FILE_MD5)
        stored = _imagenet(weights)
    else:
        stored = _from_npz(weights)
    missing = [c.name for c in convolutions if c.name not in stored]
    if missing:
        raise errors.ArtefactError(
            f"VGG-19 weights: {weights} lacks {', '.join(missing)}; it has "
            f"{', '.join(sorted(stored)) or 'no VGG-19 layer'}. Use "
            "another file or name only layers that it has, with "
            "--set=style_layers=... and --set=content_layers=..."
        )
    for convolution in convolutions:
        kernel, bias = stored[convolution.name]
        if (kernel.shape, bias.shape) != tuple(
            tuple(w.shape) for w in convolution.weights
        ):
            raise errors.ArtefactError(
                f"VGG-19 weights: {convolution.name} in {weights} has kernel "
                f"{kernel.shape} and bias {bias.shape}, expected "
                f"{tuple(convolution.kernel.shape)} and "
                f"{tuple(convolution.bias.shape)}; it is not VGG-19's."
            )
        if not is_own and convolution.name in SHA256:
            where = f"{convolution.name} in {weights}"
            _check(
                where,
                "SHA-256",
                _sha256(kernel, bias),
                SHA256[convolution.name],
            )
        convolution.set_weights([kernel, bias])


def _check(where: str, kind: str, found: str, expected: str) -> None:
    """Refuses weights that were damaged or exchanged."""
    if found != expected:
        raise errors.ArtefactError(
            f"VGG-19 weights: {where} has {kind} {found}, ImageNet's is "
            f"{expected}; get the file again, or, where the weights are your "
            f"own, write {OWN} before its name."
        )


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def _md5(path: str) -> str:
    return hashlib.md5(pathlib.Path(path).read_bytes()).hexdigest()


def _from_npz(path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads `block1_conv1__kernel` and `block1_conv1__bias` pairs."""
    try:
        # Opened here, because numpy leaves a damaged file open.
        with (
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return {
                name: (arrays[f"{name}__kernel"], arrays[f"{name}__bias"])
                for name in LAYERS
                if f"{name}__kernel" in arrays and f"{name}__bias" in arrays
            }
    except _UNREADABLE as error:
        raise errors.ArtefactError(
            f"VGG-19 weights: {path} is not a readable .npz file ({error}); "
            "get it again."
        ) from error


def _imagenet(weights: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads Keras's own VGG-19, from its cache, the network or an .h5."""
    try:
        network = keras.applications.VGG19(include_top=False, weights=weights)
    except Exception as error:
        # Because urllib, h5py and Keras each raise classes of their own.
        raise errors.ResourceError(
            f"VGG-19 weights: {weights} could not be loaded "
            f"({str(error).splitlines()[0]}). Three ways out: a machine with "
            "network access (they are cached in ~/.keras/models), "
            "--vgg_weights=FILE with the .h5 or .npz brought along, or "
            "--vgg_weights=random (only for trying out)."
        ) from error
    return {
        name: tuple(network.get_layer(name).get_weights()) for name in LAYERS
    }
