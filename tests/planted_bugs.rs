//! Bugs planted in the kernels, one at a time: the checks that run without a GPU must find every one of them. Some give
//! right numbers, and only the emulator's checks of every access see them.
//!
//! Needs NVRTC, which compiles the kernels with their bug. Where there is none the test says that it is skipped, and fails
//! if `REQUIRE_NVRTC` is set.

mod support;

use fused_lstm::cuda::device::Limits;
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::nvrtc::{Nvrtc, Target};
use fused_lstm::cuda::sequence_variant::SequenceVariant;
use fused_lstm::cuda::specialized::Specialized;
use fused_lstm::cuda::tf32_variant::Tf32Variant;
use fused_lstm::cuda::variant::{Division, Variant};
use fused_lstm::cuda::{CudaEngine, kept, kept_variants, sources};
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use fused_lstm::engine::{Engine, Model, State, Trace};
use fused_lstm::fixture::relative_max;
use fused_lstm::optimizer::{Adam, Schedule};
use fused_lstm::precision::Precision;
use fused_lstm::reference::{ReferenceEngine, Style};
use fused_lstm::shape::Dims;
use ptx_emulator::Options;
use std::sync::Arc;
use support::models::{dataset, dataset_of, larger, start, start_of};
use support::nvrtc;
use support::sequence::{FORGET_BIAS, pass};

/// Largest errors relative to each tensor's largest value, those of `tests/cuda.rs`.
const OUTPUT: f64 = 4e-6;
const GRADIENT: f64 = 2e-5;
/// Those of `tests/tf32.rs`, against rounded operands.
const TF32_OUTPUT: f64 = 4e-5;
const TF32_GRADIENT: f64 = 5e-5;

/// A bug: `from` becomes `to`, at one place of one file.
struct Bug {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// What the first finding must say: a tensor whose numbers are wrong, or the emulator's words.
    found_by: &'static str,
}

const fn bug(
    file: &'static str,
    name: &'static str,
    from: &'static str,
    to: &'static str,
    found_by: &'static str,
) -> Bug {
    Bug { name, file, from, to, found_by }
}

