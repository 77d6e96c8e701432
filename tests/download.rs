//! The verified download, against a server in this process that behaves well or badly.

use std::cell::RefCell;
use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use fused_lstm::Error;
use fused_lstm::data::download::{Fetcher, RemoteFile, cache_dir, mnist_dir};
use fused_lstm::progress::{Progress, Silent};
use sha2::{Digest, Sha256};

/// Time-outs of the tests that wait for them. The others have long ones, so that a busy machine makes no failure.
const STALL: Duration = Duration::from_millis(500);
const TOTAL: Duration = Duration::from_millis(1500);

/// Most that the endless answer sends; far more than sockets buffer.
const ENDLESS: usize = 256 << 20;

/// How the server answers a request.
#[derive(Clone, Debug)]
enum Answer {
    /// These bytes.
    Good(Vec<u8>),
    /// A status without content.
    Status(&'static str),
    /// To another address.
    Redirect(String),
    /// A length, some of the bytes, and the end of the connection.
    Broken(Vec<u8>),
    /// No length, some of the bytes, and the end of the connection.
    Short(Vec<u8>),
    /// No length, and bytes without an end.
    Endless,
    /// A length, some of the bytes, and then silence.
    Stall(Vec<u8>),
    /// Silence.
    Mute,
    /// A length, and a byte now and then for some seconds.
    Drip(usize),
}

/// A server on a port of its own; every file gets the same answer.
struct Server {
    address: String,
    /// First lines of the requests.
    requests: Arc<Mutex<Vec<String>>>,
    /// Bytes of content sent.
    sent: Arc<Mutex<usize>>,
}

impl Server {
    fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: format!("http://{}/files/", listener.local_addr().unwrap()),
            requests: Arc::default(),
            sent: Arc::default(),
        };
        let (requests, sent) = (server.requests.clone(), server.sent.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, requests, sent) = (answer.clone(), requests.clone(), sent.clone());
                thread::spawn(move || serve(stream, &answer, &requests, &sent));
            }
        });
        server
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn serve(mut stream: TcpStream, answer: &Answer, requests: &Mutex<Vec<String>>, sent: &Mutex<usize>) {
    let mut request = read_request(&mut stream);
    if request.starts_with("CONNECT") {
        requests.lock().unwrap().push(request);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        request = read_request(&mut stream);
    }
    requests.lock().unwrap().push(request);
    let mut send = |bytes: &[u8]| {
        let done = stream.write_all(bytes).is_ok();
        *sent.lock().unwrap() += bytes.len();
        done
    };
    let head = |lines: String| format!("HTTP/1.1 {lines}\r\nConnection: close\r\n\r\n").into_bytes();
    let with_length = |length: usize| head(format!("200 OK\r\nContent-Length: {length}"));
    match answer {
        Answer::Good(bytes) => drop(send(&with_length(bytes.len())) && send(bytes)),
        Answer::Status(status) => drop(send(&head(format!("{status}\r\nContent-Length: 0")))),
        Answer::Redirect(to) => drop(send(&head(format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0")))),
        Answer::Broken(bytes) => drop(send(&with_length(bytes.len())) && send(&bytes[..bytes.len() / 2])),
        Answer::Short(bytes) => drop(send(&head("200 OK".to_owned())) && send(&bytes[..bytes.len() / 2])),
        Answer::Endless => {
            send(&head("200 OK".to_owned()));
            for _ in 0..ENDLESS >> 16 {
                if !send(&[0; 1 << 16]) {
                    return;
                }
            }
        }
        Answer::Stall(bytes) => {
            send(&with_length(bytes.len()));
            send(&bytes[..bytes.len() / 2]);
            wait_for_the_end(&mut stream);
        }
        Answer::Mute => wait_for_the_end(&mut stream),
        Answer::Drip(length) => {
            send(&with_length(*length));
            let started = Instant::now();
            while started.elapsed() < 4 * TOTAL && send(b"x") {
                thread::sleep(STALL / 6);
            }
        }
    }
}

/// The first line of a request, once its head has arrived.
fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()
}

fn wait_for_the_end(stream: &mut TcpStream) {
    while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

/// What was heard from the work.
#[derive(Default)]
struct Heard(RefCell<Vec<String>>);

impl Progress for Heard {
    fn begin(&self, what: &str, total: u64) {
        self.0.borrow_mut().push(format!("begin {what} {total}"));
    }
    fn update(&self, done: u64) {
        self.0.borrow_mut().push(format!("update {done}"));
    }
    fn end(&self) {
        self.0.borrow_mut().push("end".to_owned());
    }
    fn note(&self, line: &str) {
        self.0.borrow_mut().push(format!("note {line}"));
    }
}

impl Heard {
    fn notes(&self) -> Vec<String> {
        self.0.borrow().iter().filter_map(|line| line.strip_prefix("note ")).map(str::to_owned).collect()
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Content that does not shrink much, and its gz.
fn sample() -> (Vec<u8>, Vec<u8>) {
    let content = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>();
    let packed = gz(&content);
    (content, packed)
}

fn described(name: &str, content: &[u8], packed: &[u8]) -> RemoteFile {
    RemoteFile {
        name: name.to_owned(),
        gz_bytes: packed.len() as u64,
        gz_sha256: sha256(packed),
        bytes: content.len() as u64,
        sha256: sha256(content),
    }
}

/// A fetcher of the sample under the name `a.gz`.
fn fetcher(mirrors: &[&str]) -> Fetcher {
    let (content, packed) = sample();
    Fetcher {
        mirrors: mirrors.iter().map(|&mirror| mirror.to_owned()).collect(),
        files: vec![described("a.gz", &content, &packed)],
        connect_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(10),
        total_timeout: Duration::from_secs(30),
        use_proxy: false,
    }
}

fn impatient() -> Fetcher {
    Fetcher { stall_timeout: STALL, total_timeout: TOTAL, ..fetcher(&[]) }
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    names.sort();
    names
}

/// Fetches the sample from a mirror that answers so. It must fail with these words and leave nothing behind; then, with
/// a good mirror after the bad one, it must succeed and note the failure.
fn assert_fails_and_next_mirror_helps(fetcher: &Fetcher, bad: &str, words: &str) {
    let (_, packed) = sample();
    let dir = tempfile::tempdir().unwrap();
    let heard = Heard::default();
    let only_bad = Fetcher { mirrors: vec![bad.to_owned()], ..fetcher.clone() };
    let error = only_bad.fetch(dir.path(), &heard).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error:?}");
    let line = error.to_string();
    assert!(line.starts_with(&format!("{}: ", dir.path().join("a.gz").display())), "{line}");
    assert!(line.contains(&format!("{bad}: ")) && line.contains(words), "{words:?} is not in: {line}");
    assert!(
        line.contains("; check the network, or fetch the file by hand and name its folder with --data-dir"),
        "{line}"
    );
    assert!(line.contains("--data synthetic") && !line.contains('\n'), "{line}");
    assert_eq!(names(dir.path()), [""; 0], "{words}");
    assert_eq!(heard.0.borrow().last().unwrap(), "end", "the progress does not end after: {words}");

    let good = Server::start(Answer::Good(packed.clone()));
    let heard = Heard::default();
    let both = Fetcher { mirrors: vec![bad.to_owned(), good.address.clone()], ..fetcher.clone() };
    both.fetch(dir.path(), &heard).unwrap();
    let notes = heard.notes();
    assert!(notes.len() == 1 && notes[0].contains(bad) && notes[0].contains(words), "{notes:?}");
    assert_eq!(names(dir.path()), ["a.gz"]);
    assert!(fs::read(dir.path().join("a.gz")).unwrap() == packed);
}

fn assert_answer_fails(answer: Answer, words: &str) {
    let server = Server::start(answer);
    assert_fails_and_next_mirror_helps(&fetcher(&[]), &server.address, words);
}

#[test]
fn files_are_fetched_into_a_new_folder_and_stay() {
    let (content, packed) = sample();
    let server = Server::start(Answer::Good(packed.clone()));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cache/mnist");
    let mut fetcher = fetcher(&[&server.address]);
    fetcher.files.push(described("b.gz", &content, &packed));
    let heard = Heard::default();
    fetcher.fetch(&folder, &heard).unwrap();
    assert_eq!(names(&folder), ["a.gz", "b.gz"]);
    for name in ["a.gz", "b.gz"] {
        assert!(fs::read(folder.join(name)).unwrap() == packed);
    }
    assert_eq!(*server.requests.lock().unwrap(), ["GET /files/a.gz HTTP/1.1", "GET /files/b.gz HTTP/1.1"]);
    let heard = heard.0.into_inner();
    let edges = heard.iter().filter(|line| !line.starts_with("update")).collect::<Vec<_>>();
    let size = packed.len();
    assert_eq!(edges, [&format!("begin fetching a.gz {size}"), "end", &format!("begin fetching b.gz {size}"), "end"]);
    assert_eq!(heard.iter().filter(|line| **line == format!("update {size}")).count(), 2);

    // Again: everything is there, nobody is asked, nothing is said.
    let heard = Heard::default();
    fetcher.fetch(&folder, &heard).unwrap();
    assert_eq!(server.requests(), 2);
    assert!(heard.0.into_inner().is_empty());
}

#[test]
fn present_files_need_neither_network_nor_a_writable_folder() {
    let (_, packed) = sample();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.gz"), &packed).unwrap();
    let left_over = dir.path().join(".a.gz.1-1.part");
    fs::write(&left_over, b"x").unwrap();
    fetcher(&[&nobody()]).fetch(dir.path(), &Silent).unwrap();
    assert!(left_over.exists(), "a folder in which nothing is missing must not be written");
}

#[test]
fn a_present_file_that_is_not_good_is_fetched_again() {
    let (_, packed) = sample();
    let server = Server::start(Answer::Good(packed.clone()));
    let mut flipped = packed.clone();
    flipped[1000] ^= 1;
    for bad in [Vec::new(), packed[..packed.len() - 1].to_vec(), [&packed[..], b"x"].concat(), flipped] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gz");
        fs::write(&path, bad).unwrap();
        let heard = Heard::default();
        fetcher(&[&server.address]).fetch(dir.path(), &heard).unwrap();
        assert!(fs::read(&path).unwrap() == packed);
        assert!(heard.notes().len() == 1 && heard.notes()[0].contains("fetching it again"), "{:?}", heard.notes());
        assert_eq!(names(dir.path()), ["a.gz"]);
    }
}

#[test]
fn a_failed_download_leaves_a_present_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gz");
    fs::write(&path, b"old").unwrap();
    fetcher(&[&nobody()]).fetch(dir.path(), &Silent).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["a.gz"]);
}

#[test]
fn a_status_that_is_no_success_is_a_failure() {
    assert_answer_fails(Answer::Status("404 Not Found"), "HTTP status 404");
    assert_answer_fails(Answer::Status("503 Service Unavailable"), "HTTP status 503");
}

#[test]
fn a_connection_that_ends_early_is_a_failure() {
    let (_, packed) = sample();
    assert_answer_fails(Answer::Broken(packed.clone()), "connection closed before the end");
    let words = format!("sends {} bytes instead of {}", packed.len() / 2, packed.len());
    assert_answer_fails(Answer::Short(packed), &words);
}

#[test]
fn a_wrong_length_is_a_failure() {
    let (_, mut packed) = sample();
    let size = packed.len();
    packed.push(0);
    assert_answer_fails(Answer::Good(packed), &format!("has {} bytes instead of {size}", size + 1));
    assert_answer_fails(Answer::Good(b"<html>Sign in".to_vec()), &format!("has 13 bytes instead of {size}"));
}

#[test]
fn a_body_without_end_is_read_only_as_far_as_expected() {
    let server = Server::start(Answer::Endless);
    let words = format!("sends more than {} bytes", sample().1.len());
    assert_fails_and_next_mirror_helps(&fetcher(&[]), &server.address, &words);
    let sent = *server.sent.lock().unwrap();
    assert!(sent < ENDLESS / 4, "{sent} bytes were sent");
}

#[test]
fn a_wrong_checksum_is_a_failure() {
    let (_, mut packed) = sample();
    packed[1000] ^= 1;
    let words = format!("wrong checksum (SHA-256 {})", sha256(&packed));
    assert_answer_fails(Answer::Good(packed), &words);
}

#[test]
fn silence_is_a_failure_after_the_stall_time_out() {
    for answer in [Answer::Stall(sample().1), Answer::Mute] {
        let server = Server::start(answer);
        let started = Instant::now();
        assert_fails_and_next_mirror_helps(&impatient(), &server.address, "no bytes for 500ms");
        // The mirror was asked twice.
        let waited = started.elapsed();
        assert!(waited >= 2 * STALL && waited < 2 * TOTAL, "{waited:?}");
    }
}

#[test]
fn a_body_that_drips_is_a_failure_after_the_total_time_out() {
    let server = Server::start(Answer::Drip(sample().1.len()));
    assert_fails_and_next_mirror_helps(&impatient(), &server.address, "not done within 1.5s");
}

#[test]
fn a_mirror_that_does_not_listen_is_a_failure() {
    assert_fails_and_next_mirror_helps(&fetcher(&[]), &nobody(), "connection refused");
}

#[test]
fn a_mirror_that_does_not_answer_the_tls_handshake_is_a_failure_after_the_connect_time_out() {
    let server = Server::start(Answer::Mute);
    let encrypted = server.address.replace("http://", "https://");
    let fetcher = Fetcher { connect_timeout: STALL, ..fetcher(&[]) };
    assert_fails_and_next_mirror_helps(&fetcher, &encrypted, "no connection within 500ms");
}

#[test]
fn a_mirror_that_is_no_address_is_a_failure() {
    assert_fails_and_next_mirror_helps(&fetcher(&[]), "not an address", "");
}

#[test]
fn without_a_mirror_the_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let line = fetcher(&[]).fetch(dir.path(), &Silent).unwrap_err().to_string();
    assert!(line.contains("a.gz: is missing, and there is no mirror"), "{line}");
}

