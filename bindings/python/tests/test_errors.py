"""Bad input: each an exception with the library's status and a message that names the field, and never a crash."""

import ctypes.util
import os
import threading
import unittest

import common

np = common.need("numpy")

import flashqla  # noqa: E402
from flashqla import DType, Gate, Handle, InvalidArgument, Norm, Problem, Sequences, State, Tensor, Unsupported  # noqa: E402

ROWS, TOKENS, HEADS, DIM = 2, 12, 2, 16


def inputs(**others: object) -> dict:
    value, scalar = np.ones((TOKENS, HEADS, DIM), np.float32), np.zeros((TOKENS, HEADS), np.float32)
    return {"q": value, "k": value, "v": value, "gate": scalar, "beta": scalar, "out": value.copy(), **others}


def problem(**fields: object) -> Problem:
    return Problem(
        **{"key_heads": HEADS, "value_heads": HEADS, "key_dim": DIM, "value_dim": DIM, "dtype": DType.F32, "qk_norm": Norm.L2, **fields}
    )


class Errors(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.handle = Handle("cpu")

    def refused(self, kind: type, words: str, call: object = None, **others: object) -> None:
        """Expects an error of that kind whose message has the words."""
        of = others.pop("problem", problem())
        rows = others.pop("sequences", Sequences(ROWS, TOKENS))
        call = call or (lambda: self.handle.forward(of, rows, **inputs(**others)))
        with self.assertRaises(kind) as caught:
            call()
        self.assertIn(words, str(caught.exception))
        if issubclass(kind, flashqla.FlashqlaError):
            self.assertEqual(caught.exception.status, kind.status)
            self.assertTrue(caught.exception.message)

    def test_dtype(self) -> None:
        self.refused(InvalidArgument, "args.q.dtype", q=np.ones((TOKENS, HEADS, DIM)))  # the library's own words
        self.refused(InvalidArgument, "args.q: dtype complex64", q=np.ones((TOKENS, HEADS, DIM), np.complex64))
        self.refused(InvalidArgument, "args.k: dtype byte-swapped", k=np.ones((TOKENS, HEADS, DIM), ">f4"))
        self.refused(InvalidArgument, "args.gate.dtype", gate=np.zeros((TOKENS, HEADS), np.int32))
        self.refused(InvalidArgument, "state.read: dtype float64", state=State(read=np.zeros((ROWS, HEADS, DIM, DIM))))
        self.refused(
            InvalidArgument, "sequences.offsets: dtype float32", sequences=Sequences(ROWS, TOKENS, 0, np.zeros(ROWS + 1, np.float32))
        )
        self.refused(
            InvalidArgument,
            "state.read_slots: dtype int64",
            state=State(read=np.zeros((ROWS, HEADS, DIM, DIM), np.float32), read_slots=np.zeros(ROWS, np.int64)),
        )

    def test_shape(self) -> None:
        for name, shape in (
            ("q", (TOKENS, HEADS, DIM + 1)),
            ("k", (TOKENS - 1, HEADS, DIM)),
            ("v", (TOKENS, HEADS + 1, DIM)),
            ("gate", (TOKENS, HEADS, 1)),
            ("beta", (TOKENS,)),
            ("out", (ROWS, TOKENS, HEADS, DIM)),
        ):
            self.refused(InvalidArgument, f"args.{name}: shape", **{name: np.zeros(shape, np.float32)})
        self.refused(InvalidArgument, "state.read: shape", state=State(read=np.zeros((ROWS, HEADS, DIM), np.float32)))
        self.refused(InvalidArgument, "must have a slot", state=State(read=np.zeros((0, HEADS, DIM, DIM), np.float32)))
        self.refused(InvalidArgument, "sequences.offsets: shape", sequences=Sequences(ROWS, TOKENS, 0, np.zeros(ROWS, np.int32)))
        self.refused(InvalidArgument, "sequences.tokens", sequences=Sequences(5, TOKENS))
        self.refused(InvalidArgument, "sequences.rows", sequences=Sequences(-1, TOKENS))
        self.refused(InvalidArgument, "sequences.rows", sequences=Sequences(1 << 40, TOKENS))

    def test_strides(self) -> None:
        wide = np.ones((TOKENS, HEADS, 2 * DIM), np.float32)
        self.refused(InvalidArgument, "last dimension: must be 1", q=wide[:, :, ::2])
        self.refused(InvalidArgument, "negative", q=np.ones((TOKENS, HEADS, DIM), np.float32)[::-1])
        self.refused(InvalidArgument, "strides of 0 throughout", q=np.broadcast_to(np.ones(DIM, np.float32), (TOKENS, HEADS, DIM)))
        self.refused(
            InvalidArgument,
            "args.out",
            out=np.lib.stride_tricks.as_strided(np.zeros((TOKENS, DIM), np.float32), (TOKENS, HEADS, DIM), (64, 64, 4)),
        )
        self.refused(
            InvalidArgument,
            "aligned to its element",
            q=np.frombuffer(bytes(TOKENS * HEADS * DIM * 4 + 1), np.uint8)[1:].view(np.float32).reshape(TOKENS, HEADS, DIM),
        )
        states = np.zeros((ROWS, HEADS, DIM, 2 * DIM), np.float32)[..., :DIM]
        self.refused(InvalidArgument, "must be packed", state=State(read=states))

    def test_device_and_kind(self) -> None:
        x = np.ones((TOKENS, HEADS, DIM), np.float32)
        elsewhere = Tensor(x.ctypes.data, DType.F32, x.shape, (HEADS * DIM, DIM, 1), device=0)
        self.refused(InvalidArgument, "cuda:0", q=elsewhere)
        self.refused(InvalidArgument, "list is no tensor", q=[1.0])
        self.refused(InvalidArgument, "args.q.data is NULL", q=None)
        frozen = np.ones((TOKENS, HEADS, DIM), np.float32)
        frozen.flags.writeable = False
        self.refused(InvalidArgument, "read-only", out=frozen)
        self.refused(InvalidArgument, "stream", stream=16)
        self.refused(InvalidArgument, "device 'tpu'", lambda: Handle("tpu"))
        with self.assertRaises(flashqla.FlashqlaError):  # of which kind depends on the machine
            Handle(12345)

    def test_overlap(self) -> None:
        x = np.ones((TOKENS, HEADS, DIM), np.float32)
        self.refused(InvalidArgument, "args.out", q=x, out=x)

    def test_problem(self) -> None:
        self.refused(Unsupported, "gate", problem=problem(gate=Gate.LOG_PER_KEY))
        self.refused(InvalidArgument, "problem.key_dim", lambda: self.handle.query(problem(key_dim=0), Sequences(ROWS, TOKENS)))
        self.refused(InvalidArgument, "args.A_log", A_log=np.zeros(HEADS, np.float32))
        self.refused(InvalidArgument, "args.A_log", problem=problem(gate=Gate.RAW), dt_bias=np.zeros(HEADS, np.float32))
        self.refused(InvalidArgument, "problem.engine", problem=problem(engine=77))
        self.refused(AttributeError, "key_head", lambda: Problem(key_head=1))
        self.refused(OverflowError, "key_heads", lambda: Problem(key_heads=1 << 32))
        self.refused(TypeError, "", lambda: Problem(key_heads="two"))
        self.refused(flashqla.WorkspaceTooSmall, "workspace_bytes", lambda: self.backward(workspace=np.zeros(0, np.uint8)))
        self.refused(InvalidArgument, "workspace", lambda: self.backward(workspace=np.zeros(1 << 20, np.uint8)[1:]))

    def backward(self, **others: object) -> None:
        x = inputs()
        x.pop("out")
        self.handle.backward(problem(), Sequences(ROWS, TOKENS), **x, d_out=x["q"], dq=np.empty_like(x["q"]), **others)

    def test_closed_handle(self) -> None:
        handle = Handle("cpu")
        handle.close()
        handle.close()
        self.refused(InvalidArgument, "handle is NULL", lambda: handle.forward(problem(), Sequences(ROWS, TOKENS), **inputs()))
        self.refused(InvalidArgument, "handle is NULL", lambda: handle.query(problem(), Sequences(ROWS, TOKENS)))
        self.refused(InvalidArgument, "handle is NULL", lambda: handle.warmup())

    def test_close_while_calls_run(self) -> None:
        handle, x = Handle("cpu"), inputs()
        outcome: list = []

        def work() -> None:
            try:
                while True:
                    handle.forward(problem(), Sequences(ROWS, TOKENS), **{**x, "out": np.empty_like(x["out"])})
            except InvalidArgument as error:
                outcome.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        handle.close()
        for thread in threads:
            thread.join()
        self.assertEqual(len(outcome), 4)
        self.assertIsNone(handle._pointer)

    def test_messages_stay_with_their_thread(self) -> None:
        wrong: list = []

        def work(name: str) -> None:
            for _ in range(100):
                try:
                    self.handle.forward(problem(), Sequences(ROWS, TOKENS), **inputs(**{name: np.ones((TOKENS, HEADS, DIM))}))
                except InvalidArgument as error:
                    if f"args.{name}.dtype" not in str(error):
                        wrong.append(str(error))

        threads = [threading.Thread(target=work, args=(name,)) for name in "qkv"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_fork(self) -> None:
        child = os.fork()
        if not child:
            try:
                self.handle.forward(problem(), Sequences(ROWS, TOKENS), **inputs())
            except InvalidArgument as error:
                os._exit(0 if "process" in str(error) else 2)
            os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_no_library(self) -> None:
        from flashqla import _abi

        before, _abi._library = _abi._library, None
        path, os.environ["FLASHQLA_LIBRARY"] = os.environ.get("FLASHQLA_LIBRARY"), "/nowhere/libflashqla.so"
        try:
            self.refused(ImportError, "/nowhere/libflashqla.so", flashqla.version)
            os.environ["FLASHQLA_LIBRARY"] = ctypes.util.find_library("c") or common.skip("no C library to take for another")
            self.refused(ImportError, "flashqla_version", flashqla.version)
        finally:
            _abi._library = before
            if path is None:
                del os.environ["FLASHQLA_LIBRARY"]
            else:
                os.environ["FLASHQLA_LIBRARY"] = path


if __name__ == "__main__":
    unittest.main()
