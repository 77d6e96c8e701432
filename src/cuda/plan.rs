//! Which kernels train a model on a GPU, and why.

use super::device::Limits;
use super::sequence_variant::SequenceVariant;
use super::specialized::Specialized;
use super::tf32_variant::Tf32Variant;
use super::variant::{Division, TILE_ROWS, Variant};
use crate::error::{Error, Result};
use crate::precision::{Activations, Precision};
use crate::shape::Dims;

/// The oldest compute capability with the persistent kernels' instructions: Ampere.
const OLDEST: (u32, u32) = (8, 0);
/// Steps after which a cell state might leave the range of f16, in which it is saved: it grows by 1 a step at most.
const MOST_STEPS: usize = 1 << 15;
/// Most blocks of a cluster where more than one is not needed: of 128 hidden units, a warp to each part of a multiprocessor.
const MOST_CLUSTER: usize = 4;
/// What the reason of the sequence kernels begins with.
const ALL_STEPS_IN_F32: &str = "all steps in one launch, in f32: ";
/// Most plans that are worth timing beside the chosen one: each has kernels of its own to be compiled, which takes seconds.
const MOST_OTHERS: usize = 4;
/// Numbers of 4 bytes of one buffer; each holds two of the numbers that kernels count in 31 bits.
const MOST_WORDS: usize = (1 << 30) - 256;

/// Families of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A launch for each time step, in f32: any size, any GPU.
    PerStep,
    /// A launch for each time step of each layer and direction, in f32: any model, sequences of any lengths.
    Stack,
    /// All steps forward in one launch and all steps backward in another, in f32.
    Sequence(SequenceVariant),
    /// The same with the recurrent products in TF32, a block or a cluster for each 8 sequences; everything else is f32.
    Tf32(Tf32Variant),
    /// All steps in one launch, matrix products in bf16, a block for each 8 sequences.
    Persistent(Variant),
}

impl Family {
    /// Kernels that must be compiled for the model, if they are of that kind.
    pub fn specialized(self) -> Option<Specialized> {
        match self {
            Self::PerStep | Self::Stack => None,
            Self::Sequence(variant) => Some(variant.into()),
            Self::Tf32(variant) => Some(variant.into()),
            Self::Persistent(variant) => Some(variant.into()),
        }
    }

    /// How the work is divided among blocks, in a word for files and users: kernels of one kind for one model that divide it alike
    /// are the same. Empty where there is but one way.
    pub fn division(self) -> String {
        match self {
            Self::PerStep | Self::Stack => String::new(),
            Self::Sequence(SequenceVariant { rows, lanes, cluster, .. }) => {
                format!("rows {rows}, lanes {lanes}, cluster {cluster}")
            }
            Self::Tf32(Tf32Variant { groups, cluster, .. }) => format!("groups {groups}, cluster {cluster}"),
            Self::Persistent(Variant { division: Division { tiles, cluster }, .. }) => {
                format!("tiles {tiles}, cluster {cluster}")
            }
        }
    }
}

/// The kernels that were chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which they are.
    pub family: Family,
    /// Why, in one line for the user.
    pub reason: String,
}

impl Plan {
    /// Chooses kernels for batches of `batch` sequences. Where the model asks for more than the kernels of a precision can do,
    /// those in f32, which are more accurate, take their place.
    pub fn new(dims: Dims, batch: usize, precision: Precision, limits: &Limits) -> Self {
        let planned = match precision {
            Precision::F32 => return Self::in_f32(dims, batch, limits, ""),
            Precision::Bf16 => Self::persistent(dims, batch, limits),
            Precision::Tf32 => Tf32Variant::new(dims, batch, limits).map(|variant| Self::in_tf32(variant, batch)),
        };
        planned.unwrap_or_else(|why| Self::in_f32(dims, batch, limits, &format!("{why}; ")))
    }

