//! The command line: help, man page and completions all come from here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use fused_lstm::data::own::{LabelColumn, Shares};
use fused_lstm::data::source::Source;
use fused_lstm::init::Init;
use fused_lstm::interchange::Format;
use fused_lstm::model::{Model, Pool};
use fused_lstm::shape::Dims;
use std::path::PathBuf;
use std::str::FromStr;

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed (a check did not hold, or the system refused something)
    2  a flag or value that cannot be used
    3  data missing or broken
    4  the device asked for is not there
    5  a checkpoint that cannot be used
    6  diverged: the loss became NaN or infinite
  130  interrupted, after saving";

/// Trains LSTM sequence classifiers, fast.
///
/// Without a command: `train`, with the defaults of the classic tutorial. Every MNIST digit is read as 28 rows of 28
/// pixels by a linear input layer, an LSTM of 128 units and a linear head.
#[derive(Parser)]
#[command(name = "fused-lstm", version, args_conflicts_with_subcommands = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub train: TrainArgs,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a model and report its accuracy (the default command)
    Train(Box<TrainArgs>),
    /// Evaluate a checkpoint: accuracy, loss, confusion matrix, precision and recall of each class
    Eval(EvalArgs),
    /// Classify pictures of digits, rows of an IDX file, or sequences of your own, with a checkpoint
    Predict(PredictArgs),
    /// Write a checkpoint's model for PyTorch, Keras, or ONNX Runtime
    ///
    /// What the file holds is in docs/interchange.md.
    Export(ExportArgs),
    /// Make a checkpoint of a model that was trained in PyTorch or Keras
    ///
    /// The file holds one LSTM of any number of layers, in one direction or both, a linear layer after it, and one before it or
    /// none; the tensors tell which. How long the sequences are, what the classes are called and how numbers are brought to one
    /// scale is taken from the data that --data names, else from the file, if `export` wrote it. The checkpoint is one of step 0:
    /// Adam starts anew.
    Import(Box<ImportArgs>),
    /// Train all combinations of seeds and settings side by side, and compare them
    ///
    /// Each training gives to the bit what `train` gives for its settings. On the processor there are as many at a time as
    /// threads. On a GPU with --precision bf16 those of one size and batch go through the same launches, as many at a time as its
    /// memory holds; in f32 or with --grad-clip one goes after the other, and the report says so.
    Sweep(Box<SweepArgs>),
    /// Make the report of a run anew, or compare several runs on one page
    ///
    /// The page is one file that needs nothing else: numbers, curves, and what the model gets wrong.
    Report(ReportArgs),
    /// Fetch MNIST, or tell what data there is
    Data(DataCommandArgs),
    /// Run fixtures and compare every tensor with the expected one
    ///
    /// A fixture is a safetensors file of F32 (labels: I32). It holds x [B,T,I], labels [B] and the parameters
    /// param.w_in [I,P], param.b_in [P], param.lstm_kernel [P+H,4H], param.lstm_bias [4H] (gates i, j, f, o),
    /// param.w_out [H,K], param.b_out [K]. Expected, if they are there: out.logits, out.h_T, out.c_T, out.loss,
    /// out.loss_per_sample, out.correct, out.losses10; grad.x and grad.<parameter>; after1.<parameter> and
    /// after10.<parameter>, after so many steps of Adam. Metadata may set forget_bias, lr, beta1, beta2, eps.
    ///
    /// Errors are relative: max to the largest expected value, l2 in 2-norms of the update; far is the share of entries
    /// that are off by more than a tenth of the learning rate. Exit code 1 if any is outside its bound.
    Verify(VerifyArgs),
    /// Time whole training iterations or evaluation, on data in memory
    Bench(BenchArgs),
    /// Tell where the time of a training iteration on a GPU goes, kernel by kernel
    ///
    /// Every launch is timed on its own, and held against the bandwidth of a copy and the arithmetic of a large product that
    /// the same run measures.
    Profile(ProfileArgs),
    /// Compile the CUDA kernels, with no GPU, and tell what each takes of a multiprocessor
    ///
    /// Needs NVRTC, NVIDIA's run-time compiler: from a CUDA toolkit, from `pip install nvidia-cuda-nvrtc`, or from the file or
    /// folder that FUSED_LSTM_NVRTC names.
    Kernels(KernelsArgs),
    /// Check what there is on this machine: processor, data, models, CUDA driver, GPUs, compiler, and whether all compute right
    ///
    /// One line for each check: PASS; WARN for what is missing and can be done without, such as a GPU; FAIL for what is
    /// there and does not work. Fetches nothing. Exit code 1 if anything fails.
    Doctor(DoctorArgs),
    /// Write shell completions to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man page to standard output
    Man {
        /// Write one page for each command into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Args, Clone, Default)]
pub struct DataArgs {
    /// Data set: auto, mnist, synthetic, a folder with MNIST's four files, or a file of your own sequences
    ///
    /// auto takes MNIST from --data-dir or the cache folder, else fetches it, else takes synthetic digits and says so.
    /// [default: auto, or what the checkpoint was trained on]
    ///
    /// A file is .npz (arrays x [sequences, steps, inputs] and y [sequences], or x_train, y_train, x_test, y_test), .csv or
    /// .tsv (a line for each sequence, with a label column), .ts (the UCR/UEA archive's), or .safetensors (x, labels). A folder
    /// may hold x.npy and y.npy, or the archive's _TRAIN and _TEST files. Any of them may be packed by gzip (.csv.gz).
    ///
    /// Sequences may differ in length: an array lengths [sequences] beside x, empty cells at the end of a line's numbers, or
    /// @equalLength false. The model then reads sequences of any length. Arrays in files of more than 1 GiB stay on the disk.
    #[arg(long, value_name = "auto|mnist|synthetic|DIR|FILE", help_heading = "Data")]
    pub data: Option<Source>,
    /// Folder with MNIST's four files, plain or gz [default: $FUSED_LSTM_DATA_DIR, else the cache folder]
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub data_dir: Option<PathBuf>,
    /// Fetch nothing from the network
    #[arg(long, help_heading = "Data")]
    pub offline: bool,
    /// File of test sequences of your own; those of --data are then for training and validation only
    #[arg(long, value_name = "FILE", help_heading = "Own data")]
    pub test_data: Option<PathBuf>,
    /// Column of a CSV or TSV file that holds the label [default: the one named label, class, y or target, else the last]
    #[arg(long, value_name = "NAME|N", help_heading = "Own data")]
    pub label_column: Option<LabelColumn>,
    /// Steps that a line of a CSV or TSV file is cut into; each has an equal part of its numbers
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, help_heading = "Own data")]
    pub steps_per_sequence: Option<usize>,
    /// Numbers of a line that make up one step [default: 1]
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, help_heading = "Own data")]
    pub inputs: Option<usize>,
}

