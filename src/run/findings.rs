//! What a trained model gets right and wrong on the test split.

use crate::confusion::Confusion;
use crate::data::{Dataset, Sequences, Split, Values};
use crate::engine::{Engine, Scores};
use crate::error::Result;
use crate::train::EvalReport;
use serde::{Deserialize, Serialize};

/// Most mistakes that are kept.
const MISTAKES: usize = 12;
/// Sequences that are classified at a time.
const BATCH: usize = 1000;
/// Most steps after which the classes' probabilities are looked at.
const LOOKS: usize = 64;
/// Longest side of what is kept as a picture.
const PICTURE: usize = 128;
/// Most points and most inputs that are kept of a sequence that is no picture.
const POINTS: usize = 200;
const INPUTS: usize = 4;

/// All of it, and the few sequences that a reader is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Steps that the model was trained.
    pub step: u64,
    /// How good it is on the whole split.
    pub quality: EvalReport,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// What was taken for what.
    pub confusion: Confusion,
    /// The mistakes that the model was surest of, the surest first.
    pub mistakes: Vec<Mistake>,
    /// The surest mistake, or the first sequence if there is none, step by step; none if there are no sequences, or no
    /// probabilities for this one.
    pub unfolding: Option<Unfolding>,
}

/// A sequence that was taken for another class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    /// The sequence.
    pub sample: Sample,
    /// The class that it was taken for.
    pub predicted: u32,
    /// How probable the model found that.
    pub probability: f32,
}

/// How the probabilities of the classes change while a sequence is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unfolding {
    /// The sequence.
    pub sample: Sample,
    /// After how many steps, ascending; the last is the sequence's length.
    pub steps: Vec<usize>,
    /// For each of these the probabilities of all classes.
    pub probabilities: Vec<Vec<f32>>,
}

/// A sequence to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its place in the test split.
    pub row: u32,
    /// What it is.
    pub label: u32,
    /// Its steps, T.
    pub length: usize,
    /// Its numbers.
    pub view: View,
}

/// The numbers of a sequence as they are best shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// Bytes `[T,I]`, a row of the picture for each step.
    Picture {
        /// Pixels of a row, I.
        width: usize,
        /// `[T,I]`
        bytes: Vec<u8>,
    },
    /// A line over the steps for each of the first few inputs.
    Lines {
        /// Steps that are kept, from 0.
        steps: Vec<usize>,
        /// For each input its numbers at these steps.
        inputs: Vec<Vec<f32>>,
    },
}

impl Findings {
    /// Looks at the test split of `data`, for which `engine` gave `scores` after `step` steps. `classify` gives the
    /// probabilities `[K]` for one sequence that may have fewer steps than the model reads otherwise.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    pub fn new(
        engine: &mut dyn Engine,
        data: &Dataset,
        scores: &Scores,
        step: u64,
        classify: &dyn Fn(&Sequences) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let test = data.split(Split::Test);
        let mistakes = mistakes(engine, test, scores, data.classes)?;
        let chosen = mistakes.first().map_or(0, |mistake| mistake.sample.row);
        Ok(Self {
            step,
            quality: EvalReport::new(scores, test.labels().iter().copied()),
            classes: (0..data.classes).map(|class| data.class_name(class)).collect(),
            confusion: Confusion::new(data.classes, test.labels(), &scores.predicted),
            mistakes,
            unfolding: if test.is_empty() { None } else { unfolding(test, chosen, classify)? },
        })
    }
}

fn mistakes(engine: &mut dyn Engine, test: &Sequences, scores: &Scores, classes: usize) -> Result<Vec<Mistake>> {
    let rows = 0..test.len() as u32;
    let wrong: Vec<u32> = rows.filter(|&row| scores.predicted[row as usize] != test.labels()[row as usize]).collect();
    let mut surest: Vec<(u32, f32)> = Vec::new();
    for rows in wrong.chunks(BATCH) {
        let probabilities = engine.predict(&test.select(rows))?;
        let of = |(&row, shares): (&u32, &[f32])| (row, shares[scores.predicted[row as usize] as usize]);
        // A sequence of huge numbers may have none.
        let known = rows.iter().zip(probabilities.chunks_exact(classes)).map(of).filter(|(_, share)| share.is_finite());
        surest.extend(known);
        surest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        surest.truncate(MISTAKES);
    }
    let mistake = |(row, probability): (u32, f32)| Mistake {
        sample: sample(test, row),
        predicted: scores.predicted[row as usize],
        probability,
    };
    Ok(surest.into_iter().map(mistake).collect())
}

