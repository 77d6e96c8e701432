//! The folder of a run: what is in it, what becomes of it when the run is stopped, and `report`.

mod support;

use fused_lstm::checkpoint::Checkpoint;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Folder, program};

const SMALL: &str = "train --hidden 6 --batch-size 50 --log-every 2";

/// The rows of `run/metrics.jsonl`.
#[track_caller]
fn metrics(folder: &Folder) -> Vec<Value> {
    let text = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["event"].as_str().unwrap()).collect()
}

#[test]
fn a_run_leaves_all_that_there_is_to_know_of_it() {
    let folder = Folder::with_data();
    let flags = "--steps 7 --eval-every 3 --lr 0.02 --threads 2 --run @run --json";
    let run = folder.run(&format!("{SMALL} {flags}")).succeeds();
    let mut names = support::names(&folder.path("run"));
    let events_file =
        names.iter().position(|name| name.starts_with("events.out.tfevents.")).expect("TensorBoard's file");
    names.remove(events_file);
    let files = ["best", "config.json", "environment.json", "evaluation.json", "last", "metrics.jsonl", "report.html"];
    assert_eq!(names, files);

    let rows = metrics(&folder);
    assert_eq!(events(&rows), ["start", "step", "eval", "step", "step", "eval", "step", "eval", "done"]);
    // The very numbers that were told.
    let told = run.json();
    let of = |name: &str, all: &[Value]| all.iter().filter(|row| row["event"] == name).cloned().collect::<Vec<_>>();
    for name in ["step", "eval"] {
        let (told, kept) = (of(name, &told), of(name, &rows));
        assert_eq!(told.len(), kept.len(), "{name}");
        for (told, kept) in told.iter().zip(&kept) {
            for key in ["step", "loss", "accuracy"] {
                assert_eq!(told[key], kept[key], "{name} {key}");
            }
        }
    }
    assert!(of("step", &rows).iter().all(|row| row["learning_rate"] == 0.02), "{rows:?}");
    assert!(rows.is_sorted_by_key(|row| row["time"].as_f64().unwrap()), "{rows:?}");
    let (done, kept) = (run.event("done"), rows.last().unwrap());
    assert_eq!(
        (&done["test_accuracy"], &done["test_loss"], &done["validation_loss"]),
        (&kept["test"]["accuracy"], &kept["test"]["loss"], &kept["validation"]["loss"])
    );

    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.path(name)).unwrap()).unwrap() };
    let config = read("run/config.json");
    assert_eq!((&config["steps"], &config["config"]["adam"]["learning_rate"]), (&7.into(), &0.02.into()));
    assert_eq!((&config["eval_every"], &config["precision"]), (&3.into(), &"f32".into()));
    let environment = read("run/environment.json");
    assert_eq!((&environment["threads"], &environment["version"]), (&2.into(), &env!("CARGO_PKG_VERSION").into()));

    let evaluation = read("run/evaluation.json");
    let counts: u64 = evaluation["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!(counts, support::TEST as u64);
    let sure: Vec<f64> = evaluation["mistakes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mistake| mistake["probability"].as_f64().unwrap())
        .collect();
    assert!(!sure.is_empty() && sure.is_sorted_by(|a, b| a >= b), "{sure:?}");
    // After the last step the probabilities are those that made it a mistake.
    let unfolding = &evaluation["unfolding"];
    assert_eq!(unfolding["steps"].as_array().unwrap().len(), 28);
    let taken = evaluation["mistakes"][0]["predicted"].as_u64().unwrap() as usize;
    let last = unfolding["probabilities"][27][taken].as_f64().unwrap();
    assert!((last - sure[0]).abs() < 1e-5, "{last} {}", sure[0]);

    // The last checkpoint gives the numbers of the end.
    let eval = folder.run("eval --model @run/last --json").succeeds().event("eval");
    assert_eq!((&eval["loss"], &eval["confusion"]), (&done["test_loss"], &evaluation["confusion"]));
}

#[test]
fn the_best_checkpoint_is_that_of_the_lowest_validation_loss() {
    let folder = Folder::with_data();
    // So fast that it overshoots. It stops after step 8, and goes on.
    folder.run(&format!("{SMALL} --steps 8 --eval-every 1 --lr 0.3 --run @run")).succeeds();
    let best = |first: bool| {
        let rows = metrics(&folder);
        let evals = rows.iter().filter(|row| row["event"] == "eval");
        let loss = |row: &&Value| row["loss"].as_f64().unwrap();
        let best = evals.clone().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()["step"].as_u64().unwrap();
        assert_eq!(Checkpoint::load(&folder.path("run/best")).unwrap().state.step, best);
        if first {
            assert!(best < evals.count() as u64, "the last is not the best, or this shows nothing: {rows:?}");
        }
        best
    };
    let first = best(true);
    folder.run("train --resume @run --steps 10 --eval-every 1").succeeds();
    assert_eq!(best(false), first, "worse ones do not take its place when it goes on");
    folder.run("train --resume @run --steps 60 --eval-every 1 --lr 0.01").succeeds();
    assert!(best(false) > 10, "better ones do");
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    assert!(page.contains(&format!("at step {}, of the lowest loss", best(false))), "{page}");
}

#[test]
fn a_run_computes_what_a_training_without_one_does() {
    let folder = Folder::with_data();
    let loss = |flags: &str| {
        folder.run(&format!("{SMALL} --steps 5 --json {flags}")).succeeds().event("done")["test_loss"].clone()
    };
    assert_eq!(loss("--run @run --eval-every 2"), loss(""));
}

/// CRC-32C bit by bit, as it is defined.
fn crc(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc)))
}

