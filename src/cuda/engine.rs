//! The CUDA engine: drives the kernels of one device, real or emulated.
//!
//! The data set goes up once, as it is. Buffers of a batch are allocated once; training iterations are recorded once, several in one
//! recording, and then replayed: which rows make the batch and the step size of the update are read on the device, by a turn that the
//! iteration itself counts up. Losses and counts stay there until [`Engine::train_steps`] returns.
//!
//! Which kernels train is planned for each size of batch ([`super::plan`]), and which of those with the same bits is the fastest may
//! be timed ([`super::tune`]). The same family scores and predicts.
//! Models beyond the tutorial's, and sequences of different lengths, go through [`Stack`], whatever the size.
//!
//! An engine may hold several models of the same sizes, which train side by side in the same launches
//! ([`CudaEngine::with_models`]); whatever is asked of an [`Engine`] is then about the one that was chosen.

use super::adam::{self, Update};
use super::backward::Backward;
use super::device::{Buffer, Device, Limits, Part};
use super::estimate::Estimate;
use super::forward::{Forward, Keep};
use super::gather::{self, DeviceSequences};
use super::inference::Inference;
use super::layers::LeaveOut;
use super::persistent::{Persistent, Step};
use super::plan::{Family, Plan};
use super::sequence::Sequence;
use super::softmax_xent::{Metrics, batch_metrics, softmax};
use super::specialized::Specialized;
use super::stack::Stack;
use super::tune::{self, Effort, Found, Subject, Timed, Tuning};
use super::variant::Division;
use super::weights::Weights;
use crate::data::{Dataset, Sequences, Split};
use crate::engine::{Engine, Model, Scores, State, StepMetrics, Trace};
use crate::error::{Error, Result};
use crate::optimizer::Adam;
use crate::precision::{Activations, Precision};
use crate::shape::Dims;
use std::mem::discriminant;
use std::sync::Arc;

/// Most steps whose rows and results are on the device at once.
const STEPS_AT_ONCE: usize = 64;
/// Iterations that a recording holds besides the one of a single iteration, few before many.
const RECORDED: [usize; 2] = [4, 16];
/// Most launches of such a recording: it takes memory and time to make.
const MOST_RECORDED: usize = 2048;
/// Most sequences that are scored at a time, unless larger batches are trained: kernels that are divided for those would leave much of
/// the GPU idle with fewer.
const SCORE_AT_ONCE: usize = 1024;
/// Most numbers of the gates of the steps that are scored at a time.
const MOST_SCORED_GATES: usize = 16 << 20;
/// Most blocks of a grid along its second axis, along which models lie.
const MOST_BLOCKS: usize = 65_535;
/// What the kernels of the tutorial's model alone do not know of data.
const LENGTHS: &str = "sequences of different lengths";
/// Sizes and offsets of kernels are counted in 31 bits, tiles included.
const MOST: usize = (1 << 31) - 256;

/// Runs a model on a GPU.
pub struct CudaEngine<D: Device> {
    device: D,
    limits: Limits,
    model: Model,
    precision: Precision,
    activations: Activations,
    /// Instead of the planned one.
    division: Option<Division>,
    /// What the kernels of the tutorial's model alone cannot do of the model and its data, in words: then [`Stack`] does it.
    extras: Option<String>,
    /// None: the plan of the rules is taken, and not a word said about it.
    tuning: Option<Tuning>,
    /// Of the batches that were trained last, or scored before any.
    plan: Option<Plan>,
    /// Kernels that were compiled for the model and are loaded.
    loaded: Vec<Specialized>,
    /// The sequence kernels, if they are among them.
    sequence: Option<Sequence<D>>,
    data: Arc<Dataset>,
    splits: [Option<DeviceSequences<D>>; 3],
    /// Of each model, one after the other.
    weights: Vec<Weights<D>>,
    /// What else is known of each.
    trainees: Vec<Trainee>,
    /// The model that calls are about.
    chosen: usize,
    training: Option<Training<D>>,
    scoring: Option<Scoring<D>>,
}

/// What is known of a model here.
#[derive(Clone, Copy)]
struct Trainee {
    adam: Adam,
    /// Steps done.
    step: u64,
    /// Whether the folded weights are those of the parameters.
    folded: bool,
}

impl Trainee {
    fn new(adam: &Adam) -> Self {
        Self { adam: *adam, step: 0, folded: false }
    }

    /// What its optimizer does that kernels of models side by side do not know, if it does so.
    fn needs_alone(&self) -> Option<&'static str> {
        match self.adam {
            Adam { grad_clip: Some(_), .. } => Some("gradients are clipped"),
            Adam { weight_decay, .. } if weight_decay > 0.0 => Some("weights decay"),
            _ => None,
        }
    }
}

/// What a pass forward and backward needs besides the weights.
struct Pass<D: Device> {
    forward: Forward<D>,
    backward: Backward<D>,
}

/// What computes the gradient of a batch.
enum Work<D: Device> {
    /// Layer by layer, all steps of the LSTM in one launch or not.
    Layers(Pass<D>),
    /// Any model.
    Stack(Stack<D>),
    Persistent(Persistent<D>),
}

/// What training on batches of one size needs.
struct Training<D: Device> {
    batch: usize,
    work: Work<D>,
    /// Batches of the next steps of the M models, `[S,M,B]`.
    rows: Buffer<D, u32>,
    /// `[S,M]`
    step_sizes: Buffer<D, f32>,
    /// Which of the S steps is next, `[1]`.
    turn: Buffer<D, u32>,
    /// `[S,M]`
    mean_loss: Buffer<D, f32>,
    /// `[S,M]`
    correct: Buffer<D, u32>,
    clip: Option<Clip<D>>,
    /// [`Adam::kept`] of S steps, where something decays, `[S]`.
    kept: Option<Buffer<D, f32>>,
    /// Keys of dropout, where something is left out, `[S,2]`.
    keys: Option<Buffer<D, u32>>,
    /// Whether the weights are packed as they are, where they need to be.
    packed: bool,
    /// Of one iteration and of several, few before many.
    recordings: Vec<Recording<D>>,
}

/// Iterations, one after the other, to be replayed.
struct Recording<D: Device> {
    iterations: usize,
    graph: D::Graph,
}

