#!/usr/bin/env python3
"""PyTorch and fused-lstm on one GPU over a matrix of sizes and precisions, within a time budget; one table.

  pip install torch numpy
  cargo build --release --features cuda
  python scripts/compare_pytorch_gpu.py [--budget 600] [--out FILE.json] [--markdown FILE.md]

What a cell is: training iterations (step) or evaluation (infer) of the same model at one batch and one width, 28 steps of
28 inputs, from memory of the GPU. Both sides wait for every iteration.

modes       eager    nn.LSTM, which calls cuDNN, and the fused Adam
            graph    the same, an iteration recorded in one CUDA graph
            compile  torch.compile of the cell written out in torch's operations: nn.LSTM itself is opaque to it
precisions  f32 (TF32 forbidden), tf32 (allowed in products), bf16 (autocast; parameters and Adam in f32)

A ratio is made only of two figures of one precision; fused-lstm is taken at its word (`dtype`) for its own. Cells are
measured from small to large, compile last; one that finds no time left or fails is named below the table. Figures are
written to --out as they come. --list names the cells and measures nothing; --device cpu tries the script itself.
"""
import argparse, json, pathlib, signal, statistics, subprocess, sys, time, warnings

MODES = ("eager", "graph", "compile")
PRECISIONS = ("f32", "tf32", "bf16")
STEPS, INPUTS, CLASSES = 28, 28, 10
# Seconds that a cell must have left to be begun, besides its measuring.
NEEDS = {"eager": 2, "graph": 3, "compile": 45}


class OutOfTime(BaseException):
    """Not an Exception: PyTorch's compiler would catch that and go on."""


def cells(args):
    """All cells, (what, batch, hidden, precision, mode), those that say most for their time first."""
    found = []
    for w, what in enumerate(args.what):
        for b, batch in enumerate(args.batch):
            for h, hidden in enumerate(args.hidden):
                for p, precision in enumerate(args.precision):
                    for mode in args.mode:
                        rank = 3 * len(args.batch) * (mode == "compile") + w + b + h + p
                        found.append((rank, (what, batch, hidden, precision, mode)))
    return [cell for _, cell in sorted(found, key=lambda pair: pair[0])]


def impossible(args, cell):
    """Why this cell cannot be measured on this device, if it cannot."""
    *_, precision, mode = cell
    if args.device == "cpu" and mode == "graph":
        return "graphs are of GPUs"
    if args.device == "cpu" and precision == "tf32":
        return "TF32 is of GPUs"
    return None


# ---- PyTorch ----


def build(hidden, written_out):
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.input = torch.nn.Linear(INPUTS, hidden)
            self.lstm = torch.nn.LSTM(hidden, hidden, batch_first=True)
            self.output = torch.nn.Linear(hidden, CLASSES)
            # One of PyTorch's two biases is enough.
            self.lstm.bias_hh_l0.requires_grad_(False)

        def forward(self, x):
            if not written_out:
                return self.output(self.lstm(self.input(x))[1][0][0])
            lstm = self.lstm
            of_inputs = torch.nn.functional.linear(self.input(x), lstm.weight_ih_l0, lstm.bias_ih_l0)
            h = c = torch.zeros(x.shape[0], hidden, device=x.device, dtype=of_inputs.dtype)
            for t in range(STEPS):
                i, f, g, o = (of_inputs[:, t] + torch.nn.functional.linear(h, lstm.weight_hh_l0)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            return self.output(h)

    return Model()


def iteration(args, what, batch, hidden, precision, mode):
    """A function that does one iteration of the cell."""
    import torch
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.manual_seed(0)
    model = build(hidden, mode == "compile").to(args.device)
    x = torch.randint(0, 256, (batch, STEPS, INPUTS)) * (torch.rand(batch, STEPS, INPUTS) > 0.81) / 255
    x, y = x.to(args.device), torch.randint(0, CLASSES, (batch,)).to(args.device)

    def forward():
        # Copies of the weights in bf16 must not outlive an iteration that is recorded.
        with torch.autocast(args.device, torch.bfloat16, enabled=precision == "bf16", cache_enabled=mode != "graph"):
            scores = model(x)
        return torch.nn.functional.cross_entropy(scores.float(), y) if what == "step" else scores.argmax(1)

    run = torch.compile(forward, dynamic=False) if mode == "compile" else forward
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, lr=1e-3, fused=True, capturable=args.device == "cuda")

    def train():
        adam.zero_grad(set_to_none=True)
        run().backward()
        adam.step()

    def infer():
        with torch.no_grad():
            run()

    body = train if what == "step" else infer
    if mode != "graph":
        return body
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(beside)
    adam.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()

    def replay():
        graph.replay()
    # The graph uses their memory.
    replay.keeps = (model, adam, x, y)
    return replay


def of_pytorch(args, cell):
    """Milliseconds of an iteration."""
    import torch
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    if cell[-1] == "compile":
        torch._dynamo.reset()
    step = iteration(args, *cell)
    for _ in range(3):
        step()
    wait()
    times, started = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - started < args.seconds:
        a = time.perf_counter()
        step()
        wait()
        times.append((time.perf_counter() - a) * 1e3)
    return statistics.median(times)


# ---- fused-lstm ----


