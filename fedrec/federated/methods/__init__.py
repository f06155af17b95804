"""The federated methods, one file each."""

from fedrec.federated.methods.ease import EASE, EASEConfig
from fedrec.federated.methods.ego_lightgcn import EgoLightGCN, EgoLightGCNConfig
from fedrec.federated.methods.exact_lightgcn import ExactLightGCN, ExactLightGCNConfig
from fedrec.federated.methods.fcf import FCF, FCFConfig
from fedrec.federated.methods.fedmf import FedMF, FedMFConfig
from fedrec.federated.methods.fedncf import FedNCF, FedNCFConfig
from fedrec.federated.methods.ials import IALS, IALSConfig
from fedrec.federated.methods.pfedrec import PFedRec, PFedRecConfig
from fedrec.federated.methods.popularity import Popularity, PopularityConfig
from fedrec.federated.methods.spectral import Spectral, SpectralConfig

__all__ = [
    "EASE",
    "FCF",
    "IALS",
    "EASEConfig",
    "EgoLightGCN",
    "EgoLightGCNConfig",
    "ExactLightGCN",
    "ExactLightGCNConfig",
    "FCFConfig",
    "FedMF",
    "FedMFConfig",
    "FedNCF",
    "FedNCFConfig",
    "IALSConfig",
    "PFedRec",
    "PFedRecConfig",
    "Popularity",
    "PopularityConfig",
    "Spectral",
    "SpectralConfig",
]
