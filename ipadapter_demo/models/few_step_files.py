"""What was distilled to few steps, on the hub: LoRAs, and UNets of SDXL, with their settings.

Steps, guidance, sampler and noise schedule are those of the repositories' own pages. Their guidance
of 0 is 1 here: none.
"""

from __future__ import annotations

from dataclasses import replace

from ipadapter_demo.models.catalog import LoraEntry
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.hub_files import SDXL, one_file
from ipadapter_demo.models.sources import Hub

_LCM = FewStep(steps=4, sampler="lcm")  # 2 to 8 steps; a guidance of up to 2 does as well
_TCD = FewStep(steps=4, sampler="tcd")
_HYPER_15 = "123f4ee05849b8241d5f451b089cb14a1019566d"  # of ByteDance/Hyper-SD, both
_HYPER_XL = "2900d2793fbe23f09baacf4e4e3a4a5846e74616"
_LIGHTNING = "c9a24f48e1c025556787b0c58dd67a091ece2e44"


def _lora(
    repo: str, revision: str, megabytes: int, sha256: str, few_step: FewStep, file: str
) -> LoraEntry:
    return LoraEntry(file=one_file(repo, revision, file, megabytes, sha256), few_step=few_step)


def _weights(repo: str, revision: str, megabytes: int, sha256: str, few_step: FewStep) -> LoraEntry:
    file = "pytorch_lora_weights.safetensors"
    return _lora(repo, revision, megabytes, sha256, few_step, file)


def _hyper(revision: str, family: str, steps: int, megabytes: int, sha256: str) -> LoraEntry:
    """One step needs TCD's scheduler; more of them take DDIM's, with trailing steps."""
    several = FewStep(steps=steps, sampler="ddim", noise_schedule="trailing")
    few_step = FewStep(steps=1, sampler="tcd") if steps == 1 else several
    file = f"Hyper-{family}-{steps}step{'s' * (steps > 1)}-lora.safetensors"
    return _lora("ByteDance/Hyper-SD", revision, megabytes, sha256, few_step, file)


def _lightning(steps: int) -> FewStep:
    return FewStep(steps=steps, sampler="euler", noise_schedule="trailing")


def _lightning_lora(steps: int, sha256: str) -> LoraEntry:
    file = f"sdxl_lightning_{steps}step_lora.safetensors"
    return _lora("ByteDance/SDXL-Lightning", _LIGHTNING, 394, sha256, _lightning(steps), file)


def _lightning_unet(steps: int, sha256: str) -> Hub:
    file = f"sdxl_lightning_{steps}step_unet.safetensors"
    return one_file("ByteDance/SDXL-Lightning", _LIGHTNING, file, 5135, sha256)


SD15_LORAS = {
    "lcm": _weights(
        "latent-consistency/lcm-lora-sdv1-5",
        "cf2fced511dbe7e26c8d1d397e728fbab875db4b",
        135,
        "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4",
        _LCM,
    ),
    "tcd": _weights(
        "h1t/TCD-SD15-LoRA",
        "449a99f6bbded2bdbbc66386b2a4fbf8db8d3807",
        135,
        "eaecb24a1cda4411eab67275b1d991071216ac93693e8fa0c9226c9df0386232",
        _TCD,
    ),
    **{
        f"hyper-{steps}": _hyper(_HYPER_15, "SD15", steps, 269, sha256)
        for steps, sha256 in (
            (1, "a04fd9a535c1e56d38f7590ee72a13fd5ca0409853b4fff021e5a9482cf1ca3b"),
            (2, "2f26dcc1d883feb07557a552315baae2ca2a04ac08556b08a355a244547e8c3a"),
            (4, "c5dd058616461ed5053e2b14eec4dbe3fa0eea3b13688642f6d6c80ea2ba5958"),
            (8, "91fc3186236e956d64dbb4357f2e120c69b968b78af7d2db9884a5ca74d3cd13"),
        )
    },
}
SDXL_LORAS = {
    "lcm": _weights(
        "latent-consistency/lcm-lora-sdxl",
        "a18548dd4956b174ec5b0d78d340c8dae0a129cd",
        394,
        "a764e6859b6e04047cd761c08ff0cee96413a8e004c9f07707530cd776b19141",
        _LCM,
    ),
    "tcd": _weights(
        "h1t/TCD-SDXL-LoRA",
        "94ba1b72498086879251a157d85f80431f2e08a6",
        394,
        "2c777bc60abf41d3eb0fe405d23d73c280a020eea5adf97a82a141592c33feba",
        _TCD,
    ),
    **{
        f"hyper-{steps}": _hyper(_HYPER_XL, "SDXL", steps, 787, sha256)
        for steps, sha256 in (
            (1, "c912df184c5116792d2c604d26c6bc2aa916685f4a793755255cda1c43a3c78a"),
            (2, "69b25c0187ced301c3603c599c0bc509ac99b8ac34db89a2aecc3d5f77a35187"),
            (4, "12f81a27d00a751a40d68fd15597091896c5a90f3bd632fb6c475607cbdad76e"),
            (8, "ca689190e8c46038550384b5675488526cfe5a40d35f82b27acb75c100f417c1"),
        )
    },
    **{
        f"lightning-{steps}": _lightning_lora(steps, sha256)
        for steps, sha256 in (
            (2, "04fafc778385b24144498a8247498ae4fb7a69f702ea0566bdce2845a31fcc43"),
            (4, "bf56cf2657efb15e465d81402ed481d1e11c4677e4bcce1bc11fe71ad8506b79"),
            (8, "5aa30d94cdf7950a8b53a693682650ee061eddb128c5435a8f88defea73b2ac6"),
        )
    },
}
# By the steps that each was distilled to.
LIGHTNING_UNETS = {
    2: _lightning_unet(2, "15a96a3b213b8b4d6ea720b4fa5bf6723cd877170bd1a90f58e34da2968ef854"),
    4: _lightning_unet(4, "39a90a8a2a25c1372633c1e8eb1a96f85eab937bcb58cfc6ec9baf66242ec23c"),
    8: _lightning_unet(8, "471d8260fda0b17b8906feb24573ce64933d4b6b99ba7a1fa43ca051b994e869"),
}
LIGHTNING = {steps: _lightning(steps) for steps in LIGHTNING_UNETS}
TURBO = FewStep(steps=4, sampler="euler_a", noise_schedule="trailing")  # 1 to 4 steps
SDXL_TURBO = replace(
    SDXL,
    repo="stabilityai/sdxl-turbo",
    revision="71153311d3dbb46851df1931d3ca6e939de83304",
    sha256={},
)