const BUGS: [Bug; 69] = [
    // ---- common.cuh ----
    bug("common.cuh", "sigmoid of -x", "expf(-x)", "expf(x)", "numbers"),
    bug(
        "common.cuh",
        "warp sum without its first step",
        "distance = WARP / 2; distance > 0; distance /= 2) value += _",
        "distance = WARP / 4; distance > 0; distance /= 2) value += _",
        "numbers",
    ),
    bug(
        "common.cuh",
        "block sum without its barrier",
        "= value;\n    __syncthreads();",
        "= value;",
        "uninitialised memory",
    ),
    bug(
        "common.cuh",
        "block sum forgets a warp",
        "warp < THREADS / WARP; warp++",
        "warp < THREADS / WARP - 1; warp++",
        "numbers",
    ),
    // ---- gather.cu ----
    bug("gather.cu", "no guard at the end", "if (n >= (size_t)T * B * J) return;", "", "out of bounds"),
    bug("gather.cu", "always the first batch", "rows[(size_t)*turn * B + b]", "rows[b]", "numbers"),
    bug("gather.cu", "no 1 for the bias", "float value = 1.0f", "float value = 0.0f", "numbers"),
    bug("gather.cu", "steps a row apart", "((size_t)row * T + t) * I + i", "((size_t)row + t) * I + i", "numbers"),
    bug("gather.cu", "padding is read", "value = over ? 0.0f : ", "value = ", "numbers"),
    bug("gather.cu", "one order for both directions", "reversed ? T - 1 - place : place", "place", "numbers"),
    bug(
        "gather.cu",
        "lengths of other rows",
        "batch_lengths[b] = lengths[row]",
        "batch_lengths[b] = lengths[b]",
        "numbers",
    ),
    // ---- layers.cu ----
    bug("layers.cu", "a round of Philox is missing", "round < 10", "round < 9", "numbers"),
    bug("layers.cu", "the others are left out", "threshold ? 0.0f : scale", "threshold ? scale : 0.0f", "numbers"),
    bug(
        "layers.cu",
        "always the first step's choice",
        "value *= dropout_factor(keys + 2 * *turn",
        "value *= dropout_factor(keys",
        "numbers",
    ),
    bug("layers.cu", "no guard at the last input", "if (n >= (size_t)T * B * J) return;", "", "out of bounds"),
    bug("layers.cu", "the second direction in its own order", "(place_of(t, T, back) + 1)", "(t + 1)", "numbers"),
    bug("layers.cu", "states from before the step", "(place_of(t, T, back) + 1)", "place_of(t, T, back)", "numbers"),
    bug("layers.cu", "no guard at the last gradient", "if (n >= (size_t)T * B * H) return;", "", "out of bounds"),
    bug("layers.cu", "only one cell above", "if (dx_back != nullptr) sum +=", "if (false) sum +=", "numbers"),
    bug(
        "layers.cu",
        "columns of the first direction for both",
        "(int)(n % H) + (reversed ? H : 0)",
        "(int)(n % H)",
        "numbers",
    ),
    bug("layers.cu", "what is left out has a gradient", "if (keys != nullptr) sum *=", "if (false) sum *=", "numbers"),
    bug(
        "layers.cu",
        "no guard at the last unit that is pooled",
        "if (n >= (size_t)B * H) return;\n    const int b = (int)(n / H), unit = (int)(n % H);\n    const size_t step = (size_t)B * H;",
        "const int b = (int)(n / H), unit = (int)(n % H);\n    const size_t step = (size_t)B * H;",
        "out of bounds",
    ),
    bug("layers.cu", "the mean over the padding too", "value /= (float)length", "value /= (float)T", "numbers"),
    bug("layers.cu", "padding is pooled", "t = 1; t < length; t++", "t = 1; t < T; t++", "numbers"),
    bug(
        "layers.cu",
        "the second direction's columns over the first's",
        "* width + first + unit] = value",
        "* width + unit] = value",
        "uninitialised memory",
    ),
    bug(
        "layers.cu",
        "the gradient goes to the padding",
        "reversed ? 0 : length - 1",
        "reversed ? 0 : T - 1",
        "numbers",
    ),
    bug("layers.cu", "the mean's gradient is not divided", "? d / (float)length", "? d", "numbers"),
    bug(
        "layers.cu",
        "the maximum's gradient at the end",
        "== pooled[at]) chosen = t;",
        "> pooled[at]) chosen = t;",
        "numbers",
    ),
    bug(
        "layers.cu",
        "gradients in the order of steps",
        "dh[(size_t)place_of(t, T, reversed) * step + n]",
        "dh[(size_t)t * step + n]",
        "numbers",
    ),
    // ---- linear.cu ----
    bug(
        "linear.cu",
        "no barrier after loading tiles",
        "thread);\n        __syncthreads();\n#pragma unroll 8\n        for (int depth = 0; depth < PRODUCT",
        "thread);\n#pragma unroll 8\n        for (int depth = 0; depth < PRODUCT",
        "race",
    ),
    bug(
        "linear.cu",
        "no barrier before loading the next tiles",
        "still reads.\n        __syncthreads();",
        "still reads.",
        "race",
    ),
    bug("linear.cu", "no guard at the last column", "if (m >= M || n >= N) continue;", "if (m >= M) continue;", "race"),
    bug(
        "linear.cu",
        "no guard at the last summand",
        "inside && down < left ? matrix",
        "down < left ? matrix",
        "uninitialised memory",
    ),
    bug(
        "linear.cu",
        "the last part of a split is a whole one",
        "K - k0 < chunk ? K : k0 + chunk",
        "k0 + chunk",
        "out of bounds",
    ),
    bug("linear.cu", "all parts of a split in one place", "c + (size_t)blockIdx.z * M * N", "c", "race"),
    bug("linear.cu", "bias one row too late", "nullptr && m >= bias_from", "nullptr && m > bias_from", "numbers"),
    bug("linear.cu", "the last part is not added", "z < S; z++", "z < S - 1; z++", "numbers"),
    bug(
        "linear.cu",
        "column sums without their barrier",
        "= sum;\n    __syncthreads();\n    if (threadIdx.y",
        "= sum;\n    if (threadIdx.y",
        "uninitialised memory",
    ),
    bug(
        "linear.cu",
        "column sums of one column",
        "sum += sums[group][threadIdx.x]",
        "sum += sums[group][0]",
        "numbers",
    ),
    // ---- lstm.cu ----
    bug("lstm.cu", "gates i and f exchanged", "GATE_I = 0, GATE_F = 1", "GATE_I = 1, GATE_F = 0", "numbers"),
    bug(
        "lstm.cu",
        "no barrier after loading the forward tiles",
        "        __syncthreads();\n#pragma unroll 8\n        for (int depth = 0; depth < LSTM_DEPTH; depth++) {\n            const float4 weight",
        "#pragma unroll 8\n        for (int depth = 0; depth < LSTM_DEPTH; depth++) {\n            const float4 weight",
        "race",
    ),
    bug(
        "lstm.cu",
        "no guard at the last hidden unit",
        "if (row >= B || unit >= H) continue;\n        const float i = sig",
        "if (row >= B) continue;\n        const float i = sig",
        "race",
    ),
    bug(
        "lstm.cu",
        "a barrier that not all threads meet",
        "        __syncthreads();\n#pragma unroll 8\n        for (int depth = 0; depth < LSTM_DEPTH; depth++) {\n            const float weight",
        "        if (threadIdx.x < H) __syncthreads();\n#pragma unroll 8\n        for (int depth = 0; depth < LSTM_DEPTH; depth++) {\n            const float weight",
        "race",
    ),
    bug(
        "lstm.cu",
        "no barrier after loading the backward tiles",
        "        __syncthreads();\n#pragma unroll 8\n        for (int depth = 0; depth < LSTM_DEPTH; depth++) {\n            const float weight",
        "#pragma unroll 8\n        for (int depth = 0; depth < LSTM_DEPTH; depth++) {\n            const float weight",
        "race",
    ),
    bug("lstm.cu", "dc is read at the last step", "last ? 0.0f : dc[cell]", "dc[cell]", "uninitialised memory"),
    bug("lstm.cu", "dc does not pass the forget gate", "0.0f : d_c * f;", "0.0f : d_c;", "numbers"),
    bug("lstm.cu", "a sequence does not end", "h[cell] = over ? h_prev[cell] : ", "h[cell] = ", "numbers"),
    bug("lstm.cu", "padding has a gradient", "GATE_G * H] = over ? 0.0f : d_c", "GATE_G * H] = d_c", "numbers"),
    bug("lstm.cu", "only the last state is read by others", "d_h + dh_outside[cell]", "d_h", "numbers"),
    bug("lstm.cu", "derivative of tanh", "d_c * i * (1.0f - g * g)", "d_c * i * (1.0f - g)", "numbers"),
    bug(
        "lstm.cu",
        "cell state of the wrong unit",
        "fmaf(f, c_prev[cell], i * g)",
        "fmaf(f, c_prev[(size_t)row * H + threadIdx.x], i * g)",
        "numbers",
    ),
    bug(
        "lstm.cu",
        "a pair of numbers where one may start",
        "const float i = gates[first + (size_t)GATE_I * H],",
        "const float i = ((const float2*)(gates + first))->x + 0.0f * ((const float2*)(gates + first))->y,",
        "misaligned",
    ),
    bug(
        "lstm.cu",
        "da of all rows in the first",
        "da[first + (size_t)GATE_O * H]",
        "da[unit + (size_t)GATE_O * H]",
        "race",
    ),
    // ---- softmax_xent.cu ----
    bug(
        "softmax_xent.cu",
        "lanes without a class leave before the shuffles",
        "if (row >= B) return;\n    const float* of_row = logits + (size_t)row * K;\n    const int label",
        "if (row >= B || lane >= K) return;\n    const float* of_row = logits + (size_t)row * K;\n    const int label",
        "divergent warp instruction",
    ),
    bug(
        "softmax_xent.cu",
        "the largest logit is not taken off",
        "const float probability = expf(of_row[k] - max)",
        "const float probability = expf(of_row[k])",
        "numbers",
    ),
    bug("softmax_xent.cu", "of equal logits the last", "other_best < best", "other_best > best", "numbers"),
    bug(
        "softmax_xent.cu",
        "loss of the predicted class",
        "sum) + max - of_row[label]",
        "sum) + max - of_row[best]",
        "numbers",
    ),
    bug("softmax_xent.cu", "nothing is spread over all classes", "0.0f) + spread", "0.0f)", "numbers"),
    bug("softmax_xent.cu", "the loss is not smoothed", " + spread * below", "", "numbers"),
    bug(
        "softmax_xent.cu",
        "counts are read before the barrier",
        "    const float total = block_sum<METRICS_THREADS>(sum);\n    if (threadIdx.x != 0) return;\n    u32 right = 0;\n    for (int warp = 0; warp < METRICS_THREADS / WARP; warp++) right += counts[warp];",
        "    u32 right = 0;\n    for (int warp = 0; warp < METRICS_THREADS / WARP; warp++) right += counts[warp];\n    const float total = block_sum<METRICS_THREADS>(sum);\n    if (threadIdx.x != 0) return;",
        "uninitialised memory",
    ),
    bug("softmax_xent.cu", "the loss of every step in one place", "mean_loss[*turn]", "mean_loss[0]", "never written"),
    // ---- adam.cu ----
    bug("adam.cu", "epsilon under the root", "(sqrtf(square) + epsilon)", "sqrtf(square + epsilon)", "numbers"),
    bug(
        "adam.cu",
        "no guard at the end",
        "    if (at >= n) return;\n    const float g",
        "    const float g",
        "out of bounds",
    ),
    bug("adam.cu", "always the first step size", "step_sizes[*turn]", "step_sizes[0]", "numbers"),
    bug("adam.cu", "m is not kept", "    m[at] = mean;\n", "", "numbers"),
    bug("adam.cu", "squares are added twice", "at < n; at += stride", "at < n; at += ADAM_THREADS", "numbers"),
    bug("adam.cu", "clip is read where there is none", "clip != nullptr ?", "clip == nullptr ?", "out of bounds"),
    bug("adam.cu", "always the first step's decay", "kept[*turn]", "kept[0]", "numbers"),
    bug("adam.cu", "every second batch", "*turn += 1;", "*turn += 2;", "uninitialised memory"),
];

