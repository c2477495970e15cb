"""Which files belong together: a CSV manifest or two glob patterns."""

from __future__ import annotations

import collections
import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from medgan_tf import errors

COLUMNS = ("patient", "source", "target")

# What breaks a line or steers a terminal, and NUL, which ends a path.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SUFFIXES = re.compile(r"(\.nii)?\.[A-Za-z]{2,4}$")


@dataclasses.dataclass(frozen=True)
class Study:
    """The files of one study of a patient.

    Attributes:
      patient: the unit of the split.
      sources: paths of the source volumes, one for each channel; none:
        simulated from the target.
      target: path of the target volume, or of a label map.
      name: tells the studies of a patient apart; empty if there is one.
      ct: path of the CT that gives the attenuation of a simulated PET.
      mu_map: path of the attenuation itself, in 1/cm, instead of a CT.
      split: side of the patient, "train", "validation" or "test"; empty: to
        be drawn.
    """

    patient: str
    sources: tuple[pathlib.Path, ...]
    target: pathlib.Path
    name: str = ""
    ct: pathlib.Path | None = None
    split: str = ""
    mu_map: pathlib.Path | None = None

    @property
    def paths(self) -> tuple[pathlib.Path, ...]:
        """All files."""
        further = [path for path in (self.ct, self.mu_map) if path]
        return (*self.sources, self.target, *further)


def read_csv(
    path: str | os.PathLike, data_root: str | os.PathLike | None = None
) -> list[Study]:
    """Reads a manifest with the columns patient, source and target.

    Paths are relative to the manifest's own folder, and lie in it. An empty
    source is simulated from the target. Further columns, if there:
    `source_2`, `source_3` and so on for further channels of the source,
    `study` where a patient has several, `ct` or `mu_map` for the attenuation
    of a simulated PET, `split` for the patient's side.

    Args:
      path: the CSV file.
      data_root: the folder that no path may lead out of, be it by `..`, from
        `/` or by a link; None: the manifest's.

    Raises:
      DataError: no such file, a column is missing, a field is empty or one
        too many, a file is named twice, or a path lies in the folder of
        another patient or out of `data_root`.
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
    for column in columns:
        known = _like_a_column(column)
        if known and known != column:
            raise errors.DataError(
                f"Manifest {path} has a column {column!r}, which looks like "
                f"{known}; write it so, or give it another name."
            )
    more = [c for c in columns if re.fullmatch(r"source_\d+", c)]
    more.sort(key=lambda column: int(column.removeprefix("source_")))
    studies = []
    for number, row in rows:
        if None in row:
            raise errors.DataError(
                f"Manifest {path}, line {number} has more fields than the "
                f"{len(columns)} columns; put a path with a comma in quotes."
            )
        row = {name: (value or "").strip() for name, value in row.items()}
        if not row["patient"] or not row["target"]:
            raise errors.DataError(
                f"Manifest {path}, line {number}: patient and target must not "
                f"be empty, got {row['patient']!r} and {row['target']!r}."
            )
        named = [row[column] for column in ("source", *more)]
        if any(named) and not all(named):
            raise errors.DataError(
                f"Manifest {path}, line {number}: {len(named)} sources are "
                f"wanted, {sum(map(bool, named))} are there; name all or none."
            )
        if row.get("ct") and row.get("mu_map"):
            raise errors.DataError(
                f"Manifest {path}, line {number}: ct and mu_map both give the "
                "attenuation; name one."
            )
        studies.append(
            Study(
                row["patient"],
                tuple(path.parent / name for name in named if name),
                path.parent / row["target"],
                row.get("study", ""),
                path.parent / row["ct"] if row.get("ct") else None,
                row.get("split", ""),
                path.parent / row["mu_map"] if row.get("mu_map") else None,
            )
        )
    return checked(studies, str(path), path.parent, data_root)


def _like_a_column(name: str) -> str | None:
    """The column that a name is, or is meant to be."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    if numbered := re.fullmatch(r"source_?(\d+)", plain):
        return f"source_{numbered[1]}"
    known = {
        name: name for name in (*COLUMNS, "study", "ct", "mu_map", "split")
    }
    return {**known, "side": "split"}.get(plain)


