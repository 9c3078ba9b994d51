"""Hugging Face's Qwen3-Next and Qwen3.5 with their own operators and with flashqla's: test_transformers.py [cpu|cuda] [--tokens N].

Small models with random weights read this project's README, a byte a token: logits of a prefill, greedy generation with the cache,
gradients and losses of training steps. Truth is the model in float32 with its own operators. In float32 both must agree closely; in
bfloat16 (cuda) each is compared with the truth, and flashqla's error may be at most a quarter above that of the model's own operators.
Prints all differences and times."""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from typing import Any, Callable

import common

torch = common.need("torch")
transformers = common.need("transformers")
try:
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3NextConfig, Qwen3NextForCausalLM

    from torch.utils._python_dispatch import TorchDispatchMode

    import flashqla.transformers
except ImportError as missing:
    common.skip(str(missing))

SIZES = dict(
    vocab_size=256,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=128,
    linear_value_head_dim=128,
    max_position_embeddings=8192,
)


def models() -> dict[str, Callable[[], Any]]:
    # Every expert serves every token: a router that chooses would turn rounding into other experts.
    experts = dict(num_experts=4, num_experts_per_tok=4, moe_intermediate_size=128, shared_expert_intermediate_size=128)
    return {
        "Qwen3-Next": lambda: Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES, **experts)),
        "Qwen3.5": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES)),
    }


def text(batch: int, tokens: int) -> Any:
    """README.md's bytes as token ids, cut into rows."""
    with open(os.path.join(common.ROOT, "README.md"), "rb") as readme:
        data = readme.read()
    data = data * (batch * tokens // len(data) + 1)
    return torch.tensor(list(data[: batch * tokens])).reshape(batch, tokens)


def prefill(model: Any, ids: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def generate(model: Any, ids: Any, count: int) -> tuple[Any, Any]:
    """Greedy: the tokens and the logits that chose them."""
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    return made.sequences[:, ids.shape[1] :], torch.stack(made.logits, 1)


def forced(model: Any, ids: Any, tokens: Any) -> Any:
    """Logits where a prefill and then the given tokens, one a step through the cache, go in."""
    with torch.no_grad():
        step = model(input_ids=ids, use_cache=True)
        logits = [step.logits[:, -1]]
        for i in range(tokens.shape[1] - 1):
            step = model(input_ids=tokens[:, i : i + 1], past_key_values=step.past_key_values, use_cache=True)
            logits.append(step.logits[:, -1])
    return torch.stack(logits, 1)


def train(model: Any, ids: Any, steps: int) -> tuple[list[float], dict]:
    """Losses of plain gradient descent, and the first step's gradients."""
    model = copy.deepcopy(model)
    model.train()
    losses, first = [], {}
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        model.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        first = first or {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.5 * p.grad
    return losses, first


def milliseconds(call: Callable[[], Any], device: str, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[1:])  # the first warms up


def all_gradients(gradients: dict) -> Any:
    return torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])


class Count(TorchDispatchMode):
    """Counts the calls of flashqla's ops inside it."""

    calls = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        self.calls += str(op).startswith("flashqla.")
        return op(*args, **(kwargs or {}))


class Checks:
    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, value: float, bound: float) -> None:
        good = value <= bound
        self.failed += not good
        print(f"  {'ok    ' if good else 'FAILED'} {what}: {value:.3g} (at most {bound:.3g})")


class Runs:
    """One model with one set of operators: what is compared."""

    def __init__(self, model: Any, ids: Any, prompt: Any, count: int) -> None:
        with Count() as count_calls:
            self.logits = prefill(model, ids)
        self.calls = count_calls.calls
        padded = torch.ones_like(ids)
        padded[0, :5] = 0
        with torch.no_grad():
            self.padded = model(input_ids=ids, attention_mask=padded, use_cache=False).logits
        self.tokens, self.chosen = generate(model, prompt, count)
        self.losses, self.gradients = train(model, ids, 3)


def compare_f32(check: Checks, own: Runs, ours: Runs) -> None:
    check("prefill: linear layers that flashqla did not serve", abs(3 - ours.calls) + own.calls, 0)
    check("prefill: logits", common.error(ours.logits, own.logits), 2e-5)
    check("prefill with a padded row: logits", common.error(ours.padded, own.padded), 2e-5)
    check("generate: tokens that differ", int((ours.tokens != own.tokens).sum()), 0)
    check("generate: logits", common.error(ours.chosen, own.chosen), 2e-5)
    for name, gradient in own.gradients.items():
        # A parameter whose gradient is far below the others' is rounding of theirs.
        size = max(float(gradient.norm()), 1e-4 * float(all_gradients(own.gradients).norm()))
        error = float((ours.gradients[name].double() - gradient.double()).norm()) / size
        if error > 2e-4:
            check(f"training: gradient of {name}", error, 2e-4)
    check("training: all gradients", common.error(all_gradients(ours.gradients), all_gradients(own.gradients)), 5e-5)
    check("training: losses of 3 steps", max(abs(a - b) for a, b in zip(ours.losses, own.losses)), 1e-4)