/// Bugs of the persistent kernels.
const PERSISTENT_BUGS: [Bug; 79] = [
    // ---- persistent/layout.cuh ----
    bug(
        "persistent/layout.cuh",
        "quarters of a weight tile exchanged",
        "word = row / 8 + column / 8 * 2",
        "word = row / 8 * 2 + column / 8",
        "numbers",
    ),
    bug(
        "persistent/layout.cuh",
        "gate rows without their tiles of units",
        "return unit / TILE_ROWS * TILE_ROWS * GATES + gate * TILE_ROWS + unit % TILE_ROWS;",
        "return gate * UNITS + unit;",
        "numbers",
    ),
    // ---- persistent/tensor.cuh ----
    bug(
        "persistent/tensor.cuh",
        "pairs of bf16 the wrong way round",
        "cvt.rn.bf16x2.f32 %0,%1,%2;\" : \"=r\"(pair) : \"f\"(high), \"f\"(low)",
        "cvt.rn.bf16x2.f32 %0,%1,%2;\" : \"=r\"(pair) : \"f\"(low), \"f\"(high)",
        "numbers",
    ),
    bug(
        "persistent/tensor.cuh",
        "halves of f16 exchanged",
        "half ? pair >> 16 : pair",
        "half ? pair : pair >> 16",
        "numbers",
    ),
    bug(
        "persistent/tensor.cuh",
        "a launch that follows early waits for none",
        "launch_dependents;\\n\\tgriddepcontrol.wait;",
        "launch_dependents;",
        "not waited for",
    ),
    // ---- persistent/transcendental.cuh ----
    bug(
        "persistent/transcendental.cuh",
        "reciprocals of two gates exchanged",
        "gate[GATE_I] = of_i_f * f, gate[GATE_F] = of_i_f * i;",
        "gate[GATE_I] = of_i_f * i, gate[GATE_F] = of_i_f * f;",
        "numbers",
    ),
    // ---- persistent/lstm.cu ----
    bug(
        "persistent/lstm.cu",
        "halves of an operand exchanged",
        "weight, operand[at][0], operand[at][1])",
        "weight, operand[at][1], operand[at][0])",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "matrices of two operand tiles mixed up",
        "to[tile][1] = two.y, to[tile + 1][0] = two.z",
        "to[tile][1] = two.z, to[tile + 1][0] = two.y",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "no guard at the last row",
        "batch[min(row + e, B - 1)]",
        "batch[row + e]",
        "out of bounds",
    ),
    bug("persistent/lstm.cu", "no 1 for the bias", "input < I + BIAS_PARTS ? 1.0f", "input < I ? 1.0f", "numbers"),
    bug(
        "persistent/lstm.cu",
        "inputs are fetched before they are there",
        "before it is written to.\n    meet();",
        "before it is written to.",
        "may not have started",
    ),
    bug(
        "persistent/lstm.cu",
        "a step does not wait for its input",
        "wait_for_copies<X_SLOTS - 3>();",
        "wait_for_copies<X_SLOTS - 1>();",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "an input comes into the place of one in use",
        "share, t + FETCHED, T);",
        "share, t + FETCHED + 1, T);",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "no barrier between steps forward",
        "of the step before any more.\n        wait_for_all();",
        "of the step before any more.",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "h in the place that is being read",
        "FORWARD_H + (((t + 1) & 1) * TILES",
        "FORWARD_H + ((t & 1) * TILES",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "a cell does not pass its forget gate",
        "fmaf(gates[e][GATE_F], c[e], ",
        "fmaf(1.0f, c[e], ",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "the cell after a step is saved as the one before it",
        "left.cells.y = pair",
        "left.cells.x = pair_of_f16(c[0], c[1]), left.cells.y = pair",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "no barrier before the head",
        "cells += SAVED;\n    }\n    wait_for_all();",
        "cells += SAVED;\n    }",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "no barrier before the loss",
        "head_forward(shared, w_out, b_out, share, H, K);\n    meet();\n    score_rows(shared, logits, loss, predicted, batch_labels,",
        "head_forward(shared, w_out, b_out, share, H, K);\n    score_rows(shared, logits, loss, predicted, batch_labels,",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "rows beyond the batch have a gradient",
        "row[k] = inside ? (expf",
        "row[k] = true ? (expf",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "no guard at the last row's loss",
        "if (lane == 0 && inside && tell) {",
        "if (lane == 0 && tell) {",
        "out of bounds",
    ),
    bug(
        "persistent/lstm.cu",
        "backward begins in the space of h_T while it is read",
        "is free for backward.\n    meet();",
        "is free for backward.",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "saved values of the wrong step",
        "if (next_t-- > 0) saved",
        "if (next_t-- > 1) saved",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "dc does not pass the forget gate",
        "dc[group][e] = d_c * factor.keep;",
        "dc[group][e] = d_c;",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "no barrier between steps backward",
        "the one that is written next.\n        wait_for_all();",
        "the one that is written next.",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "da in one place",
        "BACKWARD_DA + ((t & 1) * TILES + tile)",
        "BACKWARD_DA + (1 * TILES + tile)",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "forward alone leaves out its last step",
        "for (int t = 0; t < T; t++) {\n        // Now",
        "for (int t = 0; t < T - (TRAINING || T == 1 ? 0 : 1); t++) {\n        // Now",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "forward alone takes the inputs of another layout",
        "return TRAINING ? at * HX_WORDS + UNITS * ROW_WORDS : at * INPUTS * ROW_WORDS;",
        "return at * HX_WORDS + UNITS * ROW_WORDS;",
        "out of bounds",
    ),
    bug(
        "persistent/lstm.cu",
        "every tile has the first one's cells",
        "of_tile = &all_c[(tile * GROUPS",
        "of_tile = &all_c[(0 * GROUPS",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "every tile has the first one's dc",
        "const float2 of_group = all_dc[(tile * GROUPS",
        "const float2 of_group = all_dc[(0 * GROUPS",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "tiles share a place of h",
        "const int h_next = FORWARD_H + (((t + 1) & 1) * TILES + tile)",
        "const int h_next = FORWARD_H + (((t + 1) & 1) * TILES)",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "tiles beyond the last are computed",
        "TILES == 1 ? 1 : min(TILES, tiles - first)",
        "TILES",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "blocks of a cluster meet alone",
        "else wait_for_cluster();",
        "else __syncthreads();",
        "cluster",
    ),
    bug(
        "persistent/lstm.cu",
        "h and da stay in their block",
        "address_in(shared_address(shared), rank) + at",
        "shared_address(shared) + at",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "one block of a cluster is left out",
        "for (int rank = 0; rank < CLUSTER; rank++) store_in",
        "for (int rank = 1; rank < CLUSTER; rank++) store_in",
        "uninitialised memory",
    ),
    bug(
        "persistent/lstm.cu",
        "blocks of a cluster have the same weights",
        "rank * BLOCK_WARPS + (int)threadIdx.x / WARP}",
        "(int)threadIdx.x / WARP}",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "a block is written to when it may be gone",
        "if (CLUSTER == 1 || t > 0)",
        "if (CLUSTER == 1 || t >= 0)",
        "cluster",
    ),
    bug(
        "persistent/lstm.cu",
        "every block of a cluster tells the loss",
        "tell = share.rank == 0;",
        "tell = true;",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "models share what is saved",
        "saved_gates += model * tiles * T * SAVED, saved",
        "saved",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "a model begins a step too early",
        "hx += model * (T + 1) * tiles",
        "hx += model * T * tiles",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "every model has the first one's batch",
        "(*turn * (size_t)gridDim.y + model) * B",
        "*turn * (size_t)gridDim.y * B",
        "side by side",
    ),
    bug(
        "persistent/lstm.cu",
        "a model has the first one's head",
        "w_out += model * model_size, b_out",
        "b_out",
        "side by side",
    ),
    bug(
        "persistent/lstm.cu",
        "the turn is read before the launch that counts it has ended",
        "    follow_launches();\n    const u32* batch = rows + (*turn * (size_t)gridDim.y + model) * B;",
        "    const u32* batch = rows + (*turn * (size_t)gridDim.y + model) * B;\n    follow_launches();",
        "an earlier launch",
    ),
    bug(
        "persistent/lstm.cu",
        "x is left out",
        "sum[0][m][result] = of_x[0][m][result];",
        "sum[0][m][result] = 0.0f;",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "x of the step before",
        "sum_inputs(min(t + 1, T - 1), tile)",
        "sum_inputs(t, tile)",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "both warps of a pair sum the same half",
        "return k / 2 * 4 + half * 2 + k % 2;",
        "return k / 2 * 4 + k % 2;",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "of one tile of units both warps finish the first rows",
        "if (GROUPS == 1 && half == 1) weight",
        "if (GROUPS == 1 && half == 2) weight",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "of two tiles of units both warps finish the first",
        "(GROUPS == 2 ? m ^ half : 0)",
        "(GROUPS == 2 ? m : 0)",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "a warp gives its partner its own units",
        "= halves[GROUPS + group][e];",
        "= halves[group][e];",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "a half is given to no partner",
        "place_of_da(t, tile, share.warp ^ 1)",
        "place_of_da(t, tile, share.warp)",
        "numbers",
    ),
    bug(
        "persistent/lstm.cu",
        "a pair of warps does not meet",
        "    wait_at(1 + threadIdx.x / (2 * WARP), 2 * WARP);\n",
        "",
        "race",
    ),
    bug(
        "persistent/lstm.cu",
        "all pairs of warps have one barrier",
        "wait_at(1 + threadIdx.x / (2 * WARP)",
        "wait_at(1",
        "uninitialised memory",
    ),
    // ---- persistent/pack.cu ----
    bug(
        "persistent/pack.cu",
        "forget bias in another gate",
        "(gate == GATE_F ? forget_bias",
        "(gate == GATE_G ? forget_bias",
        "numbers",
    ),
    bug(
        "persistent/pack.cu",
        "padding is not zero",
        " else if (row >= I + BIAS_PARTS && row < INPUTS) weights[forward_place(row, gate, unit)] = 0;",
        "",
        "uninitialised memory",
    ),
    bug(
        "persistent/pack.cu",
        "no barrier after loading tiles",
        "            __syncthreads();\n#pragma unroll 4",
        "#pragma unroll 4",
        "race",
    ),
    bug(
        "persistent/pack.cu",
        "no barrier before loading the next tiles",
        "still reads.\n            __syncthreads();",
        "still reads.",
        "race",
    ),
    bug("persistent/pack.cu", "every block counts the turn", "&& blockIdx.x == 0 &&", "&&", "race"),
    bug(
        "persistent/pack.cu",
        "every model packs the first one's weights",
        "w_h += model * model_size, forward",
        "forward",
        "side by side",
    ),
    bug(
        "persistent/pack.cu",
        "every model counts the turn",
        "blockIdx.x == 0 && model == 0 &&",
        "blockIdx.x == 0 &&",
        "race",
    ),
    bug(
        "persistent/pack.cu",
        "weights are folded before their update has ended",
        "    follow_launches();\n",
        "",
        "earlier launches not waited for",
    ),
    // ---- persistent/weight_gradient.cu ----
    bug(
        "persistent/weight_gradient.cu",
        "a stage is not waited for",
        "wait_for_copies<STAGES - 2>();",
        "wait_for_copies<STAGES - 1>();",
        "race",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "no barrier before the next stage",
        "the next one takes.\n        __syncthreads();",
        "the next one takes.",
        "race",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "tiles beyond the last are fetched",
        "first + tile < tiles && column0 + column < GATES * UNITS;",
        "column0 + column < GATES * UNITS;",
        "out of bounds",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "tiles of an operand exchanged",
        "&stage.hx[tile + lane / 16][row]",
        "&stage.hx[tile + 1 - lane / 16][row]",
        "numbers",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "parts are added by every block",
        "return last;",
        "return true;",
        "uninitialised memory",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "parts are counted before they are seen",
        "        __threadfence();\n        last =",
        "        last =",
        "race",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "counters are not cleared",
        "if (last) counters[blockIdx.x] = 0;",
        "",
        "numbers",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "the gradient lacks the scale of bytes",
        "input < I ? sum * scale : sum;",
        "sum;",
        "numbers",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "models share their counters",
        ", counters += model * gridDim.x;",
        ";",
        "uninitialised memory",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "da of a model at the place of its hx",
        "da += model * tiles * (GATES",
        "da += model * hx_tiles * (GATES",
        "out of bounds",
    ),
    bug(
        "persistent/weight_gradient.cu",
        "products begin before the steps have ended",
        "    follow_launches();\n",
        "",
        "an earlier launch",
    ),
    // ---- persistent/weight_update.cu ----
    bug(
        "persistent/weight_update.cu",
        "the step size is looked up before the launches before have ended",
        "    follow_launches();\n    const int G = GATES * H, J = I + 1;\n    const size_t model = blockIdx.y, of_turn = *turn * (size_t)gridDim.y + model;",
        "    const int G = GATES * H, J = I + 1;\n    const size_t model = blockIdx.y, of_turn = *turn * (size_t)gridDim.y + model;\n    follow_launches();",
        "an earlier launch",
    ),
    bug(
        "persistent/weight_update.cu",
        "no barrier before parameters change",
        "written to the parameters.\n    __syncthreads();",
        "written to the parameters.",
        "race",
    ),
    bug(
        "persistent/weight_update.cu",
        "the new W_x in the gradient of W_in",
        "row_x[n], sum)",
        "of_w_x.parameters[(size_t)p * G + n], sum)",
        "race",
    ),
    bug(
        "persistent/weight_update.cu",
        "backward weights stay as they were",
        "        backward_weights[backward_place(unit, gate, of_gate)] = weight;\n",
        "",
        "numbers",
    ),
    bug(
        "persistent/weight_update.cu",
        "the loss of every step in one place",
        "mean_loss + of_turn, correct + of_turn",
        "mean_loss, correct",
        "never written",
    ),
    bug(
        "persistent/weight_update.cu",
        "no guard at the last weight",
        "head < 0 || head >= size",
        "head < 0",
        "out of bounds",
    ),
    bug(
        "persistent/weight_update.cu",
        "every model takes the first one's step",
        "step_sizes[of_turn]",
        "step_sizes[of_turn - model]",
        "side by side",
    ),
    bug(
        "persistent/weight_update.cu",
        "models overlap in m",
        "m += model * model_size",
        "m += model * (model_size - 1)",
        "race",
    ),
];

