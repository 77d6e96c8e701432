//! The command line, by running the program: what it prints and where, its exit codes, its messages.

mod support;

use fused_lstm::cpu::Isa;
use fused_lstm::data::{Values, synthetic};
use fused_lstm::tensor_file::{Numbers, Tensor, TensorFile};
use image::{GrayImage, ImageFormat};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::{Folder, Run, TEST, TRAIN, VALIDATION, idx_file, names, program, run};

const SMALL: &str = "--hidden 6 --batch-size 50";

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

// ---- train ----

#[test]
fn no_command_trains_and_prints_table_steps_and_results() {
    let folder = Folder::with_data();
    let run = folder.run("--hidden 128 --steps 3 --log-every 2").succeeds();
    let lines: Vec<_> = run.out.lines().collect();
    let table = ["tensor", "w_in", "b_in", "w_x", "w_h", "b", "w_out", "b_out", "all"];
    let first: Vec<_> = lines[..9].iter().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first, table);
    assert!(lines[8].ends_with("136,586"), "the tutorial's number of parameters: {run:#?}");
    assert!(lines[..9].iter().all(|line| line.len() == lines[0].len()), "columns end together: {run:#?}");
    assert!(
        lines[10].starts_with("data        images from ") && lines[11].starts_with("device      cpu, "),
        "{run:#?}"
    );
    let table = ["step", "loss", "accuracy", "ms/step", "samples/s"];
    assert_eq!(lines[13].split_whitespace().collect::<Vec<_>>(), table);
    let steps: Vec<_> = lines[14..16].iter().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(steps, ["2", "3"], "every second step and the last: {run:#?}");
    assert!(lines[14..16].iter().all(|line| line.len() == lines[13].len()), "columns end together: {run:#?}");
    assert!(lines[17].starts_with("validation  accuracy ") && lines[17].ends_with(" (20 images)"), "{run:#?}");
    assert!(lines[18].starts_with("test        accuracy ") && lines[18].ends_with(" (40 images)"), "{run:#?}");
    for part in ["time  ", "data ", "set-up ", "training ", "evaluation "] {
        assert!(lines[19].contains(part), "{run:#?}");
    }
    assert_eq!(lines.len(), 20, "{run:#?}");
    assert_eq!(run.err, "training\nevaluating\n", "plain progress where there is no terminal");
}

#[test]
fn without_a_command_is_the_same_as_train() {
    let folder = Folder::with_data();
    let losses = |command: &str| {
        let run = folder.run(&format!("{command} {SMALL} --steps 3 --json")).succeeds();
        run.event("done")["test_loss"].as_f64().unwrap()
    };
    assert_eq!(losses("train").to_bits(), losses("").to_bits());
}

#[test]
fn json_events_of_a_training() {
    let folder = Folder::with_data();
    let run = folder.run(&format!("train {SMALL} --steps 5 --log-every 2 --eval-every 3 --seed 9 --json")).succeeds();
    assert!(run.out.lines().all(|line| line.starts_with(r#"{"event":""#)), "the event comes first: {run:#?}");
    let kinds: Vec<_> = run.json().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["start", "step", "eval", "step", "step", "done"]);
    assert_eq!(run.err, "", "JSON leaves standard error alone");

    let start = run.event("start");
    assert_eq!((&start["step"], &start["config"]["seed"]), (&0.into(), &9.into()));
    let sizes = start["tensors"].as_array().unwrap().iter().map(|tensor| {
        let shape = tensor[1].as_array().unwrap();
        shape.iter().map(|n| n.as_u64().unwrap()).product::<u64>()
    });
    assert_eq!(start["parameters"].as_u64().unwrap(), sizes.sum::<u64>());

    let steps: Vec<_> = run.events("step").iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 4, 5]);
    for step in run.events("step") {
        assert!(["loss", "ms_per_step", "samples_per_s"].iter().all(|key| step[key].as_f64().unwrap() > 0.0), "{step}");
        assert!((0.0..=1.0).contains(&step["accuracy"].as_f64().unwrap()), "{step}");
    }
    let eval = run.event("eval");
    assert_eq!((&eval["step"], &eval["split"]), (&3.into(), &"validation".into()));

    let done = run.event("done");
    assert_eq!((&done["steps"], &done["seed"], &done["data"]), (&5.into(), &9.into(), &"mnist".into()));
    assert!(done["device"].as_str().unwrap().starts_with("cpu"), "{done}");
    for key in ["test_accuracy", "test_loss", "train_seconds", "ms_per_step"] {
        assert!(done[key].as_f64().unwrap() >= 0.0, "{key}: {done}");
    }
    let (seconds, ms) = (done["train_seconds"].as_f64().unwrap(), done["ms_per_step"].as_f64().unwrap());
    assert!((seconds * 1e3 / 5.0 - ms).abs() < 1e-6 * ms, "{done}");
    let test = done["test_accuracy"].as_f64().unwrap() * TEST as f64;
    assert!((test - test.round()).abs() < 1e-9, "a share of {TEST} images: {done}");
}

#[test]
fn every_flag_of_training_arrives() {
    let folder = Folder::with_data();
    let flags = "--steps 4 --batch-size 30 --hidden 7 --lr 0.02 --forget-bias 0.5 --init xavier --grad-clip 0.25 \
                 --seed 3 --device cpu --threads 1 --log-every 1 --save @model --save-every 2 --offline --progress none";
    let start = folder.run(&format!("train {flags} --json")).succeeds().event("start");
    let config = &start["config"];
    assert_eq!(config["batch_size"], 30);
    assert_eq!((&config["model"]["dims"]["h"], &config["model"]["dims"]["p"]), (&7.into(), &7.into()));
    assert_eq!(config["model"]["forget_bias"], 0.5);
    assert_eq!((&config["adam"]["learning_rate"], &config["adam"]["grad_clip"]), (&0.02.into(), &0.25.into()));
    assert_eq!((&config["init"], &config["seed"]), (&"xavier".into(), &3.into()));
    assert_eq!(config["train_sequences"], (TRAIN - VALIDATION) as u64);
    assert!(start["device"].as_str().unwrap().ends_with("1 thread"), "{start}");
    assert!(folder.path("model/model.safetensors").exists());
    assert_eq!(folder.names(), ["data", "model"], "nothing is left beside the checkpoint");
}

#[test]
fn every_flag_of_training_has_its_effect() {
    let folder = Folder::with_data();
    let loss = |flags: &str| {
        let run = folder.run(&format!("train --hidden 6 --steps 3 --json {flags}")).succeeds();
        run.event("done")["test_loss"].as_f64().unwrap()
    };
    let plain = loss("--batch-size 50");
    assert_eq!(loss("--batch-size 50 --threads 3"), plain, "threads change no bit");
    assert_eq!(loss("--batch-size 50 --log-every 1 --eval-every 1"), plain, "watching changes no bit");
    let others = ["--seed 1", "--lr 0.002", "--forget-bias 0", "--init xavier", "--grad-clip 0.0001"];
    for flags in others.map(|flag| format!("--batch-size 50 {flag}")).into_iter().chain(["--batch-size 51".into()]) {
        assert_ne!(loss(&flags), plain, "{flags}");
    }
}

