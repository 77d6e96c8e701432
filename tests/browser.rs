//! A run's report in a real browser: its numbers as they are on the screen, at the width of a phone and of a desk, light and
//! dark.
//!
//! The browser is Chromium without a window (Debian's package `chromium`). Where there is none the test says that it is
//! skipped; where `REQUIRE_BROWSER` is set it fails.

mod support;

use image::GenericImageView;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::Folder;

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Widths of a phone and of a desk's screen.
const WIDTHS: [u32; 2] = [380, 1280];

/// The browser; none where there is none and none is required.
fn browser() -> Option<PathBuf> {
    let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let found =
        NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("REQUIRE_BROWSER").is_none(),
            "REQUIRE_BROWSER is set, but there is none of {NAMES:?}"
        );
        println!("skipped: there is no browser, none of {NAMES:?}");
    }
    found
}

/// Runs the browser on a page, with settings of its own in `folder`, and gives what it writes to standard output.
fn open(browser: &Path, folder: &Folder, page: &Path, width: u32, flags: &[String]) -> String {
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    command.arg(format!("--user-data-dir={}", folder.text("profile")));
    command.arg(format!("--window-size={width},3000")).args(flags).arg(format!("file://{}", page.display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text of every cell of the table with this `id`, row by row, without the head.
fn cells(dom: &str, id: &str) -> Vec<Vec<String>> {
    let (_, table) = dom.split_once(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no table {id} in {dom}"));
    let (_, body) = table.split_once("<tbody>").unwrap();
    let (body, _) = body.split_once("</tbody>").unwrap();
    let text = |cell: &str| {
        let inner = cell.split_once('>').unwrap().1;
        inner.split("</t").next().unwrap().to_owned()
    };
    let row = |row: &str| row.split("<t").skip(1).map(text).collect();
    body.split("<tr").skip(1).map(|line| row(line.split_once('>').unwrap().1)).collect()
}

/// A page with `page` in a frame of this width; its title becomes how wide what is in the frame is, and how wide the frame is.
/// (The browser's own window cannot be as narrow as a phone's. The report itself runs no program.)
fn framed(page: &str, width: u32) -> String {
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let measure = "const { contentDocument, contentWindow } = document.querySelector('iframe');\
                   document.title = `${contentDocument.documentElement.scrollWidth} of ${contentWindow.innerWidth}`";
    format!(
        "<!DOCTYPE html><title></title><iframe width={width} height=3000 style=border:0 onload=\"measure()\" srcdoc=\"{page}\">\
         </iframe><script>function measure() {{ {measure} }}</script>"
    )
}

fn percent(share: &Value) -> String {
    format!("{:.2} %", share.as_f64().unwrap() * 100.0)
}

#[test]
fn the_report_shows_the_numbers_of_the_run() {
    let Some(browser) = browser() else { return };
    let folder = Folder::with_data();
    let flags = "train --hidden 12 --batch-size 40 --lr 0.01 --steps 40 --log-every 4 --eval-every 10 --run @run";
    folder.run(flags).succeeds();
    let page = folder.path("run/report.html");
    let dom = open(&browser, &folder, &page, WIDTHS[1], &["--dump-dom".into()]);

    let text = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown = cells(&dom, "numbers");
    let loss = |row: &Value| format!("{:.4}", row["loss"].as_f64().unwrap());
    let mut compared = 0;
    for row in &rows {
        let step = row["step"].to_string();
        let line = || shown.iter().find(|line| line[0] == step).unwrap_or_else(|| panic!("{row}"));
        match row["event"].as_str().unwrap() {
            "step" => assert_eq!(line()[1..3], [loss(row), percent(&row["accuracy"])]),
            "eval" => assert_eq!(line()[3..5], [loss(row), percent(&row["accuracy"])]),
            _ => continue,
        }
        compared += 1;
    }
    assert_eq!((compared, shown.len()), (14, 12), "10 reports and 4 evaluations, 2 of them after the same step");
    let done = rows.last().unwrap();
    for number in [percent(&done["test"]["accuracy"]), format!("{:.4}", done["test"]["loss"].as_f64().unwrap())] {
        assert!(dom.contains(&format!("<b>{number}</b>")), "{number}");
    }

    let evaluation: Value = serde_json::from_slice(&fs::read(folder.path("run/evaluation.json")).unwrap()).unwrap();
    let counts: Vec<Vec<u64>> = serde_json::from_value(evaluation["confusion"].clone()).unwrap();
    for (k, line) in cells(&dom, "classes").iter().enumerate() {
        let (of_class, taken) = (counts[k].iter().sum::<u64>(), counts.iter().map(|row| row[k]).sum::<u64>());
        let share =
            |of: u64| if of == 0 { "–".into() } else { format!("{:.2} %", 100.0 * counts[k][k] as f64 / of as f64) };
        assert_eq!(*line, [k.to_string(), share(taken), share(of_class), of_class.to_string()]);
    }
    let matrix: Vec<Vec<String>> = cells(&dom, "confusion");
    let expected =
        counts.iter().enumerate().map(|(k, row)| [k as u64].iter().chain(row).map(u64::to_string).collect::<Vec<_>>());
    assert!(matrix.iter().cloned().eq(expected), "{matrix:?}");
}

#[test]
fn the_report_fits_every_screen_light_and_dark() {
    let Some(browser) = browser() else { return };
    let folder = Folder::with_data();
    for (name, rate) in [("run", "0.01"), ("other", "0.001")] {
        let train = "train --hidden 12 --batch-size 40 --steps 40 --log-every 4 --eval-every 10";
        folder.run(&format!("{train} --lr {rate} --run @{name}")).succeeds();
    }
    let waves = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/own_data/waves.csv");
    let sizes = "--inputs 2 --split 60/20/20 --hidden 4 --batch-size 12 --steps 4";
    folder.run_plain(&format!("train --data {waves} {sizes} --run @waves")).succeeds();
    folder.run_plain("report @run @other @waves --out @comparison.html").succeeds();

    for page in ["run/report.html", "waves/report.html", "comparison.html"] {
        for width in WIDTHS {
            let text = fs::read_to_string(folder.path(page)).unwrap();
            fs::write(folder.path("frame.html"), framed(&text, width)).unwrap();
            let dom = open(&browser, &folder, &folder.path("frame.html"), WIDTHS[1], &["--dump-dom".into()]);
            let (_, title) = dom.split_once("<title>").unwrap();
            let (title, _) = title.split_once("</title>").unwrap();
            assert_eq!(title, format!("{width} of {width}"), "{page} scrolls sideways");
            let [dark, light] = [0, 1].map(|theme| {
                let picture = folder.path("picture.png");
                let flags = [
                    format!("--blink-settings=preferredColorScheme={theme}"),
                    format!("--screenshot={}", picture.display()),
                ];
                open(&browser, &folder, &folder.path(page), width, &flags);
                let picture = image::open(&picture).unwrap();
                assert_eq!(picture.width(), width);
                // The ground at the edge, and how much else there is.
                let ground = picture.get_pixel(2, 2);
                let drawn = picture.pixels().filter(|(.., pixel)| *pixel != ground).count();
                assert!(drawn > 20_000, "{page} at {width}: {drawn} pixels are drawn");
                ground.0[0]
            });
            assert!(dark < 60 && light > 200, "{page}: the ground is {dark} and {light}");
        }
    }
}
