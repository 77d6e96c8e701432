//! C interface to models that fused-lstm has trained: load a checkpoint, predict batches, push steps of streams. It computes
//! on the processor, in f32.
//!
//! Every function tells whether it worked: a status of 0 or a pointer that is not null. Where it did not, it has written
//! nothing to its results, and [`fused_lstm_last_error`] has what was wrong and what to do. No panic leaves the library.

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::{Dataset, Sequences, Values};
use fused_lstm::engine::{Engine, State};
use fused_lstm::stream::Streams;
use fused_lstm::{Error, Result};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

/// A model in memory. Any number of threads may use one at a time; they predict one after the other.
pub struct FusedLstmModel {
    config: Config,
    parameters: Vec<f32>,
    engine: Mutex<CpuEngine>,
    class_names: Vec<CString>,
}

/// Sequences of one model that are still coming. Only one thread at a time may use them.
pub struct FusedLstmStreams(Streams);

/// What a model reads and gives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FusedLstmSizes {
    /// Steps of the longest sequence of a batch, T. A stream may be longer.
    pub steps: usize,
    /// Inputs of a step, I.
    pub inputs: usize,
    /// Classes, K.
    pub classes: usize,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs `work`; of an error or a panic it keeps the text and gives the code, which is never 0.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T, i32> {
    let (text, code) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => (error.to_string(), error.exit_code().into()),
        Err(_) => ("a bug in fused-lstm, which has said more on standard error; please report it".into(), 1),
    };
    LAST_ERROR.set(c_string(text));
    Err(code)
}

fn status(work: impl FnOnce() -> Result<()>) -> i32 {
    guarded(work).err().unwrap_or(0)
}

fn boxed<T>(work: impl FnOnce() -> Result<T>) -> *mut T {
    guarded(work).map_or(ptr::null_mut(), |made| Box::into_raw(Box::new(made)))
}

/// `text` up to its first zero byte.
fn c_string(text: String) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).expect("ends before its first zero byte")
}

fn null(what: &str) -> Error {
    Error::usage(what, "the pointer is null", "give a valid one")
}

/// What `pointer` points at.
///
/// # Safety
///
/// It is null, or points at a `T` that nobody changes as long as the result is used.
unsafe fn shared<'a, T>(pointer: *const T, what: &str) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// `count` numbers from `pointer` on, which may be null if there are none.
///
/// # Safety
///
/// It is null, or so many can be read there, which nobody changes as long as the result is used.
unsafe fn numbers<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    match count {
        0 => Ok(&[]),
        _ if pointer.is_null() => Err(null(what)),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { slice::from_raw_parts(pointer, count) }),
    }
}

/// Copies `from` to the caller's `pointer`.
///
/// # Safety
///
/// It is null, or so many numbers can be written there.
unsafe fn give(from: &[f32], pointer: *mut f32, what: &str) -> Result<()> {
    if pointer.is_null() && !from.is_empty() {
        return Err(null(what));
    }
    if !from.is_empty() {
        // SAFETY: the caller's promise; what is the library's own does not overlap it.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), pointer, from.len()) };
    }
    Ok(())
}

/// Product of sizes, none of which the caller may choose so large that it cannot be counted.
fn count(sizes: &[usize]) -> Result<usize> {
    let bytes = sizes.iter().try_fold(size_of::<f32>(), |all, &size| all.checked_mul(size));
    match bytes.filter(|&bytes| bytes <= isize::MAX as usize) {
        Some(bytes) => Ok(bytes / size_of::<f32>()),
        None => Err(Error::usage(format!("{sizes:?} numbers"), "that is more than memory can hold", "give fewer")),
    }
}

/// What was wrong in the last call of this thread that failed, and what to do; empty if none has. It is UTF-8, belongs to the
/// library and is valid until the next call of this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn fused_lstm_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|text| text.as_ptr())
}

/// Loads the checkpoint in `folder` (UTF-8), which `fused-lstm train --save` wrote, and predicts with `threads` threads; 0 is one
/// for each core. Null if it cannot be used. To be freed with `fused_lstm_free`.
///
/// # Safety
///
/// `folder` is null or a string that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_load(folder: *const c_char, threads: usize) -> *mut FusedLstmModel {
    boxed(|| {
        if folder.is_null() {
            return Err(null("folder"));
        }
        // SAFETY: it is not null, so it is a string.
        let text = unsafe { CStr::from_ptr(folder) };
        let folder = text.to_str().map_err(|_| Error::usage("folder", "the name is not UTF-8", "give another name"))?;
        load(Path::new(folder), threads)
    })
}