#[test]
fn epochs_are_passes_over_the_training_data() {
    let folder = Folder::with_data();
    // 2 x 220 sequences in batches of 50.
    let done = folder.run(&format!("train {SMALL} --epochs 2 --json")).succeeds().event("done");
    assert_eq!(done["steps"], 9);
    folder.run("train --epochs 2 --steps 3").fails_as_misuse(&["--epochs", "--steps"]);
}

#[test]
fn quiet_leaves_the_results() {
    let folder = Folder::with_data();
    let run = folder.run(&format!("train {SMALL} --steps 2 --eval-every 1 --quiet")).succeeds();
    let starts: Vec<_> = run.out.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!((starts.as_slice(), run.err.as_str()), (["validation", "test"].as_slice(), ""));
    let run = folder.run(&format!("train {SMALL} --steps 2 --eval-every 1 --quiet --json")).succeeds();
    assert_eq!(run.json().len(), 1);
    run.event("done");
}

#[test]
fn progress_styles_without_a_terminal() {
    let folder = Folder::with_data();
    let err = |flags: &str| folder.run(&format!("train {SMALL} --steps 2 {flags}")).succeeds().err;
    assert_eq!(err("--progress auto"), "training\nevaluating\n");
    assert_eq!(err("--progress plain"), "training\nevaluating\n");
    assert_eq!(err("--progress bar"), "", "a bar needs a terminal");
    assert_eq!(err("--progress none"), "");
    folder.run("train --progress loud").fails_as_misuse(&["--progress", "auto, bar, plain, none"]);
}

