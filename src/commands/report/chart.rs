//! Line charts as SVG that stands in the page.

use super::super::output::{percent, thousands};
use maud::{Markup, html};

/// Size of the drawing in its own units; text in it is about as large as the page's on a phone.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
/// Where the axes lie.
const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = HEIGHT - 24.0;
/// Most points of a line; more are brought together.
const MOST_POINTS: usize = 240;

/// What the numbers of an axis are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Shares from 0 to 1.
    Share,
    /// Numbers whose zero belongs on the axis.
    Number,
}

impl Unit {
    /// A value of `axis` marks that are `step` apart.
    fn mark(self, value: f64, step: f64) -> String {
        match self {
            Self::Share => {
                let digits = usize::from(step < 0.0099) + usize::from(step < 0.00099);
                format!("{:.digits$} %", value * 100.0)
            }
            Self::Number if value == 0.0 => "0".into(),
            Self::Number if !(1e-6..1e6).contains(&step) => format!("{value:.1e}"),
            Self::Number => format!("{value:.*}", (-step.log10().floor()).max(0.0) as usize),
        }
    }

    /// A value on its own.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Share => percent(value),
            Self::Number if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) => format!("{value:.3e}"),
            Self::Number => format!("{value:.4}"),
        }
    }
}

/// One line.
pub struct Line {
    pub name: String,
    /// Its colour in the style sheet.
    pub class: String,
    pub points: Vec<(u64, f64)>,
    /// Whether every point is marked.
    pub marked: bool,
}

/// Lines over the steps of a training.
pub struct Chart<'a> {
    pub title: &'a str,
    pub unit: Unit,
    pub lines: Vec<Line>,
}

impl Chart<'_> {
    /// The chart with its title and what its lines are. Points that are not finite are left out.
    pub fn draw(mut self) -> Markup {
        self.lines.iter_mut().for_each(|line| line.points.retain(|point| point.1.is_finite()));
        let lines: Vec<&Line> = self.lines.iter().filter(|line| !line.points.is_empty()).collect();
        html! {
            figure.card.chart {
                figcaption {
                    h3 { (self.title) }
                    @if lines.len() > 1 {
                        p.legend {
                            @for line in &lines { span { i.swatch.(line.class) {} (line.name) } " " }
                        }
                    }
                }
                @if lines.is_empty() { p.muted { "There are no numbers yet." } } @else { (self.svg(&lines)) }
            }
        }
    }

    fn svg(&self, lines: &[&Line]) -> Markup {
        let last = lines.iter().flat_map(|line| &line.points).map(|p| p.0).max().unwrap_or(1).max(1);
        let values = || lines.iter().flat_map(|line| &line.points).map(|p| p.1);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let marks = match self.unit {
            Unit::Share => marks(low, 1.0),
            Unit::Number => marks(low.min(0.0), high),
        };
        let (from, to) = (marks[0], marks[marks.len() - 1]);
        let step = marks[1] - marks[0];
        let x = |at: u64| LEFT + (RIGHT - LEFT) * at as f64 / last as f64;
        let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value - from) / (to - from);
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.description(lines)) {
                @for mark in &marks {
                    line.grid x1=(LEFT) x2=(RIGHT) y1=(short(y(*mark))) y2=(short(y(*mark))) {}
                    text.tick x=(LEFT - 6.0) y=(short(y(*mark) + 3.5)) text-anchor="end" { (self.unit.mark(*mark, step)) }
                }
                @for at in step_marks(last) {
                    text.tick x=(short(x(at))) y=(HEIGHT - 8.0) text-anchor=(anchor(at, last)) { (steps_text(at)) }
                }
                @for line in lines {
                    @let points: Vec<(f64, f64)> = thinned(&line.points).iter().map(|&(at, value)| (x(at), y(value))).collect();
                    polyline.line.(line.class) points=(path(&points)) {}
                    @if line.marked && points.len() <= 60 || points.len() == 1 {
                        @for (x, y) in &points { circle.dot.(line.class) cx=(short(*x)) cy=(short(*y)) r="2.2" {} }
                    }
                }
            }
        }
    }

    /// What the drawing shows, in words.
    fn description(&self, lines: &[&Line]) -> String {
        let line = |line: &&Line| {
            let ((from, first), (to, last)) = (line.points[0], line.points[line.points.len() - 1]);
            let (first, last) = (self.unit.text(first), self.unit.text(last));
            format!("{}: {first} at step {from}, {last} at step {to}", line.name)
        };
        let lines: Vec<String> = lines.iter().map(line).collect();
        format!("{} over the steps of the training. {}.", self.title, lines.join("; "))
    }
}

