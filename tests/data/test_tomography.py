"""Projection and the ways back: against chords, areas and the point spread."""

import numpy as np
import pytest

from medgan_tf.data import tomography

SPACINGS = [(4.0, 4.0), (3.5, 4.5)]


def make_disc(shape, spacing, radius_mm):
    """[X * Y, 1] of 2, with an edge as soft as a scanner's."""
    x, y = (
        (np.arange(n) - (n - 1) / 2) * s
        for n, s in zip(shape, spacing, strict=True)
    )
    edge = np.hypot(x[:, None], y[None, :]) - radius_mm
    return (2.0 / (1.0 + np.exp(edge / 2.5))).astype(np.float32).reshape(-1, 1)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_integrals_through_a_disc_are_its_chords_from_every_side(spacing):
    disc = make_disc((40, 36), spacing, 55.0)
    projectors = tomography.projector((40, 36), spacing, 12, 1)
    integrals = tomography.line_integrals(disc, projectors, spacing)[0]
    views = integrals.reshape(12, -1)
    middle = views.shape[1] // 2
    for offset in (-15, 0, 15):
        s = (offset + 0.5) * tomography.BIN_MM
        expected = 2.0 * 2.0 * np.sqrt(55.0**2 - s**2)
        np.testing.assert_allclose(
            views[:, middle + offset], expected, rtol=0.03
        )


def test_every_view_sees_every_pixel_exactly_once_corners_included():
    matrix = tomography.projector((11, 7), (2.0, 5.5), 6, 2)[1]
    np.testing.assert_allclose(matrix.sum(axis=0), 3.0, atol=1e-4)


def back(pixels, shape, spacing, num_angles=120, **settings):
    projectors = tomography.projector(shape, spacing, num_angles, 12)
    return tomography.filtered_back_projection(
        [matrix @ pixels for matrix in projectors],
        projectors,
        num_angles,
        spacing,
        **settings,
    )


@pytest.mark.parametrize("window", tomography.WINDOWS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_back_projection_gives_a_disc_back(window, spacing):
    disc = make_disc((40, 36), spacing, 55.0)
    image = back(disc, (40, 36), spacing, window=window, cutoff_per_mm=0.25)
    np.testing.assert_allclose(image[disc > 1.99], 2.0, rtol=0.02)
    assert image.sum() == pytest.approx(disc.sum(), rel=1e-4)
    assert image.dtype == np.float32


def test_back_projection_is_as_sharp_as_its_cut_off():
    point = np.zeros((61, 61), np.float32)
    point[30, 30] = 1.0
    image = back(
        point.reshape(-1, 1),
        (61, 61),
        (1.0, 1.0),
        window="hann",
        cutoff_per_mm=0.1,
    ).reshape(61, 61)
    width_mm = 2 * np.interp(
        -0.5, -image[30, 30:] / image[30, 30], np.arange(31)
    )
    assert width_mm == pytest.approx(1 / 0.1, rel=0.15)


def test_no_window_lets_more_than_the_ramp_through():
    share = np.linspace(0.0, 1.0, 50)
    for window in tomography.WINDOWS.values():
        response = window(share)
        assert response[0] == pytest.approx(1.0)
        assert response.min() >= 0.0
        assert (np.diff(response) <= 1e-12).all()


def test_osem_without_noise_comes_to_the_truth_through_attenuation_too():
    # Without blur and noise the truth is a fixed point of every update.
    disc = make_disc((20, 18), (5.0, 5.0), 30.0)
    projectors = tomography.projector((20, 18), (5.0, 5.0), 24, 4)
    rng = np.random.default_rng(0)
    for survival in (
        None,
        [rng.uniform(0.05, 1.0, (m.shape[0], 1)) for m in projectors],
    ):
        counts = [
            (matrix @ disc) * (1.0 if survival is None else survival[i])
            for i, matrix in enumerate(projectors)
        ]
        image = tomography.osem(
            counts,
            projectors,
            24,
            60,
            blur=lambda pixels: pixels,
            survival=survival,
        )
        inside = disc > 1.98
        np.testing.assert_allclose(image[inside], disc[inside], rtol=0.03)
        assert image.sum() == pytest.approx(disc.sum(), rel=0.005)