def match_globs(
    input_dir: str | os.PathLike,
    sources: Sequence[str],
    target: str,
    ct: str | None = None,
    data_root: str | os.PathLike | None = None,
) -> list[Study]:
    """Puts files together by patterns such as "*/MR_T1_image.nii.gz".

    The patient is the first folder of a match below `input_dir`, or the
    file's name where there is none. Where a pattern matches several files of
    a patient, those in one folder are a study.

    Args:
      input_dir: folder that the patterns are relative to.
      sources: a pattern for each channel of the source; none: simulated from
        the target.
      target: pattern of the target volumes.
      ct: pattern of the CT for the attenuation of a simulated PET, or None.
      data_root: the folder that no link may lead out of; None: `input_dir`.

    Raises:
      DataError: no folder, no match, a study with not just one file for each
        pattern, or a file out of `data_root`.
    """
    folder = pathlib.Path(input_dir)
    check_folder(folder)
    patterns = [*sources, target, *([ct] if ct else [])]
    found = [_by_patient(folder, pattern) for pattern in patterns]
    studies = []
    for patient in sorted(set().union(*found)):
        matches = [by_patient.get(patient, []) for by_patient in found]
        for name, files in _by_study(folder, patient, matches, patterns):
            last = len(sources)
            studies.append(
                Study(
                    patient,
                    tuple(files[:last]),
                    files[last],
                    name,
                    files[last + 1] if ct else None,
                )
            )
    return checked(studies, str(folder), folder, data_root)


def check_folder(folder: pathlib.Path) -> None:
    """Refuses an --input_dir that is no folder."""
    if not os.path.isdir(folder):
        raise errors.DataError(
            f"--input_dir={folder} is not a folder; give the one that "
            "holds the patients' folders."
        )


def _by_patient(
    folder: pathlib.Path, pattern: str
) -> dict[str, list[pathlib.Path]]:
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
    found = collections.defaultdict(list)
    for match in matches:
        first, *rest = match.relative_to(folder).parts
        found[first if rest else _SUFFIXES.sub("", first)].append(match)
    return found


def _by_study(
    top: pathlib.Path,
    patient: str,
    matches: list[list[pathlib.Path]],
    patterns: list[str],
) -> Iterator[tuple[str, list[pathlib.Path]]]:
    """Yields the name of each study and its file for each pattern."""
    if all(len(files) == 1 for files in matches):
        yield "", [files[0] for files in matches]
        return
    by_folder = []
    for files, pattern in zip(matches, patterns, strict=True):
        folders = [file.parent for file in files]
        for file in files:
            if folders.count(file.parent) > 1:
                others = [f.name for f in files if f.parent == file.parent]
                raise errors.DataError(
                    f"Patient {patient} has several files for {pattern}: "
                    f"{others[0]} and {others[1]}; narrow the pattern "
                    "or write a --manifest."
                )
        by_folder.append(dict(zip(folders, files, strict=True)))
    for folder in sorted(set().union(*by_folder)):
        lacking = [
            pattern
            for files, pattern in zip(by_folder, patterns, strict=True)
            if folder not in files
        ]
        if lacking:
            present = next(p for p in patterns if p not in lacking)
            raise errors.DataError(
                f"Patient {patient} has a file for {present} and none for "
                f"{lacking[0]}; each study needs both, in one folder where a "
                "patient has several: complete it, narrow the pattern, or "
                "write a --manifest."
            )
        below = folder.parts[len(top.parts) + 1 :]
        yield "_".join(below), [files[folder] for files in by_folder]


