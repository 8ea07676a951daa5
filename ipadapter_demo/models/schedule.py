"""The prediction type of a base model and its last noise level, from its files or its operator.

A model with zero terminal SNR (arXiv 2305.08891) was trained up to pure noise. It predicts v, for
at that end ε says nothing, and its steps have to begin there: "trailing" spacing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ipadapter_demo.errors import ModelError

# of a diffusers scheduler: each class takes values of other types
SchedulerConfig = dict[str, Any]

# Keys beside the weights of a single checkpoint file, whatever their tensors hold: those that
# ComfyUI looks for, in comfy/supported_models.py, class SDXL, model_type.
_MARKS: dict[str, SchedulerConfig] = {
    "v_pred": {"prediction_type": "v_prediction"},
    "ztsnr": {"rescale_betas_zero_snr": True},
}
# A field of the file's header and its values, by Stability AI's Model Metadata Standard 1.0
# (https://github.com/Stability-AI/ModelSpec), and as some trainers spell them.
_FIELD = "modelspec.prediction_type"
_VALUES = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
_EDM = ("edm_mean", "edm_vpred.sigma_max")  # Playground v2.5, CosXL


def marked(
    keys: Iterable[str], header: Mapping[str, str], prediction_type: str | None = None
) -> SchedulerConfig:
    """The prediction type and noise of a checkpoint file, from its `keys` and its `header`.

    Raises ModelError for one of EDM's noise levels (arXiv 2206.00364), which nothing here draws,
    and where keys and header contradict each other, unless an operator's `prediction_type` decides.
    """
    there = set(keys)
    for key in _EDM:
        if key in there:
            raise ModelError(
                f"it is marked {key!r}: models over EDM's noise levels, such as "
                "Playground v2.5 and CosXL, are not read"
            )
    said: SchedulerConfig = {}
    for mark, values in _MARKS.items():
        said |= values if mark in there else {}
    written = header.get(_FIELD, "")
    named = _VALUES.get(written.strip().lower())  # other families have concepts of their own
    if named is None:
        return said
    if prediction_type is None and said.get("prediction_type", named) != named:
        raise ModelError(
            f"its key 'v_pred' says that it predicts v, and its header's {_FIELD} is "
            f"{written!r}: say which with --prediction-type"
        )
    return {"prediction_type": named} | said


def settled(
    config: SchedulerConfig, prediction_type: str | None, zero_snr: bool
) -> SchedulerConfig:
    """`config` with what an operator says, and what follows from it.

    Raises ModelError for zero terminal SNR where the model predicts ε.
    """
    said: SchedulerConfig = {} if prediction_type is None else {"prediction_type": prediction_type}
    if zero_snr or config.get("rescale_betas_zero_snr"):
        said |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config = saying(config, said)
    if ends_at_zero_snr(config) and predicts(config) == "epsilon":
        raise ModelError(
            "prediction_type must be v_prediction for a model with zero terminal SNR, "
            "got 'epsilon'; --prediction-type v_prediction says it where its files do "
            "not"
        )
    return config


def made_of_betas(config: SchedulerConfig) -> bool:
    """False for noise levels of EDM (arXiv 2206.00364) or of flow matching. Every sampler here is
    made of betas, and diffusers would fill in its own without a word."""
    if config.get("use_flow_sigmas") or predicts(config) == "flow_prediction":
        return False
    return "beta_schedule" in config and config.get("timestep_type") != "continuous"


def predicts(config: SchedulerConfig) -> str:
    return config.get("prediction_type", "epsilon")


def ends_at_zero_snr(config: SchedulerConfig) -> bool:
    return bool(config.get("rescale_betas_zero_snr"))


def schedule_note(config: SchedulerConfig) -> str:
    """A warning for a model that does not predict ε; else nothing."""
    if predicts(config) == "epsilon":
        return ""
    name = "v" if predicts(config) == "v_prediction" else predicts(config)
    if not ends_at_zero_snr(config):
        return f"It predicts {name}."
    return (
        f"It predicts {name} and was trained up to zero terminal SNR: steps have trailing "
        "spacing, and the sampler is neither pndm nor heun. A guidance rescale of 0.7 suits it."
    )


def saying(config: SchedulerConfig, said: SchedulerConfig) -> SchedulerConfig:
    """`config` with other values. diffusers drops what a configuration lists as defaults of its
    own class, so they leave that list."""
    defaults = sorted(set(config.get("_use_default_values", ())) - said.keys())
    return config | said | {"_use_default_values": defaults}
