//! Several runs on one page.

use super::super::output::{percent, thousands};
use super::chart::{Chart, Line, Unit};
use super::page::{batches, framed};
use super::settings;
use fused_lstm::run::Run;
use fused_lstm::train::EvalReport;
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// Colours in the style sheet; further runs take them again.
const COLOURS: usize = 8;

/// The comparison of `runs`.
pub fn of(runs: &[Run]) -> Markup {
    let names = names(runs);
    let body = html! {
        header {
            h1 { (runs.len()) " runs" }
            p.muted { (names.join(", ")) }
        }
        section {
            h2 { "Results" }
            (results(runs, &names))
        }
        section {
            h2 { "Training" }
            div.charts {
                (Chart { title: "Validation accuracy", unit: Unit::Share, lines: validation(runs, &names, |r| r.accuracy) }.draw())
                (Chart { title: "Validation loss", unit: Unit::Number, lines: validation(runs, &names, |r| r.loss) }.draw())
                (Chart { title: "Loss of the training batch", unit: Unit::Number, lines: training(runs, &names) }.draw())
            }
        }
        section {
            h2 { "What differs" }
            (differences(runs, &names))
        }
    };
    framed(&format!("{} trainings of fused-lstm", runs.len()), &body)
}

/// The folders' own names, or where they are if two have the same.
fn names(runs: &[Run]) -> Vec<String> {
    let own: BTreeSet<String> = runs.iter().map(Run::name).collect();
    let distinct = own.len() == runs.len();
    runs.iter().map(|run| if distinct { run.name() } else { run.folder.display().to_string() }).collect()
}

fn class(n: usize) -> String {
    format!("run-{}", n % COLOURS)
}

fn validation(runs: &[Run], names: &[String], number: fn(&EvalReport) -> f64) -> Vec<Line> {
    let line = |(n, run): (usize, &Run)| Line {
        name: names[n].clone(),
        class: class(n),
        points: run.evaluations().map(|(step, report)| (step, number(report))).collect(),
        marked: true,
    };
    runs.iter().enumerate().map(line).collect()
}

fn training(runs: &[Run], names: &[String]) -> Vec<Line> {
    let line = |(n, run): (usize, &Run)| batches(run, &names[n], &class(n), |report| report.loss);
    runs.iter().enumerate().map(line).collect()
}

fn results(runs: &[Run], names: &[String]) -> Markup {
    html! {
        div.card.wide {
            table.numbers id="results" {
                caption { "At the end of each run, and at its lowest validation loss" }
                thead {
                    tr {
                        th scope="col" { "run" }
                        th.n scope="col" { "test accuracy" }
                        th.n scope="col" { "test loss" }
                        th.n scope="col" { "best validation" }
                        th.n scope="col" { "steps" }
                        th.n scope="col" { "time, s" }
                    }
                }
                tbody {
                    @for (n, run) in runs.iter().enumerate() {
                        tr {
                            th scope="row" { i.swatch.(class(n)) {} (names[n]) }
                            @if let Some((_, test, _)) = run.end() {
                                td.n { (percent(test.accuracy)) }
                                td.n { (format!("{:.4}", test.loss)) }
                            } @else { td.n { "–" } td.n { "–" } }
                            @if let Some((step, best)) = run.best() {
                                td.n { (percent(best.accuracy)) br; span.muted { "step " (thousands(step)) } }
                            } @else { td.n { "–" } }
                            td.n { (thousands(run.done())) }
                            td.n { (run.end().map_or("–".into(), |(_, _, seconds)| format!("{:.1}", seconds.training))) }
                        }
                    }
                }
            }
        }
    }
}

/// The settings that are not the same in all runs, and of the environment likewise.
fn differences(runs: &[Run], names: &[String]) -> Markup {
    let all = |run: &Run| {
        let mut values = settings::flat(&run.settings);
        let environment = settings::flat(&run.environment);
        values.extend(environment.into_iter().map(|(name, value)| (format!("environment.{name}"), value)));
        values
    };
    let values: Vec<BTreeMap<String, String>> = runs.iter().map(all).collect();
    let keys: BTreeSet<&String> = values.iter().flat_map(BTreeMap::keys).collect();
    let differ = |key: &&&String| values.iter().any(|run| run.get(**key) != values[0].get(**key));
    let differing: Vec<&&String> = keys.iter().filter(differ).collect();
    html! {
        div.card.wide {
            @if differing.is_empty() { p { "Nothing: the runs have the same settings." } } @else {
                table.settings id="differences" {
                    caption { "Settings that are not the same in all runs" }
                    thead { tr { th scope="col" { "setting" } @for name in names { th scope="col" { (name) } } } }
                    tbody {
                        @for key in differing {
                            tr {
                                th scope="row" { (key) }
                                @for run in &values { td { (run.get(*key).map_or("–", String::as_str)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
