"""Which files belong together: a CSV manifest or two glob patterns."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import re

from medgan_tf import errors

COLUMNS = ("patient", "source", "target")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The files of one study of a patient.

    Attributes:
      patient: the unit of the split.
      source: path of the source volume; None: simulated from the target.
      target: path of the target volume.
    """

    patient: str
    source: pathlib.Path | None
    target: pathlib.Path


def read_csv(path: str | os.PathLike) -> list[Pair]:
    """Reads a manifest with the columns patient, source and target.

    Paths are relative to the manifest's own folder. An empty source is
    simulated from the target.

    Raises:
      DataError: no such file, a column is missing, a field is empty or one
        too many, a file is named twice, or a path lies in the folder of
        another patient.
    """
    path = pathlib.Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = tuple(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.DataError(
            f"Manifest {path} cannot be read ({error}); expected a CSV file "
            f"with the columns {','.join(COLUMNS)}."
        ) from error
    if missing := [name for name in COLUMNS if name not in columns]:
        raise errors.DataError(
            f"Manifest {path} has the columns {','.join(columns) or 'none'}; "
            f"{','.join(missing)} missing: its first line must be "
            f"{','.join(COLUMNS)}."
        )
    pairs = []
    for number, row in rows:
        if None in row:
            raise errors.DataError(
                f"Manifest {path}, line {number} has more fields than the "
                f"{len(columns)} columns; put a path with a comma in quotes."
            )
        patient, source, target = (
            (row[name] or "").strip() for name in COLUMNS
        )
        if not patient or not target:
            raise errors.DataError(
                f"Manifest {path}, line {number}: patient and target must not "
                f"be empty, got {row['patient']!r} and {row['target']!r}."
            )
        pairs.append(
            Pair(
                patient,
                path.parent / source if source else None,
                path.parent / target,
            )
        )
    return _checked(pairs, str(path), path.parent)


def match_globs(
    input_dir: str | os.PathLike, source: str | None, target: str
) -> list[Pair]:
    """Pairs files by two patterns such as "*/MR_T1_image.nii.gz".

    The patient is the first folder of a match below `input_dir`, or the
    file's name where there is none.

    Args:
      input_dir: folder that the patterns are relative to.
      source: pattern of the source volumes; None: simulated from the target.
      target: pattern of the target volumes.

    Raises:
      DataError: no folder, no match, a patient with only one of the two, or
        with several.
    """
    folder = pathlib.Path(input_dir)
    if not folder.is_dir():
        raise errors.DataError(
            f"--input_dir={input_dir} is not a folder; give the one that "
            "holds the patients' folders."
        )
    targets = _by_patient(folder, target)
    if source is None:
        pairs = [Pair(patient, None, path) for patient, path in targets.items()]
        return _checked(pairs, str(folder), folder)
    sources = _by_patient(folder, source)
    if alone := sorted(sources.keys() ^ targets.keys()):
        has, lacks = (
            (source, target) if alone[0] in sources else (target, source)
        )
        raise errors.DataError(
            f"Patient {alone[0]} has a file for {has} and none for {lacks}; "
            "each patient needs both: complete it, narrow the pattern, or "
            "write a --manifest."
        )
    pairs = [Pair(p, sources[p], targets[p]) for p in sources]
    return _checked(pairs, str(folder), folder)


def _by_patient(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    try:
        matches = sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise errors.DataError(
            f"Pattern {pattern!r} is not usable ({error}); expected one "
            "relative to --input_dir, such as */CT.nii.gz."
        ) from error
    if not matches:
        raise errors.DataError(
            f"No file in {folder} matches {pattern}; expected one for each "
            "patient, such as */CT.nii.gz."
        )
    found = {}
    for match in matches:
        patient = match.relative_to(folder).parts[0]
        if patient in found:
            raise errors.DataError(
                f"Patient {patient} has several files for {pattern}: "
                f"{found[patient].name} and {match.name}; narrow the pattern "
                "or write a --manifest."
            )
        found[patient] = match
    return found


def _checked(pairs: list[Pair], where: str, top: pathlib.Path) -> list[Pair]:
    """Refuses what cannot be a cohort before any image is read."""
    if not pairs:
        raise errors.DataError(f"{where} names no patient; expected some.")
    names = [pair.patient for pair in pairs]
    patients = set(names)
    if len(names) > len(patients):
        twice = max(patients, key=names.count)
        raise errors.DataError(
            f"{where} names patient {twice} {names.count(twice)} times; "
            "expected one pair a patient: leave one, or join the volumes."
        )
    seen = {}
    for pair in pairs:
        for path in (pair.source, pair.target):
            if path is None:
                continue
            # Because pathlib's own test fails on a name that is too long.
            if not os.path.exists(path):
                raise errors.DataError(
                    f"{path}, named in {where} for patient {pair.patient}, "
                    "does not exist; check the path."
                )
            resolved = path.resolve()
            if resolved in seen:
                raise errors.DataError(
                    f"{where} names {path} twice, for {seen[resolved]} and "
                    f"{pair.patient}; expected each file once."
                )
            seen[resolved] = pair.patient
            # The folders above all patients may be called anything.
            parts = os.path.relpath(path, top).split(os.sep)
            others = patients.intersection(parts) - {pair.patient}
            others |= {p for p in patients if _is_named_after(path, p)}
            is_own = pair.patient in parts or _is_named_after(
                path, pair.patient
            )
            if others and not is_own:
                raise errors.DataError(
                    f"{where} pairs patient {pair.patient} with {path}, which "
                    f"by its name is of {min(others)}; expected files of one "
                    "patient in a row."
                )
        if other := _folder_of_another(pair):
            raise errors.DataError(
                f"{where} pairs {pair.source} with {pair.target}; expected "
                f"files of patient {pair.patient}, got one in the folder "
                f"{other}."
            )
    return pairs


def _is_named_after(path: pathlib.Path, patient: str) -> bool:
    """Whether a file name holds a patient's, set apart and not by chance."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(patient)}(?![A-Za-z0-9])"
    return len(patient) > 2 and re.search(pattern, path.name) is not None


def _folder_of_another(pair: Pair) -> str | None:
    """The folder of one file that is named like, and not as, the patient's.

    STS_008 where the other file has STS_005, the patient; a folder MR beside
    one CT says nothing.
    """
    if pair.source is None:
        return None
    folders = pair.source.parts[:-1], pair.target.parts[:-1]
    for own, other in (folders, folders[::-1]):
        if pair.patient in own and pair.patient not in other:
            shape = re.sub(r"\d", "0", pair.patient)
            return next(
                (name for name in other if re.sub(r"\d", "0", name) == shape),
                None,
            )
    return None
