//! Which of several ways to divide the work among blocks is the fastest on a GPU: timed once, and then known.
//!
//! Only plans with the same bits are timed ([`super::plan::Plan::candidates`]), so what is chosen changes the time of a training and
//! nothing else. What was found is kept in the cache, in a small file for each kind of GPU, model, size of batch, number of models, and
//! text of the kernels. A file that is broken, or of something else, is none: the plans are timed again.

use super::cache::Cache;
use super::device::Limits;
use super::plan::{Family, Plan};
use super::sources;
use crate::error::Result;
use crate::precision::{Activations, Precision};
use crate::shape::Dims;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The form of a file.
const FORM: &str = "fused-lstm tuned, form 1";

/// Milliseconds that a training must have before it for timing to be worth it. To compile the kernels of a few plans takes seconds;
/// what the best of them saves is a part of the training's time.
const WORTH: f64 = 60_000.0;

/// Milliseconds of work before anything is timed, so that the clocks are up, and of each time that is taken.
const WARM_UP: f64 = 30.0;
const SPAN: f64 = 5.0;
/// Most spans of warming up, where they take less time than that.
const MOST_WARM_UP: usize = 20;
/// Times that are taken, of which the median counts.
const TIMES: usize = 5;
/// Another plan than the chosen one is taken if its time is less than this share of the chosen one's: less may be chance.
const FASTER: f64 = 0.98;

/// How far an engine goes to find the fastest plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// It takes the plan of the rules.
    None,
    /// It takes what was found before.
    Known,
    /// If nothing was found before it times plans, provided that so many iterations take long enough to be worth it.
    Iterations(u64),
    /// If nothing was found before it times plans.
    Always,
}

impl Effort {
    /// Whether it may time plans.
    pub fn times(self) -> bool {
        matches!(self, Self::Iterations(_) | Self::Always)
    }
}

/// What is known of plans and their times, and how far to go to know more.
#[derive(Debug)]
pub struct Tuning {
    effort: Effort,
    cache: Option<Cache>,
    found: HashMap<String, Found>,
}

/// What is timed: all that the times depend on.
pub struct Subject<'a> {
    /// [`super::device::Device::kind`]
    pub gpu: String,
    /// The GPU's limits.
    pub limits: Limits,
    /// Sizes of the model.
    pub dims: Dims,
    /// Sequences of a batch.
    pub batch: usize,
    /// Models that train side by side.
    pub models: usize,
    /// Precision that was asked for.
    pub precision: Precision,
    /// Form of the activations.
    pub activations: Activations,
    /// The chosen plan, and the others.
    pub candidates: &'a [Plan],
}

/// Times of plans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// [`Family::division`] of the one to take.
    pub chosen: String,
    /// All that were timed, the plan of the rules first.
    pub timed: Vec<Timed>,
}

/// A plan's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// [`Family::division`]
    pub division: String,
    /// Milliseconds of an iteration.
    pub milliseconds: f64,
}

/// A file.
#[derive(Serialize, Deserialize)]
struct File {
    form: String,
    subject: String,
    #[serde(flatten)]
    found: Found,
}

impl Subject<'_> {
    /// In one line. What the kernels are is told by their text's hash.
    fn text(&self) -> String {
        let Self { gpu, limits, dims, batch, models, precision, activations, candidates } = self;
        let kernels = candidates.first().map_or("", |plan| match plan.family {
            Family::PerStep | Family::Stack => "",
            Family::Sequence(_) => sources::SEQUENCE,
            Family::Tf32(_) => sources::TF32,
            Family::Persistent(_) => sources::PERSISTENT,
        });
        let divisions: Vec<_> = candidates.iter().map(|plan| plan.family.division()).collect();
        let kernels = sources::hash_of(&(sources::hash() + kernels));
        format!(
            "{gpu}; {limits:?}; {dims:?}; batch {batch}; models {models}; {precision}; {activations:?}; {divisions:?}; \
             kernels {kernels}"
        )
    }
}

