"""The stream of batches is a function of the seed and the step alone."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors
from medgan_tf.data import pipeline, records
from medgan_tf.data import sample as samples

NUM_SLICES = 21


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """21 slices of 8 x 8 noise; pixel 0 of slice k is k / 100."""
    folder = tmp_path_factory.mktemp("pipeline") / "data"
    rng = np.random.default_rng(0)
    with records.Writer(folder, "mr_ct") as writer:
        slices = []
        for k in range(NUM_SLICES):
            image = rng.uniform(-1, 1, [8, 8, 1]).astype(np.float32)
            image[0, 0] = k / 100
            slices.append(
                samples.Sample(
                    f"patient{k % 3}",
                    k,
                    image,
                    # Source and target alike, to see if they stay so.
                    image,
                    np.ones([8, 8], bool),
                    (0.0, 1.0),
                    (0.0, 1.0),
                )
            )
        for patient in range(3):
            writer.add("train", slices[patient::3])
        return writer.finish({"slice_size": 8, "source_channels": 1})


def take(dataset, num_batches, **settings):
    """The first batches as arrays [num_batches, 2, B, 8, 8, 1]."""
    stream = pipeline.training_batches(dataset, **settings)
    return np.array(list(stream.take(num_batches).as_numpy_iterator()))


def numbers(batches) -> list[int]:
    """Which slices they are; only without jitter and flip."""
    return np.rint(batches[:, 0, :, 0, 0, 0].ravel() * 100).astype(int).tolist()


STILL = {"jitter_size": 8, "flip": False}
JITTERED = {"jitter_size": 12, "flip": True}


def test_each_slice_comes_exactly_once_in_an_epoch(dataset):
    batches = take(dataset, 2 * NUM_SLICES, **STILL)
    found = numbers(batches)
    epochs = found[:NUM_SLICES], found[NUM_SLICES:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(NUM_SLICES))
    assert epochs[0] != epochs[1]
    stored = {s.slice_index: s for s in dataset.samples("train")}
    for k, (source, target) in zip(found, batches, strict=True):
        np.testing.assert_array_equal(source[0], stored[k].source)
        np.testing.assert_array_equal(target[0], stored[k].target)


def test_what_does_not_fill_a_batch_is_left_out_of_its_epoch(dataset):
    assert pipeline.steps_per_epoch(dataset, 4) == 5
    found = numbers(take(dataset, 10, batch_size=4, **STILL))
    for epoch in (found[:20], found[20:]):
        assert len(set(epoch)) == 20


def test_the_order_depends_on_the_seed_and_on_nothing_global(dataset):
    first = numbers(take(dataset, NUM_SLICES, seed=1, **STILL))
    tf.random.set_seed(99)
    again = numbers(take(dataset, NUM_SLICES, seed=1, **STILL))
    other = numbers(take(dataset, NUM_SLICES, seed=2, **STILL))
    assert first == again
    assert first != other


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_resumed_stream_is_the_tail_of_the_whole_one(dataset, batch_size):
    settings = {"batch_size": batch_size, "seed": 5, **JITTERED}
    whole = take(dataset, 45 // batch_size, **settings)
    for first_step in (1, 30 // batch_size):
        rest = take(
            dataset, len(whole) - first_step, first_step=first_step, **settings
        )
        np.testing.assert_array_equal(rest, whole[first_step:])


def test_workers_and_their_devices_share_each_batch(dataset):
    """Two workers with two devices each; a batch of 8 is 2 slices for each."""
    settings = {"batch_size": 8, "jitter_size": 8, "flip": False}
    whole = take(dataset, 2, first_step=1, **settings)
    shares = [
        take(
            dataset,
            4,
            first_step=1,
            worker=worker,
            num_workers=2,
            num_replicas=4,
            **settings,
        )
        for worker in range(2)
    ]
    assert shares[0].shape[2] == 2
    for step in range(2):
        found = [n for s in shares for n in numbers(s[2 * step : 2 * step + 2])]
        assert sorted(found) == sorted(numbers(whole[step : step + 1]))


def test_the_stream_holds_a_block_twice(dataset):
    info = dataset.info | {"target_channels": 1}
    whole = dataclasses.replace(dataset, info=info)
    assert pipeline.memory_bytes(whole) == 2 * NUM_SLICES * 8 * 8 * 2 * 4


def test_source_and_target_are_jittered_alike(dataset):
    batches = take(dataset, NUM_SLICES, **JITTERED)
    np.testing.assert_array_equal(batches[:, 0], batches[:, 1])
    still = take(dataset, NUM_SLICES, **STILL)
    assert not np.array_equal(batches, still)


def test_fewer_slices_than_a_batch_are_refused(dataset):
    with pytest.raises(errors.DataError, match="21 training slices"):
        pipeline.training_batches(dataset, batch_size=22)


def test_a_crop_starts_at_each_of_31_places_and_at_no_other():
    ramp = tf.range(256.0)
    # Channel 0 tells the row, channel 1 the column.
    images = tf.stack(tf.meshgrid(ramp, ramp, indexing="ij"), axis=-1)
    # Pixel centres of 286 pixels on 256: (i + 1/2) 256 / 286 - 1/2.
    enlarged = np.clip((np.arange(286) + 0.5) * 256 / 286 - 0.5, 0, 255)
    jitter = tf.function(pipeline.jitter)
    found = set(), set()
    for index in range(300):
        seed = tf.constant([0, index], tf.int64)
        crop = jitter(images, seed, 286, False).numpy()
        for axis, line in enumerate((crop[:, 0, 0], crop[0, :, 1])):
            # Row 128 is far from the edges, where the ramp is cut off.
            offset = int(np.rint((line[128] + 0.5) * 286 / 256 - 0.5 - 128))
            # Grey levels of 0..255; bilinear in float32 is this exact.
            np.testing.assert_allclose(
                line, enlarged[offset : offset + 256], atol=1e-3
            )
            found[axis].add(offset)
    assert found == (set(range(31)), set(range(31)))


def test_flip_mirrors_half_of_the_slices_left_to_right_and_none_if_off():
    ramp = tf.range(8.0)
    images = tf.stack(tf.meshgrid(ramp, ramp, indexing="ij"), axis=-1)
    jitter = tf.function(pipeline.jitter)
    mirrored = 0
    for index in range(100):
        seed = tf.constant([0, index], tf.int64)
        np.testing.assert_array_equal(jitter(images, seed, 8, False), images)
        flipped = jitter(images, seed, 8, True).numpy()
        np.testing.assert_array_equal(flipped[..., 0], images[..., 0])
        mirrored += flipped[0, 0, 1] == 7
    # Binomial, n = 100: within four standard deviations of 50.
    assert 30 <= mirrored <= 70


def test_the_slices_of_a_step_can_be_named_afterwards(dataset):
    settings = {"batch_size": 4, "seed": 5}
    trained = numbers(take(dataset, 13, **settings, **STILL))
    # The second step of the first epoch, the third of the third.
    for step in (1, 12):
        found = pipeline.slices_of_step(dataset, step, **settings)
        expected = trained[4 * step : 4 * step + 4]
        assert [s.slice_index for s in found] == expected
