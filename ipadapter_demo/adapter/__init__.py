"""IP-Adapter (arXiv 2308.06721), and what is held against it. To be read in this order:

attention       the second softmax in a cross-attention layer: all that the method changes
projections/    from an image encoder's output to image tokens; a variant is a file there
image_adapter   a projection and one K', V' for each layer: all that is trained
attention_lora  changes of the UNet's own layers that an adapter brings
attach          an adapter beside a UNet's layers, and K', V' computed once for all steps
joined_text     tokens behind the text's own, as T2I-Adapter's style adapter has them
numbered        image prompts for a UNet that is compiled
attention_maps  where in the picture each image prompt acts
checkpoint      published files, read strictly and written; formats: other layouts on disk;
                unsupported: files that are something else, by name
"""

from ipadapter_demo.adapter.attach import (
    attach,
    attached,
    cross_attention_layers,
    fill_kv_cache,
    is_attached,
)
from ipadapter_demo.adapter.attention import (
    DecoupledAttnProcessor,
    ImageKeyValue,
    ImagePrompt,
    KeyValueCache,
)
from ipadapter_demo.adapter.attention_lora import lora_by_layer
from ipadapter_demo.adapter.attention_maps import AttentionRecorder
from ipadapter_demo.adapter.checkpoint import (
    check_fits,
    encoder_needed,
    load_image_adapter,
    save_image_adapter,
)
from ipadapter_demo.adapter.formats import adapter_file, image_encoder_named
from ipadapter_demo.adapter.image_adapter import ImageAdapter
from ipadapter_demo.adapter.numbered import numbered
from ipadapter_demo.adapter.projections import (
    PROJECTIONS,
    FacePlusProjection,
    FaceProjection,
    LinearProjection,
    MLPProjection,
    Projection,
    Resampler,
    StyleProjection,
)

__all__ = [
    "PROJECTIONS",
    "AttentionRecorder",
    "DecoupledAttnProcessor",
    "FacePlusProjection",
    "FaceProjection",
    "ImageAdapter",
    "ImageKeyValue",
    "ImagePrompt",
    "KeyValueCache",
    "LinearProjection",
    "MLPProjection",
    "Projection",
    "Resampler",
    "StyleProjection",
    "adapter_file",
    "attach",
    "attached",
    "check_fits",
    "cross_attention_layers",
    "encoder_needed",
    "fill_kv_cache",
    "image_encoder_named",
    "is_attached",
    "load_image_adapter",
    "lora_by_layer",
    "numbered",
    "save_image_adapter",
]
