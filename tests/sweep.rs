//! `sweep`: every training gives to the bit what `train` gives, whatever runs beside it, and nothing is lost.

mod support;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use support::{Folder, program};

fn report(folder: &Folder, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.path(file)).unwrap()).unwrap()
}

/// The trainings of a report without the times they took, and without how many there were at a time.
fn runs(report: &Value) -> Vec<Value> {
    let mut runs = report["runs"].as_array().unwrap().clone();
    runs.iter_mut().for_each(|run| {
        let run = run.as_object_mut().unwrap();
        run.remove("train_seconds");
        assert!(run.remove("side_by_side").is_some_and(|count| count.as_u64() > Some(0)));
    });
    runs
}

#[test]
fn every_training_is_the_one_that_train_gives() {
    let folder = Folder::with_data();
    let sweep =
        "sweep --seed 0,5 --lr 0.001,0.01 --hidden 9,12 --batch-size 40 --steps 6 --grad-clip 1 --out @all.json";
    let shown = folder.run(&format!("{sweep} --json")).succeeds();
    let all = report(&folder, "all.json");
    assert_eq!(shown.event("sweep"), all);
    assert_eq!(runs(&all).len(), 8);
    for run in runs(&all) {
        let [seed, lr, hidden] = ["seed", "lr", "hidden"].map(|name| run[name].to_string());
        let flags = format!("--seed {seed} --lr {lr} --hidden {hidden} --batch-size 40 --steps 6 --grad-clip 1");
        let alone = folder.run(&format!("train {flags} --json")).succeeds().event("done");
        for name in ["validation_accuracy", "validation_loss", "test_accuracy", "test_loss"] {
            assert_eq!(run[name], alone[name], "{flags} {name}");
        }
        assert_eq!((&run["outcome"], &run["steps"]), (&Value::from("done"), &Value::from(6)));
    }
}

#[test]
fn any_number_of_threads_gives_the_same() {
    let folder = Folder::with_data();
    let of = |threads: u32| {
        let out = format!("of{threads}.json");
        let sweep = format!("sweep --seeds 5 --hidden 8 --batch-size 30 --steps 4 --threads {threads} --out @{out}");
        folder.run(&sweep).succeeds();
        let report = report(&folder, &out);
        assert!(report["runs"].as_array().unwrap().iter().all(|run| run["side_by_side"] == threads.min(5)));
        runs(&report)
    };
    let one = of(1);
    assert_eq!(one.len(), 5);
    assert_ne!(one[0]["test_loss"], one[1]["test_loss"], "seeds differ");
    assert_eq!(of(2), one);
    assert_eq!(of(8), one);
}

#[test]
fn the_table_opens_with_the_best_and_sums_up_the_seeds() {
    let folder = Folder::with_data();
    let run =
        folder.run("sweep --seeds 2 --lr 0.01,1e38 --hidden 8 --batch-size 40 --steps 30 --out @all.json").succeeds();
    let lines: Vec<_> = run.out.lines().collect();
    assert!(lines[0].starts_with("  seed        lr  hidden   batch  validation        test"), "{run:#?}");
    let of = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    assert!(of(lines[1])[1] == "0.01" && of(lines[2])[1] == "0.01", "the best first: {run:#?}");
    assert!(of(lines[1])[4].parse::<f64>().unwrap() >= of(lines[2])[4].parse::<f64>().unwrap(), "{run:#?}");
    for line in &lines[3..5] {
        assert!(
            of(line)[1] == "1e38" && line.contains("the loss became"),
            "one that diverges stops no other: {run:#?}"
        );
    }
    assert!(lines[6].starts_with("lr 0.01, hidden 8, batch 40: test ") && lines[6].ends_with("(2 seeds)"), "{run:#?}");
    assert!(lines[8].starts_with("4 trainings in ") && lines[8].contains("all.json"), "{run:#?}");
    let report = report(&folder, "all.json");
    assert_eq!(report["runs"].as_array().unwrap().iter().filter(|run| run["outcome"] == "failed").count(), 2);
    folder.run("sweep --hidden 8 --batch-size 40 --steps 1 --quiet --out @all.json").succeeds();
    assert_eq!(folder.names(), ["all.json", "data"]);
}

#[test]
fn what_cannot_be_is_told_before_anything_is_trained() {
    let folder = Folder::with_data();
    let fails = |flags: &str, code, parts: &[&str]| {
        folder.run(&format!("sweep --out @all.json {flags}")).fails_in_one_line(code, parts);
    };
    fails("--seeds 0", 2, &["--seeds"]);
    fails("--lr 0.001,x", 2, &["'x'", "--lr"]);
    fails("--lr 0.001,-1", 2, &["--lr -1"]);
    fails("--hidden 8,0", 2, &["--hidden"]);
    fails("--batch-size 10,100000", 2, &["--batch-size 100000", "only"]);
    fails("--seeds 10000 --hidden 8,9", 2, &["20000 trainings", "10000"]);
    folder.run("sweep --seeds 2 --seed 1").fails_as_misuse(&["--seeds", "--seed"]);
    folder.run("sweep --out @nowhere/all.json").fails_in_one_line(1, &["nowhere", "--out"]);
    folder.run("sweep --out @data").fails_in_one_line(2, &["--out", "data"]);
    assert_eq!(folder.names(), ["data"]);
}

#[test]
fn ctrl_c_keeps_what_is_done() {
    let folder = Folder::with_data();
    // The first is over at once, the second never.
    let sweep =
        "sweep --hidden 8 --batch-size 40 --seeds 10000 --steps 300 --threads 2 --out @all.json --data-dir @data";
    let mut child = program().args(folder.args(sweep)).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // It says that it trains, which it does once Ctrl-C is watched for.
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("training") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "it ended");
    }
    sleep(Duration::from_millis(1500));
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    let err = rest;
    assert_eq!(child.wait().unwrap().code(), Some(130), "{err}");
    assert!(err.lines().last().unwrap().starts_with("error: interrupted after "), "{err}");
    let report = report(&folder, "all.json");
    let of = |outcome: &str| report["runs"].as_array().unwrap().iter().filter(|run| run["outcome"] == outcome).count();
    assert!(of("done") > 0 && of("open") > 0 && of("done") + of("open") == 10_000, "{} done", of("done"));
}
