"""Classifies sequences with a model that `fused-lstm train --save DIR` wrote, whole and step by step.

    cargo build --release -p fused-lstm-c
    python examples/python/predict.py target/release/libfused_lstm_c.so DIR sequences.npy

`sequences.npy` holds float32 [N,T,I]. Needs NumPy and nothing else.
"""

import ctypes
import sys

import numpy as np


class Sizes(ctypes.Structure):
    _fields_ = [("steps", ctypes.c_size_t), ("inputs", ctypes.c_size_t), ("classes", ctypes.c_size_t)]


def open_library(path):
    """The library with the types of its functions."""
    library = ctypes.CDLL(path)
    pointer, size, status = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
    for name, result, arguments in [
        ("last_error", ctypes.c_char_p, []),
        ("load", pointer, [ctypes.c_char_p, size]),
        ("free", None, [pointer]),
        ("sizes", status, [pointer, ctypes.POINTER(Sizes)]),
        ("class_name", ctypes.c_char_p, [pointer, size]),
        ("predict", status, [pointer, pointer, pointer, size, pointer]),
        ("streams_new", pointer, [pointer, size]),
        ("streams_free", None, [pointer]),
        ("streams_push", status, [pointer, pointer, pointer]),
        ("streams_reset", status, [pointer, size]),
    ]:
        function = getattr(library, "fused_lstm_" + name)
        function.restype, function.argtypes = result, arguments
    return library


class Model:
    """A trained model. `steps`, `inputs` and `classes` are its sizes, `class_names` the classes' names."""

    def __init__(self, library, folder, threads=0):
        self.functions = library
        self.handle = library.fused_lstm_load(folder.encode(), threads)
        self.check(self.handle)
        sizes = Sizes()
        self.check(library.fused_lstm_sizes(self.handle, ctypes.byref(sizes)) == 0)
        self.steps, self.inputs, self.classes = sizes.steps, sizes.inputs, sizes.classes
        self.class_names = [library.fused_lstm_class_name(self.handle, k).decode() for k in range(self.classes)]

    def __del__(self):
        if getattr(self, "handle", None):
            self.functions.fused_lstm_free(self.handle)

    def check(self, worked):
        if not worked:
            raise ValueError(self.functions.fused_lstm_last_error().decode())

    def predict(self, x, lengths=None):
        """Probabilities [N,K] of sequences x [N,T,I], of which each has only its first lengths[n] steps."""
        x = np.ascontiguousarray(x, np.float32)
        if x.shape[1:] != (self.steps, self.inputs):
            raise ValueError(f"x is {x.shape}, not [N, {self.steps}, {self.inputs}]")
        if lengths is not None:
            lengths = np.ascontiguousarray(lengths, np.uint32)
            if lengths.shape != x.shape[:1]:
                raise ValueError(f"there are {lengths.shape} lengths for {len(x)} sequences")
        probabilities = np.empty((len(x), self.classes), np.float32)
        where = None if lengths is None else lengths.ctypes.data
        done = self.functions.fused_lstm_predict(self.handle, x.ctypes.data, where, len(x), probabilities.ctypes.data)
        self.check(done == 0)
        return probabilities


class Streams:
    """Sequences that are still coming, `count` at a time."""

    def __init__(self, model, count=1):
        self.model, self.count = model, count
        self.handle = model.functions.fused_lstm_streams_new(model.handle, count)
        model.check(self.handle)

    def __del__(self):
        if getattr(self, "handle", None):
            self.model.functions.fused_lstm_streams_free(self.handle)

    def push(self, x):
        """The next step x [count,I] of each; gives the probabilities [count,K] after it."""
        x = np.ascontiguousarray(x, np.float32)
        if x.shape != (self.count, self.model.inputs):
            raise ValueError(f"x is {x.shape}, not [{self.count}, {self.model.inputs}]")
        probabilities = np.empty((self.count, self.model.classes), np.float32)
        done = self.model.functions.fused_lstm_streams_push(self.handle, x.ctypes.data, probabilities.ctypes.data)
        self.model.check(done == 0)
        return probabilities

    def reset(self, stream):
        """Begins another sequence in one of them."""
        self.model.check(self.model.functions.fused_lstm_streams_reset(self.handle, stream) == 0)


def main(library, folder, file):
    model = Model(open_library(library), folder)
    x = np.load(file)
    for sequence, probabilities in enumerate(model.predict(x)):
        print("whole", sequence, *(f"{p:.9g}" for p in probabilities))
    # All of them step by step, side by side, as if the steps were only coming in.
    streams = Streams(model, len(x))
    for t in range(model.steps):
        for sequence, probabilities in enumerate(streams.push(x[:, t])):
            print("step", t, sequence, *(f"{p:.9g}" for p in probabilities))
    print("classes", *model.class_names)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: predict.py LIBRARY MODEL SEQUENCES.npy")
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
