"""The edges of one picture, the colours and textures of another.

python -m examples.structure
"""

from pathlib import Path

from PIL import Image

import ipadapter_demo as ip

PICTURES = Path(__file__).parent.parent / "assets" / "examples"

pipeline = ip.load("tabletop")
request = ip.GenerateRequest(
    references=(ip.Reference(image=Image.open(PICTURES / "checker-cube.png")),),
    structures=(
        # `annotator` draws the map from a picture; "none" is for a picture that is a map already.
        ip.Structure(
            kind="canny", annotator="canny", image=Image.open(PICTURES / "cube-and-cone.png")
        ),
    ),
    image_scale=0.75,
    guidance=6.0,
    steps=10,
    seed=5,
)
result = pipeline.generate(request)

outputs = Path("outputs")
outputs.mkdir(exist_ok=True)
result.maps[0].save(outputs / "structure-map.png")
path = outputs / "structure.png"
ip.save_png(path, result.images[0], result.request, request.seed, 0, result.provenance)
print(path, *result.warnings, sep="\n")