/// How sequences of the user's own are told apart and brought to one scale.
#[derive(Args, Clone, Default)]
pub struct PrepareArgs {
    /// Shares of your sequences for training, validation and test, of each class alike [default: 80/10/10]
    #[arg(long, value_name = "A/B/C", help_heading = "Own data")]
    pub split: Option<Shares>,
    /// Seed that chooses which sequence is for what [default: 0]
    #[arg(long, value_name = "N", value_parser = from_zero::<u64>, allow_negative_numbers = true, help_heading = "Own data")]
    pub split_seed: Option<u64>,
    /// Bring your numbers to mean 0 and standard deviation 1 [default: feature; none for bytes, which are divided by 255]
    ///
    /// The model keeps how, and `eval` and `predict` do the same.
    #[arg(long, value_enum, help_heading = "Own data")]
    pub normalize: Option<NormalizeName>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NormalizeName {
    /// Numbers as they are
    None,
    /// Each input by the training sequences
    Feature,
    /// Each input by the sequence itself
    Sequence,
}

#[derive(Args)]
pub struct DeviceArgs {
    /// Device that computes: the processor, or an NVIDIA GPU, by its number if there are several
    ///
    /// auto takes the first GPU if the program was built with `--features cuda` and there is one that can be used, else
    /// the processor.
    #[arg(long, value_name = "auto|cpu|cuda|cuda:N", value_parser = device, default_value = "auto", env = "FUSED_LSTM_DEVICE")]
    pub device: Device,
    /// Threads of the CPU engine; results do not depend on their number [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<u16>,
    /// Numbers that are multiplied: f32, tf32 or bf16; sums and parameters are f32 in any case. auto is f32
    ///
    /// bf16 is faster, rounds to 8 bits, and needs a processor with AVX512-BF16. tf32 rounds to 11 bits, on GPUs alone, in the products
    /// with the recurrent weights.
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: PrecisionName,
    /// Sigmoid and tanh on a GPU in bf16: accurate, or fast, by the GPU's own approximation to 11 bits
    #[arg(long, value_enum, default_value = "accurate")]
    pub activations: ActivationsName,
    /// Compile the kernels of a GPU anew, and do not keep them for the next start
    #[arg(long)]
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub no_cache: bool,
    /// Do not time how to divide the work among a GPU's blocks, and do not use what was found before
    ///
    /// Without this flag `bench step`, `profile` and trainings of more than a minute time some ways with the same results once, on the
    /// first use of a GPU with these sizes, which takes seconds; what was found is kept in the cache, for every command.
    #[arg(long)]
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub no_tune: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActivationsName {
    Accurate,
    Fast,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    Auto,
    F32,
    Tf32,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The best that there is
    Auto,
    /// The processor
    Cpu,
    /// The NVIDIA GPU with this number
    Cuda(usize),
}

#[derive(Args)]
pub struct OutputArgs {
    /// One JSON object per line on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Only results: no tables, no steps, no progress; errors and notes stay
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
    /// Progress on standard error: a bar if it is a terminal, plain lines, or none
    #[arg(long, value_enum, default_value = "auto", help_heading = "Output")]
    pub progress: ProgressStyle,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    /// A bar if standard error is a terminal, else plain lines
    Auto,
    /// A bar
    Bar,
    /// A line for each piece of work
    Plain,
    /// Nothing
    None,
}

#[derive(Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub prepare: PrepareArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Report every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true, default_value = "20", help_heading = "Output")]
    pub log_every: u64,
    /// Evaluate the validation images every N steps [default: never, with --run 100]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true, help_heading = "Output")]
    pub eval_every: Option<u64>,
    /// Stop when the validation loss has not been lower for N evaluations in a row, and keep the model of its lowest
    ///
    /// How often to evaluate is for --eval-every to say. A resumed run counts anew.
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true, help_heading = "Training")]
    pub patience: Option<u64>,
    /// Folder to save the model and all that training needs to go on
    #[arg(long, value_name = "DIR", help_heading = "Checkpoints")]
    pub save: Option<PathBuf>,
    /// New folder for all of the run: checkpoints, settings, numbers (also for TensorBoard), and a report to look at
    ///
    /// It holds config.json, environment.json, metrics.jsonl, events.out.tfevents…, evaluation.json, report.html, and the
    /// checkpoints `last` and `best`. --resume with this folder goes on with the run.
    #[arg(long, value_name = "DIR", conflicts_with = "save", help_heading = "Checkpoints")]
    pub run: Option<PathBuf>,
    /// Save every N steps, and not only at the end [default: at every evaluation with --run]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true, help_heading = "Checkpoints")]
    pub save_every: Option<u64>,
    /// Go on from the checkpoint in this folder, and save there unless --save or --run names another
    #[arg(long, value_name = "DIR", help_heading = "Checkpoints")]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is trained, and how far.
