"""Prepares studies on a cluster, as an Apache Beam pipeline.

For cohorts beyond one machine. Every worker runs the function that one machine
runs, and writes the shard of its study into the folder, which all machines
must share. The rest, a few numbers a study, is put together here afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options import pipeline_options


def apply_to_all(
    function: Callable, items: Sequence, *, runner: str, options: Sequence[str]
) -> None:
    """Applies a function to every item by a Beam runner, in any order.

    Args:
      function: can be pickled.
      items: can be pickled.
      runner: "DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner".
      options: Beam's own flags, such as "--direct_num_workers=4".
    """
    settings = pipeline_options.PipelineOptions(
        [f"--runner={runner}", *options]
    )
    with beam.Pipeline(options=settings) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(items))
            # Without it one worker would get all that was made here.
            | beam.Reshuffle()
            | beam.Map(function)
        )
