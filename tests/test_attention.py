"""The method itself, as exact laws and against diffusers' own implementation."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import Tensor, nn

from ipadapter_demo.adapter import (
    DecoupledAttnProcessor,
    ImageAdapter,
    ImageKeyValue,
    ImagePrompt,
    LinearProjection,
    attach,
    attached,
    cross_attention_layers,
    is_attached,
)
from ipadapter_demo.adapter.attach import layer_mismatch
from ipadapter_demo.adapter.attention_maps import query_grid
from ipadapter_demo.errors import ModelError
from tests.tiny import CROSS_DIM, EMBED_DIM, TEXT_TOKENS, noise, seeded, tiny_adapter, tiny_unet

WIDTH, HEADS, BATCH, QUERIES = 48, 3, 3, 64
ALL = slice(None)


def predict(unet: UNet2DConditionModel, *prompts: ImagePrompt, batch: int = BATCH) -> Tensor:
    """The tiny UNet's output for fixed latents and text, (batch, 4, 8, 8)."""
    return unet(
        noise(10, batch, 4, 8, 8),
        7,
        encoder_hidden_states=noise(11, batch, TEXT_TOKENS, CROSS_DIM),
        cross_attention_kwargs={"ip_hidden_states": prompts} if prompts else None,
    ).sample


def tokens(seed: int, rows: int = 1, count: int = 4) -> Tensor:
    return noise(seed, rows, count, CROSS_DIM)


@pytest.fixture
def layer() -> Attention:
    """One cross-attention layer in float64, with a bias in its output projection."""
    with seeded(0):
        attn = Attention(
            query_dim=WIDTH, cross_attention_dim=CROSS_DIM, heads=HEADS, dim_head=WIDTH // HEADS
        )
    return attn.double()


@pytest.fixture
def oracle() -> IPAdapterAttnProcessor2_0:
    with seeded(1):
        return IPAdapterAttnProcessor2_0(WIDTH, CROSS_DIM, num_tokens=[4]).double()


@pytest.fixture
def processor(oracle: IPAdapterAttnProcessor2_0) -> DecoupledAttnProcessor:
    return DecoupledAttnProcessor(pair_of(oracle))


def pair_of(oracle: IPAdapterAttnProcessor2_0) -> ImageKeyValue:
    """The very weights of diffusers' processor."""
    pair = ImageKeyValue(CROSS_DIM, WIDTH)
    pair.to_k_ip, pair.to_v_ip = oracle.to_k_ip[0], oracle.to_v_ip[0]
    return pair


@pytest.fixture
def image_states() -> Tensor:
    """Hidden states (BATCH, QUERIES, WIDTH)."""
    return noise(20, BATCH, QUERIES, WIDTH).double()


@pytest.fixture
def text() -> Tensor:
    return noise(21, BATCH, TEXT_TOKENS, CROSS_DIM).double()


@pytest.fixture(params=[False, True], ids=["drawing", "training"])
def gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    """With autograd the processor never writes in place, and computes all in every call."""
    with torch.set_grad_enabled(request.param):
        yield


