#!/usr/bin/env python3
"""Other programs' side of tests/interchange.rs: PyTorch, Keras and ONNX Runtime.

    python peers.py make FOLDER     # models of PyTorch's, each in a folder of its own: weights, data, what it gives
    python peers.py check FOLDER    # exported models against what is expected of them

Needs torch, keras (with NumPy as its backend), onnx, onnxruntime and safetensors. A folder to check holds pytorch.safetensors,
keras.safetensors, model.onnx, model.json (sizes, as Classifier takes them) and expected.safetensors: raw [n, steps, inputs] for
the graph, prepared [n, steps, inputs] for the others, lengths [n] where sequences have such, and logits and probabilities [n, K].
"""

import json
import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "numpy"

import keras
import numpy
import onnx
import onnxruntime
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

BOUND = 1e-5


class Classifier(torch.nn.Module):
    def __init__(self, inputs, width, hidden, classes, layers, bidirectional, pool, names=("input", "lstm", "output"), bias=True):
        super().__init__()
        self.names, self.bidirectional, self.pool = names, bidirectional, pool
        if width:
            self.add_module(names[0], torch.nn.Linear(inputs, width, bias=bias))
        lstm = torch.nn.LSTM(width or inputs, hidden, layers, batch_first=True, bidirectional=bidirectional, bias=bias)
        self.add_module(names[1], lstm)
        self.add_module(names[2], torch.nn.Linear(hidden * (1 + bidirectional), classes, bias=bias))

    def forward(self, x, lengths):
        before, lstm, after = (self._modules.get(name) for name in self.names)
        x = before(x) if before else x
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, (h, _) = lstm(packed)
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
        counts = (torch.arange(x.shape[1])[None, :] < lengths[:, None])[:, :, None]
        if self.pool == "last":
            pooled = torch.cat([h[-2], h[-1]], 1) if self.bidirectional else h[-1]
        elif self.pool == "mean":
            pooled = (outputs * counts).sum(1) / lengths[:, None]
        else:
            pooled = outputs.masked_fill(~counts, -torch.inf).amax(1)
        return after(pooled)


def pytorch(folder, model, expected):
    module = Classifier(**model)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / "pytorch.safetensors").items()}
    module.load_state_dict(tensors)
    with torch.no_grad():
        return module(torch.from_numpy(expected["prepared"]), torch.from_numpy(expected["lengths"]).long()).numpy()


def keras_model(model):
    keras.utils.clear_session()
    inputs = x = keras.Input((None, model["inputs"]))
    if model["width"]:
        x = keras.layers.Dense(model["width"], name="input")(x)
    for layer in range(model["layers"]):
        number = f"_{layer}" if layer else ""
        sequences = layer + 1 < model["layers"] or model["pool"] != "last"
        lstm = keras.layers.LSTM(model["hidden"], return_sequences=sequences, name=f"lstm{number}")
        if model["bidirectional"]:
            lstm = keras.layers.Bidirectional(lstm, name=f"bidirectional{number}")
        x = lstm(x)
    if model["pool"] == "mean":
        x = keras.ops.mean(x, axis=1)
    if model["pool"] == "max":
        x = keras.ops.max(x, axis=1)
    return keras.Model(inputs, keras.layers.Dense(model["classes"], name="output")(x))


def in_keras(folder, model, expected):
    tensors = load_file(folder / "keras.safetensors")
    network = keras_model(model)
    paths = {weight.path for weight in network.weights}
    assert paths == set(tensors), f"{folder}: Keras has {sorted(paths)}, the file {sorted(tensors)}"
    for weight in network.weights:
        weight.assign(tensors[weight.path])
    return numpy.asarray(network(expected["prepared"]))


def in_onnx_runtime(folder, expected, with_lengths):
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    fed = {"input": expected["raw"]}
    if with_lengths:
        fed["lengths"] = expected["lengths"].astype("int32")
    logits, probabilities = session.run(["logits", "probabilities"], fed)
    # Any batch, and one sequence at a time.
    one = session.run(["logits"], {name: value[:1] for name, value in fed.items()})[0]
    compare(f"{folder.name}: one sequence in ONNX Runtime", one, logits[:1])
    return logits, probabilities


def compare(what, got, expected):
    assert got.shape == expected.shape, f"{what}: {got.shape}, not {expected.shape}"
    error = float(numpy.abs(got - expected).max() / max(1.0, numpy.abs(expected).max()))
    assert error <= BOUND, f"{what}: off by {error:.1e}"
    print(f"{what}: {error:.1e}")


def check(root):
    folders = sorted(file.parent for file in root.glob("*/expected.safetensors"))
    assert folders, f"nothing to check in {root}"
    for folder in folders:
        model = json.loads((folder / "model.json").read_text())
        expected = load_file(folder / "expected.safetensors")
        with_lengths = "lengths" in expected
        n, steps, _ = expected["prepared"].shape
        expected.setdefault("lengths", numpy.full(n, steps, "int32"))
        logits, probabilities = in_onnx_runtime(folder, expected, with_lengths)
        compare(f"{folder.name}: logits of ONNX Runtime", logits, expected["logits"])
        compare(f"{folder.name}: probabilities of ONNX Runtime", probabilities, expected["probabilities"])
        # PyTorch and Keras multiply padding by zero, or mask it.
        expected["prepared"] = numpy.nan_to_num(expected["prepared"])
        compare(f"{folder.name}: logits of PyTorch", pytorch(folder, model, expected), expected["logits"])
        if not with_lengths:
            compare(f"{folder.name}: logits of Keras", in_keras(folder, model, expected), expected["logits"])


# Names of the three modules, type of the tensors, whether there are biases, and sizes.
MADE = {
    "plain": (("input", "lstm", "output"), "float32", True, dict(inputs=3, width=5, hidden=6, classes=4, layers=1, bidirectional=False, pool="last")),
    "other_names": (("fc2", "encoder", "fc1"), "float64", True, dict(inputs=4, width=7, hidden=5, classes=3, layers=2, bidirectional=False, pool="mean")),
    "halves": (("a", "b", "c"), "float16", True, dict(inputs=2, width=None, hidden=9, classes=5, layers=2, bidirectional=True, pool="max")),
    "without_biases": (("x", "rnn", "y"), "bfloat16", False, dict(inputs=5, width=6, hidden=4, classes=3, layers=1, bidirectional=True, pool="last")),
}


def make(root):
    torch.manual_seed(5)
    for case, (names, dtype, bias, model) in MADE.items():
        folder = root / case
        folder.mkdir(parents=True)
        module = Classifier(**model, names=names, bias=bias)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter.uniform_(-0.7, 0.7).to(getattr(torch, dtype)))
        n, steps = 6 * model["classes"], 7
        x = torch.randn(n, steps, model["inputs"])
        with torch.no_grad():
            logits = module(x, torch.full((n,), steps))
        kept = {name: tensor.to(getattr(torch, dtype)) for name, tensor in module.state_dict().items()}
        save_torch_file(kept, folder / "theirs.safetensors")
        labels = numpy.arange(n, dtype="int64") % model["classes"]
        save_file({"x": x.numpy(), "labels": labels}, folder / "data.safetensors")
        save_file({"logits": logits.numpy(), "probabilities": logits.softmax(1).numpy()}, folder / "theirs_gives.safetensors")
        (folder / "model.json").write_text(json.dumps(model))


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