/// What clipping gradients needs.
struct Clip<D: Device> {
    max_norm: f32,
    /// Parts of the squared norm.
    parts: Buffer<D, f32>,
    /// What gradients are multiplied by, `[1]`.
    factor: Buffer<D, f32>,
}

/// What computes losses and classes of sequences.
enum Scorer<D: Device> {
    /// Layer by layer, all steps of the LSTM in one launch or not.
    Layers(Forward<D>),
    /// Any model.
    Stack(Stack<D>),
    Persistent(Inference<D>),
}

/// What scoring and predicting need.
struct Scoring<D: Device> {
    family: Family,
    scorer: Scorer<D>,
    /// `[B]`
    rows: Buffer<D, u32>,
    /// Always zero, `[1]`.
    turn: Buffer<D, u32>,
    /// `[B,K]`
    probabilities: Buffer<D, f32>,
}

impl<D: Device> Pass<D> {
    fn new(device: &D, model: &Model, batch: usize) -> Result<Self> {
        Ok(Self {
            forward: Forward::new(device, model.dims, batch, Keep::All)?,
            backward: Backward::new(device, model, batch)?,
        })
    }
}

impl<D: Device> Work<D> {
    fn new(
        device: &D,
        model: &Model,
        batch_and_models: (usize, usize),
        family: Family,
        limits: &Limits,
    ) -> Result<Self> {
        match family {
            Family::PerStep | Family::Sequence(_) | Family::Tf32(_) => {
                Ok(Self::Layers(Pass::new(device, model, batch_and_models.0)?))
            }
            Family::Stack => Ok(Self::Stack(Stack::new(device, model, batch_and_models.0, true)?)),
            Family::Persistent(variant) => {
                Ok(Self::Persistent(Persistent::new(device, model, variant, batch_and_models, limits)?))
            }
        }
    }

    /// Loss of each sequence, `[B]`.
    fn loss(&self) -> &Buffer<D, f32> {
        match self {
            Self::Layers(pass) => pass.forward.loss(),
            Self::Stack(stack) => stack.loss(),
            Self::Persistent(persistent) => persistent.loss(),
        }
    }

    /// Predicted class and class of each sequence, `[B]`.
    fn classes(&self) -> (Part<'_, u32>, Part<'_, u32>) {
        match self {
            Self::Layers(pass) => (pass.forward.predicted().all(), pass.forward.labels()),
            Self::Stack(stack) => (stack.predicted().all(), stack.labels()),
            Self::Persistent(persistent) => (persistent.predicted().all(), persistent.labels().all()),
        }
    }

    /// Gradient of the mean loss, laid out as the flat parameters.
    fn gradient(&self) -> &Buffer<D, f32> {
        match self {
            Self::Layers(pass) => pass.backward.gradient(),
            Self::Stack(stack) => stack.gradient(),
            Self::Persistent(persistent) => persistent.gradient(),
        }
    }
}

impl<D: Device> Training<D> {
    /// For as many models as there are trainees, whose optimizers differ in their learning rates alone.
    fn new(
        device: &D,
        model: Model,
        trainees: &[Trainee],
        batch: usize,
        family: Family,
        limits: &Limits,
    ) -> Result<Self> {
        let (n, models, Trainee { adam, .. }) = (model.layout().len(), trainees.len(), trainees[0]);
        let steps = STEPS_AT_ONCE * models;
        let clip = |max_norm| {
            let parts = Buffer::new(device, "norm parts", adam::norm_parts(n))?;
            Ok(Clip { max_norm, parts, factor: Buffer::new(device, "clip factor", 1)? })
        };
        Ok(Self {
            batch,
            work: Work::new(device, &model, (batch, models), family, limits)?,
            rows: Buffer::new(device, "rows", steps * batch)?,
            step_sizes: Buffer::new(device, "step sizes", steps)?,
            turn: Buffer::new(device, "turn", 1)?,
            mean_loss: Buffer::new(device, "mean loss", steps)?,
            correct: Buffer::new(device, "correct", steps)?,
            clip: adam.grad_clip.map(clip).transpose()?,
            kept: (adam.weight_decay > 0.0).then(|| Buffer::new(device, "kept", STEPS_AT_ONCE)).transpose()?,
            keys: model.dropout.map(|_| Buffer::new(device, "dropout keys", 2 * STEPS_AT_ONCE)).transpose()?,
            packed: false,
            recordings: Vec::new(),
        })
    }

    /// Runs as many of the recorded iterations.
    fn replay(&self, device: &D, iterations: usize) -> Result<()> {
        let mut left = iterations;
        for Recording { iterations, graph } in self.recordings.iter().rev() {
            while left >= *iterations {
                device.replay(graph)?;
                left -= iterations;
            }
        }
        Ok(())
    }

    /// One training iteration: everything from the batch's rows to the next turn.
    fn iterate(
        &self,
        device: &D,
        weights: &[Weights<D>],
        in_one_launch: Option<&Sequence<D>>,
        sequences: &DeviceSequences<D>,
        adam: &Adam,
    ) -> Result<()> {
        let (batch, turn) = (self.batch, self.turn.all());
        let rows_and_turn = (self.rows.all(), turn);
        match &self.work {
            Work::Layers(Pass { forward, backward }) => {
                let [weights] = weights else { unreachable!("these kernels train one model") };
                prepare_weights(device, weights, in_one_launch)?;
                forward.run(device, weights, in_one_launch, sequences, rows_and_turn, batch)?;
                forward.score(device, Some(backward.dlogits()), batch)?;
                backward.run(device, weights, in_one_launch, forward)?;
                self.update(device, weights, adam)?;
                adam::advance(device, turn)
            }
            Work::Stack(stack) => {
                let [weights] = weights else { unreachable!("these kernels train one model") };
                let leave_out = LeaveOut::new(&weights.model(), self.keys.as_ref(), turn);
                stack.run(device, weights, sequences, rows_and_turn, leave_out, batch)?;
                stack.score(device, batch)?;
                stack.backward(device, weights, sequences.has_lengths(), leave_out)?;
                self.update(device, weights, adam)?;
                adam::advance(device, turn)
            }
            Work::Persistent(persistent) => {
                persistent.run(device, weights, sequences, rows_and_turn, None)?;
                if self.clip.is_none() && self.kept.is_none() {
                    let (step_sizes, mean_loss) = (self.step_sizes.all(), self.mean_loss.all());
                    let step = Step { adam, step_sizes, turn, mean_loss, correct: self.correct.all() };
                    persistent.update(device, weights, &step)?;
                } else {
                    persistent.add_gradient(device, weights)?;
                    self.update(device, &weights[0], adam)?;
                    persistent.pack_recurrent(device, weights)?;
                }
                persistent.fold(device, weights, sequences, Some(turn))
            }
        }
    }