#[derive(Args, Default)]
pub struct SettingsArgs {
    /// Training steps in all [default: 1000]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true, help_heading = "Training")]
    pub steps: Option<u64>,
    /// Passes over the training data, instead of --steps
    #[arg(long, value_name = "N", value_parser = epochs, allow_negative_numbers = true, conflicts_with = "steps", help_heading = "Training")]
    pub epochs: Option<u64>,
    /// Sequences in a batch [default: 128, or as many as there are]
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Hidden units of each layer and direction [default: 128]
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, help_heading = "Training")]
    pub hidden: Option<usize>,
    /// Adam's learning rate [default: 0.001]
    #[arg(long, value_name = "RATE", value_parser = number::<f64>, allow_negative_numbers = true, help_heading = "Training")]
    pub lr: Option<f64>,
    /// Added to the forget gate before its sigmoid [default: 1.0]
    #[arg(long, value_name = "BIAS", value_parser = number::<f32>, allow_negative_numbers = true, help_heading = "Training")]
    pub forget_bias: Option<f32>,
    /// Start of the input and output layers [default: tutorial]
    #[arg(long, value_enum, help_heading = "Training")]
    pub init: Option<Init>,
    /// Largest 2-norm of the gradient of all parameters; larger ones are scaled down to it [default: none]
    #[arg(long, value_name = "NORM", value_parser = number::<f32>, allow_negative_numbers = true, help_heading = "Training")]
    pub grad_clip: Option<f32>,
    /// Seed of the initial parameters and of the data order [default: 0]
    #[arg(long, value_name = "N", value_parser = from_zero::<u64>, allow_negative_numbers = true, help_heading = "Training")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub larger: LargerArgs,
}