def checked(
    studies: list[Study],
    where: str,
    top: pathlib.Path,
    data_root: str | os.PathLike | None = None,
) -> list[Study]:
    """Refuses what cannot be a cohort before any image is read.

    Args:
      studies: what was found.
      where: names it.
      top: the folder of all patients.
      data_root: the folder that holds every file, once links are followed;
        None: `top`.

    Raises:
      DataError: as told there.
    """
    root = pathlib.Path(data_root or top).resolve()
    if not studies:
        raise errors.DataError(f"{where} names no patient; expected some.")
    names = [(study.patient, study.name) for study in studies]
    patients = {patient for patient, _ in names}
    if len(names) > len(set(names)):
        twice = max(names, key=names.count)
        raise errors.DataError(
            f"{where} names patient {' '.join(twice).strip()} "
            f"{names.count(twice)} times; expected each study once: leave "
            "one, or tell them apart in a column `study`."
        )
    paths = (str(path) for study in studies for path in study.paths)
    for text in (*patients, *(name for _, name in names), *paths):
        if _CONTROL.search(text):
            raise errors.DataError(
                f"{where}: {text!a} holds a control character; rename it."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise errors.DataError(
                f"{where}: {text!a} is not UTF-8; rename it."
            ) from error
    seen, targets = {}, collections.defaultdict(set)
    for study in studies:
        for path in study.paths:
            # Because pathlib's own test fails on a name that is too long.
            if not os.path.exists(path):
                raise errors.DataError(
                    f"{path}, named in {where} for patient {study.patient}, "
                    "does not exist; check the path."
                )
            resolved = path.resolve()
            if not resolved.is_relative_to(root):
                raise errors.DataError(
                    f"{path}, named in {where} for patient {study.patient}, "
                    f"is in {resolved.parent}, expected it in {root}; move "
                    "it there, or name a folder that holds both by "
                    "--data_root."
                )
            # Two scans with motion may have one still scan as their target.
            is_shared = path not in study.sources and resolved in targets.get(
                study.patient, ()
            )
            if resolved in seen and not is_shared:
                raise errors.DataError(
                    f"{where} names {path} twice, for {seen[resolved]} and "
                    f"{study.patient}; expected each file once."
                )
            seen[resolved] = study.patient
            # The folders above all patients may be called anything.
            parts = os.path.relpath(path, top).split(os.sep)
            others = patients.intersection(parts) - {study.patient}
            others |= {p for p in patients if _is_named_after(path, p)}
            is_own = study.patient in parts or _is_named_after(
                path, study.patient
            )
            if others and not is_own:
                raise errors.DataError(
                    f"{where} pairs patient {study.patient} with {path}, which "
                    f"by its name is of {min(others)}; expected files of one "
                    "patient in a row."
                )
        for shared in (study.target, study.ct, study.mu_map):
            if shared:
                targets[study.patient].add(shared.resolve())
        for source in study.sources:
            if other := _folder_of_another(study.patient, source, study.target):
                raise errors.DataError(
                    f"{where} pairs {source} with {study.target}; expected "
                    f"files of patient {study.patient}, got one in the folder "
                    f"{other}."
                )
    return studies


def _is_named_after(path: pathlib.Path, patient: str) -> bool:
    """Whether a file name holds a patient's, set apart and not by chance."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(patient)}(?![A-Za-z0-9])"
    return len(patient) > 2 and re.search(pattern, path.name) is not None


def _folder_of_another(
    patient: str, source: pathlib.Path, target: pathlib.Path
) -> str | None:
    """The folder of one file that is named like, and not as, the patient's.

    STS_008 where the other file has STS_005, the patient; a folder MR beside
    one CT says nothing.
    """
    folders = source.parts[:-1], target.parts[:-1]
    for own, other in (folders, folders[::-1]):
        if patient in own and patient not in other:
            shape = re.sub(r"\d", "0", patient)
            return next(
                (name for name in other if re.sub(r"\d", "0", name) == shape),
                None,
            )
    return None
