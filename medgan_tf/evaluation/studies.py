"""Which trainings make a table or a figure of the paper.

A study is a list of variants; each is one run, and a run that two studies
share is trained once.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from medgan_tf import methods

SEVEN = tuple(range(1, 8))


@dataclasses.dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
      name: of its folder, and its row.
      label: the row for people.
      method: the row of METHODS it starts from.
      settings: "field=value" each, as for `methods.override`.
    """

    name: str
    label: str
    method: str
    settings: tuple[str, ...] = ()

    def resolved(self) -> methods.Method:
        """The method with the settings.

        Raises:
          ValueError: a setting is wrong.
        """
        return methods.override(
            methods.METHODS[self.method], list(self.settings)
        )


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A method whose images another program made.

    Attributes:
      name: of the folder with its scores.
      label: for people.
      folder: with a file for each slice.
    """

    name: str
    label: str
    folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Study:
    """A table or figure.

    Attributes:
      name: the word for `--what`.
      title: one line for people.
      variants: its rows, in the paper's order.
      curve: the variants differ by `num_u_blocks`, to be drawn as a curve.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    curve: bool = False


_TABLE_1 = ("cgan", "perceptual", "style_content", "medgan_1g", "medgan")
_TABLE_2 = ("pix2pix", "pan", "id_cgan", "fila_sgan", "medgan")
# Name -> methods and title. Figures 4 and 5 are the images of Tables 1 and 2.
_TABLES = {
    "table1": (_TABLE_1, "Table 1: what each loss is worth"),
    "table2": (_TABLE_2, "Table 2: MedGAN and its rivals"),
    "figure4": (_TABLE_1, "Figure 4: images of the losses compared"),
    "figure5": (_TABLE_2, "Figure 5: images of MedGAN and its rivals"),
}
CURVE = "figure6"
NAMES = (*_TABLES, CURVE)


def study(
    name: str,
    settings: Iterable[str] = (),
    *,
    u_blocks: Sequence[int] = SEVEN,
    curve_method: str = "pix2pix",
    more: Sequence[str] = (),
) -> Study:
    """The study of that name.

    Args:
      name: one of NAMES.
      settings: "field=value" for every variant, or "method.field=value" for
        those of one method.
      u_blocks: how many U-blocks the variants of the curve have.
      curve_method: whose generator they are. Appendix A trains pix2pix.
      more: methods that are put before those of a table.

    Raises:
      ValueError: a setting is wrong, or names a method that is none.
    """
    common, own = _sorted(settings)
    if name == CURVE:
        title = "Figure 6: how many U-blocks"
        variants = [
            _u_blocks(curve_method, number, common, own) for number in u_blocks
        ]
    else:
        names, title = _TABLES[name]
        if unknown := [one for one in more if one not in methods.METHODS]:
            raise ValueError(
                f"no method {unknown[0]!r}; methods are "
                f"{', '.join(methods.METHODS)}."
            )
        names = tuple(dict.fromkeys((*more, *names)))
        variants = [
            Variant(
                method,
                _label(method),
                method,
                (*common, *own.get(method, ())),
            )
            for method in names
        ]
    for variant in variants:
        variant.resolved()
    return Study(name, title, tuple(variants), name == CURVE)


def _u_blocks(
    method: str,
    number: int,
    common: tuple[str, ...],
    own: dict[str, tuple[str, ...]],
) -> Variant:
    """The method with so many U-blocks; where it has them anyway, itself."""
    plain = Variant(method, "", method, (*common, *own.get(method, ())))
    is_plain = plain.resolved().num_u_blocks == number
    return Variant(
        method if is_plain else f"{method}_{number}_u_blocks",
        f"{_label(method)}, {number} U-block" + "s" * (number > 1),
        method,
        plain.settings
        if is_plain
        else (*plain.settings, f"num_u_blocks={number}"),
    )


def _label(method: str) -> str:
    """The method's title without whose it is."""
    return methods.METHODS[method].title.partition(" (")[0]


def _sorted(
    settings: Iterable[str],
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """What is set for all, and for each method."""
    common, own = [], {}
    for setting in settings:
        method, dot, rest = setting.partition(".")
        if not dot or "=" in method:
            common.append(setting)
        elif method in methods.METHODS:
            own[method] = (*own.get(method, ()), rest)
        else:
            raise ValueError(
                f"--set={setting}: no method {method!r}; methods are "
                f"{', '.join(methods.METHODS)}."
            )
    return tuple(common), own