fn anchor(at: u64, last: u64) -> &'static str {
    match at {
        0 => "start",
        _ if at == last => "end",
        _ => "middle",
    }
}

fn steps_text(at: u64) -> String {
    if at == 0 { "step 0".into() } else { thousands(at) }
}

/// Points of an SVG line.
pub fn path(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{},{}", short(*x), short(*y))).collect::<Vec<_>>().join(" ")
}

/// A coordinate, to a hundredth.
pub fn short(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Round numbers from one at or below `low` to one at or above `high`: four or so, two at least.
fn marks(low: f64, high: f64) -> Vec<f64> {
    let span = if high > low { high - low } else { high.abs().max(1e-12) };
    let rough = span / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(rough);
    // A little less than a whole step is a whole step: 0.1 + 0.2 is more than 0.3.
    let first = (low / step + 1e-9).floor() as i64;
    let last = ((high / step - 1e-9).ceil() as i64).max(first + 1);
    (first..=last).map(|n| n as f64 * step).collect()
}

/// Round steps below `last`, and `last`.
fn step_marks(last: u64) -> Vec<u64> {
    let marks = marks(0.0, last as f64);
    let step = marks[1];
    let below = marks.into_iter().filter(|mark| mark.fract() == 0.0 && *mark <= last as f64 - 0.6 * step);
    below.map(|mark| mark as u64).chain([last]).collect()
}

/// The points, or the means of as many neighbours as bring them to [`MOST_POINTS`].
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let together = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |some: &[(u64, f64)]| {
        let n = some.len() as f64;
        (some[some.len() / 2].0, some.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(together).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_hold_all() {
        let cases: [(f64, f64, &[f64]); 5] = [
            (0.0, 1.06, &[0.0, 0.5, 1.0, 1.5]),
            (0.6, 1.0, &[0.6, 0.7, 0.8, 0.9, 1.0]),
            (0.0, 0.001, &[0.0, 0.0005, 0.001]),
            (0.0, 0.0, &[0.0, 5e-13]),
            (1.0, 1.0, &[1.0, 1.5]),
        ];
        for (low, high, expected) in cases {
            let found = marks(low, high);
            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(close && found.len() == expected.len(), "{low} to {high}: {found:?}");
        }
    }

    #[test]
    fn steps_end_with_the_last() {
        assert_eq!(step_marks(1000), [0, 500, 1000]);
        assert_eq!(step_marks(7), [0, 2, 4, 7]);
        assert_eq!(step_marks(1), [0, 1]);
    }

    #[test]
    fn many_points_become_means() {
        let points: Vec<(u64, f64)> = (0..960).map(|n| (n, (n % 4) as f64)).collect();
        let few = thinned(&points);
        assert_eq!((few.len(), few[0], few[239]), (240, (2, 1.5), (958, 1.5)));
        assert_eq!(thinned(&points[..3]), points[..3]);
    }

    #[test]
    fn a_description_tells_ends_and_hostile_names_stay_text() {
        let line = Line { name: "<b>".into(), class: "train".into(), points: vec![(1, 0.5), (9, 0.25)], marked: true };
        let points = vec![(4, 0.5), (5, f64::NAN)];
        let other = Line { name: "other".into(), class: "validation".into(), points, marked: true };
        let page = Chart { title: "Loss", unit: Unit::Number, lines: vec![line, other] }.draw().into_string();
        assert!(page.contains("&lt;b&gt;: 0.5000 at step 1, 0.2500 at step 9; other: 0.5000 at step 4"), "{page}");
        assert!(!page.contains("<b>") && !page.contains("NaN"), "{page}");
    }
}
