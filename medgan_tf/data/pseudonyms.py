"""Patients under ids that say nothing, and the table of who is who.

An id is ten hexadecimal digits of HMAC-SHA-256 (RFC 2104) over the name under
a random salt: who has the records but not the salt cannot try out names. Salt
and names stand in one CSV file beside the records, never in them. Records that
share this file share their ids; without it nobody finds the way back.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import functools
import hashlib
import hmac
import io
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Mapping, Sequence

from medgan_tf import errors
from medgan_tf.data import manifest

COLUMNS = ("patient_id", "study_id", "patient", "study", "salt")

# Ten hexadecimal digits: of 10 000 patients two share an id once in 20 000
# tables, and that is refused.
_NUM_DIGITS = 10
_NUM_SALT_BYTES = 16

# Patient and study.
Names = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Who is who.

    Attributes:
      salt: of the ids.
      names: patient and study -> the ids of both.
    """

    salt: bytes
    names: Mapping[Names, Names]

    @property
    def digest(self) -> str:
        """Tells whether two sets of records share their ids."""
        return hashlib.sha256(self.salt).hexdigest()[:16]

    def behind(self, patient_id: str, study_id: str = "") -> Names:
        """Patient and study behind what a record says of them.

        Raises:
          errors.DataError: the table holds no such patient.
        """
        # Several realisations of a source are told apart by a number.
        study_id, _, number = study_id.partition(" ")
        patients, studies = self._by_id
        if patient_id not in patients:
            raise errors.DataError(
                f"The table of patients does not hold {patient_id}; give the "
                "one that was written with the records."
            )
        study = studies.get((patient_id, study_id), study_id)
        return patients[patient_id], f"{study} {number}".strip()

    @functools.cached_property
    def _by_id(self) -> tuple[dict[str, str], dict[Names, str]]:
        patients, studies = {}, {}
        for (patient, study), ids in self.names.items():
            patients[ids[0]], studies[ids] = patient, study
        return patients, studies


def beside(output_dir: str | os.PathLike) -> pathlib.Path:
    """Where the table of a set of records is, unless the user says where."""
    folder = pathlib.Path(os.path.abspath(output_dir))
    return folder.with_name(f"{folder.name}_patients.csv")


def hide(
    studies: Iterable[manifest.Study],
    split: Mapping[str, Sequence[str]],
    table: Table,
) -> tuple[list[manifest.Study], dict[str, list[str]]]:
    """Studies and split with ids for names.

    Sorted by the ids, because the order of the names would tell of them.
    """
    hidden = []
    for study in studies:
        patient, name = table.names[study.patient, study.name]
        hidden.append(dataclasses.replace(study, patient=patient, name=name))
    hidden.sort(key=lambda study: (study.patient, study.name))
    return hidden, {
        side: sorted(_id_of(table.salt, name) for name in names)
        for side, names in split.items()
    }


def add(path: str | os.PathLike, studies: Iterable[manifest.Study]) -> Table:
    """Writes studies into a table, which is made if it is not there.

    What the table holds stays: a second set of records gets the same ids for
    the same patients, and so does a preparation that was broken off. Only the
    user may read a new table (mode 0600).

    Args:
      path: the CSV file.
      studies: patients and studies under their own names.

    Raises:
      errors.DataError: see `read`; or two patients would share an id.
      errors.ResourceError: it cannot be written.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with open(handle, "r+", encoding="utf-8", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            found = _parse(path, text)
            salt = found.salt or secrets.token_bytes(_NUM_SALT_BYTES)
            wanted = {(study.patient, study.name) for study in studies}
            more = {
                names: ids_of(salt, *names)
                for names in sorted(wanted - found.names.keys())
            }
            table = Table(salt, {**found.names, **more})
            _check_apart(path, table)
            rows = io.StringIO()
            writer = csv.writer(rows, lineterminator="\n")
            if not text:
                writer.writerow(COLUMNS)
            elif not text.endswith("\n"):
                rows.write("\n")
            writer.writerows(
                [*ids, *names, salt.hex()] for names, ids in more.items()
            )
            file.write(rows.getvalue())
            file.flush()
            os.fsync(file.fileno())
    except UnicodeDecodeError as error:
        raise _no_table(path, error) from error
    except OSError as error:
        raise errors.ResourceError(
            f"{path} cannot be written ({error.strerror}); choose another "
            "--patients_file, or keep the patients' names by --keep_ids."
        ) from error
    return table


def read(path: str | os.PathLike) -> Table:
    """Reads a table.

    Raises:
      errors.DataError: there is none, or a line was changed: each id is
        computed again.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = _parse(path, file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise _no_table(path, error) from error
    if not table.salt:
        raise errors.refusal(
            path, "no patient", "at least one", "restore it from a copy"
        )
    return table


def ids_of(salt: bytes, patient: str, study: str = "") -> Names:
    """The ids of a patient and of a study; without a name a study has none."""
    return (
        _id_of(salt, patient),
        _digits(salt, "s", patient, study) if study else "",
    )


def _id_of(salt: bytes, patient: str) -> str:
    return _digits(salt, "p", patient)


def _digits(salt: bytes, letter: str, *names: str) -> str:
    # With a letter in front, because a spreadsheet takes 12345e6789 for a
    # number.
    message = json.dumps(names).encode()
    code = hmac.new(salt, message, hashlib.sha256).hexdigest()
    return f"{letter}{code[:_NUM_DIGITS]}"


def _no_table(path: str | os.PathLike, error: Exception) -> errors.DataError:
    return errors.refusal(
        path,
        f"no table of patients ({error})",
        "the one that prepare_data.py wrote beside the records",
        "check the path",
    )


def _parse(path: str | os.PathLike, text: str) -> Table:
    names, salts = {}, set()
    # The mark with which spreadsheets begin a file is no part of it.
    lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    if lines and tuple(lines[0]) != COLUMNS:
        raise errors.refusal(
            path,
            f"the columns {','.join(lines[0])}",
            ",".join(COLUMNS),
            "give a table that prepare_data.py wrote, or a new name",
        )
    for number, line in enumerate(lines[1:], 2):
        *ids, patient, study, salt = line if len(line) == 5 else [""] * 5
        salts.add(salt)
        if (
            not salt
            or len(salts) > 1
            or set(salt) - set("0123456789abcdef")
            or len(salt) % 2
            or tuple(ids) != ids_of(bytes.fromhex(salt), patient, study)
        ):
            raise errors.refusal(
                path,
                f"another content in line {number} than was written",
                "ids that belong to the names and one salt",
                "restore it from a copy, for without it the way back to the "
                "patients is lost",
            )
        names[patient, study] = tuple(ids)
    return Table(bytes.fromhex("".join(salts)), names)


def _check_apart(path: str | os.PathLike, table: Table) -> None:
    patients = {}
    for (patient, _), (patient_id, _) in table.names.items():
        other = patients.setdefault(patient_id, patient)
        if other != patient:
            raise errors.refusal(
                path,
                f"one id, {patient_id}, of two patients",
                "one for each",
                "prepare with a new --patients_file, which has another salt",
            )
