"""The metrics against scikit-image and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from skimage import metrics as reference

from medgan_tf.evaluation import metrics

ALL = [metrics.ssim, metrics.psnr, metrics.mse, metrics.mae]


def smooth(shape=(40, 33)):
    """A smooth image with an edge, on 0..255."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 100 + 50 * np.sin(x / 5) * np.cos(y / 7) + 60.0 * (x > 20)


def pairs():
    rng = np.random.default_rng(0)
    image = smooth()
    flat = np.full(image.shape, 80.0)
    noisy = image + rng.normal(0, 12, image.shape)
    eight_bit = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return {
        "flat against smooth": (flat, image, 255),
        "flat against another flat": (flat, flat + 10, 255),
        "noisy": (noisy, image, 255),
        "shifted": (np.roll(image, 3, axis=1), image, 255),
        "constant added": (image + 20, image, 255),
        "equal": (image, image, 255),
        "8-bit": (eight_bit, np.round(image).astype(np.uint8), 255),
        "float in -1..1": (noisy / 127.5 - 1, image / 127.5 - 1, 2),
        "Hounsfield units": (noisy * 11 - 1000, image * 11 - 1000, 3000),
        "one window": (noisy[:11, :11], image[:11, :11], 255),
    }


@pytest.mark.parametrize("name", pairs())
def test_ssim_equals_scikit_image_with_the_gaussian_window(name):
    translated, target, data_range = pairs()[name]

    expected = reference.structural_similarity(
        target.astype(np.float64),
        translated.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
    )

    found = metrics.ssim(translated, target, data_range=data_range)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(pairs()) - {"equal"}))
def test_psnr_and_mse_equal_scikit_image(name):
    translated, target, data_range = pairs()[name]

    psnr = metrics.psnr(translated, target, data_range=data_range)
    mse = metrics.mse(translated, target, data_range=data_range)

    assert psnr == pytest.approx(
        reference.peak_signal_noise_ratio(
            target.astype(float),
            translated.astype(float),
            data_range=data_range,
        ),
        abs=1e-6,
    )
    assert mse == pytest.approx(
        reference.mean_squared_error(target, translated), rel=1e-6
    )


def test_ssim_of_channels_is_the_mean_of_their_ssims():
    rng = np.random.default_rng(1)
    target = np.stack([smooth(), smooth()[::-1]], axis=-1)
    translated = target + rng.normal(0, 9, target.shape)

    found = metrics.ssim(translated, target, data_range=255)

    expected = np.mean(
        [
            metrics.ssim(translated[..., c], target[..., c], data_range=255)
            for c in range(2)
        ]
    )
    assert found == pytest.approx(expected, abs=1e-12)


def test_ssim_of_two_flat_images_is_the_luminance_term_by_hand():
    # c1 = (0.01 * 100)^2 = 1, so (2 * 3 * 4 + 1) / (9 + 16 + 1) = 25 / 26.
    found = metrics.ssim(
        np.full((11, 11), 3.0), np.full((11, 11), 4.0), data_range=100
    )

    assert found == pytest.approx(25 / 26, abs=1e-12)


def test_errors_by_hand():
    target = np.array([[0.0, 0.0], [0.0, 0.0]])
    translated = np.array([[1.0, -3.0], [0.0, 0.0]])

    assert metrics.mse(translated, target, data_range=255) == 10 / 4
    assert metrics.mae(translated, target, data_range=255) == 4 / 4
    # 10 log10(100 * 100 / 2.5) = 10 log10(4000) = 36.0206 dB.
    psnr = metrics.psnr(translated, target, data_range=100)
    assert psnr == pytest.approx(36.0206, abs=1e-4)


def test_the_psnr_of_identical_images_is_infinite():
    image = smooth()

    assert metrics.psnr(image, image, data_range=255) == math.inf


def test_unsigned_images_do_not_wrap_around():
    dark, bright = np.uint8([[0]]), np.uint8([[255]])

    assert metrics.mae(dark, bright, data_range=255) == 255


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("data_range", [0, -1, math.nan, math.inf])
def test_a_range_that_is_not_positive_is_refused(metric, data_range):
    with pytest.raises(ValueError, match="data_range"):
        metric(smooth(), smooth(), data_range=data_range)


@pytest.mark.parametrize("metric", ALL)
def test_a_range_is_never_guessed(metric):
    with pytest.raises(TypeError, match="data_range"):
        metric(smooth(), smooth())


@pytest.mark.parametrize("metric", ALL)
def test_shapes_that_differ_are_refused_even_where_they_would_broadcast(metric):
    with pytest.raises(ValueError, match="shape"):
        metric(smooth()[..., None], smooth(), data_range=255)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(metric, bad):
    image = smooth()
    image[3, 4] = bad

    with pytest.raises(ValueError, match="finite"):
        metric(image, smooth(), data_range=255)


def test_ssim_refuses_an_image_smaller_than_its_window():
    with pytest.raises(ValueError, match="11 x 11"):
        metrics.ssim(np.zeros((10, 40)), np.zeros((10, 40)), data_range=255)