#[test]
fn colours_stay_out_of_pipes() {
    // `Run` looks for escape codes in every run of these tests; here where a program might be tempted.
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "xterm-256color"), ("COLORTERM", "truecolor")] {
        for args in [&["--help"] as &[&str], &["--frob"], &["train", "--progress", "bar", "--data", "nowhere"]] {
            Run::new(program().env(name, value).args(args).output().unwrap());
        }
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = Folder::with_data();
    let args = folder.args(&format!("train {SMALL} --steps 100000 --log-every 1 --data-dir @data --progress none"));
    let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
    assert!(line.starts_with("tensor"), "{line}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_standard_output() {
    let folder = Folder::with_data();
    folder.train(1);
    let golden = golden("odd_small").display().to_string();
    for command in [
        &format!("train {SMALL} --steps 1 --data-dir @data --progress none"),
        &format!("train {SMALL} --steps 1 --data-dir @data --json"),
        "eval --model @model --data-dir @data --progress none",
        "predict --model @model @data/t10k-images-idx3-ubyte",
        "data info --data-dir @data",
        &format!("verify {golden}"),
        "bench step --hidden 1 --seconds 0.01",
        "completions bash",
        "man",
        "train --help",
        "--version",
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let run = Run::new(program().args(folder.args(command)).stdout(full).output().unwrap());
        run.fails_in_one_line(1, &["standard output", "cannot write"]);
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_so() {
    let folder = Folder::with_data();
    let args = folder.args(&format!("train {SMALL} --steps 100000000 --save @model --data-dir @data --json"));
    let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..2 {
        out.read_line(&mut String::new()).unwrap();
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    out.read_to_string(&mut String::new()).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.starts_with("error: interrupted after step ") && err.contains("--resume"), "{err}");
    folder.run("eval --model @model --quiet").succeeds();
}

#[test]
fn resuming_goes_on_where_it_ended() {
    let folder = Folder::with_data();
    folder.train(4);
    let resumed = folder.run("train --resume @model --save @more --steps 8 --json").succeeds();
    assert_eq!(resumed.event("start")["step"], 4);
    let whole = folder.run("train --hidden 12 --batch-size 40 --steps 8 --json").succeeds();
    assert_eq!(resumed.event("done")["test_loss"], whole.event("done")["test_loss"]);

    folder.run("train --resume @model --steps 3").fails_in_one_line(2, &["--steps 3", "has done 4"]);
    folder.run("train --resume @more --epochs 1").fails_in_one_line(2, &["--epochs 1", "has done 8"]);
    folder.run("train --resume @model --seed 5").fails_in_one_line(5, &["model", "seed 0", "seed 5"]);
    folder.run("train --resume @model --hidden 5").fails_in_one_line(5, &["model", "hidden 12", "hidden 5"]);
    folder.run("train --resume @nowhere").fails_in_one_line(5, &["nowhere"]);
    folder.run("train --resume @data").fails_in_one_line(5, &["data"]);
}

#[test]
fn divergence_is_told_within_20_steps() {
    let folder = Folder::with_data();
    for flags in ["--lr 1e38", "--lr 1e50", "--lr 1e38 --log-every 1000 --steps 1000000 --progress none"] {
        let run =
            folder.run(&format!("train {SMALL} --quiet {flags}")).ends_with_error(6, &["the loss became ", "--lr"]);
        assert_eq!((run.err.lines().count(), run.out.as_str()), (1, ""), "{run:#?}");
        let step = run.err.split("at step ").nth(1).unwrap().split(';').next().unwrap();
        assert!(step.parse::<u32>().unwrap() <= 20, "{run:#?}");
        assert!(run.err.len() < 200, "{run:#?}");
    }
    folder.run(&format!("train {SMALL} --quiet --lr 1e38 --save @model")).fails_in_one_line(6, &["--lr"]);
    assert_eq!(folder.names(), ["data"], "nothing half-written");
    // The last good checkpoint of an earlier run is kept.
    folder.train(2);
    let before = fs::read(folder.path("model/model.safetensors")).unwrap();
    folder.run("train --resume @model --lr 1e38 --quiet").ends_with_error(6, &["--lr"]);
    assert_eq!(fs::read(folder.path("model/model.safetensors")).unwrap(), before);
    assert_eq!(folder.names(), ["data", "model"]);
}

// ---- eval and predict ----

#[test]
fn eval_gives_the_accuracy_of_the_training_exactly() {
    let folder = Folder::with_data();
    let done = folder.train(60).event("done");
    let eval = folder.run("eval --model @model --json").succeeds().event("eval");
    assert_eq!((&eval["accuracy"], &eval["loss"]), (&done["test_accuracy"], &done["test_loss"]));
    let validation = folder.run("eval --model @model --split validation --json").succeeds().event("eval");
    assert_eq!(validation["accuracy"], done["validation_accuracy"]);
    assert_eq!(validation["loss"], done["validation_loss"]);
    assert_eq!((&validation["split"], &validation["images"]), (&"validation".into(), &VALIDATION.into()));
    let train = folder.run("eval --model @model --split train --json --threads 1").succeeds().event("eval");
    assert_eq!(train["images"], (TRAIN - VALIDATION) as u64);
    folder.run("eval --model @model --split all").fails_as_misuse(&["--split", "train, validation, test"]);
}

#[test]
fn the_confusion_matrix_adds_up() {
    let folder = Folder::with_data();
    folder.train(150);
    let run = folder.run("eval --model @model --json").succeeds();
    assert_eq!(run.err, "");
    let eval = run.event("eval");
    let rows: Vec<_> = eval["confusion"].as_array().unwrap().iter().map(floats).collect();
    let hits: Vec<_> = (0..10).map(|k| rows[k][k]).collect();
    assert_eq!(rows.iter().map(|row| row.iter().sum::<f64>()).collect::<Vec<_>>(), [4.0; 10], "four images of each");
    assert_eq!(hits.iter().sum::<f64>() / TEST as f64, eval["accuracy"].as_f64().unwrap());
    for k in 0..10 {
        let column: f64 = rows.iter().map(|row| row[k]).sum();
        assert_eq!(eval["recall"][k].as_f64(), Some(hits[k] / 4.0));
        assert_eq!(eval["precision"][k].as_f64(), (column > 0.0).then(|| hits[k] / column));
    }

    let text = folder.run("eval --model @model").succeeds().out;
    let table: Vec<_> = text.lines().skip(3).take(11).collect();
    assert!(table[0].ends_with("precision    recall"), "{text}");
    assert!(table.iter().all(|line| line.len() == table[0].len()), "columns end together: {text}");
    for (k, line) in table[1..].iter().enumerate() {
        let words: Vec<f64> = line.split_whitespace().take(11).map(|word| word.parse().unwrap()).collect();
        assert_eq!((words[0] as usize, &words[1..]), (k, rows[k].as_slice()), "{text}");
    }
    let percent = eval["accuracy"].as_f64().unwrap() * 100.0;
    assert!(
        text.trim_end().lines().last().unwrap().starts_with(&format!("test        accuracy {percent:.2} %, loss "))
    );
    let quiet = folder.run("eval --model @model --quiet").succeeds();
    assert_eq!(
        (quiet.out.as_str(), quiet.err.as_str()),
        (text.lines().last().map(|l| format!("{l}\n")).unwrap().as_str(), "")
    );
}

/// Writes a synthetic digit as pictures of several kinds; returns their names.
fn write_pictures(folder: &Folder) -> [&'static str; 4] {
    let digits = synthetic::digits(3, 10, 0, 0);
    let Values::U8 { bytes, .. } = digits.train.values() else { panic!("digits are bytes") };
    let light = GrayImage::from_raw(28, 28, bytes[..784].to_vec()).unwrap();
    let large = image::imageops::resize(&light, 200, 200, image::imageops::FilterType::CatmullRom);
    let dark = |picture: &GrayImage| {
        GrayImage::from_fn(picture.width(), picture.height(), |x, y| image::Luma([255 - picture.get_pixel(x, y).0[0]]))
    };
    let names = ["light.png", "dark.png", "light.jpg", "dark.jpeg"];
    for (name, picture) in names.iter().zip([&large, &dark(&large), &large, &dark(&large)]) {
        let format = if name.ends_with("png") { ImageFormat::Png } else { ImageFormat::Jpeg };
        picture.save_with_format(folder.path(name), format).unwrap();
    }
    names
}

#[test]
fn pictures_are_classified_in_both_polarities() {
    let folder = Folder::with_data();
    folder.train(150);
    let names = write_pictures(&folder);
    let files = names.map(|name| format!("@{name}")).join(" ");
    let run = folder.run_plain(&format!("predict --model @model {files} --json")).succeeds();
    let predictions = run.json();
    assert_eq!(predictions.len(), 4);
    for (prediction, name) in predictions.iter().zip(names) {
        assert_eq!(prediction["file"], folder.text(name));
        let top = prediction["top"].as_array().unwrap();
        let shares: Vec<_> = top.iter().map(|one| one["probability"].as_f64().unwrap()).collect();
        assert_eq!((top.len(), &top[0]["class"]), (3, &prediction["class"]));
        assert!(shares.is_sorted_by(|a, b| a >= b) && shares[2] > 0.0, "{prediction}");
        let sum: f64 = shares.iter().sum();
        assert!(sum <= 1.0 + 1e-6 && sum > 0.3, "{prediction}");
        assert_eq!(prediction["class"], predictions[0]["class"], "{name}: the same digit");
    }
    let text = folder.run_plain(&format!("predict --model @model {files}")).succeeds().out;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let (name, top) = lines[0].rsplit_once(": ").unwrap();
    assert_eq!((name, top.matches(" %)").count()), (folder.text(names[0]).as_str(), 3), "{text}");
}

#[test]
fn rows_of_an_idx_file_are_classified_as_in_an_evaluation() {
    let folder = Folder::with_data();
    folder.train(100);
    let rows: String = (0..TEST).map(|row| format!(" --row {row}")).collect();
    let command = format!("predict --model @model @data/t10k-images-idx3-ubyte --json {rows}");
    let plain = folder.run_plain(&command).succeeds();
    let eval = folder.run("eval --model @model --json").succeeds().event("eval");
    let labels = fs::read(folder.path("data/t10k-labels-idx1-ubyte")).unwrap();
    let right = plain.json().iter().zip(&labels[8..]).filter(|(one, label)| one["class"] == **label).count();
    assert_eq!(plain.json().len(), TEST);
    assert_eq!(right as f64 / TEST as f64, eval["accuracy"].as_f64().unwrap());
    assert_eq!(plain.json()[5]["row"], 5);

    let file = fs::read(folder.path("data/t10k-images-idx3-ubyte")).unwrap();
    fs::write(folder.path("images.gz"), gz(&file)).unwrap();
    let zipped = folder.run_plain("predict --model @model @images.gz --row 5").succeeds();
    let same = folder.run_plain("predict --model @model @data/t10k-images-idx3-ubyte --row 5").succeeds();
    let top = |run: &Run| run.out.split("row 5: ").nth(1).unwrap().to_owned();
    assert_eq!(top(&zipped), top(&same));

    let images = "predict --model @model @data/t10k-images-idx3-ubyte";
    folder.run_plain(&format!("{images} --row 40")).fails_in_one_line(2, &["--row 40", "40 images", "0 to 39"]);
    folder.run_plain(&format!("{images} --row -1")).fails_in_one_line(2, &["--row", "from 0"]);
}

#[test]
fn a_broken_file_does_not_stop_the_others() {
    let folder = Folder::with_data();
    folder.train(1);
    write_pictures(&folder);
    fs::write(folder.path("words.png"), "no picture").unwrap();
    let whole = fs::read(folder.path("light.png")).unwrap();
    fs::write(folder.path("half.png"), &whole[..whole.len() / 2]).unwrap();
    let files = "@words.png @light.png @half.png @missing.png @data/t10k-images-idx3-ubyte";
    let run = folder.run_plain(&format!("predict --model @model {files} --row 77 @dark.png"));
    assert_eq!(run.code, 3, "that of the first error: {run:#?}");
    assert_eq!(run.out.lines().count(), 2, "{run:#?}");
    let errors: Vec<_> = run.err.lines().collect();
    assert_eq!(errors.len(), 4, "{run:#?}");
    for (error, name) in errors.iter().zip(["words.png", "half.png", "missing.png", "--row 77"]) {
        assert!(error.starts_with("error: ") && error.contains(name), "{name}: {run:#?}");
    }
    let run = folder.run_plain("predict --model @model @data/t10k-images-idx3-ubyte --row 77 @words.png");
    assert_eq!(run.code, 2, "that of the first error: {run:#?}");
}

#[test]
fn unusable_checkpoints() {
    let folder = Folder::with_data();
    folder.train(1);
    write_pictures(&folder);
    folder.run("eval --model @nowhere").fails_in_one_line(5, &["nowhere"]);
    folder.run("eval --model @data").fails_in_one_line(5, &["data"]);
    folder.run_plain("predict --model @nowhere @light.png").fails_in_one_line(5, &["nowhere"]);
    folder.run_plain("eval --data synthetic").fails_as_misuse(&["--model"]);
    folder.run("eval --model @model --device cuda --progress none").fails_in_one_line(4, &["--device cuda"]);
    folder.run_plain("predict --model @model @light.png --device cuda").fails_in_one_line(4, &["--device cuda"]);
    // Data of another shape than the model's.
    for part in ["train", "t10k"] {
        fs::write(folder.path(&format!("{part}-images-idx3-ubyte")), idx_file(&[4, 3, 5], &[9; 60])).unwrap();
        fs::write(folder.path(&format!("{part}-labels-idx1-ubyte")), idx_file(&[4], &[1; 4])).unwrap();
    }
    let folder_itself = folder.text("");
    let sizes = ["28 steps of 28 inputs", "3 of 5"];
    folder
        .run_plain(&format!("eval --model @model --data {folder_itself} --progress none"))
        .fails_in_one_line(5, &sizes);
    let small =
        folder.run_plain(&format!("train --data {folder_itself} --batch-size 2 --steps 1 --hidden 3 --save @small"));
    small.succeeds();
    folder.run_plain("predict --model @small @light.png").fails_in_one_line(5, &["3 rows of 5", "28 of 28"]);
    folder.run_plain("predict --model @small @t10k-images-idx3-ubyte --row 3").succeeds();
    let model = folder.path("model/model.safetensors");
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..bytes.len() - 9]).unwrap();
    folder.run("eval --model @model").fails_in_one_line(5, &["model"]);
    folder.run_plain("predict --model @model @light.png").fails_in_one_line(5, &["model"]);
}

// ---- data ----

#[test]
fn data_info_tells_what_there_is() {
    let folder = Folder::with_data();
    let text = folder.run("data info").succeeds();
    for part in
        ["images from ", "28 steps of 28 inputs, 10 classes", "220 sequences", "20 sequences", "40 sequences", "cache"]
    {
        assert!(text.out.contains(part), "{part}: {text:#?}");
    }
    assert_eq!(text.err, "");
    let info = folder.run("data info --json").succeeds().event("data");
    assert_eq!(info["splits"]["test"]["class_counts"], Value::from(vec![4; 10]));
    assert_eq!(info["splits"]["train"]["sequences"], 220);
    let synthetic = folder.run_plain("data info --data synthetic --json").succeeds().event("data");
    assert_eq!(synthetic["splits"]["train"]["sequences"], 55_000);
    folder.run_plain("data info --data mnist").fails_in_one_line(3, &["does not exist", "fused-lstm data fetch"]);
    let nothing = folder.run_plain("data");
    assert_eq!((nothing.code, nothing.out.as_str()), (2, ""), "{nothing:#?}");
    assert!(nothing.err.contains("fetch") && nothing.err.contains("info"), "its help: {nothing:#?}");
}

#[test]
fn fetching_from_a_dead_mirror() {
    let folder = Folder::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mirror = format!("http://127.0.0.1:{port}/");
    let run = folder.run_plain(&format!("data fetch --data-dir @there --mirror {mirror}"));
    let run = run.fails(3, &["train-images-idx3-ubyte.gz", &mirror, "--data synthetic"]);
    assert!(run.err.lines().count() > 1, "progress: {run:#?}");
    let left = names(&folder.path("there"));
    assert!(left.iter().all(|name| !name.contains("images")), "{left:?}");
    let run = folder.run_plain(&format!("data fetch --data-dir @there --progress none --mirror {mirror}"));
    run.fails(3, &["train-images-idx3-ubyte.gz"]);
    folder.run_plain("data fetch --data-dir @there --progress none --mirror nonsense").fails(3, &["nonsense"]);
}

#[test]
fn the_environment_names_the_data_folder() {
    let folder = Folder::with_data();
    let data = folder.path("data");
    let with = |folder: &Path, args: &[&str]| {
        Run::new(program().env("FUSED_LSTM_DATA_DIR", folder).args(args).output().unwrap())
    };
    let small = ["--hidden", "2", "--steps", "1", "--batch-size", "9"];
    let run = with(&data, &small).succeeds();
    assert!(run.out.contains(&format!("images from {}", data.display())), "{run:#?}");
    with(&data, &["--data", "mnist", "--steps", "1", "--hidden", "2"]).succeeds();
    with(&folder.path("nowhere"), &small).fails_in_one_line(3, &["nowhere"]);
    // Flags stand above it.
    let info = with(&data, &["data", "info", "--json", "--data", "synthetic"]).succeeds();
    assert_eq!(info.event("data")["data"], "synthetic");
    let flag = with(&folder.path("nowhere"), &["data", "info", "--data-dir", &folder.text("data")]).succeeds();
    assert!(flag.out.contains("220 sequences"), "{flag:#?}");
    let flag = with(&folder.path("nowhere"), &["data", "info", "--data", &folder.text("data")]).succeeds();
    assert!(flag.out.contains("220 sequences"), "{flag:#?}");
    // Set to nothing it is not set.
    with(Path::new(""), &["data", "info", "--data", &folder.text("data")]).succeeds();
    // A checkpoint of synthetic digits is evaluated on them in spite of it; see `synthetic_digits_stand_in`.
}

#[test]
fn synthetic_digits_stand_in() {
    let folder = Folder::new();
    let quick = "--steps 2 --hidden 4 --quiet --save @model";
    let run = folder.run_plain(&format!("train --data auto --offline {quick}")).succeeds();
    assert_eq!(run.err.lines().count(), 1, "one plain line, even if quiet: {run:#?}");
    for part in ["note: no MNIST", "there-is-no-cache", "synthetic digits", "not comparable"] {
        assert!(run.err.contains(part), "{part}: {run:#?}");
    }
    let eval = program().env("FUSED_LSTM_DATA_DIR", "nowhere").args(folder.args("eval --model @model --json")).output();
    let eval = Run::new(eval.unwrap()).succeeds();
    assert_eq!((eval.event("eval")["data"].as_str(), eval.err.as_str()), (Some("synthetic"), ""));
    let out = run.out.lines().last().unwrap();
    let percent = eval.event("eval")["accuracy"].as_f64().unwrap() * 100.0;
    assert!(out.contains(&format!("accuracy {percent:.2} %")) && out.ends_with("(10,000 images)"), "{out}");

    folder.run_plain("train --data mnist --offline").fails_in_one_line(3, &["there-is-no-cache", "--data synthetic"]);
}

// ---- verify ----

const GOLDEN: [&str; 7] = ["b128", "b130_h64", "h64", "odd_small", "t1", "t100", "zero_x"];

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{case}.safetensors"))
}

