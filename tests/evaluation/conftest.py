"""What the tests of reports share: small studies, scored for real."""

import numpy as np
import pytest

from medgan_tf import tasks
from medgan_tf.evaluation import evaluate, protocols, report, results

SIZE = 32
TASK = tasks.TASKS["mr_ct"]
SETTINGS = {
    "task": TASK.name,
    "split": "test",
    "data_fingerprint": "f" * 64,
    "unit": "HU",
    "is_simulated": True,
    "discriminator_steps": 7,
}


def samples(num_patients, num_slices=3):
    """Textured slices, the source being the target and a constant."""
    rng = np.random.default_rng(0)
    found = []
    for patient in range(num_patients):
        for index in range(num_slices):
            # Fractions that a float32 holds, so that sums are exact.
            grey = rng.integers(-512, 512, (SIZE, SIZE, 1))
            target = (grey / 1024).astype(np.float32)
            found.append(
                evaluate.Sample(
                    patient=f"p{patient}",
                    # Neighbours are never shown together as the worst.
                    slice_index=10 * index,
                    source=target + np.float32(0.25),
                    target=target,
                    mask=np.ones((SIZE, SIZE), bool),
                    source_window=(0.0, 1000.0),
                    target_window=(-1000.0, 2000.0),
                )
            )
    return found


def add(amount):
    """A translation that misses the target by a constant."""
    return lambda source: source[..., :1] - 0.25 + amount


@pytest.fixture
def study_results(tmp_path):
    """Function: method -> miss, in [-1, 1], gives a result for each."""

    def score(misses, num_patients=6):
        protocol = protocols.PROTOCOLS["paper"].fitted(TASK.target)
        made = []
        for name, miss in misses.items():
            scores = evaluate.score_slices(
                samples(num_patients), add(miss), protocol=protocol
            )
            folder = tmp_path / name / "test_paper"
            report.write_scores(
                folder, scores.rows, SETTINGS, protocol=protocol
            )
            made.append(results.read(name, name.upper(), folder))
        return made

    return score