/// What goes beyond the tutorial's model and its training.
#[derive(Args, Clone, Default)]
pub struct LargerArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Share of the training loss's target that is spread over all classes [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = number::<f32>, allow_negative_numbers = true, help_heading = "Training")]
    pub label_smoothing: Option<f32>,
    /// What every parameter loses in a step, times the learning rate, whatever its gradient: AdamW [default: 0]
    #[arg(long, value_name = "RATE", value_parser = number::<f64>, allow_negative_numbers = true, help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// How the learning rate goes on [default: constant]
    #[arg(long, value_enum, help_heading = "Training")]
    pub schedule: Option<ScheduleName>,
    /// Steps in which --schedule warmup-cosine comes to the full learning rate [default: a tenth of all]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true, help_heading = "Training")]
    pub warmup_steps: Option<u64>,
}

/// Of what layers a model is made.
#[derive(Args, Clone, Default)]
pub struct ModelArgs {
    /// LSTM layers, one upon the other [default: 1]
    #[arg(long, value_name = "N", value_parser = layers, allow_negative_numbers = true, help_heading = "Larger models")]
    pub layers: Option<usize>,
    /// Read each sequence in both directions, each with hidden units of its own
    #[arg(long, help_heading = "Larger models")]
    pub bidirectional: bool,
    /// What stands before the first LSTM layer: nothing, or a linear layer [default: linear, as wide as --hidden]
    #[arg(long, value_name = "none|linear|linear:WIDTH", value_parser = input_layer, help_heading = "Larger models")]
    pub input_layer: Option<InputLayerArg>,
    /// What the output layer reads: the last step's state, or the mean or maximum over the steps [default: last]
    ///
    /// Backwards the last step is the sequence's first.
    #[arg(long, value_enum, help_heading = "Larger models")]
    pub pool: Option<Pool>,
    /// Share of each layer's outputs that the layer above does not get while training; 0 for none [default: none]
    #[arg(long, value_name = "SHARE", value_parser = number::<f32>, allow_negative_numbers = true, help_heading = "Larger models")]
    pub dropout: Option<f32>,
}

/// What `--input-layer` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum InputLayerArg {
    None,
    /// Of this width, or as wide as the hidden units.
    Linear(Option<usize>),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleName {
    /// The same at every step
    Constant,
    /// From --lr down to 0, along half a cosine
    Cosine,
    /// From 0 up to --lr in a straight line, then as cosine
    WarmupCosine,
}

#[derive(Args)]
pub struct SweepArgs {
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub prepare: PrepareArgs,
    /// Seeds 0 to N - 1
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true, conflicts_with = "seed", help_heading = "Combinations")]
    pub seeds: Option<u64>,
    /// Seeds, separated by commas [default: 0]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = from_zero::<u64>, allow_negative_numbers = true, help_heading = "Combinations")]
    pub seed: Vec<u64>,
    /// Adam's learning rates, separated by commas [default: 0.001]
    #[arg(long, value_name = "RATE,…", value_delimiter = ',', value_parser = number::<f64>, allow_negative_numbers = true, help_heading = "Combinations")]
    pub lr: Vec<f64>,
    /// Hidden units of each layer and direction [default: 128]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = size, allow_negative_numbers = true, help_heading = "Combinations")]
    pub hidden: Vec<usize>,
    /// Sequences in a batch [default: 128, or as many as there are]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = size, allow_negative_numbers = true, help_heading = "Combinations")]
    pub batch_size: Vec<usize>,
    /// Training steps [default: 1000]
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true, help_heading = "Training")]
    pub steps: Option<u64>,
    /// Passes over the training data, instead of --steps
    #[arg(long, value_name = "N", value_parser = epochs, allow_negative_numbers = true, conflicts_with = "steps", help_heading = "Training")]
    pub epochs: Option<u64>,
    /// Added to the forget gate before its sigmoid [default: 1.0]
    #[arg(long, value_name = "BIAS", value_parser = number::<f32>, allow_negative_numbers = true, help_heading = "Training")]
    pub forget_bias: Option<f32>,
    /// Start of the input and output layers [default: tutorial]
    #[arg(long, value_enum, help_heading = "Training")]
    pub init: Option<Init>,
    /// Largest 2-norm of the gradient of all parameters; larger ones are scaled down to it [default: none]
    #[arg(long, value_name = "NORM", value_parser = number::<f32>, allow_negative_numbers = true, help_heading = "Training")]
    pub grad_clip: Option<f32>,
    #[command(flatten)]
    pub larger: LargerArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// File for all results, as JSON
    #[arg(long, value_name = "FILE", default_value = "sweep.json", help_heading = "Output")]
    pub out: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args)]
