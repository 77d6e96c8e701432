//! Reading IDX files and MNIST folders: what is read equals what was written, and every broken file is refused in one
//! line that says what is wrong.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use fused_lstm::data::idx::{Images, read_images, read_labels, read_pair};
use fused_lstm::data::{Sequences, Values, mnist};
use fused_lstm::{Error, Result};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Bytes of an IDX file with this type and these sizes in its header.
fn idx(kind: u8, sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, kind, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(content);
    bytes
}

/// An image file of `n` images of `t` x `i` pixels; the pixels count on from `first`.
fn images(n: u32, t: u32, i: u32, first: u8) -> Vec<u8> {
    idx(8, &[n, t, i], &(0..n * t * i).map(|at| first.wrapping_add(at as u8)).collect::<Vec<_>>())
}

/// A label file of `n` labels 3, 4, … 9, 0, 1, ….
fn labels(n: u32) -> Vec<u8> {
    idx(8, &[n], &(0..n).map(|at| ((at + 3) % 10) as u8).collect::<Vec<_>>())
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder of its own with one file.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Asserts a data error of one line that names `path`, says each of `words` and has a remedy; gives the line.
fn assert_refused<T>(result: Result<T>, path: &Path, words: &[&str]) -> String {
    let Err(error) = result else { panic!("{} was accepted, expected {words:?}", path.display()) };
    assert!(matches!(error, Error::Data { .. }), "{error:?}");
    let line = error.to_string();
    assert!(line.starts_with(&format!("{}: ", path.display())), "{line}");
    assert!(!line.contains('\n'), "{line}");
    assert!(line.split_once("; ").is_some_and(|(_, remedy)| remedy.len() > 10), "no remedy: {line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    line
}

fn assert_images_refused(bytes: &[u8], words: &[&str]) {
    let (_dir, path) = file("images", bytes);
    assert_refused(read_images(&path), &path, words);
}

fn assert_labels_refused(bytes: &[u8], words: &[&str]) {
    let (_dir, path) = file("labels", bytes);
    assert_refused(read_labels(&path, 10), &path, words);
}

#[test]
fn images_come_back_as_written_plain_and_gz_whatever_the_name() {
    let bytes = images(5, 3, 2, 250);
    let expected = Images { n: 5, t: 3, i: 2, bytes: bytes[16..].to_vec() };
    for (name, stored) in [("plain", bytes.clone()), ("plain.gz", bytes.clone()), ("packed", gz(&bytes))] {
        let (_dir, path) = file(name, &stored);
        assert_eq!(read_images(&path).unwrap(), expected, "{name}");
    }
}

#[test]
fn labels_come_back_as_written_plain_and_gz() {
    let bytes = labels(12);
    for stored in [bytes.clone(), gz(&bytes)] {
        let (_dir, path) = file("labels", &stored);
        assert_eq!(read_labels(&path, 10).unwrap(), [3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4]);
    }
}

#[test]
fn a_file_larger_than_every_buffer_comes_back_as_written() {
    // Larger than the reader's buffer and than a deflate window; hardly compressible, so that the gz is large too.
    let content = (0..700_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>();
    let bytes = idx(8, &[700, 100, 10], &content);
    for stored in [bytes.clone(), gz(&bytes)] {
        let (_dir, path) = file("images", &stored);
        assert!(read_images(&path).unwrap().bytes == content);
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere");
    assert_refused(read_images(&path), &path, &["does not exist"]);
    assert_refused(read_labels(&path, 10), &path, &["does not exist"]);
}

#[test]
fn a_folder_and_a_pipe_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused(read_images(dir.path()), dir.path(), &["folder"]);
    #[cfg(unix)]
    {
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_bits_truncate(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        assert_refused(read_images(&pipe), &pipe, &["not a regular file"]);
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_must_not_be_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = file("images", &images(1, 2, 2, 0));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        println!("skipped: this user may read every file");
        return;
    }
    assert_refused(read_images(&path), &path, &["permission denied", "allow this user"]);
}

#[test]
fn an_empty_file_is_refused() {
    assert_images_refused(&[], &["empty (0 bytes)"]);
    assert_images_refused(&gz(&[]), &["ends after 0 bytes of its header"]);
}

#[test]
fn a_truncated_header_is_refused() {
    let bytes = images(5, 3, 2, 0);
    for length in [1, 3, 4, 7, 15] {
        let words = [format!("ends after {length} bytes"), "16".to_owned()];
        let words = words.each_ref().map(String::as_str);
        assert_images_refused(&bytes[..length], &words);
        assert_images_refused(&gz(&bytes[..length]), &words);
    }
    assert_labels_refused(&labels(5)[..7], &["ends after 7 bytes", "8"]);
}

#[test]
fn labels_in_the_place_of_images_are_recognised_and_the_reverse() {
    assert_images_refused(&labels(5), &["labels where images are expected", "0x00000801", "0x00000803"]);
    assert_images_refused(&gz(&labels(5)), &["labels where images are expected"]);
    assert_labels_refused(&images(5, 3, 2, 0), &["images where labels are expected", "0x00000803", "0x00000801"]);
}

#[test]
fn another_magic_number_is_refused_and_quoted() {
    assert_images_refused(b"<!DOCTYPE html>", &["not an IDX file", "0x3c21444f", "0x00000803"]);
    assert_images_refused(&idx(13, &[1, 2, 2], &[0; 16]), &["0x00000d03"]);
    assert_images_refused(&idx(8, &[1, 2, 2, 1], &[0; 4]), &["0x00000804"]);
    assert_images_refused(&[1, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9], &["0x01000803"]);
    assert_labels_refused(&[0, 1, 8, 1, 0, 0, 0, 1, 5], &["0x00010801"]);
}

#[test]
fn a_size_of_zero_is_refused() {
    assert_images_refused(&idx(8, &[0, 28, 28], &[]), &["0 x 28 x 28"]);
    assert_images_refused(&idx(8, &[3, 0, 28], &[]), &["3 x 0 x 28"]);
    assert_images_refused(&idx(8, &[3, 28, 0], &[]), &["3 x 28 x 0"]);
    assert_labels_refused(&idx(8, &[0], &[]), &["header says 0"]);
}

#[test]
fn absurd_sizes_are_refused_before_any_memory_is_taken() {
    let most = u32::MAX;
    // The product does not fit in 64 bits; it wraps to 0 in the second.
    assert_images_refused(&idx(8, &[most, most, most], &[0; 8]), &["4294967295 x 4294967295", "more than"]);
    assert_images_refused(&idx(8, &[1 << 31, 1 << 31, 4], &[]), &["more than the 2147483648 bytes allowed"]);
    assert_images_refused(&idx(8, &[1 << 16, 1 << 15, 2], &[0; 8]), &["more than the 2147483648 bytes allowed"]);
    // Allowed, but not with this file. Plain: the length is known. Gz: there is a best ratio.
    assert_images_refused(
        &idx(8, &[1 << 16, 1 << 15, 1], &[0; 8]),
        &["has 24 bytes", "(65536 x 32768 x 1) needs 2147483664"],
    );
    assert_images_refused(&gz(&idx(8, &[1 << 16, 1 << 15, 1], &[0; 8])), &["more than", "bytes of gz can hold"]);
    assert_labels_refused(&idx(8, &[most], &[1; 8]), &["more than"]);
}

#[test]
fn too_few_bytes_are_refused_with_both_counts() {
    let bytes = images(5, 3, 2, 0);
    assert_images_refused(&bytes[..45], &["has 45 bytes", "needs 46"]);
    assert_images_refused(&bytes[..16], &["has 16 bytes", "needs 46"]);
    assert_images_refused(&gz(&bytes[..45]), &["has 45 bytes", "needs 46"]);
    assert_labels_refused(&labels(9)[..16], &["has 16 bytes", "needs 17"]);
}

#[test]
fn too_many_bytes_are_refused() {
    let mut bytes = images(5, 3, 2, 0);
    bytes.push(0);
    assert_images_refused(&bytes, &["has 47 bytes", "needs 46"]);
    assert_images_refused(&gz(&bytes), &["more than the 46 bytes"]);
    let mut bytes = labels(9);
    bytes.push(1);
    assert_labels_refused(&bytes, &["has 18 bytes", "needs 17"]);
}

#[test]
fn a_gz_bomb_behind_a_small_header_is_refused_at_the_header_s_length() {
    let mut bytes = images(5, 3, 2, 0);
    bytes.resize(64 << 20, 0);
    let mut bomb = gz(&bytes);
    assert!(bomb.len() < 100_000);
    assert_images_refused(&bomb, &["more than the 46 bytes"]);
    // The checksum is wrong now; a reader that goes to the end of the bomb would see it.
    *bomb.last_mut().unwrap() ^= 1;
    assert_images_refused(&bomb, &["more than the 46 bytes"]);
}

#[test]
fn gz_that_ends_early_is_refused_wherever_it_ends() {
    let whole = gz(&images(5, 30, 2, 0));
    for length in 2..whole.len() {
        let (_dir, path) = file("images", &whole[..length]);
        assert_refused(read_images(&path), &path, &["gz data ends early"]);
    }
}

#[test]
fn corrupt_gz_is_refused() {
    let whole = gz(&images(5, 30, 2, 0));
    let (crc, length) = (whole.len() - 8, whole.len() - 4);
    // Method, checksum, length.
    for at in [2, crc, length] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        assert_images_refused(&bytes, &["gz data is corrupt"]);
    }
    for at in 10..crc {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let (_dir, path) = file("images", &bytes);
        assert_refused(read_images(&path), &path, &[]);
    }
}

#[test]
fn bytes_and_members_after_the_gz_data_are_refused() {
    let bytes = images(5, 3, 2, 0);
    for tail in [b"\0".to_vec(), b"garbage".to_vec(), gz(&[]), gz(&bytes)] {
        let mut stored = gz(&bytes);
        stored.extend(tail);
        assert_images_refused(&stored, &["after the end of its gz data"]);
    }
    let parts = [gz(&bytes[..30]), gz(&bytes[30..])].concat();
    assert_images_refused(&parts, &["has 30 bytes", "needs 46"]);
}

#[test]
fn a_label_that_is_no_class_is_refused_with_its_place_and_value() {
    assert_labels_refused(&idx(8, &[4], &[0, 9, 10, 200]), &["label 2 ", "is 10", "10 classes"]);
    assert_labels_refused(&gz(&idx(8, &[3], &[0, 9, 200])), &["label 2 ", "is 200"]);
    let (_dir, path) = file("labels", &idx(8, &[3], &[0, 9, 46]));
    assert_eq!(read_labels(&path, 47).unwrap(), [0, 9, 46]);
}

#[test]
fn counts_that_differ_are_refused_with_both_files_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let [image_file, label_file] = ["images", "labels"].map(|name| dir.path().join(name));
    fs::write(&image_file, images(7, 2, 2, 0)).unwrap();
    fs::write(&label_file, labels(6)).unwrap();
    let words = ["6 labels", "7 images", image_file.to_str().unwrap(), "same data set"];
    assert_refused(read_pair(&image_file, &label_file, 10), &label_file, &words);
    fs::write(&label_file, labels(7)).unwrap();
    let (pictures, numbers) = read_pair(&image_file, &label_file, 10).unwrap();
    assert_eq!((pictures.n, numbers.len()), (7, 7));
}

/// The stems of the four files of a data set and their endings.
const FILES: [(&str, &str); 4] = [
    ("train-images", "idx3-ubyte"),
    ("train-labels", "idx1-ubyte"),
    ("t10k-images", "idx3-ubyte"),
    ("t10k-labels", "idx1-ubyte"),
];

/// Contents of the four files: `train` and `test` images of 4 rows of 3 pixels, with different pixels.
fn contents(train: u32, test: u32) -> [Vec<u8>; 4] {
    [images(train, 4, 3, 0), labels(train), images(test, 4, 3, 100), labels(test)]
}

/// Writes the four files; `joint` is the sign between stem and ending.
fn write_set(dir: &Path, joint: &str, packed: bool, contents: &[Vec<u8>; 4]) {
    for ((stem, ending), bytes) in FILES.iter().zip(contents) {
        let name = format!("{stem}{joint}{ending}");
        if packed {
            fs::write(dir.join(name + ".gz"), gz(bytes)).unwrap();
        } else {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

fn bytes_of(sequences: &Sequences) -> &[u8] {
    match sequences.values() {
        Values::U8 { bytes, scale } => {
            assert_eq!(*scale, 1.0_f32 / 255.0);
            bytes
        }
        _ => panic!("images are not bytes"),
    }
}

#[test]
fn a_folder_is_loaded_under_both_names_plain_and_gz() {
    let contents = contents(24, 5);
    for joint in ["-", "."] {
        for packed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            write_set(dir.path(), joint, packed, &contents);
            let data = mnist::load(dir.path()).unwrap();
            assert_eq!((data.name, data.classes), ("mnist", 10));
            for part in [&data.train, &data.validation, &data.test] {
                assert_eq!((part.t(), part.i()), (4, 3));
            }
            // 24 / 12 = 2 images are held back, and they are the first two.
            assert_eq!(bytes_of(&data.validation), &contents[0][16..16 + 24]);
            assert_eq!(bytes_of(&data.train), &contents[0][16 + 24..]);
            assert_eq!(bytes_of(&data.test), &contents[2][16..]);
            assert_eq!(data.validation.labels(), [3, 4]);
            assert_eq!(data.train.labels()[..3], [5, 6, 7]);
            assert_eq!(data.test.labels(), [3, 4, 5, 6, 7]);
            assert!(data.description.contains("22 to train, 2 to validate, 5 to test, 4 x 3"), "{}", data.description);
            assert!(data.description.contains(dir.path().to_str().unwrap()), "{}", data.description);
        }
    }
}

#[test]
fn one_in_twelve_is_held_back_but_at_least_one() {
    for (n, held_back) in [(2, 1), (12, 1), (23, 1), (24, 2), (120, 10)] {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), "-", false, &contents(n, 1));
        let data = mnist::load(dir.path()).unwrap();
        assert_eq!((data.validation.len(), data.train.len()), (held_back, n as usize - held_back));
    }
}

#[test]
fn one_training_image_is_too_few() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), "-", false, &contents(1, 1));
    let path = dir.path().join("train-images-idx3-ubyte");
    assert_refused(mnist::load(dir.path()), &path, &["one image", "at least 2"]);
}