fn load(folder: &Path, threads: usize) -> Result<FusedLstmModel> {
    let (config, parameters) = Checkpoint::load_model(folder)?;
    let dims = config.model.dims;
    let none = Sequences::new(dims.t, dims.i, Values::F32(Vec::new()), Vec::new());
    let nothing = Dataset {
        description: String::new(),
        name: "none",
        classes: dims.k,
        train: none.clone(),
        validation: none.clone(),
        test: none,
        own: config.own.clone(),
    };
    let class_names = (0..dims.k).map(|class| c_string(nothing.class_name(class))).collect();
    let mut engine = CpuEngine::new(config.model, config.adam, Arc::new(nothing), threads)?;
    engine.set_state(&State::new(parameters.clone()))?;
    Ok(FusedLstmModel { config, parameters, engine: Mutex::new(engine), class_names })
}

/// Frees a model; null is left alone. Streams made of it live on.
///
/// # Safety
///
/// `model` is null or comes from `fused_lstm_load`, and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_free(model: *mut FusedLstmModel) {
    if !model.is_null() {
        // SAFETY: it came from `Box::into_raw`, and nobody else has it any more.
        drop(unsafe { Box::from_raw(model) });
    }
}

/// What `model` reads and gives.
///
/// # Safety
///
/// `model` is null or comes from `fused_lstm_load`; `sizes` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_sizes(model: *const FusedLstmModel, sizes: *mut FusedLstmSizes) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let dims = unsafe { shared(model, "model") }?.config.model.dims;
        if sizes.is_null() {
            return Err(null("sizes"));
        }
        // SAFETY: it is not null, so it can be written to.
        unsafe { sizes.write(FusedLstmSizes { steps: dims.t, inputs: dims.i, classes: dims.k }) };
        Ok(())
    })
}

/// The name of a class, from 0 to before K, in UTF-8: the one in the data that the model was trained on, or its number. It belongs
/// to the model. Null if there is no such class.
///
/// # Safety
///
/// `model` is null or comes from `fused_lstm_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_class_name(model: *const FusedLstmModel, class_number: usize) -> *const c_char {
    let name = guarded(|| {
        // SAFETY: the caller's promise.
        let names = &unsafe { shared(model, "model") }?.class_names;
        let none = || {
            Error::usage(format!("class {class_number}"), format!("there are {}", names.len()), "give a smaller number")
        };
        Ok(names.get(class_number).ok_or_else(none)?.as_ptr())
    });
    name.unwrap_or(ptr::null())
}

/// Probabilities of every class, `[N,K]`, for `n` sequences `x [N,T,I]`, row-major. Of sequence i only the first `lengths[i]` steps
/// count, from 1 to T; where `lengths` is null, all have T. Numbers are as in the data that the model was trained on, pixels
/// from 0 to 255; what brings them to the model's scale is done here.
///
/// # Safety
///
/// `model` is null or comes from `fused_lstm_load`; the others are null or hold so many numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_predict(
    model: *const FusedLstmModel,
    x: *const f32,
    lengths: *const u32,
    n: usize,
    probabilities: *mut f32,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { shared(model, "model") }?;
        let dims = model.config.model.dims;
        count(&[n, dims.k])?;
        // SAFETY: the caller's promise.
        let x = unsafe { numbers(x, count(&[n, dims.t, dims.i])?, "x") }?;
        // SAFETY: the caller's promise.
        let lengths = unsafe { numbers(lengths, if lengths.is_null() { 0 } else { n }, "lengths") }?;
        if let Some((row, length)) = lengths.iter().enumerate().find(|(_, n)| !(1..=dims.t).contains(&(**n as usize))) {
            let found = format!("sequences of this model have 1 to {} steps", dims.t);
            return Err(Error::usage(format!("lengths[{row}] = {length}"), found, "give such a number"));
        }
        for (row, sequence) in x.chunks_exact(dims.sequence_len()).enumerate() {
            let steps = lengths.get(row).map_or(dims.t, |&length| length as usize);
            check_finite(&sequence[..steps * dims.i], &format!("x[{row}]"), dims.i)?;
        }
        let scale = model.config.input_scale();
        let mut sequences =
            Sequences::new(dims.t, dims.i, Values::F32(x.iter().map(|value| value * scale).collect()), vec![0; n]);
        if !lengths.is_empty() {
            sequences = sequences.with_lengths(lengths.to_vec());
        }
        if let Some(own) = &model.config.own {
            sequences = own.apply(sequences);
        }
        let mut engine = model.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let found = engine.predict(&sequences)?;
        // SAFETY: the caller's promise.
        unsafe { give(&found, probabilities, "probabilities") }
    })
}