pub struct EvalArgs {
    /// Folder with the checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Part of the data
    #[arg(long, value_enum, default_value = "test")]
    pub split: SplitName,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// What the model learned from
    Train,
    /// Held back from training
    Validation,
    /// Never seen
    Test,
}

#[derive(Args)]
pub struct PredictArgs {
    /// Folder with the checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// PNG or JPEG pictures of a digit, of any size, dark on light or light on dark; IDX image files; or files of your own
    /// sequences, as for train's --data, with or without labels
    #[arg(required_unless_present = "stream", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Read steps from standard input, one a line, and tell the class after each
    ///
    /// A line has a number for each input, separated by commas, spaces or tabs; an empty line begins another sequence. It runs
    /// on the processor, in f32, and not for models of two directions or normalized by sequence, which need the whole of it.
    #[arg(long, conflicts_with_all = ["files", "row", "label_column", "threads", "precision", "activations"])]
    pub stream: bool,
    /// Which image of an IDX file, counted from 0; may be given more than once
    #[arg(long, value_name = "N", value_parser = from_zero::<usize>, allow_negative_numbers = true, default_value = "0")]
    pub row: Vec<usize>,
    /// Column of a CSV or TSV file that holds the label, which is passed over [default: as for train]
    #[arg(long, value_name = "NAME|N")]
    pub label_column: Option<LabelColumn>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// One JSON object per line on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ExportArgs {
    /// Folder with the checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// What is to read the file
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Have the ONNX graph read how many steps of each sequence count
    #[arg(long)]
    pub lengths: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// PyTorch: a state dict of nn.Linear, nn.LSTM and nn.Linear, as a safetensors file
    Pytorch,
    /// Keras: the weights of Dense, LSTM and Dense layers by their paths, as a safetensors file
    Keras,
    /// ONNX Runtime and whatever else runs ONNX: the whole computation, from the numbers of a data file to probabilities
    Onnx,
}

#[derive(Args)]
pub struct ImportArgs {
    /// File with the tensors
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Whose tensors they are
    #[arg(long, value_enum)]
    pub format: Format,
    /// Folder for the checkpoint
    #[arg(long, value_name = "DIR")]
    pub save: PathBuf,
    /// What the output layer reads: the last step's state, or the mean or maximum over the steps [default: last, or what the
    /// exported model had]
    #[arg(long, value_enum)]
    pub pool: Option<Pool>,
    /// Sequences in a batch, for training to go on with [default: 128, or as many as there are]
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub prepare: PrepareArgs,
    /// Progress on standard error
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressStyle,
}

#[derive(Args)]
pub struct ReportArgs {
    /// Folders that `train --run` wrote
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// File for the page [default: report.html in the run's folder; comparison.html here if there are several runs]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub struct DataCommandArgs {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Download MNIST and check it
    Fetch {
        /// Folder to put it in [default: where train looks: $FUSED_LSTM_DATA_DIR, else the cache folder]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Address to fetch from instead of the known ones; may be given more than once
        #[arg(long, value_name = "URL")]
        mirror: Vec<String>,
        /// Progress on standard error
        #[arg(long, value_enum, default_value = "auto")]
        progress: ProgressStyle,
    },
    /// Tell where data is looked for, what is there, and what is wrong with it; fetches nothing
    ///
    /// Of sequences of your own: sizes, lengths, counts of each class, the range of each input, and what is doubtful. Exit code
    /// 3 if they cannot be trained on.
    Info {
        #[command(flatten)]
        data: DataArgs,
        #[command(flatten)]
        prepare: PrepareArgs,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub struct VerifyArgs {
    /// Fixtures: safetensors files with a batch, parameters and expected tensors
    #[arg(required = true, value_name = "FIXTURE")]
    pub fixtures: Vec<PathBuf>,
    /// Engine to run
    #[arg(long, value_enum, default_value = "cpu")]
    pub engine: EngineName,
    /// Write every computed tensor, beside copies of the inputs, to a file of the fixture's name in this folder
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
    /// Threads of the CPU engine [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<u16>,
    /// Numbers that are multiplied, and the bounds that go with them; auto is f32
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: PrecisionName,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The plain reference, in double precision
    Reference,
    /// The fast CPU engine
    Cpu,
    /// The CUDA engine on an NVIDIA GPU
    Cuda,
    /// The CUDA engine on an emulated GPU, which checks every access of the kernels; slow
    Emulator,
}

/// Sizes of the iterations that are timed.
#[derive(Args)]
pub struct SizeArgs {
    /// Sequences in an iteration
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, default_value = "128")]
    pub batch_size: usize,
    /// Hidden units of each layer and direction
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, default_value = "128")]
    pub hidden: usize,
    /// Steps of each sequence
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, default_value = "28")]
    pub steps_per_sequence: usize,
    /// Inputs of each step
    #[arg(long, value_name = "N", value_parser = size, allow_negative_numbers = true, default_value = "28")]
    pub inputs: usize,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args)]