    /// From losses, classes and gradient to the batch's metrics and the next parameters.
    fn update(&self, device: &D, weights: &Weights<D>, adam: &Adam) -> Result<()> {
        let (work, batch, turn) = (&self.work, self.batch, self.turn.all());
        let (predicted, labels) = work.classes();
        let metrics = Metrics {
            loss: work.loss().all(),
            predicted,
            labels,
            turn,
            mean_loss: self.mean_loss.all(),
            correct: self.correct.all(),
            batch,
        };
        batch_metrics(device, &metrics)?;
        let (gradient, n) = (work.gradient().all(), weights.parameters.len());
        if let Some(Clip { max_norm, parts, factor }) = &self.clip {
            adam::clip_factor(device, gradient, parts.all(), factor.all(), n, *max_norm)?;
        }
        let update = Update {
            gradient,
            step_sizes: self.step_sizes.all(),
            turn,
            clip: self.clip.as_ref().map(|clip| clip.factor.all()),
            kept: self.kept.as_ref().map(Buffer::all),
            parameters: weights.parameters.all(),
            m: weights.m.all(),
            v: weights.v.all(),
            n,
        };
        adam::update(device, adam, &update)
    }
}

/// Makes of the parameters what the layers read.
fn prepare_weights<D: Device>(device: &D, weights: &Weights<D>, in_one_launch: Option<&Sequence<D>>) -> Result<()> {
    weights.update_fold(device)?;
    in_one_launch.map_or(Ok(()), |lstm| lstm.pack(device, weights))
}

impl<D: Device> Scorer<D> {
    fn new(device: &D, model: &Model, capacity: usize, family: Family) -> Result<Self> {
        Ok(match family {
            Family::PerStep => Self::Layers(Forward::new(device, model.dims, capacity, Keep::Last(1))?),
            Family::Sequence(_) | Family::Tf32(_) => {
                let steps = (MOST_SCORED_GATES / (capacity * model.dims.g())).clamp(1, model.dims.t);
                Self::Layers(Forward::new(device, model.dims, capacity, Keep::Last(steps))?)
            }
            Family::Stack => Self::Stack(Stack::new(device, model, capacity, false)?),
            Family::Persistent(variant) => Self::Persistent(Inference::new(device, model.dims, variant, capacity)?),
        })
    }

    /// Most sequences of a batch.
    fn capacity(&self) -> usize {
        match self {
            Self::Layers(forward) => forward.capacity(),
            Self::Stack(stack) => stack.capacity(),
            Self::Persistent(inference) => inference.capacity(),
        }
    }

    /// From the sequences `rows[turn]` to logits.
    fn run(
        &mut self,
        device: &D,
        weights: &Weights<D>,
        in_one_launch: Option<&Sequence<D>>,
        sequences: &DeviceSequences<D>,
        rows_and_turn: (Part<'_, u32>, Part<'_, u32>),
        batch: usize,
    ) -> Result<()> {
        match self {
            Self::Layers(forward) => forward.run(device, weights, in_one_launch, sequences, rows_and_turn, batch),
            Self::Stack(stack) => stack.run(device, weights, sequences, rows_and_turn, None, batch),
            Self::Persistent(inference) => inference.run(device, weights, sequences, rows_and_turn, batch),
        }
    }

    /// From logits to losses and classes, where these are not there yet.
    fn score(&self, device: &D, batch: usize) -> Result<()> {
        match self {
            Self::Layers(forward) => forward.score(device, None, batch),
            Self::Stack(stack) => stack.score(device, batch),
            Self::Persistent(_) => Ok(()),
        }
    }

    /// `[B,K]`
    fn logits(&self) -> &Buffer<D, f32> {
        match self {
            Self::Layers(forward) => forward.logits(),
            Self::Stack(stack) => stack.logits(),
            Self::Persistent(inference) => inference.logits(),
        }
    }

    /// Loss and class of each sequence, `[B]`.
    fn scores(&self) -> (&Buffer<D, f32>, &Buffer<D, u32>) {
        match self {
            Self::Layers(forward) => (forward.loss(), forward.predicted()),
            Self::Stack(stack) => (stack.loss(), stack.predicted()),
            Self::Persistent(inference) => (inference.loss(), inference.predicted()),
        }
    }
}

impl<D: Device> Scoring<D> {
    fn new(device: &D, model: &Model, capacity: usize, family: Family) -> Result<Self> {
        let mut scoring = Self {
            family,
            scorer: Scorer::new(device, model, capacity, family)?,
            rows: Buffer::new(device, "scored rows", capacity)?,
            turn: Buffer::new(device, "scored turn", 1)?,
            probabilities: Buffer::new(device, "probabilities", capacity * model.dims.k)?,
        };
        scoring.turn.zero(device, 1)?;
        Ok(scoring)
    }
}

impl<D: Device> CudaEngine<D> {
    /// An engine for `model` on `device`, which trains with `adam` on `data`. All parameters are zero until
    /// [`Engine::set_state`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if kernels cannot count the model's parameters; [`Error::Device`] if the device fails or has no
    /// room for the model.
    pub fn new(device: D, model: Model, adam: Adam, data: Arc<Dataset>) -> Result<Self> {
        Self::with_precision(device, model, adam, data, Precision::F32)
    }

