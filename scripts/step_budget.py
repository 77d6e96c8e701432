#!/usr/bin/env python3
"""What a step of persistent_lstm takes, counted in its kept PTX, and what that should cost on some GPUs: predictions.

    scripts/step_budget.py            three tables in Markdown, as in docs/performance.md

Counts are of one warp and one step, of the loops of kernels/persistent/kept.ptx.gz for 128 hidden units and 28 inputs; blocks of
the loop that only its first or last step runs are left out. The model of the pipes, of one of the four parts of a multiprocessor,
with w warps there, at least one:

    products   w · products · r               r: cycles between two products (mma 16 x 8 x 16) on one part; and at least 33 for
                                              each of a chain, where one adds to the sum of the other
    special    w · special functions · 8      16 results a cycle of a multiprocessor; and at least 200, the latency of a cell
    memory     128 bytes a cycle of a multiprocessor: what all warps of a block load from and store to shared and global memory
    forward    products + special + 60        a warp's activations wait for its products; 60 for barrier, loads, stores. Products of
                                              x are those of the next step: beside the special functions, which take longer
    backward   max(products, memory) + 150, and at least the chain + 196, the latency of loads, stores and the barrier; and in any
               case 70 more                   two warps add their halves: a store, their barrier, a load
    cluster    130 more a step                h or da through distributed shared memory, and the cluster's barrier. What memory is
                                              asked for after a warp has arrived there counts to them

60, 150 and 196 were fitted to a simulation of compiled code as it was before halves and before x went ahead, which they met within
15 %; 33, 70, 130 and 200 are estimates.
"""

import gzip
import re
import sys
from pathlib import Path

KEPT = Path(__file__).parent.parent / "kernels/persistent/kept.ptx.gz"
# Name, compute capability has clusters, GHz, cycles between two products on one part.
GPUS = [("H200", True, 1.98, 6), ("A100", False, 1.41, 8), ("L4", False, 2.04, 16), ("RTX 4090", False, 2.52, 16)]
STEPS = 28
PARTS = 4
# Chains of sums of a warp backward.
HALF_CHAINS = 4
# Cycles from a product to the next one of its chain; a cell's special functions, one after the other; two halves; a cluster.
CHAINED, CELL, HALVES, EXCHANGE = 33, 200, 70, 130
# Microseconds outside of the steps. All are estimates, until `fused-lstm bench micro` and `profile` have measured them.
IN_LAUNCH = 3.0  # in persistent_lstm: weights to registers, forward and backward; inputs to operands; the head
OTHERS = 6.5  # the work of the three other launches
NODES = 4
NODE = 1.0  # from the end of a node to the work of the next: its launch, and its blocks on multiprocessors that are empty
DEPENDENT = 0.5  # the same where its blocks have started before and wait: what the end of a launch and the wait take
REPLAY = 1.0  # more from one replay to the next
ITERATIONS = 16  # of a replay
# Rows of the table of counts, and what of an instruction's name counts.
COUNTED = [
    ("products on tensor cores (`mma` 16 × 8 × 16)", r"mma\."),
    ("loads of their operands (`ldmatrix`)", r"ldmatrix\."),
    ("special functions", r"(ex2|rcp|tanh)\.approx"),
    ("multiply, add, fused, least, in f32", r"(fma|mul|add|sub|min)\.(rn\.|NaN\.)*f32"),
    ("conversions to and from pairs", r"cvt\.(rn\.b?f16x2|f32\.f16)"),
    ("stores to shared memory, of this block and others", r"st\.shared"),
    ("stores to global memory", r"st\.global"),
    ("loads from global memory", r"ld\.global"),
    ("barriers of the block, the cluster or two warps", r"(bar\.sync|barrier\.sync|barrier\.cluster\.wait)"),
]


def variants():
    """Constants and text of persistent_lstm for 128 units and 32 padded inputs: by (activations are fast, blocks of a cluster)."""
    found = {}
    for part in gzip.open(KEPT, "rt").read().split("//// variant ")[1:]:
        head, text = part.split("\n", 1)
        values = {name: int(value) for name, value in (pair.split() for pair in head.split(", "))}
        if (values["UNITS"], values["INPUTS"], values["TILES"]) == (128, 32, 1):
            entry = next(entry for entry in text.split(".entry ")[1:] if entry.startswith("persistent_lstm("))
            found[values["FAST_ACTIVATIONS"], values["CLUSTER"]] = values, entry
    return found


def loops(entry):
    """The steady instructions of the loop over steps forward, and of the one backward."""
    lines = [line.strip() for line in entry.splitlines()]
    labels = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    found = []
    for at, line in enumerate(lines):
        target = re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line)
        start = labels.get(target.group(1), at) if target else at
        if start < at and any(line.startswith("mma.") for line in lines[start:at]):
            found.append((start, at))
    # Of loops within each other, the outer ones.
    outer = [a for a in found if not any(b[0] <= a[0] and a[1] <= b[1] and b != a for b in found)]
    assert len(outer) == 2, "one loop forward, one backward"
    return [steady(lines[start : at + 1], forward=n == 0) for n, (start, at) in enumerate(sorted(outer))]