impl Found {
    /// Of the times of plans, the one of the rules first.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new(timed: Vec<Timed>) -> Self {
        let first = &timed[0];
        let fastest = timed.iter().min_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds)).unwrap_or(first);
        let is_faster = fastest.milliseconds < FASTER * first.milliseconds;
        Self { chosen: if is_faster { fastest } else { first }.division.clone(), timed }
    }

    /// The plan to take, if it is among these.
    pub fn plan<'a>(&self, candidates: &'a [Plan]) -> Option<&'a Plan> {
        candidates.iter().find(|plan| plan.family.division() == self.chosen)
    }
}

impl Tuning {
    /// With what is kept in `cache`, if there is one.
    pub fn new(effort: Effort, cache: Option<Cache>) -> Self {
        Self { effort, cache, found: HashMap::new() }
    }

    /// With what is kept in the user's cache, if they have one and `use_cache` says so.
    pub fn of_user(effort: Effort, use_cache: bool) -> Self {
        Self::new(effort, use_cache.then(Cache::of_user).and_then(Result::ok))
    }

    /// Goes so far, unless plans are those of the rules.
    pub fn raise(&mut self, effort: Effort) {
        if self.effort != Effort::None {
            self.effort = effort;
        }
    }

    /// How far to go.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// What the user should know of a plan that was chosen by what was `found`, or by the rules if nothing was; nothing where plans are
    /// still to be timed.
    pub fn note(&self, found: Option<&Found>, candidates: &[Plan]) -> Option<String> {
        match (found, self.effort) {
            (Some(Found { timed, .. }), _) if timed.len() == 1 => Some("tuned: no other plan can be used here".into()),
            (Some(Found { timed, .. }), _) => {
                Some(format!("tuned: the fastest of {} plans that were timed", timed.len()))
            }
            (None, Effort::None) => Some("not tuned, as was asked for".into()),
            (None, _) if candidates.len() == 1 => Some("not tuned: there is no other plan".into()),
            (None, Effort::Known) => Some("not tuned: plans were not timed here yet".into()),
            (None, Effort::Iterations(_) | Effort::Always) => None,
        }
    }

    /// What was found before, here or by an earlier start.
    pub fn known(&self, subject: &Subject<'_>) -> Option<Found> {
        if self.effort == Effort::None {
            return None;
        }
        let text = subject.text();
        let found = self.found.get(&text).cloned().or_else(|| self.kept(&text))?;
        found.plan(subject.candidates).is_some().then_some(found)
    }

    fn kept(&self, subject: &str) -> Option<Found> {
        let file: File = serde_json::from_str(&self.cache.as_ref()?.text(&name(subject))?).ok()?;
        (file.form == FORM && file.subject == subject).then_some(file.found)
    }

    /// Keeps what was found. A cache that cannot be written to is none: the next start times again.
    pub fn keep(&mut self, subject: &Subject<'_>, found: &Found) {
        let subject = subject.text();
        if let Some(cache) = &self.cache {
            let file = File { form: FORM.into(), subject: subject.clone(), found: found.clone() };
            let text = serde_json::to_string_pretty(&file).expect("texts and numbers");
            let _ = cache.put_text(&name(&subject), &text);
        }
        self.found.insert(subject, found.clone());
    }
}

/// Name of the text that is kept.
fn name(subject: &str) -> String {
    format!("tuned-{}", sources::hash_of(subject))
}

/// Why nothing is timed for a training of so many iterations, which take so many milliseconds each; nothing if it is.
pub fn too_short(iterations: u64, milliseconds: f64) -> Option<String> {
    (iterations as f64 * milliseconds < WORTH).then(|| {
        let seconds = WORTH / 1e3;
        format!("not tuned: {iterations} iterations take less than {seconds} s")
    })
}