#[test]
fn every_mirror_s_failure_is_in_the_error() {
    let (first, second) = (Server::start(Answer::Status("404 Not Found")), nobody());
    let dir = tempfile::tempdir().unwrap();
    let error = fetcher(&[&first.address, &second]).fetch(dir.path(), &Silent).unwrap_err();
    let words = format!("({}: HTTP status 404, {second}: connection refused)", first.address);
    assert!(error.to_string().contains(&words), "{error}");
}

#[test]
fn a_file_fetched_before_a_failure_stays() {
    let (content, packed) = sample();
    let server = Server::start(Answer::Good(packed.clone()));
    let mut fetcher = fetcher(&[&server.address]);
    fetcher.files.push(described("b.gz", &content[1..], &gz(&content[1..])));
    let dir = tempfile::tempdir().unwrap();
    let error = fetcher.fetch(dir.path(), &Silent).unwrap_err();
    assert!(error.to_string().contains("b.gz: cannot be fetched"), "{error}");
    assert_eq!(names(dir.path()), ["a.gz"]);
}

#[test]
fn a_redirection_is_followed() {
    let (_, packed) = sample();
    let good = Server::start(Answer::Good(packed));
    let first = Server::start(Answer::Redirect(format!("{}other.gz", good.address)));
    let dir = tempfile::tempdir().unwrap();
    fetcher(&[&first.address]).fetch(dir.path(), &Silent).unwrap();
    assert_eq!(*good.requests.lock().unwrap(), ["GET /files/other.gz HTTP/1.1"]);
    assert_eq!(names(dir.path()), ["a.gz"]);
}