/// Refuses numbers `[T,I]` that are NaN or infinite.
fn check_finite(numbers: &[f32], what: &str, inputs: usize) -> Result<()> {
    match numbers.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::usage(
            format!("{what}[{}][{}] = {}", at / inputs, at % inputs, numbers[at]),
            "it is not a finite number",
            "fill it in",
        )),
    }
}

/// `count` streams of `model`, which take a step each at a time. Null if the model cannot be streamed: one that reads in both
/// directions, or whose sequences are normalized as a whole. To be freed with `fused_lstm_streams_free`.
///
/// # Safety
///
/// `model` is null or comes from `fused_lstm_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_streams_new(model: *const FusedLstmModel, count: usize) -> *mut FusedLstmStreams {
    boxed(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { shared(model, "model") }?;
        Streams::new(&model.config, &model.parameters, count).map(FusedLstmStreams)
    })
}

/// Frees streams; null is left alone.
///
/// # Safety
///
/// `streams` is null or comes from `fused_lstm_streams_new`, and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_streams_free(streams: *mut FusedLstmStreams) {
    if !streams.is_null() {
        // SAFETY: it came from `Box::into_raw`, and nobody else has it any more.
        drop(unsafe { Box::from_raw(streams) });
    }
}

/// The next step of each of the M streams, `x [M,I]`; gives the probabilities of every class after it, `[M,K]`: those of
/// `fused_lstm_predict` for the steps so far.
///
/// # Safety
///
/// `streams` is null or comes from `fused_lstm_streams_new` and is used by nobody else at the time; the others are null or hold
/// so many numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_streams_push(
    streams: *mut FusedLstmStreams,
    x: *const f32,
    probabilities: *mut f32,
) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let streams = &mut unsafe { streams.as_mut() }.ok_or_else(|| null("streams"))?.0;
        let inputs = streams.model().dims.i;
        // SAFETY: the caller's promise; there is room for as many, which were counted when the streams were made.
        let x = unsafe { numbers(x, streams.count() * inputs, "x") }?;
        check_finite(x, "x", inputs)?;
        if probabilities.is_null() {
            return Err(null("probabilities"));
        }
        // SAFETY: the caller's promise.
        unsafe { give(streams.push(x), probabilities, "probabilities") }
    })
}

/// Begins another sequence in one stream, from 0 to before M.
///
/// # Safety
///
/// As for `fused_lstm_streams_push`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_lstm_streams_reset(streams: *mut FusedLstmStreams, stream: usize) -> i32 {
    status(|| {
        // SAFETY: the caller's promise.
        let streams = &mut unsafe { streams.as_mut() }.ok_or_else(|| null("streams"))?.0;
        if stream >= streams.count() {
            let found = format!("there are {}", streams.count());
            return Err(Error::usage(format!("stream {stream}"), found, "give a smaller number"));
        }
        streams.reset(stream);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(status(|| panic!("on purpose")), 1);
        assert!(boxed::<u8>(|| panic!("on purpose")).is_null());
        let text = LAST_ERROR.with_borrow(|text| text.to_str().unwrap().to_owned());
        assert!(text.starts_with("a bug in fused-lstm"), "{text}");
    }

    #[test]
    fn an_error_with_a_zero_byte_is_told_up_to_it() {
        assert_eq!(c_string("so far\0no further".into()).to_str(), Ok("so far"));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        assert_eq!(count(&[3, 4]).unwrap(), 12);
        assert!(count(&[usize::MAX, 2]).is_err() && count(&[usize::MAX / 8, 2]).is_err());
        assert_eq!(count(&[0, 5]).unwrap(), 0);
    }
}
