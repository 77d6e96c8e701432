//! Sequences to look at: pictures, small line plots, and how the classes' probabilities change while one is read.

use super::super::output::{percent, thousands};
use super::chart::{path, short};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fused_lstm::run::{Findings, Mistake, Sample, Unfolding, View};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use maud::{Markup, html};

/// Most classes whose probabilities are drawn.
const CLASSES: usize = 10;
/// Longest name that stands above a narrow column without being turned.
const NARROW: usize = 2;

/// The mistakes, a figure for each.
pub fn mistakes(findings: &Findings) -> Markup {
    html! {
        div.samples { @for mistake in &findings.mistakes { (figure(findings, mistake)) } }
    }
}

fn figure(findings: &Findings, mistake: &Mistake) -> Markup {
    let Mistake { sample, predicted, probability } = mistake;
    let (label, taken) = (&findings.classes[sample.label as usize], &findings.classes[*predicted as usize]);
    let row = thousands(sample.row.into());
    html! {
        figure {
            (view(sample, &format!("Test sequence {row}, a {label} that was taken for {taken}")))
            figcaption {
                b { (label) } " taken for " b { (taken) }
                span.muted { (percent((*probability).into())) ", no.\u{a0}" (row) }
            }
        }
    }
}

fn view(sample: &Sample, description: &str) -> Markup {
    match &sample.view {
        View::Picture { width, bytes } => html! {
            img.pixels src=(address(*width, bytes)) width=(width) height=(sample.length) alt=(description);
        },
        View::Lines { steps, inputs } => html! {
            svg.plot viewBox="0 0 120 72" role="img" aria-label=(description) {
                @for (n, points) in lines(steps, inputs, sample.length, (2.0, 116.0), (4.0, 64.0)).iter().enumerate() {
                    polyline.line.(colour(n)) points=(points) {}
                }
            }
        },
    }
}

/// The colour of the line of an input.
fn colour(input: usize) -> String {
    format!("run-{input}")
}

/// A picture `[rows,width]` as an address that holds all of it.
fn address(width: usize, bytes: &[u8]) -> String {
    let mut png = Vec::new();
    let (width, height) = (width as u32, (bytes.len() / width) as u32);
    let written = PngEncoder::new(&mut png).write_image(bytes, width, height, ExtendedColorType::L8);
    written.expect("a small picture is written to memory");
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))
}

/// A line for each input within a box: from `x.0` as wide as `x.1`, from `y.0` as high as `y.1`.
fn lines(steps: &[usize], inputs: &[Vec<f32>], length: usize, x: (f64, f64), y: (f64, f64)) -> Vec<String> {
    let all = || inputs.iter().flatten().map(|&v| f64::from(v));
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let span = if high > low { high - low } else { 1.0 };
    // A step is as wide as it is in the drawing of probabilities; its number stands in its middle.
    let across = |step: usize| x.0 + x.1 * (step as f64 + 0.5) / length as f64;
    let up = |value: f32| y.0 + y.1 * (high - f64::from(value)) / span;
    let line = |values: &Vec<f32>| {
        let points: Vec<_> = steps.iter().zip(values).map(|(&step, &value)| (across(step), up(value))).collect();
        path(&points)
    };
    inputs.iter().map(line).collect()
}

