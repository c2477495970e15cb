"""How much 511 keV photons lose on their way, told from a CT.

CT measures attenuation of its own, softer X-rays. Up to water a voxel is a
mixture of air and water, above of water and bone, whose calcium stops X-rays
more than it stops 511 keV: straight lines, of which those above water depend
on the tube voltage. TABLES holds the lines that have been published; a voltage
between two of them is refused, because nobody has measured it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from medgan_tf import errors
from medgan_tf.data import volume as volumes

# A CT that does not go below shows no air, or is not in HU.
LEAST_AIR_HU = -200


@dataclasses.dataclass(frozen=True)
class Line:
    """One piece of the way from HU to attenuation at 511 keV.

    Attributes:
      from_hu: where it takes over from the line before.
      intercept: 1/cm at 0 HU.
      slope: 1/cm per HU.
    """

    from_hu: float
    intercept: float
    slope: float

    def at(self, hounsfield: np.ndarray | float) -> np.ndarray | float:
        """1/cm."""
        return self.intercept + self.slope * hounsfield


@dataclasses.dataclass(frozen=True)
class Table:
    """Lines by the peak voltage of the CT's tube.

    Attributes:
      name: the word for `--table`.
      source: where the numbers were published.
      lines: peak voltage in kV -> lines, from air upwards.
    """

    name: str
    source: str
    lines: Mapping[int, tuple[Line, ...]]


def _of_carney(break_hu: float, slope: float, intercept: float):
    """1/cm = slope x (HU + 1000) + intercept, as the paper writes it."""
    return (
        Line(-1000.0, 9.6e-2, 9.6e-5),
        Line(break_hu, 1000 * slope + intercept, slope),
    )


def _of_ge(*harder: tuple[float, float, float]):
    return (Line(-1000.0, 9.60e-2, 9.600e-5), *(Line(*row) for row in harder))


CARNEY = Table(
    "carney",
    "Carney, Townsend, Rappoport and Bendriem, Medical Physics 33, 976 (2006), "
    "Table I",
    {
        80: _of_carney(50, 3.64e-5, 6.26e-2),
        100: _of_carney(52, 4.43e-5, 5.44e-2),
        110: _of_carney(43, 4.92e-5, 4.88e-2),
        120: _of_carney(47, 5.10e-5, 4.71e-2),
        130: _of_carney(37, 5.51e-5, 4.24e-2),
        140: _of_carney(30, 5.64e-5, 4.08e-2),
    },
)
# The third line is that of dense bone and metal.
GE = Table(
    "ge",
    "GE, without contrast agent, as published in issue 689 of UCL/STIR",
    {
        100: _of_ge((50, 9.85e-2, 4.560e-5), (1339, 1.520e-1, 5.700e-6)),
        120: _of_ge((50, 9.82e-2, 5.110e-5), (1201, 1.519e-1, 6.388e-6)),
        140: _of_ge((50, 9.80e-2, 5.600e-5), (1100, 1.519e-1, 7.000e-6)),
    },
)
TABLES = {table.name: table for table in (CARNEY, GE)}


def mu_map(
    ct: volumes.Volume, *, kilovolts: float = 120, table: str = "carney"
) -> volumes.Volume:
    """Linear attenuation at 511 keV of each voxel of a CT.

    Args:
      ct: HU; values below -1000 count as -1000, which attenuates nothing.
      kilovolts: peak voltage of the CT's tube, one of the table's.
      table: a row of TABLES.

    Returns:
      1/cm >= 0, float32, on the same grid; water 0.096.

    Raises:
      UsageError: there is no such table, or the voltage is not in it.
      DataError: a voxel is NaN or infinite.
    """
    lines = lines_of(table, kilovolts)
    if not np.isfinite(ct.array).all():
        raise errors.DataError(
            "The CT holds NaN or infinity, expected HU; replace them, for "
            "example by -1000."
        )
    hounsfield = np.maximum(ct.array.astype(np.float32), -1000)
    per_cm = lines[0].at(hounsfield)
    for line in lines[1:]:
        beyond = hounsfield >= line.from_hu
        per_cm[beyond] = line.at(hounsfield[beyond])
    # Because 9.6e-2 - 9.6e-5 * 1000 is not quite 0 in float32.
    return volumes.Volume(
        np.where(hounsfield > -1000, per_cm, 0).astype(np.float32),
        ct.affine.copy(),
    )


def lines_of(table: str, kilovolts: float) -> tuple[Line, ...]:
    """The lines of one tube voltage, from air upwards.

    Raises:
      UsageError: there is no such table, or the voltage is not in it.
    """
    if table not in TABLES:
        raise errors.UsageError(
            f"The table is {table}, expected one of {', '.join(TABLES)}."
        )
    rows = TABLES[table].lines
    if kilovolts not in rows:
        raise errors.UsageError(
            f"The tube voltage is {kilovolts:g} kV, expected one of "
            f"{', '.join(map(str, rows))}, which table {table} holds; give "
            "that of the CT (KVP in its header) or take another table."
        )
    return rows[kilovolts]
