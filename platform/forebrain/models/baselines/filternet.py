"""FilterNet with its contextual shaping filter, TexFilter (Yi et al. 2024, "FilterNet: Harnessing Frequency
Filters for Time Series Forecasting"): a unit's past is multiplied, frequency by frequency, by a filter that a
small network makes of the same spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.models.base import ModelConfig, PerUnitModel

# A spread below this is that of a row at rest.
_EPS = 1e-5


@dataclass(frozen=True)
class FilterNetConfig(ModelConfig):
    """Sizes of a FilterNet.

    Attributes:
        width: points that the context is embedded into before its spectrum is taken.
        hidden_width: hidden width of the feed-forward behind the filter.
        sparsity: parts of the filter smaller than this are set to zero.
        dropout: dropout behind the filter while training.
    """

    title = "FilterNet"
    name: Literal["filternet"] = "filternet"
    width: int = 128
    hidden_width: int = 256
    sparsity: float = 0.01
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(2, "width")
        self.require(1, "hidden_width")
        self.require(0, "sparsity")
        self.require_dropout("dropout")

    def build(self, num_datasets: int = 1) -> FilterNet:
        return FilterNet(self)


class FilterNet(PerUnitModel):
    """See the module. The spectrum is that of each row's own embedded past, so units do not mix."""

    config: FilterNetConfig

    def __init__(self, config: FilterNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.context, config.width)
        self.norm_in, self.norm_out = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        num_frequencies = config.width // 2 + 1
        # Real and imaginary part of two complex layers, each elementwise over the frequencies.
        self.weight = nn.Parameter(torch.randn(2, 2, num_frequencies))
        self.bias = nn.Parameter(0.1 * torch.randn(2, 2, num_frequencies))
        self.expand = nn.Linear(config.width, config.hidden_width)
        self.contract = nn.Linear(config.hidden_width, config.width)
        self.out = nn.Linear(config.width, config.horizon)

    def forecast_unit_windows(self, past: Tensor) -> Tensor:
        mean = past.mean(dim=1, keepdim=True)
        spread = (past.var(dim=1, keepdim=True, unbiased=False) + _EPS).sqrt()
        embedded = self.norm_in(self.embed((past - mean) / spread))
        with torch.autocast(past.device.type, enabled=False):  # there is no Fourier transform in bf16
            spectrum = torch.fft.rfft(embedded.to(self.weight.dtype), norm="ortho")
            filtered = torch.fft.irfft(spectrum * self._filter(spectrum), n=self.config.width, norm="ortho")
        hidden = F.dropout(self.norm_out(filtered), self.config.dropout, self.training)
        forecast = self.out(self.contract(F.leaky_relu(self.expand(hidden))))
        return mean + spread * forecast

    def _filter(self, spectrum: Tensor) -> Tensor:
        """Complex spectra [R, F] to the filters they are multiplied by [R, F]."""
        real, imaginary = spectrum.real, spectrum.imag
        for (a, b), (c, d) in zip(self.weight, self.bias, strict=True):
            real, imaginary = F.relu(real * a - imaginary * b + c), F.relu(real * b + imaginary * a + d)
        parts = F.softshrink(torch.stack([real, imaginary], dim=-1), self.config.sparsity)
        return torch.view_as_complex(parts.contiguous())