#[test]
fn tensorboards_file_holds_a_record_for_each_row() {
    let folder = Folder::with_data();
    folder.run(&format!("{SMALL} --steps 6 --eval-every 3 --run @run")).succeeds();
    let names = support::names(&folder.path("run"));
    let name = names.iter().find(|name| name.contains("tfevents")).unwrap();
    let file = fs::read(folder.path(&format!("run/{name}"))).unwrap();
    let (mut rest, mut records) = (file.as_slice(), Vec::new());
    let masked = |bytes: &[u8]| crc(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(rest[8..12], masked(&rest[..8]));
        let bytes = &rest[12..12 + length];
        assert_eq!(rest[12 + length..16 + length], masked(bytes));
        records.push(bytes);
        rest = &rest[16 + length..];
    }
    assert!(records[0].windows(13).any(|part| part == b"brain.Event:2"));
    // All but the start.
    assert_eq!(records.len() - 1, metrics(&folder).len() - 1);
    let holds = |record: &[u8], tag: &[u8]| record.windows(tag.len()).any(|part| part == tag);
    let of = |tag: &str| records.iter().filter(|record| holds(record, tag.as_bytes())).count();
    assert_eq!([of("loss/train"), of("learning_rate"), of("accuracy/validation"), of("loss/test")], [3, 3, 2, 1]);
}

#[test]
fn a_run_goes_on_where_it_stopped() {
    let folder = Folder::with_data();
    folder.run(&format!("{SMALL} --steps 4 --eval-every 2 --run @run")).succeeds();
    // What a killed program may leave: rows after its last checkpoint, half a line.
    let mut file = fs::OpenOptions::new().append(true).open(folder.path("run/metrics.jsonl")).unwrap();
    file.write_all(b"{\"event\":\"eval\",\"time\":1.0,\"step\":6,\"accuracy\":1.0,\"loss\":0.0}\n{\"event\":\"st")
        .unwrap();
    drop(file);
    let straight = folder.run(&format!("{SMALL} --steps 8 --json")).succeeds().event("done");
    let resumed = folder.run("train --resume @run --steps 6 --log-every 2 --json").succeeds();
    assert_eq!(resumed.event("start")["step"], 4);
    let resumed = folder.run("train --resume @run/last --steps 8 --log-every 2 --json").succeeds();
    assert_eq!(resumed.event("done")["test_loss"], straight["test_loss"], "to the bit");

    let rows = metrics(&folder);
    let starts: Vec<_> = rows.iter().filter(|row| row["event"] == "start").map(|row| row["step"].clone()).collect();
    assert_eq!(starts, [0, 4, 6]);
    let evals: Vec<_> = rows.iter().filter(|row| row["event"] == "eval").map(|row| row["step"].clone()).collect();
    assert_eq!(evals, [2, 4, 6, 6, 8], "as often as before");
    let files = support::names(&folder.path("run"));
    assert_eq!(files.iter().filter(|name| name.contains("tfevents")).count(), 3, "{files:?}");
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    let steps: Vec<_> = (2..=8).step_by(2).map(|step| format!("<th class=\"n\" scope=\"row\">{step}</th>")).collect();
    assert!(steps.iter().all(|step| page.matches(step).count() == 1), "each step once: {page}");
    assert!(!page.contains("100.00 %</b><span class=\"muted\">at step 6"), "a row that was replaced does not count");
    // A checkpoint of a run may begin another.
    folder.run("train --resume @run --steps 9 --run @other").succeeds();
    assert_eq!(Checkpoint::load(&folder.path("other/last")).unwrap().state.step, 9);
    assert_eq!(Checkpoint::load(&folder.path("run/last")).unwrap().state.step, 8, "the first is left alone");
}