fn read(path: &Path) -> TensorFile {
    TensorFile::read(path, 1 << 30).unwrap()
}

fn floats_mut<'a>(file: &'a mut TensorFile, name: &str) -> &'a mut [f32] {
    match &mut file.tensors.get_mut(name).unwrap().numbers {
        Numbers::F32(values) => values,
        Numbers::I32(_) => panic!("{name} holds integers"),
    }
}

fn is_expected(name: &str) -> bool {
    ["out.", "grad.", "after1.", "after10."].iter().any(|prefix| name.starts_with(prefix))
}

fn verify(path: &Path, more: &[&str]) -> Run {
    let mut args = vec!["verify", path.to_str().unwrap()];
    args.extend(more);
    run(&args)
}

fn verify_golden(engine: &str) {
    let mut args = vec!["verify".to_owned(), "--engine".into(), engine.into()];
    args.extend(GOLDEN.map(|case| golden(case).display().to_string()));
    let run = run(&args).succeeds();
    assert_eq!(run.err, "");
    for case in GOLDEN {
        let file = golden(case);
        let mut lines = run.out.lines().skip_while(|line| !line.starts_with(file.to_str().unwrap())).skip(1);
        let names: Vec<_> = read(&file).tensors.into_keys().filter(|name| is_expected(name)).collect();
        for name in &names {
            for _ in 0..1 + usize::from(name.starts_with("after")) {
                let words: Vec<_> = lines.next().unwrap().split_whitespace().collect();
                assert_eq!((words[0], words[words.len() - 1]), (name.as_str(), "ok"), "{case}: {words:?}");
                assert!(words[3].parse::<f64>().unwrap() <= words[5].parse::<f64>().unwrap(), "{words:?}");
            }
        }
        let sum = lines.next().unwrap();
        let count = names.len() + names.iter().filter(|name| name.starts_with("after")).count();
        assert_eq!(sum.trim(), format!("{count} of {count} comparisons are within their bounds"));
    }
}

