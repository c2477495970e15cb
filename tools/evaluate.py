"""Scores a trained run, or images made elsewhere, on patients kept apart.

Writes scores.csv (one line per slice or volume), scores.json (patients, means
and every setting of the protocol) and examples.png (source, translated,
target, error), and prints the means.

Images that another program translated are scored with --translated_dir and
--data_dir instead of --workdir, in one of two forms:
  slices   PATIENT[_STUDY]_SLICE.npy (or .tif, .png), on the pixels of the
           records' slices, with their numbers
  volumes  PATIENT[_STUDY].nii.gz (or another format, or a folder of DICOM),
           on the voxels of the source; then name the sources again, by the
           flags that prepare_data.py had
Both in the target's unit, such as HU. PATIENT and STUDY are the ids of the
records or, with the --patients_file of prepare_data.py, the patients' names,
which volumes need.

Examples:
  evaluate.py --workdir=runs/mr_ct
  evaluate.py --workdir=runs/mr_ct --protocol=synthrad2025
  evaluate.py --translated_dir=theirs --data_dir=data/mr_ct \\
      --method_name='CycleGAN (PyTorch)'
  evaluate.py --translated_dir=theirs --data_dir=data/mr_ct \\
      --input_dir=study --source='*/MR.nii.gz' --target='*/CT.nii.gz' \\
      --patients_file=data/mr_ct_patients.csv
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _cohort, _run

if TYPE_CHECKING:
    from medgan_tf.data import records, sample
    from medgan_tf.evaluation import elsewhere, evaluate

_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder of train.py.")
_TRANSLATED_DIR = flags.DEFINE_string(
    "translated_dir",
    None,
    "Folder of images that another program translated, instead of --workdir; "
    "see above.",
)
_METHOD_NAME = flags.DEFINE_string(
    "method_name",
    None,
    "What made the images of --translated_dir, for people (default: the "
    "folder's name).",
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
_PATIENTS_FILE = flags.DEFINE_string(
    "patients_file",
    None,
    "Who is who in records with ids, as prepare_data.py wrote it: the images "
    "of --translated_dir are named by the patients' names, not by the ids.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Where results go (default: WORKDIR/SPLIT_CHECKPOINT or "
    "TRANSLATED_DIR_SPLIT, with _PROTOCOL where it is not paper).",
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
# Where the sources of --translated_dir are.
_SOURCES = ("manifest", "input_dir", "layout", "source", "target", "spacing_mm")
for _name in _SOURCES:
    flags.declare_key_flag(_name)
# What else _cohort asks, the records know.
_KNOWN = ("ct", "more_sources", "tissues", "voxel_size_mm", "too_large")


class _Subject(NamedTuple):
    """Whose images are scored.

    Attributes:
      dataset: the records.
      task: what they were prepared for.
      method: name of the method, for scores.json.
      title: the same for people.
      checkpoint: which one of a run; None for images made elsewhere.
      output_dir: where results go, without the protocol.
      load: gives the images, once nothing speaks against the flags.
    """

    dataset: records.Dataset
    task: tasks.Task
    method: str
    title: str
    checkpoint: str | None
    output_dir: pathlib.Path
    load: Callable[[], _Images]


class _Images(NamedTuple):
    """What `evaluate.score_slices` takes.

    Attributes:
      attach: what is to be done to the samples before; counts values.
      translate: see there.
      step: discriminator steps; None for images made elsewhere.
      values: found in images made elsewhere; None for a run, which clips its
        own.
    """

    attach: Callable[
        [Iterable[sample.Sample], elsewhere.Values | None],
        Iterable[sample.Sample],
    ]
    translate: evaluate.Translate
    step: int | None = None
    values: elsewhere.Values | None = None


def main(_: list[str]) -> None:
    _check_flags()
    _run.import_tensorflow()
    import tqdm

    from medgan_tf.evaluation import (
        baselines,
        compare,
        evaluate,
        examples,
        picture,
        protocols,
        report,
    )

    subject = _made_elsewhere() if _TRANSLATED_DIR.value else _trained_run()
    dataset, task, split = subject.dataset, subject.task, _SPLIT.value
    protocol = protocols.of_task(_PROTOCOL.value, task)
    compare.check_volumes(protocol, task.too_large)
    if not dataset.num_slices(split):
        raise errors.DataError(
            f"{dataset.folder} has no {split} patients; choose another "
            "--split or prepare the data with some."
        )
    weighted, not_computed, lpips_sources = _lpips()
    images = subject.load()

    samples = tqdm.tqdm(
        dataset.samples(split),
        total=dataset.num_slices(split),
        unit="slice",
        desc=split,
    )
    scores = evaluate.score_slices(
        images.attach(samples, images.values),
        images.translate,
        protocol=protocol,
        weighted=weighted,
        score_source=task.source == task.target,
        baselines=baselines.answers(task, dataset.info["train_body_mean"]),
        batch_size=_BATCH_SIZE.value,
    )
    name = subject.output_dir.name
    if protocol.name != "paper":
        name += f"_{protocol.name}"
    output_dir = pathlib.Path(
        _OUTPUT_DIR.value or subject.output_dir.with_name(name)
    )
    is_simulated = dataset.info["is_simulated"]
    settings = {
        "task": task.name,
        "method": subject.method,
        "split": split,
        "checkpoint": subject.checkpoint,
        "discriminator_steps": images.step,
        "unit": task.target.unit,
        "is_simulated": is_simulated,
        "num_skipped": scores.num_skipped,
        "data_fingerprint": dataset.info["fingerprint"],
        "lpips_weights": lpips_sources,
    }
    if images.values:
        settings["clipped_share"] = images.values.lost_share
    csv_path, json_path = report.write_scores(
        output_dir,
        scores.rows,
        settings,
        protocol=protocol,
        not_computed=not_computed,
    )
    chosen = examples.choose(scores.slices)
    shown = examples.translate_chosen(
        images.attach(
            (
                sample
                for sample in dataset.samples(split)
                if (sample.patient, sample.study, sample.slice_index) in chosen
            ),
            None,
        ),
        images.translate,
        chosen,
    )
    picture_path = picture.draw(
        output_dir / "examples.png",
        shown,
        task=task,
        method=subject.title,
        is_simulated=is_simulated,
    )
    of_step = "" if images.step is None else f", step {images.step}"
    print(
        f"{subject.title}, {task.title}: {split} patients{of_step}"
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
    if images.values:
        print(
            f"The images hold {images.values.lowest:.4g} to "
            f"{images.values.highest:.4g} {task.target.unit}; "
            f"{images.values.lost_share:.3%} lay beyond the window and were "
            "clipped."
        )
    for path in (csv_path, json_path, picture_path):
        print(path)


def _check_flags() -> None:
    """Refuses flags that do not go together."""
    if bool(_WORKDIR.value) == bool(_TRANSLATED_DIR.value):
        raise errors.UsageError(
            f"got {'both' if _WORKDIR.value else 'neither'} --workdir and "
            "--translated_dir; expected one of them."
        )
    is_given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
    if _WORKDIR.value:
        only_there = {"method_name", "patients_file", "task"}
        if wrong := is_given & {*only_there, *_SOURCES, *_KNOWN}:
            raise errors.UsageError(
                f"--{min(wrong)} goes together with --translated_dir; a run "
                "knows what it is and its data."
            )
        return
    if not _DATA_DIR.value:
        raise errors.UsageError(
            "--translated_dir needs --data_dir, the records with the targets."
        )
    if "checkpoint" in is_given:
        raise errors.UsageError(
            "--checkpoint goes together with --workdir; leave it out."
        )
    if _SPLIT.value == "train":
        raise errors.UsageError(
            "--split=train: a method made elsewhere is scored on patients it "
            "was not trained on; expected test or validation."
        )
    if wrong := is_given & set(_KNOWN):
        raise errors.UsageError(
            f"--{min(wrong)}: the records know how their slices were made; "
            "leave it out."
        )
    _cohort.check_flags()


def _trained_run() -> _Subject:
    """A run of train.py, if its records are fit to score it."""
    import tensorflow as tf

    from medgan_tf.data import records
    from medgan_tf.training import checkpoint

    run = checkpoint.load_run(_WORKDIR.value)
    dataset = records.open_dataset(_DATA_DIR.value or run.data["folder"])
    task = run.restored_task()
    records.check_task(dataset, task)
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

    if dataset.info["fingerprint"] != run.data["fingerprint"] and (
        dataset.info.get("ids_from") != run.data.get("ids_from")
    ):
        print(
            f"The patients of {dataset.folder} have ids of another table than "
            "those the run was trained on: nobody can tell whether some are "
            "the same. Prepare both with one --patients_file.",
            file=sys.stderr,
        )

    def load() -> _Images:
        # Where the generator draws (pix2pix_tf), it draws the same each time.
        tf.keras.utils.set_random_seed(run.config.seed)
        generator, step = checkpoint.load_generator(run, _CHECKPOINT.value)
        translate = tf.function(generator, reduce_retracing=True)
        return _Images(lambda samples, _: samples, translate, step)

    return _Subject(
        dataset,
        task,
        run.method.name,
        run.method.title,
        _CHECKPOINT.value,
        run.workdir / f"{split}_{_CHECKPOINT.value}",
        load,
    )


def _made_elsewhere() -> _Subject:
    """Images of another program, for the patients of the records."""
    from medgan_tf.data import pseudonyms, records
    from medgan_tf.evaluation import elsewhere, elsewhere_files

    folder = pathlib.Path(_TRANSLATED_DIR.value).absolute()
    dataset = records.open_dataset(_DATA_DIR.value)
    task = tasks.from_stored(dataset.info["task_row"])
    records.check_task(
        dataset, tasks.TASKS.get(_cohort.TASK.value or task.name, task)
    )
    split = _SPLIT.value
    table = _PATIENTS_FILE.value and pseudonyms.read(_PATIENTS_FILE.value)
    if table and table.digest != dataset.info.get("ids_from"):
        raise errors.refusal(
            _PATIENTS_FILE.value,
            "the table of other records",
            f"that of {dataset.folder}",
            "give its own, or none where the records hold the names",
        )

    def named(sample):
        """With the names that the user knows."""
        if not table:
            return sample
        patient, study = table.behind(sample.patient, sample.study)
        return dataclasses.replace(sample, patient=patient, study=study)

    def load() -> _Images:
        needed = elsewhere_files.wanted(map(named, dataset.samples(split)))
        others = dataset.patients_beside(split)
        if table:
            others = [table.behind(patient)[0] for patient in others]
        if _cohort.MANIFEST.value or _cohort.INPUT_DIR.value:
            if dataset.info.get("ids_from") and not table:
                raise errors.UsageError(
                    f"{dataset.folder} holds ids for the patients' names; "
                    "volumes need the --patients_file that was written with it."
                )
            # So that --task need not be given.
            flags.set_default(_cohort.TASK, task.name)
            cohort = _cohort.read()
            read = elsewhere_files.volumes(
                folder,
                needed,
                others=others,
                sources={
                    (study.patient, study.name): study.sources[0]
                    for study in cohort.studies
                    if study.sources
                },
                task=task,
                spacing_mm=cohort.options.spacing_mm
                or dataset.info["options"]["spacing_mm"],
            )
        else:
            read = elsewhere_files.slices(folder, needed, others=others)

        def read_named(samples):
            return read([named(sample) for sample in samples])

        def attach(samples, values):
            return elsewhere.attach(samples, read_named, task.target, values)

        return _Images(attach, elsewhere.translate, values=elsewhere.Values())

    name = _METHOD_NAME.value or folder.name
    output_dir = folder.with_name(f"{folder.name}_{split}")
    return _Subject(dataset, task, name, name, None, output_dir, load)


def _lpips() -> tuple[dict, dict[str, str], dict[str, str]]:
    """LPIPS as functions by name, why others cannot be computed, and where
    the weights are from."""
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
        {f"lpips_{model.network}": model.source for model in models},
    )


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