/// The first `t` steps of one sequence.
fn beginning(sequence: &Sequences, t: usize) -> Sequences {
    let n = t * sequence.i();
    let values = match sequence.values() {
        Values::U8 { bytes, scale } => Values::U8 { bytes: bytes[..n].to_vec(), scale: *scale },
        Values::F32(_) | Values::Mapped(_) => Values::F32(sequence.numbers(0)[..n].to_vec()),
    };
    Sequences::new(t, sequence.i(), values, sequence.labels().to_vec())
}

fn unfolding(
    test: &Sequences,
    row: u32,
    classify: &dyn Fn(&Sequences) -> Result<Vec<f32>>,
) -> Result<Option<Unfolding>> {
    let sequence = test.slice(row as usize, row as usize + 1);
    let length = sequence.length(0);
    let looks = length.min(LOOKS);
    let steps: Vec<usize> = (1..=looks).map(|look| look * length / looks).collect();
    let probabilities: Vec<Vec<f32>> =
        steps.iter().map(|&t| classify(&beginning(&sequence, t))).collect::<Result<_>>()?;
    let known = probabilities.iter().flatten().all(|share| share.is_finite());
    Ok(known.then(|| Unfolding { sample: sample(test, row), steps, probabilities }))
}

fn sample(sequences: &Sequences, row: u32) -> Sample {
    let (t, width) = (sequences.length(row as usize), sequences.i());
    let from = row as usize * sequences.t() * width;
    let picture = (2..=PICTURE).contains(&t) && (2..=PICTURE).contains(&width);
    let view = match sequences.values() {
        Values::U8 { bytes, .. } if picture => View::Picture { width, bytes: bytes[from..from + t * width].to_vec() },
        Values::U8 { bytes, scale } => lines(t, width, |at| f32::from(bytes[from + at]) * scale),
        Values::F32(_) | Values::Mapped(_) => {
            let numbers = sequences.numbers(row as usize);
            lines(t, width, |at| numbers[at])
        }
    };
    Sample { row, label: sequences.labels()[row as usize], length: t, view }
}

/// Lines of the numbers `[T,I]` that `number` gives by their place.
fn lines(t: usize, width: usize, number: impl Fn(usize) -> f32) -> View {
    let points = t.min(POINTS);
    let steps: Vec<usize> = (0..points).map(|point| point * t / points).collect();
    let input = |i: usize| steps.iter().map(|step| number(step * width + i)).collect();
    View::Lines { inputs: (0..width.min(INPUTS)).map(input).collect(), steps }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequences;

    fn pictures() -> Sequences {
        let values = Values::U8 { bytes: (0..18).collect(), scale: 0.5 };
        Sequences::new(3, 2, values, vec![0, 1, 1])
    }

    #[test]
    fn sequences_are_cut_and_gathered() {
        let rows = pictures().select(&[2, 0]);
        let bytes = vec![12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5];
        assert_eq!(rows, Sequences::new(3, 2, Values::U8 { bytes, scale: 0.5 }, vec![1, 0]));
        let short = beginning(&pictures().slice(1, 2), 2);
        assert_eq!(short, Sequences::new(2, 2, Values::U8 { bytes: vec![6, 7, 8, 9], scale: 0.5 }, vec![1]));
    }

    #[test]
    fn a_look_after_every_step_or_after_some_to_the_last() {
        let classify = |prefix: &Sequences| Ok(vec![prefix.t() as f32]);
        let short = unfolding(&pictures(), 1, &classify).unwrap().unwrap();
        assert_eq!((short.steps, short.probabilities), (vec![1, 2, 3], vec![vec![1.0], vec![2.0], vec![3.0]]));
        let long = Sequences::new(1000, 1, Values::F32(vec![0.0; 1000]), vec![0]);
        let long = unfolding(&long, 0, &classify).unwrap().unwrap();
        assert_eq!((long.steps.len(), long.steps[0], long.steps[63]), (64, 15, 1000));
        assert_eq!(unfolding(&pictures(), 1, &|_| Ok(vec![f32::NAN])).unwrap(), None);
    }

    #[test]
    fn bytes_with_rows_are_pictures_and_others_are_lines() {
        let View::Picture { width: 2, bytes } = sample(&pictures(), 1).view else { panic!() };
        assert_eq!(bytes, [6, 7, 8, 9, 10, 11]);
        let long = Sequences::new(400, 5, Values::F32((0..2000).map(|n| n as f32).collect()), vec![0]);
        let View::Lines { steps, inputs } = sample(&long, 0).view else { panic!() };
        assert_eq!((steps.len(), steps[1], inputs.len(), inputs[3][1]), (200, 2, 4, 13.0));
    }
}