/// The gz is the one expected; what is inside is not.
fn assert_content_fails(packed: Vec<u8>, change: impl Fn(&mut RemoteFile), words: &str) {
    let server = Server::start(Answer::Good(packed.clone()));
    let mut fetcher = fetcher(&[&server.address]);
    let file = &mut fetcher.files[0];
    (file.gz_bytes, file.gz_sha256) = (packed.len() as u64, sha256(&packed));
    change(file);
    let dir = tempfile::tempdir().unwrap();
    let line = fetcher.fetch(dir.path(), &Silent).unwrap_err().to_string();
    assert!(line.contains("a.gz: cannot be fetched") && line.contains(words), "{words:?} is not in: {line}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn content_that_is_not_expected_is_a_failure() {
    let (content, packed) = sample();
    let bytes = content.len() as u64;
    assert_content_fails(packed.clone(), |file| file.sha256 = sha256(b"x"), "wrong checksum of the content");
    assert_content_fails(packed.clone(), |file| file.bytes = bytes - 1, "unpacks to more than 299999 bytes");
    assert_content_fails(packed, |file| file.bytes = bytes + 1, "unpacks to 300000 bytes instead of 300001");
    assert_content_fails(content, |_| {}, "cannot be unpacked");
}

#[test]
fn a_gz_bomb_is_unpacked_only_as_far_as_expected() {
    let mut bomb = gz(&vec![0; 64 << 20]);
    // A reader that goes to the end of the bomb sees this wrong checksum instead.
    *bomb.last_mut().unwrap() ^= 1;
    assert_content_fails(bomb, |file| file.bytes = 100, "unpacks to more than 100 bytes");
}

#[test]
fn a_folder_that_cannot_be_made_or_written_is_an_error_before_the_download() {
    let server = Server::start(Answer::Good(sample().1));
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join("file");
    fs::write(&in_the_way, b"x").unwrap();
    let mut folders = vec![in_the_way.join("mnist"), in_the_way];
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let locked = dir.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
        if File::create(locked.join("try")).is_ok() {
            println!("skipped in part: this user may write into every folder");
        } else {
            folders.push(locked);
        }
    }
    // The system's own folder of processes: not even an administrator writes there.
    if cfg!(target_os = "linux") {
        folders.push(PathBuf::from("/proc/self"));
    }
    for folder in folders {
        let error = fetcher(&[&server.address]).fetch(&folder, &Silent).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        let line = error.to_string();
        assert!(line.starts_with(&format!("{}: cannot ", folder.display())), "{line}");
        assert!(line.contains("; name another folder with FUSED_LSTM_CACHE") && !line.contains('\n'), "{line}");
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_folder_in_the_place_of_the_file_is_an_error_that_leaves_nothing_behind() {
    let server = Server::start(Answer::Good(sample().1));
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a.gz")).unwrap();
    let error = fetcher(&[&server.address]).fetch(dir.path(), &Silent).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("a.gz: cannot write"), "{error}");
    assert_eq!(names(dir.path()), ["a.gz"]);
}

#[test]
fn left_overs_are_removed_but_nothing_in_use_and_nothing_of_others() {
    let server = Server::start(Answer::Good(sample().1));
    let dir = tempfile::tempdir().unwrap();
    for name in [".a.gz.77-0.part", ".a.gz.in-use.part", ".b.gz.77-0.part", "a.gz.part", "notes"] {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    let in_use = File::options().write(true).open(dir.path().join(".a.gz.in-use.part")).unwrap();
    in_use.lock().unwrap();
    fetcher(&[&server.address]).fetch(dir.path(), &Silent).unwrap();
    assert_eq!(names(dir.path()), [".a.gz.in-use.part", ".b.gz.77-0.part", "a.gz", "a.gz.part", "notes"]);
}

#[test]
fn a_temporary_file_of_another_program_with_the_same_process_number_stays() {
    let server = Server::start(Answer::Good(sample().1));
    let dir = tempfile::tempdir().unwrap();
    let of_others = |count: u32| dir.path().join(format!(".a.gz.{}-{count}.part", std::process::id()));
    let in_use = File::create_new(of_others(0)).unwrap();
    in_use.lock().unwrap();
    for count in 1..400 {
        fs::hard_link(of_others(0), of_others(count)).unwrap();
    }
    fetcher(&[&server.address]).fetch(dir.path(), &Silent).unwrap();
    assert_eq!(names(dir.path()).len(), 401);
    assert_eq!(in_use.metadata().unwrap().len(), 0);
}

#[test]
fn several_may_fetch_into_one_folder_at_once() {
    let (content, packed) = sample();
    let server = Server::start(Answer::Good(packed.clone()));
    let mut fetcher = fetcher(&[&server.address]);
    fetcher.files.extend(["b.gz", "c.gz"].map(|name| described(name, &content, &packed)));
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            let jobs = (0..8).map(|_| scope.spawn(|| fetcher.fetch(dir.path(), &Silent))).collect::<Vec<_>>();
            for job in jobs {
                job.join().unwrap().unwrap();
            }
        });
        assert_eq!(names(dir.path()), ["a.gz", "b.gz", "c.gz"]);
        for name in names(dir.path()) {
            assert!(fs::read(dir.path().join(name)).unwrap() == packed);
        }
    }
}

