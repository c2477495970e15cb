import numpy as np
import pytest

from medgan_tf import methods
from medgan_tf.evaluation import published, studies


def names(study):
    return [variant.name for variant in study.variants]


def test_the_tables_have_the_papers_rows_in_its_order():
    assert names(studies.study("table1")) == [
        "cgan",
        "perceptual",
        "style_content",
        "medgan_1g",
        "medgan",
    ]
    assert names(studies.study("table2")) == [
        "pix2pix",
        "pan",
        "id_cgan",
        "fila_sgan",
        "medgan",
    ]


def test_the_figures_show_the_runs_of_their_tables():
    for figure, table in (("figure4", "table1"), ("figure5", "table2")):
        assert studies.study(figure).variants == studies.study(table).variants


def test_the_curve_is_pix2pix_with_one_to_seven_u_blocks():
    study = studies.study("figure6")
    found = [variant.resolved() for variant in study.variants]
    assert [method.num_u_blocks for method in found] == [1, 2, 3, 4, 5, 6, 7]
    assert {method.l1 for method in found} == {100.0}
    assert study.curve


def test_a_run_that_a_table_has_already_is_not_trained_for_the_curve():
    one, two = studies.study("figure6", u_blocks=(1, 2)).variants
    assert one == studies.Variant("pix2pix", "pix2pix, 1 U-block", "pix2pix")
    assert two.name == "pix2pix_2_u_blocks"
    three, six = studies.study(
        "figure6", u_blocks=(3, 6), curve_method="medgan"
    ).variants
    assert (three.name, six.name) == ("medgan_3_u_blocks", "medgan")


def test_settings_go_to_all_or_to_one_method():
    settings = ["ngf=32", "fila_sgan.content_layers=block3_conv2"]
    found = {
        variant.name: variant.resolved()
        for variant in studies.study("table2", settings).variants
    }
    assert {method.ngf for method in found.values()} == {32}
    assert found["fila_sgan"].content_layers == ("block3_conv2",)
    assert (
        found["id_cgan"].content_layers
        == methods.METHODS["id_cgan"].content_layers
    )


def test_a_number_with_a_point_is_no_method():
    (variant, *_) = studies.study("table1", ["averaging=0.99"]).variants
    assert variant.resolved().averaging == 0.99


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("nobody.ngf=3", "no method 'nobody'"),
        ("pan.nothing=3", "no field 'nothing'"),
        ("ngf=few", "whole number"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_trained(
    setting, complaint
):
    with pytest.raises(ValueError, match=complaint):
        studies.study("table2", [setting])


def test_the_papers_psnr_is_no_less_than_that_of_its_mean_mse():
    """Because the mean of logarithms is at least that (Jensen)."""
    for task in published.PUBLISHED.values():
        for row in task.values():
            of_mean = 10 * np.log10(255**2 / row["mse"])
            assert of_mean - 0.01 <= row["psnr"] < of_mean + 3


def test_every_published_row_is_one_of_a_table():
    rows = {*names(studies.study("table1")), *names(studies.study("table2"))}
    assert {m for task in published.PUBLISHED.values() for m in task} == rows
