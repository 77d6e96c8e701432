//! Models beyond the tutorial's, from the command line: every flag arrives, is kept, and has its effect; what makes no sense
//! is refused.

mod support;

use serde_json::json;
use std::fs;
use support::{Folder, Run};

const SMALL: &str = "--hidden 6 --batch-size 40";
const LARGER: &str = "--layers 2 --bidirectional --dropout 0.25 --input-layer none --pool mean --label-smoothing 0.125 \
                      --weight-decay 0.0625 --schedule warmup-cosine --warmup-steps 2";

fn test_loss(run: &Run) -> f64 {
    run.event("done")["test_loss"].as_f64().unwrap()
}

#[test]
fn every_flag_arrives() {
    let folder = Folder::with_data();
    let start = folder.run(&format!("train {SMALL} {LARGER} --seed 5 --steps 4 --json")).succeeds().event("start");
    let model = &start["config"]["model"];
    let expected = json!({
        "dims": { "t": 28, "i": 28, "p": 28, "h": 6, "k": 10 },
        "forget_bias": 1.0,
        "layers": 2,
        "bidirectional": true,
        "input_layer": "none",
        "pool": "mean",
        "dropout": { "rate": 0.25, "seed": 5 },
        "label_smoothing": 0.125,
    });
    assert_eq!(model, &expected);
    let adam = &start["config"]["adam"];
    assert_eq!(adam["weight_decay"], 0.0625);
    assert_eq!(adam["schedule"], json!({ "cosine": { "warm_up": 2, "steps": 4 } }));
    let names: Vec<_> = start["tensors"].as_array().unwrap().iter().map(|t| t[0].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["w_x", "w_h", "b"]);
    assert_eq!((names.len(), names[11], names[12]), (14, "b_l1_reverse", "w_out"));
    assert_eq!(start["parameters"], 2 * 24 * (28 + 6 + 1) + 2 * 24 * (12 + 6 + 1) + 13 * 10);
    let start = folder.run(&format!("train {SMALL} --input-layer linear:9 --steps 1 --json")).succeeds().event("start");
    assert_eq!(start["config"]["model"]["dims"]["p"], 9);
}

#[test]
fn every_flag_has_its_effect() {
    let folder = Folder::with_data();
    let loss =
        |flags: &str| test_loss(&folder.run(&format!("train {SMALL} --steps 3 --lr 0.01 --json {flags}")).succeeds());
    let plain = loss("");
    let flags = [
        "--layers 2",
        "--layers 2 --dropout 0.5",
        "--bidirectional",
        "--input-layer none",
        "--input-layer linear:5",
        "--pool mean",
        "--pool max",
        "--label-smoothing 0.2",
        "--weight-decay 1",
        "--schedule cosine",
        "--schedule warmup-cosine --warmup-steps 1",
        "--schedule warmup-cosine --warmup-steps 2",
    ];
    let mut seen = vec![plain];
    for flags in flags {
        let loss = loss(flags);
        assert!(!seen.contains(&loss), "{flags}: {loss} was seen before");
        seen.push(loss);
    }
    let defaults = "--layers 1 --dropout 0 --input-layer linear --pool last --label-smoothing 0 --weight-decay 0 \
                    --schedule constant";
    assert_eq!(loss(defaults), plain);
}

#[test]
fn a_checkpoint_keeps_it_all() {
    let folder = Folder::with_data();
    let whole = folder.run(&format!("train {SMALL} {LARGER} --steps 8 --save @whole --json")).succeeds();
    // The schedule is that of 8 steps in both runs.
    let part = format!("train {SMALL} {LARGER} --steps 8 --save @part --save-every 4 --json");
    folder.run(&part).succeeds();
    let whole_files = ["model.safetensors", "state.safetensors", "config.json"];
    let read = |model: &str| whole_files.map(|name| fs::read(folder.path(&format!("{model}/{name}"))).unwrap());
    assert!(read("whole") == read("part"));
    let evaluated = folder.run("eval --model @whole --json").succeeds().event("eval");
    assert_eq!(evaluated["loss"].as_f64().unwrap(), test_loss(&whole));
    let images = folder.text("data/t10k-images-idx3-ubyte");
    let predicted = folder.run_plain(&format!("predict --model @whole {images} --json")).succeeds();
    assert!(predicted.event("prediction")["top"][0]["probability"].as_f64().unwrap() > 0.1);
    let config = fs::read_to_string(folder.path("whole/config.json")).unwrap();
    assert!(config.contains("\"format\": 2"), "programs of before refuse it: {config}");

    let resumed = folder.run("train --resume @part --json").succeeds();
    assert_eq!(resumed.event("start")["step"], 8);
    let refused = folder.run("train --resume @part --steps 8 --layers 3");
    refused.fails(5, &["made with layers 2, not with layers 3;", "leave the flags out"]);
    let refused = folder.run("train --resume @part --steps 9");
    refused.fails(2, &["--steps 9", "schedule ends with step 8", "--schedule"]);
    folder.run("train --resume @part --steps 9 --schedule constant").succeeds();
}