/// Bugs of the sequence kernels.
const SEQUENCE_BUGS: [Bug; 20] = [
    // ---- sequence/layout.cuh ----
    bug(
        "sequence/layout.cuh",
        "lanes keep the wrong half",
        "halves && upper ? value[n + count] : value[n]",
        "halves && !upper ? value[n + count] : value[n]",
        "numbers",
    ),
    bug(
        "sequence/layout.cuh",
        "a place of shared weights too early",
        "return is_shared(place, SHARED) ? shared[before * THREADS]",
        "return is_shared(place, SHARED) ? shared[(before > 0 ? before - 1 : 0) * THREADS]",
        "numbers",
    ),
    // ---- sequence/peers.cuh ----
    bug(
        "sequence/peers.cuh",
        "h and da stay in their own block",
        "asm volatile(\"st.shared::cluster.f32 [%0],%1;\" ::\"r\"(address), \"f\"(value) : \"memory\");",
        "*to = value;",
        "race",
    ),
    bug(
        "sequence/peers.cuh",
        "a block waits for itself alone",
        "    if constexpr (CLUSTER == 1) {\n        __syncthreads();",
        "    if constexpr (true) {\n        __syncthreads();",
        "block of the cluster absent",
    ),
    // ---- sequence/forward.cu ----
    bug(
        "sequence/forward.cu",
        "no guard at the last row",
        "return unit < H && first_row + n / GATES < B;",
        "return unit < H;",
        "race",
    ),
    bug(
        "sequence/forward.cu",
        "no guard at the last unit",
        "return unit < H && first_row + n / GATES < B;",
        "return first_row + n / GATES < B;",
        "race",
    ),
    bug(
        "sequence/forward.cu",
        "h in the place that is being read",
        "h_shared + (t + 1) % 2 * ROWS * UNITS + (first_row",
        "h_shared + t % 2 * ROWS * UNITS + (first_row",
        "race",
    ),
    bug(
        "sequence/forward.cu",
        "no barrier between steps",
        "the place of h_{t-1} any more.\n        wait_for_cluster();",
        "the place of h_{t-1} any more.",
        "race",
    ),
    bug(
        "sequence/forward.cu",
        "no barrier before the first step",
        "to one that has not started.\n    wait_for_cluster();",
        "to one that has not started.",
        "race",
    ),
    bug(
        "sequence/forward.cu",
        "forget bias in another gate",
        "gate == GATE_F ? a + forget_bias",
        "gate == GATE_O ? a + forget_bias",
        "numbers",
    ),
    bug(
        "sequence/forward.cu",
        "inputs of the step that is done",
        "if (t + 1 < T) fetch(t + 1);",
        "if (t + 1 < T) fetch(t);",
        "numbers",
    ),
    bug(
        "sequence/forward.cu",
        "a cell does not pass its forget gate",
        "fmaf(of_cell[GATE_F], state[cell], of_cell",
        "fmaf(1.0f, state[cell], of_cell",
        "numbers",
    ),
    bug(
        "sequence/forward.cu",
        "scores from the first step's state",
        "(SAVES || t + 1 == T) && unit",
        "(SAVES || t == 0) && unit",
        "numbers",
    ),
    // ---- sequence/backward.cu ----
    bug(
        "sequence/backward.cu",
        "no guard at the last row",
        "return unit < H && first_row + cell < B;",
        "return unit < H;",
        "out of bounds",
    ),
    bug("sequence/backward.cu", "da in one place", "da_shared + t % 2 * ROWS * COLUMNS;", "da_shared;", "race"),
    bug(
        "sequence/backward.cu",
        "no barrier between steps",
        "the one that is written next.\n        wait_for_cluster();",
        "the one that is written next.",
        "race",
    ),
    bug("sequence/backward.cu", "gates of the wrong step", "        fetch(t - 1);\n", "        fetch(t);\n", "numbers"),
    bug(
        "sequence/backward.cu",
        "dc does not pass the forget gate",
        "dc[cell] = d_c * f;",
        "dc[cell] = d_c;",
        "numbers",
    ),
    bug(
        "sequence/backward.cu",
        "a block is written to that may be done",
        "                if (t == 0) continue;\n",
        "",
        "block of the cluster absent",
    ),
    // ---- sequence/pack.cu ----
    bug("sequence/pack.cu", "columns gate after gate", "column / 16 % GATES", "column / UNITS", "numbers"),
];

