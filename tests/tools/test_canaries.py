"""No text of a patient's header and no name of a patient comes out anywhere.

A canary stands in every free text of NIfTI, MHA and DICOM and in the names of
patients, studies, folders and files; then every byte that the scripts wrote is
searched for it, within gzip, ZIP and the text of PNG too.
"""

import base64
import gzip
import io
import pathlib
import re
import warnings
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import datadict, uid

from medgan_tf.data import dicom_slice, phantom

# 13 characters fit into every kind of text that DICOM has.
CANARY = "DOE^JOHN 1970"
# As it stands, with "_" or "%5E" for "^", in whatever case, in UTF-16 too.
FOUND = re.compile(rb"D.?O.?E.{1,6}?J.?O.?H.?N", re.I | re.S)

# What a derived DICOM series must say of its patient and study (PS3.3 C.7.1.1,
# C.7.2.1): it has them from its source, or lies beside the wrong patient.
OF_PATIENT_AND_STUDY = {
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "DeidentificationMethod",
}


def contents(data: bytes):
    """Yields bytes, and what is packed in them."""
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield from contents(gzip.decompress(data))
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from contents(archive.read(name))
    # Packed text of PNG, also of those within an event file.
    for match in re.finditer(rb"(zTXt|iTXt|iCCP)[^\0]*\0", data):
        for start in range(match.end(), min(match.end() + 99, len(data))):
            try:
                yield zlib.decompressobj().decompress(data[start:])
                break
            except zlib.error:
                continue
    for match in re.finditer(rb"base64,([A-Za-z0-9+/=]+)", data):
        yield from contents(base64.b64decode(match[1]))


def leaks(*places: pathlib.Path) -> list[str]:
    """Files with the canary in them, or in their names below a place."""
    found = []
    for place in places:
        for file in [place, *place.rglob("*")]:
            name = str(file.relative_to(place)).encode()
            parts = contents(file.read_bytes()) if file.is_file() else ()
            if any(FOUND.search(part) for part in (name, *parts)):
                found.append(str(file))
    return found


def write_nifti(path, volume):
    image = nib.Nifti1Image(volume.array, volume.affine)
    for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        size = image.header[field].dtype.itemsize
        image.header[field] = CANARY.encode()[:size]
    for code in ("comment", "afni", "xcede"):
        extension = nib.nifti1.Nifti1Extension(code, CANARY.encode())
        image.header.extensions.append(extension)
    nib.save(image, path)


