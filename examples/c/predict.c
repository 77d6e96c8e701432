/* Classifies sequences with a model that `fused-lstm train --save DIR` wrote, whole and step by step.
 *
 *   cargo build --release -p fused-lstm-c
 *   cc -Icrates/c-api/include examples/c/predict.c -Ltarget/release -lfused_lstm_c -o predict
 *   LD_LIBRARY_PATH=target/release ./predict DIR < numbers
 *
 * Standard input has the numbers of whole sequences, [N,T,I]. */

#include "fused_lstm.h"

#include <stdio.h>
#include <stdlib.h>

static void fail(void) {
    fprintf(stderr, "error: %s\n", fused_lstm_last_error());
    exit(1);
}

static void *room(size_t count) {
    void *memory = malloc(count * sizeof(float));
    if (memory == NULL && count > 0) {
        fprintf(stderr, "error: no memory for %zu numbers\n", count);
        exit(1);
    }
    return memory;
}

static void print(const char *what, size_t sequence, const float *probabilities, size_t classes) {
    printf("%s %zu", what, sequence);
    for (size_t k = 0; k < classes; k++) printf(" %.9g", probabilities[k]);
    printf("\n");
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL < numbers\n", argv[0]);
        return 2;
    }
    FusedLstmModel *model = fused_lstm_load(argv[1], 0);
    if (model == NULL) fail();
    FusedLstmSizes sizes;
    if (fused_lstm_sizes(model, &sizes) != 0) fail();

    size_t length = sizes.steps * sizes.inputs, count = 0, space = length;
    float *x = room(space), number;
    while (scanf("%f", &number) == 1) {
        if (count == space) {
            space *= 2;
            if ((x = realloc(x, space * sizeof *x)) == NULL) return 1;
        }
        x[count++] = number;
    }
    size_t n = count / length;

    /* All at once. */
    float *probabilities = room(n * sizes.classes);
    if (fused_lstm_predict(model, x, NULL, n, probabilities) != 0) fail();
    for (size_t i = 0; i < n; i++) print("whole", i, probabilities + i * sizes.classes, sizes.classes);

    /* Step by step, as if the steps were only coming in. */
    FusedLstmStreams *stream = fused_lstm_streams_new(model, 1);
    if (stream == NULL) fail();
    for (size_t i = 0; i < n; i++) {
        for (size_t t = 0; t < sizes.steps; t++) {
            if (fused_lstm_streams_push(stream, x + i * length + t * sizes.inputs, probabilities) != 0) fail();
            print("step", t, probabilities, sizes.classes);
        }
        if (fused_lstm_streams_reset(stream, 0) != 0) fail();
    }
    for (size_t k = 0; k < sizes.classes; k++) printf("class %zu %s\n", k, fused_lstm_class_name(model, k));

    fused_lstm_streams_free(stream);
    fused_lstm_free(model);
    free(probabilities);
    free(x);
    return 0;
}