    /// The same, which trains with matrix products of that precision where the device can do that with the model and a batch:
    /// see [`CudaEngine::plan`].
    ///
    /// # Errors
    ///
    /// Those of [`CudaEngine::new`].
    pub fn with_precision(
        device: D,
        model: Model,
        adam: Adam,
        data: Arc<Dataset>,
        precision: Precision,
    ) -> Result<Self> {
        let extras = [model.extras(), data.has_lengths().then(|| LENGTHS.to_owned())];
        let extras: Vec<_> = extras.into_iter().flatten().collect();
        let n = model.layout().len();
        if n > MOST {
            let found = format!("{n} parameters are more than the {MOST} that a GPU's kernels count");
            return Err(Error::usage("model sizes", found, "choose smaller ones"));
        }
        let limits = device.limits()?;
        let mut engine = Self {
            device,
            limits,
            model,
            precision,
            activations: Activations::default(),
            division: None,
            extras: (!extras.is_empty()).then(|| extras.join(", ")),
            tuning: None,
            plan: None,
            loaded: Vec::new(),
            sequence: None,
            data,
            splits: [None, None, None],
            weights: Vec::new(),
            trainees: Vec::new(),
            chosen: 0,
            training: None,
            scoring: None,
        };
        engine.hold(vec![Trainee::new(&adam)])?;
        Ok(engine)
    }

    /// The same for models that train side by side on batches of that size, one with each of `adams`, or with the first of them: as
    /// many as the device has room for, and one where it cannot do more at once, of which [`CudaEngine::alone`] tells why. Each
    /// becomes, to the bit, what it becomes alone. All parameters are zero.
    ///
    /// # Errors
    ///
    /// If the device fails.
    ///
    /// # Panics
    ///
    /// If there is none, or if they differ in more than their learning rates.
    pub fn with_models(mut self, adams: &[Adam], batch: usize) -> Result<Self> {
        let same = |adam: &Adam| Adam { learning_rate: 0.0, ..*adam };
        assert!(adams.iter().all(|adam| same(adam) == same(&adams[0])), "only learning rates differ");
        let trainees: Vec<_> = adams.iter().map(Trainee::new).collect();
        let count = self.most_models(&trainees, batch)?;
        self.weights.clear();
        self.hold(trainees[..count].to_vec())?;
        Ok(self)
    }

    /// Takes models in, with all parameters zero.
    fn hold(&mut self, trainees: Vec<Trainee>) -> Result<()> {
        self.weights = Weights::side_by_side(&self.device, self.model, trainees.len())?;
        let zeros = State::new(vec![0.0; self.model.layout().len()]);
        self.weights.iter_mut().try_for_each(|weights| weights.upload(&self.device, &zeros))?;
        self.trainees = trainees;
        Ok(())
    }

    /// How many of the models can train side by side, 1 or more.
    fn most_models(&mut self, trainees: &[Trainee], batch: usize) -> Result<usize> {
        let one = self.planned(batch, &self.limits).family;
        if !matches!(one, Family::Persistent(_)) || trainees[0].needs_alone().is_some() {
            self.prepare_plan(batch, 1)?;
            return Ok(1);
        }
        let family = self.prepare_plan(batch, trainees.len())?;
        let Family::Persistent(variant) = family else { return Ok(1) };
        let most = trainees.len().min(MOST_BLOCKS / variant.gradient_row_blocks());
        let room = self.room()?;
        let fits = |count: usize| -> Result<bool> {
            let weights = Estimate::of(|estimate| Weights::side_by_side(estimate, self.model, count))?;
            let training = self.training_bytes(&trainees[..count], batch, family)?;
            Ok(room.is_none_or(|room| room >= weights + training))
        };
        Ok(largest(most, fits)?.max(1))
    }

    /// How many models the engine holds.
    pub fn models(&self) -> usize {
        self.trainees.len()
    }

    /// Why a model cannot train side by side with others, where that is not for want of memory.
    pub fn alone(&self) -> Option<String> {
        match &self.plan {
            Some(Plan { family: Family::PerStep | Family::Sequence(_) | Family::Tf32(_) | Family::Stack, reason }) => {
                Some(reason.clone())
            }
            _ => self.trainees[0].needs_alone().map(str::to_owned),
        }
    }

    /// Chooses the model that the calls of [`Engine`] are about.
    ///
    /// # Panics
    ///
    /// If there is no such model.
    pub fn choose(&mut self, model: usize) {
        assert!(model < self.models(), "model {model} of {}", self.models());
        if model != self.chosen {
            self.chosen = model;
            self.trainees[model].folded = false;
            self.forget_scored();
        }
    }

    /// The same with activations of that form in kernels that have it: those in bf16.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// The same with that division of the work among blocks in kernels that have one, and not the planned one: no bit differs.
    pub fn with_division(mut self, division: Division) -> Self {
        self.division = Some(division);
        self
    }

