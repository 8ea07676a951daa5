"""Pictures that a model was trained on, as one normal distribution of their embeddings: what is far
from it, such as a photograph for a model of rendered scenes, is noticed.

The distance is Mahalanobis', as in arXiv 1807.03888 with a single class: embeddings of the pictures
lie at about the square root of their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = "known_pictures.safetensors"
RIDGE = 1e-4  # of the mean variance: directions without any would count for everything


@dataclass(frozen=True, slots=True, eq=False)
class KnownPictures:
    """`mean` (K,) and `whitening` (K, K) of unit embeddings; a distance above `limit` is far."""

    mean: Tensor
    whitening: Tensor
    limit: float

    @classmethod
    def of(cls, embeds: Tensor, held_out: Tensor, share: float) -> KnownPictures:
        """From embeddings (n, K), with `share` of other ones within the limit."""
        mean = embeds.mean(0)
        covariance = torch.cov((embeds - mean).T)
        covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(mean))
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance))
        limit = cls(mean, whitening, 0.0).distance(held_out).quantile(share).item()
        return cls(mean, whitening, limit)

    def distance(self, embeds: Tensor) -> Tensor:
        """(n,) of embeddings (n, K)."""
        return torch.linalg.norm((embeds.float().cpu() - self.mean) @ self.whitening.T, dim=-1)

    def is_far(self, embed: Tensor) -> bool:
        """Of one embedding (1, K)."""
        return self.distance(embed).item() > self.limit

    def save(self, folder: Path) -> None:
        tensors = {"mean": self.mean, "whitening": self.whitening.half().contiguous()}
        save_file(tensors, folder / FILE, metadata={"limit": f"{self.limit:.2f}"})


def known_pictures(folder: Path) -> KnownPictures | None:
    """Of a model's folder, where it has them."""
    if not (folder / FILE).is_file():
        return None
    with safe_open(folder / FILE, framework="pt") as file:
        limit = float(file.metadata()["limit"])
        return KnownPictures(file.get_tensor("mean"), file.get_tensor("whitening").float(), limit)
