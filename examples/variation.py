"""A picture in, two new pictures of the same things out.

python -m examples.variation
"""

from pathlib import Path

from PIL import Image

import ipadapter_demo as ip

PICTURES = Path(__file__).parent.parent / "assets" / "examples"

pipeline = ip.load("tabletop")
request = ip.GenerateRequest(
    references=(ip.Reference(image=Image.open(PICTURES / "red-sphere.png")),),
    image_scale=1.0,  # λ: 0 ignores the picture
    guidance=6.0,
    steps=10,
    seed=7,
    count=2,  # image i starts from seed + i
)
result = pipeline.generate(request)

outputs = Path("outputs")
outputs.mkdir(exist_ok=True)
for i, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
    path = outputs / f"variation-{i}.png"
    ip.save_png(path, image, result.request, seed, i, result.provenance)
    print(f"{path}: seed {seed}")

# The file holds its whole request, the reference included: the same pixels come out again.
restored = ip.request_from_png(outputs / "variation-0.png")
assert pipeline.generate(restored).images == result.images
