"""Every metric against programs that others wrote, on images of many kinds.

scikit-image and sewar run here where they are installed; the numbers of sewar,
piq and the SynthRAD challenges' own scoring were made outside, see
tests/golden/README.md.
"""

import json
import pathlib

import numpy as np
import pytest

from medgan_tf import tasks
from medgan_tf.data.sample import Sample
from medgan_tf.evaluation import compare, masked, metrics, protocols

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "metrics_oracles.json"
NUMBERS = json.loads(GOLDEN.read_text(encoding="utf-8"))

FUNCTIONS = {
    "ssim": metrics.ssim,
    "psnr": metrics.psnr,
    "mse": metrics.mse,
    "vif": metrics.vif,
    "uqi_sewar": metrics.uqi_sewar,
}


def image(shape=(64, 57)):
    """A smooth image with an edge, on 0..255."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 100 + 50 * np.sin(x / 5) * np.cos(y / 7) + 60.0 * (x > 20)


def pairs():
    """Name -> (translated, target, data_range)."""
    rng = np.random.default_rng(0)
    target = image()
    noisy = target + 40 * (rng.random(target.shape) - 0.5)
    blurred = (target + np.roll(target, 2, 0) + np.roll(target, 3, 1)) / 3
    y, x = np.mgrid[:64, :57]
    is_body = (y - 30) ** 2 + (x - 28) ** 2 < 400
    eight_bit = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return {
        "noisy": (noisy, target, 255),
        "blurred": (blurred, target, 255),
        "shifted": (np.roll(target, 3, axis=1), target, 255),
        "constant added": (target + 20, target, 255),
        "flat background": (
            np.where(is_body, noisy, 20.0),
            np.where(is_body, target, 20.0),
            255,
        ),
        "noise in the background": (
            np.where(is_body, target, 20 + 0.1 * rng.random(target.shape)),
            np.where(is_body, target, 20.0),
            255,
        ),
        "constant translation": (np.full_like(target, 80), target, 255),
        "8-bit": (eight_bit, np.round(target).astype(np.uint8), 255),
        "float in 0..1": (noisy / 255, target / 255, 1),
        "Hounsfield units from 0": (noisy * 11, target * 11, 3000),
        "small": (noisy[:41, :41], target[:41, :41], 255),
    }


def volume():
    """A CT-like volume, its translation in HU, and a mask."""
    rng = np.random.default_rng(1)
    z, y, x = np.mgrid[:20, :33, :40]
    # The body is longer than the volume: its border is not air.
    distance = (z - 9) ** 2 + (y - 16) ** 2 * 2 + (x - 20) ** 2
    target = np.where(distance < 350, 40 + 30 * np.sin(x / 3), -1000.0)
    target += 900.0 * ((distance > 220) & (distance < 300))
    target = np.where((z == 9) & (x == 20) & (target > 0), 3060.0, target)
    translated = np.roll(target, 2, axis=1) + 40 * np.cos(y / 4)
    translated += 300 * (rng.random(target.shape) - 0.5)
    return translated, target, distance < 350


def test_the_golden_numbers_are_of_these_pairs():
    assert list(NUMBERS["pairs"]) == list(pairs())


@pytest.mark.parametrize("name", NUMBERS["pairs"])
@pytest.mark.parametrize("program", ["sewar", "piq"])
def test_metrics_equal_the_numbers_of_sewar_and_piq(program, name):
    translated, target, data_range = pairs()[name]
    for metric, expected in NUMBERS["pairs"][name][program].items():
        found = FUNCTIONS[metric](translated, target, data_range=data_range)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), metric


@pytest.mark.parametrize("name", pairs())
def test_metrics_equal_sewar_where_it_is_installed(name):
    sewar = pytest.importorskip("sewar", reason="sewar is not installed")
    translated, target, data_range = pairs()[name]
    # sewar's VIF takes 0..255 for granted.
    grey = [array * (255 / data_range) for array in (target, translated)]
    found = {
        metric: FUNCTIONS[metric](translated, target, data_range=data_range)
        for metric in ("vif", "uqi_sewar", "mse")
    }
    assert found == pytest.approx(
        {
            "vif": sewar.vifp(*grey),
            "uqi_sewar": sewar.uqi(target, translated),
            "mse": sewar.mse(target, translated),
        },
        abs=1e-6,
    )


def test_where_a_float_image_is_0_sewar_leaves_its_range_and_so_do_we():
    sewar = pytest.importorskip("sewar", reason="sewar is not installed")
    rng = np.random.default_rng(0)
    target = np.zeros((40, 40))
    target[:20] = 255 * rng.random((20, 40))
    translated = target + 1e-9 * rng.random(target.shape) * (target == 0)
    found = metrics.uqi_sewar(translated, target, data_range=255)
    assert found == pytest.approx(sewar.uqi(target, translated), abs=1e-6)


@pytest.mark.slow  # TensorFlow takes seconds to import.
@pytest.mark.parametrize("name", pairs())
def test_ssim_and_psnr_equal_tensorflow(name):
    import tensorflow as tf

    translated, target, data_range = pairs()[name]
    tensors = [
        tf.constant(array[..., None], tf.float32)
        for array in (translated, target)
    ]
    assert metrics.ssim(
        translated, target, data_range=data_range
    ) == pytest.approx(
        float(tf.image.ssim(*tensors, max_val=data_range)), abs=1e-4
    )
    assert metrics.psnr(
        translated, target, data_range=data_range
    ) == pytest.approx(
        float(tf.image.psnr(*tensors, max_val=data_range)), abs=1e-4
    )


def from_low(window):
    """The volume as SynthRAD's programs prepare it for SSIM."""
    translated, target, mask = volume()
    low, high = window
    return [
        np.where(mask, np.clip(array, low, high), low) - low
        for array in (translated, target)
    ]


@pytest.mark.parametrize(
    ("program", "function", "window"),
    [
        ("synthrad2023", masked.ssim_in_mask, (-1024.0, 3000.0)),
        ("synthrad2025", masked.ms_ssim_synthrad2025, (-1024.0, 3071.0)),
    ],
)
def test_similarity_in_the_mask_equals_the_challenges_programs(
    program, function, window
):
    found = function(
        *from_low(window), mask=volume()[2], data_range=window[1] - window[0]
    )
    name = "ssim" if program == "synthrad2023" else "ms_ssim"
    assert found == pytest.approx(NUMBERS["volume"][program][name], abs=1e-6)


@pytest.mark.parametrize("name", ["synthrad2023", "synthrad2025"])
def test_the_protocols_score_slices_as_the_challenges_score_their_volume(name):
    translated, target, _ = volume()
    window = (-1400.0, 3600.0)
    images, samples = [], []
    for k in np.random.default_rng(2).permutation(len(target)):
        image, truth = (
            np.float32((array[k] + 1400) / 2500 - 1)
            for array in (translated, target)
        )
        images.append(image)
        samples.append(
            Sample(
                "a",
                slice_index=int(k),
                source=truth[..., None],
                target=truth[..., None],
                mask=np.ones(truth.shape, bool),
                source_window=window,
                target_window=window,
            )
        )
    protocol = protocols.PROTOCOLS[name].fitted(tasks.CT)
    found = compare.volume_values({"x": images}, samples, protocol)["x"]
    for metric, expected in NUMBERS["volume"][name].items():
        # Slices are stored as float32: 5000 HU in 2^24 steps.
        assert found[metric] == pytest.approx(expected, rel=1e-5), metric
