//! Standard output: results, as text or as JSON.

use fused_lstm::{Error, Result};
use serde::Serialize;
use std::io::{self, Write};

/// Writes one line to standard output.
pub fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// What comes of writing to standard output. A reader that has gone away (`fused-lstm | head`) ends the program quietly.
pub fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => done.map_err(|e| Error::io("standard output", "write", e, "free some space or write elsewhere")),
    }
}

/// Writes one JSON object with its `event` key in front.
pub fn event(name: &str, fields: impl Serialize) -> Result<()> {
    line(&serde_json::to_string(&Event { event: name, fields }).expect("text and numbers make an object"))
}

#[derive(Serialize)]
struct Event<'a, F> {
    event: &'a str,
    #[serde(flatten)]
    fields: F,
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (k, digit) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A name that there is room for: of `most` letters at most.
pub fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['…']).collect()
}

/// `0.9687` as `96.87 %`.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// `0.00012` as `1.2e-4`, and a plain zero as `0`.
pub fn scientific(value: f64, digits: usize) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:.digits$e}") }
}

#[cfg(test)]
mod tests {
    use super::{Event, thousands};

    #[test]
    fn an_event_opens_with_its_name() {
        let event = Event { event: "step", fields: serde_json::json!({ "accuracy": 0.5 }) };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"event":"step","accuracy":0.5}"#);
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (136_586, "136,586"), (1_234_567, "1,234,567")];
        for (n, text) in cases {
            assert_eq!(thousands(n), text);
        }
    }
}
