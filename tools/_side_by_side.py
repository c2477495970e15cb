"""The same slices as every method of a study translates them."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence

import tensorflow as tf
import tqdm

from medgan_tf.data import records, sample
from medgan_tf.evaluation import (
    elsewhere,
    elsewhere_files,
    examples,
    grid,
    picture,
    results,
    studies,
)
from medgan_tf.training import checkpoint


def pictures(
    name: str,
    rows: Sequence[studies.Variant | studies.Elsewhere],
    found: Sequence[results.Result],
    workdir: pathlib.Path,
) -> list[tuple[bytes, str]]:
    """Slices of median and of lowest SSIM, with every method's image."""
    ssim = results.mean_ssim(found)
    median = results.choose_median(ssim)
    worst = results.choose_worst(ssim)
    # Those of this program come first.
    run = checkpoint.load_run(workdir / rows[0].name)
    shown = {
        row.label: _translated(row, run, workdir, {**median, **worst})
        for row in tqdm.tqdm(rows, unit="method", desc=name)
    }

    # One scale of errors for both pictures.
    limit = picture.error_limit(list(itertools.chain(*shown.values())))

    def side_by_side(slices) -> bytes:
        return grid.draw(
            {
                label: [one for one in them if _key(one) in slices]
                for label, them in shown.items()
            },
            run.restored_task(),
            limit,
        )

    return [
        (
            side_by_side(median),
            "Of up to four patients the slice of median SSIM (mean over the "
            "methods); below each image its error, on one scale for all.",
        ),
        (
            side_by_side(worst),
            f"The worst slices by SSIM (mean over the methods), {len(worst)} "
            "of them, none next to another.",
        ),
    ]


def _translated(
    row: studies.Variant | studies.Elsewhere,
    first: checkpoint.Run,
    workdir: pathlib.Path,
    chosen: dict,
) -> list[examples.Example]:
    """The chosen slices as one method translates them."""
    dataset = records.open_dataset(first.data["folder"])
    if isinstance(row, studies.Elsewhere):
        needed = elsewhere_files.wanted(dataset.samples("test"))
        of_interest = (s for s in dataset.samples("test") if _key(s) in chosen)
        return examples.translate_chosen(
            elsewhere.attach(
                of_interest,
                elsewhere_files.slices(
                    row.folder, needed, others=dataset.patients_beside("test")
                ),
                first.restored_task().target,
            ),
            elsewhere.translate,
            chosen,
        )
    run = checkpoint.load_run(workdir / row.name)
    # Where the generator draws, it draws the same each time.
    tf.keras.utils.set_random_seed(run.config.seed)
    generator, _ = checkpoint.load_generator(run, "best")
    return examples.translate_chosen(
        dataset.samples("test"),
        tf.function(generator, reduce_retracing=True),
        chosen,
    )


def _key(one: examples.Example | sample.Sample) -> tuple[str, str, int]:
    return one.patient, one.study, one.slice_index