@pytest.mark.usefixtures("gradients")
class TestWithoutAnImage:
    """Law 1: λ = 0, or no reference, equals the base model bit for bit."""

    @pytest.mark.parametrize(
        "prompts",
        [
            pytest.param((), id="no prompt"),
            pytest.param((ImagePrompt(rows=ALL, tokens=tokens(1), scale=0.0),), id="scale 0"),
            pytest.param(
                (ImagePrompt(rows=ALL, tokens=tokens(1), scale=torch.zeros(BATCH, 1, 1)),),
                id="scales 0",
            ),
        ],
    )
    def test_equals_the_base_model(self, prompts: tuple[ImagePrompt, ...]) -> None:
        unet = tiny_unet()
        bare = predict(unet)
        attach(unet, tiny_adapter(unet))
        assert torch.equal(predict(unet, *prompts), bare)
        assert not torch.equal(predict(unet, prompt_for(ALL)), bare)

    def test_scale_0_does_not_even_look_at_the_image(self) -> None:
        unet = tiny_unet()
        bare = predict(unet)
        attach(unet, tiny_adapter(unet))
        broken = torch.full_like(tokens(1), torch.nan)
        assert torch.equal(predict(unet, ImagePrompt(rows=ALL, tokens=broken, scale=0.0)), bare)

    def test_rows_without_a_prompt_equal_the_base_model(self) -> None:
        unet = tiny_unet()
        bare = predict(unet)
        attach(unet, tiny_adapter(unet))
        mixed = predict(unet, prompt_for(slice(1, 2)))
        assert torch.equal(mixed[[0, 2]], bare[[0, 2]])
        assert not torch.equal(mixed[1], bare[1])

    def test_a_zero_in_a_sweep_equals_the_base_model(self) -> None:
        unet = tiny_unet()
        bare = predict(unet)
        attach(unet, tiny_adapter(unet))
        sweep = torch.tensor([0.0, 0.5, 1.0]).view(BATCH, 1, 1)
        swept = predict(unet, ImagePrompt(rows=ALL, tokens=tokens(1), scale=sweep))
        assert torch.equal(swept[0], bare[0])
        assert not torch.equal(swept[1], bare[1])

    def test_text_mask_and_four_dimensional_input(self, layer: Attention) -> None:
        """Branches of the base processor that an SD UNet seldom takes."""
        states = noise(22, BATCH, WIDTH, 8, 8).double()
        text = noise(21, BATCH, TEXT_TOKENS, CROSS_DIM).double()
        bias = torch.zeros(BATCH, 1, TEXT_TOKENS).double()
        bias[..., 3:] = -1e4
        layer.group_norm = nn.GroupNorm(4, WIDTH).double()
        layer.residual_connection, layer.rescale_output_factor = True, 2.0
        expected = layer(states, text, attention_mask=bias)
        layer.set_processor(DecoupledAttnProcessor(ImageKeyValue(1, 1)))
        assert torch.equal(layer(states, text, attention_mask=bias), expected)
        assert not torch.equal(layer(states, text), expected)