#[test]
fn a_run_that_is_stopped_or_killed_can_be_read() {
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let folder = Folder::with_data();
        let args = folder.args(&format!("{SMALL} --steps 1000000 --eval-every 4 --run @run --data-dir @data"));
        let mut child = program().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        let rows = || fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap_or_default().lines().count();
        while rows() < 10 {
            assert!(started.elapsed() < Duration::from_secs(60), "no rows in {:?}", folder.names());
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        assert_eq!(folder.path("run/report.html").exists(), code.is_some());
        folder.run_plain("report @run").succeeds();
        let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
        assert!(page.contains("Not at its end") && page.contains("<svg") && !page.contains("NaN"), "{page}");
    }
}

#[test]
fn a_run_that_diverges_keeps_what_was_good() {
    let folder = Folder::with_data();
    let run = folder.run(&format!("{SMALL} --steps 500 --eval-every 1 --lr 1e30 --init xavier --run @run"));
    run.ends_with_error(6, &["--lr"]);
    assert!(fs::read_to_string(folder.path("run/report.html")).unwrap().contains("Not at its end"));
}

#[test]
fn runs_are_compared_by_what_differs() {
    let folder = Folder::with_data();
    for (name, rate) in [("a", "0.001"), ("b", "0.03")] {
        folder.run(&format!("{SMALL} --steps 4 --eval-every 2 --lr {rate} --run @{name}")).succeeds();
    }
    let run = folder.run_plain("report @a @b --out @both.html").succeeds();
    assert_eq!(run.out, format!("report      {}\n", folder.text("both.html")));
    let page = fs::read_to_string(folder.path("both.html")).unwrap();
    let (_, differences) = page.split_once("id=\"differences\"").unwrap();
    assert!(differences.contains("config.adam.learning_rate</th><td>0.001</td><td>0.03</td>"), "{differences}");
    assert!(!differences.contains("config.seed") && !differences.contains("config.batch_size"), "{differences}");
    let (_, results) = page.split_once("id=\"results\"").unwrap();
    for name in ["a", "b"] {
        let text = fs::read_to_string(folder.path(&format!("{name}/metrics.jsonl"))).unwrap();
        let done: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let loss = format!("<td class=\"n\">{:.4}</td>", done["test"]["loss"].as_f64().unwrap());
        assert!(results.contains(&loss), "{name}: {loss} in {results}");
    }
}

#[test]
fn a_report_is_made_anew_of_the_folder_alone() {
    let folder = Folder::with_data();
    folder.run(&format!("{SMALL} --steps 4 --run @run")).succeeds();
    let before = fs::read_to_string(folder.path("run/report.html")).unwrap();
    fs::remove_file(folder.path("run/report.html")).unwrap();
    fs::remove_dir_all(folder.path("data")).unwrap();
    folder.run_plain("report @run").succeeds();
    assert_eq!(fs::read_to_string(folder.path("run/report.html")).unwrap(), before);
    folder.run_plain("report @run --out @page.html").succeeds();
    assert_eq!(fs::read_to_string(folder.path("page.html")).unwrap(), before);
    for address in ["http:", "https:", "<script", "@import", "url("] {
        assert!(!before.contains(address), "the page needs nothing else: {address}");
    }
}

#[test]
fn sequences_that_are_no_pictures_are_drawn_as_lines() {
    let folder = Folder::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/own_data/waves.csv");
    let sizes = "--inputs 2 --split 60/20/20 --hidden 4 --batch-size 12 --steps 4 --seed 1";
    folder.run_plain(&format!("train --data {data} {sizes} --run @run")).succeeds();
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    assert!(page.contains("<svg class=\"plot\"") && !page.contains("data:image"), "{page}");
    assert!(page.contains(">square</th>") && !page.contains("NaN"), "{page}");
}