#[test]
fn the_tutorials_model_stays_readable_for_programs_of_before() {
    let folder = Folder::with_data();
    folder.train(1);
    let config = fs::read_to_string(folder.path("model/config.json")).unwrap();
    for new in
        ["layers", "bidirectional", "input_layer", "pool", "dropout", "label_smoothing", "weight_decay", "schedule"]
    {
        assert!(!config.contains(new), "{new} in {config}");
    }
    assert!(config.contains("\"format\": 1"));
}

#[test]
fn patience_keeps_the_best_model() {
    let folder = Folder::with_data();
    let flags = "--steps 400 --lr 0.05 --eval-every 5 --patience 2 --save @model";
    let run = folder.run(&format!("train {SMALL} {flags} --json")).succeeds();
    let (done, evaluations) = (run.event("done"), run.events("eval"));
    let losses: Vec<_> = evaluations.iter().map(|e| e["loss"].as_f64().unwrap()).collect();
    let best = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    assert_eq!(done["best_step"], 5 * (best as u64 + 1));
    assert_eq!((done["steps"].as_u64().unwrap(), losses.len()), (5 * (best as u64 + 3), best + 3), "two more");
    assert_eq!(done["validation_loss"].as_f64().unwrap(), losses[best]);
    let kept = folder.run("eval --model @model --split validation --json").succeeds().event("eval");
    assert_eq!(kept["loss"].as_f64().unwrap(), losses[best]);
    let text = folder.run(&format!("train {SMALL} {flags}")).succeeds().out;
    assert!(text.contains("kept        step "), "{text}");
    folder.run(&format!("train {SMALL} --patience 2")).fails(2, &["--patience 2", "--eval-every"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = Folder::with_data();
    let refused = |flags: &str, parts: &[&str]| {
        folder.run(&format!("train --batch-size 40 --steps 5 --save @never {flags}")).fails_in_one_line(2, parts);
    };
    refused("--dropout 0.2", &["--dropout 0.2", "only one", "--layers 2"]);
    refused("--layers 2 --dropout 1", &["--dropout 1", "share"]);
    refused("--layers 2 --dropout -0.1", &["--dropout -0.1", "share"]);
    refused("--layers 2 --dropout NaN", &["--dropout NaN", "share"]);
    refused("--label-smoothing 1", &["--label-smoothing 1", "share"]);
    refused("--weight-decay -1", &["--weight-decay -1", "0.01"]);
    refused("--weight-decay 1e9", &["--weight-decay 1000000000", "0.01"]);
    refused("--warmup-steps 2", &["--warmup-steps 2", "--schedule warmup-cosine"]);
    refused("--schedule cosine --warmup-steps 2", &["--warmup-steps 2", "--schedule warmup-cosine"]);
    refused("--schedule warmup-cosine --warmup-steps 5", &["--warmup-steps 5", "only 5 steps"]);
    refused("--layers 64 --hidden 8192", &["--hidden 8192", "parameters"]);
    for (flags, part) in [
        ("--layers 0", "from 1 to 64"),
        ("--layers 65", "from 1 to 64"),
        ("--layers two", "from 1 to 64"),
        ("--input-layer wide", "linear:64"),
        ("--input-layer linear:0", "from 1 to"),
        ("--input-layer none:3", "linear:64"),
        ("--pool median", "last, mean, max"),
        ("--schedule linear", "warmup-cosine"),
        ("--patience 0 --eval-every 1", "from 1 to"),
        ("--dropout much", "number"),
    ] {
        folder.run(&format!("train {SMALL} {flags}")).fails_as_misuse(&[part]);
    }
    assert_eq!(folder.names(), ["data"]);
}

#[test]
fn a_sweep_trains_them_too() {
    let folder = Folder::with_data();
    let flags = format!("--hidden 6 --batch-size 40 {LARGER} --steps 4");
    folder.run(&format!("sweep {flags} --seed 5 --out @sweep.json --quiet")).succeeds();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("sweep.json")).unwrap()).unwrap();
    let alone = folder.run(&format!("train {flags} --seed 5 --json")).succeeds();
    assert_eq!(report["runs"][0]["test_loss"].as_f64().unwrap(), test_loss(&alone));
}
