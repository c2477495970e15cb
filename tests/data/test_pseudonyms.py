"""Ids say nothing without the table, and the table is not to be mistaken."""

import pathlib
import threading

import pytest

from medgan_tf import errors
from medgan_tf.data import manifest, pseudonyms
from medgan_tf.data import split as splits

SALT = bytes(range(16))


def study(patient, name=""):
    return manifest.Study(patient, (), pathlib.Path("CT.nii"), name)


def test_an_id_is_an_hmac_of_the_name():
    # printf '["ann"]' | openssl dgst -sha256 -mac HMAC \
    #     -macopt hexkey:000102030405060708090a0b0c0d0e0f
    assert pseudonyms.ids_of(SALT, "ann") == ("p1ce090f110", "")
    assert pseudonyms.ids_of(SALT, "ann", "2003") == (
        "p1ce090f110",
        "s9fc4fea631",
    )


def test_a_table_is_made_read_and_added_to_but_never_changed(tmp_path):
    path = tmp_path / "who.csv"
    first = pseudonyms.add(path, [study("DOE^JOHN, Jr", "2003"), study("Ümit")])
    assert path.stat().st_mode & 0o777 == 0o600
    assert pseudonyms.read(path) == first
    before = path.read_text()
    second = pseudonyms.add(path, [study("Ümit"), study("00123")])
    assert path.read_text().startswith(before)
    assert second.salt == first.salt and len(second.names) == 3
    assert first.names.items() <= second.names.items()
    assert pseudonyms.add(path, [study("00123")]) == second


def test_two_tables_share_no_id(tmp_path):
    one, other = (
        pseudonyms.add(tmp_path / name, [study("ann")]) for name in "ab"
    )
    assert one.names != other.names and one.digest != other.digest
    assert one.salt.hex() not in one.digest


def test_the_way_back_from_what_a_record_says(tmp_path):
    table = pseudonyms.add(
        tmp_path / "who.csv", [study("ann", "2003"), study("bob")]
    )
    patient, name = table.names["ann", "2003"]
    assert table.behind(patient, name) == ("ann", "2003")
    assert table.behind(patient, f"{name} 1") == ("ann", "2003 1")
    assert table.behind(patient) == ("ann", "")
    assert table.behind(table.names["bob", ""][0], "1") == ("bob", "1")
    with pytest.raises(errors.DataError, match="does not hold p123"):
        table.behind("p123")


def test_the_split_is_that_of_the_names(tmp_path):
    studies = [study(f"patient{k}") for k in range(10)]
    split = splits.split_patients([one.patient for one in studies], seed=3)
    table = pseudonyms.add(tmp_path / "who.csv", studies)
    hidden, ids = pseudonyms.hide(studies, split, table)
    assert {
        side: sorted(table.behind(one)[0] for one in ids[side]) for side in ids
    } == split
    # Nor does the order tell of the names.
    found = [one.patient for one in hidden]
    assert found == sorted(found) and set(found) == set(sum(ids.values(), []))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("00123", "123"),
        lambda text: text.replace("bob", "bobby"),
        lambda text: text[:-20],
        lambda text: text.replace("patient_id,", "id,"),
        lambda text: text + text.splitlines()[1][:-2] + "00\n",
        lambda text: text + "p1,,eve,,xyz\n",
        lambda text: text + "p1,,eve\n",
        lambda text: text.replace("bob", "b\xf6b").encode("latin-1"),
    ],
)
def test_a_table_that_was_changed_is_refused(tmp_path, change):
    path = tmp_path / "who.csv"
    pseudonyms.add(path, [study("00123"), study("bob")])
    changed = change(path.read_text())
    path.write_bytes(
        changed if isinstance(changed, bytes) else changed.encode()
    )
    before = path.read_bytes()
    for function in (
        lambda: pseudonyms.read(path),
        lambda: pseudonyms.add(path, [study("eve")]),
    ):
        with pytest.raises(errors.DataError, match="who.csv: found"):
            function()
    assert path.read_bytes() == before


def test_what_a_spreadsheet_adds_does_no_harm(tmp_path):
    path = tmp_path / "who.csv"
    table = pseudonyms.add(path, [study("bob")])
    text = "\ufeff" + path.read_text().rstrip().replace("\n", "\r\n")
    path.write_bytes(text.encode())
    assert pseudonyms.read(path) == table
    more = pseudonyms.add(path, [study("eve")])
    assert pseudonyms.read(path) == more and len(more.names) == 2


def test_an_empty_file_becomes_a_table_and_is_none_to_read(tmp_path):
    path = tmp_path / "who.csv"
    path.touch()
    with pytest.raises(errors.DataError, match="no patient"):
        pseudonyms.read(path)
    with pytest.raises(errors.DataError, match="no table of patients"):
        pseudonyms.read(tmp_path / "no.csv")
    assert pseudonyms.add(path, [study("bob")]) == pseudonyms.read(path)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(errors.ResourceError, match="--patients_file"):
        pseudonyms.add(tmp_path / "no" / "who.csv", [study("bob")])


def test_two_patients_with_one_id_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudonyms, "_NUM_DIGITS", 1)
    studies = [study(f"patient{k}") for k in range(17)]
    with pytest.raises(errors.DataError, match="of two patients"):
        pseudonyms.add(tmp_path / "who.csv", studies)


def test_preparations_that_share_a_table_wait_for_each_other(tmp_path):
    path = tmp_path / "who.csv"
    threads = [
        threading.Thread(target=pseudonyms.add, args=(path, [study(f"p{k}")]))
        for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pseudonyms.read(path).names) == 8


def test_the_table_lies_beside_the_records():
    assert pseudonyms.beside("data/mr_ct/").name == "mr_ct_patients.csv"
    assert pseudonyms.beside("data/mr_ct/").parent.name == "data"