    /// The same with activations of another form, where the kernels have it.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        if let Family::Persistent(variant) = &mut self.family {
            variant.activations = activations;
        }
        self
    }

    /// The kernels of one launch a step, and why they were chosen.
    pub(super) fn per_step(why: String) -> Self {
        Self { family: Family::PerStep, reason: format!("one launch a step, in f32: {why}") }
    }

    /// The kernels of one launch a step for a model or data with such `extras`, which no others know.
    pub(super) fn stack(extras: &str) -> Self {
        Self {
            family: Family::Stack,
            reason: format!("one launch a step, in f32, as no other kernels know this: {extras}"),
        }
    }

    /// The kernels of one launch a step where those of this plan cannot be had, and why; and what this plan says of another precision.
    pub(super) fn without_kernels(&self, why: &str) -> Self {
        let told = self.reason.strip_prefix(ALL_STEPS_IN_F32).and_then(|told| told.rsplit_once("; "));
        Self::per_step(told.map_or_else(|| why.to_owned(), |(before, _)| format!("{before}; {why}")))
    }

    /// The kernels in f32; `before` is said before their own reason.
    fn in_f32(dims: Dims, batch: usize, limits: &Limits, before: &str) -> Self {
        match SequenceVariant::new(dims, batch, limits) {
            Ok(variant) => {
                let reason = format!("{ALL_STEPS_IN_F32}{before}{}", shared_out(&variant, batch));
                Self { family: Family::Sequence(variant), reason }
            }
            Err(why) => Self::per_step(format!("{before}{why}")),
        }
    }

    /// The plan of a variant in TF32, with its reason.
    fn in_tf32(variant: Tf32Variant, batch: usize) -> Self {
        let (tiles, threads) = (batch.div_ceil(TILE_ROWS), variant.threads());
        let many = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let blocks = match variant.cluster {
            1 => format!("{} of {threads} threads", many(tiles, "block")),
            cluster => format!("{} of {cluster} blocks of {threads} threads", many(tiles, "cluster")),
        };
        let weights = match variant.forward_shared + variant.backward_shared {
            0 => "weights in registers",
            _ => "weights in registers and shared memory",
        };
        let reason = format!("all steps in one launch, recurrent products in tf32: {blocks}, {weights}");
        Self { family: Family::Tf32(variant), reason }
    }

    fn persistent(dims: Dims, batch: usize, limits: &Limits) -> Result<Self, String> {
        let Limits { capability, .. } = *limits;
        if capability < OLDEST {
            let ((major, minor), (oldest, zero)) = (capability, OLDEST);
            return Err(format!("bf16 needs compute capability {oldest}.{zero}, and this GPU has {major}.{minor}"));
        }
        if dims.t > MOST_STEPS {
            return Err(format!("{} steps are more than the {MOST_STEPS} of the bf16 kernels", dims.t));
        }
        let variant = Self::divide(dims, batch, limits)?;
        let tiles = batch.div_ceil(TILE_ROWS);
        let [hx, da] = variant.step_words();
        let words = (dims.t + 1).checked_mul(tiles).and_then(|n| n.checked_mul(hx.max(da)));
        if words.is_none_or(|words| words > MOST_WORDS) {
            return Err(format!("a batch of {batch} sequences is more than the bf16 kernels count"));
        }
        Ok(Self::of(variant, batch))
    }

    /// The plan of a variant, with its reason.
    fn of(variant: Variant, batch: usize) -> Self {
        let Variant { forward_shared, backward_shared, division: Division { tiles, cluster }, .. } = variant;
        let weights = match forward_shared + backward_shared {
            0 => "weights in registers",
            _ => "weights in registers and shared memory",
        };
        let (groups, threads) = (variant.blocks(batch) / cluster, variant.threads());
        let many = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let blocks = match cluster {
            1 => format!("{} of {threads} threads", many(groups, "block")),
            _ => format!("{} of {cluster} blocks of {threads} threads", many(groups, "cluster")),
        };
        let each = if tiles == 1 { String::new() } else { format!(", {} sequences each", tiles * TILE_ROWS) };
        let reason = format!("all steps in one launch, in bf16: {blocks}{each}, {weights}");
        Self { family: Family::Persistent(variant), reason }
    }

    /// The same with another division among blocks, where the kernels have one.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the model does not fit so.
    pub fn with_division(self, dims: Dims, batch: usize, division: Division, limits: &Limits) -> Result<Self> {
        let Family::Persistent(Variant { activations, .. }) = self.family else { return Ok(self) };
        let refused = |found| Error::usage(format!("{division:?}"), found, "choose another division");
        let variant = Variant::new(dims, division, limits).map_err(refused)?;
        Ok(Self::of(Variant { activations, ..variant }, batch))
    }
}

