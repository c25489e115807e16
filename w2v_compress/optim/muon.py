"""Muon, an optimizer that orthogonalizes the momentum of each weight matrix (Jordan et al. 2024)."""

from ast import literal_eval
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration (Jordan et al. 2024), chosen so that small singular values grow fastest."""
STEPS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move the singular values of `matrices`, `(count, rows, columns)`, close to 1: most of them into 0.7 to 1.2.

    Computed in the precision of `matrices`. torch.optim.Muon computes in bf16, which is slow on CPUs without bf16
    instructions, and takes one matrix at a time.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.size(1) > matrices.size(2)
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide


class MuonWithAdam(torch.optim.Optimizer):
    """Muon for weight matrices, AdamW for the other parameters, with one learning rate and weight decay.

    Matrices are parameters `(rows, ...)` that have at least `smallest_matrix` rows and as many columns when flattened
    to `(rows, columns)`. That leaves a CTC head of letters and the first convolution to AdamW.
    Muon's update is scaled to the root mean square of a typical AdamW update (Liu et al. 2025, section 2.2), so a
    learning rate for AdamW suits it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        smallest_matrix: int,
    ) -> None:
        adam = {"betas": betas, "eps": eps}
        muon = {"momentum": momentum, "smallest_matrix": smallest_matrix}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **muon, **adam})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient. `closure` is there for fairseq, which passes None."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                shape = (parameter.size(0), parameter[0].numel()) if parameter.ndim > 1 else (0, 0)
                if min(shape) >= group["smallest_matrix"]:
                    by_shape[shape].append(parameter)
                else:
                    self._adam(parameter, group)
            for shape, parameters in by_shape.items():
                self._muon(parameters, shape, group)

    def _muon(self, parameters: list[Tensor], shape: tuple[int, int], group: dict[str, Any]) -> None:
        """Update parameters of one flattened shape by Muon with Nesterov momentum."""
        updates = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]).reshape(shape))
        rate = group["lr"] * 0.2 * max(shape) ** 0.5
        for parameter, update in zip(parameters, orthogonalize(torch.stack(updates)), strict=True):
            parameter.sub_(update.reshape(parameter.shape), alpha=rate)

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter by Adam; its weight decay has been applied."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(parameter.grad, 1 - beta1)
        state["square"].lerp_(parameter.grad.square(), 1 - beta2)
        deviation = (state["square"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], deviation, value=-group["lr"] / (1 - beta1 ** state["step"]))


@dataclass
class MuonConfig(FairseqDataclass):
    """Settings of `optimizer._name=muon`."""

    momentum: float = field(default=0.95, metadata={"help": "momentum of Muon"})
    smallest_matrix: int = field(
        default=48, metadata={"help": "AdamW updates weights with fewer rows or columns than this"}
    )
    adam_betas: Any = field(default=(0.9, 0.98), metadata={"help": "betas of AdamW"})
    adam_eps: float = field(default=1e-6, metadata={"help": "epsilon of AdamW"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled weight decay"})
    lr: list[float] = II("optimization.lr")  # noqa: RUF009


@register_optimizer("muon", dataclass=MuonConfig)
class FairseqMuon(FairseqOptimizer):
    """Make `MuonWithAdam` a fairseq optimizer.

    In fp16, fairseq by default flattens all parameters to one vector, which has no matrices. It refuses this optimizer
    then, and names `fp16_no_flatten_grads`, which keeps them. In bf16 it keeps them anyway.
    """

    def __init__(self, cfg: MuonConfig, params: Iterable[Any]) -> None:
        super().__init__(cfg)
        self._optimizer = MuonWithAdam(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Settings of this run, which replace those of a checkpoint that it goes on from."""
        betas = self.cfg.adam_betas
        return {
            "lr": self.cfg.lr[0],
            "momentum": self.cfg.momentum,
            "smallest_matrix": self.cfg.smallest_matrix,
            "betas": tuple(literal_eval(betas) if isinstance(betas, str) else betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }
