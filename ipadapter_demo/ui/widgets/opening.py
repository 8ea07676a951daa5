"""The finished example that the page opens on: a reference and its variations, drawn once by

    python -m ipadapter_demo generate --reference assets/examples/red-sphere.png --count 4 \\
        --out assets/opening

It is shown only with the model and the weights that drew it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ipadapter_demo.assets import asset
from ipadapter_demo.errors import RequestError
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.tab import Results, Update
from ipadapter_demo.ui.widgets.access import alts, picture_text
from ipadapter_demo.ui.widgets.examples import FOLDER as EXAMPLES

FOLDER = asset("assets/opening")
REFERENCE = EXAMPLES / "red-sphere.png"
NOTHING_YET = "Click an example, or add a picture and press Generate."


@dataclass(frozen=True, slots=True)
class Opening:
    reference: Path
    pictures: list[Path]
    request: GenerateRequest
    model: str

    @property
    def sentence(self) -> str:
        first, last = self.request.seed, self.request.seed + len(self.pictures) - 1
        return (
            f"One reference picture, {len(self.pictures)} variations: drawn by "
            f"{escaped(self.model)}, {self.request.steps} steps, λ = "
            f"{self.request.image_scale:g}, seeds {first} to {last}."
        ) + alts(
            (path.name for path in self.pictures),
            (picture_text(self.request, seed) for seed in range(first, last + 1)),
        )


def opening(manager: ModelManager) -> Opening | None:
    """None where the model that is loaded, or one of its weights, is another."""
    pictures = sorted(FOLDER.glob("*.png"))
    if not pictures or not REFERENCE.is_file():
        return None
    try:
        record = record_from_png(pictures[0])
    except RequestError:
        return None
    drawn, here = record.provenance, manager.pipeline.provenance
    weights, own = drawn.get("weights"), here.get("weights")
    if drawn.get("model") != here.get("model") or not isinstance(weights, dict):
        return None
    if not isinstance(own, dict) or not weights.items() <= own.items():
        return None
    return Opening(REFERENCE, pictures, record.request, manager.info.name)


def on_other_model(found: Opening, model: ModelInput, results: Results) -> None:
    """Take the example away as soon as the page shows another model."""
    names = {path.name for path in found.pictures}

    def shown(gallery: object, name: str) -> Update:
        items = gallery if isinstance(gallery, list) else []
        files = {Path(str(item["image"]["path"])).name for item in items}
        if name == found.model or not files or not files <= names:
            return {}
        return {results.gallery: None, results.status: NOTHING_YET}

    model.shown.change(
        shown,
        inputs=[results.gallery, model.shown],
        outputs=[results.gallery, results.status],
        preprocess=False,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
