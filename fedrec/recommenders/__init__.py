"""Recommenders that exist only centrally, the protocol that every recommender fills, and the training loop."""

from fedrec.recommenders.chance import Random, RandomConfig
from fedrec.recommenders.content import Content, ContentConfig
from fedrec.recommenders.factorization import BPR, SVD, BPRConfig, SVDConfig
from fedrec.recommenders.full_batch import FullBatchLightGCN, FullBatchLightGCNConfig
from fedrec.recommenders.histories import FoldIn, Histories, folds_in
from fedrec.recommenders.hybrid import (
    RankFusion,
    RankFusionConfig,
    Stacking,
    StackingConfig,
    Weighted,
    WeightedConfig,
)
from fedrec.recommenders.lightgcn import LightGCN, LightGCNConfig
from fedrec.recommenders.losses import bce, bpr, sampled_softmax, softmax
from fedrec.recommenders.members import Member, admit
from fedrec.recommenders.neighbors import ItemNeighbors, ItemNeighborsConfig, UserNeighbors, UserNeighborsConfig
from fedrec.recommenders.neumf import NeuMF, NeuMFConfig
from fedrec.recommenders.ranker import ForestRanker, ForestRankerConfig, LogisticRanker, LogisticRankerConfig
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
from fedrec.recommenders.wide_deep import WideDeep, WideDeepConfig

__all__ = [
    "BPR",
    "RECOMMENDERS",
    "SVD",
    "BPRConfig",
    "Checkpoints",
    "Complement",
    "Content",
    "ContentConfig",
    "Disclosure",
    "FoldIn",
    "ForestRanker",
    "ForestRankerConfig",
    "FullBatchLightGCN",
    "FullBatchLightGCNConfig",
    "Histories",
    "ItemNeighbors",
    "ItemNeighborsConfig",
    "Learner",
    "LightGCN",
    "LightGCNConfig",
    "LogisticRanker",
    "LogisticRankerConfig",
    "Member",
    "NeuMF",
    "NeuMFConfig",
    "NoCheckpoints",
    "Random",
    "RandomConfig",
    "RankFusion",
    "RankFusionConfig",
    "Recommender",
    "SVDConfig",
    "Scorer",
    "Stacking",
    "StackingConfig",
    "Stopping",
    "Tensors",
    "Training",
    "UserNeighbors",
    "UserNeighborsConfig",
    "Validator",
    "Weighted",
    "WeightedConfig",
    "WideDeep",
    "WideDeepConfig",
    "admit",
    "bce",
    "bpr",
    "folds_in",
    "negatives",
    "pairs_of",
    "require_finite",
    "sample_negatives",
    "sampled_softmax",
    "softmax",
    "train",
]