def steady(lines, forward):
    """The instructions of the blocks that each step runs."""
    blocks, block = [], []
    for line in lines:
        if line.endswith(":") or not re.match(r"(@!?%p\d+ )?[a-z]", line):
            if line.startswith("$L"):
                blocks.append(block)
                block = []
            continue
        block.append(line)
        if "bra" in line.split()[:2]:
            blocks.append(block)
            block = []
    blocks.append(block)
    marks = r"mma\.|ldmatrix\.|\.approx|cvt\.rn\.f16x2|bar\.sync|barrier\." + (r"|st\.global\.v4" if forward else r"|st\.shared|st\.global")
    return [line for block in blocks if any(re.search(marks, line) for line in block) for line in block]


def count(lines, pattern):
    return sum(1 for line in lines if re.match(r"(@!?%p\d+ )?" + pattern, line))


def wavefronts(lines):
    """Of 128 bytes, what the accesses of one warp take."""
    total = 0
    for line in lines:
        op = re.sub(r"^@!?%p\d+ ", "", line).split()[0]
        if op.startswith("ldmatrix"):
            total += 4 if ".x4" in op else 2
        elif re.match(r"(ld|st)\.(shared|global)", op):
            vector = re.search(r"\.v(\d)", op)
            total += int(vector.group(1)) if vector else 1
    return total


def step(lines, forward, values, r):
    """Predicted cycles."""
    units, groups, cluster = (values[name] for name in ("UNITS", "GROUPS", "CLUSTER"))
    warps = units // (8 * groups * cluster)
    of_part = max(1, warps // PARTS)
    exchange = EXCHANGE if cluster > 1 else 0
    products = of_part * count(lines, r"mma\.") * r
    if forward:
        of_x = of_part * values["INPUTS"] // 16 * 2 * groups * r
        special = of_part * count(lines, r"(ex2|rcp|tanh)\.approx") * 8
        chain = units // 16 // values["CHAINS"] * CHAINED
        return max(products - of_x, chain) + max(special, of_x, CELL) + 60 + exchange
    chain = units // 4 // 2 // HALF_CHAINS * CHAINED
    arrival = next((at for at, line in enumerate(lines) if "barrier.cluster.arrive" in line), len(lines))
    memory = warps * wavefronts(lines[:arrival])
    return max(max(products, memory) + 150, chain + 196) + HALVES + exchange


def around(dependent, iterations):
    """Microseconds of an iteration outside of the steps; the first node of a replay depends on none."""
    nodes = NODES * NODE - (NODE - DEPENDENT) * (NODES - 1 / iterations) * dependent
    return IN_LAUNCH + OTHERS + nodes + REPLAY / iterations


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    values = {key: values for key, (values, _) in variants().items()}
    made = {key: loops(entry) for key, (_, entry) in variants().items()}
    columns = [((0, 1), "one block"), ((1, 1), "one block, fast"), ((0, 4), "cluster of 4")]
    print("| of one warp and step | " + " | ".join(f"{name}: forward, backward" for _, name in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, pattern in COUNTED:
        cells = [", ".join(str(count(lines, pattern)) for lines in made[key]) for key, _ in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    cells = [", ".join(str(wavefronts(lines)) for lines in made[key]) for key, _ in columns]
    print("| accesses of 128 bytes | " + " | ".join(cells) + " |")
    print()
    print("| predicted: outside of the steps | an iteration, µs |")
    print("| --- | --- |")
    for dependent, iterations, name in [
        (False, 1, "each iteration a replay, each node after the one before"),
        (False, ITERATIONS, f"{ITERATIONS} iterations a replay, each node after the one before"),
        (True, ITERATIONS, f"{ITERATIONS} iterations a replay, dependent launches (`sm_90` and newer)"),
    ]:
        print(f"| {name} | {around(dependent, iterations):.1f} |")
    print()
    print("| predicted | cycles a step, forward + backward | 56 steps, µs | an iteration, µs |")
    print("| --- | --- | --- | --- |")
    for gpu, has_clusters, ghz, r in GPUS:
        for key, name in columns:
            if key[1] > 1 and not has_clusters:
                continue
            forward, backward = (step(lines, n == 0, values[key], r) for n, lines in enumerate(made[key]))
            steps = STEPS * (forward + backward) / ghz / 1e3
            # The GPUs with clusters are those with dependent launches.
            all_of_it = steps + around(has_clusters, ITERATIONS)
            print(f"| {gpu}, {name} | {forward:.0f} + {backward:.0f} | {steps:.1f} | {all_of_it:.0f} |")


if __name__ == "__main__":
    main()
