"""IP-Adapter (arXiv 2308.06721), and nothing else."""

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
)
from ipadapter_demo.adapter.attention_maps import AttentionRecorder
from ipadapter_demo.adapter.checkpoint import (
    check_fits,
    encoder_needed,
    load_image_adapter,
    save_image_adapter,
)
from ipadapter_demo.adapter.formats import adapter_file, image_encoder_named
from ipadapter_demo.adapter.image_adapter import ImageAdapter
from ipadapter_demo.adapter.projections import (
    PROJECTIONS,
    LinearProjection,
    MLPProjection,
    Projection,
    Resampler,
)

__all__ = [
    "PROJECTIONS",
    "AttentionRecorder",
    "DecoupledAttnProcessor",
    "ImageAdapter",
    "ImageKeyValue",
    "ImagePrompt",
    "LinearProjection",
    "MLPProjection",
    "Projection",
    "Resampler",
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
    "save_image_adapter",
]
