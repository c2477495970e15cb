"""The metrics against scikit-image and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from skimage import metrics as reference

from medgan_tf.evaluation import metrics

ALL = [
    metrics.ssim,
    metrics.psnr,
    metrics.mse,
    metrics.mae,
    metrics.me,
    metrics.nrmse,
    metrics.vif,
    metrics.uqi,
    metrics.uqi_sewar,
]


def smooth(shape=(44, 41)):
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


def test_the_mean_error_keeps_its_sign_by_hand():
    translated, target = np.array([[1.0, -3.0]]), np.zeros((1, 2))

    assert metrics.me(translated, target, data_range=255) == -1


@pytest.mark.parametrize("name", sorted(set(pairs()) - {"equal"}))
def test_nrmse_equals_scikit_image(name):
    translated, target, data_range = pairs()[name]

    found = metrics.nrmse(translated, target, data_range=data_range)

    expected = reference.normalized_root_mse(
        np.float64(target), np.float64(translated), normalization="euclidean"
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_nrmse_and_vif_of_a_target_without_content_are_not_defined():
    black, grey = np.zeros((41, 41)), np.full((41, 41), 9.0)

    assert math.isnan(metrics.nrmse(grey, black, data_range=255))
    assert math.isnan(metrics.vif(smooth()[:41, :41], grey, data_range=255))


def uqi_by_definition(x, y):
    """Window by window from the formula of Wang and Bovik's letter."""
    values = []
    for i in range(x.shape[0] - 7):
        for j in range(x.shape[1] - 7):
            a = np.float64(x[i : i + 8, j : j + 8])
            b = np.float64(y[i : i + 8, j : j + 8])
            covariance = ((a - a.mean()) * (b - b.mean())).sum() / 63
            variances = a.var(ddof=1) + b.var(ddof=1)
            squares = a.mean() ** 2 + b.mean() ** 2
            if np.ptp(a) == np.ptp(b) == 0:
                values.append(
                    2 * a.mean() * b.mean() / squares if squares else 1
                )
            else:
                values.append(
                    4 * covariance * a.mean() * b.mean() / variances / squares
                )
    return np.mean(values)


@pytest.mark.parametrize("name", sorted(set(pairs()) - {"float in -1..1"}))
def test_uqi_equals_its_definition_window_by_window(name):
    translated, target, data_range = pairs()[name]

    found = metrics.uqi(translated, target, data_range=data_range)

    assert found == pytest.approx(uqi_by_definition(translated, target))


def test_uqi_where_both_images_are_flat_compares_the_means_alone():
    y, x = np.mgrid[:40, :40]
    is_body = (y - 20) ** 2 + (x - 20) ** 2 < 100
    rng = np.random.default_rng(0)
    target = np.where(is_body, 200 * rng.random((40, 40)), 0.0)
    brighter = np.where(is_body, target, 0.1)

    equal = metrics.uqi(target, target, data_range=255)
    other = metrics.uqi(brighter, target, data_range=255)

    assert equal == pytest.approx(1, abs=1e-12)
    assert other == pytest.approx(uqi_by_definition(brighter, target))
    # Flat in both, one of them 0: 2 * 0 * 0.1 / 0.01 = 0.
    flat = metrics.uqi(np.full((8, 8), 0.1), np.zeros((8, 8)), data_range=255)
    assert flat == 0


def test_uqi_of_noise_against_flat_is_0_and_that_of_a_negative_is_minus():
    rng = np.random.default_rng(0)
    noise = 100 + 10 * rng.random((30, 30))
    flat = np.full((30, 30), 105.0)

    assert metrics.uqi(noise, flat, data_range=255) == pytest.approx(
        0, abs=1e-9
    )
    assert metrics.uqi(210 - noise, noise, data_range=255) < -0.99


def test_uqi_sees_unrelated_noise_where_sewar_s_does_not():
    rng = np.random.default_rng(0)
    a, b = (100 + 20 * rng.random((60, 60)) for _ in range(2))

    assert abs(metrics.uqi(a, b, data_range=255)) < 0.05
    assert metrics.uqi_sewar(a, b, data_range=255) > 0.95


def test_vif_does_not_depend_on_the_scale_but_on_the_order():
    target = smooth()
    translated = target / 2

    found = metrics.vif(translated, target, data_range=255)

    scaled = metrics.vif(translated * 16, target * 16, data_range=255 * 16)
    assert scaled == pytest.approx(found, rel=1e-9)
    # Half the contrast has lost something, twice the contrast shows more.
    swapped = metrics.vif(target, translated, data_range=255)
    assert found < 1 < swapped


def test_vif_is_1_for_equal_images_and_more_for_a_higher_contrast():
    target = smooth()

    equal = metrics.vif(target, target, data_range=255)
    stretched = metrics.vif(1.2 * target, target, data_range=255)

    assert equal == pytest.approx(1, abs=1e-6)
    assert stretched > 1


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


@pytest.mark.parametrize(
    ("metric", "smallest"),
    [(metrics.vif, 41), (metrics.uqi, 8), (metrics.uqi_sewar, 9)],
)
def test_an_image_below_the_window_or_with_channels_is_refused(
    metric, smallest
):
    image = smooth((smallest, 60))
    metric(image, image, data_range=255)

    for wrong in (image[1:], np.stack([image, image], axis=-1)):
        with pytest.raises(ValueError, match=f"{smallest} x {smallest}"):
            metric(wrong, wrong, data_range=255)
