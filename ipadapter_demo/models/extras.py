"""Additions to a model when it is loaded: textual inversions, and what its files do not say."""

from __future__ import annotations

from dataclasses import replace

from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.diffusers_pipeline import pipeline_of
from ipadapter_demo.models.embeddings import learn_word
from ipadapter_demo.models.parts import Parts
from ipadapter_demo.models.schedule import settled
from ipadapter_demo.models.weights import naming, weights_from_file


def with_extras(parts: Parts, options: LoadOptions) -> Parts:
    """The parts with new words learnt, by diffusers' own loader. Raises ModelError that names the
    file."""
    config = settled(parts.scheduler_config, options.prediction_type, options.zero_snr)
    for path in options.embeddings:
        with naming(path):
            learn_word(pipeline_of(parts), parts, path.stem, weights_from_file(path))
    return replace(parts, scheduler_config=config)
