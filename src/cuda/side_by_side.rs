//! Trainings of one size side by side on one device, each by the loop that it would have alone.
//!
//! Every training has a thread and an engine of its own, a `Seat`, which only sends what it is asked to the thread that has the
//! device. There it is done at once, but for training steps: they wait until all trainings that are still there have asked for
//! some, and are then done for all in the same launches. A training that ends, for whatever reason, leaves its seat, and the
//! others go on.

use super::device::Device;
use super::engine::CudaEngine;
use crate::data::{Sequences, Split};
use crate::engine::{Engine, Model, Scores, State, StepMetrics, Trace};
use crate::error::{Error, Result};
use crate::precision::Precision;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Does each of `trainings` with one of the models of `engine`, all at the same time, and gives what they give, in their order. They
/// must train on batches of one size.
///
/// # Panics
///
/// If there are not as many trainings as models, or if one of them panics.
pub fn train<D, T, F>(engine: &mut CudaEngine<D>, trainings: Vec<F>) -> Vec<T>
where
    D: Device + 'static,
    T: Send,
    F: FnOnce(&mut dyn Engine) -> T + Send,
{
    assert_eq!(trainings.len(), engine.models(), "a training for each model");
    let (ask, asked) = channel();
    thread::scope(|scope| {
        let begin = |(place, training): (usize, F)| {
            let mut seat = Seat { place, ask: ask.clone() };
            scope.spawn(move || training(&mut seat))
        };
        let threads: Vec<_> = trainings.into_iter().enumerate().map(begin).collect();
        serve(engine, &asked);
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// Something to be done with the model of one training.
type Work<D> = Box<dyn FnOnce(&mut CudaEngine<D>) + Send>;

/// What a training asks of the device.
enum Ask<D: Device> {
    /// To be done at once.
    Do(usize, Work<D>),
    Train(usize, Steps),
    /// The training has ended.
    Leave(usize),
}

/// Training steps that are asked for.
struct Steps {
    rows: Vec<u32>,
    batch: usize,
    done: Vec<StepMetrics>,
    tell: Sender<Result<Vec<StepMetrics>>>,
}

impl Steps {
    /// Rows of the steps that are left.
    fn rows_left(&self) -> &[u32] {
        &self.rows[self.done.len() * self.batch..]
    }

    fn left(&self) -> usize {
        self.rows.len() / self.batch - self.done.len()
    }
}

/// What a training does at the moment.
enum Doing {
    /// Something of its own.
    Other,
    Waits(Steps),
    Gone,
}

/// Does what is asked, until all trainings have ended.
fn serve<D: Device>(engine: &mut CudaEngine<D>, asked: &Receiver<Ask<D>>) {
    let mut seats: Vec<_> = (0..engine.models()).map(|_| Doing::Other).collect();
    while seats.iter().any(|doing| !matches!(doing, Doing::Gone)) {
        match asked.recv().expect("a training says when it ends") {
            Ask::Do(place, work) => {
                engine.choose(place);
                work(engine);
            }
            Ask::Train(place, steps) => seats[place] = Doing::Waits(steps),
            Ask::Leave(place) => seats[place] = Doing::Gone,
        }
        if !seats.iter().any(|doing| matches!(doing, Doing::Other)) {
            train_together(engine, &mut seats);
        }
    }
}

/// Trains as many steps as all that wait have asked for, and answers those that have no more to come.
fn train_together<D: Device>(engine: &mut CudaEngine<D>, seats: &mut [Doing]) {
    let waiting = || seats.iter().filter_map(|doing| if let Doing::Waits(steps) = doing { Some(steps) } else { None });
    let Some(batch) = waiting().map(|steps| steps.batch).next() else { return };
    assert!(waiting().all(|steps| steps.batch == batch), "batches of one size");
    let count = waiting().map(Steps::left).min().unwrap_or(0) * batch;
    // The model of a training that has ended is trained on: nobody will look at it.
    let any = vec![0; count];
    let rows: Vec<&[u32]> = seats
        .iter()
        .map(|doing| match doing {
            Doing::Waits(steps) => &steps.rows_left()[..count],
            Doing::Other | Doing::Gone => &any[..],
        })
        .collect();
    let trained = engine.train_side_by_side(&rows, batch);
    for (place, doing) in seats.iter_mut().enumerate() {
        let Doing::Waits(steps) = doing else { continue };
        let answer = match &trained {
            Ok(metrics) => {
                steps.done.extend(&metrics[place]);
                if steps.left() > 0 {
                    continue;
                }
                Ok(std::mem::take(&mut steps.done))
            }
            Err(error) => Err(Error::Failed(error.to_string())),
        };
        steps.tell.send(answer).expect("it waits for the answer");
        *doing = Doing::Other;
    }
}

/// One model of an engine in another thread.
struct Seat<D: Device> {
    place: usize,
    ask: Sender<Ask<D>>,
}

impl<D: Device> Drop for Seat<D> {
    fn drop(&mut self) {
        // Nobody hears it where the thread with the device has panicked.
        let _ = self.ask.send(Ask::Leave(self.place));
    }
}

impl<D: Device + 'static> Seat<D> {
    /// Has something done where the device is.
    fn ask<R: Send + 'static>(&self, work: impl FnOnce(&mut CudaEngine<D>) -> R + Send + 'static) -> R {
        let (tell, told) = channel();
        let work = move |engine: &mut CudaEngine<D>| drop(tell.send(work(engine)));
        self.send(Ask::Do(self.place, Box::new(work)));
        told.recv().expect(DEVICE_THREAD)
    }

    fn send(&self, ask: Ask<D>) {
        self.ask.send(ask).expect(DEVICE_THREAD);
    }
}

const DEVICE_THREAD: &str = "the thread with the device answers";

impl<D: Device + 'static> Engine for Seat<D> {
    fn device(&self) -> String {
        self.ask(|engine| Engine::device(engine))
    }

    fn precision(&self) -> Precision {
        self.ask(|engine| engine.precision())
    }

    fn threads(&self) -> usize {
        self.ask(|engine| engine.threads())
    }

    fn model(&self) -> Model {
        self.ask(|engine| engine.model())
    }

    fn state(&mut self) -> Result<State> {
        self.ask(|engine| engine.state())
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let state = state.clone();
        self.ask(move |engine| engine.set_state(&state))
    }

    fn prepare(&mut self, batch_size: usize) -> Result<()> {
        self.ask(move |engine| engine.prepare(batch_size))
    }

    fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>> {
        let (tell, told) = channel();
        let steps = Steps { rows: rows.to_vec(), batch: batch_size, done: Vec::new(), tell };
        self.send(Ask::Train(self.place, steps));
        told.recv().expect(DEVICE_THREAD)
    }

    fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores> {
        let rows = rows.to_vec();
        self.ask(move |engine| engine.evaluate(split, &rows))
    }

    fn predict(&mut self, sequences: &Sequences) -> Result<Vec<f32>> {
        let sequences = sequences.clone();
        self.ask(move |engine| engine.predict(&sequences))
    }

    fn trace(&mut self, batch: &Sequences) -> Result<Trace> {
        let batch = batch.clone();
        self.ask(move |engine| engine.trace(&batch))
    }
}
