"""Records become an endless stream of shuffled, jittered batches.

The stream is a function of the seed and the step alone: order and jitter of
step n are the same whether training came there in one go or was resumed, so
the position in the data is the step number and nothing else need be saved.
"""

from __future__ import annotations

import tensorflow as tf

from medgan_tf import errors
from medgan_tf.data import records
from medgan_tf.data import sample as samples

# Shards read at the same time, out of all of them in a new order each epoch.
CYCLE_LENGTH = 8
# Slices that are shuffled together; 270 MB of them with one channel each.
SHUFFLE_BLOCK = 512


def steps_per_epoch(dataset: records.Dataset, batch_size: int) -> int:
    """Whole batches in one pass over the training slices.

    Raises:
      DataError: fewer training slices than one batch.
    """
    steps = dataset.num_slices("train") // batch_size
    if not steps:
        raise errors.DataError(
            f"{dataset.folder} has {dataset.num_slices('train')} training "
            f"slices, expected at least one batch of {batch_size}; prepare "
            "more patients or lower --batch_size."
        )
    return steps


def memory_bytes(dataset: records.Dataset) -> int:
    """What the stream holds: a block of slices, before and after shuffling."""
    channels = dataset.info["source_channels"] + dataset.info["target_channels"]
    slice_bytes = 4 * channels * dataset.info["slice_size"] ** 2
    return 2 * min(SHUFFLE_BLOCK, dataset.num_slices("train")) * slice_bytes


def training_batches(
    dataset: records.Dataset,
    *,
    batch_size: int = 1,
    seed: int = 0,
    jitter_size: int = 286,
    flip: bool = True,
    first_step: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """Batches of (source, target), float32 [B, 256, 256, C] in [-1, 1].

    Args:
      dataset: from `records.open_dataset`.
      batch_size: slices per batch; the rest of an epoch that does not fill a
        batch is left out of it.
      seed: of order and jitter.
      jitter_size: slices are enlarged to this side and cropped to their own
        size at a random place (pix2pix-tensorflow: 286); their own size or
        less: never.
      flip: mirror half of the slices left to right.
      first_step: where to go on.
      worker: which of `num_workers` processes reads.
      num_workers: every so many-th slice is read by the same one.
      num_replicas: of all workers; each element is one replica's share of a
        batch, B being `batch_size / num_replicas`.
    """
    seed = tf.constant(seed, tf.int64)
    size = dataset.info["slice_size"]
    channels = dataset.info["source_channels"]

    def parse_and_jitter(index, record):
        source, target = records.parse_images(record, size, channels)
        images = tf.concat([source, target], axis=-1)
        images = jitter(images, tf.stack([seed, index]), jitter_size, flip)
        return images[..., :channels], images[..., channels:]

    return (
        _in_order(dataset, batch_size, seed, first_step)
        .enumerate(first_step * batch_size)
        .shard(num_workers, worker)
        .map(
            parse_and_jitter,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size // num_replicas, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def slices_of_step(
    dataset: records.Dataset, step: int, *, batch_size: int, seed: int
) -> list[samples.Sample]:
    """What `training_batches` gives in a step, before the jitter.

    Args:
      dataset: from `records.open_dataset`.
      step: from 0.
      batch_size: slices per batch.
      seed: of the order.
    """
    order = _in_order(dataset, batch_size, tf.constant(seed, tf.int64), step)
    return [records.decode(record.numpy()) for record in order.take(batch_size)]


def _in_order(
    dataset: records.Dataset, batch_size: int, seed: tf.Tensor, first_step: int
) -> tf.data.Dataset:
    """Serialized records, epoch after epoch, from a step on."""
    steps = steps_per_epoch(dataset, batch_size)
    files = dataset.shards("train")

    def epoch_records(epoch):
        # Because Dataset.shuffle mixes TensorFlow's global seed into its own.
        def shuffle(block, values):
            return tf.random.experimental.stateless_shuffle(
                values, tf.stack([seed, epoch + block * 2**32])
            )

        return (
            tf.data.Dataset.from_tensor_slices(shuffle(-1, files))
            .interleave(
                lambda file: tf.data.TFRecordDataset(file, records.COMPRESSION),
                cycle_length=min(CYCLE_LENGTH, len(files)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(SHUFFLE_BLOCK)
            .enumerate()
            .map(shuffle)
            .unbatch()
            .take(steps * batch_size)
        )

    first_epoch, within = divmod(first_step, steps)
    return (
        tf.data.Dataset.range(first_epoch, tf.int64.max)
        .flat_map(epoch_records)
        .skip(within * batch_size)
    )


def jitter(
    images: tf.Tensor, seed: tf.Tensor, jitter_size: int, flip: bool
) -> tf.Tensor:
    """Shifts, enlarges and mirrors all channels of a slice alike.

    pix2pix-tensorflow's augmentation, but enlarged bilinearly: its "area"
    method repeats pixels when it enlarges.

    Args:
      images: [size, size, channels]; source and target together, so that
        one draw serves both.
      seed: int64 [2].
      jitter_size: side after enlarging; the offset of the crop is uniform
        over the whole numbers from 0 to jitter_size - size.
      flip: whether to mirror left to right with probability 1/2.

    Returns:
      The same shape.
    """
    size = images.shape[0]
    draws = tf.random.stateless_uniform([3], seed)
    if flip:
        images = tf.cond(
            draws[0] < 0.5,
            lambda: tf.reverse(images, axis=[1]),
            lambda: images,
        )
    if jitter_size > size:
        images = tf.image.resize(images, [jitter_size, jitter_size])
        room = jitter_size - size + 1
        offset = tf.cast(draws[1:] * tf.cast(room, tf.float32), tf.int32)
        images = tf.slice(
            images, [offset[0], offset[1], 0], [size, size, images.shape[-1]]
        )
        images = tf.ensure_shape(images, [size, size, images.shape[-1]])
    return images