#[test]
fn golden_fixtures_hold_on_the_cpu() {
    verify_golden("cpu");
}

#[test]
fn golden_fixtures_hold_in_the_reference() {
    verify_golden("reference");
}

#[test]
fn a_changed_fixture_fails_and_names_the_tensor() {
    let folder = Folder::new();
    let path = folder.path("changed.safetensors");
    let whole = read(&golden("odd_small"));
    for name in whole.tensors.keys().filter(|name| is_expected(name) && *name != "out.correct") {
        let mut file = whole.clone();
        let values = floats_mut(&mut file, name);
        let largest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        // An update of one step is about lr = 0.001 in size, and one entry counts little among two thousand.
        values[0] += if name.starts_with("after") { 5e-3 } else { largest * 1e-4 };
        fs::write(&path, file.to_bytes()).unwrap();
        let run = verify(&path, &[]).ends_with_error(1, &["changed.safetensors", "outside", name]);
        assert!(run.out.lines().any(|line| line.contains(name) && line.ends_with("OUTSIDE")), "{run:#?}");
    }
    let mut file = whole.clone();
    file.tensors.insert("out.correct".into(), Tensor::i32(&[1], vec![-1]));
    floats_mut(&mut file, "grad.w_in")[3] = f32::NAN;
    fs::write(&path, file.to_bytes()).unwrap();
    let run = verify(&path, &[]).ends_with_error(1, &["out.correct", "grad.w_in"]);
    assert!(run.out.contains("36 of 38 comparisons"), "{run:#?}");
}

#[test]
fn a_dump_holds_everything_and_verifies() {
    let folder = Folder::new();
    let whole = read(&golden("odd_small"));
    let mut bare = whole.clone();
    bare.tensors.retain(|name, _| !is_expected(name));
    fs::write(folder.path("bare.safetensors"), bare.to_bytes()).unwrap();
    for engine in ["cpu", "reference"] {
        let dump = format!("verify @bare.safetensors --engine {engine} --dump @{engine}");
        let run = folder.run_plain(&dump).succeeds();
        assert!(run.out.contains("nothing is expected") && run.out.contains("written to "), "{run:#?}");
        assert_eq!(names(&folder.path(engine)), ["bare.safetensors"]);
        let dumped = read(&folder.path(engine).join("bare.safetensors"));
        assert!(dumped.tensors.keys().eq(whole.tensors.keys()), "all that a fixture can expect");
        for (name, tensor) in &bare.tensors {
            assert_eq!(&dumped.tensors[name], tensor, "{name} is a copy");
        }
        assert_eq!(dumped.metadata, whole.metadata);
        for checker in ["cpu", "reference"] {
            let path = folder.path(engine).join("bare.safetensors");
            verify(&path, &["--engine", checker]).succeeds();
        }
    }
    folder.run_plain("verify @cpu/bare.safetensors --dump @cpu").ends_with_error(2, &["--dump", "another folder"]);
    folder.run_plain("verify @bare.safetensors --dump @bare.safetensors").ends_with_error(1, &["--dump"]);
    assert_eq!(folder.names(), ["bare.safetensors", "cpu", "reference"]);
}

/// A fixture of these sizes with nothing expected.
fn bare_fixture([b, t, i, p, h, k]: [usize; 6]) -> TensorFile {
    let mut state = 1u32;
    let mut tensor = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        Tensor::f32(shape, values.collect())
    };
    let mut tensors = BTreeMap::from([
        ("x", tensor(&[b, t, i])),
        ("param.w_in", tensor(&[i, p])),
        ("param.b_in", tensor(&[p])),
        ("param.lstm_kernel", tensor(&[p + h, 4 * h])),
        ("param.lstm_bias", tensor(&[4 * h])),
        ("param.w_out", tensor(&[h, k])),
        ("param.b_out", tensor(&[k])),
    ]);
    tensors.insert("labels", Tensor::i32(&[b], (0..b).map(|n| (n % k) as i32).collect()));
    let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    TensorFile { tensors, metadata: BTreeMap::new() }
}

#[test]
fn both_engines_agree_at_odd_sizes() {
    let folder = Folder::new();
    for sizes in [[2, 3, 4, 3, 5, 2], [1, 1, 1, 1, 1, 1], [3, 2, 1, 9, 1, 4], [1, 7, 5, 1, 17, 3], [33, 2, 3, 20, 6, 1]]
    {
        fs::write(folder.path("odd.safetensors"), bare_fixture(sizes).to_bytes()).unwrap();
        folder.run_plain("verify @odd.safetensors --engine reference --dump @expected").succeeds();
        let run = folder.run_plain("verify @expected/odd.safetensors --threads 3").succeeds();
        let [b, t, i, p, h, k] = sizes;
        let head = format!("B {b}, T {t}, I {i}, P {p}, H {h}, K {k}; cpu");
        assert!(run.out.contains(&head) && run.out.contains("38 of 38"), "{run:#?}");
    }
}

