"""A picture and words: the words change the floor, the picture keeps the rest.

python -m examples.image_text
"""

from dataclasses import replace
from pathlib import Path

from PIL import Image

import ipadapter_demo as ip

PICTURES = Path(__file__).parent.parent / "assets" / "examples"

pipeline = ip.load("tabletop")
request = ip.GenerateRequest(
    prompt="on a green checkered floor",
    references=(ip.Reference(image=Image.open(PICTURES / "blue-cone.png")),),
    guidance=6.0,
    guidance_window=(0.0, 0.7),  # of the steps
    steps=10,
    seed=3,
)

# λ balances the two. The same seed gives the same noise, so only λ differs.
outputs = Path("outputs")
outputs.mkdir(exist_ok=True)
for image_scale in (0.0, 0.7, 1.2):
    result = pipeline.generate(replace(request, image_scale=image_scale))
    path = outputs / f"image-text-{image_scale}.png"
    ip.save_png(path, result.images[0], result.request, request.seed, 0, result.provenance)
    print(path)