def test_queries_with_masks_of_their_own_and_no_text_are_diffusers_own() -> None:
    with seeded(0):
        layer = Attention(query_dim=WIDTH, heads=HEADS, dim_head=WIDTH // HEADS).double()
    states = noise(22, BATCH, QUERIES, WIDTH).double()
    causal = torch.full((BATCH, QUERIES, QUERIES), -1e4).double().triu(1)
    expected = layer(states), layer(states, attention_mask=causal)
    layer.set_processor(DecoupledAttnProcessor(ImageKeyValue(1, 1)))
    assert torch.equal(layer(states), expected[0])
    assert torch.equal(layer(states, attention_mask=causal), expected[1])


def test_keys_and_values_are_made_where_and_as_they_are_asked_for() -> None:
    """Such as on a GPU at once, and not on the CPU first."""
    pair = ImageKeyValue(CROSS_DIM, WIDTH, device=torch.device("meta"), dtype=torch.float16)
    assert all(weight.is_meta for weight in pair.parameters())
    assert {weight.dtype for weight in pair.parameters()} == {torch.float16}


class Spatial(nn.Module):
    """Stands in for a norm that looks at the time embedding."""

    def forward(self, states: Tensor, temb: Tensor) -> Tensor:
        return states * temb


def test_norms_that_sd_s_layers_lack_are_diffusers_own(layer: Attention) -> None:
    head = WIDTH // HEADS
    with seeded(3):
        layer.norm_q, layer.norm_k = nn.LayerNorm(head).double(), nn.LayerNorm(head).double()
        layer.norm_cross, layer.spatial_norm = nn.LayerNorm(CROSS_DIM).double(), Spatial()
        for norm in (layer.norm_q, layer.norm_k, layer.norm_cross):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    states, text = (
        noise(22, BATCH, QUERIES, WIDTH).double(),
        noise(21, BATCH, 6, CROSS_DIM).double(),
    )
    temb = noise(23, BATCH, QUERIES, WIDTH).double()
    expected = layer(states, text, temb=temb)
    layer.set_processor(DecoupledAttnProcessor(ImageKeyValue(1, 1)))
    assert torch.equal(layer(states, text, temb=temb), expected)


def test_a_layer_s_own_scale_multiplies_that_of_the_prompt(
    layer: Attention, processor: DecoupledAttnProcessor, image_states: Tensor, text: Tensor
) -> None:
    processor.number = 1
    layer.set_processor(processor)

    def at(scale: float, layers: tuple[float, ...] | None = None) -> Tensor:
        prompt = ImagePrompt(rows=ALL, tokens=tokens(1).double(), scale=scale, layer_scales=layers)
        return layer(image_states, text, ip_hidden_states=(prompt,))

    assert torch.equal(at(0.8, (3.0, 0.5)), at(0.4))
    assert torch.equal(at(0.8, (3.0, 0.0)), layer(image_states, text))
    layer.set_processor(DecoupledAttnProcessor(*processor.pairs))  # the first, if nothing is said
    assert torch.equal(at(0.8, (0.5,)), at(0.4))


def prompt_for(rows: slice, seed: int = 1, scale: float = 1.0) -> ImagePrompt:
    return ImagePrompt(rows=rows, tokens=tokens(seed), scale=scale)


@pytest.mark.usefixtures("gradients")
class TestFormula:
    def test_decoupled_attention_by_hand(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        """Z_new = Attention(Q, K, V) + λ · Attention(Q, K', V'), then the output projection."""
        image = tokens(1).double()

        def heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        def attention(key: Tensor, value: Tensor) -> Tensor:
            query = heads(layer.to_q(image_states))
            logits = query @ heads(key).mT / math.sqrt(WIDTH / HEADS)
            return (logits.softmax(dim=-1) @ heads(value)).transpose(1, 2).flatten(2)

        z = attention(layer.to_k(text), layer.to_v(text))
        z_image = attention(processor.pairs[0].to_k_ip(image), processor.pairs[0].to_v_ip(image))
        expected = layer.to_out[0](z + 0.7 * z_image)

        layer.set_processor(processor)
        prompt = ImagePrompt(rows=ALL, tokens=image, scale=0.7)
        result = layer(image_states, text, ip_hidden_states=(prompt,))
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-13)

    def test_image_branch_is_linear_in_the_scale(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        """Law 2, for negative and large λ too, given as numbers or per row."""
        layer.set_processor(processor)

        def at(scale: float | Tensor) -> Tensor:
            prompt = ImagePrompt(rows=ALL, tokens=tokens(1).double(), scale=scale)
            return layer(image_states, text, ip_hidden_states=(prompt,))

        base, step = at(0.0), at(1.0) - at(0.0)
        assert step.abs().max() > 0.01
        for scale in (-1.0, 0.3, 2.0):
            torch.testing.assert_close(at(scale), base + scale * step, rtol=0, atol=1e-13)
        sweep = torch.tensor([0.0, 0.5, 2.0]).view(BATCH, 1, 1)
        torch.testing.assert_close(at(sweep), base + sweep * step, rtol=0, atol=1e-13)

    def test_prompts_for_the_same_rows_add_up(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        layer.set_processor(processor)
        one, two = (
            ImagePrompt(rows=ALL, tokens=tokens(seed).double(), scale=scale)
            for seed, scale in ((1, 0.5), (2, 0.8))
        )

        def added(*prompts: ImagePrompt) -> Tensor:
            return layer(image_states, text, ip_hidden_states=prompts) - layer(image_states, text)

        torch.testing.assert_close(added(one, two), added(one) + added(two), rtol=0, atol=1e-13)

    def test_value_weights_weigh_inside_one_softmax(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        """Weight 1 changes nothing, the effect is linear in a weight, and weight 0 still takes
        its share of the softmax: it is not the same as leaving the reference out."""
        layer.set_processor(processor)
        both = torch.cat([tokens(1), tokens(2)], dim=1).double()

        def weighted(first: float, second: float) -> Tensor:
            weights = torch.tensor([first] * 4 + [second] * 4)
            prompt = ImagePrompt(rows=ALL, tokens=both, scale=1.0, token_weights=weights)
            return layer(image_states, text, ip_hidden_states=(prompt,))

        def plain(image: Tensor) -> Tensor:
            prompt = ImagePrompt(rows=ALL, tokens=image, scale=1.0)
            return layer(image_states, text, ip_hidden_states=(prompt,))

        torch.testing.assert_close(weighted(1, 1), plain(both), rtol=0, atol=1e-13)
        torch.testing.assert_close(
            weighted(1, 0) + weighted(0, 1) - weighted(0, 0), weighted(1, 1), rtol=0, atol=1e-13
        )
        assert (weighted(1, 0) - plain(both[:, :4])).abs().max() > 1e-3

    def test_inputs_are_left_alone(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        layer.set_processor(processor)
        prompt = ImagePrompt(
            rows=slice(1, 3),
            tokens=tokens(1).double(),
            scale=torch.ones(2, 1, 1),
            token_weights=torch.full((4,), 0.5),
            mask=torch.rand(1, 1, 8, 8),
        )
        given = [image_states, text, prompt.tokens, prompt.scale, prompt.token_weights, prompt.mask]
        before = [tensor.clone() for tensor in given]
        layer(image_states, text, ip_hidden_states=(prompt,))
        assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))

    def test_half_precision_stays_half_precision(
        self, layer: Attention, processor: DecoupledAttnProcessor
    ) -> None:
        layer.to(torch.bfloat16).set_processor(processor)
        processor.pairs[0].to_k_ip.to(torch.bfloat16)
        processor.pairs[0].to_v_ip.to(torch.bfloat16)
        prompt = ImagePrompt(
            rows=ALL,
            tokens=tokens(1).bfloat16(),
            scale=torch.ones(BATCH, 1, 1),
            token_weights=torch.ones(4),
            mask=torch.ones(1, 1, 8, 8),
        )
        states = noise(20, BATCH, QUERIES, WIDTH).bfloat16()
        text = noise(21, BATCH, TEXT_TOKENS, CROSS_DIM).bfloat16()
        assert layer(states, text, ip_hidden_states=(prompt,)).dtype == torch.bfloat16

    def test_scales_weights_and_masks_follow_the_layer_to_its_device(
        self, layer: Attention, processor: DecoupledAttnProcessor
    ) -> None:
        """The meta device stands in for a GPU: it too refuses to be mixed with the CPU."""
        layer.to("meta").set_processor(processor)
        processor.pairs[0].to_k_ip.to("meta")
        processor.pairs[0].to_v_ip.to("meta")
        prompt = ImagePrompt(
            rows=ALL,
            tokens=tokens(1).double().to("meta"),
            scale=torch.ones(BATCH, 1, 1),
            token_weights=torch.ones(4),
            mask=torch.ones(1, 1, 8, 8),
        )
        states = noise(20, BATCH, QUERIES, WIDTH).double().to("meta")
        text = noise(21, BATCH, TEXT_TOKENS, CROSS_DIM).double().to("meta")
        assert layer(states, text, ip_hidden_states=(prompt,)).is_meta


class TestSteps:
    """The tokens of a request are the same in all its steps, and so are K' and V'."""

    @pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 1.0, 2.0])])
    def test_drawing_projects_the_tokens_once_and_training_every_time(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
        weights: Tensor | None,
    ) -> None:
        calls: list[object] = []
        for projection in (processor.pairs[0].to_k_ip, processor.pairs[0].to_v_ip):
            projection.register_forward_hook(lambda called, *_: calls.append(called))
        layer.set_processor(processor)

        def call(prompt: ImagePrompt) -> Tensor:
            return layer(image_states, text, ip_hidden_states=(prompt,))

        prompt = ImagePrompt(
            rows=slice(1, 3), tokens=tokens(1).double(), scale=0.7, token_weights=weights
        )
        trained = [call(prompt), call(prompt)]
        assert len(calls) == 4
        with torch.no_grad():
            processor.fill_kv_cache(layer, prompt)
            drawn = [call(prompt) for _ in range(3)]
            assert len(calls) == 6
            other = dataclasses.replace(prompt, tokens=tokens(2).double())
            assert not torch.equal(call(other), drawn[0])
        assert all(torch.equal(one, trained[0]) for one in trained + drawn)