/// This program again, as a process of its own that runs one of the tests marked `ignore`: the environment of a process
/// that runs threads must not be changed.
fn child(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "FUSED_LSTM_CACHE", "XDG_CACHE_HOME"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

#[test]
#[ignore = "part of other tests, which run it as a process of its own"]
fn child_fetches() {
    let Some(dir) = env::var_os("TEST_DIR") else { return };
    let fetcher =
        Fetcher { use_proxy: env::var_os("TEST_NO_PROXY").is_none(), ..fetcher(&[&env::var("TEST_MIRROR").unwrap()]) };
    fetcher.fetch(Path::new(&dir), &Silent).unwrap();
}

#[test]
fn a_killed_process_leaves_no_half_file_and_the_next_succeeds() {
    let (_, packed) = sample();
    let stalling = Server::start(Answer::Stall(packed.clone()));
    let dir = tempfile::tempdir().unwrap();
    let mut process = child("child_fetches")
        .env("TEST_DIR", dir.path())
        .env("TEST_MIRROR", &stalling.address)
        .env("TEST_NO_PROXY", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while *stalling.sent.lock().unwrap() < packed.len() / 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "the process asks for nothing");
        thread::sleep(Duration::from_millis(10));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!dir.path().join("a.gz").exists());
    let good = Server::start(Answer::Good(packed));
    fetcher(&[&good.address]).fetch(dir.path(), &Silent).unwrap();
    assert_eq!(names(dir.path()), ["a.gz"]);
}

