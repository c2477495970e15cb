"""Scores a trained run on patients it was not trained on.

Writes scores.csv (one line per slice or volume), scores.json (patients, means
and every setting of the protocol) and examples.png (source, translated,
target, error), and prints the means.

Example:
  evaluate.py --workdir=runs/mr_ct
  evaluate.py --workdir=runs/mr_ct --protocol=synthrad2025
"""

from __future__ import annotations

import pathlib

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder of train.py.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Records (default: those the run was trained on)."
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Which patients."
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "paper",
    ["paper", "canonical", "synthrad2023", "synthrad2025"],
    "What is computed: per slice as in the paper, or per volume in the body "
    "alone, ours or as the SynthRAD challenges do.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Where results go (default: WORKDIR/SPLIT_CHECKPOINT, with _PROTOCOL where "
    "it is not paper).",
)
_LPIPS_WEIGHTS = flags.DEFINE_list(
    "lpips_weights",
    [],
    "Files that convert_lpips.py made; without one LPIPS is not computed.",
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best by validation, or the last."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "Slices translated at a time.", lower_bound=1
)


def main(_: list[str]) -> None:
    _run.import_tensorflow()
    import tensorflow as tf
    import tqdm

    from medgan_tf.data import records
    from medgan_tf.evaluation import (
        baselines,
        compare,
        evaluate,
        examples,
        picture,
        protocols,
        report,
    )
    from medgan_tf.training import checkpoint

    run = checkpoint.load_run(_WORKDIR.value)
    dataset = records.open_dataset(_DATA_DIR.value or run.data["folder"])
    task = run.restored_task()
    records.check_task(dataset, task)
    protocol = protocols.PROTOCOLS[_PROTOCOL.value].fitted(task.target)
    compare.check_volumes(protocol, task.too_large)
    split = _SPLIT.value
    if not _DATA_DIR.value and (
        dataset.info["fingerprint"] != run.data["fingerprint"]
    ):
        raise errors.ArtefactError(
            f"{dataset.folder} is no longer the data that {run.workdir} was "
            "trained on; restore it, or name other records by --data_dir."
        )
    trained_on = set(run.data["train_patients"])
    if split != "train" and (
        known := sorted(trained_on & set(dataset.patients(split)))
    ):
        raise errors.DataError(
            f"{dataset.folder}: the {split} patients {', '.join(known)} are "
            "among those the run was trained on; expected patients it never "
            "saw."
        )
    if not dataset.num_slices(split):
        raise errors.DataError(
            f"{dataset.folder} has no {split} patients; choose another "
            "--split or prepare the data with some."
        )
    # Where the generator draws (pix2pix_tf), it draws the same each time.
    tf.keras.utils.set_random_seed(run.config.seed)
    generator, step = checkpoint.load_generator(run, _CHECKPOINT.value)
    translate = tf.function(generator, reduce_retracing=True)

    weighted, not_computed = _lpips()

    def samples():
        return tqdm.tqdm(
            dataset.samples(split),
            total=dataset.num_slices(split),
            unit="slice",
            desc=split,
        )

    scores = evaluate.score_slices(
        samples(),
        translate,
        protocol=protocol,
        weighted=weighted,
        score_source=task.source == task.target,
        baselines=baselines.answers(task, dataset.info["train_body_mean"]),
        batch_size=_BATCH_SIZE.value,
    )
    folder = f"{split}_{_CHECKPOINT.value}"
    if protocol.name != "paper":
        folder += f"_{protocol.name}"
    output_dir = pathlib.Path(_OUTPUT_DIR.value or run.workdir / folder)
    is_simulated = dataset.info["is_simulated"]
    csv_path, json_path = report.write_scores(
        output_dir,
        scores.rows,
        {
            "task": task.name,
            "method": run.method.name,
            "split": split,
            "checkpoint": _CHECKPOINT.value,
            "discriminator_steps": step,
            "unit": task.target.unit,
            "is_simulated": is_simulated,
            "num_skipped": scores.num_skipped,
            "data_fingerprint": dataset.info["fingerprint"],
        },
        protocol=protocol,
        not_computed=not_computed,
    )
    shown = examples.translate_chosen(
        dataset.samples(split), translate, examples.choose(scores.slices)
    )
    picture_path = picture.draw(
        output_dir / "examples.png",
        shown,
        task=task,
        method=run.method.title,
        is_simulated=is_simulated,
    )
    print(
        f"{run.method.title}, {task.title}: {split} patients, step {step}"
        f"{' (simulated images)' if is_simulated else ''}"
    )
    print(
        report.table(
            evaluate.summarise(scores.rows),
            unit=task.target.unit,
            protocol=protocol,
            not_computed=not_computed,
        )
    )
    for path in (csv_path, json_path, picture_path):
        print(path)


def _lpips() -> tuple[dict, dict[str, str]]:
    """LPIPS as functions by name, and why others cannot be computed."""
    from medgan_tf.evaluation import lpips

    def function(model):
        def distance(translated, target, *, data_range):
            return float(
                model.distance(
                    translated[None], target[None], data_range=(0, data_range)
                )[0]
            )

        return distance

    models = [lpips.load(path) for path in _LPIPS_WEIGHTS.value]
    reason = "no --lpips_weights for it; convert_lpips.py --help tells how"
    return (
        {f"lpips_{model.network}": function(model) for model in models},
        {f"lpips_{network}": reason for network in ("alex", "vgg")},
    )


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