@pytest.mark.usefixtures("gradients")
class TestRows:
    """Trap 7: what one item of a batch is shown must not reach another."""

    def test_each_row_gets_its_own_reference(self) -> None:
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        own = [prompt_for(slice(row, row + 1), seed=row, scale=0.5 + row) for row in range(BATCH)]
        together = predict(unet, *own)
        for row, prompt in enumerate(own):
            assert torch.equal(together[row], predict(unet, prompt)[row])
        assert torch.equal(together, predict(unet, *reversed(own)))

    def test_changing_one_reference_changes_one_row(self) -> None:
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        rest = [prompt_for(slice(0, 1), seed=1), prompt_for(slice(2, 3), seed=2)]
        before = predict(unet, *rest, prompt_for(slice(1, 2), seed=3))
        after = predict(unet, *rest, prompt_for(slice(1, 2), seed=4))
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert (before[1] - after[1]).abs().max() > 1e-4

    def test_shared_tokens_equal_repeated_tokens(self) -> None:
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        shared = prompt_for(slice(0, 2))
        repeated = dataclasses.replace(shared, tokens=shared.tokens.repeat(2, 1, 1))
        torch.testing.assert_close(predict(unet, shared), predict(unet, repeated))

    def test_rows_outside_the_batch_are_a_mistake(self) -> None:
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        with pytest.raises(AssertionError, match="selects no row of a batch of 3"):
            predict(unet, prompt_for(slice(3, 4)))