#[test]
fn where_a_file_is_there_twice_the_choice_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    // From the last choice to the first: each must win over those written before.
    let order = [(".", false, 2), (".", true, 3), ("-", false, 4), ("-", true, 5)];
    for (joint, packed, test) in order {
        write_set(dir.path(), joint, packed, &contents(12, test));
        assert_eq!(mnist::load(dir.path()).unwrap().test.len(), test as usize, "{joint} {packed}");
    }
}

#[test]
fn a_folder_with_the_name_of_a_file_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), ".", false, &contents(12, 2));
    let folder = dir.path().join("train-images-idx3-ubyte");
    fs::create_dir(&folder).unwrap();
    mnist::load(dir.path()).unwrap();
    fs::remove_file(dir.path().join("train-images.idx3-ubyte")).unwrap();
    assert_refused(mnist::load(dir.path()), &folder, &["is a folder where a file is expected"]);
}

#[test]
fn a_missing_file_of_the_four_is_named_with_all_names_tried() {
    for (stem, ending) in FILES {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), "-", true, &contents(12, 2));
        fs::remove_file(dir.path().join(format!("{stem}-{ending}.gz"))).unwrap();
        let tried = format!("{stem}-{ending}.gz, {stem}-{ending}, {stem}.{ending}.gz, {stem}.{ending}");
        assert_refused(mnist::load(dir.path()), dir.path(), &[&tried]);
    }
}