/// Bugs of the TF32 kernels.
const TF32_BUGS: [Bug; 22] = [
    // ---- tf32/layout.cuh ----
    bug(
        "tf32/layout.cuh",
        "an operand tile of shared memory too early",
        "return is_shared(place, SHARED) ? shared[before * THREADS]",
        "return is_shared(place, SHARED) ? shared[(before > 0 ? before - 1 : 0) * THREADS]",
        "numbers",
    ),
    // ---- tf32/tensor.cuh ----
    bug(
        "tf32/tensor.cuh",
        "factors are cut, not rounded",
        "asm(\"cvt.rna.tf32.f32 %0,%1;\" : \"=r\"(rounded) : \"f\"(x));",
        "rounded = __float_as_uint(x) & 0xffffe000u;",
        "numbers",
    ),
    bug(
        "tf32/tensor.cuh",
        "halves of an operand exchanged",
        "\"r\"(low), \"r\"(high)",
        "\"r\"(high), \"r\"(low)",
        "numbers",
    ),
    bug(
        "tf32/tensor.cuh",
        "h and da stay in their own block",
        "asm volatile(\"st.shared::cluster.v2.u32 [%0],{%1,%2};\" ::\"r\"(address), \"r\"(first), \"r\"(second) : \"memory\");",
        "*(uint2*)to = make_uint2(first, second);",
        "uninitialised memory",
    ),
    // ---- tf32/forward.cu ----
    bug(
        "tf32/forward.cu",
        "no guard at the last row",
        "return unit_of(cell) < H && row_of(cell) < B;",
        "return unit_of(cell) < H;",
        "race",
    ),
    bug(
        "tf32/forward.cu",
        "no guard at the last unit",
        "return unit_of(cell) < H && row_of(cell) < B;",
        "return row_of(cell) < B;",
        "race",
    ),
    bug(
        "tf32/forward.cu",
        "a chain of sums is left out",
        "(sum[0][tile][result] + sum[1][tile][result])",
        "sum[0][tile][result]",
        "numbers",
    ),
    bug(
        "tf32/forward.cu",
        "rows of the batch in the place of gates",
        "result = gate % 2 * 2 + cell % 2;",
        "result = cell % 2 * 2 + gate % 2;",
        "numbers",
    ),
    bug(
        "tf32/forward.cu",
        "h in the place that is being read",
        "h_shared + (t + 1) % 2 * UNITS * TILE_ROWS;",
        "h_shared + t % 2 * UNITS * TILE_ROWS;",
        "race",
    ),
    bug(
        "tf32/forward.cu",
        "no barrier between steps",
        "the place of h_{t-1} any more.\n        wait_for_cluster();",
        "the place of h_{t-1} any more.",
        "race",
    ),
    bug(
        "tf32/forward.cu",
        "no barrier before the first step",
        "to one that has not started.\n    wait_for_cluster();",
        "to one that has not started.",
        "race",
    ),
    bug(
        "tf32/forward.cu",
        "forget bias in another gate",
        "gate == GATE_F ? a + forget_bias",
        "gate == GATE_O ? a + forget_bias",
        "numbers",
    ),
    bug(
        "tf32/forward.cu",
        "inputs of the step that is done",
        "if (t + 1 < T) fetch(t + 1);",
        "if (t + 1 < T) fetch(t);",
        "numbers",
    ),
    bug(
        "tf32/forward.cu",
        "scores from the first step's state",
        "(SAVES || t + 1 == T) && is",
        "(SAVES || t == 0) && is",
        "numbers",
    ),
    // ---- tf32/backward.cu ----
    bug(
        "tf32/backward.cu",
        "no guard at the last row",
        "return unit_of(cell) < H && row_of(cell) < B;",
        "return unit_of(cell) < H;",
        "out of bounds",
    ),
    bug("tf32/backward.cu", "da in one place", "da_shared + t % 2 * DA_WORDS;", "da_shared;", "race"),
    bug(
        "tf32/backward.cu",
        "no barrier between steps",
        "the one that is written next.\n        wait_for_cluster();",
        "the one that is written next.",
        "race",
    ),
    bug("tf32/backward.cu", "gates of the wrong step", "        fetch(t - 1);\n", "        fetch(t);\n", "numbers"),
    bug(
        "tf32/backward.cu",
        "a block is written to that may be done",
        "            if (t == 0) continue;\n",
        "",
        "block of the cluster absent",
    ),
    bug(
        "tf32/backward.cu",
        "sums of another warp before they are there",
        "the next wait for all.\n            __syncthreads();",
        "the next wait for all.",
        "uninitialised memory",
    ),
    bug(
        "tf32/backward.cu",
        "warps keep what they give away",
        "dh[0] = (half ? sum[0][2] : sum[0][0])",
        "dh[0] = (half ? sum[0][0] : sum[0][2])",
        "numbers",
    ),
    // ---- tf32/pack.cu ----
    bug(
        "tf32/pack.cu",
        "rows of an operand in the place of columns",
        "const int row = lane / 4, upper",
        "const int row = lane % 8, upper",
        "numbers",
    ),
];