@pytest.mark.usefixtures("gradients")
class TestAgainstDiffusers:
    """Law 4: attention equals `IPAdapterAttnProcessor2_0` on the same weights."""

    def compare(
        self,
        layer: Attention,
        oracle: IPAdapterAttnProcessor2_0,
        images: Tensor,
        prompts: list[ImagePrompt],
        masks: list[Tensor] | None = None,
    ) -> None:
        states = noise(20, BATCH, QUERIES, WIDTH).double()
        text = noise(21, BATCH, TEXT_TOKENS, CROSS_DIM).double()
        layer.set_processor(DecoupledAttnProcessor(pair_of(oracle)))
        bare = layer(states, text)
        ours = layer(states, text, ip_hidden_states=tuple(prompts))
        layer.set_processor(oracle)
        theirs = layer(states, (text, [images]), ip_adapter_masks=masks)
        assert (theirs - bare).abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("scale", [1.0, 0.6])
    def test_without_masks(
        self, layer: Attention, oracle: IPAdapterAttnProcessor2_0, count: int, scale: float
    ) -> None:
        """Several images share one softmax; every row has its own."""
        images = noise(30, BATCH, count, 4, CROSS_DIM).double()
        oracle.scale = [scale]
        prompt = ImagePrompt(rows=ALL, tokens=images.flatten(1, 2), scale=scale)
        self.compare(layer, oracle, images, [prompt])

    @pytest.mark.parametrize("size", [(64, 64), (32, 128), (8, 8), (100, 100)], ids=str)
    def test_with_masks(
        self, layer: Attention, oracle: IPAdapterAttnProcessor2_0, size: tuple[int, int]
    ) -> None:
        """With masks diffusers gives every image a softmax of its own: one prompt each here."""
        images = noise(30, BATCH, 2, 4, CROSS_DIM).double()
        masks = (noise(31, 1, 2, *size) > 0).float()  # as ragged as masks get
        scales = [0.5, 0.9]
        oracle.scale = [scales]
        prompts = [
            ImagePrompt(rows=ALL, tokens=images[:, i], scale=scales[i], mask=masks[:, i : i + 1])
            for i in range(2)
        ]
        self.compare(layer, oracle, images, prompts, [masks])

    def test_whole_unet(self) -> None:
        """Every layer got the right pair: the outputs of two UNets agree."""
        unet, rival = tiny_unet(), tiny_unet()
        adapter = tiny_adapter(unet)
        attach(unet, adapter)
        processors = rival.attn_processors
        pairs = iter(adapter.layers)
        for name in [name for name in processors if name.endswith("attn2.processor")]:
            pair = next(pairs)
            processors[name] = IPAdapterAttnProcessor2_0(pair.to_k_ip.out_features, CROSS_DIM, [4])
            processors[name].to_k_ip[0].weight = pair.to_k_ip.weight
            processors[name].to_v_ip[0].weight = pair.to_v_ip.weight
            processors[name].scale = [0.8]
        rival.set_attn_processor(processors)
        # the second entry of the tuple is what diffusers' UNet makes of `image_embeds`
        rival.encoder_hid_proj = lambda embeds: embeds
        rival.config.encoder_hid_dim_type = "ip_image_proj"
        images = noise(30, BATCH, 1, 4, CROSS_DIM)
        theirs = rival(
            noise(10, BATCH, 4, 8, 8),
            7,
            encoder_hidden_states=noise(11, BATCH, TEXT_TOKENS, CROSS_DIM),
            added_cond_kwargs={"image_embeds": [images]},
        ).sample
        ours = predict(unet, ImagePrompt(rows=ALL, tokens=images[:, 0], scale=0.8))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("gradients")
