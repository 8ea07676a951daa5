"""Checkpoints: what is written loads here and in diffusers, and what is wrong is named."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ipadapter_demo.adapter import (
    ImageAdapter,
    ImagePrompt,
    LinearProjection,
    MLPProjection,
    Projection,
    Resampler,
    attached,
    check_fits,
    encoder_needed,
    load_image_adapter,
    save_image_adapter,
)
from ipadapter_demo.adapter.checkpoint import adapter_like
from ipadapter_demo.errors import CheckpointError
from tests.tiny import (
    CROSS_DIM,
    EMBED_DIM,
    TEXT_TOKENS,
    VISION_WIDTH,
    noise,
    tiny_adapter,
    tiny_pipeline,
    tiny_unet,
    tiny_vision_encoder,
)

SUFFIXES = (".safetensors", ".bin")
VARIANTS = ("base", "plus", "full")
Tensors = dict[str, Tensor]


def flat_tensors(variant: str = "base") -> Tensors:
    """A valid checkpoint of the tiny UNet's shapes, in the flat layout."""
    image_proj = {
        "base": {
            "proj.weight": noise(1, 4 * CROSS_DIM, EMBED_DIM),
            "proj.bias": noise(2, 4 * CROSS_DIM),
            "norm.weight": noise(3, CROSS_DIM),
            "norm.bias": noise(4, CROSS_DIM),
        },
        "plus": Resampler(VISION_WIDTH, CROSS_DIM, 5, width=64, depth=2, heads=2).state_dict(),
        "full": {
            "proj.0.weight": noise(1, VISION_WIDTH, VISION_WIDTH),
            "proj.0.bias": noise(2, VISION_WIDTH),
            "proj.2.weight": noise(3, CROSS_DIM, VISION_WIDTH),
            "proj.2.bias": noise(4, CROSS_DIM),
            "proj.3.weight": noise(5, CROSS_DIM),
            "proj.3.bias": noise(6, CROSS_DIM),
        },
    }[variant]
    tensors = {f"image_proj.{key}": tensor for key, tensor in image_proj.items()}
    for index, width in enumerate((16, 32, 32, 32, 16, 16, 32)):
        for name in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{2 * index + 1}.{name}.weight"
            tensors[key] = noise(index, width, CROSS_DIM)
    return tensors


def write(path: Path, tensors: Tensors) -> Path:
    """In the layout of the suffix, without this project's own writer."""
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        nested: dict[str, Tensors] = {}
        for key, tensor in tensors.items():
            section, rest = key.split(".", 1)
            nested.setdefault(section, {})[rest] = tensor
        torch.save(nested, path)
    return path


