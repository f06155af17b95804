"""From files, the catalogue or a generator to a split: readers, cleaning with a report, splitting."""

from fedrec.data.catalog import DATASETS, Dataset, cache_folder, fetch, load
from fedrec.data.cleaning import CleaningConfig, CleaningReport, CleaningStep, clean, clean_encoded, clean_parts, k_core
from fedrec.data.encoding import drop_unused, encode
from fedrec.data.interactions import BoolArray, FloatArray, IntArray, Interactions, Split, Vocabulary
from fedrec.data.loading import DataConfig, LoadedData, load_interactions, load_split
from fedrec.data.node_data import read_catalogue, read_shard, split_of_node
from fedrec.data.readers import ColumnsConfig, RawInteractions, read_interactions
from fedrec.data.sharding import Public, shard
from fedrec.data.splitting import Given, GlobalTime, LeaveOneOut, Ratio, SplitConfig, split, split_given
from fedrec.data.synthetic import SyntheticConfig, generate
from fedrec.data.tables import read_table

__all__ = [
    "DATASETS",
    "BoolArray",
    "CleaningConfig",
    "CleaningReport",
    "CleaningStep",
    "ColumnsConfig",
    "DataConfig",
    "Dataset",
    "FloatArray",
    "Given",
    "GlobalTime",
    "IntArray",
    "Interactions",
    "LeaveOneOut",
    "LoadedData",
    "Public",
    "Ratio",
    "RawInteractions",
    "Split",
    "SplitConfig",
    "SyntheticConfig",
    "Vocabulary",
    "cache_folder",
    "clean",
    "clean_encoded",
    "clean_parts",
    "drop_unused",
    "encode",
    "fetch",
    "generate",
    "k_core",
    "load",
    "load_interactions",
    "load_split",
    "read_catalogue",
    "read_interactions",
    "read_shard",
    "read_table",
    "shard",
    "split",
    "split_given",
    "split_of_node",
]
