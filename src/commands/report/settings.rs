//! Settings as names and values, however they are nested.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Longest list that is written out.
const LIST: usize = 12;

/// Every value with the keys that lead to it: `config.adam.learning_rate`.
pub fn flat(settings: &impl Serialize) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    collect("", &serde_json::to_value(settings).expect("settings can be written"), &mut all);
    all
}

fn collect(name: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    let text = match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                collect(&name, value, all);
            }
            return;
        }
        Value::Array(values) if values.len() > LIST => format!("{} values", values.len()),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => plain(other),
    };
    all.insert(name.to_owned(), text);
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::flat;
    use serde_json::json;

    #[test]
    fn nested_settings_are_named_by_their_keys() {
        let all = flat(&json!({ "a": { "b": 1, "c": null }, "d": ["x", 2], "e": vec![0; 99] }));
        let pairs: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a.b", "1"), ("a.c", "none"), ("d", "x, 2"), ("e", "99 values")]);
    }
}