#[test]
fn the_proxy_variables_are_followed_unless_switched_off() {
    let proxy = Server::start(Answer::Good(sample().1));
    let dir = tempfile::tempdir().unwrap();
    let run = |switched_off: bool| {
        let mut command = child("child_fetches");
        if switched_off {
            command.env("TEST_NO_PROXY", "1");
        }
        let output = command
            .env("TEST_DIR", dir.path())
            // A name that does not exist: only the proxy can answer.
            .env("TEST_MIRROR", "http://mirror.invalid/")
            .env("http_proxy", proxy.address.trim_end_matches("/files/"))
            .env("all_proxy", proxy.address.trim_end_matches("/files/"))
            .output()
            .unwrap();
        output.status.success()
    };
    assert!(!run(true));
    assert_eq!(proxy.requests(), 0);
    assert!(run(false));
    assert!(proxy.requests.lock().unwrap()[0].contains("mirror.invalid"), "{:?}", proxy.requests);
    assert_eq!(names(dir.path()), ["a.gz"]);
}

#[test]
#[ignore = "part of other tests, which run it as a process of its own"]
fn child_prints_the_cache_folder() {
    println!("\ncache={}\nmnist={}", cache_dir().unwrap().display(), mnist_dir().unwrap().display());
}

#[test]
fn the_cache_folder_follows_the_variable_and_else_the_platform() {
    let printed = |variables: &[(&str, &str)]| {
        let mut command = child("child_prints_the_cache_folder");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = printed(&[("FUSED_LSTM_CACHE", "some/where")]);
    assert!(text.contains("\ncache=some/where\nmnist=some/where"), "{text}");
    assert!(text.contains(&format!("\nmnist={}\n", Path::new("some/where").join("mnist").display())), "{text}");
    if cfg!(all(unix, not(target_vendor = "apple"))) {
        for empty in [&[][..], &[("FUSED_LSTM_CACHE", "")]] {
            let variables = [&[("XDG_CACHE_HOME", "/some/cache")], empty].concat();
            let text = printed(&variables);
            assert!(text.contains("\ncache=/some/cache/fused-lstm\n"), "{text}");
        }
        let text = printed(&[("HOME", "/some/home")]);
        assert!(text.contains("\ncache=/some/home/.cache/fused-lstm\n"), "{text}");
    }
}

#[test]
fn the_default_is_mnist_from_encrypted_mirrors() {
    let fetcher = Fetcher::default();
    assert!(fetcher.mirrors.len() >= 2 && fetcher.mirrors.iter().all(|mirror| mirror.starts_with("https://")));
    let found = fetcher.files.iter().map(|file| (file.name.as_str(), file.gz_bytes, file.bytes)).collect::<Vec<_>>();
    let expected = [
        ("train-images-idx3-ubyte.gz", 9_912_422, 16 + 60_000 * 784),
        ("train-labels-idx1-ubyte.gz", 28_881, 8 + 60_000),
        ("t10k-images-idx3-ubyte.gz", 1_648_877, 16 + 10_000 * 784),
        ("t10k-labels-idx1-ubyte.gz", 4_542, 8 + 10_000),
    ];
    assert_eq!(found, expected);
    for file in &fetcher.files {
        for sum in [&file.gz_sha256, &file.sha256] {
            assert!(sum.len() == 64 && sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{sum}");
        }
    }
}

#[test]
fn the_default_accepts_the_real_label_files() {
    let Some(real) = env::var_os("FUSED_LSTM_MNIST") else {
        println!("skipped: set FUSED_LSTM_MNIST to a folder with the four MNIST files (.gz) to run this test");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for file in Fetcher::default().files.into_iter().filter(|file| file.name.contains("labels")) {
        let server = Server::start(Answer::Good(fs::read(Path::new(&real).join(&file.name)).unwrap()));
        let fetcher = Fetcher { files: vec![file], ..fetcher(&[&server.address]) };
        fetcher.fetch(dir.path(), &Silent).unwrap();
    }
    assert_eq!(names(dir.path()), ["t10k-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte.gz"]);
}