    /// The same with the fastest of the plans with the same bits, as far as it is known or `tuning` is to find out.
    pub fn with_tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = Some(tuning);
        self
    }

    /// Which kernels compute, and why; none before the first batch.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Which kernels train batches of that size on a GPU of those limits, and why.
    fn planned(&self, batch: usize, limits: &Limits) -> Plan {
        match &self.extras {
            Some(extras) => Plan::stack(extras),
            None => Plan::new(self.model.dims, batch, self.precision, limits),
        }
    }

    /// Plans with the same bits for batches of that size to be trained, of so many models at once: that of the rules first, then those
    /// that may be faster, if that is anybody's question.
    fn candidates(&self, batch: usize, models: usize) -> Result<Vec<Plan>> {
        // Models side by side share the multiprocessors.
        let multiprocessors = (self.limits.multiprocessors / models as u32).max(1);
        let (dims, limits) = (self.model.dims, &Limits { multiprocessors, ..self.limits });
        let plan = self.planned(batch, limits).with_activations(self.activations);
        Ok(match (self.division, &self.tuning) {
            (Some(division), _) => vec![plan.with_division(dims, batch, division, limits)?],
            (None, None) => vec![plan],
            (None, Some(_)) => plan.candidates(dims, batch, limits),
        })
    }

    /// What is timed where the fastest of `candidates` is looked for.
    fn subject<'a>(&self, batch: usize, models: usize, candidates: &'a [Plan]) -> Subject<'a> {
        let (gpu, limits, dims) = (self.device.kind(), self.limits, self.model.dims);
        let (precision, activations) = (self.precision, self.activations);
        Subject { gpu, limits, dims, batch, models, precision, activations, candidates }
    }

    /// Plans for batches of that size to be trained, of so many models at once, and has the kernels loaded.
    fn prepare_plan(&mut self, batch: usize, models: usize) -> Result<Family> {
        let candidates = self.candidates(batch, models)?;
        let (plan, note) = match &self.tuning {
            Some(tuning) if self.division.is_none() => {
                let found = tuning.known(&self.subject(batch, models, &candidates));
                let plan = found.as_ref().and_then(|found| found.plan(&candidates)).unwrap_or(&candidates[0]);
                (plan, tuning.note(found.as_ref(), &candidates))
            }
            _ => (&candidates[0], None),
        };
        let mut plan = self.load_kernels(plan.clone())?;
        if let Some(note) = note.filter(|_| plan.family.specialized().is_some()) {
            plan.reason += &format!("; {note}");
        }
        Ok(self.plan.insert(plan).family)
    }

    /// Finds the fastest plan for batches that are prepared to be trained, if that is wanted, not known yet and worth it, and prepares for
    /// it. What training has changed so far is as it was.
    fn tune(&mut self, batch: usize) -> Result<()> {
        let Some(effort) = self.tuning.as_ref().map(Tuning::effort).filter(|_| self.division.is_none()) else {
            return Ok(());
        };
        let candidates = self.candidates(batch, self.models())?;
        let is_known = self
            .tuning
            .as_ref()
            .is_some_and(|tuning| tuning.known(&self.subject(batch, self.models(), &candidates)).is_some());
        // Where the kernels could not be had there is nothing to choose from either.
        let is_loaded = self.plan.as_ref().is_some_and(|plan| plan.family.specialized().is_some());
        if !effort.times() || candidates.len() == 1 || is_known || !is_loaded {
            return Ok(());
        }
        let states: Vec<_> =
            self.weights.iter().map(|weights| weights.download(&self.device, 0)).collect::<Result<_>>()?;
        self.time_candidates(batch, effort, &candidates)?;
        for (weights, state) in self.weights.iter_mut().zip(&states) {
            weights.upload(&self.device, state)?;
        }
        self.forget_folded();
        Ok(())
    }

    /// Times the candidates, of which the first is prepared, and prepares for the fastest; or has the plan say why not. Trains on
    /// meanwhile.
    fn time_candidates(&mut self, batch: usize, effort: Effort, candidates: &[Plan]) -> Result<()> {
        if let Effort::Iterations(count) = effort
            && let Some(why_not) = tune::too_short(count, self.time_training(batch, tune::first)?)
        {
            self.plan.iter_mut().for_each(|plan| plan.reason += &format!("; {why_not}"));
            return Ok(());
        }
        let mut timed = Vec::new();
        for (n, plan) in candidates.iter().enumerate() {
            let milliseconds = match self.time_plan(batch, plan) {
                // One that the device refuses is none; if it refuses everything from now on, the fastest will tell.
                Err(_) if n > 0 => continue,
                time => time?,
            };
            timed.push(Timed { division: plan.family.division(), milliseconds });
        }
        let found = Found::new(timed);
        let subject = self.subject(batch, self.models(), candidates);
        if let Some(tuning) = &mut self.tuning {
            tuning.keep(&subject, &found);
        }
        let family = self.prepare_plan(batch, self.models())?;
        if self.training.is_none() {
            self.build_training(batch, family)?;
        }
        Ok(())
    }

    /// Milliseconds of an iteration by a plan.
    fn time_plan(&mut self, batch: usize, plan: &Plan) -> Result<f64> {
        let Plan { family, reason } = self.load_kernels(plan.clone())?;
        if family != plan.family {
            return Err(Error::Failed(reason));
        }
        if self.training.is_none() {
            self.build_training(batch, family)?;
        }
        self.time_training(batch, |time| tune::of_one(STEPS_AT_ONCE, time))
    }

    /// What `measure` makes of the milliseconds of as many iterations as it asks for, on any rows and with steps of size zero: the work
    /// is that of training. Weight decay goes on, so whoever asks puts the parameters back.
    fn time_training(
        &mut self,
        batch: usize,
        measure: impl FnOnce(&mut dyn FnMut(usize) -> Result<f32>) -> Result<f64>,
    ) -> Result<f64> {
        let results = STEPS_AT_ONCE * self.models();
        let n = self.data.train.len();
        let rows: Vec<u32> = (0..results * batch).map(|k| (k % n) as u32).collect();
        self.upload_steps(&rows, &vec![0.0; results])?;
        let (Some(training), device) = (&mut self.training, &self.device) else { unreachable!("prepared before") };
        measure(&mut |iterations| {
            training.turn.zero(device, 1)?;
            device.time(&mut || training.replay(device, iterations))
        })
    }

    /// The plan, with its kernels loaded; where there is nothing to compile them with, the one that needs none.
    fn load_kernels(&mut self, plan: Plan) -> Result<Plan> {
        let Some(kernels) = plan.family.specialized().filter(|kernels| !self.loaded.contains(kernels)) else {
            return Ok(plan);
        };
        // What was recorded and prepared is of the kernels that go.
        (self.training, self.scoring) = (None, None);
        match self.device.load(&kernels) {
            Err(Error::Device { device, found, .. }) => return Ok(plan.without_kernels(&format!("{device}: {found}"))),
            other => other?,
        }
        // The sequence kernels in f32 and in TF32 take each other's place too: the packed weights are of one of them.
        let goes = |loaded: &Specialized| loaded.launches().is_some() && kernels.launches().is_some();
        self.loaded.retain(|loaded| loaded.name() != kernels.name() && !goes(loaded));
        self.loaded.push(kernels);
        if let Some(launches) = kernels.launches() {
            self.sequence = Some(Sequence::new(&self.device, self.model.dims, launches)?);
            self.trainees.iter_mut().for_each(|trainee| trainee.folded = false);
        }
        Ok(plan)
    }

    /// The sequence kernels, in f32 or in TF32, if `family` is one of them.
    fn in_one_launch(&self, family: Family) -> Option<&Sequence<D>> {
        self.sequence.as_ref().filter(|_| matches!(family, Family::Sequence(_) | Family::Tf32(_)))
    }

    /// The family for batches beside those that are trained, by the kernels that are loaded: any of their variants takes any
    /// batch, with the same bits.
    fn prepare_beside(&mut self, batch: usize, has_lengths: bool) -> Result<Family> {
        if has_lengths && self.extras.is_none() {
            return Ok(Family::Stack);
        }
        let Some(Plan { family, .. }) = self.plan else { return self.prepare_plan(batch, 1) };
        let planned = self.planned(batch, &self.limits).family;
        Ok(if discriminant(&planned) == discriminant(&family) { family } else { Family::PerStep })
    }

    /// What was made of the parameters of all models is of others now.
    fn forget_folded(&mut self) {
        self.trainees.iter_mut().for_each(|trainee| trainee.folded = false);
        self.forget_scored();
        if let Some(training) = &mut self.training {
            training.packed = false;
        }
    }

    /// What scoring made of parameters is of others now.
    fn forget_scored(&mut self) {
        if let Some(Scoring { scorer: Scorer::Persistent(inference), .. }) = &mut self.scoring {
            inference.forget_weights();
        }
    }

    /// Chooses the kernels for batches of that size, and has them loaded.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn choose_kernels(&mut self, batch: usize) -> Result<&Plan> {
        self.prepare_plan(batch, self.models())?;
        Ok(self.plan.as_ref().expect("just made"))
    }

    /// Most training iterations that one replay runs; 0 before anything was trained.
    pub fn iterations_of_a_replay(&self) -> usize {
        let recordings = self.training.iter().flat_map(|training| &training.recordings);
        recordings.map(|recording| recording.iterations).max().unwrap_or(0)
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Copies a split to the device, unless that was done before.
    fn load(&mut self, split: Split) -> Result<()> {
        let place = &mut self.splits[split as usize];
        if place.is_none() {
            *place = Some(DeviceSequences::new(&self.device, self.data.split(split))?);
        }
        Ok(())
    }

    /// Buffers for training on batches of that size, unless they are there already.
    fn prepare_training(&mut self, batch: usize) -> Result<()> {
        if self.training.as_ref().is_some_and(|training| training.batch == batch) {
            return Ok(());
        }
        self.training = None;
        let family = self.prepare_plan(batch, self.models())?;
        self.check_room(batch, family)?;
        self.load(Split::Train)?;
        self.build_training(batch, family)?;
        self.tune(batch)
    }

    /// Buffers for training by kernels that are loaded, on data that is there, and the recording of an iteration.
    fn build_training(&mut self, batch: usize, family: Family) -> Result<()> {
        let mut training = Training::new(&self.device, self.model, &self.trainees, batch, family, &self.limits)?;
        let Some(sequences) = &self.splits[Split::Train as usize] else { unreachable!("loaded above") };
        let (device, weights, adam) = (&self.device, &self.weights, &self.trainees[0].adam);
        let in_one_launch = self.in_one_launch(family);
        let record = |iterations: usize| -> Result<Recording<D>> {
            let iterate = || training.iterate(device, weights, in_one_launch, sequences, adam);
            let graph = device.capture(&mut || (0..iterations).try_for_each(|_| iterate()))?;
            Ok(Recording { iterations, graph })
        };
        let mut recordings = vec![record(1)?];
        let most = MOST_RECORDED / device.launches(&recordings[0].graph)?.max(1);
        for iterations in RECORDED.into_iter().filter(|iterations| *iterations <= most) {
            recordings.push(record(iterations)?);
        }
        training.recordings = recordings;
        self.training = Some(training);
        Ok(())
    }

    /// Bytes on the device that training these models with such batches takes, and scoring on the way and at the end; parameters and
    /// data are not counted.
    fn training_bytes(&self, trainees: &[Trainee], batch: usize, family: Family) -> Result<u64> {
        let at_once = self.data.validation.len().max(self.data.test.len()).max(batch).min(SCORE_AT_ONCE.max(batch));
        Estimate::of(|estimate| {
            Training::new(estimate, self.model, trainees, batch, family, &self.limits)?;
            Scoring::new(estimate, &self.model, at_once, family)
        })
    }

    /// Bytes of the splits that are not on the device yet.
    fn data_bytes(&self) -> u64 {
        let is_missing = |split: &Split| self.splits[*split as usize].is_none();
        let splits = [Split::Train, Split::Validation, Split::Test].into_iter().filter(is_missing);
        splits.map(|split| gather::bytes(self.data.split(split))).sum()
    }

    /// Bytes that there are for models, training and scoring, where anybody knows.
    fn room(&self) -> Result<Option<u64>> {
        let free = self.device.free_bytes()?;
        // Contexts, code and fragments of memory take their part.
        Ok(free.map(|free| (free - free / 20).saturating_sub(self.data_bytes())))
    }

    /// Refuses a batch that kernels cannot count or that the device has no room for, with the largest that fits.
    fn check_room(&self, batch: usize, family: Family) -> Result<()> {
        let (Dims { t, i, k, .. }, width) = (self.model.dims, self.model.width());
        let between = if self.model.layers > 1 { width + 1 } else { 0 };
        let widest = (t * (i + 1).max(between)).max(t + 1).max(width).max(k);
        let room = self.room()?;
        let is_counted = |batch: usize| batch.checked_mul(widest).is_some_and(|numbers| numbers <= MOST);
        let fits = |batch: usize| -> Result<bool> {
            Ok(is_counted(batch)
                && (room.is_none() || room >= Some(self.training_bytes(&self.trainees, batch, family)?)))
        };
        if fits(batch)? {
            return Ok(());
        }
        let good = largest(batch - 1, fits)?;
        let found = match room {
            Some(room) if is_counted(batch) => {
                let (room, unit) =
                    if room < 1_000_000_000 { (room as f64 / 1e6, "MB") } else { (room as f64 / 1e9, "GB") };
                format!(
                    "the GPU has room for {room:.1} {unit} of buffers beside the data, which is too little for such batches"
                )
            }
            _ => "that is more than a GPU's kernels count".into(),
        };
        let remedy = match good {
            0 => "choose a smaller model, or --device cpu".into(),
            good => format!("the largest batch that fits is {good}"),
        };
        Err(Error::usage(format!("batch size {batch}"), found, remedy))
    }

    fn prepare_scoring(&mut self, batch: usize, has_lengths: bool) -> Result<()> {
        let is_larger = has_lengths || self.extras.is_some();
        let fits = |scoring: &Scoring<D>| {
            scoring.scorer.capacity() >= batch && matches!(scoring.family, Family::Stack) == is_larger
        };
        if !self.scoring.as_ref().is_some_and(fits) {
            self.scoring = None;
            let family = self.prepare_beside(batch, has_lengths)?;
            self.scoring = Some(Scoring::new(&self.device, &self.model, batch, family)?);
        }
        let is_folding = matches!(self.scoring, Some(Scoring { scorer: Scorer::Layers(_), .. }));
        if is_folding && !self.trainees[self.chosen].folded {
            prepare_weights(&self.device, &self.weights[self.chosen], self.sequence.as_ref())?;
            self.trainees[self.chosen].folded = true;
        }
        Ok(())
    }

    /// Trains every model one step for each `batch` of its rows, all models as many steps. What is the same for each model alone is
    /// the same here.
    ///
    /// # Errors
    ///
    /// If the device fails.
    ///
    /// # Panics
    ///
    /// If there are not as many lists of rows as models, or not of one length, or if a row is not there.
    pub fn train_side_by_side(&mut self, rows: &[&[u32]], batch: usize) -> Result<Vec<Vec<StepMetrics>>> {
        assert_eq!(rows.len(), self.models(), "rows of each model");
        let steps = rows[0].len() / batch;
        assert!(rows.iter().all(|rows| rows.len() / batch == steps), "steps of all models");
        rows.iter().for_each(|rows| check_rows(rows, self.data.train.len()));
        self.prepare_training(batch)?;
        let mut metrics = vec![Vec::with_capacity(steps); rows.len()];
        for first in (0..steps).step_by(STEPS_AT_ONCE) {
            let some = first..steps.min(first + STEPS_AT_ONCE);
            let of_step = |step: usize| rows.iter().flat_map(move |rows| &rows[step * batch..][..batch]);
            let together: Vec<u32> = some.flat_map(of_step).copied().collect();
            for step in self.train_some(&together, batch)?.chunks(rows.len()) {
                metrics.iter_mut().zip(step).for_each(|(metrics, step)| metrics.push(*step));
            }
        }
        Ok(metrics)
    }

    /// Trains one step for each batch of `rows` `[S,M,B]`, S at most [`STEPS_AT_ONCE`]; gives metrics `[S,M]`.
    fn train_some(&mut self, rows: &[u32], batch: usize) -> Result<Vec<StepMetrics>> {
        let results = rows.len() / batch;
        let steps = results / self.models();
        let sizes_of = |n| self.trainees.iter().map(move |one| one.adam.step_size(one.step + 1 + n) as f32);
        let step_sizes: Vec<f32> = (0..steps as u64).flat_map(sizes_of).collect();
        self.upload_steps(rows, &step_sizes)?;
        let (Some(training), device) = (&self.training, &self.device) else { unreachable!("prepared before") };
        training.replay(device, steps)?;
        let loss = training.mean_loss.download(device, results)?;
        let correct = training.correct.download(device, results)?;
        self.trainees
            .iter_mut()
            .for_each(|trainee| (trainee.step, trainee.folded) = (trainee.step + steps as u64, false));
        self.forget_scored();
        Ok(loss.into_iter().zip(correct).map(|(loss, correct)| StepMetrics { loss, correct }).collect())
    }

    /// Makes the device ready for steps on `rows` `[S,M,B]` of these sizes `[S,M]`.
    fn upload_steps(&mut self, rows: &[u32], step_sizes: &[f32]) -> Result<()> {
        let (Some(training), device) = (&mut self.training, &self.device) else { unreachable!("prepared before") };
        training.rows.upload(device, rows)?;
        training.step_sizes.upload(device, step_sizes)?;
        training.turn.zero(device, 1)?;
        // These are of one model: others do not train beside it.
        let Trainee { adam, step, .. } = self.trainees[0];
        let numbers = step + 1..step + 1 + (step_sizes.len() / self.trainees.len()) as u64;
        if let Some(kept) = &mut training.kept {
            let of_steps: Vec<f32> = numbers.clone().map(|number| adam.kept(number) as f32).collect();
            kept.upload(device, &of_steps)?;
        }
        if let (Some(keys), Some(dropout)) = (&mut training.keys, self.model.dropout) {
            let of_steps: Vec<u32> = numbers.flat_map(|number| dropout.mask(number).key).collect();
            keys.upload(device, &of_steps)?;
        }
        if let (Work::Persistent(persistent), Some(sequences), false) =
            (&training.work, &self.splits[Split::Train as usize], training.packed)
        {
            persistent.pack(device, &self.weights, sequences)?;
            training.packed = true;
        }
        Ok(())
    }

    /// Most sequences that are scored at a time.
    fn scored_at_once(&self) -> usize {
        SCORE_AT_ONCE.max(self.training.as_ref().map_or(0, |training| training.batch))
    }

    /// Runs `rows` of `sequences` forward.
    fn forward(&self, sequences: &DeviceSequences<D>, scoring: &mut Scoring<D>, rows: &[u32]) -> Result<()> {
        scoring.rows.upload(&self.device, rows)?;
        let rows_and_turn = (scoring.rows.first(rows.len()), scoring.turn.all());
        let in_one_launch = self.in_one_launch(scoring.family);
        scoring.scorer.run(
            &self.device,
            &self.weights[self.chosen],
            in_one_launch,
            sequences,
            rows_and_turn,
            rows.len(),
        )
    }
}