/// The text that a file is in.
fn unit_of(file: &str) -> &'static str {
    match file.split_once('/') {
        Some(("persistent", _)) => sources::PERSISTENT,
        Some(("tf32", _)) => sources::TF32,
        Some(_) => sources::SEQUENCE,
        None => sources::KERNELS,
    }
}

/// The kernels with a bug.
fn planted(bug: &Bug) -> String {
    let kernels = unit_of(bug.file);
    let mark = format!("#line 1 \"kernels/{}\"\n", bug.file);
    let (before, rest) = kernels.split_once(&mark).expect("the file is among the kernels");
    let (file, after) = rest.split_at(rest.find("\n#line ").unwrap_or(rest.len()));
    // Comments speak of the code in its own words.
    let places = file.matches(bug.from).count();
    assert_eq!(places, 1, "{}: {:?} stands {places} times in {}", bug.name, bug.from, bug.file);
    format!("{before}{mark}{}{after}", file.replacen(bug.from, bug.to, 1))
}

fn ptx(nvrtc: &Nvrtc, source: &str) -> String {
    let compiled = nvrtc.compile(source, "kernels.cu", &Target::Ptx("compute_75".into())).unwrap();
    String::from_utf8(compiled.code).unwrap()
}

/// What is to be run: sizes, clipping, data in bytes or numbers.
struct Case {
    sizes: [usize; 6],
    grad_clip: Option<f32>,
    bytes: bool,
}

const CASES: [Case; 3] = [
    // One tile of everything, odd sizes; sizes of several tiles and parts; data in bytes.
    Case { sizes: [13, 5, 7, 9, 21, 10], grad_clip: None, bytes: false },
    Case { sizes: [45, 3, 5, 33, 37, 35], grad_clip: Some(0.05), bytes: false },
    Case { sizes: [300, 1, 3, 2, 3, 3], grad_clip: None, bytes: true },
];

/// Four, which is one replay: so launches follow those of the iteration before.
const STEPS: usize = 4;