pub struct BenchArgs {
    /// What to time
    #[arg(value_enum)]
    pub what: BenchName,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub sizes: SizeArgs,
    /// How long to measure, in seconds
    #[arg(long, value_name = "S", value_parser = number::<f64>, allow_negative_numbers = true, default_value = "5")]
    pub seconds: f64,
    /// One JSON line on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchName {
    /// Training iterations: forward, loss, backward, update
    Step,
    /// Evaluation: forward and arg max
    Infer,
    /// Latencies and rates of a GPU, by kernels that compute nothing; sizes and --seconds mean nothing here
    Micro,
}

#[derive(Args)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub struct ProfileArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub sizes: SizeArgs,
    /// One JSON line on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub struct KernelsArgs {
    /// Architecture to compile for
    #[arg(long, value_name = "SM", value_parser = architecture, default_value = "sm_90")]
    pub arch: String,
    /// Write the text given to the compiler, the PTX and the cubin into this folder
    #[arg(long, value_name = "DIR")]
    pub emit: Option<PathBuf>,
    /// One JSON line on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct DoctorArgs {
    /// Folder with a checkpoint to check too; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub model: Vec<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    /// One JSON line on standard output
    #[arg(long)]
    pub json: bool,
}

/// A whole number from `low` to `high`.
fn whole<N: FromStr + PartialOrd + std::fmt::Display>(text: &str, low: N, high: N) -> Result<N, String> {
    let wanted = format!("give a whole number from {low} to {high}");
    text.parse().ok().filter(|n| *n >= low && *n <= high).ok_or(wanted)
}

/// `sm_90`, `sm_90a`: whether the compiler knows it, it tells itself.
fn architecture(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sm_").map(|rest| rest.strip_suffix(['a', 'f']).unwrap_or(rest));
    let good =
        digits.is_some_and(|digits| (2..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
    if good { Ok(text.into()) } else { Err("give an architecture such as sm_90".into()) }
}

fn device(text: &str) -> Result<Device, String> {
    let ordinal = |text: &str| text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    match text {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        "cuda" => Ok(Device::Cuda(0)),
        _ => ordinal(text).map(Device::Cuda).ok_or_else(|| "choose one of auto, cpu, cuda, cuda:0, cuda:1, …".into()),
    }
}

fn size(text: &str) -> Result<usize, String> {
    whole(text, 1, Dims::MAX_SIZE)
}

fn layers(text: &str) -> Result<usize, String> {
    whole(text, 1, Model::MAX_LAYERS)
}

fn input_layer(text: &str) -> Result<InputLayerArg, String> {
    let width = |text: &str| size(text).map(|width| InputLayerArg::Linear(Some(width)));
    match text.split_once(':') {
        None if text == "none" => Ok(InputLayerArg::None),
        None if text == "linear" => Ok(InputLayerArg::Linear(None)),
        Some(("linear", text)) => width(text),
        _ => Err("choose none, linear, or linear:WIDTH such as linear:64".into()),
    }
}

fn count(text: &str) -> Result<u64, String> {
    whole(text, 1, 10_000)
}

fn epochs(text: &str) -> Result<u64, String> {
    whole(text, 1, 1_000_000)
}

fn threads(text: &str) -> Result<u16, String> {
    whole(text, 1, 1024)
}

/// Steps: far more of them than anybody can wait for.
fn steps(text: &str) -> Result<u64, String> {
    whole(text, 1, 1_000_000_000_000)
}

fn from_zero<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "give a whole number from 0".into())
}

/// Any number, even NaN: whoever uses it knows which are good.
fn number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "give a number such as 0.001".into())
}