/// The chosen sequence beside the probabilities after each of its steps.
pub fn unfolding(findings: &Findings, unfolding: &Unfolding) -> Markup {
    let name = |class: usize| findings.classes[class].as_str();
    let Unfolding { sample, probabilities, .. } = unfolding;
    let last = probabilities.last().map_or(0, |shares| likeliest(shares));
    let (label, row) = (name(sample.label as usize), thousands(sample.row.into()));
    let outcome = match last == sample.label as usize {
        true => format!("Test sequence {row}, a {label}, is recognised."),
        false => format!("Test sequence {row}, a {label}, is taken for {}.", name(last)),
    };
    let stages = stages(unfolding);
    html! {
        p { (outcome) " The stronger a field, the more probable its class once that much has been read." }
        div.columns {
            @match &sample.view {
                View::Picture { width, bytes } => (beside_picture(findings, unfolding, *width, bytes)),
                View::Lines { steps, inputs } => (below_lines(findings, unfolding, steps, inputs)),
            }
            table.stages {
                caption { "The likeliest class, and its largest probability meanwhile" }
                thead {
                    tr { th scope="col" { "after step" } th scope="col" { "class" } th.n scope="col" { "up to" } }
                }
                tbody {
                    @for (from, to, class, share) in &stages {
                        tr {
                            td { @if from == to { (from) } @else { (from) " to " (to) } }
                            td { (name(*class)) }
                            td.n { (percent(*share)) }
                        }
                    }
                }
            }
        }
    }
}

/// Steps from and to which a class is the likeliest, and its largest probability meanwhile.
fn stages(unfolding: &Unfolding) -> Vec<(usize, usize, usize, f64)> {
    let mut stages: Vec<(usize, usize, usize, f64)> = Vec::new();
    for (&step, shares) in unfolding.steps.iter().zip(&unfolding.probabilities) {
        let class = likeliest(shares);
        let share = f64::from(shares[class]);
        match stages.last_mut() {
            Some(stage) if stage.2 == class => (stage.1, stage.3) = (step, stage.3.max(share)),
            _ => stages.push((step, step, class, share)),
        }
    }
    stages
}

/// The class of the largest probability; of equal ones the first.
fn likeliest(shares: &[f32]) -> usize {
    shares.iter().enumerate().fold(0, |best, (class, share)| if *share > shares[best] { class } else { best })
}

/// The classes that are ever the most probable, as many as are drawn, in their order.
fn drawn_classes(unfolding: &Unfolding) -> Vec<usize> {
    let count = unfolding.probabilities[0].len();
    let most = |class: usize| unfolding.probabilities.iter().map(|shares| shares[class]).fold(0.0, f32::max);
    let mut classes: Vec<usize> = (0..count).collect();
    classes.sort_by(|&a, &b| most(b).total_cmp(&most(a)).then(a.cmp(&b)));
    classes.truncate(CLASSES);
    classes.sort_unstable();
    classes
}

/// For each look: from which step on it tells, and up to which.
fn spans(unfolding: &Unfolding) -> impl Iterator<Item = (usize, usize, &Vec<f32>)> {
    let before = [0].into_iter().chain(unfolding.steps.iter().copied());
    before.zip(&unfolding.steps).zip(&unfolding.probabilities).map(|((from, &to), shares)| (from, to, shares))
}

/// A row of fields beside each row of the picture.
fn beside_picture(findings: &Findings, unfolding: &Unfolding, width: usize, bytes: &[u8]) -> Markup {
    let classes = drawn_classes(unfolding);
    let length = unfolding.sample.length as f64;
    let (side, head) = (170.0, head(findings, &classes));
    let unit = side / length.max(width as f64);
    let (left, field) = (unit * width as f64 + 10.0, 170.0 / classes.len() as f64);
    let size = (left + 170.0, head + unit * length);
    let label = findings.classes[unfolding.sample.label as usize].as_str();
    html! {
        svg.unfolding viewBox=(format!("0 0 {} {}", short(size.0), short(size.1))) role="img"
            aria-label=(format!("The picture of a {label} and, row by row, the probability of each class; the table below tells the same")) {
            image.pixels href=(address(width, bytes)) x="0" y=(head) width=(short(unit * width as f64)) height=(short(unit * length))
                preserveAspectRatio="none" {}
            @for (n, &class) in classes.iter().enumerate() {
                @let x = left + field * (n as f64 + 0.5);
                (column_name(&findings.classes[class], x, head))
                @for (from, to, shares) in spans(unfolding) {
                    rect.field x=(short(x - field / 2.0)) y=(short(head + unit * from as f64)) width=(short(field - 1.0))
                        height=(short(unit * (to - from) as f64)) fill-opacity=(opacity(shares[class])) {}
                }
            }
        }
    }
}