def as_sitk(volume):
    image = sitk.GetImageFromArray(volume.array.T)
    flip = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    spacing = np.linalg.norm(flip[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flip[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(flip[:3, 3].tolist())
    return image


def write_mha(path, volume):
    image = as_sitk(volume)
    for key in ("Comment", "Name", "PatientName", "ITK_FileNotes"):
        image.SetMetaData(key, CANARY)
    sitk.WriteImage(image, str(path))


def text_fields():
    """Keyword and kind of every field of DICOM that may hold a text."""
    kinds = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
    for tag, (kind, *_, keyword) in datadict.DicomDictionary.items():
        # Group 2 is not of the data set, 0028 describes the pixels.
        if kind in kinds and keyword and tag >> 16 not in (0, 2, 0x28):
            yield keyword, kind


def write_dicom(folder, volume, modality, frame):
    """A series with the canary in all that may hold text, private too."""
    folder.mkdir(parents=True)
    kinds = {name: kind for kind, name in dicom_slice.MODALITIES.items()}
    flip = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    spacing = np.linalg.norm(flip[:3, :3], axis=0)
    texts = pydicom.Dataset()
    for keyword, kind in text_fields():
        plain = re.sub(r"\W", "_", CANARY)
        setattr(texts, keyword, plain if kind == "CS" else CANARY)
    for keyword in ("OtherPatientIDsSequence", "RequestAttributesSequence"):
        item = pydicom.Dataset()
        item.PatientID = item.RequestedProcedureDescription = CANARY
        setattr(texts, keyword, [item])
    block = texts.private_block(9, CANARY, create=True)
    for number, kind in enumerate(("LO", "PN", "UT", "UN", "OB")):
        is_text = kind in ("LO", "PN", "UT")
        block.add_new(
            number, kind, CANARY if is_text else CANARY.encode() + b" "
        )
    series = uid.generate_uid()
    for k in range(volume.array.shape[2]):
        image = pydicom.Dataset()
        image.update(texts)
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        image.SOPClassUID = kinds[modality]
        image.SOPInstanceUID = uid.generate_uid()
        image.Modality, image.ImageType = modality, ["ORIGINAL", "PRIMARY"]
        image.SpecificCharacterSet = "ISO_IR 100"
        image.StudyInstanceUID = image.FrameOfReferenceUID = frame
        image.SeriesInstanceUID = series
        image.PatientPosition = "HFS"
        image.ImagePositionPatient = (flip @ [0, 0, k, 1])[:3].round(6).tolist()
        rows = (flip[:3, :2] / spacing[:2]).T
        image.ImageOrientationPatient = rows.ravel().round(6).tolist()
        image.PixelSpacing = [spacing[1], spacing[0]]
        image.SliceThickness = spacing[2]
        image.Columns, image.Rows = volume.array.shape[:2]
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        if modality == "CT":
            image.RescaleType = "HU"
        image.PixelData = volume.array[:, :, k].T.astype("<i2").tobytes()
        image.save_as(folder / f"{CANARY}{k}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def call(run_script):
    """Runs a script that succeeds; all that it tells."""

    def run(script, *arguments, cwd):
        done = run_script(script, *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def write_images(folder, kind, seed):
    """MR and CT of a built-in patient; their names below the folder."""
    images = phantom.patient(seed, shape=(24, 24, 3), spacing=(9.0, 9.0, 20.0))
    frame = uid.generate_uid()
    folder.mkdir(parents=True)
    names = {}
    for name in ("MR", "CT"):
        path = folder / f"{CANARY} {name}{kind}"
        if kind == ".nii.gz":
            write_nifti(path, images[name])
        elif kind == ".mha":
            write_mha(path, images[name])
        else:
            write_dicom(path, images[name], name, frame)
        names[name] = path
    return names


@pytest.fixture(scope="module")
def place(call, tmp_path_factory):
    """Patients in three formats, and all that the scripts make of them."""
    place = tmp_path_factory.mktemp("canaries")
    study = place / "study"
    lines = ["patient,study,source,target"]
    with warnings.catch_warnings():
        # pydicom reminds of retired fields and of the rules of some.
        warnings.simplefilter("ignore")
        for seed, kind in enumerate((".nii.gz", ".mha", "")):
            patient = f"{CANARY}{seed}"
            names = write_images(study / patient, kind, seed)
            paths = [names[name].relative_to(study) for name in ("MR", "CT")]
            lines.append(f"{patient},{CANARY},{paths[0]},{paths[1]}")
    (study / "pairs.csv").write_text("\n".join(lines) + "\n")
    said = [
        call(
            "prepare_data.py",
            "--task=mr_ct",
            f"--manifest={study}/pairs.csv",
            "--voxel_size_mm=keep,keep,keep",
            f"--test_patients={CANARY}2",
            f"--validation_patients={CANARY}1",
            "--workers=1",
            "--output_dir=data",
            cwd=place,
        ),
        call(
            "verify_data.py",
            "--data_dir=data",
            "--report=report.html",
            "--workers=1",
            cwd=place,
        ),
        call(
            "train.py",
            "--task=mr_ct",
            "--method=pix2pix",
            "--data_dir=data",
            "--workdir=run",
            *("--set=ngf=2", "--set=ndf=2", "--max_steps=2"),
            "--set=generator_updates=1",
            cwd=place,
        ),
        call("evaluate.py", "--workdir=run", cwd=place),
        call("export.py", "--workdir=run", "--output_dir=model", cwd=place),
    ]
    (place / "said").write_text("\n".join(said))
    return place


def test_the_search_finds_what_is_hidden(tmp_path):
    picture = b"\x89PNG..zTXtComment\0\0" + zlib.compress(CANARY.encode())
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", CANARY, zipfile.ZIP_DEFLATED)
    hidden = {
        "plain": CANARY.encode(),
        "gz": gzip.compress(gzip.compress(CANARY.lower().encode())),
        "png": picture,
        "html": b"base64," + base64.b64encode(picture),
        "utf16": CANARY.encode("utf-16-le"),
        "url": b"doe%5Ejohn",
        "json": b"DOE\\u005eJOHN",
    }
    for name, data in hidden.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good").write_bytes(b"John does; DOE.")
    (tmp_path / "DOE_JOHN.txt").touch()
    assert {pathlib.Path(one).name for one in leaks(tmp_path)} == {
        *hidden,
        "zip",
        "DOE_JOHN.txt",
    }


@pytest.mark.slow
def test_every_input_holds_the_canary(place):
    files = [file for file in (place / "study").rglob("*") if file.is_file()]
    for file in files:
        parts = contents(file.read_bytes())
        assert any(FOUND.search(part) for part in parts), file
    assert len(files) == 2 + 2 + 2 * 3 + 1
    image = pydicom.dcmread(next((place / "study").rglob("*.dcm")))
    assert len(image) > 1000


@pytest.mark.slow
def test_what_is_prepared_trained_scored_and_exported_holds_none(place):
    written = [place / name for name in ("data", "run", "model")]
    assert len([f for one in written for f in one.rglob("*")]) > 20
    assert leaks(*written, place / "report.html", place / "said") == []
    # Who is who is told in one place, beside.
    assert leaks(place / "data_patients.csv")


@pytest.mark.slow
def test_translated_volumes_hold_none(call, place):
    (place / "in").mkdir()
    for seed, suffix in enumerate((".nii.gz", ".mha")):
        (file,) = (place / "study" / f"{CANARY}{seed}").glob(f"*MR{suffix}")
        (place / "in" / f"{seed}{suffix}").write_bytes(file.read_bytes())
    assert len(leaks(place / "in")) == 2
    call("predict.py", "--model=model", "in", "out", cwd=place)
    header = nib.load(place / "out" / "0.nii.gz").header
    assert not header.extensions
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        assert header[field].item() == b""
    assert len(list((place / "out").iterdir())) == 2
    assert leaks(place / "out") == []
    for output in ("out.mha", "out.nrrd", "out.npy"):
        call("predict.py", "--model=model", "in/0.nii.gz", output, cwd=place)
    assert leaks(*place.glob("out*")) == []


@pytest.mark.slow
def test_a_bids_derivative_holds_none_but_the_label_of_the_subject(call, place):
    folder = place / "bids" / "sub-1" / "anat"
    folder.mkdir(parents=True)
    (file,) = (place / "study" / f"{CANARY}0").glob("*MR.nii.gz")
    (folder / "sub-1_T1w.nii.gz").write_bytes(file.read_bytes())
    text = f'{{"PatientName": "{CANARY}", "InstitutionName": "{CANARY}"}}'
    (folder / "sub-1_T1w.json").write_text(text)
    (place / "bids" / "dataset_description.json").write_text(
        f'{{"Name": "{CANARY}", "BIDSVersion": "1.10.0"}}'
    )
    call(
        "predict.py",
        "--model=model",
        "--bids_source=T1w",
        "bids",
        "derived",
        cwd=place,
    )
    assert list((place / "derived").rglob("sub-1_*.nii.gz"))
    assert leaks(place / "derived") == []


@pytest.mark.slow
def test_a_dicom_series_says_of_its_source_whose_it_is_and_no_more(call, place):
    (source,) = (place / "study" / f"{CANARY}2").glob("*MR")
    call("predict.py", "--model=model", source, "series", cwd=place)
    clean = place / "clean"
    clean.mkdir()
    for file in (place / "series").iterdir():
        image = pydicom.dcmread(file)
        holding = {
            element.keyword
            for element in image
            if FOUND.search(str(element.value).encode())
        }
        assert {"PatientName", "PatientID"} <= holding
        assert holding <= OF_PATIENT_AND_STUDY, holding
        assert not any(element.tag.is_private for element in image.iterall())
        for keyword in holding:
            delattr(image, keyword)
        image.save_as(clean / file.name)
    assert leaks(clean) == []
