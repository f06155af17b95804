"""The federated methods, one file each."""

from fedrec.federated.methods.ease import EASE, EASEConfig
from fedrec.federated.methods.ego_lightgcn import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.methods.exact_lightgcn import ExactLightGCN, ExactLightGCNConfig
from fedrec.federated.methods.ials import IALS, IALSConfig
from fedrec.federated.methods.pfedrec import PFedRec, PFedRecConfig
from fedrec.federated.methods.popularity import Popularity, PopularityConfig
from fedrec.federated.methods.spectral import Spectral, SpectralConfig

__all__ = [
    "EASE",
    "IALS",
    "EASEConfig",
    "EgoLightGCN",
    "EgoLightGCNConfig",
    "ExactLightGCN",
    "ExactLightGCNConfig",
    "IALSConfig",
    "PFedRec",
    "PFedRecConfig",
    "Popularity",
    "PopularityConfig",
    "Spectral",
    "SpectralConfig",
]
