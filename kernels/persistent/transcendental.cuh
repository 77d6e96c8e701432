// transcendental: sigmoid and tanh of a cell's gates, in one of two forms.
//
// accurate  s(x) = 1 / (1 + 2^(-x·log2 e)) and tanh(x) = 2·s(2x) - 1. A power of 2 for each; one reciprocal for the four gates of a
//           cell, of the product of their four denominators: 1 / a is that times the others. So that the product stays below
//           2^126, a power is at most 2^31: s is never below 2^-31. 7 special-function results a cell. Errors by magnitude
//           of the result's range, 1: below 3e-7.
// fast      tanh.approx, and s(x) = tanh(x / 2) / 2 + 1 / 2: 5 special-function results a cell, errors up to 5e-4.
//
// A cell is computed of its own gates alone: no sequence's numbers depend on those of its neighbours.

constexpr bool FAST_ACTIVATIONS = VARIANT_FAST_ACTIVATIONS;
constexpr float LOG2_E = 1.442695041f;
constexpr float LARGEST_POWER = 31.0f;

DEVICE float fast_sigmoid(float x) {
    return fmaf(fast_tanh(0.5f * x), 0.5f, 0.5f);
}

// What s(x) is 1 divided by, for scale = -log2 e; of tanh twice that.
DEVICE float denominator(float x, float scale) {
    return 1.0f + fast_exp2(min_or_nan(x * scale, LARGEST_POWER));
}

// i, f, g, o from what the products left of them.
DEVICE void activate(float (&gate)[GATES]) {
    if (FAST_ACTIVATIONS) {
        gate[GATE_I] = fast_sigmoid(gate[GATE_I]), gate[GATE_F] = fast_sigmoid(gate[GATE_F]);
        gate[GATE_G] = fast_tanh(gate[GATE_G]), gate[GATE_O] = fast_sigmoid(gate[GATE_O]);
        return;
    }
    const float i = denominator(gate[GATE_I], -LOG2_E), f = denominator(gate[GATE_F], -LOG2_E);
    const float g = denominator(gate[GATE_G], -2.0f * LOG2_E), o = denominator(gate[GATE_O], -LOG2_E);
    const float i_f = i * f, g_o = g * o, of_all = fast_reciprocal(i_f * g_o);
    const float of_i_f = of_all * g_o, of_g_o = of_all * i_f;
    gate[GATE_I] = of_i_f * f, gate[GATE_F] = of_i_f * i;
    gate[GATE_G] = fmaf(2.0f, of_g_o * o, -1.0f), gate[GATE_O] = of_g_o * g;
}

DEVICE float tanh_of_cell(float c) {
    if (FAST_ACTIVATIONS) return fast_tanh(c);
    return fmaf(2.0f, fast_reciprocal(denominator(c, -2.0f * LOG2_E)), -1.0f);
}
