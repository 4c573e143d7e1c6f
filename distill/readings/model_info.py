"""Facts of a model that a loss may use before training starts: its vocabulary, its size, its network."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from crosstok.distill.tokenizers.tokenbytes import TokenBytes


@dataclass(frozen=True)
class ModelInfo:
    """What a loss may know of a model before training starts."""

    tokens: TokenBytes
    valid_rows: int
    """Number of ids that may carry probability."""
    network: nn.Module

    @property
    def width(self) -> int:
        """Size of the model's hidden states."""
        network: Any = self.network
        return int(network.get_input_embeddings().weight.shape[1])

    @property
    def depth(self) -> int:
        """Number of the model's layers."""
        network: Any = self.network
        return int(network.config.get_text_config().num_hidden_layers)