def agreement(tokens: Any, truth: Any) -> int:
    """Tokens before the first at which some row differs."""
    differs = (tokens != truth).any(0).tolist()
    return differs.index(True) if True in differs else len(differs)


def compare_bf16(check: Checks, truth: Runs, truth_forced: Any, own: Runs, own_forced: Any, ours: Runs, ours_forced: Any) -> None:
    """Errors against float32 of both; what rounding to bf16 costs the model's own operators is what flashqla's may cost."""

    def both(what: str, a: Any, b: Any, t: Any) -> None:
        own_error, our_error = common.error(a, t), common.error(b, t)
        print(f"         {what}: own {own_error:.3g}, flashqla {our_error:.3g}, between them {common.error(b, a):.3g}")
        check(what, our_error, 1.25 * own_error)

    both("prefill: logits", own.logits, ours.logits, truth.logits)
    both("decode: logits, the same tokens fed", own_forced, ours_forced, truth_forced)
    both("training: all gradients", all_gradients(own.gradients), all_gradients(ours.gradients), all_gradients(truth.gradients))
    same = [agreement(x.tokens, truth.tokens) for x in (own, ours)]
    print(
        f"         generate: tokens until one that float32 chooses otherwise: own {same[0]}, flashqla {same[1]} of {truth.tokens.shape[1]}"
    )
    losses = [max(abs(a - b) for a, b in zip(x.losses, truth.losses)) for x in (own, ours)]
    print(f"         training: losses of 3 steps off by: own {losses[0]:.3g}, flashqla {losses[1]:.3g} of {truth.losses[0]:.3g}")
    check("training: losses of 3 steps", losses[1], 1.25 * losses[0] + 0.01)


def gradient_step(model: Any, ids: Any) -> None:
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def timed(model: Any, ids: Any, prompt: Any, count: int, device: str, repeats: int) -> dict:
    return {
        "prefill": milliseconds(lambda: prefill(model, ids), device, repeats),
        f"generate {count} tokens, their prefill included": milliseconds(lambda: generate(model, prompt, count), device, repeats),
        "forward and backward of training": milliseconds(lambda: gradient_step(model, ids), device, repeats),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("device", nargs="?", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tokens", type=int, default=0, help="of a row (cpu 200, cuda 2048)")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        common.skip("torch sees no CUDA device")
    tokens = arguments.tokens or (200 if device == "cpu" else 2048)
    batch, count, repeats = 2, 16, 2 if device == "cpu" else 5
    ids = text(batch, tokens).to(device)
    prompt = ids[:, : tokens // 2 + 7]
    check = Checks()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, flashqla {flashqla.version()}"
    print(f"{versions} on {device}: {batch} rows of {tokens} tokens")
    for name, make in models().items():
        torch.manual_seed(0)
        model = make().to(device).float().eval()
        print(f"{name}, float32")
        own = Runs(model, ids, prompt, count)
        undo = flashqla.transformers.patch(model)
        ours = Runs(model, ids, prompt, count)
        undo()
        compare_f32(check, own, ours)
        if device == "cuda":
            print(f"{name}, bfloat16")
            truth, truth_forced = own, forced(model, prompt, own.tokens)
            model = model.bfloat16()
            own, own_forced = Runs(model, ids, prompt, count), forced(model, prompt, truth.tokens)
            own_times = timed(model, ids, prompt, count, device, repeats)
            undo = flashqla.transformers.patch(model)
            ours, ours_forced = Runs(model, ids, prompt, count), forced(model, prompt, truth.tokens)
            our_times = timed(model, ids, prompt, count, device, repeats)
            undo()
            compare_bf16(check, truth, truth_forced, own, own_forced, ours, ours_forced)
        else:
            own_times = timed(model, ids, prompt, count, device, repeats)
            undo = flashqla.transformers.patch(model)
            our_times = timed(model, ids, prompt, count, device, repeats)
            undo()
        for what, ms in own_times.items():
            print(f"  time   {what}: own {ms:.2f} ms, flashqla {our_times[what]:.2f} ms ({ms / our_times[what]:.2f}x)")
    print("FAILED" if check.failed else "all within bounds")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