impl Plan {
    /// Divides sequences and units among blocks, for steps that wait for each other.
    ///
    /// 1. A model that is too large for one block takes the smallest cluster that it fits.
    /// 2. Where there are multiprocessors for it, each tile has a cluster of up to [`MOST_CLUSTER`]: the shortest steps. An eighth of
    ///    the multiprocessors is left out, for the blocks of a cluster must be neighbours.
    /// 3. Else a block owns so many tiles that all blocks run at once, or as many as fit: then no block waits for another to end, and
    ///    weights are loaded once.
    fn divide(dims: Dims, batch: usize, limits: &Limits) -> Result<Variant, String> {
        let (count, multiprocessors) = (batch.div_ceil(TILE_ROWS), limits.multiprocessors as usize);
        let of = |tiles: usize, cluster: usize| Variant::new(dims, Division { tiles, cluster }, limits);
        let clusters = || Division::all().filter(|division| division.tiles == 1).map(|division| division.cluster);
        let smallest = clusters().find_map(|cluster| of(1, cluster).ok()).map_or_else(|| of(1, 1), Ok)?;
        let least = smallest.division.cluster;
        let has_room = |cluster: usize| cluster * count <= multiprocessors - multiprocessors / 8;
        let shortest = clusters().filter(|cluster| (least + 1..=MOST_CLUSTER).contains(cluster) && has_room(*cluster));
        if let Some(variant) = shortest.filter_map(|cluster| of(1, cluster).ok()).last() {
            return Ok(variant);
        }
        let all_at_once = Division::all().filter(|division| division.cluster == least);
        let fitting = all_at_once.filter_map(|division| of(division.tiles, least).ok());
        let mut chosen = smallest;
        for variant in fitting {
            chosen = variant;
            if variant.blocks(batch) <= multiprocessors {
                break;
            }
        }
        Ok(chosen)
    }

    /// All variants that fit a model and a GPU and give the bits of the one that was chosen: a measurement may find a faster one.
    /// Blocks own no more tiles than there are.
    pub fn alternatives(&self, dims: Dims, batch: usize, limits: &Limits) -> Vec<Variant> {
        let Family::Persistent(chosen) = self.family else { return Vec::new() };
        let sensible = Division::all().filter(|division| division.tiles < 2 * batch.div_ceil(TILE_ROWS));
        let fitting = sensible.filter_map(|division| Variant::new(dims, division, limits).ok());
        let same = fitting.map(|variant| Variant { activations: chosen.activations, ..variant });
        same.filter(|variant| variant.has_bits_of(&chosen)).collect()
    }

    /// This plan and those few others with the same bits that are worth timing beside it: of the persistent kernels the divisions of
    /// half or twice the tiles or the cluster; of the sequence kernels those that are predicted to be the next best.
    pub fn candidates(&self, dims: Dims, batch: usize, limits: &Limits) -> Vec<Self> {
        let others: Vec<Self> = match self.family {
            Family::PerStep | Family::Stack => Vec::new(),
            Family::Sequence(chosen) => {
                let why = self.reason.strip_suffix(&shared_out(&chosen, batch)).unwrap_or_default();
                let plan = |variant| Self {
                    family: Family::Sequence(variant),
                    reason: format!("{why}{}", shared_out(&variant, batch)),
                };
                let all = SequenceVariant::all(dims, batch, limits).into_iter();
                all.filter(|variant| *variant != chosen).map(plan).collect()
            }
            Family::Tf32(chosen) => {
                let all = Tf32Variant::all(dims, batch, limits).into_iter();
                all.filter(|variant| *variant != chosen).map(|variant| Self::in_tf32(variant, batch)).collect()
            }
            Family::Persistent(chosen) => {
                let steps = |a: usize, b: usize| a.ilog2().abs_diff(b.ilog2());
                let is_next = |other: &Variant| {
                    let (a, b) = (chosen.division, other.division);
                    steps(a.tiles, b.tiles) + steps(a.cluster, b.cluster) == 1
                };
                let next = self.alternatives(dims, batch, limits).into_iter().filter(is_next);
                next.map(|variant| Self::of(variant, batch)).collect()
            }
        };
        std::iter::once(self.clone()).chain(others.into_iter().take(MOST_OTHERS)).collect()
    }
}

