#!/usr/bin/env python3
"""Makes tests/golden/pytorch/*.safetensors: models beyond the tutorial's, as PyTorch computes them in float64.

    python scripts/make_pytorch_fixtures.py [FOLDER]

Needs PyTorch and safetensors. PyTorch's own layers, packed sequences, loss, AdamW and schedulers are used, and nothing of this
project; tests/pytorch.rs reads the files. A file holds x [B,T,I], labels [B], lengths [B], the parameters param.NAME (gates i,
f, g, o; matrices [inputs, outputs]), out.logits, out.h_last, out.c_last, out.loss (of each sequence), grad.x, grad.NAME, and
after10.NAME and out.losses10 of ten steps of AdamW. Its metadata holds the model and the optimizer as in a checkpoint's
config.json. Inputs and parameters are float32, results are computed in float64 and rounded to float32 for the file.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

CASES = {
    "two_layers_last": dict(b=7, t=6, i=3, p=5, h=4, k=3, layers=2, bidirectional=True, pool="last", smoothing=0.1),
    "two_layers_mean": dict(b=6, t=5, i=4, p=None, h=5, k=4, layers=2, bidirectional=True, pool="mean", smoothing=0.0),
    "two_layers_max": dict(b=9, t=7, i=2, p=3, h=3, k=5, layers=2, bidirectional=True, pool="max", smoothing=0.2),
    "three_layers": dict(b=5, t=4, i=3, p=None, h=6, k=2, layers=3, bidirectional=False, pool="last", smoothing=0.0),
}
FORGET_BIAS = 1.0
LEARNING_RATE, BETAS, DECAY, STEPS, WARM_UP = 0.003, (0.9, 0.999), 0.05, 12, 3
# PyTorch adds it elsewhere than this project; so small that it does not matter where.
EPSILON = 1e-14


class Model(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.case = case
        width = case["p"] or case["i"]
        directions = 2 if case["bidirectional"] else 1
        if case["p"]:
            self.input = torch.nn.Linear(case["i"], width)
        self.lstm = torch.nn.LSTM(
            width, case["h"], case["layers"], batch_first=True, bidirectional=case["bidirectional"]
        )
        self.output = torch.nn.Linear(directions * case["h"], case["k"])
        with torch.no_grad():
            for name, tensor in self.named_parameters():
                # Values that float32 holds exactly.
                tensor.copy_(torch.empty(tensor.shape).uniform_(-0.6, 0.6).double())
                if "bias_hh" in name:
                    # The second bias holds the forget bias and nothing else, and is not trained.
                    tensor.zero_()
                    tensor[case["h"] : 2 * case["h"]] = FORGET_BIAS
                    tensor.requires_grad_(False)

    def forward(self, x, lengths):
        z = self.input(x) if self.case["p"] else x
        packed = torch.nn.utils.rnn.pack_padded_sequence(z, lengths, batch_first=True, enforce_sorted=False)
        outputs, (h, c) = self.lstm(packed)
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
        directions = 2 if self.case["bidirectional"] else 1
        h, c = (torch.cat(list(state[-directions:]), dim=1) for state in (h, c))
        valid = (torch.arange(x.shape[1])[None, :] < lengths[:, None])[:, :, None]
        pooled = {
            "last": lambda: h,
            "mean": lambda: (outputs * valid).sum(dim=1) / lengths[:, None],
            "max": lambda: outputs.masked_fill(~valid, -torch.inf).amax(dim=1),
        }[self.case["pool"]]()
        return self.output(pooled), h, c

    def tensors(self, value):
        """By the project's names, in its shapes: of each parameter, or of its gradient."""
        named = {"output.weight": "w_out", "output.bias": "b_out", "input.weight": "w_in", "input.bias": "b_in"}
        for layer in range(self.case["layers"]):
            for direction in ["", "_reverse"]:
                end = "" if (layer, direction) == (0, "") else f"_l{layer}{direction}"
                place = f"l{layer}{direction}"
                named[f"lstm.weight_ih_{place}"] = f"w_x{end}"
                named[f"lstm.weight_hh_{place}"] = f"w_h{end}"
                named[f"lstm.bias_ih_{place}"] = f"b{end}"
        found = {named[name]: value(p) for name, p in self.named_parameters() if p.requires_grad}
        return {name: tensor.detach().t().contiguous().float() for name, tensor in found.items()}


def make(name, case, folder):
    torch.manual_seed(len(name))
    model = Model(case).double()
    b, t = case["b"], case["t"]
    x = torch.empty(b, t, case["i"]).uniform_(-1.5, 1.5)
    labels = torch.tensor([row * 3 % case["k"] for row in range(b)])
    # The longest and the shortest are both there, in no order.
    lengths = torch.tensor([(1 + row * 4 % t) if row + 1 < b else t for row in range(b)])
    tensors = {"x": x, "labels": labels.int(), "lengths": lengths.int()}
    tensors |= {f"param.{key}": value for key, value in model.tensors(lambda p: p).items()}

    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=case["smoothing"], reduction="none")
    inputs = x.double().requires_grad_(True)
    logits, h, c = model(inputs, lengths)
    losses = loss_of(logits, labels)
    losses.mean().backward()
    tensors |= {"out.logits": logits, "out.h_last": h, "out.c_last": c, "out.loss": losses, "grad.x": inputs.grad}
    tensors |= {f"grad.{key}": value for key, value in model.tensors(lambda p: p.grad).items()}

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    line = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, 1.0, total_iters=WARM_UP - 1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - WARM_UP)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [line, cosine], milestones=[WARM_UP])
    ten = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model(x.double(), lengths)[0], labels).mean()
        ten.append(loss.item())
        loss.backward()
        optimizer.step()
        schedule.step()
    tensors["out.losses10"] = torch.tensor(ten)
    tensors |= {f"after10.{key}": value for key, value in model.tensors(lambda p: p).items()}

    dims = {"t": t, "i": case["i"], "p": case["p"] or case["i"], "h": case["h"], "k": case["k"]}
    described = {"dims": dims, "forget_bias": FORGET_BIAS, "layers": case["layers"], "pool": case["pool"]}
    described |= {"bidirectional": case["bidirectional"], "input_layer": "linear" if case["p"] else "none"}
    described |= {"label_smoothing": case["smoothing"]}
    adam = {"learning_rate": LEARNING_RATE, "beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON, "grad_clip": None}
    adam |= {"weight_decay": DECAY, "schedule": {"cosine": {"warm_up": WARM_UP, "steps": STEPS}}}
    metadata = {"model": json.dumps(described), "adam": json.dumps(adam), "made_with": f"PyTorch {torch.__version__}"}
    tensors = {
        key: value.detach().contiguous() if value.dtype == torch.int32 else value.detach().float().contiguous()
        for key, value in tensors.items()
    }
    save_file(tensors, folder / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "tests/golden/pytorch"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        make(name, case, folder)
