"""A mask filled in the style of a reference. Outside the mask not one pixel changes.

python -m examples.inpaint
"""

from pathlib import Path

import numpy as np
from PIL import Image

import ipadapter_demo as ip

PICTURES = Path(__file__).parent.parent / "assets" / "examples"

picture = Image.open(PICTURES / "cube-and-cone.png").convert("RGB")
mask = Image.open(PICTURES / "cube-and-cone-mask.png").convert("L")  # white is drawn anew

pipeline = ip.load("tabletop")
request = ip.GenerateRequest(
    references=(ip.Reference(image=Image.open(PICTURES / "purple-cylinder.png")),),
    inpaint=ip.Inpaint(image=picture, mask=mask),
    guidance=3.0,
    steps=10,
    seed=11,
)
result = pipeline.generate(request)

outputs = Path("outputs")
outputs.mkdir(exist_ok=True)
path = outputs / "inpaint.png"
ip.save_png(path, result.images[0], result.request, request.seed, 0, result.provenance)

before, after = np.array(picture, dtype=int), np.array(result.images[0], dtype=int)
outside = np.array(mask) == 0
print(f"largest change outside the mask: {abs(after - before)[outside].max()} grey levels")