/// The largest of 1 to `most` that fits, if all that are smaller fit as well; 0 if none does.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        *(if fits(middle)? { &mut good } else { &mut bad }) = middle;
    }
    Ok(good)
}

/// Refuses rows that are not there: a kernel would read whatever lies beside the data.
fn check_rows(rows: &[u32], n: usize) {
    assert!(rows.iter().all(|&row| (row as usize) < n), "a row is not below {n}");
}

impl<D: Device> Engine for CudaEngine<D> {
    fn device(&self) -> String {
        match &self.plan {
            Some(plan) => format!("{}; {}", self.device.name(), plan.reason),
            None => self.device.name(),
        }
    }

    /// That of training, scoring and predicting.
    fn precision(&self) -> Precision {
        match &self.plan {
            Some(Plan { family: Family::Persistent(_) | Family::Tf32(_), .. }) => self.precision,
            _ => Precision::F32,
        }
    }

    fn threads(&self) -> usize {
        1
    }

    fn model(&self) -> Model {
        self.model
    }

    fn state(&mut self) -> Result<State> {
        self.weights[self.chosen].download(&self.device, self.trainees[self.chosen].step)
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let (weights, trainee) = (&mut self.weights[self.chosen], &mut self.trainees[self.chosen]);
        assert_eq!(state.parameters.len(), weights.parameters.len(), "a state of another model");
        weights.upload(&self.device, state)?;
        (trainee.step, trainee.folded) = (state.step, false);
        self.forget_scored();
        if let Some(training) = &mut self.training {
            training.packed = false;
        }
        Ok(())
    }

