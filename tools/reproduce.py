"""Makes a table or a figure of the paper anew, on your data.

Trains every method of it that is not trained yet, each into a folder of its
own below --workdir, scores all on the test patients and writes one page,
report.html, with tables, intervals, significance, pictures and settings, and
the paper's own numbers beside them. What was stopped goes on with the same
command. Without --data_dir the patients are built in, and simulated.

Examples:
  reproduce.py --what=table2 --task=pet_ct --data_dir=data/pet_ct \\
      --workdir=runs/pet_ct --vgg_weights=vgg19.npz
  reproduce.py --flagfile=flags/reproduce_small.flags
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from absl import flags

import medgan_tf
from medgan_tf import errors, methods, sealed, tasks
from medgan_tf.evaluation import protocols, studies
from medgan_tf.tools import _run, _training

flags.adopt_module_key_flags(_training)

_WHAT = flags.DEFINE_list(
    "what", None, f"Of {', '.join(studies.NAMES)}: one or more.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for all (default: runs/reproduce_TASK)."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "field=value changes a field of all methods, METHOD.field=value of one; "
    "may be given several times.",
)
_U_BLOCKS = flags.DEFINE_list(
    "u_blocks",
    [str(n) for n in studies.SEVEN],
    "How many of them figure6 compares.",
)
_CURVE_METHOD = flags.DEFINE_enum(
    "curve_method",
    "pix2pix",
    list(methods.METHODS),
    "Whose generator has them; Appendix A trains pix2pix.",
)
_MORE_METHODS = flags.DEFINE_list(
    "more_methods",
    [],
    "Further methods of train.py for the tables, such as supervised.",
)
_PROTOCOLS = flags.DEFINE_list(
    "protocols",
    ["paper"],
    f"Of {', '.join(protocols.PROTOCOLS)}, for the tables; see evaluate.py. "
    "paper is always one.",
)
_TRANSLATED_DIR = flags.DEFINE_multi_string(
    "translated_dir",
    [],
    "NAME=FOLDER: the test slices as another method translated them, a file "
    "each as for evaluate.py --translated_dir; a row of its own in each table.",
)
_LPIPS_WEIGHTS = flags.DEFINE_list(
    "lpips_weights", [], "Files that convert_lpips.py made; see evaluate.py."
)


def main(_: list[str]) -> None:
    task = tasks.TASKS[_training.TASK.value]
    workdir = pathlib.Path(_WORKDIR.value or f"runs/reproduce_{task.name}")
    try:
        _training.config()
        chosen = _studies()
    except ValueError as error:
        raise errors.UsageError(str(error)) from error
    variants = {v.name: v for study in chosen for v in study.variants}
    scored = list(dict.fromkeys(["paper", *_PROTOCOLS.value]))
    _check_protocols(scored, task)
    others = _others([*variants.values()])
    if others and all(study.curve for study in chosen):
        raise errors.UsageError(
            "--translated_dir is a row of the tables; figure6 has none."
        )

    _run.show_log()
    _run.import_tensorflow()
    import tensorflow as tf

    # The scripts that are called need the memory of the GPUs.
    tf.config.set_visible_devices([], "GPU")
    _check_files(variants, others, scored, workdir, task)

    diverged = []
    for number, variant in enumerate(variants.values(), start=1):
        print(f"\nRun {number} of {len(variants)}: {variant.label}")
        try:
            _train(variant, workdir)
        except errors.Stopped as stopped:
            if stopped.exit_code != errors.DivergedError.exit_code:
                raise
            diverged.append(variant)
            continue
        for protocol in scored:
            _evaluate(workdir / variant.name, protocol)
    for other in others:
        for protocol in scored:
            _evaluate_other(other, workdir, protocol)

    if len(diverged) < len(variants):
        print("\nWriting the report.")
        path = _report(chosen, diverged, others, scored, workdir, task)
        print(f"Report: {path}")
    if diverged:
        names = ", ".join(variant.name for variant in diverged)
        raise errors.DivergedError(
            f"{names} diverged and has no row: give it a lower "
            "--set=METHOD.learning_rate=... and another --workdir."
        )


def _report(
    chosen: Sequence[studies.Study],
    diverged: Sequence[studies.Variant],
    others: Sequence[studies.Elsewhere],
    scored: Sequence[str],
    workdir: pathlib.Path,
    task: tasks.Task,
) -> pathlib.Path:
    """Reads all results and writes the page."""
    from medgan_tf.evaluation import results, study_report
    from medgan_tf.tools import _side_by_side

    sections = []
    for study in chosen:
        left = tuple(v for v in study.variants if v not in diverged)
        if not left:
            continue
        study = dataclasses.replace(study, variants=left)
        rows = [*left, *(others if not study.curve else [])]
        found = {
            protocol: [
                results.read(
                    row.name, row.label, _scores(workdir / row.name, protocol)
                )
                for row in rows
            ]
            for protocol in scored
        }
        trainings = {
            v.name: study_report.read_training(workdir / v.name) for v in left
        }
        pictures = _side_by_side.pictures(
            study.name, rows, found["paper"], workdir
        )
        sections.append(study_report.Section(study, found, pictures, trainings))
    return study_report.write(
        workdir / "report.html",
        sections,
        task,
        remarks=[f"{v.label} diverged and has no row." for v in diverged],
    )


def _studies() -> list[studies.Study]:
    """What is asked for, each set of runs once."""
    if not _WHAT.value:
        raise errors.UsageError(f"--what: expected {', '.join(studies.NAMES)}.")
    if unknown := [name for name in _WHAT.value if name not in studies.NAMES]:
        raise errors.UsageError(
            f"--what={unknown[0]}: expected {', '.join(studies.NAMES)}."
        )
    u_blocks = _run.numbers("u_blocks", _U_BLOCKS.value)
    if not u_blocks or any(n < 1 or n != int(n) for n in u_blocks):
        raise errors.UsageError(
            f"--u_blocks={','.join(_U_BLOCKS.value)}: expected whole numbers "
            "of at least 1."
        )
    chosen = {}
    for name in _WHAT.value:
        study = studies.study(
            name,
            _SET.value,
            u_blocks=sorted({int(n) for n in u_blocks}),
            curve_method=_CURVE_METHOD.value,
            more=_MORE_METHODS.value,
        )
        # A figure shows the runs of its table.
        chosen.setdefault(study.variants, study)
    used = {v.method for study in chosen.values() for v in study.variants}
    for setting in _SET.value:
        method = setting.partition("=")[0].partition(".")[0]
        if method in methods.METHODS and method not in used:
            raise errors.UsageError(
                f"--set={setting}: {method} is not trained for "
                f"--what={','.join(_WHAT.value)}; leave it out."
            )
    return list(chosen.values())


def _check_files(
    variants: Mapping[str, studies.Variant],
    others: Sequence[studies.Elsewhere],
    scored: Sequence[str],
    workdir: pathlib.Path,
    task: tasks.Task,
) -> None:
    """Tells what is missing now, not after hours of training."""
    from medgan_tf.data import records
    from medgan_tf.evaluation import compare, elsewhere_files
    from medgan_tf.models import vgg19
    from medgan_tf.training import checkpoint, runtime

    config = _training.config()
    for variant in variants.values():
        if layers := variant.resolved().vgg_layers:
            vgg19.VGG19Features(layers, config.vgg_weights)
    _lpips_sources()
    if not _training.DATA_DIR.value:
        return
    dataset = records.open_dataset(_training.DATA_DIR.value)
    records.check_task(dataset, task)
    for split in ("validation", "test"):
        if not dataset.num_slices(split):
            raise errors.DataError(
                f"{dataset.folder} has no {split} patients; prepare the data "
                "with some: the best checkpoint is chosen on the validation "
                "patients and scored on the test patients."
            )
    for protocol in scored:
        compare.check_volumes(
            protocols.of_task(protocol, task),
            tasks.from_stored(dataset.info["task_row"]).too_large,
        )
    config = dataclasses.replace(
        config, precision=runtime.precision(config.precision)
    )
    for name, variant in variants.items():
        checkpoint.open_run(
            workdir / name, task, variant.resolved(), config, dataset
        )
    for other in others:
        elsewhere_files.slices(
            other.folder,
            elsewhere_files.wanted(dataset.samples("test")),
            others=dataset.patients_beside("test"),
        )


def _check_protocols(names: list[str], task: tasks.Task) -> None:
    """Refuses a protocol that is none, or that is not for such targets."""
    for name in names:
        if name not in protocols.PROTOCOLS:
            known = ", ".join(protocols.PROTOCOLS)
            raise errors.UsageError(f"--protocols={name}: expected {known}.")
        protocols.of_task(name, task)


def _others(variants: Sequence[studies.Variant]) -> list[studies.Elsewhere]:
    """The methods whose images were made elsewhere."""
    others = []
    taken = {variant.label for variant in variants}
    for text in _TRANSLATED_DIR.value:
        label, equals, folder = text.partition("=")
        if not (label and equals and folder):
            raise errors.UsageError(
                f"--translated_dir={text}: expected NAME=FOLDER."
            )
        if not _training.DATA_DIR.value:
            raise errors.UsageError(
                "--translated_dir needs --data_dir, the records with the "
                "targets."
            )
        name = "elsewhere_" + re.sub(r"\W+", "_", label)
        if label in taken or name in {other.name for other in others}:
            raise errors.UsageError(
                f"--translated_dir={text}: another method has that name; "
                "choose one that tells them apart."
            )
        others.append(studies.Elsewhere(name, label, pathlib.Path(folder)))
    return others


def _train(variant: studies.Variant, workdir: pathlib.Path) -> None:
    """Trains what is missing of a run; nothing if it is whole."""
    shared = flags.FLAGS.get_key_flags_for_module(_training)
    _run.command(
        "train.py",
        f"--method={variant.method}",
        f"--workdir={workdir / variant.name}",
        *(flag.serialize() for flag in shared if flag.present),
        *(f"--set={setting}" for setting in variant.settings),
    )


def _evaluate(folder: pathlib.Path, protocol: str) -> None:
    """Scores a run, unless that has been done as it would be done now."""
    output_dir = _scores(folder, protocol)
    if _is_scored(folder, output_dir / "scores.json", protocol):
        return
    _run.command(
        "evaluate.py",
        f"--workdir={folder}",
        f"--protocol={protocol}",
        f"--output_dir={output_dir}",
        f"--lpips_weights={','.join(_LPIPS_WEIGHTS.value)}",
    )


def _is_scored(
    folder: pathlib.Path, scores: pathlib.Path, protocol: str
) -> bool:
    """Whether scores are of the best weights, these records and settings."""
    from medgan_tf.training import checkpoint

    run = checkpoint.load_run(folder)
    now = protocols.of_task(protocol, run.restored_task())
    try:
        known = sealed.read(scores)
        return (
            known["settings"]["discriminator_steps"]
            == checkpoint.step_of(run, "best")
            and known["versions"]["medgan_tf"] == medgan_tf.__version__
            and known["settings"]["data_fingerprint"] == run.data["fingerprint"]
            and known["protocol"] == now.described()
            and known["settings"]["lpips_weights"] == _lpips_sources()
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _lpips_sources() -> dict[str, str]:
    """What evaluate.py notes of the weights of LPIPS."""
    from medgan_tf.evaluation import lpips

    models = map(lpips.load, _LPIPS_WEIGHTS.value)
    return {f"lpips_{model.network}": model.source for model in models}


def _evaluate_other(
    other: studies.Elsewhere, workdir: pathlib.Path, protocol: str
) -> None:
    """Scores a folder each time, as nobody knows what happened to it."""
    _run.command(
        "evaluate.py",
        f"--translated_dir={other.folder}",
        f"--data_dir={_training.DATA_DIR.value}",
        f"--method_name={other.label}",
        f"--protocol={protocol}",
        f"--output_dir={_scores(workdir / other.name, protocol)}",
        f"--lpips_weights={','.join(_LPIPS_WEIGHTS.value)}",
    )


def _scores(folder: pathlib.Path, protocol: str) -> pathlib.Path:
    return folder / f"test_{protocol}"


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
