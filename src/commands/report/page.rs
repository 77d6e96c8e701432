//! The report of one run.

use super::super::output::{percent, thousands};
use super::chart::{Chart, Line, Unit};
use super::{samples, settings};
use fused_lstm::run::{Findings, Run, Seconds};
use fused_lstm::train::StepReport;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;

/// Most rows of the table of numbers.
const MOST_ROWS: usize = 500;
/// Most classes whose confusion is a table of all pairs.
const MATRIX_CLASSES: usize = 30;
/// Most pairs of classes in the list that takes its place.
const PAIRS: usize = 30;
/// Longest name that stands above a column of the matrix without being turned.
const NARROW: usize = 5;

/// A whole page. It needs nothing but itself.
pub fn framed(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body) } }
        }
    }
}

/// The report of `run`.
pub fn of(run: &Run) -> Markup {
    let name = run.name();
    let body = html! {
        header {
            h1 { (name) }
            p.muted { (run.settings.data) }
            p.muted { (run.environment.device) ", started " (run.environment.started) }
        }
        (tiles(run))
        section {
            h2 { "Training" }
            div.charts {
                (loss(run)) (accuracy(run)) (learning_rate(run)) (time(run))
            }
        }
        @if let Some(findings) = &run.findings { (evaluation(findings)) }
        section {
            h2 { "Settings" }
            div.columns {
                (pairs("What was trained, and how", &settings::flat(&run.settings)))
                (pairs("Where", &settings::flat(&run.environment)))
            }
        }
        (numbers(run))
    };
    framed(&format!("{name}: a training of fused-lstm"), &body)
}

/// The few numbers that everybody looks for first.
fn tiles(run: &Run) -> Markup {
    let done = thousands(run.done());
    html! {
        dl.tiles {
            @if let Some((_, test, seconds)) = run.end() {
                (tile("Test accuracy", &percent(test.accuracy), &format!("after step {done}")))
                (tile("Test loss", &format!("{:.4}", test.loss), "cross-entropy, in nats"))
                @if let Some((step, best)) = run.best() {
                    (tile("Best validation", &percent(best.accuracy), &format!("at step {}, of the lowest loss", thousands(step))))
                }
                (tile("Training time", &format!("{:.1} s", seconds.training), &format!("for {done} steps")))
            } @else {
                (tile("Not at its end", &format!("step {done}"), &format!("of {}", thousands(run.settings.steps))))
                @if let Some((step, best)) = run.best() {
                    (tile("Best validation", &percent(best.accuracy), &format!("at step {}, of the lowest loss", thousands(step))))
                }
            }
        }
    }
}

fn tile(name: &str, value: &str, about: &str) -> Markup {
    html! { div { dt { (name) } dd { b { (value) } span.muted { (about) } } } }
}

/// A line of what `number` takes of every report on a batch.
pub fn batches(run: &Run, name: &str, class: &str, number: fn(&StepReport) -> f64) -> Line {
    let points = run.steps().map(|report| (report.step, number(report))).collect();
    Line { name: name.into(), class: class.into(), points, marked: false }
}

fn loss(run: &Run) -> Markup {
    let points = run.evaluations().map(|(step, report)| (step, report.loss)).collect();
    let validation = Line { name: "validation".into(), class: "validation".into(), points, marked: true };
    let lines = vec![batches(run, "training batch", "train", |report| report.loss), validation];
    Chart { title: "Loss", unit: Unit::Number, lines }.draw()
}

fn accuracy(run: &Run) -> Markup {
    let points = run.evaluations().map(|(step, report)| (step, report.accuracy)).collect();
    let validation = Line { name: "validation".into(), class: "validation".into(), points, marked: true };
    let lines = vec![batches(run, "training batch", "train", |report| report.accuracy), validation];
    Chart { title: "Accuracy", unit: Unit::Share, lines }.draw()
}

fn learning_rate(run: &Run) -> Markup {
    let line = batches(run, "learning rate", "train", |report| report.learning_rate);
    Chart { title: "Learning rate", unit: Unit::Number, lines: vec![line] }.draw()
}

fn time(run: &Run) -> Markup {
    html! {
        figure.card.chart {
            figcaption { h3 { "Time" } }
            @match run.end() {
                None => p.muted { "It is known once the run has come to its end." },
                Some((_, _, seconds)) => (parts(seconds)),
            }
        }
    }
}

fn parts(seconds: &Seconds) -> Markup {
    let Seconds { data, set_up, training, evaluation, reports } = *seconds;
    let all = data + set_up + training + evaluation + reports;
    let parts = [
        ("training", training),
        ("evaluation", evaluation),
        ("reports and saving", reports),
        ("data", data),
        ("set-up", set_up),
    ];
    let share = |part: f64| part / all.max(1e-9);
    html! {
        div.bar aria-hidden="true" {
            @for (n, (_, part)) in parts.iter().enumerate() {
                i.(format!("run-{n}")) style=(format!("width:{:.2}%", 100.0 * share(*part))) {}
            }
        }
        table.numbers {
            thead { tr { th scope="col" { "part" } th.n scope="col" { "seconds" } th.n scope="col" { "share" } } }
            tbody {
                @for (n, (name, part)) in parts.iter().enumerate() {
                    tr {
                        th scope="row" { i.swatch.(format!("run-{n}")) {} (name) }
                        td.n { (format!("{part:.2}")) }
                        td.n { (format!("{:.1} %", 100.0 * share(*part))) }
                    }
                }
                tr.sum { th scope="row" { "all" } td.n { (format!("{all:.2}")) } td.n { "100.0 %" } }
            }
        }
    }
}

