"""Recommenders that exist only centrally, the protocol that every recommender fills, and the training loop."""

from fedrec.recommenders.lightgcn import LightGCN, LightGCNConfig
from fedrec.recommenders.losses import bce, bpr, sampled_softmax, softmax
from fedrec.recommenders.recommender import (
    RECOMMENDERS,
    Checkpoints,
    Disclosure,
    NoCheckpoints,
    Recommender,
    Scorer,
    Tensors,
    Training,
    Validator,
    require_finite,
)
from fedrec.recommenders.sampling import Complement, negatives, pairs_of, sample_negatives
from fedrec.recommenders.trainer import Learner, Stopping, train

__all__ = [
    "RECOMMENDERS",
    "Checkpoints",
    "Complement",
    "Disclosure",
    "Learner",
    "LightGCN",
    "LightGCNConfig",
    "NoCheckpoints",
    "Recommender",
    "Scorer",
    "Stopping",
    "Tensors",
    "Training",
    "Validator",
    "bce",
    "bpr",
    "negatives",
    "pairs_of",
    "require_finite",
    "sample_negatives",
    "sampled_softmax",
    "softmax",
    "train",
]
