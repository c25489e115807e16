"""Excluding parameters from steps of fairseq's optimizers."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from w2v_compress import compat
from w2v_compress.compat.optimizer import excluding_from_step

compat.apply()


def build(kind: str, parameters: list[torch.nn.Parameter], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build fairseq's Adam with weight decay, in fp32 or wrapped for half precision."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer, build_optimizer

    adam = {"_name": "adam", "lr": [0.1], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1}
    adam |= {"use_old_adam": True, "fp16_adam_stats": False, "tpu": False}
    cfg = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(cfg, False)
    cfg.optimizer = adam
    if kind == "fp32":
        return build_optimizer(cfg.optimizer, parameters)
    cfg.common.fp16, cfg.common.bf16 = "fp16" in kind, "bf16" in kind
    cfg.common.fp16_init_scale = 1
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the device index of CPU tensors
    wrapper = MemoryEfficientFP16Optimizer if "memory" in kind else FP16Optimizer
    return wrapper.build_optimizer(cfg, parameters)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16", "bf16, memory efficient"])
def test_a_step_does_not_change_excluded_parameters(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 has one flat fp32 vector for all parameters, bf16 one fp32 copy for each."""
    dtype = {"fp": torch.float32, "bf": torch.bfloat16}[kind[:2]] if kind != "fp16" else torch.float16

    def values_after_two_updates(exclude: bool) -> list[torch.Tensor]:
        start = [torch.linspace(-1, 1, size, dtype=dtype) for size in (3, 4, 2)]
        parameters = [torch.nn.Parameter(values.clone()) for values in start]
        optimizer = build(kind, parameters, monkeypatch)
        for update in range(2):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            if update == 1:  # `legacy_ddp` sets missing gradients to 0
                parameters[1].grad = torch.zeros_like(parameters[1])
            optimizer._needs_sync = True
            optimizer.clip_grad_norm(0)
            if update == 1:
                before = parameters[1].detach().clone()
            with excluding_from_step(optimizer, parameters[1:2] if exclude and update == 1 else []):
                optimizer.step()
            optimizer.zero_grad()
        if exclude:
            assert torch.equal(parameters[1], before)
            assert not torch.equal(parameters[1], start[1])
        else:
            assert not torch.equal(parameters[1], before)
        return [parameter.detach() for parameter in parameters]

    excluded, moved = values_after_two_updates(True), values_after_two_updates(False)
    assert torch.equal(excluded[0], moved[0])
    assert torch.equal(excluded[2], moved[2])