/// What the model gets right and wrong.
fn evaluation(findings: &Findings) -> Markup {
    let n: u64 = findings.confusion.counts.iter().flatten().sum();
    html! {
        section {
            h2 { "Test" }
            p {
                "After step " (thousands(findings.step)) " the model is right on " b { (percent(findings.quality.accuracy)) }
                " of the " (thousands(n)) " test sequences."
            }
            div.columns {
                (confusion(findings))
                (classes(findings))
            }
        }
        @if !findings.mistakes.is_empty() {
            section {
                h2 { "Mistakes it was surest of" }
                div.card { (samples::mistakes(findings)) }
            }
        }
        @if let Some(unfolding) = &findings.unfolding {
            section {
                h2 { "Step by step" }
                div.card { (samples::unfolding(findings, unfolding)) }
            }
        }
    }
}

fn confusion(findings: &Findings) -> Markup {
    let classes = findings.confusion.classes();
    if classes.len() > MATRIX_CLASSES {
        return confused_pairs(findings);
    }
    let turned = findings.classes.iter().any(|name| name.chars().count() > NARROW);
    html! {
        div.card.wide {
            table.matrix.turned[turned] id="confusion" {
                caption { "Confusion: rows are what it is, columns what it was taken for" }
                thead {
                    tr {
                        td {}
                        @for name in &findings.classes { th scope="col" { span { (name) } } }
                    }
                }
                tbody {
                    @for k in classes.clone() {
                        tr {
                            th scope="row" { (findings.classes[k]) }
                            @for other in classes.clone() { (cell(findings, k, other)) }
                        }
                    }
                }
            }
        }
    }
}

/// A count, on a ground that is the stronger the larger its share of the row; mistakes show from few on.
fn cell(findings: &Findings, k: usize, other: usize) -> Markup {
    let (count, all) = (findings.confusion.counts[k][other], findings.confusion.of_class(k));
    let share = count as f64 / all.max(1) as f64;
    let strength = if k == other { 45.0 * share } else { 60.0 * share.sqrt() };
    html! {
        td.right[k == other].none[count == 0] style=(format!("--share:{strength:.0}%")) { (count) }
    }
}

/// For many classes: the pairs that are most often taken for each other.
fn confused_pairs(findings: &Findings) -> Markup {
    let counts = &findings.confusion.counts;
    let all = findings.confusion.classes().flat_map(|k| findings.confusion.classes().map(move |other| (k, other)));
    let mut wrong: Vec<(usize, usize)> = all.filter(|&(k, other)| k != other && counts[k][other] > 0).collect();
    wrong.sort_by_key(|&(k, other)| std::cmp::Reverse(counts[k][other]));
    wrong.truncate(PAIRS);
    html! {
        div.card.wide {
            table.numbers {
                caption { "The most frequent mistakes" }
                thead { tr { th scope="col" { "what it is" } th scope="col" { "taken for" } th.n scope="col" { "count" } } }
                tbody {
                    @for (k, other) in wrong {
                        tr { td { (findings.classes[k]) } td { (findings.classes[other]) } td.n { (counts[k][other]) } }
                    }
                }
            }
        }
    }
}

fn classes(findings: &Findings) -> Markup {
    let share = |share: Option<f64>| share.map_or("–".into(), percent);
    html! {
        div.card.wide {
            table.numbers id="classes" {
                caption { "Classes" }
                thead {
                    tr {
                        th scope="col" { "class" }
                        th.n scope="col" { "precision" }
                        th.n scope="col" { "recall" }
                        th.n scope="col" { "count" }
                    }
                }
                tbody {
                    @for k in findings.confusion.classes() {
                        tr {
                            th scope="row" { (findings.classes[k]) }
                            td.n { (share(findings.confusion.precision(k))) }
                            td.n { (share(findings.confusion.recall(k))) }
                            td.n { (thousands(findings.confusion.of_class(k))) }
                        }
                    }
                }
            }
        }
    }
}

fn pairs(caption: &str, values: &BTreeMap<String, String>) -> Markup {
    html! {
        div.card.wide {
            table.settings {
                caption { (caption) }
                tbody { @for (name, value) in values { tr { th scope="row" { (name) } td { (value) } } } }
            }
        }
    }
}

/// All that the curves are drawn from.
fn numbers(run: &Run) -> Markup {
    let mut rows: BTreeMap<u64, [String; 5]> = BTreeMap::new();
    for report in run.steps() {
        let row = rows.entry(report.step).or_default();
        row[0] = Unit::Number.text(report.loss);
        row[1] = percent(report.accuracy);
        row[4] = report.learning_rate.to_string();
    }
    for (step, report) in run.evaluations() {
        let row = rows.entry(step).or_default();
        (row[2], row[3]) = (Unit::Number.text(report.loss), percent(report.accuracy));
    }
    let every = rows.len().div_ceil(MOST_ROWS).max(1);
    let last = rows.len().saturating_sub(1);
    html! {
        section {
            h2 { "Numbers" }
            details.card.wide {
                summary { (thousands(rows.len() as u64)) " rows" @if every > 1 { ", every " (every) "th of them here" } }
                table.numbers id="numbers" {
                    caption { "Loss in nats and accuracy over the steps; those of a training batch are measured after its update" }
                    thead {
                        tr {
                            th.n scope="col" { "step" }
                            th.n scope="col" { "batch loss" }
                            th.n scope="col" { "batch accuracy" }
                            th.n scope="col" { "validation loss" }
                            th.n scope="col" { "validation accuracy" }
                            th.n scope="col" { "learning rate" }
                        }
                    }
                    tbody {
                        @for (_, (step, row)) in rows.iter().enumerate().filter(|(n, _)| n % every == 0 || *n == last) {
                            tr {
                                th.n scope="row" { (step) }
                                @for value in row { td.n { (value) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
