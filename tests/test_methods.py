"""The ten rows against the tables of the papers, and texts that change them."""

import dataclasses

import pytest

from medgan_tf import methods

METHODS = methods.METHODS
FIRST = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1")
DEEPEST = "block5_conv1"

# Every loss weight that is not 0, from the papers and their programs.
WEIGHTS = {
    "cgan": {"adversarial": 1},
    "perceptual": {"adversarial": 1, "perceptual": 20},
    "style_content": {"adversarial": 1, "style": 1e-4, "content": 1e-4},
    "medgan_1g": {
        "adversarial": 1,
        "perceptual": 20,
        "style": 1e-4,
        "content": 1e-4,
    },
    "medgan": {
        "adversarial": 1,
        "perceptual": 20,
        "style": 1e-4,
        "content": 1e-4,
    },
    "pix2pix": {"adversarial": 1, "l1": 100},
    "pan": {"adversarial": 1, "perceptual": 1, "perceptual_margin": 3},
    "id_cgan": {"adversarial": 1, "l2": 150, "content": 9.227e-3},
    "fila_sgan": {
        "adversarial": 1,
        "l1": 100,
        "style": 2,
        "content": 1,
        "total_variation": 100,
    },
    "pix2pix_tf": {"adversarial": 1, "l1": 100},
    "supervised": {"l1": 100},
}
LOSSES = (
    "adversarial",
    "perceptual",
    "perceptual_margin",
    "style",
    "content",
    "l1",
    "l2",
    "total_variation",
)


def test_there_are_the_papers_ten_methods_and_one_and_each_knows_its_name():
    assert list(METHODS) == list(WEIGHTS)
    assert all(name == method.name for name, method in METHODS.items())
    assert len({method.title for method in METHODS.values()}) == 11


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_row_has_its_loss_weights_and_no_other(name):
    weights = {
        field: getattr(METHODS[name], field)
        for field in LOSSES
        if getattr(METHODS[name], field)
    }
    assert weights == pytest.approx(WEIGHTS[name], rel=1e-4)


@pytest.mark.parametrize("name", list(WEIGHTS)[:9])
def test_compared_methods_share_architecture_and_hyperparameters(name):
    """Section 3.2.2 and 2.5; only MedGAN has six U-blocks."""
    method = METHODS[name]
    assert method.num_u_blocks == (6 if name == "medgan" else 1)
    assert (method.ngf, method.ndf, method.discriminator_layers) == (64, 64, 1)
    assert (method.dropout, method.bottleneck_norm) == (0.0, False)
    assert (method.spectral_norm, method.generator_updates) == ("projection", 3)
    assert method.update_order == "generator_first"
    assert method.adversarial_form == "non_saturating"
    assert (method.learning_rate, method.beta_1) == (2e-4, 0.5)
    assert method.epsilon == 1e-8


def test_pix2pix_tf_is_the_base_code_to_the_letter():
    method = METHODS["pix2pix_tf"]
    assert method.bottleneck_norm and method.dropout == 0.5
    assert (method.discriminator_layers, method.spectral_norm) == (3, "none")
    assert (method.generator_updates, method.update_order) == (
        1,
        "simultaneous",
    )
    assert method.probabilities == "epsilon"
    assert (method.learning_rate, method.beta_1, method.epsilon) == (
        2e-4,
        0.5,
        1e-8,
    )


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("cgan", ()),
        ("perceptual", ()),
        ("style_content", (*FIRST, DEEPEST)),
        ("medgan", (*FIRST, DEEPEST)),
        ("pix2pix", ()),
        ("pan", ()),
        ("id_cgan", ("block2_conv2",)),
        ("fila_sgan", (*FIRST, "block4_conv2", DEEPEST)),
        ("pix2pix_tf", ()),
    ],
)
def test_vgg_is_asked_only_for_layers_in_use(name, layers):
    assert METHODS[name].vgg_layers == layers


