"""Every number of a report is the one that was scored."""

import functools
import html.parser
import json
import re
import shutil
import subprocess

import pytest

from medgan_tf import errors, sealed, tasks
from medgan_tf.evaluation import studies, study_report

TASK = tasks.TASKS["pet_ct"]
NAMES = ("pix2pix", "pan", "id_cgan", "fila_sgan", "medgan")
TRAINING = study_report.Training(
    {"l1": 100.0, "ngf": 32}, {"adversarial": (0.01, 0.4), "l1": (0.99, 0.6)}
)


class Cells(html.parser.HTMLParser):
    """(data-from, text of the first line) of every cell that has one."""

    def __init__(self, text):
        super().__init__()
        self.found, self._origin, self._small = [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "td":
            self._origin = dict(attributes).get("data-from")
            self._words = ""
        self._small |= tag == "small"

    def handle_data(self, data):
        if self._origin and not self._small:
            self._words += data

    def handle_endtag(self, tag):
        if tag == "td" and self._origin:
            self.found.append((self._origin, self._words))
        self._small &= tag != "small"


def section(found, name="table2", **options):
    study = studies.study(name, ["ngf=32", "medgan.ndf=8"], **options)
    return study_report.Section(
        study,
        {"paper": found},
        [(b"png", "a picture")],
        {variant.name: TRAINING for variant in study.variants},
    )


@pytest.fixture
def written(study_results, tmp_path):
    """A report of Table 2, and its text."""
    found = study_results(
        dict(zip(NAMES, (0.1, 0.2, -0.3, 0.15, 0.05), strict=True))
    )
    path = study_report.write(tmp_path / "report.html", [section(found)], TASK)
    return path, path.read_text()


def number_at(folder, origin):
    """What a JSON pointer finds."""
    file, pointer = origin.split("#/")
    keys = [k.replace("~1", "/").replace("~0", "~") for k in pointer.split("/")]
    content = json.loads((folder / file).read_text())
    return functools.reduce(lambda found, key: found[key], keys, content)


def check(folder, cells):
    """Each cell shows the number of its file, rounded."""
    for origin, words in cells:
        shown = words.removesuffix(" *")
        places = len(shown.partition(".")[2])
        stored = number_at(folder, origin)
        assert shown == ("-" if stored is None else f"{stored:.{places}f}")


def test_every_number_is_that_of_its_scores_json(written):
    path, text = written
    cells = Cells(text).found
    # 5 methods, of which each has 16 metrics over patients, 5 over slices.
    assert len(cells) == 5 * (16 + 5)
    assert sum(words == "-" for _, words in cells) < 20
    check(path.parent, cells)


def test_the_best_is_bold_and_a_sure_difference_marked(study_results, tmp_path):
    """Eight patients all of one sign, four comparisons: 4 * 2 / 2^8."""
    found = study_results(
        dict(zip(NAMES, (0.1, 0.2, -0.3, 0.15, 0.05), strict=True)),
        num_patients=8,
    )
    path = study_report.write(tmp_path / "r.html", [section(found)], TASK)
    words = {
        name: words
        for name in NAMES
        for origin, words in Cells(path.read_text()).found
        if origin.startswith(name) and origin.endswith("patient_mean/mae")
    }
    assert words["pan"].endswith(" *")
    assert not words["medgan"].endswith("*")
    # 0.05 of half a window of 3000 HU.
    assert f"<b>{words['medgan']}</b>" in path.read_text()
    assert words["medgan"] == "75.00"


def test_the_papers_numbers_stand_below_ours_with_a_warning(written):
    _, text = written
    # Table 2 of the paper: SSIM of PAN, MSE of MedGAN.
    assert "paper 0.9027" in text
    assert "paper 264.6" in text
    assert "other patients" in text


def test_a_task_the_paper_has_not_gets_no_numbers_of_it(
    study_results, tmp_path
):
    found = study_results(dict.fromkeys(NAMES, 0.1))
    path = study_report.write(
        tmp_path / "r.html", [section(found)], tasks.TASKS["mr_ct"]
    )
    assert "paper 0.9" not in path.read_text()
    assert "no such task" in path.read_text()


def test_what_was_changed_and_simulated_and_not_computed_is_told(written):
    _, text = written
    assert "all methods: ngf=32; MedGAN: ndf=8" in text
    assert "These are simulated images." in text
    assert "LPIPS (AlexNet) is not computed" in text
    assert "not for diagnosis" in text
    assert "f" * 64 in text


def test_the_page_loads_nothing(written):
    _, text = written
    assert not re.search(r"https?://|<script|<link|url\(", text)


def test_six_patients_are_too_few_for_four_comparisons_and_that_is_told(
    written,
):
    _, text = written
    assert "cannot give p_holm" in text
    assert " *</td>" not in text


def test_the_curve_compares_with_one_u_block(study_results, tmp_path):
    names = ("pix2pix", "pix2pix_2_u_blocks", "pix2pix_3_u_blocks")
    found = study_results(dict(zip(names, (0.2, 0.1, 0.05), strict=True)))
    one = section(found, "figure6", u_blocks=(1, 2, 3))
    assert study_report.reference_of(one, found) == "pix2pix"
    path = study_report.write(tmp_path / "r.html", [one], TASK)
    assert "Over the number of U-blocks" in path.read_text()


def test_one_method_alone_has_a_report(study_results, tmp_path):
    found = study_results({"pix2pix": 0.2})
    one = section(found, "figure6", u_blocks=(1,))
    path = study_report.write(tmp_path / "r.html", [one], TASK)
    assert "PIX2PIX" in path.read_text()


def test_results_of_other_data_make_no_report(study_results, tmp_path):
    found = study_results(dict.fromkeys(NAMES, 0.1))
    found[2].scores["settings"]["data_fingerprint"] = "0" * 64
    with pytest.raises(errors.DataError, match="same patients"):
        study_report.write(tmp_path / "r.html", [section(found)], TASK)
    assert not (tmp_path / "r.html").exists()


def test_shares_are_those_of_the_first_step_and_of_the_last_quarter(tmp_path):
    sealed.write(
        tmp_path / "run.json",
        {"method": {"name": "a", "l1": 1.0}, "config": {"seed": 0}},
    )
    lines = [
        {"split": "train", "step": k, "share/l1": share, "loss/l1": 9}
        for k, share in enumerate([0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.3, 0.1])
    ]
    lines.append({"split": "validation", "step": 9, "metrics/ssim": 1})
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines)
    )
    found = study_report.read_training(tmp_path)
    assert found.shares["l1"] == (0.9, pytest.approx(0.2))
    assert found.settings == {"l1": 1.0, "seed": 0, "steps trained": 7}
    # A run that a crash broke off took step 7 again.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('\n{"split": "train", "ste\n')
        file.write('{"split": "train", "step": 7, "share/l1": 0.2}\n')
    found = study_report.read_training(tmp_path)
    assert found.shares["l1"] == (0.9, pytest.approx(0.25))
    (tmp_path / "metrics.jsonl").write_text("{")
    with pytest.raises(errors.ArtefactError, match="train again"):
        study_report.read_training(tmp_path)


@pytest.mark.slow
def test_a_browser_shows_the_numbers_and_prints_them(written, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine")
    path, _ = written
    alone = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
    alone.append(f"--user-data-dir={tmp_path / 'profile'}")
    seen = subprocess.run(
        [*alone, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    check(path.parent, Cells(seen).found)
    pdf = tmp_path / "report.pdf"
    subprocess.run(
        [*alone, f"--print-to-pdf={pdf}", path.as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert pdf.read_bytes().startswith(b"%PDF")