#[test]
fn folders_that_cannot_be_a_new_run_are_refused() {
    let folder = Folder::with_data();
    let train = format!("{SMALL} --steps 2 --progress none");
    fs::write(folder.path("file"), "text").unwrap();
    fs::create_dir(folder.path("full")).unwrap();
    fs::write(folder.path("full/notes.txt"), "mine").unwrap();
    folder.run(&format!("{train} --run @file")).fails_in_one_line(2, &["--run ", "file", "not a folder"]);
    folder
        .run(&format!("{train} --run @full"))
        .fails_in_one_line(2, &["--run ", "full", "other files", "new or an empty"]);
    assert_eq!(support::names(&folder.path("full")), ["notes.txt"]);
    folder.run(&format!("{train} --save @x --run @y")).fails_as_misuse(&["--save", "--run"]);
    folder.run(&format!("{train} --run @run --lr nan")).fails_in_one_line(2, &["--lr"]);
    folder.run(&format!("{train} --run @run --data @nowhere")).fails_in_one_line(2, &[]);
    assert!(!folder.path("run").exists(), "a wrong flag leaves no trace");
    fs::create_dir(folder.path("run")).unwrap();
    folder.run(&format!("{train} --run @run")).succeeds();
    let again = folder.run(&format!("{train} --run @run"));
    again.fails_in_one_line(2, &["--run ", "a run in this folder already", "--resume "]);
    folder
        .run("eval --model @run --progress none")
        .fails_in_one_line(5, &["the folder of a run", "run/best", "run/last"]);
    fs::remove_dir_all(folder.path("run/last")).unwrap();
    folder.run("train --resume @run --progress none").fails_in_one_line(5, &["run/last", "no such folder"]);
}

#[test]
fn what_is_no_run_has_no_report() {
    let folder = Folder::with_data();
    folder.run(&format!("{SMALL} --steps 2 --run @run")).succeeds();
    folder.train(1);
    let report = || folder.run_plain("report @run");
    folder.run_plain("report").fails_as_misuse(&["RUN"]);
    folder.run_plain("report @nowhere").fails_in_one_line(3, &["nowhere", "no such folder", "train --run"]);
    folder.run_plain("report @data").fails_in_one_line(3, &["data", "not the folder of a run", "train --run"]);
    folder.run_plain("report @model").fails_in_one_line(3, &["model", "not the folder of a run"]);
    folder.run_plain("report @run @nowhere --out @page").fails_in_one_line(3, &["nowhere"]);
    folder.run_plain("report @run --out @data").fails_in_one_line(2, &["--out ", "data", "a folder"]);
    folder.run_plain("report @run --out @no/where").fails_in_one_line(1, &["no/where", "--out"]);
    assert!(!folder.path("page").exists());

    let whole = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    let cases = [
        (whole.replacen("\"loss\":", "\"loss\":x", 1), "line 2 is broken"),
        (format!("\n{whole}"), "line 1 is broken"),
        (format!("{whole}[]\n"), "line 5 is broken"),
    ];
    for (text, found) in cases {
        fs::write(folder.path("run/metrics.jsonl"), text).unwrap();
        report().fails_in_one_line(3, &["metrics.jsonl", found, "repair the line"]);
    }
    fs::write(folder.path("run/metrics.jsonl"), &whole).unwrap();
    for (name, text, found) in [
        ("evaluation.json", "{", "broken"),
        ("environment.json", "[]", "broken"),
        ("config.json", "{ \"run_format\": 7 }", "form 7 is not the form 1"),
        ("config.json", "{ \"run_format\": 1 }", "broken"),
        ("config.json", "no JSON", "broken"),
    ] {
        let path = folder.path(&format!("run/{name}"));
        let before = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        report().fails_in_one_line(3, &[name, found]);
        fs::write(&path, before).unwrap();
    }
    report().succeeds();
    for name in ["environment.json", "metrics.jsonl"] {
        fs::remove_file(folder.path(&format!("run/{name}"))).unwrap();
        report().fails_in_one_line(3, &[name]);
        folder.run("train --resume @run --steps 2").succeeds();
    }
}
