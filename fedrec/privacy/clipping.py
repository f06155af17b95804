"""Bounding what one user can add to a sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.errors import ModelError, PrivacyError


@dataclass(frozen=True)
class Clip:
    """The largest Euclidean norm that one user's contribution to one query keeps, over all its tables together.

    Clips belong to queries: one number cannot serve a count (norm √d_u) and a training step alike.
    """

    norm: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.norm) and self.norm > 0):
            raise PrivacyError(f"clip = {self.norm}: a clip is a norm; give a finite number above 0")


def scales(squared_norms: Tensor, clip: Clip) -> Tensor:
    """What each user's contribution is multiplied with, so that its norm is at most the clip: min(1, C/‖c_u‖₂).

    A zero contribution is legal and keeps the factor 1. See Abadi et al. 2016, "Deep Learning with Differential
    Privacy", algorithm 1; here the norm is that of everything a user sends, not of one example's gradient.

    Args:
        squared_norms: [n] floating point, ‖c_u‖₂² of each user, summed over the tables of the query.
        clip: the bound C.

    Returns:
        [n] factors in (0, 1], of the same dtype. The sum of the scaled contributions moves by at most C (but for
        rounding) when one user is added or removed: its sensitivity.

    Raises:
        ModelError: if a norm is not finite. No factor makes such a contribution finite: refuse the answer.
    """
    norms = squared_norms.sqrt()
    if not torch.isfinite(norms).all():
        bad = int((~torch.isfinite(norms)).sum())
        raise ModelError(f"{bad} of {norms.numel()} contributions have no finite norm; refuse these answers")
    # C/0 = inf, and the clamp makes it 1. A scalar over a tensor would be a reciprocal and a product, rounded twice.
    return (torch.full_like(norms, clip.norm) / norms).clamp(max=1.0)