def predict(unet: UNet2DConditionModel, **kwargs: object) -> Tensor:
    return unet(
        noise(10, 2, 4, 8, 8), 7, encoder_hidden_states=noise(11, 2, TEXT_TOKENS, CROSS_DIM),
        **kwargs,
    ).sample  # fmt: skip


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_published_layouts_load(self, tmp_path: Path, variant: str, suffix: str) -> None:
        tensors = flat_tensors(variant)
        adapter = load_image_adapter(write(tmp_path / f"adapter{suffix}", tensors))
        assert adapter.variant == {"base": "linear"}.get(variant, variant)
        assert adapter.layer_widths == (16, 32, 32, 32, 16, 16, 32)
        assert adapter.encoder_width == (EMBED_DIM if variant == "base" else VISION_WIDTH)
        assert adapter.num_tokens == {"base": 4, "plus": 5, "full": None}[variant]
        for index in range(7):
            pair = adapter.layers[index]
            key = f"ip_adapter.{2 * index + 1}"
            assert torch.equal(pair.to_k_ip.weight, tensors[f"{key}.to_k_ip.weight"])
            assert torch.equal(pair.to_v_ip.weight, tensors[f"{key}.to_v_ip.weight"])
        for key, tensor in adapter.projection.state_dict().items():
            assert torch.equal(tensor, tensors[f"image_proj.{key}"])

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_written_files_load_here(self, tmp_path: Path, variant: str, suffix: str) -> None:
        """Also with sizes that common loaders hard-code: 3 tokens, depth 3."""
        unet = tiny_unet()
        adapter = tiny_adapter(unet, variant, depth=3)
        if variant == "base":
            projection = LinearProjection(EMBED_DIM, CROSS_DIM, tokens=3)
            adapter = ImageAdapter.for_unet(unet, projection)
        path = tmp_path / "new folder" / f"adapter{suffix}"
        save_image_adapter(adapter, path)
        loaded = load_image_adapter(str(path))
        assert loaded.num_tokens == adapter.num_tokens
        expected = adapter.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(t, expected[k]) for k, t in loaded.state_dict().items())
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        embeds = noise(1, 2, EMBED_DIM) if variant == "base" else noise(1, 2, 5, VISION_WIDTH)
        assert torch.equal(loaded.tokens_from_embeds(embeds), adapter.tokens_from_embeds(embeds))

    def test_the_written_files_have_the_published_keys(self, tmp_path: Path) -> None:
        adapter = tiny_adapter(tiny_unet())
        for suffix in SUFFIXES:
            save_image_adapter(adapter, tmp_path / f"adapter{suffix}")
        flat = load_file(tmp_path / "adapter.safetensors")
        assert flat.keys() == flat_tensors().keys()
        nested = torch.load(tmp_path / "adapter.bin", weights_only=True)
        assert nested.keys() == {"image_proj", "ip_adapter"}
        assert {f"{s}.{k}" for s, content in nested.items() for k in content} == flat.keys()

    def test_of_what_is_missing_and_of_what_is_too_much_the_first_three_are_named(self) -> None:
        tensors, own = flat_tensors(), Path("some/a.bin")
        for key in ("proj.bias", "norm.bias"):
            del tensors[f"image_proj.{key}"]
        for number in (1, 3):
            del tensors[f"ip_adapter.{number}.to_v_ip.weight"]
        tensors |= {f"ip_adapter.1.{letter}": torch.ones(1) for letter in "abcd"}
        with pytest.raises(CheckpointError) as refusal:
            adapter_like(tensors, own)
        assert str(refusal.value) == (
            "a.bin: missing ['image_proj.proj.bias', 'image_proj.norm.bias', "
            "'ip_adapter.1.to_v_ip.weight'], unexpected ['ip_adapter.1.a', 'ip_adapter.1.b', "
            "'ip_adapter.1.c']"
        )

    def test_a_safetensors_file_says_that_it_is_of_torch(self, tmp_path: Path) -> None:
        """Without it transformers refuses a file."""
        save_image_adapter(tiny_adapter(tiny_unet()), tmp_path / "adapter.safetensors")
        with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_half_precision_is_kept(self, tmp_path: Path, suffix: str) -> None:
        adapter = tiny_adapter(tiny_unet())
        save_image_adapter(adapter, tmp_path / f"adapter{suffix}", dtype=torch.float16)
        loaded = load_image_adapter(tmp_path / f"adapter{suffix}")
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}
        assert next(adapter.parameters()).dtype == torch.float32

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_written_files_load_in_diffusers(
        self, tmp_path: Path, variant: str, suffix: str
    ) -> None:
        """Law 8: `load_ip_adapter` gives the same tokens, for a picture and for none, and the
        same noise prediction."""
        unet, encoder = tiny_unet(), tiny_vision_encoder()
        adapter = tiny_adapter(unet, variant)
        save_image_adapter(adapter, tmp_path / f"adapter{suffix}")

        pipeline = tiny_pipeline(tiny_unet())
        pipeline.load_ip_adapter(
            str(tmp_path), subfolder="", weight_name=f"adapter{suffix}", image_encoder_folder=None
        )
        pipeline.set_ip_adapter_scale(0.8)
        clip_pixels = noise(1, 1, 3, 16, 16)
        hidden = None if variant == "base" else True
        embeds = pipeline.encode_image(clip_pixels, "cpu", 1, output_hidden_states=hidden)
        embeds = torch.cat(embeds[::-1])  # none, then the picture

        tokens = torch.cat(
            [
                adapter.tokens_from_embeds(adapter.empty_embeds(1, encoder)),
                adapter.tokens_from_embeds(adapter.embeds_from_clip_pixels(clip_pixels, encoder)),
            ]
        )
        (project,) = pipeline.unet.encoder_hid_proj.image_projection_layers
        torch.testing.assert_close(tokens, project(embeds), rtol=0, atol=1e-5)

        theirs = predict(pipeline.unet, added_cond_kwargs={"image_embeds": [embeds[:, None]]})
        bare = predict(unet)
        with attached(unet, adapter):
            prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=0.8)
            ours = predict(unet, cross_attention_kwargs={"ip_hidden_states": (prompt,)})
        assert (ours - bare).abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