    fn prepare(&mut self, batch_size: usize) -> Result<()> {
        self.prepare_training(batch_size)
    }

    fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>> {
        Ok(self.train_side_by_side(&[rows], batch_size)?.remove(0))
    }

    fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores> {
        check_rows(rows, self.data.split(split).len());
        let mut scores = Scores::default();
        if rows.is_empty() {
            return Ok(scores);
        }
        self.load(split)?;
        let at_once = self.scored_at_once();
        self.prepare_scoring(rows.len().min(at_once), self.data.has_lengths())?;
        let (Some(mut scoring), Some(sequences)) = (self.scoring.take(), &self.splits[split as usize]) else {
            unreachable!("prepared above")
        };
        for rows in rows.chunks(at_once) {
            self.forward(sequences, &mut scoring, rows)?;
            scoring.scorer.score(&self.device, rows.len())?;
            let (loss, predicted) = scoring.scorer.scores();
            scores.loss.extend(loss.download(&self.device, rows.len())?);
            scores.predicted.extend(predicted.download(&self.device, rows.len())?);
        }
        self.scoring = Some(scoring);
        Ok(scores)
    }

    fn predict(&mut self, sequences: &Sequences) -> Result<Vec<f32>> {
        let k = self.model.dims.k;
        let mut probabilities = Vec::with_capacity(sequences.len() * k);
        let at_once = self.scored_at_once();
        for start in (0..sequences.len()).step_by(at_once) {
            let count = at_once.min(sequences.len() - start);
            self.prepare_scoring(count, sequences.lengths().is_some())?;
            let Some(mut scoring) = self.scoring.take() else { unreachable!("prepared above") };
            let some = DeviceSequences::new(&self.device, &sequences.slice(start, start + count))?;
            let rows: Vec<u32> = (0..count as u32).collect();
            self.forward(&some, &mut scoring, &rows)?;
            let logits = scoring.scorer.logits().first(count * k);
            softmax(&self.device, logits, scoring.probabilities.first(count * k), count, k)?;
            probabilities.extend(scoring.probabilities.download(&self.device, count * k)?);
            self.scoring = Some(scoring);
        }
        Ok(probabilities)
    }

