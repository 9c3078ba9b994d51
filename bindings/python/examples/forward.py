"""The shortest whole use of flashqla, on the best device there is. Two rows of three tokens, in f32, from an empty state; prints a
checksum that is the same in every language's example."""

from array import array

import flashqla
from flashqla.device import Device

ROWS, TOKENS, HEADS, DIM = 2, 6, 2, 16


def numbers(dev: Device, shape: tuple, step: int, bound: float) -> flashqla.Tensor:
    """Device memory with numbers in it: step/64 apart, going round in [-bound, bound)."""
    count = 1
    for extent in shape:
        count *= extent
    return dev.upload(array("f", [bound * (i * step % 64 / 32 - 1) for i in range(count)]), shape)


def main() -> None:
    with flashqla.Handle() as handle, Device(handle.info.device) as dev:
        problem = flashqla.Problem.qwen(key_heads=HEADS, value_heads=HEADS, key_dim=DIM, value_dim=DIM, dtype=flashqla.DType.F32)
        sequences = flashqla.Sequences(rows=ROWS, tokens=TOKENS)
        info = handle.query(problem, sequences)
        values, scalars = (TOKENS, HEADS, DIM), (TOKENS, HEADS)
        out = numbers(dev, values, 0, 0)
        handle.forward(
            problem,
            sequences,
            q=numbers(dev, values, 7, 1),
            k=numbers(dev, values, 11, 1),
            v=numbers(dev, values, 13, 1),
            gate=numbers(dev, scalars, 5, 2),
            beta=numbers(dev, scalars, 3, 2),
            A_log=numbers(dev, (HEADS,), 9, 1),
            dt_bias=numbers(dev, (HEADS,), 17, 1),
            out=out,
            workspace=dev.alloc((info.workspace_bytes,)),
        )
        dev.sync()
        result = array("f", dev.download(out))
        checksum = sum(x * (i % 7 + 1) for i, x in enumerate(result))
        print(f"{handle.info.name}, {info.engine_name}: checksum {checksum:.4f}")


if __name__ == "__main__":
    main()