#[test]
fn a_folder_that_is_none_is_refused() {
    let (dir, path) = file("file", b"x");
    assert_refused(mnist::load(&path), &path, &["not a folder"]);
    let nowhere = dir.path().join("nowhere");
    assert_refused(mnist::load(&nowhere), &nowhere, &["does not exist"]);
}

#[test]
fn a_broken_file_of_the_four_is_named() {
    for (at, (stem, ending)) in FILES.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = contents(12, 2);
        contents[at].pop();
        write_set(dir.path(), "-", false, &contents);
        let path = dir.path().join(format!("{stem}-{ending}"));
        assert_refused(mnist::load(dir.path()), &path, &["bytes, but its header"]);
    }
}

#[test]
fn test_images_of_another_shape_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // As many pixels, in another shape.
    let contents = [images(12, 4, 3, 0), labels(12), images(2, 3, 4, 0), labels(2)];
    write_set(dir.path(), "-", false, &contents);
    let path = dir.path().join("t10k-images-idx3-ubyte");
    assert_refused(mnist::load(dir.path()), &path, &["3 x 4", "4 x 3", "train-images-idx3-ubyte"]);
}

#[test]
fn the_mnist_crate_reads_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    // That crate takes nothing but 60,000 and 10,000 images of 28 x 28, so the made-up files are as large as the real.
    let pixels = |n: u32, factor: u32| {
        (0..n * 784).map(|at| (at.wrapping_mul(factor) >> 15) as u8 & (at >> 7) as u8).collect::<Vec<_>>()
    };
    let contents = [
        idx(8, &[60_000, 28, 28], &pixels(60_000, 2_654_435_761)),
        labels(60_000),
        idx(8, &[10_000, 28, 28], &pixels(10_000, 2_246_822_519)),
        labels(10_000),
    ];
    write_set(dir.path(), "-", false, &contents);
    let other = ::mnist::MnistBuilder::new()
        .base_path(dir.path().to_str().unwrap())
        .label_format_digit()
        .training_set_length(5_000)
        .validation_set_length(55_000)
        .test_set_length(10_000)
        .finalize();
    let ours = mnist::load(dir.path()).unwrap();
    let small = |labels: &[u32]| labels.iter().map(|&label| label as u8).collect::<Vec<_>>();
    // What the other reader calls training are the first images, which are our validation set.
    for (part, their_images, their_labels) in [
        (&ours.validation, other.trn_img, other.trn_lbl),
        (&ours.train, other.val_img, other.val_lbl),
        (&ours.test, other.tst_img, other.tst_lbl),
    ] {
        assert!(bytes_of(part) == their_images);
        assert!(small(part.labels()) == their_labels);
    }
}

#[test]
fn the_real_files_have_their_counts_and_checksums() {
    let Some(dir) = env::var_os("FUSED_LSTM_MNIST") else {
        println!("skipped: set FUSED_LSTM_MNIST to a folder with the four MNIST files to run this test");
        return;
    };
    let data = mnist::load(Path::new(&dir)).unwrap();
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [55_000, 5_000, 10_000]);
    assert_eq!((data.test.t(), data.test.i()), (28, 28));
    let digest = |header: Vec<u8>, content: &[u8]| {
        let sum = Sha256::new().chain_update(header).chain_update(content).finalize();
        sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let small = |labels: &[u32]| labels.iter().map(|&label| label as u8).collect::<Vec<_>>();
    assert_eq!(
        digest(idx(8, &[10_000, 28, 28], &[]), bytes_of(&data.test)),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    );
    assert_eq!(
        digest(idx(8, &[10_000], &[]), &small(data.test.labels())),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    );
    assert_eq!(
        digest(idx(8, &[60_000], &[]), &small(&[data.validation.labels(), data.train.labels()].concat())),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    );
}