class TestWriting:
    def test_a_failed_write_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "adapter.bin"
        path.write_bytes(b"the old file")

        def fail(_: object, target: Path) -> None:
            Path(target).write_bytes(b"half a fi")
            raise OSError("disk full")

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            save_image_adapter(tiny_adapter(tiny_unet()), path)
        assert path.read_bytes() == b"the old file"
        assert os.listdir(tmp_path) == ["adapter.bin"]

    def test_a_write_replaces_the_old_file_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "adapter.safetensors"
        path.write_bytes(b"the old file")
        save_image_adapter(tiny_adapter(tiny_unet()), path)
        assert load_image_adapter(path).num_tokens == 4
        assert os.listdir(tmp_path) == ["adapter.safetensors"]
        (tmp_path / "plain").touch()
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert len(modes) == 1, "others may read a checkpoint as they may any new file"

    def test_a_head_size_that_the_layout_cannot_tell_is_refused(self, tmp_path: Path) -> None:
        projection = Resampler(VISION_WIDTH, CROSS_DIM, 5, width=64, heads=4, head_dim=32)
        adapter = ImageAdapter.for_unet(tiny_unet(), projection)
        with pytest.raises(CheckpointError, match=r"adapter\.bin: .* take 64, .* has 32"):
            save_image_adapter(adapter, tmp_path / "adapter.bin")
        assert not os.listdir(tmp_path)

    def test_another_suffix_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"adapter\.pt: .* \.safetensors or \.bin"):
            save_image_adapter(tiny_adapter(tiny_unet()), tmp_path / "adapter.pt")


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("should never exist",)