/// How the sequence kernels share out a batch, for the user.
fn shared_out(variant: &SequenceVariant, batch: usize) -> String {
    let SequenceVariant { rows, cluster, .. } = *variant;
    let (tiles, threads) = (batch.div_ceil(rows), variant.threads());
    let of = match cluster {
        1 => String::new(),
        _ if tiles == 1 => format!(" cluster of {cluster}"),
        _ => format!(" clusters of {cluster}"),
    };
    let blocks = if tiles * cluster == 1 { "block" } else { "blocks" };
    let rows = if rows == 1 { "1 sequence".into() } else { format!("{rows} sequences") };
    format!("{rows} to each of {tiles}{of} {blocks} of {threads} threads")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUTORIAL: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
    const H100: Limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 };
    const RTX4090: Limits = Limits { capability: (8, 9), shared: 99 * 1024, multiprocessors: 128 };

    fn reason(dims: Dims, batch: usize, precision: Precision, limits: &Limits) -> String {
        let Plan { family, reason } = Plan::new(dims, batch, precision, limits);
        assert_eq!(family == Family::PerStep, reason.starts_with("one launch a step, in f32: "), "{reason}");
        assert_eq!(reason.lines().count(), 1);
        reason
    }

    /// Capability, shared memory of a block in KB, multiprocessors.
    const GPUS: [(&str, (u32, u32), u32, u32); 7] = [
        ("A100", (8, 0), 163, 108),
        ("L4", (8, 9), 99, 58),
        ("RTX 4090", (8, 9), 99, 128),
        ("H100", (9, 0), 227, 132),
        ("H200", (9, 0), 227, 132),
        ("B200", (10, 0), 227, 148),
        ("RTX 5090", (12, 0), 99, 170),
    ];

    fn limits_of(gpu: &str) -> Limits {
        let (_, capability, shared, multiprocessors) = *GPUS.iter().find(|(name, ..)| *name == gpu).unwrap();
        Limits { capability, shared: shared * 1024, multiprocessors }
    }

    fn division(gpu: &str, batch: usize, h: usize) -> Option<[usize; 2]> {
        let plan = Plan::new(Dims { h, ..TUTORIAL }, batch, Precision::Bf16, &limits_of(gpu));
        let Family::Persistent(Variant { division: Division { tiles, cluster }, .. }) = plan.family else {
            return None;
        };
        Some([tiles, cluster])
    }

    #[test]
    fn the_tutorials_model_is_trained_in_one_launch_with_all_weights_in_registers() {
        let of = |limits: &Limits| Plan::new(TUTORIAL, 128, Precision::Bf16, limits);
        let plan = of(&RTX4090);
        assert!(plan.reason.ends_with("16 blocks of 256 threads, weights in registers"), "{}", plan.reason);
        let plan = of(&H100);
        assert!(
            plan.reason.ends_with("16 clusters of 4 blocks of 128 threads, weights in registers"),
            "{}",
            plan.reason
        );
        let plan = Plan::new(TUTORIAL, 8192, Precision::Bf16, &H100);
        let expected = "128 blocks of 256 threads, 64 sequences each, weights in registers";
        assert!(plan.reason.ends_with(expected), "{}", plan.reason);
    }

    /// Tiles of a block and blocks of a cluster, by GPU, batch and hidden units.
    #[test]
    fn work_is_divided_as_the_gpu_has_room() {
        for (gpu, batch, h, expected) in [
            ("H200", 1, 128, Some([1, 4])),
            ("H200", 128, 128, Some([1, 4])),
            ("H200", 400, 128, Some([1, 2])),
            ("H200", 1056, 128, Some([1, 1])),
            ("H200", 2048, 128, Some([2, 1])),
            ("H200", 8192, 128, Some([8, 1])),
            ("H200", 65536, 128, Some([8, 1])),
            ("H200", 128, 256, Some([1, 4])),
            ("H200", 1024, 256, Some([2, 2])),
            ("H200", 64, 512, Some([1, 8])),
            ("H200", 128, 1024, None),
            ("A100", 128, 128, Some([1, 1])),
            ("A100", 8192, 128, Some([8, 1])),
            ("A100", 128, 256, None),
            ("L4", 8192, 128, Some([4, 1])),
            ("RTX 4090", 4096, 128, Some([4, 1])),
            ("RTX 5090", 128, 128, Some([1, 4])),
            ("B200", 128, 16, Some([1, 1])),
        ] {
            assert_eq!(division(gpu, batch, h), expected, "{gpu}, {batch} sequences, {h} hidden units");
        }
    }

    #[test]
    fn whatever_is_chosen_fits_and_all_alternatives_give_its_bits() {
        for (name, capability, shared, multiprocessors) in GPUS {
            let limits = Limits { capability, shared: shared * 1024, multiprocessors };
            for h in [1, 16, 60, 100, 128, 144, 192, 256, 320, 384, 512] {
                let dims = Dims { h, ..TUTORIAL };
                for batch in [1, 100, 1000, 5000, 100_000] {
                    let plan = Plan::new(dims, batch, Precision::Bf16, &limits);
                    let alternatives = plan.alternatives(dims, batch, &limits);
                    let Family::Persistent(chosen) = plan.family else {
                        assert!(alternatives.is_empty());
                        continue;
                    };
                    assert!(alternatives.contains(&chosen), "{name} {h} {batch}: {}", plan.reason);
                    for variant in alternatives {
                        let Division { cluster, .. } = variant.division;
                        assert!(variant.shared_bytes(dims.k) <= limits.shared as usize && variant.threads() <= 1024);
                        assert!(variant.threads().is_multiple_of(64), "warps work in pairs: {variant:?}");
                        assert!(
                            variant.has_bits_of(&chosen) && (cluster == 1 || capability >= (9, 0)),
                            "{name} {h} {batch}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn where_kernels_cannot_be_had_all_reasons_are_told() {
        let of = |precision, limits: &Limits| {
            Plan::new(TUTORIAL, 128, precision, limits).without_kernels("no compiler").reason
        };
        let old = Limits { capability: (7, 5), ..H100 };
        let told = "bf16 needs compute capability 8.0, and this GPU has 7.5; no compiler";
        assert_eq!(of(Precision::Bf16, &old), format!("one launch a step, in f32: {told}"));
        for (precision, limits) in [(Precision::F32, &old), (Precision::Bf16, &H100)] {
            assert_eq!(of(precision, limits), "one launch a step, in f32: no compiler");
        }
    }

    #[test]
    fn few_candidates_with_the_same_bits_are_timed_the_chosen_one_first() {
        let divisions = |gpu: &str, batch, h, precision| {
            let (dims, limits) = (Dims { h, ..TUTORIAL }, limits_of(gpu));
            let plan = Plan::new(dims, batch, precision, &limits).with_activations(Activations::Fast);
            let candidates = plan.candidates(dims, batch, &limits);
            assert_eq!(candidates[0], plan);
            for Plan { family, reason } in &candidates {
                assert_eq!(Plan::new(dims, batch, precision, &limits).family.division(), plan.family.division());
                match (family, plan.family) {
                    (Family::Persistent(one), Family::Persistent(chosen)) => assert!(one.has_bits_of(&chosen)),
                    (Family::Sequence(_), Family::Sequence(_)) | (Family::PerStep, Family::PerStep) => {}
                    other => panic!("{other:?}"),
                }
                let alike = candidates.iter().filter(|other| other.reason == *reason).count();
                assert!(alike == 1 || matches!(family, Family::Sequence(_)), "{reason}");
            }
            candidates.iter().map(|plan| plan.family.division()).collect::<Vec<_>>()
        };
        let bf16 = |gpu, batch, h| divisions(gpu, batch, h, Precision::Bf16);
        let expected = ["tiles 1, cluster 4", "tiles 1, cluster 2", "tiles 1, cluster 8", "tiles 2, cluster 4"];
        assert_eq!(bf16("H200", 128, 128), expected);
        assert_eq!(bf16("RTX 4090", 128, 128), ["tiles 1, cluster 1", "tiles 2, cluster 1"]);
        assert_eq!(bf16("RTX 4090", 8, 128), ["tiles 1, cluster 1"], "no more tiles than there are");
        let f32 = divisions("H200", 128, 128, Precision::F32);
        assert_eq!((f32.len(), &f32[0][..]), (5, "rows 1, lanes 2, cluster 1"));
        assert_eq!(divisions("H200", 128, 1024, Precision::F32), [""], "a launch for each step is but one way");
        // Why it is f32 is told of each.
        let (dims, limits) = (Dims { t: 40_000, h: 64, ..TUTORIAL }, H100);
        let plans = Plan::new(dims, 128, Precision::Bf16, &limits).candidates(dims, 128, &limits);
        assert!(plans.len() == 5 && plans.iter().all(|plan| plan.reason.contains(": 40000 steps are more than")));
    }

    #[test]
    fn a_division_that_does_not_fit_is_refused() {
        let refused = |gpu: &str, tiles, cluster| {
            let limits = limits_of(gpu);
            let plan = Plan::new(TUTORIAL, 128, Precision::Bf16, &limits);
            let error = plan.with_division(TUTORIAL, 128, Division { tiles, cluster }, &limits).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(refused("A100", 1, 4).contains("clusters need compute capability 9.0, and this GPU has 8.0"));
        assert!(refused("L4", 8, 1).contains("10 classes of 8 tiles take"));
        assert!(refused("H200", 1, 3).contains("no whole pairs of warps for each of 3 blocks"));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let of = |dims, limits: &Limits| reason(dims, 128, Precision::Bf16, limits);
        let wide = Dims { h: 192, ..TUTORIAL };
        assert!(of(wide, &H100).ends_with("clusters of 4 blocks of 192 threads, weights in registers"));
        // Too many sequences for clusters.
        assert!(reason(wide, 1056, Precision::Bf16, &H100).ends_with("registers and shared memory"));
        assert!(of(Dims { h: 192, ..TUTORIAL }, &RTX4090).contains("192 hidden units, 28 inputs and 10 classes take"));
        assert!(of(Dims { i: 784, ..TUTORIAL }, &RTX4090).contains("784 inputs and 10 classes take"));
        assert!(of(Dims { i: 784, h: 16, ..TUTORIAL }, &H100).ends_with("registers and shared memory"));
        assert!(of(Dims { h: 1024, ..TUTORIAL }, &H100).contains("1024 hidden units"));
        assert!(of(Dims { k: 1 << 13, ..TUTORIAL }, &H100).contains("8192 classes take"));
        assert!(of(Dims { t: 40_000, ..TUTORIAL }, &H100).contains("40000 steps"));
        assert!(of(TUTORIAL, &Limits { capability: (7, 5), ..H100 }).contains("needs compute capability 8.0"));
        assert!(reason(TUTORIAL, 1 << 40, Precision::Bf16, &H100).contains("is more than the bf16 kernels count"));
        assert!(of(Dims { k: 1024, ..TUTORIAL }, &H100).contains("in bf16"));
    }

    #[test]
    fn f32_takes_one_launch_for_all_steps_where_the_weights_fit() {
        let of = |dims, batch, limits: &Limits| reason(dims, batch, Precision::F32, limits);
        let told = of(TUTORIAL, 128, &H100);
        assert_eq!(told, "all steps in one launch, in f32: 1 sequence to each of 128 blocks of 256 threads");
        let told = of(Dims { h: 256, ..TUTORIAL }, 128, &H100);
        assert!(told.contains("sequences to each of 32 clusters of 4 blocks of 256 threads"), "{told}");
        assert!(of(Dims { h: 512, ..TUTORIAL }, 128, &H100).contains("512 hidden units and their sums do not fit"));
        assert!(of(Dims { t: 1, ..TUTORIAL }, 1024, &H100).contains("predicted"));
        assert!(of(TUTORIAL, 1 << 40, &H100).contains("is more than the kernels of all steps count"));
    }

    #[test]
    fn tf32_takes_one_launch_for_all_steps_or_f32_takes_its_place() {
        let of = |dims, batch, limits: &Limits| reason(dims, batch, Precision::Tf32, limits);
        let told = of(TUTORIAL, 128, &H100);
        let expected = "all steps in one launch, recurrent products in tf32: 16 clusters of 4 blocks of 128 threads, weights in registers";
        assert_eq!(told, expected);
        let told = of(TUTORIAL, 8, &limits_of("A100"));
        assert!(told.ends_with(" 1 block of 256 threads, weights in registers and shared memory"), "{told}");
        let told = of(TUTORIAL, 128, &RTX4090);
        assert!(
            told.starts_with("all steps in one launch, in f32: the recurrent weights of 128 hidden units"),
            "{told}"
        );
        let turing = Limits { capability: (7, 5), shared: 64 * 1024, multiprocessors: 40 };
        assert!(of(Dims { h: 16, ..TUTORIAL }, 128, &turing).contains("in f32: tf32 needs compute capability 8.0"));
        assert!(of(Dims { h: 512, ..TUTORIAL }, 128, &H100).starts_with("one launch a step, in f32: the recurrent"));
    }
}