fn compare(tensor: &str, got: &[f32], expected: &[f32], bound: f64) -> Result<(), String> {
    let [got, expected] = [got, expected].map(|v| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let error = relative_max(&got, &expected);
    if error <= bound { Ok(()) } else { Err(format!("numbers: {tensor} is off by {error:.1e}")) }
}

fn compare_traces(got: &Trace, expected: &Trace, model: Model) -> Result<(), String> {
    compare("logits", &got.logits, &expected.logits, OUTPUT)?;
    compare("h", &got.h_last, &expected.h_last, OUTPUT)?;
    compare("c", &got.c_last, &expected.c_last, OUTPUT)?;
    compare("loss", &got.loss, &expected.loss, OUTPUT)?;
    let ranges = model.layout().ranges().into_vec();
    for (tensor, range) in model.layout().names().into_vec().iter().zip(ranges) {
        compare(&format!("d{tensor}"), &got.gradient[range.clone()], &expected.gradient[range], GRADIENT)?;
    }
    compare("dx", &got.dx, &expected.dx, GRADIENT)
}

/// Everything that an engine shows of itself.
fn run(engine: &mut dyn Engine, data: &Dataset, batch: usize) -> Result<(Trace, Vec<f32>, State, Vec<u32>), String> {
    let told = |error: fused_lstm::Error| error.to_string();
    let start = start_of(&engine.model());
    // With all parameters zero all logits are equal, and the first class is the answer.
    let ties = engine.evaluate(Split::Train, &[0, 1, 2]).map_err(told)?.predicted;
    engine.set_state(&start).map_err(told)?;
    let trace = engine.trace(&data.train).map_err(told)?;
    // Other rows in each step.
    let batch = batch - batch / 4;
    let rows: Vec<u32> = (0..STEPS * batch).map(|k| (k * 7 % data.train.len()) as u32).collect();
    let metrics = engine.train_steps(&rows, batch).map_err(told)?;
    let mut seen: Vec<f32> = metrics.iter().map(|m| m.loss).collect();
    seen.extend(metrics.iter().map(|m| m.correct as f32));
    seen.extend(engine.predict(&data.train).map_err(told)?);
    Ok((trace, seen, engine.state().map_err(told)?, ties))
}

fn data_of(case: &Case, dims: Dims) -> Arc<Dataset> {
    let n = case.sizes[0];
    if !case.bytes {
        return dataset(dims, n);
    }
    let bytes = (0..n * dims.sequence_len()).map(|k| (k * 37 % 256) as u8).collect();
    let labels = (0..n).map(|k| (k % dims.k) as u32).collect();
    dataset_of(Sequences::new(dims.t, dims.i, Values::U8 { bytes, scale: 1.0 / 255.0 }, labels), dims.k)
}

/// Models beyond the tutorial's, by their sizes of batch: one bidirectional layer with the maximum over the steps, two layers
/// with the mean, two bidirectional layers with the last state; each on sequences of different lengths.
const LARGER: [usize; 3] = [5, 7, 65];

/// What is trained: the tutorial's model, and models beyond it.
fn trainings() -> Vec<(Model, Adam, Arc<Dataset>)> {
    let of_case = |case: &Case| {
        let [_, t, i, p, h, k] = case.sizes;
        let dims = Dims { t, i, p, h, k };
        let adam = Adam { grad_clip: case.grad_clip, ..Adam::default() };
        (Model { forget_bias: 0.7, ..Model::new(dims) }, adam, data_of(case, dims))
    };
    let schedule = Schedule::Cosine { warm_up: 2, steps: 8 };
    let adam = Adam { learning_rate: 0.003, weight_decay: 20.0, schedule, ..Adam::default() };
    let larger = larger().into_iter().filter(|(_, sequences)| LARGER.contains(&sequences.len()));
    let larger = larger.map(|(model, sequences)| (model, adam, dataset_of(sequences, model.dims.k)));
    CASES.iter().map(of_case).chain(larger).collect()
}

/// What the checks find in these kernels.
fn findings(ptx: &str) -> Result<(), String> {
    for (model, adam, data) in trainings() {
        let batch = data.train.len();
        let on = |seed| {
            let mut device = Emulated::new(ptx, Options { seed, ..Options::default() }).map_err(|e| e.to_string())?;
            // Too little shared memory for the kernels that run all steps in one launch.
            device.set_limits(Limits { capability: (9, 0), shared: 0, multiprocessors: 132 });
            let mut engine = CudaEngine::new(device, model, adam, data.clone()).map_err(|e| e.to_string())?;
            run(&mut engine, &data, batch)
        };
        let got = on(0)?;
        let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
        let expected = run(&mut reference, &data, batch)?;
        compare_traces(&got.0, &expected.0, model)?;
        compare("losses, counts and probabilities", &got.1, &expected.1, OUTPUT)?;
        compare("parameters", &got.2.parameters, &expected.2.parameters, GRADIENT)?;
        if got.3 != expected.3 {
            return Err("numbers: the class of equal logits".into());
        }
        if on(7)? != got {
            return Err("another schedule gives other bits".into());
        }
    }
    Ok(())
}

/// Plants each bug, and fails if `findings` do not name what it should be found by.
fn check_all<'a>(bugs: impl IntoIterator<Item = &'a Bug>, findings: impl Fn(&str) -> Result<(), String>) {
    let mut missed = Vec::new();
    for bug in bugs {
        let found = findings(&planted(bug)).err();
        let text = found.as_deref().unwrap_or("nothing");
        println!("{}: {}: {text}", bug.file, bug.name);
        if !text.contains(bug.found_by) {
            missed.push(format!("{}: expected {:?}, found {text}", bug.name, bug.found_by));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Plants each bug of a file and looks for it.
fn check(file: &str) {
    let Some(nvrtc) = nvrtc() else { return };
    check_all(BUGS.iter().filter(|bug| bug.file == file), |kernels| findings(&ptx(&nvrtc, kernels)));
}

#[test]
fn the_kernels_as_they_are_have_no_bug() {
    assert_eq!(findings(kept::ptx()), Ok(()));
}

#[test]
fn bugs_in_common_cuh() {
    check("common.cuh");
}

#[test]
fn bugs_in_gather_cu() {
    check("gather.cu");
}

#[test]
fn bugs_in_layers_cu() {
    check("layers.cu");
}

#[test]
fn bugs_in_linear_cu() {
    check("linear.cu");
}

#[test]
fn bugs_in_lstm_cu() {
    check("lstm.cu");
}

#[test]
fn bugs_in_softmax_xent_cu() {
    check("softmax_xent.cu");
}

#[test]
fn bugs_in_adam_cu() {
    check("adam.cu");
}

// ---- persistent kernels ----

/// Largest errors against the reference with rounded operands, those of `tests/persistent.rs`, and of Adam's m.
const ROUNDED_OUTPUT: f64 = 2e-3;
const ROUNDED_GRADIENT: f64 = 2e-2;
const ROUNDED_M: f64 = 4e-2;
/// Losses and probabilities after a few large steps.
const ROUNDED_LOSSES: f64 = 2e-2;

/// What is to be run of the persistent kernels, on how many multiprocessors, and how it is divided among blocks. One
/// multiprocessor: weight gradients in one part of several stages. Many: in several parts. Several tiles to a block and a cluster. Warps of
/// two groups of units.
const PERSISTENT_CASES: [(Case, u32, Division); 5] = [
    (Case { sizes: [37, 4, 7, 9, 30, 3], grad_clip: None, bytes: false }, 132, Division { tiles: 2, cluster: 2 }),
    (Case { sizes: [9, 1, 3, 150, 5, 3], grad_clip: None, bytes: false }, 132, Division::ONE),
    (Case { sizes: [13, 5, 7, 9, 21, 10], grad_clip: None, bytes: true }, 132, Division::ONE),
    (Case { sizes: [45, 6, 30, 33, 50, 35], grad_clip: None, bytes: false }, 1, Division::ONE),
    (Case { sizes: [9, 3, 20, 16, 120, 10], grad_clip: None, bytes: false }, 132, Division::ONE),
];

fn compare_rounded(got: &Trace, expected: &Trace, model: Model) -> Result<(), String> {
    compare("logits", &got.logits, &expected.logits, ROUNDED_OUTPUT)?;
    compare("h", &got.h_last, &expected.h_last, ROUNDED_OUTPUT)?;
    compare("c", &got.c_last, &expected.c_last, ROUNDED_OUTPUT)?;
    compare("loss", &got.loss, &expected.loss, ROUNDED_OUTPUT)?;
    let ranges = model.layout().ranges().into_vec();
    for (tensor, range) in ["dw_in", "db_in", "dw_x", "dw_h", "db", "dw_out", "db_out"].iter().zip(ranges) {
        compare(tensor, &got.gradient[range.clone()], &expected.gradient[range], ROUNDED_GRADIENT)?;
    }
    compare("dx", &got.dx, &expected.dx, ROUNDED_GRADIENT)
}

/// What the checks find in the persistent kernels of this text.
fn persistent_findings(nvrtc: &Nvrtc, kernels: &str) -> Result<(), String> {
    for (case, multiprocessors, division) in &PERSISTENT_CASES {
        let [batch, t, i, p, h, k] = case.sizes;
        let dims = Dims { t, i, p, h, k };
        let model = Model { forget_bias: 0.7, ..Model::new(dims) };
        // Large steps: weights that are not renewed are seen.
        let adam = Adam { learning_rate: 0.05, ..Adam::default() };
        let data = data_of(case, dims);
        let limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: *multiprocessors };
        let variant = Variant::new(dims, *division, &limits).expect("a small model fits");
        let source = variant.source().replace(sources::PERSISTENT, kernels);
        let ptx = kept_variants::make_one(nvrtc, &variant.into(), &source).map_err(|e| e.to_string())?;
        let told = |error: fused_lstm::Error| error.to_string();
        let run = |engine: &mut dyn Engine| {
            engine.set_state(&start(dims)).map_err(told)?;
            let trace = engine.trace(&data.train).map_err(told)?;
            let batch = batch - batch / 4;
            let rows: Vec<u32> = (0..STEPS * batch).map(|k| (k * 7 % data.train.len()) as u32).collect();
            let metrics = engine.train_steps(&rows, batch).map_err(told)?;
            let mut losses: Vec<f32> = metrics.iter().map(|m| m.loss).collect();
            let all: Vec<u32> = (0..data.train.len() as u32).collect();
            losses.extend(engine.evaluate(Split::Train, &all).map_err(told)?.loss);
            losses.extend(engine.predict(&data.train).map_err(told)?);
            Ok::<_, String>((trace, losses, engine.state().map_err(told)?))
        };
        let on = |seed| {
            let mut device = Emulated::new(kept::ptx(), Options { seed, ..Options::default() }).map_err(told)?;
            device.set_limits(limits);
            device.replace(variant, ptx.clone());
            let made = CudaEngine::with_precision(device, model, adam, data.clone(), Precision::Bf16);
            let mut engine = made.map_err(told)?.with_division(*division);
            run(&mut engine)
        };
        let got = on(0)?;
        let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone()).rounding_to_bf16(Style::Persistent);
        let expected = run(&mut reference)?;
        compare_rounded(&got.0, &expected.0, model)?;
        compare("losses and probabilities", &got.1, &expected.1, ROUNDED_LOSSES)?;
        compare("m", &got.2.m, &expected.2.m, ROUNDED_M)?;
        if on(7)? != got {
            return Err("another schedule gives other bits".into());
        }
        if case.bytes {
            let engine = |adam| {
                let mut device = Emulated::new(kept::ptx(), Options::default()).map_err(told)?;
                device.set_limits(limits);
                device.replace(variant, ptx.clone());
                let made = CudaEngine::with_precision(device, model, adam, data.clone(), Precision::Bf16);
                made.map(|engine| engine.with_division(*division)).map_err(told)
            };
            compare_side_by_side(engine, &data, batch)?;
        }
    }
    Ok(())
}

/// Whether two models become side by side what each becomes alone.
fn compare_side_by_side(
    engine: impl Fn(Adam) -> Result<CudaEngine<Emulated>, String>,
    data: &Dataset,
    batch: usize,
) -> Result<(), String> {
    let told = |error: fused_lstm::Error| error.to_string();
    let adams = [0.05, 0.01].map(|learning_rate| Adam { learning_rate, ..Adam::default() });
    let rows = |stride: usize| (0..STEPS * batch).map(|k| (k * stride % data.train.len()) as u32).collect::<Vec<_>>();
    let rows = [7, 5].map(rows);
    let mut together = engine(adams[0])?.with_models(&adams, batch).map_err(told)?;
    let model = together.model();
    let states = [start(model.dims), State::new(vec![0.03; model.layout().len()])];
    for (place, state) in states.iter().enumerate() {
        together.choose(place);
        together.set_state(state).map_err(told)?;
    }
    let metrics = together.train_side_by_side(&rows.each_ref().map(|rows| &rows[..]), batch).map_err(told)?;
    for place in 0..2 {
        together.choose(place);
        let got = (together.state().map_err(told)?, &metrics[place]);
        let mut alone = engine(adams[place])?;
        alone.set_state(&states[place]).map_err(told)?;
        let metrics = alone.train_steps(&rows[place], batch).map_err(told)?;
        if got != (alone.state().map_err(told)?, &metrics) {
            return Err(format!("side by side, model {place} becomes another"));
        }
    }
    Ok(())
}

/// Plants each bug of a file of the persistent kernels and looks for it.
fn check_persistent(file: &str) {
    let Some(nvrtc) = nvrtc() else { return };
    check_all(PERSISTENT_BUGS.iter().filter(|bug| bug.file == file), |kernels| persistent_findings(&nvrtc, kernels));
}

#[test]
fn the_persistent_kernels_as_they_are_have_no_bug() {
    let Some(nvrtc) = nvrtc() else { return };
    assert_eq!(persistent_findings(&nvrtc, sources::PERSISTENT), Ok(()));
}

#[test]
fn bugs_in_persistent_headers() {
    check_persistent("persistent/layout.cuh");
    check_persistent("persistent/tensor.cuh");
    check_persistent("persistent/transcendental.cuh");
}

#[test]
fn bugs_in_persistent_lstm_cu() {
    check_persistent("persistent/lstm.cu");
}

#[test]
fn bugs_in_persistent_pack_cu() {
    check_persistent("persistent/pack.cu");
}

#[test]
fn bugs_in_persistent_weight_gradient_cu() {
    check_persistent("persistent/weight_gradient.cu");
}

#[test]
fn bugs_in_persistent_weight_update_cu() {
    check_persistent("persistent/weight_update.cu");
}

// ---- sequence kernels ----

/// Sizes, and how the work is shared out: units, cluster, lanes, rows that train and that score, places forward, backward and where
/// scores are wanted in shared memory. What is padded is rows and units.
const SEQUENCE_CASES: [([usize; 6], [usize; 8]); 2] =
    [([5, 4, 3, 2, 20, 3], [32, 1, 2, 2, 4, 5, 3, 6]), ([3, 3, 2, 3, 30, 3], [32, 2, 4, 1, 2, 2, 0, 1])];

/// What the checks find in a variant of the kernels that run all steps, of this PTX, held against `reference`: the bounds are for
/// outputs and for the gradient.
fn findings_of_all_steps(
    (variant, ptx): (Specialized, &str),
    (batch, dims): (usize, Dims),
    reference: impl Fn(ReferenceEngine<f64>) -> ReferenceEngine<f64>,
    [output, gradient]: [f64; 2],
) -> Result<(), String> {
    let told = |error: fused_lstm::Error| error.to_string();
    let on = |seed| {
        let mut device = Emulated::new(kept::ptx(), Options { seed, ..Options::default() }).map_err(told)?;
        device.replace(variant, ptx.to_owned());
        pass(device, variant, dims, batch).map_err(told)
    };
    let got = on(0)?;
    let (model, data) = (Model { forget_bias: FORGET_BIAS, ..Model::new(dims) }, dataset(dims, batch));
    let mut reference = reference(ReferenceEngine::new(model, Adam::default(), data.clone()));
    reference.set_state(&start(dims)).map_err(told)?;
    let expected = reference.trace(&data.train).map_err(told)?;
    compare("logits", &got.logits, &expected.logits, output)?;
    compare("h", &got.h_last, &expected.h_last, output)?;
    compare("c", &got.c_last, &expected.c_last, output)?;
    compare("gradient", &got.gradient, &expected.gradient, gradient)?;
    for (scored, expected) in got.scored.iter().zip([&expected.logits, &expected.h_last, &expected.c_last]) {
        compare("scores", scored, expected, output)?;
    }
    if on(7)? != got {
        return Err("another schedule gives other bits".into());
    }
    Ok(())
}

/// What the checks find in the sequence kernels of this text.
fn sequence_findings(nvrtc: &Nvrtc, kernels: &str) -> Result<(), String> {
    for ([batch, t, i, p, h, k], shared_out) in SEQUENCE_CASES {
        let [units, cluster, lanes, rows, score_rows, forward_shared, backward_shared, score_shared] = shared_out;
        let variant =
            SequenceVariant { units, cluster, lanes, rows, score_rows, forward_shared, backward_shared, score_shared };
        let source = variant.source().replace(sources::SEQUENCE, kernels);
        let ptx = kept_variants::make_one(nvrtc, &variant.into(), &source).map_err(|e| e.to_string())?;
        let sizes = (batch, Dims { t, i, p, h, k });
        findings_of_all_steps((variant.into(), &ptx), sizes, |plain| plain, [OUTPUT, GRADIENT])?;
    }
    Ok(())
}

#[test]
fn the_sequence_kernels_as_they_are_have_no_bug() {
    let Some(nvrtc) = nvrtc() else { return };
    assert_eq!(sequence_findings(&nvrtc, sources::SEQUENCE), Ok(()));
}

#[test]
fn bugs_in_the_sequence_kernels() {
    let Some(nvrtc) = nvrtc() else { return };
    check_all(&SEQUENCE_BUGS, |kernels| sequence_findings(&nvrtc, kernels));
}

// ---- TF32 kernels ----

/// Sizes, and how the work is shared out: units, cluster, groups of a warp, places forward and backward in shared memory. What is
/// padded is rows and units.
const TF32_CASES: [([usize; 6], [usize; 5]); 2] =
    [([11, 4, 3, 2, 20, 3], [32, 1, 2, 3, 2]), ([3, 3, 2, 3, 30, 3], [32, 2, 1, 2, 1])];

/// What the checks find in the TF32 kernels of this text.
fn tf32_findings(nvrtc: &Nvrtc, kernels: &str) -> Result<(), String> {
    for ([batch, t, i, p, h, k], [units, cluster, groups, forward_shared, backward_shared]) in TF32_CASES {
        let variant = Tf32Variant { units, cluster, groups, forward_shared, backward_shared };
        let source = variant.source().replace(sources::TF32, kernels);
        let ptx = kept_variants::make_one(nvrtc, &variant.into(), &source).map_err(|e| e.to_string())?;
        let (sizes, bounds) = ((batch, Dims { t, i, p, h, k }), [TF32_OUTPUT, TF32_GRADIENT]);
        findings_of_all_steps((variant.into(), &ptx), sizes, ReferenceEngine::rounding_to_tf32, bounds)?;
    }
    Ok(())
}

#[test]
fn the_tf32_kernels_as_they_are_have_no_bug() {
    let Some(nvrtc) = nvrtc() else { return };
    assert_eq!(tf32_findings(&nvrtc, sources::TF32), Ok(()));
}

#[test]
fn bugs_in_the_tf32_kernels() {
    let Some(nvrtc) = nvrtc() else { return };
    check_all(&TF32_BUGS, |kernels| tf32_findings(&nvrtc, kernels));
}

/// Every bug stands at one place of the kernels, and in the list that tells by what it is found. Needs no compiler.
#[test]
fn the_list_in_the_documentation_is_this_one() {
    let chapter = include_str!("../docs/proving-kernels.md");
    let listed: Vec<&str> = chapter.lines().filter(|line| line.starts_with("| `")).collect();
    let bugs = || BUGS.iter().chain(&PERSISTENT_BUGS).chain(&SEQUENCE_BUGS).chain(&TF32_BUGS);
    let rows: Vec<String> = bugs().map(|bug| format!("| `{}` | {} | {} |", bug.file, bug.name, bug.found_by)).collect();
    assert_eq!(listed, rows);
    let told = format!("{} bugs planted", rows.len());
    assert!(include_str!("../README.md").contains(&told), "the README does not tell of {told}");
    bugs().for_each(|bug| assert_ne!(planted(bug), unit_of(bug.file)));
}