class TestUnreadableFiles:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"gone\.bin: no such file in .*"):
            load_image_adapter(tmp_path / "gone.bin")

    def test_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder.bin").mkdir()
        expected = r"folder\.bin: this folder holds no ip_adapter.safetensors or ip_adapter.bin"
        with pytest.raises(CheckpointError, match=expected):
            load_image_adapter(tmp_path / "folder.bin")

    def test_other_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "adapter.ckpt").touch()
        expected = r"adapter\.ckpt: .* end in \.safetensors, \.bin, \.pth"
        with pytest.raises(CheckpointError, match=expected):
            load_image_adapter(tmp_path / "adapter.ckpt")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("size", [0, 5, 2000, -1])
    def test_cut_short(self, tmp_path: Path, suffix: str, size: int) -> None:
        path = write(tmp_path / f"adapter{suffix}", flat_tensors())
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(CheckpointError, match=rf"adapter\{suffix}: .*, or cut short"):
            load_image_adapter(path)

    def test_a_bin_renamed_to_safetensors(self, tmp_path: Path) -> None:
        path = write(tmp_path / "adapter.bin", flat_tensors())
        path = path.rename(tmp_path / "adapter.safetensors")
        with pytest.raises(CheckpointError, match=r"adapter\.safetensors: not a safetensors file"):
            load_image_adapter(path)

    @pytest.mark.parametrize("suffix", [".bin", ".pth"])
    @pytest.mark.parametrize("key", ["image_proj", "unet"])  # in what is read, and beside it
    @pytest.mark.parametrize("dump", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x, 2))])
    def test_code_in_a_pickle_is_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        dump: Callable[[object, Path], None], key: str, suffix: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        path = tmp_path / f"adapter{suffix}"
        dump({key: {"proj.weight": Malicious()}}, path)
        with pytest.raises(CheckpointError, match=rf"adapter\{suffix}: holds code .* refused"):
            load_image_adapter(path)
        assert os.listdir(tmp_path) == [path.name]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "holds a list, not a dictionary"),
            ({"image_proj": {"latents": 3}}, "image_proj.latents is a int, not a tensor"),
            ({"image_proj": 3}, "image_proj is a int, not a tensor"),
        ],
    )
    def test_a_pickle_of_something_else(
        self, tmp_path: Path, content: object, message: str
    ) -> None:
        torch.save(content, tmp_path / "adapter.bin")
        with pytest.raises(CheckpointError, match=f"adapter.bin: {message}"):
            load_image_adapter(tmp_path / "adapter.bin")


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestWrongContents:
    """Each case spoils one thing in an otherwise valid checkpoint, in either layout."""

    def refuse(self, path: Path, tensors: Tensors, message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as failure:
            load_image_adapter(write(path, tensors))
        assert str(failure.value).startswith(f"{path.name}: ")

    @pytest.fixture
    def path(self, tmp_path: Path, suffix: str) -> Path:
        return tmp_path / f"adapter{suffix}"

    @pytest.mark.parametrize("section", ["image_proj", "ip_adapter"])
    def test_a_section_is_lacking(self, path: Path, section: str) -> None:
        rest = {k: t for k, t in flat_tensors().items() if not k.startswith(section)}
        self.refuse(path, rest, f"lacks the section '{section}'")

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_any_missing_tensor_is_named(self, path: Path, variant: str) -> None:
        for key in flat_tensors(variant):
            tensors = flat_tensors(variant)
            del tensors[key]
            if key in (
                "image_proj.proj.weight", "image_proj.latents", "image_proj.proj.3.weight"
            ):  # fmt: skip
                self.refuse(path, tensors, "neither a base, a Plus.* adapter; image_proj")
            else:
                self.refuse(path, tensors, rf"missing \['{key}'\], unexpected \[\]")

    @pytest.mark.parametrize(
        "key",
        ["image_proj.proj.extra", "ip_adapter.1.to_k_ip.bias", "ip_adapter.1.to_q.weight"],
    )
    def test_unexpected_tensor(self, path: Path, key: str) -> None:
        tensors = {**flat_tensors(), key: torch.ones(2)}
        self.refuse(path, tensors, rf"missing \[\], unexpected \['{key}'\]")

    def test_an_unknown_projection(self, path: Path) -> None:
        tensors = flat_tensors()
        for key in [key for key in tensors if key.startswith("image_proj.")]:
            del tensors[key]
        tensors["image_proj.mapping.0.weight"] = torch.ones(2, 2)
        self.refuse(path, tensors, r"neither .* image_proj holds \['mapping.0.weight'\]")

    @pytest.mark.parametrize(
        ("renumber", "found"),
        [
            (lambda n: (n - 1) // 2, r"\[0, 1, 2, 3, 4, 5, 6\]"),
            (lambda n: n - 1, r"\[0, 2, 4, 6, 8, 10, 12\]"),
            (lambda n: n if n < 13 else 15, r"\[1, 3, 5, 7, 9, 11, 15\]"),
        ],
        ids=["consecutive", "even", "gap"],
    )
    def test_wrong_layer_numbers(
        self, path: Path, renumber: Callable[[int], int], found: str
    ) -> None:
        tensors = {}
        for key, tensor in flat_tensors().items():
            section, number, *rest = key.split(".")
            if section == "ip_adapter":
                key = ".".join([section, str(renumber(int(number))), *rest])
            tensors[key] = tensor
        self.refuse(path, tensors, rf"numbered 1, 3, 5, \.\.\. .*, got {found}")

    @pytest.mark.parametrize(
        ("key", "shape", "message"),
        [
            ("image_proj.norm.weight", (7,), "96 rows, which is no multiple of .* 7"),
            ("image_proj.norm.bias", (7,), r"norm.bias has shape \(7,\), .* must be \(24,\)"),
            ("image_proj.proj.bias", (95,), r"has shape \(95,\), .* must be \(96,\)"),
            ("image_proj.proj.weight", (96,), r"has shape \(96,\), not 2 dimensions"),
            ("image_proj.norm.weight", (0,), r"has shape \(0,\), not 1 dimensions"),
            ("ip_adapter.3.to_k_ip.weight", (32, 23), r"\(32, 23\), .* must be \(32, 24\)"),
            ("ip_adapter.3.to_v_ip.weight", (31, 24), r"\(31, 24\), .* must be \(32, 24\)"),
            ("ip_adapter.3.to_k_ip.weight", (32,), r"has shape \(32,\), not 2 dimensions"),
        ],
    )
    def test_shapes_that_disagree(
        self, path: Path, key: str, shape: tuple[int, ...], message: str
    ) -> None:
        self.refuse(path, {**flat_tensors(), key: torch.ones(shape)}, message)

    @pytest.mark.parametrize(
        ("key", "shape", "message"),
        [
            ("layers.0.0.to_q.weight", (100, 64), "attention 100 .* multiples of the head size 64"),
            ("layers.0.1.1.weight", (100, 64), "feed-forward 100 wide"),
            ("layers.1.0.to_kv.weight", (128, 64), r"\(128, 64\), .* must be \(256, 64\)"),
            ("latents", (5, 64), "not 3 dimensions"),
            ("norm_out.weight", (7,), r"has shape \(7,\), .* must be \(24,\)"),
        ],
    )
    def test_plus_shapes_that_disagree(
        self, path: Path, key: str, shape: tuple[int, ...], message: str
    ) -> None:
        key = f"image_proj.{key}"
        self.refuse(path, {**flat_tensors("plus"), key: torch.ones(shape)}, message)

    def test_a_gap_in_the_depth(self, path: Path) -> None:
        tensors = {
            key.replace("image_proj.layers.1.", "image_proj.layers.2."): tensor
            for key, tensor in flat_tensors("plus").items()
        }
        self.refuse(path, tensors, r"missing \['image_proj.layers.1.* unexpected \[.*layers.2")

    def test_whole_numbers(self, path: Path) -> None:
        key = "image_proj.norm.bias"
        tensors = {**flat_tensors(), key: torch.ones(CROSS_DIM, dtype=torch.int64)}
        self.refuse(path, tensors, f"{key} holds torch.int64, not floats")


class TestFit:
    def test_a_fitting_adapter_passes(self) -> None:
        unet, encoder = tiny_unet(), tiny_vision_encoder()
        for variant in VARIANTS:
            adapter = tiny_adapter(unet, variant)
            check_fits(adapter, unet, adapter.width_read_from(encoder), "adapter.bin")

    def test_another_encoder_is_named(self) -> None:
        unet = tiny_unet()
        expected = r"^tiny\.bin does .* reads 20 channels, .* gives 1024; it needs an encoder of"
        with pytest.raises(CheckpointError, match=expected):
            check_fits(tiny_adapter(unet), unet, 1024, "some/folder/tiny.bin")

    def test_another_base_is_named_with_the_encoder(self) -> None:
        with torch.device("meta"):
            adapter = ImageAdapter(LinearProjection(1024, 768), [320] * 16)
        expected = r"has 16 .* the UNet 7; it was made for SD 1\.5 and needs OpenCLIP ViT-H/14"
        with pytest.raises(CheckpointError, match=expected):
            check_fits(adapter, tiny_unet(), 1024, "ip-adapter_sd15.bin")

    def test_what_does_not_fit_is_said_in_full(self) -> None:
        unet = tiny_unet()
        with torch.device("meta"):
            adapters = [
                ImageAdapter(LinearProjection(1024, cross), [320] * layers)
                for cross, layers in ((768, 16), (2048, 70), (768, 70))
            ]
        for adapter, base in zip(adapters, ("SD 1.5", "SDXL", "another base model"), strict=True):
            with pytest.raises(CheckpointError) as refusal:
                check_fits(adapter, unet, 1024, "some/folder/a.bin")
            assert str(refusal.value) == (
                f"a.bin does not fit this base model: the adapter has {len(adapter.layers)} "
                f"cross-attention layers, the UNet 7; it was made for {base} and needs OpenCLIP "
                "ViT-H/14 (projected embeddings, 1024 wide)"
            )
        with pytest.raises(CheckpointError) as refusal:
            check_fits(tiny_adapter(unet), unet, 1024, Path("a.bin"))
        assert str(refusal.value) == (
            "a.bin does not fit this image encoder: it reads 20 channels, the encoder gives 1024; "
            "it needs an encoder of width 20"
        )
        with pytest.raises(CheckpointError) as refusal:
            save_image_adapter(tiny_adapter(unet), "some/folder/a.pt")
        assert str(refusal.value) == "a.pt: the name must end in .safetensors or .bin"

    def test_other_token_and_layer_widths_are_named(self) -> None:
        unet = tiny_unet()
        wider_text = tiny_adapter(tiny_unet(cross_attention_dim=40))
        with pytest.raises(CheckpointError, match=r"layer 1 .* maps 40 to 16 .* maps 24 to 16"):
            check_fits(wider_text, unet, EMBED_DIM, "adapter.bin")
        wider = tiny_adapter(tiny_unet(block_out_channels=(16, 64)))
        with pytest.raises(CheckpointError, match=r"layer 3 .* maps 24 to 64 .* maps 24 to 32"):
            check_fits(wider, unet, EMBED_DIM, "adapter.bin")

    @pytest.mark.parametrize(
        ("projection", "encoder"),
        [
            (lambda: LinearProjection(1024, 8), "ViT-H/14 (projected"),
            (lambda: LinearProjection(1280, 8), "ViT-bigG/14 (projected"),
            (lambda: Resampler(1280, 8), "ViT-H/14 (penultimate hidden states"),
            (lambda: MLPProjection(1280, 8), "ViT-H/14 (penultimate hidden states"),
            (lambda: LinearProjection(192, 8), "an encoder of width 192"),
            (lambda: Resampler(1024, 8), "an encoder of width 1024"),
        ],
    )
    def test_the_encoder_that_is_needed(
        self, projection: Callable[[], Projection], encoder: str
    ) -> None:
        with torch.device("meta"):
            adapter = ImageAdapter(projection(), [8])
        assert encoder in encoder_needed(adapter)
