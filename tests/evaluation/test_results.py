"""Methods are compared on the same patients, or not at all."""

import pytest

from medgan_tf import errors, sealed
from medgan_tf.evaluation import results

MISSES = {"near": 0.05, "far": -0.2, "farther": 0.3}


def test_the_smallest_miss_is_the_best_in_every_direction(study_results):
    found = study_results(MISSES)
    for metric in ("ssim", "psnr", "mse", "mae", "me"):
        assert results.rank(found, metric, "near").best == ("near",)


def test_a_miss_of_all_six_patients_alike_is_told_from_none(study_results):
    """Six patients of one sign: p = 2 / 2^6, twice that by Holm."""
    ranking = results.rank(study_results(MISSES), "mae", "near")
    far, farther = ranking.comparisons
    # 0.15 and 0.25 of a window of 3000 HU, half of it being 1.
    assert far.mean_difference == pytest.approx(225, rel=1e-4)
    assert farther.mean_difference == pytest.approx(375, rel=1e-4)
    assert far.p_holm == farther.p_holm == pytest.approx(2 * 2 / 2**6)


def test_a_slice_without_a_number_counts_for_no_method(study_results):
    exact, near = study_results({"exact": 0.0, "near": 0.05})
    ranking = results.rank([exact, near], "psnr", "near")
    assert ranking.comparisons == ()
    assert "no slice in which all methods" in ranking.note


def test_metrics_without_weights_are_no_columns(study_results):
    found = results.metrics_of(study_results({"near": 0.05}))
    assert "lpips_alex" not in found
    assert found["mae"]["unit"] == "HU"


@pytest.mark.parametrize("key", ["task", "split", "data_fingerprint"])
def test_results_of_other_patients_are_not_compared(study_results, key):
    a, b = study_results({"a": 0.05, "b": 0.1})
    b.scores["settings"][key] = "other"
    with pytest.raises(errors.DataError, match=f"{key} other"):
        results.check_comparable([a, b])


def test_results_of_another_protocol_are_not_compared(study_results):
    a, b = study_results({"a": 0.05, "b": 0.1})
    b.scores["protocol"]["metrics"]["ssim"]["settings"] = "another window"
    with pytest.raises(errors.DataError, match="protocol"):
        results.check_comparable([a, b])


def test_scores_that_are_not_there_are_told_in_one_line(tmp_path):
    with pytest.raises(errors.ArtefactError, match="evaluate again") as told:
        results.read("a", "A", tmp_path)
    assert "\n" not in str(told.value)
    sealed.write(tmp_path / "scores.json", {"images": {}})
    with pytest.raises(errors.ArtefactError, match="translated"):
        results.read("a", "A", tmp_path)


@pytest.mark.parametrize("name", ["scores.json", "scores.csv"])
def test_one_digit_of_a_number_that_was_changed_is_told(study_results, name):
    (found,) = study_results({"a": 0.05})
    path = found.folder / name
    text = path.read_text()
    at = max(text.rfind(digit) for digit in "012345678")
    path.write_text(f"{text[:at]}9{text[at + 1 :]}")
    with pytest.raises(errors.ArtefactError, match="evaluate again"):
        results.read("a", "A", found.folder)


def test_a_slice_is_as_hard_as_it_is_for_the_methods_together(study_results):
    found = study_results({"near": 0.05, "far": 0.2})
    one, other = (results.mean_ssim([result]) for result in found)
    both = results.mean_ssim(found)
    assert len(both) == 18
    for key, value in both.items():
        assert value == pytest.approx((one[key] + other[key]) / 2)


def test_a_median_slice_is_shown_of_four_patients_at_most():
    ssim = {
        (f"p{patient}", "", index): patient / 10 + index / 100
        for patient in range(6)
        for index in range(3)
    }
    chosen = results.choose_median(ssim)
    assert set(chosen.values()) == {"median"}
    assert [index for _, _, index in chosen] == [1, 1, 1, 1]
    assert [patient for patient, _, _ in chosen][::3] == ["p0", "p5"]


def test_the_worst_slices_are_no_neighbours():
    ssim = {("p", "", index): index / 100 for index in range(12)}
    assert [key[2] for key in results.choose_worst(ssim)] == [0, 5, 10]
    ssim |= {("p", "later", index): 0.5 + index for index in range(30)}
    assert list(results.choose_worst(ssim)) == [
        ("p", "", 0),
        ("p", "", 5),
        ("p", "", 10),
        ("p", "later", 0),
        ("p", "later", 5),
    ]