def test_medgan_takes_style_from_two_blocks_and_content_from_four():
    assert METHODS["medgan"].style_layers == ("block1_conv1", DEEPEST)
    assert METHODS["medgan"].content_layers == FIRST
    assert METHODS["medgan"].perceptual_layers == (1.0, 1.0, 1.0)
    assert METHODS["medgan"].style_target == "target"


def test_pan_has_no_pixel_term_and_a_margin_of_three():
    assert METHODS["pan"].perceptual_layers == (0.0, 5.0, 1.5)
    assert METHODS["pan"].uses_discriminator_features
    assert not METHODS["pix2pix"].uses_discriminator_features


def test_fila_sgan_takes_the_style_of_the_source_by_mean_absolutes():
    fila = METHODS["fila_sgan"]
    assert fila.style_target == "source"
    assert (fila.style_form, fila.content_form) == (
        "mean_absolute",
        "mean_absolute",
    )
    # Official weight 10, 1/5 for each of the five layers.
    assert fila.style * len(fila.style_layers) == 10
    assert fila.content_layers == ("block4_conv2",)


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("bottleneck_norm=true", "bottleneck_norm", True),
        ("bottleneck_norm=False", "bottleneck_norm", False),
        ("ngf=32", "ngf", 32),
        ("l1=1e2", "l1", 100.0),
        ("l1=5", "l1", 5.0),
        ("perceptual_layers=0, 2.5,1", "perceptual_layers", (0.0, 2.5, 1.0)),
        ("style_layers=block1_conv1", "style_layers", ("block1_conv1",)),
        ("adversarial_form=saturating", "adversarial_form", "saturating"),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_field(setting, field, value):
    changed = methods.override(METHODS["medgan"], [setting])
    assert getattr(changed, field) == value
    assert type(getattr(changed, field)) is type(value)
    assert changed == dataclasses.replace(METHODS["medgan"], **{field: value})


def test_settings_are_applied_together_and_leave_the_row_alone():
    changed = methods.override(
        METHODS["pix2pix"], ["discriminator_layers=3", "perceptual=0", "ndf=8"]
    )
    assert (changed.discriminator_layers, changed.ndf) == (3, 8)
    assert METHODS["pix2pix"].ndf == 64
    assert methods.override(METHODS["pan"], []) == METHODS["pan"]


def test_an_unknown_field_is_refused_with_the_fields_there_are():
    with pytest.raises(ValueError, match="no field 'nfg'; fields are ") as info:
        methods.override(METHODS["medgan"], ["nfg=32"])
    for field in dataclasses.fields(methods.Method):
        named = f"{field.name}," in f"{str(info.value).rstrip('.')},"
        assert named == (field.name not in ("name", "title")), field.name


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("ngf", "expected field=value"),
        ("name=mine", "no field 'name'"),
        ("ngf=4.5", "expected a whole number, got '4.5'"),
        ("l1=much", "expected a number, got 'much'"),
        ("bottleneck_norm=1", "expected true or false, got '1'"),
        ("perceptual_layers=1,one,1", "expected a number, got 'one'"),
        ("style_form=gatys", "must be one of paper, mean_absolute"),
        ("ngf=0", "ngf must be at least 1"),
        ("generator_updates=-1", "generator_updates must be at least 1"),
        ("l1=-1", "l1 must be a finite number of at least 0"),
        ("l1=inf", "l1 must be a finite number"),
        ("style=nan", "style must be a finite number"),
        ("dropout=1", r"dropout must be in \[0, 1\)"),
        ("perceptual_layers=1,1", "one weight for the images and one for each"),
        ("discriminator_layers=3", "each of the 4 hidden layers"),
        ("update_order=simultaneous", "takes generator_updates=1, got 3"),
        ("style_layers=", "style_layers"),
        ("content_layers=", "content_layers"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(setting, complaint):
    with pytest.raises(ValueError, match=complaint) as info:
        methods.override(METHODS["medgan"], [setting])
    assert str(info.value).startswith("--set")
    assert "\n" not in str(info.value)


def test_a_generator_without_any_loss_is_refused():
    with pytest.raises(ValueError, match="all loss weights"):
        methods.override(METHODS["cgan"], ["adversarial=0"])