#[test]
fn broken_fixtures() {
    let folder = Folder::new();
    let path = folder.path("broken.safetensors");
    let good = || bare_fixture([2, 3, 4, 3, 5, 2]);
    let check = |bytes: &[u8], part: &str| {
        fs::write(&path, bytes).unwrap();
        for engine in ["cpu", "reference"] {
            let run = verify(&path, &["--engine", engine, "--dump", &folder.text("dump")]);
            run.ends_with_error(3, &["broken.safetensors: ", part, "; "]);
        }
    };
    let changed = |change: &dyn Fn(&mut TensorFile)| {
        let mut file = good();
        change(&mut file);
        file.to_bytes()
    };
    let replaced = |name: &str, tensor: Tensor| changed(&|file| drop(file.tensors.insert(name.into(), tensor.clone())));
    check(&fs::read(golden("adam_only")).unwrap(), "tensor x is missing");
    check(b"", "not a whole safetensors file");
    check(b"these are words and no tensors", "not a whole safetensors file");
    let whole = good().to_bytes();
    for length in [7, 30, whole.len() / 2, whole.len() - 1] {
        check(&whole[..length], "not a whole safetensors file");
    }
    check(&[&whole[..], b"more"].concat(), "not a whole safetensors file");
    check(&[&u64::MAX.to_le_bytes(), &b"{}"[..]].concat(), "not a whole safetensors file");
    check(&[&(1u64 << 40).to_le_bytes(), &b"{}"[..]].concat(), "not a whole safetensors file");
    for shape in ["[4294967296,4294967296]", "[1000000000000]", "[-1]", "[0.5]"] {
        let header = format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
        check(&[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat(), "not a whole safetensors");
    }
    for name in good().tensors.keys() {
        check(&changed(&|file| drop(file.tensors.remove(name))), &format!("tensor {name} is missing"));
    }
    check(&replaced("labels", Tensor::i32(&[2], vec![0, 2])), "a label is 2, but there are 2 classes");
    check(&replaced("labels", Tensor::i32(&[2], vec![-1, 0])), "a label is -1");
    check(&replaced("labels", Tensor::i32(&[3], vec![0, 0, 0])), "labels is not [2] of I32");
    check(&replaced("labels", Tensor::f32(&[2], vec![0.0, 1.0])), "labels is not [2] of I32");
    check(&replaced("x", Tensor::i32(&[2, 3, 4], vec![0; 24])), "tensor x is");
    check(&replaced("x", Tensor::f32(&[24], vec![0.0; 24])), "tensor x is [24]: not 3 dimensions");
    check(&replaced("x", Tensor::f32(&[0, 3, 4], vec![])), "x has no rows");
    check(&replaced("x", Tensor::f32(&[2, 0, 4], vec![])), "size T = 0");
    check(&replaced("param.w_out", Tensor::f32(&[5, 0], vec![])), "size K = 0");
    check(&replaced("param.lstm_kernel", Tensor::f32(&[8, 22], vec![0.0; 176])), "param.lstm_kernel is [8, 22]");
    check(&replaced("param.b_in", Tensor::f32(&[4], vec![0.0; 4])), "param.b_in is [4]");
    for bad in [f32::NAN, f32::INFINITY] {
        check(&changed(&|file| floats_mut(file, "x")[5] = bad), "NaN");
        check(&changed(&|file| floats_mut(file, "param.w_out")[5] = bad), "NaN");
    }
    check(&changed(&|file| drop(file.metadata.insert("lr".into(), "fast".into()))), "metadata lr");
    check(&changed(&|file| drop(file.metadata.insert("forget_bias".into(), "nan".into()))), "metadata");
    check(&replaced("out.other", Tensor::f32(&[1], vec![0.0])), "out.other is not a tensor that can be computed");
    check(&replaced("grad.b_out", Tensor::f32(&[1], vec![0.0])), "grad.b_out is [1] in the file");
    let header = r#"{"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    check(&[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat(), "is of type F64");
    assert_eq!(folder.names(), ["broken.safetensors"], "nothing half-written");
}

#[test]
fn one_broken_fixture_does_not_stop_the_others() {
    let folder = Folder::new();
    let good = golden("odd_small").display().to_string();
    let run = run(&["verify", &folder.text("missing"), &good]);
    assert!(run.out.contains("38 of 38 comparisons"), "{run:#?}");
    run.ends_with_error(3, &["missing", "there is no such file"]);
    folder.run_plain("verify").fails_as_misuse(&["FIXTURE"]);
    folder.run_plain("verify @x --engine abacus").fails_as_misuse(&["--engine", "reference, cpu"]);
}

// ---- bench ----

const BENCH_KEYS: [&str; 15] = [
    "peer",
    "version",
    "device",
    "threads",
    "dtype",
    "B",
    "T",
    "I",
    "H",
    "model",
    "ms_per_iter_median",
    "p10",
    "p90",
    "samples_per_s",
    "iters",
];

#[test]
fn bench_gives_one_line_with_these_keys() {
    let sizes = [[1, 1, 1, 1], [3, 2, 5, 9], [7, 28, 28, 8]];
    for (what, [b, t, i, h]) in ["step", "infer"].into_iter().flat_map(|what| sizes.map(|sizes| (what, sizes))) {
        let command = format!(
            "bench {what} --device cpu --batch-size {b} --steps-per-sequence {t} --inputs {i} --hidden {h} --threads 2 \
             --seconds 0.05 --json"
        );
        let run = run(&command.split_whitespace().collect::<Vec<_>>()).succeeds();
        assert_eq!((run.out.lines().count(), run.err.as_str()), (1, ""), "{run:#?}");
        let Value::Object(line) = &run.json()[0] else { panic!("{run:#?}") };
        let mut keys: Vec<_> = BENCH_KEYS.to_vec();
        keys.sort_unstable();
        let mut found: Vec<_> = line.keys().collect();
        found.sort_unstable();
        assert_eq!(found, keys);
        let number = |key: &str| line[key].as_f64().unwrap();
        assert_eq!(["B", "T", "I", "H"].map(number), [b, t, i, h].map(f64::from));
        assert_eq!((&line["peer"], &line["dtype"]), (&format!("fused-lstm-{what}").into(), &"fp32".into()));
        assert_eq!((&line["version"], &line["threads"]), (&env!("CARGO_PKG_VERSION").into(), &2.into()));
        let median = number("ms_per_iter_median");
        assert!(number("p10") <= median && median <= number("p90") && number("p10") > 0.0, "{run:#?}");
        assert!(number("iters") >= 5.0, "{run:#?}");
        let speed = f64::from(b) * 1e3 / median;
        assert!((number("samples_per_s") / speed - 1.0).abs() < 0.01, "{run:#?}");
    }
}

#[test]
fn products_in_bf16_are_told_or_refused() {
    let folder = Folder::with_data();
    folder.train(1);
    write_pictures(&folder);
    let small = "train --hidden 6 --batch-size 50 --steps 2";
    let bench = "bench step --hidden 3 --batch-size 2 --seconds 0.05";
    let verify =
        |engine: &str, precision: &str| verify(&golden("odd_small"), &["--engine", engine, "--precision", precision]);
    if Isa::bf16().is_none() {
        println!("skipped: this processor has no AVX512-BF16");
        let parts = ["--precision bf16", "AVX512-BF16", "--precision f32"];
        folder.run(&format!("{small} --precision bf16")).fails_in_one_line(4, &parts);
        folder.run_plain(&format!("{bench} --precision bf16")).fails_in_one_line(4, &parts);
        verify("cpu", "bf16").fails_in_one_line(4, &parts);
    } else {
        let out = folder.run(&format!("{small} --precision bf16")).succeeds().out;
        assert!(out.contains("\ndevice      cpu, AVX-512 BF16, "), "{out}");
        let done = folder.run(&format!("{small} --precision bf16 --json")).succeeds().event("done");
        let plain = folder.run(&format!("{small} --json")).succeeds().event("done");
        assert_ne!(done["test_loss"], plain["test_loss"]);
        let out = folder.run("eval --model @model --precision bf16").succeeds().out;
        assert!(out.contains("device      cpu, AVX-512 BF16, "), "{out}");
        folder.run_plain("predict --model @model @light.png --precision bf16").succeeds();
        let out = folder.run_plain(&format!("{bench} --precision bf16")).succeeds().out;
        assert!(out.starts_with("step: B 2, T 28, I 28, H 3, bf16; cpu, AVX-512 BF16, "), "{out}");
        let line = &folder.run_plain(&format!("{bench} --precision bf16 --json")).succeeds().json()[0];
        assert_eq!(line["dtype"], "bf16");
        let out = verify("cpu", "bf16").succeeds().out;
        assert!(out.contains("AVX-512 BF16") && out.contains("bound   4e-2  ok"), "{out}");
    }
    let out = verify("reference", "bf16").succeeds().out;
    assert!(out.contains("products of bf16"), "{out}");
    let out = verify("reference", "tf32").succeeds().out;
    assert!(out.contains("recurrent products of tf32") && out.contains("bound   6e-3  ok"), "{out}");
    for (run, name) in [
        (folder.run(&format!("{small} --precision tf32")), "GPUs"),
        (folder.run("eval --model @model --precision tf32"), "GPUs"),
        (folder.run_plain("predict --model @model @light.png --precision tf32"), "GPUs"),
        (folder.run_plain(&format!("{bench} --precision tf32")), "GPUs"),
        (folder.run("sweep --steps 1 --precision tf32"), "GPUs"),
        (verify("cpu", "tf32"), "GPUs"),
    ] {
        run.fails_in_one_line(4, &["--precision tf32", name, "--precision f32"]);
    }
    // Fast activations are part of one thing, and nothing is left out in silence.
    for flags in ["--device cpu", "--precision f32", "--device cpu --precision bf16", "--device cuda"] {
        let parts = ["--activations fast", "only the GPU's kernels in bf16", "leave it out"];
        folder.run(&format!("{small} --activations fast {flags}")).fails_in_one_line(2, &parts);
    }
    folder.run_plain(&format!("{bench} --precision f16")).fails_as_misuse(&["--precision", "auto, f32, tf32, bf16"]);
}

#[test]
fn bench_in_words_and_its_bad_input() {
    let bench = |flags: &str| run(&format!("bench {flags}").split_whitespace().collect::<Vec<_>>());
    let out = bench("step --hidden 3 --batch-size 2 --seconds 0.05").succeeds().out;
    assert!(out.starts_with("step: B 2, T 28, I 28, H 3, f32; cpu, ") && out.contains(" ms an iteration"), "{out}");
    let larger = "infer --hidden 3 --batch-size 2 --seconds 0.05 --layers 2 --bidirectional --dropout 0.5 --pool max";
    let out = bench(larger).succeeds().out;
    let told =
        "infer: B 2, T 28, I 28, H 3, 2 layers, two directions, the maximum over the steps, dropout 0.5, f32; cpu, ";
    assert!(out.starts_with(told), "{out}");
    let line = &bench(&format!("{larger} --input-layer none --json")).succeeds().json()[0];
    assert!(line["model"].as_str().unwrap().contains("no input layer"), "{line}");
    bench("step --dropout 0.5").fails_in_one_line(2, &["--dropout 0.5", "--layers 2"]);
    for seconds in ["nan", "inf", "-1", "0", "1e300"] {
        bench(&format!("step --seconds {seconds}")).fails_in_one_line(2, &["--seconds", "between"]);
    }
    bench("step --seconds soon").fails_in_one_line(2, &["--seconds"]);
    bench("step --hidden 1000000").fails_in_one_line(2, &["--hidden 1000000", "parameters"]);
    let many = "step --batch-size 1000000 --steps-per-sequence 1000000 --inputs 1000000 --hidden 1";
    bench(many).fails_in_one_line(2, &["--batch-size 1000000", "memory"]);
    bench("step --device cuda").fails_in_one_line(4, &["--device cuda"]);
    bench("walk").fails_as_misuse(&["step, infer"]);
    for flag in ["--batch-size", "--hidden", "--inputs", "--steps-per-sequence", "--threads"] {
        bench(&format!("infer {flag} 0")).fails_in_one_line(2, &[flag, "from 1"]);
        bench(&format!("infer {flag} -3")).fails_in_one_line(2, &[flag, "from 1"]);
    }
}

// ---- kernels ----

#[test]
fn an_architecture_that_is_none_is_refused() {
    for bad in ["90", "sm_", "sm_9", "sm_9x", "compute_90", "sm_90aa", "sm_90 --x", ""] {
        run(&["kernels", "--arch", bad]).fails_in_one_line(2, &["--arch", "such as sm_90"]);
    }
}

// ---- help ----

#[test]
fn help_of_every_command() {
    let commands =
        "|train|eval|predict|report|data|data fetch|data info|verify|bench|profile|kernels|doctor|completions|man"
            .split('|');
    for command in commands {
        for flag in ["-h", "--help"] {
            let run = run(&command.split_whitespace().chain([flag]).collect::<Vec<_>>()).succeeds();
            assert!(run.out.contains("Usage: fused-lstm") && run.err.is_empty(), "{run:#?}");
            let long: Vec<_> = run.out.lines().filter(|line| line.chars().count() > 100).collect();
            assert!(long.is_empty(), "{command} {flag}: {long:#?}");
        }
    }
    let help = run(&["--help"]).out;
    for flag in [
        "--data ",
        "--data-dir",
        "--offline",
        "--steps",
        "--epochs",
        "--batch-size",
        "--hidden",
        "--lr",
        "--forget-bias",
        "--init",
        "--grad-clip",
        "--seed",
        "--device",
        "--threads",
        "--log-every",
        "--eval-every",
        "--save ",
        "--save-every",
        "--run ",
        "--resume",
        "--json",
        "--quiet",
        "--progress",
        "FUSED_LSTM_DATA_DIR",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    for code in ["0", "1", "2", "3", "4", "5", "6", "130"] {
        let documented = help.lines().any(|line| line.trim_start().starts_with(&format!("{code}  ")));
        assert!(documented, "exit code {code}: {help}");
    }
    let version = run(&["--version"]).succeeds().out;
    assert_eq!(version, format!("fused-lstm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_for_every_shell() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef fused-lstm"), ("fish", "complete -c fused-lstm")] {
        let run = run(&["completions", shell]).succeeds();
        for part in [mark, "batch-size", "verify", "tutorial"] {
            assert!(run.out.contains(part), "{shell}: {part}");
        }
        assert_eq!(run.err, "");
    }
    run(&["completions", "abacus"]).fails_as_misuse(&["bash", "zsh", "fish"]);
    run(&["completions"]).fails_as_misuse(&["SHELL"]);
}

#[test]
fn man_pages() {
    let folder = Folder::new();
    let page = run(&["man"]).succeeds().out;
    assert!(page.contains(".TH fused-lstm 1") && page.contains("forget\\-bias") && page.contains("interrupted"));
    let run = folder.run_plain("man --dir @pages/deep").succeeds();
    assert!(run.out.contains("pages"), "{run:#?}");
    let pages = names(&folder.path("pages/deep"));
    for command in ["", "-train", "-eval", "-predict", "-data", "-data-fetch", "-data-info", "-verify", "-bench"] {
        assert!(pages.contains(&format!("fused-lstm{command}.1")), "{command}: {pages:?}");
    }
    fs::write(folder.path("file"), "").unwrap();
    folder.run_plain("man --dir @file").fails_in_one_line(1, &["file", "--dir"]);
}

// ---- bad input ----

#[test]
fn values_that_cannot_be_used() {
    let folder = Folder::with_data();
    let whole =
        ["--batch-size", "--hidden", "--threads", "--steps", "--epochs", "--log-every", "--eval-every", "--save-every"];
    for flag in whole {
        for bad in ["0", "-1", "x", "1.5", "99999999999999999999"] {
            let parts = [flag, bad, "give a whole number from 1 to"];
            folder.run(&format!("train {flag} {bad}")).fails_in_one_line(2, &parts);
        }
    }
    folder.run("train --seed -1").fails_in_one_line(2, &["--seed", "from 0"]);
    for flag in ["--lr", "--grad-clip"] {
        for bad in ["nan", "0", "-1", "inf"] {
            folder.run(&format!("train {flag} {bad}")).fails_in_one_line(2, &[flag, "positive"]);
        }
        folder.run(&format!("train {flag} fast")).fails_in_one_line(2, &[flag, "a number"]);
    }
    folder.run("train --forget-bias nan").fails_in_one_line(2, &["--forget-bias"]);
    folder.run("train --hidden 1000000").fails_in_one_line(2, &["--hidden 1000000", "parameters", "smaller"]);
    folder.run("train --batch-size 221").fails_in_one_line(2, &["--batch-size 221", "only 220"]);
    folder.run("train --device cuda").fails_in_one_line(4, &["--device cuda", "--device cpu"]);
    folder.run("eval --device cuda --model @model").ends_with_error(5, &["model"]);
    folder.run("train --device abacus").fails_as_misuse(&["--device", "auto, cpu, cuda"]);
    folder.run("train --init zeros").fails_as_misuse(&["--init", "tutorial, xavier"]);
    folder.run("train --save-every 3").fails_in_one_line(2, &["--save-every", "--save"]);
    assert_eq!(folder.names(), ["data"], "nothing half-written");
}

#[test]
fn words_that_mean_nothing() {
    let folder = Folder::with_data();
    folder.run("--frob").fails_as_misuse(&["--frob"]);
    folder.run("train --frob").fails_as_misuse(&["--frob"]);
    folder.run_plain("frob").fails_as_misuse(&["frob"]);
    folder.run_plain("train frob").fails_as_misuse(&["frob"]);
    folder.run_plain("predict --model @m").fails_as_misuse(&["FILE"]);
    folder.run_plain("train --data wrong-word").fails_in_one_line(3, &["wrong-word", "auto, mnist, synthetic"]);
    folder.run("train --data synthetic").fails_in_one_line(2, &["--data-dir", "--data"]);
    folder.run("train --data @data").fails_in_one_line(2, &["--data-dir", "--data"]);
    folder.run_plain("train --data @nowhere").fails_in_one_line(3, &["nowhere"]);
    folder.run_plain("train --data-dir @nowhere").fails_in_one_line(3, &["nowhere"]);
    folder.run_plain("train --data-dir @data/t10k-labels-idx1-ubyte").fails_in_one_line(3, &["not a folder"]);
    let empty = run(&["train", "--data", ""]);
    empty.fails_in_one_line(3, &["--data", "auto, mnist, synthetic"]);
}

#[test]
fn folders_that_cannot_be_saved_to() {
    let folder = Folder::with_data();
    let small = "train --hidden 2 --batch-size 9 --steps 1";
    folder.run(&format!("{small} --save @data")).fails_in_one_line(2, &["--save", "data", "other files"]);
    fs::write(folder.path("file"), "").unwrap();
    for place in ["file", "file/model"] {
        let run = folder.run(&format!("{small} --save @{place}"));
        // A wrong place, or one that the system refuses.
        let code = run.code.clamp(1, 2);
        run.fails_in_one_line(code, &["file", "--save"]);
    }
    // A wrong flag leaves no trace of the folder.
    folder.run(&format!("{small} --lr nan --save @model")).fails_in_one_line(2, &["--lr"]);
    folder.run_plain(&format!("{small} --data-dir @nowhere --save @model")).fails_in_one_line(3, &["nowhere"]);
    assert_eq!(folder.names(), ["data", "file"], "nothing half-written");
}

#[test]
fn data_that_is_broken() {
    let folder = Folder::with_data();
    let images = "train-images-idx3-ubyte";
    let labels = "train-labels-idx1-ubyte";
    let test_images = "t10k-images-idx3-ubyte";
    let check = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, parts: &[&str]| {
        let path = folder.path("data").join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, change(good.clone())).unwrap();
        let run = folder.run("train --hidden 2 --steps 1 --save @model").fails_in_one_line(3, parts);
        assert!(run.err.contains(name), "{run:#?}");
        fs::write(&path, good).unwrap();
    };
    for name in [images, labels, test_images, "t10k-labels-idx1-ubyte"] {
        check(name, &|_| Vec::new(), &[]);
        check(name, &|good| good[..6].to_vec(), &[]);
        check(name, &|good| good[..good.len() - 1].to_vec(), &[]);
        check(name, &|good| [good, vec![7]].concat(), &[]);
        check(name, &|good| [vec![1], good[1..].to_vec()].concat(), &["magic"]);
        check(name, &|good| [vec![0, 0, 13], good[3..].to_vec()].concat(), &[]);
        check(name, &|good| gz(&good)[..60].to_vec(), &[]);
        check(name, &|_| b"words".to_vec(), &[]);
    }
    check(labels, &|good| [good[..12].to_vec(), vec![10], good[13..].to_vec()].concat(), &["label", "10"]);
    check(labels, &|good| idx_file(&[TRAIN - 1], &good[8..8 + TRAIN - 1]), &["239", "240"]);
    check(images, &|_| idx_file(&[TRAIN - 1, 28, 28], &vec![0; 239 * 784]), &["239", "240"]);
    check(test_images, &|_| idx_file(&[TEST, 27, 28], &vec![0; TEST * 27 * 28]), &["27 x 28", "28 x 28"]);
    check(images, &|_| idx_file(&[1 << 31, 1 << 31, 1 << 31], &[]), &[]);
    check(images, &|_| idx_file(&[0, 28, 28], &[]), &[]);
    check(images, &|_| idx_file(&[TRAIN, 28, 0], &[]), &[]);
    fs::remove_file(folder.path("data").join(test_images)).unwrap();
    folder.run("train").fails_in_one_line(3, &["data", test_images]);
    fs::remove_dir_all(folder.path("data")).unwrap();
    fs::create_dir(folder.path("data")).unwrap();
    folder.run("train").fails_in_one_line(3, &["data", images]);
    folder.run("data info").fails_in_one_line(3, &["data", images]);
    assert_eq!(folder.names(), ["data"], "nothing half-written");
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