/// Room above the columns.
fn head(findings: &Findings, classes: &[usize]) -> f64 {
    let longest = classes.iter().map(|&class| findings.classes[class].chars().count()).max().unwrap_or(0);
    if longest <= NARROW { 14.0 } else { 70.0 }
}

fn column_name(name: &str, x: f64, head: f64) -> Markup {
    let turned = head > 14.0;
    let place = format!("translate({} {}) rotate(-90)", short(x + 3.0), head - 4.0);
    html! {
        @if turned { text.tick transform=(place) { (shortened(name)) } }
        @else { text.tick x=(short(x)) y=(head - 4.0) text-anchor="middle" { (name) } }
    }
}

fn shortened(name: &str) -> String {
    super::super::output::shortened(name, 11)
}

/// A column of fields below each step of the lines.
fn below_lines(findings: &Findings, unfolding: &Unfolding, steps: &[usize], inputs: &[Vec<f32>]) -> Markup {
    let classes = drawn_classes(unfolding);
    let length = unfolding.sample.length;
    let (left, width, top, field) = (76.0, 276.0, 84.0, 16.0);
    let height = top + field * classes.len() as f64;
    let across = |step: usize| left + width * step as f64 / length as f64;
    let label = findings.classes[unfolding.sample.label as usize].as_str();
    html! {
        svg.unfolding viewBox=(format!("0 0 360 {height}")) role="img"
            aria-label=(format!("The numbers of a {label} and, step by step, the probability of each class; the table below tells the same")) {
            @for (n, points) in lines(steps, inputs, length, (left, width), (6.0, 66.0)).iter().enumerate() {
                polyline.line.(colour(n)) points=(points) {}
            }
            @for (n, &class) in classes.iter().enumerate() {
                @let y = top + field * n as f64;
                text.tick x=(left - 6.0) y=(y + 11.5) text-anchor="end" { (shortened(&findings.classes[class])) }
                @for (from, to, shares) in spans(unfolding) {
                    rect.field x=(short(across(from))) y=(y) width=(short(across(to) - across(from))) height=(field - 1.0)
                        fill-opacity=(opacity(shares[class])) {}
                }
            }
        }
    }
}

/// As dark as it is probable, with a trace where it is not.
fn opacity(share: f32) -> f64 {
    short(0.06 + 0.94 * f64::from(share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::GenericImageView;

    fn unfolding(probabilities: Vec<Vec<f32>>) -> Unfolding {
        let steps: Vec<usize> = (1..=probabilities.len()).collect();
        let view = View::Picture { width: 1, bytes: vec![0; steps.len()] };
        Unfolding { sample: Sample { row: 0, label: 0, length: steps.len(), view }, steps, probabilities }
    }

    #[test]
    fn stages_tell_when_the_likeliest_class_changes() {
        let found = stages(&unfolding(vec![vec![0.75, 0.25], vec![0.5, 0.5], vec![0.25, 0.75]]));
        assert_eq!(found, [(1, 2, 0, 0.75), (3, 3, 1, 0.75)]);
    }

    #[test]
    fn of_many_classes_the_most_probable_are_drawn() {
        let mut shares = vec![0.0; 30];
        (shares[29], shares[7]) = (0.9, 0.1);
        let drawn = drawn_classes(&unfolding(vec![shares]));
        assert_eq!((drawn.len(), drawn.contains(&29), drawn.contains(&7)), (10, true, true));
        assert!(drawn.is_sorted());
    }

    #[test]
    fn a_picture_is_in_its_address() {
        let bytes = [0, 64, 128, 192, 255, 7];
        let address = address(3, &bytes);
        let png = BASE64_STANDARD.decode(address.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        let picture = image::load_from_memory(&png).unwrap();
        assert_eq!((picture.dimensions(), picture.to_luma8().into_raw().as_slice()), ((3, 2), bytes.as_slice()));
    }
}