class TestMask:
    def test_a_mask_confines_the_branch(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        layer.set_processor(processor)
        left = torch.zeros(1, 1, 64, 64)
        left[..., :32] = 1.0

        def grid(mask: Tensor | None) -> Tensor:
            prompt = ImagePrompt(rows=ALL, tokens=tokens(1).double(), scale=1.0, mask=mask)
            result = layer(image_states, text, ip_hidden_states=(prompt,))
            return result.unflatten(1, (8, 8))

        bare = layer(image_states, text).unflatten(1, (8, 8))
        masked, full = grid(left), grid(None)
        torch.testing.assert_close(masked[:, :, :4], full[:, :, :4], rtol=0, atol=1e-12)
        assert torch.equal(masked[:, :, 4:], bare[:, :, 4:])
        assert (full - bare).abs().amin(dim=-1).max() > 0

    def test_a_mask_per_row(
        self,
        layer: Attention,
        processor: DecoupledAttnProcessor,
        image_states: Tensor,
        text: Tensor,
    ) -> None:
        layer.set_processor(processor)
        masks = torch.stack([torch.zeros(1, 64, 64), torch.ones(1, 64, 64)])
        prompt = ImagePrompt(rows=slice(0, 2), tokens=tokens(1).double(), scale=1.0, mask=masks)
        difference = layer(image_states, text, ip_hidden_states=(prompt,))
        difference = (difference - layer(image_states, text)).abs().amax(dim=(1, 2))
        assert difference[0] == 0
        assert difference[1] > 0.01
        assert difference[2] == 0

    @pytest.mark.parametrize("height", [64, 128, 512, 768])
    @pytest.mark.parametrize("width", [64, 128, 512, 1024])
    def test_grid_agrees_with_diffusers_on_even_sizes(self, height: int, width: int) -> None:
        mask = torch.ones(1, height, width)
        for factor in (8, 16, 32):
            rows, columns = height // factor, width // factor
            assert query_grid(height, width, rows * columns) == (rows, columns)
            theirs = IPAdapterMaskProcessor.downsample(mask, 1, rows * columns, 1)
            assert theirs.shape == (1, rows * columns, 1)

    def test_grid_of_odd_sides(self) -> None:
        """72 x 64 pixels: latents 9 x 8, then 5 x 4, then 3 x 2, as convolutions of stride 2."""
        assert [query_grid(72, 64, n) for n in (72, 20, 6)] == [(9, 8), (5, 4), (3, 2)]
        assert query_grid(64, 72, 20) == (4, 5)

    def test_a_mask_of_other_proportions_is_a_mistake(self) -> None:
        with pytest.raises(AssertionError, match="a 100x60 mask does not fit 64 queries"):
            query_grid(60, 100, 64)


class TestAttaching:
    def test_only_cross_attention_is_replaced_and_restored(self) -> None:
        unet = tiny_unet()
        before = dict(unet.attn_processors)
        adapter = tiny_adapter(unet)
        with attached(unet, adapter):
            assert is_attached(unet, adapter)
            for index, (name, processor) in enumerate(unet.attn_processors.items()):
                assert isinstance(processor, DecoupledAttnProcessor) == bool(index % 2), name
        assert dict(unet.attn_processors) == before
        assert not is_attached(unet, adapter)

    def test_processors_are_restored_after_an_error(self) -> None:
        unet = tiny_unet()
        before = dict(unet.attn_processors)
        with pytest.raises(KeyError), attached(unet, tiny_adapter(unet)):
            raise KeyError
        assert dict(unet.attn_processors) == before

    def test_a_replaced_processor_is_noticed(self) -> None:
        """Trap 10: an attention back-end set afterwards would drop image prompts silently."""
        unet = tiny_unet()
        adapter = tiny_adapter(unet)
        attach(unet, adapter)
        assert is_attached(unet, adapter)
        assert not is_attached(unet, tiny_adapter(unet))
        unet.set_attention_slice("auto")
        assert not is_attached(unet, adapter)

    def test_layers_follow_the_processors_order(self) -> None:
        """Down, up, mid: each layer must get the pair of its own number."""
        unet = tiny_unet()
        adapter = tiny_adapter(unet)
        attach(unet, adapter)
        order = [name.split(".")[0] for name in list(unet.attn_processors)[1::2]]
        assert order == ["down_blocks"] * 2 + ["up_blocks"] * 4 + ["mid_block"]
        for processor, pair in zip(
            list(unet.attn_processors.values())[1::2], adapter.layers, strict=True
        ):
            assert processor.pairs == (pair,)

    def test_a_factor_for_each_layer(self) -> None:
        """Factors multiply λ; a factor of 0 is the bare layer, and order is that of the layers."""
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        prompt = prompt_for(ALL)
        half = dataclasses.replace(prompt, layer_scales=(0.5,) * 7)
        halved = dataclasses.replace(prompt, scale=0.5)
        assert torch.equal(predict(unet, half), predict(unet, halved))
        assert torch.equal(
            predict(unet, dataclasses.replace(prompt, layer_scales=(0.0,) * 7)), predict(unet)
        )
        spoken: list[tuple[str, Tensor]] = []
        for name, attn in cross_attention_layers(unet).items():
            attn.to_out[0].register_forward_pre_hook(
                lambda _, args, name=name: spoken.append((name, args[0]))
            )
        predict(unet)
        bare = list(spoken)
        for number, name in enumerate(cross_attention_layers(unet)):
            spoken.clear()
            only = tuple(float(i == number) for i in range(7))
            predict(unet, dataclasses.replace(prompt, layer_scales=only))
            changed = [
                a for (a, x), (_, y) in zip(bare, spoken, strict=True) if not torch.equal(x, y)
            ]
            assert changed[0] == name

    def test_each_of_several_adapters_reads_its_own_prompts(self) -> None:
        unet = tiny_unet()
        first, second = tiny_adapter(unet), tiny_adapter(unet, "plus", seed=2)
        prompt = prompt_for(ALL)
        alone = []
        for adapter in (first, second):
            with attached(unet, adapter):
                alone.append(predict(unet, prompt))
        attach(unet, first, second)
        assert is_attached(unet, first, second)
        assert not is_attached(unet, second, first)
        assert not is_attached(unet, first)
        assert torch.equal(predict(unet, prompt), alone[0])
        assert torch.equal(predict(unet, dataclasses.replace(prompt, adapter_index=1)), alone[1])
        assert not torch.equal(alone[0], alone[1])

    def test_the_base_model_is_left_alone(self) -> None:
        """Law 9: its weights are neither changed nor joined, whoever attaches or trains."""
        unet = tiny_unet()
        before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
        names = {name for name, _ in unet.named_parameters()}
        adapter = ImageAdapter.for_unet(unet, LinearProjection(EMBED_DIM, CROSS_DIM))
        with attached(unet, adapter):
            optimizer = torch.optim.SGD(adapter.parameters(), lr=1.0)
            image_tokens = adapter.tokens_from_embeds(noise(1, BATCH, EMBED_DIM))
            prompt = ImagePrompt(rows=ALL, tokens=image_tokens, scale=1.0)
            predict(unet, prompt).square().mean().backward()
            gradients = {name: p.grad for name, p in adapter.named_parameters()}
            assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
            assert all(parameter.grad is None for parameter in unet.parameters())
            optimizer.step()
            assert {name for name, _ in unet.named_parameters()} == names
            after = unet.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before)

    def test_gradients_reach_the_image_tokens_of_some_rows_only(self) -> None:
        """Rows are written without touching what autograd has saved."""
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        image_tokens = tokens(1, rows=2).requires_grad_()
        prompt = ImagePrompt(rows=slice(0, 2), tokens=image_tokens, scale=1.0)
        predict(unet, prompt)[:1].square().sum().backward()
        assert image_tokens.grad is not None
        assert image_tokens.grad[0].abs().max() > 0
        assert image_tokens.grad[1].abs().max() == 0

    def test_another_number_of_layers_is_refused(self) -> None:
        larger = tiny_unet(layers_per_block=2)
        with pytest.raises(ModelError, match="adapter has 11 cross-attention layers, the UNet 7"):
            attach(tiny_unet(), tiny_adapter(larger))

    def test_other_layer_widths_are_refused(self) -> None:
        unet = tiny_unet()
        wider = tiny_unet(block_out_channels=(16, 64))
        expected = r"layer 3 of the adapter maps 24 to 64 channels, .*down_blocks\.1.* 24 to 32"
        with pytest.raises(ModelError, match=expected):
            attach(unet, tiny_adapter(wider))
        assert not any(isinstance(p, DecoupledAttnProcessor) for p in unet.attn_processors.values())

    def test_another_token_width_is_refused(self) -> None:
        wider = tiny_unet(cross_attention_dim=40)
        with pytest.raises(ModelError, match=r"layer 1 of the adapter maps 40 .*maps 24 to 16"):
            attach(tiny_unet(), tiny_adapter(wider))

    def test_a_unet_without_cross_attention_is_refused(self) -> None:
        plain = tiny_unet(
            down_block_types=("DownBlock2D", "DownBlock2D"),
            mid_block_type=None,
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
        with pytest.raises(ModelError, match="no cross-attention layer"):
            attach(plain, tiny_adapter(tiny_unet()))

    def test_what_does_not_fit_is_said_in_full(self) -> None:
        unet = tiny_unet()
        wider = tiny_adapter(tiny_unet(block_out_channels=(16, 64)))
        assert layer_mismatch(unet, tiny_adapter(unet)) is None
        assert layer_mismatch(unet, wider) == (
            "layer 3 of the adapter maps 24 to 64 channels, the UNet's down_blocks.1.attentions.0."
            "transformer_blocks.0.attn2 maps 24 to 32"
        )
        with pytest.raises(ModelError) as refusal:
            attach(unet, tiny_adapter(unet), wider)
        assert str(refusal.value) == (
            f"this image adapter does not fit this UNet: {layer_mismatch(unet, wider)}"
        )
        plain = tiny_unet(
            down_block_types=("DownBlock2D",) * 2,
            mid_block_type=None,
            up_block_types=("UpBlock2D",) * 2,
        )
        with pytest.raises(ModelError) as refusal:
            cross_attention_layers(plain)
        assert str(refusal.value) == (
            "UNet2DConditionModel has no cross-attention layer to attach to"
        )

    def test_attached_are_just_the_adapters_that_are_asked_for(self) -> None:
        unet = tiny_unet()
        one, other = tiny_adapter(unet), tiny_adapter(unet, seed=2)
        longer = tiny_adapter(tiny_unet(layers_per_block=2))
        assert not is_attached(unet, one)
        with attached(unet, one, other):
            assert is_attached(unet, one, other)
            for adapters in ((one,), (other, one), (one, other, one), (), (longer,)):
                assert not is_attached(unet, *adapters)
            layers = list(cross_attention_layers(unet).values())
            assert [attn.processor.number for attn in layers] == list(range(7))
            layers[-1].set_processor(DecoupledAttnProcessor(one.layers[0], other.layers[0]))
            assert not is_attached(unet, one, other)
        assert not is_attached(unet)

    def test_no_warning_for_self_attention(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """diffusers warns of arguments that a processor does not take, except for a few names."""
        monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
        unet = tiny_unet()
        attach(unet, tiny_adapter(unet))
        predict(unet, prompt_for(ALL))
        assert not caplog.records


@pytest.mark.parametrize(
    ("height", "width", "queries", "grid"),
    [
        (64, 64, 64, (8, 8)),
        (40, 32, 20, (5, 4)),
        (64, 96, 96, (8, 12)),
        (8, 512, 20, (1, 20)),  # too thin for a row, which it has all the same
        (50, 100, 20, (4, 5)),  # of a size of its own: its proportions must do
    ],
)
def test_how_queries_are_laid_out(
    height: int, width: int, queries: int, grid: tuple[int, int]
) -> None:
    assert query_grid(height, width, queries) == grid


def test_the_cache_is_filled_where_a_layer_acts(
    layer: Attention, processor: DecoupledAttnProcessor
) -> None:
    for number, scales, cached in ((0, (0.0, 1.0), set()), (1, (0.0, 1.0), {1}), (1, None, {1})):
        processor.number = number
        prompt = ImagePrompt(rows=ALL, tokens=tokens(1).double(), scale=0.5, layer_scales=scales)
        processor.fill_kv_cache(layer, prompt)
        assert prompt.kv_cache.keys() == cached
        assert prompt.scale_in(number) == (0.5 if scales is None else 0.5 * scales[number])
    rows = ImagePrompt(rows=ALL, tokens=tokens(1).double(), scale=torch.zeros(1, 1, 1))
    processor.fill_kv_cache(layer, rows)
    assert rows.kv_cache.keys() == {1}, "a tensor is not looked into"


def test_tokens_that_join_the_text_wait_for_weights_that_rest_elsewhere(layer: Attention) -> None:
    """As `--offload` has them between two calls of the UNet, whose own K and V they take."""
    for device, cached in (("cpu", {0}), ("meta", set())):
        processor = DecoupledAttnProcessor(None)
        prompt = ImagePrompt(rows=ALL, tokens=tokens(1).double(), scale=1.0, joins_text=True)
        processor.fill_kv_cache(layer.to(device), prompt)
        assert prompt.kv_cache.keys() == cached
