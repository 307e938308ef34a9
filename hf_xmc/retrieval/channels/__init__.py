"""Ranking channels. To add one, write its file in this folder and add its class to `CHANNELS`."""

from __future__ import annotations

import os
from pathlib import Path

from hf_xmc.retrieval.channels.channel import Channel, FollowsLabels, FusedChannel, TrainQueries
from hf_xmc.retrieval.channels.label_vectors import LabelVectors
from hf_xmc.retrieval.channels.lexical import LexicalLabels
from hf_xmc.retrieval.channels.names import LabelNames
from hf_xmc.retrieval.channels.query_memory import QueryMemory

__all__ = [
    "CHANNELS",
    "Channel",
    "FollowsLabels",
    "FusedChannel",
    "LabelNames",
    "LabelVectors",
    "LexicalLabels",
    "QueryMemory",
    "TrainQueries",
    "load_channels",
]

# Channels that are combined with the label vectors, in the order in which their weights are learned.
CHANNELS: list[type[FusedChannel]] = [QueryMemory, LabelNames, LexicalLabels]


def load_channels(folder: str | os.PathLike[str]) -> list[FusedChannel]:
    """The registered channels that a trained folder has."""
    return [channel.from_pretrained(folder) for channel in CHANNELS if (Path(folder) / channel.files[0]).is_file()]
