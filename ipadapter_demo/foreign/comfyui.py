"""ComfyUI's graph of nodes, from the picture back to the sampler that began it: `{"3":
{"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0], ...}}, ...}`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ipadapter_demo.errors import RequestError
from ipadapter_demo.foreign.json_text import object_from_text
from ipadapter_demo.foreign.names import WEIGHT_TYPES, stem
from ipadapter_demo.foreign.settings import Collector, ForeignSettings
from ipadapter_demo.foreign.weights import weights_of_comfyui

MAX_NODES = 5_000
MAX_WALKED = 200_000  # links, in all walks through a graph together
# Nodes that only pass on what is taken from others, or what every program does.
SILENT = (
    *("VAEDecode", "SaveImage", "PreviewImage", "CLIPTextEncode", "Empty", "CLIPVisionLoader"),
    *("KSampler", "LoadImage", "CheckpointLoader", "LoraLoader", "Reroute", "Primitive"),
    *("SamplerCustom", "BasicScheduler", "RandomNoise", "CFGGuider"),
    *("IPAdapterModelLoader", "IPAdapterUnifiedLoader", "IPAdapterInsightFaceLoader"),
)
HALVES = {"positive": "prompt", "negative": "negative_prompt"}
# Inputs of an adapter that are no field here, with the default of ComfyUI_IPAdapter_plus.
CHOICES = {
    "combine_embeds": ("concat", "choose how several pictures are put together"),
    "embeds_scaling": ("V only", "λ multiplies what a picture adds here, as V only does"),
}
PICTURES = {
    "attn_mask": ("region mask", "the picture acts within it alone there, everywhere here"),
    "image_negative": ("negative image prompt", "the picture is not in the file: give it"),
}
ZEROED = "ConditioningZeroOut"  # of its text nothing is left
VALUES = ("value", "seed", "noise_seed", "int", "float", "number", "string", "text")

Link = tuple[str, int]


def settings(text: str) -> ForeignSettings | None:
    """None for a text of another kind. Raises RequestError for a graph that is too large."""
    values = object_from_text(text)
    graph = Graph(values) if values is not None else None
    if graph is None or not graph.nodes:
        return None
    found = Collector("ComfyUI")
    ends = [name for name in graph.nodes if graph.kind(name).startswith(("Save", "Preview"))]
    used = [name for name, _ in graph.back([(name, 0) for name in ends or graph.nodes])]
    samplers = [name for name in used if graph.link(name, "latent_image") is not None]
    if not samplers:
        found.leave("graph", f"{len(graph.nodes)} nodes", "none of them is a sampler that is known")
        return found.found()
    first = _first(graph, samplers)
    for name in samplers:
        if name != first:
            found.leave("further pass", graph.kind(name))
    _sampling(found, graph, first)
    for half, field in HALVES.items():
        _prompt(found, graph, first, half, field)
    weights_of_comfyui(found, HALVES)
    _size(found, graph, first)
    adapters = _model(found, graph, first)
    kinds = dict.fromkeys(graph.kind(name) for name in used if name not in adapters)
    for kind in kinds:
        if not kind.startswith(SILENT):
            found.leave("node", kind)
    return found.found()


class Graph:
    """Nodes by their names. It may be cyclic: every walk visits a node once."""

    def __init__(self, values: dict[str, Any]) -> None:
        if len(values) > MAX_NODES:
            raise RequestError(
                f"the graph of a ComfyUI picture may have {MAX_NODES:,} nodes, got {len(values):,}"
            )
        self.nodes: dict[str, dict[str, Any]] = {
            name: node["inputs"]
            for name, node in values.items()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        }
        self._kinds = {name: str(values[name].get("class_type")) for name in self.nodes}
        self._links = {name: self._links_of(inputs) for name, inputs in self.nodes.items()}
        self._left = MAX_WALKED

    def kind(self, name: str) -> str:
        return self._kinds[name]

    def link(self, name: str, key: str) -> Link | None:
        """The node and its output that an input comes from."""
        return self._as_link(self.nodes[name].get(key))

    def _as_link(self, value: object) -> Link | None:
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], int):
            return None
        place = str(value[0])
        return (place, value[1]) if place in self.nodes else None

    def _links_of(self, inputs: dict[str, Any]) -> dict[str, Link]:
        found = {key: self._as_link(value) for key, value in inputs.items()}
        return {key: link for key, link in found.items() if link is not None}

    def back(
        self, start: list[Link], follow: Callable[[Link, str], bool] = lambda link, key: True
    ) -> Iterator[Link]:
        """The nodes that `start` comes from, the nearest first, with the output by which each was
        come to; `follow` says whether an input of a node is gone into. Raises RequestError where
        the graph is so entangled that it would take long."""
        queue, seen = list(start), {name for name, _ in start}
        for link in queue:  # it grows while it is read
            yield link
            links = self._links[link[0]]
            self._left -= 1 + len(links)
            if self._left < 0:
                raise RequestError(
                    "the graph of a ComfyUI picture is too entangled: to read it, more than "
                    f"{MAX_WALKED:,} links would have to be followed"
                )
            for key, next_ in links.items():
                if next_[0] not in seen and follow(link, key):
                    seen.add(next_[0])
                    queue.append(next_)

    def value(self, name: str, key: str) -> object:
        """An input that is written there, or in a node that holds nothing but a value."""
        given = self.nodes[name].get(key)
        link = self._as_link(given)
        if link is None:
            return None if isinstance(given, (list, dict)) else given
        for place, _ in self.back([link], lambda _, key: key in ("", "value", "source")):
            inputs = self.nodes[place]
            for held in VALUES:
                if isinstance(inputs.get(held), (int, float, str)):
                    return inputs[held]
        return None


def _first(graph: Graph, samplers: list[str]) -> str:
    """The sampler that no other lies upstream of: an enlarged picture is drawn again by a second
    one, and the pictures of both may be saved."""
    left, upstream = set(samplers), samplers
    while upstream:
        first = upstream[-1]
        left.remove(first)
        upstream = [name for name, _ in graph.back([(first, 0)]) if name in left]
    return first


def _sampling(found: Collector, graph: Graph, sampler: str) -> None:
    """Of the sampler, or of the small nodes that a custom one is put together of."""
    parts = [
        name
        for name, _ in graph.back(
            [(sampler, 0)], lambda _, key: key in ("noise", "guider", "sampler", "sigmas")
        )
    ]

    def value(*keys: str) -> object:
        held = (
            graph.value(name, key) for name in parts for key in keys if key in graph.nodes[name]
        )
        return next((one for one in held if one is not None), None)

    for what, field, keys in (
        ("seed", "seed", ("seed", "noise_seed")),
        ("steps", "steps", ("steps",)),
        ("guidance", "guidance", ("cfg",)),
    ):
        if (given := value(*keys)) is not None:
            found.take(what, **{field: given})
        else:
            found.leave(what, "not found in the graph")
    if isinstance(name := value("sampler_name"), str):
        levels = value("scheduler")
        found.sampling(name, levels if isinstance(levels, str) else "")
    denoise = value("denoise")
    if isinstance(denoise, (int, float)) and denoise < 1:
        found.leave("strength", denoise, "the picture that it began from is not in the file")
    begin, end, steps = (value(key) for key in ("start_at_step", "end_at_step", "steps"))
    if isinstance(begin, (int, float)) and begin > 0:
        found.leave("start_at_step", begin, "the steps before it are drawn here too")
    if isinstance(end, (int, float)) and isinstance(steps, (int, float)) and end < steps:
        found.leave("end_at_step", end, "the steps after it are drawn here too")


def _prompt(found: Collector, graph: Graph, sampler: str, half: str, field: str) -> None:
    """The text nearest to the sampler, past nodes that hold other conditions."""
    begin = graph.link(sampler, half)
    if begin is None and (guider := graph.link(sampler, "guider")) is not None:
        begin = graph.link(guider[0], half)
    if begin is None:
        return

    def follow(link: Link, key: str) -> bool:
        if graph.kind(link[0]) == ZEROED:
            return False
        if key in ("positive", "negative"):  # of a node that passes both on, by its two outputs
            return key == ("positive", "negative")[link[1]] if link[1] in (0, 1) else False
        return key.startswith("conditioning") or key == ""

    texts, zeroed = [], False
    for name, _ in graph.back([begin], follow):
        zeroed = zeroed or graph.kind(name) == ZEROED
        given = [graph.value(name, key) for key in ("text", "text_g", "text_l")]
        texts += [text for text in given if isinstance(text, str)]
    different = list(dict.fromkeys(texts)) or ([""] if zeroed else [])
    if not different:
        found.leave(half, "no text is found in the graph")
        return
    found.take(half, **{field: different[0]})
    for text in different[1:]:
        found.leave(f"further {half} text", text)


def _size(found: Collector, graph: Graph, sampler: str) -> None:
    begin = graph.link(sampler, "latent_image")
    assert begin is not None
    for name, _ in graph.back(
        [begin], lambda _, key: key in ("samples", "latent", "latent_image", "")
    ):
        width, height = graph.value(name, "width"), graph.value(name, "height")
        if isinstance(width, int) and isinstance(height, int):
            found.take("size", width=width, height=height)
            return
    found.leave("size", "not found in the graph")


def _model(found: Collector, graph: Graph, sampler: str) -> set[str]:
    """Adapters, LoRAs and the base, in the order in which the sampler comes to them. Returns the
    nodes of the adapters."""
    adapters = set()
    for name, _ in graph.back([(sampler, 0)], lambda _, key: key in ("model", "guider", "")):
        kind, inputs = graph.kind(name), graph.nodes[name]
        if kind.startswith("IPAdapter") and "weight" in inputs:
            _adapter(found, graph, name)
            adapters.add(name)
        elif "lora_name" in inputs:
            weight = graph.value(name, "strength_model")
            strength = weight if isinstance(weight, (int, float)) else 1.0
            found.lora(stem(str(inputs["lora_name"])), strength)
        for key in ("ckpt_name", "unet_name"):
            if key in inputs:
                found.leave("base", inputs[key], "the model that you choose draws")
    return adapters


def _adapter(found: Collector, graph: Graph, name: str) -> None:
    loader = graph.link(name, "ipadapter")
    held = graph.nodes[loader[0]] if loader is not None else {}
    named = held.get("ipadapter_file", held.get("preset", graph.kind(name)))
    weight, start, end = (graph.value(name, key) for key in ("weight", "start_at", "end_at"))
    start, end = 0.0 if start is None else start, 1.0 if end is None else end
    layers = graph.value(name, "weight_type")
    preset = WEIGHT_TYPES.get(layers) if isinstance(layers, str) else None
    taken = found.reference(str(named), weight, start, end, preset or layers)
    if taken and preset is not None:
        found.take("layers", image_layers=preset)
    elif taken and layers is not None:
        found.leave("layers", layers)
    for picture in _pictures(graph, name, "image"):
        found.leave("reference", f"{picture} is not in the file: give it")
    for key, (what, why) in PICTURES.items():
        if (link := graph.link(name, key)) is not None:
            pictures = ", ".join(_pictures(graph, name, key))
            found.leave(what, pictures or graph.kind(link[0]), why)
    for key, (default, why) in CHOICES.items():
        if (choice := graph.value(name, key)) not in (None, default):
            found.leave(key, choice, why)


def _pictures(graph: Graph, name: str, key: str) -> list[str]:
    """The names of the files that an input comes from."""
    link = graph.link(name, key)
    held = (graph.nodes[place].get("image") for place, _ in graph.back([link] if link else []))
    return [picture for picture in held if isinstance(picture, str)]
