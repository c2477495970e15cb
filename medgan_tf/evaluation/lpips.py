"""How different do two images look, judged by a network that saw photographs?

LPIPS version 0.1, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric" (Zhang et al., CVPR 2018): both images pass through the
convolutions of AlexNet or VGG-16; at five depths l the features of every
pixel are scaled to length 1 over the channels, and

  d(x, y) = sum over l of mean over pixels of w_l . (x_l - y_l)^2

with the weights w_l ("heads") that the authors fitted to human judgements.
0 for equal images; smaller is better. The weights come from a file that
`convert_lpips.py` makes of the official ones; without it there is no number.

Equal to the authors' `lpips` package on the same weights. On a GPU TensorFlow
may round convolutions to TF32, which
`tf.config.experimental.enable_tensor_float_32_execution(False)` forbids.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from medgan_tf import errors

VERSION = "0.1"


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution with its ReLU, and what stands around it.

    Attributes:
      index: its place in torchvision's `features`, such as 3.
      filters: number of output channels.
      size: side of the kernel [pixels].
      stride: step of the kernel [pixels].
      padding: zeros on each side [pixels].
      pool: side of the maximum pooling with stride 2 before it; 0: none.
      is_compared: whether its features enter the distance.
    """

    index: int
    filters: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0
    is_compared: bool = False


# The layers of torchvision's networks up to the last one that is compared.
NETWORKS = {
    "alex": (
        Convolution(0, 64, 11, stride=4, padding=2, is_compared=True),
        Convolution(3, 192, 5, padding=2, pool=3, is_compared=True),
        Convolution(6, 384, pool=3, is_compared=True),
        Convolution(8, 256, is_compared=True),
        Convolution(10, 256, is_compared=True),
    ),
    "vgg": (
        Convolution(0, 64),
        Convolution(2, 64, is_compared=True),
        Convolution(5, 128, pool=2),
        Convolution(7, 128, is_compared=True),
        Convolution(10, 256, pool=2),
        Convolution(12, 256),
        Convolution(14, 256, is_compared=True),
        Convolution(17, 512, pool=2),
        Convolution(19, 512),
        Convolution(21, 512, is_compared=True),
        Convolution(24, 512, pool=2),
        Convolution(26, 512),
        Convolution(28, 512, is_compared=True),
    ),
}
LABELS = {"alex": "AlexNet", "vgg": "VGG-16"}

# The scaling layer of the `lpips` package: ImageNet's mean and standard
# deviation of red, green and blue, for images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Of `lpips.normalize_tensor`: added to the length, outside the root.
EPSILON = 1e-10
# How far a value may lie outside the range, as a fraction of it: rounding.
RANGE_TOLERANCE = 1e-3

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
_REMEDY = (
    "make the file with convert_lpips.py from the official weights (its "
    "--help says which)"
)


