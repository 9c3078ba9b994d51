"""Hugging Face transformers' models with Gated DeltaNet layers (Qwen3-Next, Qwen3.5 and others of that make) through flashqla.

    undo = flashqla.transformers.patch(model)

puts flashqla's operators in the place of the model's own gated delta rule: prefill, generate with its cache, and training go on as
before."""

from __future__ import annotations

import sys
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from .torch import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

__all__ = ["patch"]


def _chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Optional[Tensor] = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Optional[Tensor] = None,
    max_length_q: Any = None,
    **others: Any,
) -> tuple:
    # `others` is whatever the model's caller gave for all layers, and meant for none here.
    longest = max_length_q if isinstance(max_length_q, int) else None
    return chunk_gated_delta_rule(
        query,
        key,
        value,
        g,
        beta,
        initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        cu_seqlens=cu_seqlens,
        max_seqlen=longest,
    )


def _recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Optional[Tensor] = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Optional[Tensor] = None,
    max_length_q: Any = None,
    **others: Any,
) -> tuple:
    longest = max_length_q if isinstance(max_length_q, int) else None
    return fused_recurrent_gated_delta_rule(
        query,
        key,
        value,
        g,
        beta=beta,
        initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        cu_seqlens=cu_seqlens,
        max_seqlen=longest,
    )


_REPLACEMENTS = {"chunk_gated_delta_rule": _chunk, "recurrent_gated_delta_rule": _recurrent}


def patch(model: torch.nn.Module) -> Callable[[], None]:
    """Makes the model's Gated DeltaNet layers call flashqla; returns a function that undoes it.

    Where transformers keeps the operators as attributes of the layers (versions before 5.17), this model alone changes. Newer versions call
    functions of the modelling module (torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule); then all models of that module in
    this process do. Compile the model after patching it."""
    before: list[tuple[Any, str, Any]] = []
    found = False
    for layer in model.modules():
        if not type(layer).__name__.endswith("GatedDeltaNet"):
            continue
        for name, ours in _REPLACEMENTS.items():
            owner, attribute = (layer, name) if hasattr(layer, name) else (sys.modules[type(layer).__module__], f"torch_{name}")
            old = getattr(owner, attribute, None)
            found = found or old is not None
            if old not in (None, ours):
                before.append((owner, attribute, old))
                setattr(owner, attribute, ours)
    if not found:
        raise ValueError(f"{type(model).__name__}: no Gated DeltaNet layers whose operators are known")

    def undo() -> None:
        for owner, attribute, old in before:
            setattr(owner, attribute, old)

    return undo
