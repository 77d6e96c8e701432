// Models that fused-lstm has trained, for C and whatever can call C.
//
// Link with libfused_lstm_c. Where a function gives an int32_t, it is 0, or else the exit code that
// the program has for such an error; fused_lstm_last_error() then tells what was wrong.
//
// Made by cbindgen of crates/c-api/src/lib.rs: change that, then
// `cargo test -p fused-lstm-c -- --ignored renew`.

#ifndef FUSED_LSTM_H
#define FUSED_LSTM_H

#include <stddef.h>
#include <stdint.h>

// A model in memory. Any number of threads may use one at a time; they predict one after the other.
typedef struct FusedLstmModel FusedLstmModel;

// Sequences of one model that are still coming. Only one thread at a time may use them.
typedef struct FusedLstmStreams FusedLstmStreams;

// What a model reads and gives.
typedef struct {
  // Steps of the longest sequence of a batch, T. A stream may be longer.
  size_t steps;
  // Inputs of a step, I.
  size_t inputs;
  // Classes, K.
  size_t classes;
} FusedLstmSizes;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What was wrong in the last call of this thread that failed, and what to do; empty if none has. It is UTF-8, belongs to the
// library and is valid until the next call of this thread that fails.
const char *fused_lstm_last_error(void);

// Loads the checkpoint in `folder` (UTF-8), which `fused-lstm train --save` wrote, and predicts with `threads` threads; 0 is one
// for each core. Null if it cannot be used. To be freed with `fused_lstm_free`.
//
// # Safety
//
// `folder` is null or a string that ends with a zero byte.
FusedLstmModel *fused_lstm_load(const char *folder,
                                size_t threads);

// Frees a model; null is left alone. Streams made of it live on.
//
// # Safety
//
// `model` is null or comes from `fused_lstm_load`, and is used no more.
void fused_lstm_free(FusedLstmModel *model);

// What `model` reads and gives.
//
// # Safety
//
// `model` is null or comes from `fused_lstm_load`; `sizes` is null or can be written to.
int32_t fused_lstm_sizes(const FusedLstmModel *model, FusedLstmSizes *sizes);

// The name of a class, from 0 to before K, in UTF-8: the one in the data that the model was trained on, or its number. It belongs
// to the model. Null if there is no such class.
//
// # Safety
//
// `model` is null or comes from `fused_lstm_load`.
const char *fused_lstm_class_name(const FusedLstmModel *model,
                                  size_t class_number);

// Probabilities of every class, `[N,K]`, for `n` sequences `x [N,T,I]`, row-major. Of sequence i only the first `lengths[i]` steps
// count, from 1 to T; where `lengths` is null, all have T. Numbers are as in the data that the model was trained on, pixels
// from 0 to 255; what brings them to the model's scale is done here.
//
// # Safety
//
// `model` is null or comes from `fused_lstm_load`; the others are null or hold so many numbers.
int32_t fused_lstm_predict(const FusedLstmModel *model,
                           const float *x,
                           const uint32_t *lengths,
                           size_t n,
                           float *probabilities);

// `count` streams of `model`, which take a step each at a time. Null if the model cannot be streamed: one that reads in both
// directions, or whose sequences are normalized as a whole. To be freed with `fused_lstm_streams_free`.
//
// # Safety
//
// `model` is null or comes from `fused_lstm_load`.
FusedLstmStreams *fused_lstm_streams_new(const FusedLstmModel *model,
                                         size_t count);

// Frees streams; null is left alone.
//
// # Safety
//
// `streams` is null or comes from `fused_lstm_streams_new`, and is used no more.
void fused_lstm_streams_free(FusedLstmStreams *streams);

// The next step of each of the M streams, `x [M,I]`; gives the probabilities of every class after it, `[M,K]`: those of
// `fused_lstm_predict` for the steps so far.
//
// # Safety
//
// `streams` is null or comes from `fused_lstm_streams_new` and is used by nobody else at the time; the others are null or hold
// so many numbers.
int32_t fused_lstm_streams_push(FusedLstmStreams *streams,
                                const float *x,
                                float *probabilities);

// Begins another sequence in one stream, from 0 to before M.
//
// # Safety
//
// As for `fused_lstm_streams_push`.
int32_t fused_lstm_streams_reset(FusedLstmStreams *streams, size_t stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FUSED_LSTM_H */