class Lpips:
    """The distance with one network and its weights; see `load`.

    Attributes:
      network: "alex" or "vgg".
      label: for tables, such as "LPIPS (AlexNet, v0.1)".
      source: which files the weights come from, with their SHA-256.
    """

    def __init__(
        self, network: str, weights: Mapping[str, np.ndarray], source: str
    ):
        self.network = network
        self.label = f"LPIPS ({LABELS[network]}, v{VERSION})"
        self.source = source
        self._weights = {
            name: tf.constant(array) for name, array in weights.items()
        }
        # One trace for images of every size: each slice has its own box.
        images = tf.TensorSpec([None, None, None, 3], tf.float32)
        self._compiled = tf.function(
            self._compare, input_signature=[images, images], autograph=False
        )

    def distance(
        self,
        translated: np.ndarray,
        target: np.ndarray,
        *,
        data_range: tuple[float, float],
        batch_size: int = 8,
    ) -> np.ndarray:
        """LPIPS of each pair of images.

        The network was trained on photographs, so `data_range` is stretched
        to [-1, 1] and a grey image is repeated to three channels. Because the
        distance is not invariant to shifts, one number (highest minus
        lowest) would leave the stretch to a guess.

        Args:
          translated: images [B, H, W], [B, H, W, 1], or [B, H, W, 3] in red,
            green, blue; H and W at least 31 (AlexNet) or 16 (VGG-16).
          target: images of the same shape.
          data_range: lowest and highest value that an image can take, such as
            (-1, 1), (0, 255) or a window in HU. A value outside is an error.
          batch_size: pairs that are in memory at a time.

        Returns:
          Distances [B], float64, 0 or more.

        Raises:
          errors.UsageError: shapes differ or do not fit, the images are too
            small, a value is not finite or outside the range, or the range is
            not two ascending finite numbers.
        """
        low, high = _checked_range(data_range)
        pair = [np.asarray(images) for images in (translated, target)]
        _check_shapes(self.network, *(images.shape for images in pair))
        pair = [_stretched(images, low, high) for images in pair]
        return np.concatenate(
            [
                self._compiled(
                    *(images[start : start + batch_size] for images in pair)
                ).numpy()
                for start in range(0, len(pair[0]), batch_size)
            ]
        ).astype(np.float64)

    def _compare(self, translated: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """[B, H, W, 3] in [-1, 1], twice -> [B]."""
        distances = []
        for layer, (x, y) in enumerate(
            zip(
                self._features(translated), self._features(target), strict=True
            ),
            start=1,
        ):
            # [B, h, w, channels] -> [B, h, w] -> [B]
            difference = tf.square(_unit_length(x) - _unit_length(y))
            weighted = tf.reduce_sum(
                difference * self._weights[f"head{layer}"], axis=-1
            )
            distances.append(tf.reduce_mean(weighted, axis=[1, 2]))
        return tf.add_n(distances)

    def _features(self, image: tf.Tensor) -> list[tf.Tensor]:
        """[B, H, W, 3] in [-1, 1] -> the compared features, five tensors."""
        x = (image - tf.constant(SHIFT)) / tf.constant(SCALE)
        compared = []
        for convolution in NETWORKS[self.network]:
            if convolution.pool:
                x = tf.nn.max_pool2d(x, convolution.pool, 2, "VALID")
            beside = [convolution.padding] * 2
            x = tf.nn.conv2d(
                x,
                self._weights[f"conv{convolution.index}__kernel"],
                strides=convolution.stride,
                padding=[[0, 0], beside, beside, [0, 0]],
            )
            bias = self._weights[f"conv{convolution.index}__bias"]
            x = tf.nn.relu(tf.nn.bias_add(x, bias))
            if convolution.is_compared:
                compared.append(x)
        return compared


def load(path: str | os.PathLike) -> Lpips:
    """Reads a weights file made by `convert_lpips.py`.

    Args:
      path: an .npz as written by `save`.

    Returns:
      The distance, ready to be used.

    Raises:
      errors.ArtefactError: there is no such file, it is damaged, or it does
        not hold the weights of LPIPS v0.1. The message begins with "LPIPS is
        not computed": what a report shows in place of a number.
    """
    if not pathlib.Path(path).is_file():
        raise _not_computed(f"there is no weights file {path}")
    try:
        # Opened here, because numpy leaves a damaged file open.
        with (
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as stored,
        ):
            arrays = {name: stored[name] for name in stored.files}
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise _not_computed(
            f"{path} is not a readable .npz file ({reason})"
        ) from error
    network, version, source = (
        str(arrays.pop(name, "nothing"))
        for name in ("network", "version", "source")
    )
    if network not in NETWORKS or version != VERSION:
        raise _not_computed(
            f"{path} holds network {network} and version {version}, expected "
            f"{' or '.join(NETWORKS)} and {VERSION}"
        )
    _check_weights(network, arrays, path)
    return Lpips(network, arrays, source)


def save(
    path: str | os.PathLike,
    network: str,
    backbone: Mapping[str, np.ndarray],
    heads: Mapping[str, np.ndarray],
    *,
    source: str,
) -> None:
    """Writes a weights file for `load`, of a few arrays and three words.

    Args:
      path: the .npz to write; an existing one is replaced at the end.
      network: "alex" or "vgg".
      backbone: torchvision's state dict as arrays: `features.0.weight`
        [filters, channels, k, k], `features.0.bias` [filters] and so on; what
        comes after the last compared layer is left out.
      heads: the state dict of the `lpips` package's weights, version 0.1:
        `lin0.model.1.weight` [1, channels, 1, 1] and so on.
      source: which files they are from; shown beside the numbers.

    Raises:
      errors.ArtefactError: an entry is missing or has another shape.
    """
    arrays = {}
    for convolution in NETWORKS[network]:
        kernel = _entry(backbone, f"features.{convolution.index}.weight", 4)
        # [out, in, k, k] -> [k, k, in, out]
        arrays[f"conv{convolution.index}__kernel"] = kernel.transpose(
            2, 3, 1, 0
        )
        arrays[f"conv{convolution.index}__bias"] = _entry(
            backbone, f"features.{convolution.index}.bias", 1
        )
    for layer in range(_num_heads(network)):
        head = _entry(heads, f"lin{layer}.model.1.weight", 4)
        arrays[f"head{layer + 1}"] = head.reshape(-1)
    _check_weights(network, arrays, "the state dicts")

    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            np.savez(
                file, network=network, version=VERSION, source=source, **arrays
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _not_computed(reason: str) -> errors.ArtefactError:
    """The one line that stands where the number would."""
    return errors.ArtefactError(f"LPIPS is not computed: {reason}; {_REMEDY}.")


def _num_heads(network: str) -> int:
    return sum(c.is_compared for c in NETWORKS[network])


def _entry(state: Mapping[str, np.ndarray], name: str, ndim: int) -> np.ndarray:
    """One array of a state dict as float32."""
    if name not in state:
        raise _not_computed(f"the state dict has no {name}")
    array = np.asarray(state[name], dtype=np.float32)
    if array.ndim != ndim:
        raise _not_computed(
            f"{name} has shape {array.shape}, expected {ndim} axes"
        )
    return array


def _check_weights(
    network: str, arrays: Mapping[str, np.ndarray], where: object
) -> None:
    """Raises an ArtefactError unless all weights are there, as they must be."""
    expected = {}
    channels, layer = 3, 1
    for convolution in NETWORKS[network]:
        size, filters = convolution.size, convolution.filters
        name = f"conv{convolution.index}"
        expected[f"{name}__kernel"] = (size, size, channels, filters)
        expected[f"{name}__bias"] = (filters,)
        if convolution.is_compared:
            expected[f"head{layer}"] = (filters,)
            layer += 1
        channels = filters
    if arrays.keys() != expected.keys():
        odd = sorted(arrays.keys() ^ expected.keys())
        raise _not_computed(
            f"{where} does not hold the arrays of {LABELS[network]}, see "
            f"{', '.join(odd[:3])}"
        )
    for name, shape in expected.items():
        array = arrays[name]
        if (array.shape, array.dtype) != (shape, np.float32):
            raise _not_computed(
                f"{name} in {where} has shape {array.shape} of {array.dtype}, "
                f"expected {shape} of float32"
            )
        if not np.isfinite(array).all():
            raise _not_computed(f"{name} in {where} is not finite")


def _unit_length(features: tf.Tensor) -> tf.Tensor:
    """Scales the channels of every pixel to length 1; zeros stay zeros."""
    length = tf.sqrt(tf.reduce_sum(tf.square(features), axis=-1, keepdims=True))
    return features / (length + EPSILON)


def _checked_range(data_range: tuple[float, float]) -> tuple[float, float]:
    """Lowest and highest value, or a UsageError."""
    ends = np.asarray(data_range, dtype=np.float64)
    if ends.shape != (2,) or not np.isfinite(ends).all() or ends[0] >= ends[1]:
        raise errors.UsageError(
            "LPIPS needs data_range=(lowest, highest), two ascending finite "
            f"numbers such as (-1, 1), got {data_range}."
        )
    return float(ends[0]), float(ends[1])


def _check_shapes(
    network: str, translated: tuple[int, ...], target: tuple[int, ...]
) -> None:
    """Raises a UsageError unless the images can be compared."""
    is_batch = len(target) == 3 or (len(target) == 4 and target[3] in (1, 3))
    if translated != target or not is_batch or 0 in target:
        raise errors.UsageError(
            "LPIPS compares two batches of one shape, [B, H, W] or [B, H, W, "
            f"1 or 3], got {translated} and {target}."
        )
    least = _smallest_side(network)
    if min(target[1:3]) < least:
        raise errors.UsageError(
            f"LPIPS with {LABELS[network]} needs images of {least} x {least} "
            f"pixels or more, got {target[1]} x {target[2]}."
        )


def _smallest_side(network: str) -> int:
    """The side of the smallest image that leaves a pixel at the last layer."""
    side = 1
    for convolution in reversed(NETWORKS[network]):
        side = (side - 1) * convolution.stride + convolution.size
        side -= 2 * convolution.padding
        if convolution.pool:
            side = (side - 1) * 2 + convolution.pool
    return side


def _stretched(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """[B, H, W(, 1 or 3)] in [low, high] -> [B, H, W, 3] in [-1, 1]."""
    images = images.astype(np.float64)
    slack = RANGE_TOLERANCE * (high - low)
    # NaN fails the comparison too.
    if not (images.min() >= low - slack and images.max() <= high + slack):
        raise errors.UsageError(
            f"LPIPS was given values from {images.min():.4g} to "
            f"{images.max():.4g}, expected data_range=({low:g}, {high:g})."
        )
    images = (2 * (images - low) / (high - low) - 1).astype(np.float32)
    if images.ndim == 3:
        images = images[..., None]
    return np.broadcast_to(images, (*images.shape[:3], 3))