/// Milliseconds of an iteration: `time` gives those of as many as it is asked for, `most` at most.
///
/// # Errors
///
/// Those of `time`.
pub fn of_one(most: usize, time: &mut dyn FnMut(usize) -> Result<f32>) -> Result<f64> {
    let one = first(time)?;
    let count = if one > 0.0 { (SPAN / one).clamp(1.0, most as f64) as usize } else { most };
    let mut of_span = || Ok(f64::from(time(count)?));
    let mut warm = 0.0;
    for _ in 0..MOST_WARM_UP {
        if warm >= WARM_UP {
            break;
        }
        warm += of_span()?;
    }
    let mut times = (0..TIMES).map(|_| of_span()).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[TIMES / 2] / count as f64)
}

/// Roughly the same, in two iterations: the first may load code and wake the device.
///
/// # Errors
///
/// Those of `time`.
pub fn first(time: &mut dyn FnMut(usize) -> Result<f32>) -> Result<f64> {
    time(1)?;
    Ok(f64::from(time(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
    const LIMITS: Limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 };

    fn candidates() -> Vec<Plan> {
        Plan::new(DIMS, 128, Precision::Bf16, &LIMITS).candidates(DIMS, 128, &LIMITS)
    }

    fn subject(candidates: &[Plan]) -> Subject<'_> {
        let (precision, activations) = (Precision::Bf16, Activations::Accurate);
        let (gpu, limits, dims) = ("a GPU".into(), LIMITS, DIMS);
        Subject { gpu, limits, dims, batch: 128, models: 1, precision, activations, candidates }
    }

    fn found(times: &[f64]) -> Found {
        let plans = candidates();
        let timed = plans.iter().zip(times);
        Found::new(
            timed.map(|(plan, &milliseconds)| Timed { division: plan.family.division(), milliseconds }).collect(),
        )
    }

    #[test]
    fn another_plan_is_taken_if_it_is_clearly_faster() {
        let chosen = |times: &[f64]| {
            let plans = candidates();
            plans.iter().position(|plan| Some(plan) == found(times).plan(&plans)).unwrap()
        };
        assert_eq!(chosen(&[1.0, 0.9, 0.8, 0.85]), 2);
        assert_eq!(chosen(&[1.0, 0.99, 0.985, 2.0]), 0, "that may be chance");
        assert_eq!(chosen(&[1.0]), 0);
    }

    #[test]
    fn the_user_is_told_what_was_done_or_why_not() {
        let (plans, only, found) = (candidates(), found(&[1.0]), found(&[1.0, 0.9]));
        let note = |effort, found, plans: &[Plan]| Tuning::new(effort, None).note(found, plans).unwrap_or_default();
        assert_eq!(note(Effort::Always, Some(&found), &plans), "tuned: the fastest of 2 plans that were timed");
        assert_eq!(note(Effort::Always, Some(&only), &plans), "tuned: no other plan can be used here");
        assert_eq!(note(Effort::None, None, &plans), "not tuned, as was asked for");
        assert_eq!(note(Effort::Known, None, &plans), "not tuned: plans were not timed here yet");
        assert_eq!(note(Effort::Always, None, &plans[..1]), "not tuned: there is no other plan");
        assert_eq!(note(Effort::Iterations(7), None, &plans), "");
    }

    #[test]
    fn what_was_found_is_kept_for_the_same_subject_alone() {
        let folder = tempfile::tempdir().unwrap();
        let tuning = |effort| Tuning::new(effort, Some(Cache::new(folder.path())));
        let (plans, found) = (candidates(), found(&[1.0, 0.5, 0.7]));
        let mut first = tuning(Effort::Always);
        assert_eq!(first.known(&subject(&plans)), None);
        first.keep(&subject(&plans), &found);
        assert_eq!(first.known(&subject(&plans)).as_ref(), Some(&found));
        for effort in [Effort::Known, Effort::Iterations(1), Effort::Always] {
            assert_eq!(tuning(effort).known(&subject(&plans)).as_ref(), Some(&found), "{effort:?}");
        }
        assert_eq!(tuning(Effort::None).known(&subject(&plans)), None);
        let others = [
            Subject { gpu: "another".into(), ..subject(&plans) },
            Subject { limits: Limits { multiprocessors: 16, ..LIMITS }, ..subject(&plans) },
            Subject { dims: Dims { t: 27, ..DIMS }, ..subject(&plans) },
            Subject { batch: 129, ..subject(&plans) },
            Subject { models: 2, ..subject(&plans) },
            Subject { precision: Precision::F32, ..subject(&plans) },
            Subject { activations: Activations::Fast, ..subject(&plans) },
            subject(&plans[..3]),
        ];
        for other in others {
            assert_eq!(tuning(Effort::Known).known(&other), None, "{}", other.text());
        }
        // With no cache it is known as long as the program runs.
        let mut alone = Tuning::new(Effort::Always, None);
        alone.keep(&subject(&plans), &found);
        assert_eq!(alone.known(&subject(&plans)), Some(found));
    }

    #[test]
    fn a_file_that_is_broken_or_foreign_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let known = || Tuning::new(Effort::Known, Some(Cache::new(folder.path()))).known(&subject(&candidates()));
        let plans = candidates();
        let mut tuning = Tuning::new(Effort::Always, Some(Cache::new(folder.path())));
        tuning.keep(&subject(&plans), &found(&[1.0, 0.5]));
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let good = std::fs::read_to_string(&file).unwrap();
        assert!(known().is_some());
        for length in 0..good.len() {
            std::fs::write(&file, &good[..length]).unwrap();
            assert_eq!(known(), None, "cut to {length}");
        }
        for (from, to) in [
            ("form 1", "form 2"),
            ("a GPU", "another GPU"),
            ("\"chosen\": \"tiles 1, cluster 2\"", "\"chosen\": \"tiles 1, cluster 16\""),
            ("0.5", "\"fast\""),
        ] {
            let other = good.replacen(from, to, 1);
            assert_ne!(other, good, "{from}");
            std::fs::write(&file, other).unwrap();
            assert_eq!(known(), None, "{from}");
        }
        std::fs::write(&file, b"\xff\x00").unwrap();
        assert_eq!(known(), None);
    }

    #[test]
    fn a_cache_that_cannot_be_written_to_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut tuning = Tuning::new(Effort::Always, Some(Cache::new(&file)));
        tuning.keep(&subject(&candidates()), &found(&[1.0, 0.5]));
        assert_eq!(tuning.known(&subject(&candidates())), Some(found(&[1.0, 0.5])));
    }

    /// A device whose iterations get faster until its clocks are up.
    #[test]
    fn the_median_counts_after_warming_up() {
        let (mut asked, mut total) = (Vec::new(), 0.0);
        let mut time = |count: usize| {
            asked.push(count);
            let each = if total < 20.0 { 2.0 } else { 1.0 };
            // One of the last is disturbed.
            let milliseconds = count as f32 * if asked.len() == 11 { 9.0 } else { each };
            total += milliseconds;
            Ok(milliseconds)
        };
        assert_eq!(of_one(64, &mut time).unwrap(), 1.0);
        assert!(asked[..2] == [1, 1] && asked[2..].iter().all(|count| *count == 2), "{asked:?}");
        let mut asked = Vec::new();
        let mut in_no_time = |count| {
            asked.push(count);
            Ok(0.0)
        };
        assert_eq!(of_one(64, &mut in_no_time).unwrap(), 0.0);
        assert_eq!(asked.len(), 2 + MOST_WARM_UP + TIMES);
        assert!(asked.iter().all(|count| *count <= 64));
        let mut slow = |_| Ok(1e6);
        assert_eq!(of_one(64, &mut slow).unwrap(), 1e6);
    }

    #[test]
    fn a_short_training_is_not_worth_it() {
        assert_eq!(too_short(1000, 0.04).unwrap(), "not tuned: 1000 iterations take less than 60 s");
        assert_eq!(too_short(1000, 61.0), None);
    }
}
