"""Federated computation as sum queries: what is asked, who answers, who adds up, and the methods built on it."""

from fedrec.federated import methods  # fills METHODS and QUERIES
from fedrec.federated.answers import Answer
from fedrec.federated.cohort import Cohort, Devices, HeldOutItems, State
from fedrec.federated.contribution import Contribution, Outer, Rows
from fedrec.federated.costs import Communication
from fedrec.federated.engine import Engine, EngineConfig, LocalEngine, OverEngine, Population, Simulation, Totals
from fedrec.federated.engines import ENGINES, Dealt
from fedrec.federated.measuring import Measured, groups_asked, measure, small_groups
from fedrec.federated.method import METHODS, Ask, FederatedMethod, Federation
from fedrec.federated.participation import ParticipationConfig
from fedrec.federated.population import PopulationConfig
from fedrec.federated.private_engine import PrivateEngine
from fedrec.federated.query import QUERIES, Query, allow, build_query
from fedrec.federated.recommender import FederatedRecommender
from fedrec.federated.reference_engine import ReferenceEngine

__all__ = [
    "ENGINES",
    "METHODS",
    "QUERIES",
    "Answer",
    "Ask",
    "Cohort",
    "Communication",
    "Contribution",
    "Dealt",
    "Devices",
    "Engine",
    "EngineConfig",
    "FederatedMethod",
    "FederatedRecommender",
    "Federation",
    "HeldOutItems",
    "LocalEngine",
    "Measured",
    "Outer",
    "OverEngine",
    "ParticipationConfig",
    "Population",
    "PopulationConfig",
    "PrivateEngine",
    "Query",
    "ReferenceEngine",
    "Rows",
    "Simulation",
    "State",
    "Totals",
    "allow",
    "build_query",
    "groups_asked",
    "measure",
    "methods",
    "small_groups",
]