    fn trace(&mut self, batch: &Sequences) -> Result<Trace> {
        let (Dims { t, i, h, k, .. }, n) = (self.model.dims, batch.len());
        let family = self.prepare_beside(n, batch.lengths().is_some())?;
        let device = &self.device;
        let sequences = DeviceSequences::new(device, batch)?;
        let rows: Vec<u32> = (0..n as u32).collect();
        let rows = Buffer::from_slice(device, "rows", &rows)?;
        let turn = Buffer::from_slice(device, "turn", &[0u32])?;
        let dx = Buffer::new(device, "dx", n * t * i)?;
        let work = Work::new(device, &self.model, (n, 1), family, &self.limits)?;
        let alone = std::slice::from_ref(&self.weights[self.chosen]);
        let (weights, in_one_launch) = (&alone[0], self.in_one_launch(family));
        let (logits, h_last, c_last) = match &work {
            Work::Stack(stack) => {
                let mask = self.model.dropout.map(|dropout| dropout.mask(self.trainees[self.chosen].step + 1));
                let keys = mask.map(|mask| Buffer::from_slice(device, "dropout keys", &mask.key)).transpose()?;
                let leave_out = LeaveOut::new(&self.model, keys.as_ref(), turn.all());
                return stack.trace(device, weights, &sequences, (rows.all(), turn.all()), leave_out);
            }
            Work::Layers(Pass { forward, backward }) => {
                prepare_weights(device, weights, in_one_launch)?;
                forward.run(device, weights, in_one_launch, &sequences, (rows.all(), turn.all()), n)?;
                forward.score(device, Some(backward.dlogits()), n)?;
                backward.run(device, weights, in_one_launch, forward)?;
                backward.inputs(device, weights, dx.all())?;
                let (h_last, c_last) = forward.download_last(device, n)?;
                (forward.logits(), h_last, c_last)
            }
            Work::Persistent(persistent) => {
                let [h_last, c_last] = ["h_last", "c_last"].map(|name| Buffer::new(device, name, n * h));
                let (h_last, c_last, da) = (h_last?, c_last?, Buffer::new(device, "da f32", n * t * 4 * h)?);
                let last = Some((h_last.all(), c_last.all()));
                // The gradient by the inputs goes through the folded weights.
                prepare_weights(device, weights, None)?;
                persistent.pack(device, alone, &sequences)?;
                persistent.run(device, alone, &sequences, (rows.all(), turn.all()), last)?;
                persistent.add_gradient(device, alone)?;
                persistent.inputs(device, alone, da.all(), dx.all())?;
                (persistent.logits(), h_last.download(device, n * h)?, c_last.download(device, n * h)?)
            }
        };
        Ok(Trace {
            logits: logits.download(device, n * k)?,
            h_last,
            c_last,
            loss: work.loss().download(device, n)?,
            gradient: work.gradient().download(device, self.model.layout().len())?,
            dx: sequences_first(&dx.download(device, n * t * i)?, n, t, i),
        })
    }
}

/// `[T,B,I]` as `[B,T,I]`.
fn sequences_first(values: &[f32], batch: usize, t: usize, i: usize) -> Vec<f32> {
    let step = |b: usize, t: usize| &values[(t * batch + b) * i..][..i];
    (0..batch).flat_map(|b| (0..t).flat_map(move |t| step(b, t).iter().copied())).collect()
}
