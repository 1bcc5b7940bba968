"""Which weights of a module are trained: all, the head, the top layers, or LoRA. Knows no data.

Names are refused if nothing has them: FunASR freezes nothing for a prefix that is misspelt, and its
`lora_only` makes no adapter in a SenseVoice.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.sensevoice.module import SenseVoiceModule

HEAD = "ctc.ctc_lo."
_LORA_LAYERS = ("linear_q_k_v", "linear_out", "w_1", "w_2")
_LORA_SUFFIXES = (".lora_a", ".lora_b")


class LoraLinear(nn.Linear):
    """A linear layer whose weight is W + B A / rank * alpha, with W fixed (Hu et al. 2021).

    B is 0 at first, so that the module begins as it was.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        like = base.weight
        self.lora_a = nn.Parameter(like.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(like.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.scale * low

    def merged(self) -> Tensor:
        """The one weight that gives the same result."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def choose_trained(module: SenseVoiceModule, what: str, rank: int, seed: int) -> None:
    """Make `what` (all, head, top:N or lora) of a module trainable, and nothing else.

    Raises ConfigError for another name, and for more layers than there are.
    """
    module.requires_grad_(what == "all")
    if what == "all":
        return
    if what == "lora":
        _add_lora(module, rank, seed)
        return
    chosen = [HEAD, *_top_layers(module, what)]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(chosen)))


def _top_layers(module: SenseVoiceModule, what: str) -> list[str]:
    """The prefixes of the last N layers, those nearest to the head."""
    if what == "head":
        return []
    found = re.fullmatch(r"top:(\d+)", what)
    encoder = module.encoder
    layers = [
        f"encoder.{name}.{i}."
        for name in ("encoders0", "encoders", "tp_encoders")
        for i in range(len(getattr(encoder, name)))
    ]
    if found is None or not 1 <= int(found[1]) <= len(layers):
        raise ConfigError(
            f"train: {what!r} is none of all, head, lora and top:N with N from 1 to {len(layers)}"
        )
    return ["encoder.tp_norm.", *layers[-int(found[1]) :]]


def _add_lora(module: nn.Module, rank: int, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # every worker has the same adapters
        for parent in [*module.modules()]:
            for name in _LORA_LAYERS:
                layer = getattr(parent, name, None)
                if isinstance(layer, nn.Linear):
                    setattr(parent, name, LoraLinear(layer, rank, alpha=2.0 * rank))


def trained_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


@torch.no_grad()
def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights under FunASR's names, adapters merged."""
    merged = {
        f"{name}.weight": layer.merged()
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLinear)
    }
    plain = {
        name: value.clone()
        for name, value in module.state_dict().items()
        if not name.endswith(_LORA_SUFFIXES)
    }
    return plain | merged


@torch.no_grad()
def mixed(old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) * old + share * new, weight by weight (WiSE-FT, Wortsman et al. 2022)."""
    return {name: torch.lerp(old[name], new[name], share) for name in old}
