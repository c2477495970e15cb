"""Settings that cannot be meant are refused; the length of a run is counted."""

import dataclasses

import pytest

from medgan_tf.training import config as configs


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(200, 0, 2600), (200, 50, 50), (2, 50, 26), (1, 13, 13)],
)
def test_the_shorter_of_epochs_and_max_steps_counts(
    epochs, max_steps, expected
):
    config = configs.TrainConfig(epochs=epochs, max_steps=max_steps)
    assert config.num_steps(steps_per_epoch=13) == expected


def test_the_paper_s_settings_are_the_default():
    config = configs.TrainConfig()
    # Section 2.5: 200 epochs, batch size 1; 286 is pix2pix-tensorflow's.
    assert (config.epochs, config.batch_size) == (200, 1)
    assert (config.jitter_size, config.flip) == (286, True)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("batch_size", -1, "batch_size must be at least 1, got -1"),
        ("summary_every", 0, "summary_every must be at least 1"),
        ("image_every", 0, "image_every must be at least 1"),
        ("max_steps", -1, "max_steps must be at least 0"),
        ("validate_every", -1, "validate_every must be at least 0"),
        ("validation_slices", -1, "validation_slices must be at least 0"),
        ("save_every", 0, "save_every must be at least 1"),
        ("jitter_size", 255, "jitter_size must be at least 256, got 255"),
        (
            "precision",
            "float16",
            "mixed_bfloat16, mixed_float16, got .float16.",
        ),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        configs.TrainConfig(**{field: value})


def test_settings_do_not_change_during_a_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs.TrainConfig().seed = 1
