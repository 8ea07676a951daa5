"""What a page loads a model with, and what visitors may have fetched for it."""

from __future__ import annotations

from dataclasses import replace

from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.at_hand import check_at_hand
from ipadapter_demo.models.shelf import needed_by
from ipadapter_demo.settings import Settings, load_options, without_additions


def options_of(settings: Settings, model: str) -> LoadOptions:
    """For a model that visitors may choose, without what the operator added to his own. Raises
    ModelError where files of it would have to be fetched, and visitors may not have that done; the
    operator's own model is fetched in any case."""
    own, downloads = model == settings.model, settings.visitor_downloads
    of = settings if own else without_additions(settings)
    options = replace(load_options(of), fetch_later=downloads)
    if not (own or downloads):
        check_at_hand(model, needed_by(model, options.models_dir), options.models_dir)
    return options