def of_fused_lstm(args, what, batch, hidden, precision):
    """Milliseconds of an iteration, and the precision that it says it has."""
    command = [args.binary, "bench", what, "--json", "--device", args.device, "--seconds", str(args.seconds),
               "--batch-size", str(batch), "--hidden", str(hidden)]
    known = subprocess.run([args.binary, "bench", "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "--precision" in known:
        command += ["--precision", precision]
    elif precision != "f32":
        raise RuntimeError("fused-lstm has f32 only")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    result = json.loads(done.stdout)
    return result["ms_per_iter_median"], {"fp32": "f32"}.get(result["dtype"], result["dtype"])


# ---- the table ----


def table(rows, skipped, device):
    """Markdown. A row for each precision of each size, a column for each mode; a ratio only within a precision."""
    text = [f"{device}; milliseconds of an iteration, ratio = best of PyTorch / fused-lstm\n"]
    text.append(f"| what | batch | hidden | precision | fused-lstm | {' | '.join(MODES)} | ratio |")
    text.append("| --- |" + " --- |" * (5 + len(MODES)))
    keys = sorted({(r["what"], r["hidden"], r["batch"], PRECISIONS.index(r["precision"])) for r in rows})
    for what, hidden, batch, index in keys:
        precision = PRECISIONS[index]
        ms = {r["mode"]: r["ms"] for r in rows
              if (r["what"], r["hidden"], r["batch"], r["precision"]) == (what, hidden, batch, precision)}
        ours, theirs = ms.get("fused-lstm"), [ms[mode] for mode in MODES if mode in ms]
        ratio = f"{min(theirs) / ours:.2f}" if ours and theirs else ""
        shown = ["" if ms.get(mode) is None else f"{ms[mode]:.4f}" for mode in ("fused-lstm", *MODES)]
        text.append(f"| {what} | {batch} | {hidden} | {precision} | {' | '.join(shown)} | {ratio} |")
    by_reason = {}
    for entry in skipped:
        by_reason.setdefault(entry["why"], []).append(entry["cell"])
    text += [f"\nNot measured, {why}: {', '.join(names)}" for why, names in by_reason.items()]
    return "\n".join(text) + "\n"


def named(cell):
    return "-".join(str(part) for part in cell)


def measure(args, rows, skipped, keep):
    import torch
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    left = lambda: args.budget - (time.perf_counter() - started)

    def give_up(*_):
        raise OutOfTime
    signal.signal(signal.SIGALRM, give_up)
    done = set()

    def attempt(name, need, work):
        if left() < need + args.seconds:
            return skipped.append(dict(cell=name, why="no time left"))
        try:
            signal.setitimer(signal.ITIMER_REAL, left())
            keep(work())
        except OutOfTime:
            skipped.append(dict(cell=name, why="no time left"))
        except Exception as error:
            skipped.append(dict(cell=name, why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if args.device == "cuda":
                torch.cuda.empty_cache()

    for cell in cells(args):
        what, batch, hidden, precision, mode = cell
        row = dict(what=what, batch=batch, hidden=hidden)

        def ours():
            ms, told = of_fused_lstm(args, *cell[:-1])
            return dict(row, precision=told, mode="fused-lstm", ms=ms)
        if cell[:-1] not in done:
            done.add(cell[:-1])
            attempt(named((*cell[:-1], "fused-lstm")), 2, ours)
        reason = impossible(args, cell)
        if reason:
            skipped.append(dict(cell=named(cell), why=reason))
            continue
        attempt(named(cell), NEEDS[mode], lambda: dict(row, precision=precision, mode=mode, ms=of_pytorch(args, cell)))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = lambda kind, known=None: lambda text: [one(kind, known, part) for part in text.split(",")]

    def one(kind, known, text):
        value = kind(text)
        if (known and value not in known) or (kind is int and value < 1):
            raise argparse.ArgumentTypeError(f"{text}: choose of {', '.join(known) if known else '1, 2, …'}")
        return value
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--what", type=several(str, ("step", "infer")), default=["step", "infer"])
    parser.add_argument("--batch", type=several(int), default=[128, 1024, 8192, 65536])
    parser.add_argument("--hidden", type=several(int), default=[128, 256, 512, 1024])
    parser.add_argument("--precision", type=several(str, PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--mode", type=several(str, MODES), default=list(MODES))
    parser.add_argument("--budget", type=float, default=600, help="seconds for all of it")
    parser.add_argument("--seconds", type=float, default=0.7, help="measuring time of one cell")
    parser.add_argument("--binary", default=str(pathlib.Path(__file__).parent.parent / "target/release/fused-lstm"))
    parser.add_argument("--out", help="file for all figures, as JSON")
    parser.add_argument("--markdown", help="file for the table, besides standard output")
    parser.add_argument("--list", action="store_true", help="name the cells in their order and stop")
    parser.add_argument("--render", metavar="FILE", help="make the table of a file of --out and stop")
    return parser.parse_args()


def main():
    args = arguments()
    if args.list:
        print("\n".join(named(cell) for cell in cells(args)))
        return
    if args.render:
        kept = json.loads(pathlib.Path(args.render).read_text())
        print(table(kept["rows"], kept["skipped"], kept["device"]), end="")
        return
    import torch
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU; --device cpu tries the script itself")
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "the processor"
    device = f"PyTorch {torch.__version__} on {gpu}"
    rows, skipped = [], []

    def save():
        if args.out:
            pathlib.Path(args.out).write_text(json.dumps(dict(device=device, rows=rows, skipped=skipped), indent=1) + "\n")

    def keep(row):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        save()

    def ended(*_):
        raise SystemExit(143)
    # Whoever ends this early still gets what was measured.
    signal.signal(signal.SIGTERM, ended)
    try:
        measure(args, rows, skipped, keep)
    finally:
        save()
        text = table(rows, skipped, device)
        if args.markdown:
            pathlib.Path(args.markdown).write_text(text)
        print(text, end="", flush=True)


if __name__ == "__main__":
    main()
