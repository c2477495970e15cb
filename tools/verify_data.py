"""Tells what is wrong or suspicious with images, before any training.

Say where the patients are as for prepare_data.py:
  --manifest=pairs.csv            columns patient,source,target; if there is a
                                  column split, it is verified too
  --input_dir=DIR --source='*/MR.nii.gz' --target='*/CT.nii.gz'
  --input_dir=DIR --layout=NAME   a known layout
or where finished records are:
  --data_dir=DIR                  what prepare_data.py wrote
Errors stop a preparation, or would make a score that is not true; warnings
are for you to look at, best in the pictures of --report. Nothing is changed.

Exit code: 0 without errors, 3 with errors (with --strict: or warnings).

Example:
  verify_data.py --task=mr_ct --input_dir=study --source='*/MR.nii.gz' \\
      --target='*/CT.nii.gz' --report=report.html
"""

from __future__ import annotations

import functools
import os
import pathlib

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _cohort, _run

flags.adopt_module_key_flags(_cohort)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with records, as prepare_data.py wrote it."
)
_REPORT = flags.DEFINE_string(
    "report", None, "HTML file to write, with pictures of every study."
)
_STRICT = flags.DEFINE_bool("strict", False, "Whether warnings fail too.")
_WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count(), "Processes to work with.", lower_bound=1
)


def main(_: list[str]) -> None:
    _check_flags()
    if _DATA_DIR.value:
        reports, cohort = _verify_records()
    else:
        reports, cohort = _verify_images()
    from medgan_tf.data import verify, verify_report

    print(verify_report.text(reports, cohort), end="")
    if _REPORT.value:
        where = _DATA_DIR.value or _cohort.MANIFEST.value
        title = f"Verified: {where or _cohort.INPUT_DIR.value}"
        verify_report.write_html(_REPORT.value, title, reports, cohort)
        print(f"Report: {_REPORT.value}")
    found = verify_report.all_findings(reports, cohort)
    is_bad = any(finding.severity == verify.ERROR for finding in found)
    if is_bad or (_STRICT.value and found):
        raise errors.DataError(
            f"{verify_report.summary(reports, cohort)} See above what to do"
            + (" before training." if is_bad else "; --strict was given.")
        )


def _verify_images() -> tuple[list, list]:
    """Reports of the studies, and what concerns several."""
    task, studies, options = _cohort.read()
    from medgan_tf.data import split as splits
    from medgan_tf.data import verify, verify_cohort, workers

    found = workers.map_in_order(
        functools.partial(verify.check_study, task, options),
        studies,
        _WORKERS.value,
    )
    reports = list(_progress(found, len(studies)))
    cohort = verify_cohort.check_cohort(reports)
    sides = [(study.patient, study.split) for study in studies if study.split]
    for patient, side in sides:
        if side not in splits.SIDES:
            raise errors.DataError(
                f"The split of patient {patient} is {side!r}; expected "
                f"{', '.join(splits.SIDES)}."
            )
    cohort += verify_cohort.check_sides(sides)
    return reports, cohort


def _verify_records() -> tuple[list, list]:
    """Reports of the shards, and what concerns several."""
    _run.import_tensorflow()
    from medgan_tf.data import records, verify_records

    reports, cohort = verify_records.check_dataset(
        _DATA_DIR.value, num_workers=_WORKERS.value, progress=_progress
    )
    if reports and _cohort.TASK.value:
        dataset = records.open_dataset(_DATA_DIR.value)
        records.check_task(dataset, tasks.TASKS[_cohort.TASK.value])
    return reports, cohort


def _progress(items, count: int):
    import tqdm

    unit = "shard" if _DATA_DIR.value else "study"
    return tqdm.tqdm(items, unit=unit, desc="verify", total=count)


def _check_flags() -> None:
    _cohort.check_flags()
    given = [
        flag.name
        for flag in (_DATA_DIR, _cohort.MANIFEST, _cohort.INPUT_DIR)
        if flag.value
    ]
    if len(given) != 1:
        raise errors.UsageError(
            f"got {' and '.join(f'--{name}' for name in given) or 'no data'}; "
            "expected one of --manifest, --input_dir and --data_dir."
        )
    if not (_DATA_DIR.value or _cohort.TASK.value):
        raise errors.UsageError("--task is required; see --help")
    if _REPORT.value:
        folder = pathlib.Path(_REPORT.value).absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise errors.ResourceError(
                f"--report={_REPORT.value} cannot be written; check that "
                "its folder exists and is writable."
            )


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
