#!/usr/bin/env python3
"""Times the same model in PyTorch and in fused-lstm, in turn, on this machine; prints a table and one JSON line each.

  pip install torch numpy
  cargo build --release                        # with --features cuda for --device cuda
  python scripts/compare_pytorch.py [--device cpu|cuda] [--threads 2] [--seconds 5] [--rounds 3] [--data-dir DIR]
      [--precision f32|bf16] [--hidden 128]

PyTorch: nn.LSTM in eager mode, float32 (TF32 off), the fused Adam; with --precision bf16 under torch.autocast to
bfloat16; on a GPU every step is waited for, as in fused-lstm. Both sides run a batch of digits from memory: MNIST's if
--data-dir names the folder with its four .gz files, else random bytes of which 81 % are zero (fused-lstm: its synthetic
digits). With --data-dir the whole job is timed too, as a process: start, read, 1,000 steps with the batch accuracy
every 20, the 10,000 test images.
"""
import argparse, gzip, json, pathlib, statistics, subprocess, sys, time


def read_idx(path):
    import numpy as np
    raw = gzip.open(path).read()
    sizes = [int.from_bytes(raw[4 + 4 * k:8 + 4 * k], "big") for k in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes)


def digits(folder, part):
    import numpy as np
    if folder:
        x = read_idx(pathlib.Path(folder) / f"{part}-images-idx3-ubyte.gz").astype(np.float32) / 255
        return x, read_idx(pathlib.Path(folder) / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)
    r = np.random.default_rng(0)
    x = r.integers(0, 256, (10_000, 28, 28)) * (r.random((10_000, 28, 28)) > 0.81) / 255
    return x.astype(np.float32), r.integers(0, 10, 10_000)


def model(args):
    import torch
    hidden = args.hidden

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.input = torch.nn.Linear(28, hidden)
            self.lstm = torch.nn.LSTM(hidden, hidden, batch_first=True)
            self.output = torch.nn.Linear(hidden, 10)
            # One of PyTorch's two biases is enough.
            self.lstm.bias_hh_l0.requires_grad_(False)

        def forward(self, x):
            with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
                return self.output(self.lstm(self.input(x))[1][0][0]).float()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    # On by default for the LSTM of a GPU: its products would have ten bits instead of 23.
    torch.backends.cudnn.allow_tf32 = False
    m = Model().to(args.device)
    return m, torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=1e-3, fused=True)


def torch_step(args):
    import torch
    x, y = digits(args.data_dir, "t10k")
    m, adam = model(args)
    x, y = (torch.from_numpy(part[:128].copy()).to(args.device) for part in (x, y))

    def step():
        adam.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(m(x), y).backward()
        adam.step()
    return 128 / median_time(step, args.seconds, args.device)


def torch_infer(args):
    import torch
    x, _ = digits(args.data_dir, "t10k")
    m, _ = model(args)
    best = 0
    for batch in (128, 256, 500, 1000):
        part = torch.from_numpy(x[:batch].copy()).to(args.device)
        with torch.no_grad():
            best = max(best, batch / median_time(lambda: m(part).argmax(1), args.seconds / 4, args.device))
    return best


def torch_job(args):
    import torch
    import numpy as np
    (x, y), (xt, yt) = digits(args.data_dir, "train"), digits(args.data_dir, "t10k")
    x, y = (torch.from_numpy(part[5000:]).to(args.device) for part in (x, y))
    m, adam = model(args)
    order = np.random.default_rng(0)
    rows = []
    for step in range(1000):
        if len(rows) < 128:
            rows = np.concatenate([rows, order.permutation(len(x))]).astype(np.int64)
        batch, rows = torch.from_numpy(rows[:128]).to(args.device), rows[128:]
        adam.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(m(x[batch]), y[batch]).backward()
        adam.step()
        if step % 20 == 19:
            with torch.no_grad():
                print(step + 1, (m(x[batch]).argmax(1) == y[batch]).float().mean().item(), file=sys.stderr)
    with torch.no_grad():
        xt, yt = (torch.from_numpy(part).to(args.device) for part in (xt, yt))
        right = sum(int((m(xt[k:k + 500]).argmax(1) == yt[k:k + 500]).sum()) for k in range(0, len(xt), 500))
    print(f"test accuracy {right / len(xt):.4f}", file=sys.stderr)


def median_time(step, seconds, device):
    import torch
    # A GPU answers before it has done anything.
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(10):
        step()
    wait()
    times, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds:
        a = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - a)
    return statistics.median(times)


def process(command):
    """Standard output, and seconds of the whole process."""
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--data-dir")
    parser.add_argument("--binary", default=str(pathlib.Path(__file__).parent.parent / "target/release/fused-lstm"))
    parser.add_argument("--only", choices=["step", "infer", "job"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        # One measurement in a process of its own: PyTorch's threads are gone when fused-lstm runs.
        print({"step": torch_step, "infer": torch_infer, "job": torch_job}[args.only](args))
        return
    both = ["--device", args.device, "--threads", str(args.threads), "--precision", args.precision, "--hidden", str(args.hidden)]
    here = [sys.executable, __file__, *both, "--seconds", str(args.seconds)]
    if args.data_dir:
        here += ["--data-dir", args.data_dir]
    bench = [args.binary, "bench", *both, "--seconds", str(args.seconds), "--json"]
    job = [args.binary, *both, "--data-dir", str(args.data_dir), "--quiet"]
    rows = []
    for what, ours, unit in [("step", [*bench, "step"], "samples/s"), ("infer", [*bench, "infer", "--batch-size", "10000"], "images/s"),
                             ("job", job, "s")]:
        if what == "job" and not args.data_dir:
            continue
        pairs = []
        for _ in range(args.rounds):
            out, wall = process(here + ["--only", what])
            theirs = wall if what == "job" else float(out)
            out, wall = process(ours)
            mine = wall if what == "job" else json.loads(out)["samples_per_s"]
            pairs.append((theirs, mine))
        ratios = [theirs / mine if what == "job" else mine / theirs for theirs, mine in pairs]
        rows.append(dict(what=what, unit=unit, pytorch=statistics.median(p[0] for p in pairs),
                         fused_lstm=statistics.median(p[1] for p in pairs), ratio=statistics.median(ratios),
                         ratios=[round(r, 3) for r in ratios], threads=args.threads,
                         precision=args.precision, hidden=args.hidden, device=args.device))
        print(json.dumps(rows[-1]), flush=True)
    print(f"\n{'':8}{'PyTorch':>12}{'fused-lstm':>12}{'':>11}{'ratio':>8}")
    for r in rows:
        print(f"{r['what']:8}{r['pytorch']:>12,.1f}{r['fused_lstm']:>12,.1f} {r['unit']:<10}{r['ratio']:>8.2f}")


if __name__ == "__main__":
    main()
