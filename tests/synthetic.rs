//! The synthetic digits: the same for a seed whatever the machine does, balanced, and placed as MNIST's digits are.

use fused_lstm::data::synthetic::{TEST, TRAIN, VALIDATION, digits};
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use sha2::{Digest, Sha256};

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

fn bytes(sequences: &Sequences) -> &[u8] {
    match sequences.values() {
        Values::U8 { bytes, .. } => bytes,
        _ => panic!("the images are not bytes"),
    }
}

fn images(sequences: &Sequences) -> impl Iterator<Item = &[u8]> {
    bytes(sequences).chunks_exact(28 * 28)
}

/// The noise in an empty image stays below this; strokes are at least four fifths of white.
const INK: u8 = 64;

fn with_threads(threads: usize, work: impl FnOnce() -> Dataset + Send) -> Dataset {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(work)
}

#[test]
fn shapes_and_names() {
    let set = digits(3, 40, 20, 10);
    assert_eq!((set.name, set.classes), ("synthetic", 10));
    assert_eq!(set.description.lines().count(), 1);
    for part in ["synthetic digits", "seed 3", "40 for training", "20 for validation", "10 for testing", "MNIST"] {
        assert!(set.description.contains(part), "no {part:?} in {:?}", set.description);
    }
    for (split, n) in SPLITS.into_iter().zip([40, 20, 10]) {
        let sequences = set.split(split);
        assert_eq!((sequences.len(), sequences.t(), sequences.i()), (n, 28, 28));
        assert!(matches!(sequences.values(), Values::U8 { scale, .. } if *scale == 1.0 / 255.0));
    }
    assert_eq!((TRAIN, VALIDATION, TEST), (55_000, 5_000, 10_000));
}

#[test]
fn nothing_asked_nothing_given() {
    let set = digits(3, 0, 0, 0);
    assert!(SPLITS.into_iter().all(|split| set.split(split).is_empty()));
}

/// The drawing must not change by accident, nor from platform to platform: results that users note down depend on it.
#[test]
fn seed_one_gives_these_bytes() {
    let set = digits(1, 200, 10, 10);
    let mut hash = Sha256::new();
    for split in SPLITS {
        hash.update(bytes(set.split(split)));
        hash.update(set.split(split).labels().iter().map(|&label| label as u8).collect::<Vec<_>>());
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "8f7a93bb14a29581a34e39124c364425770b2c896b8fb6a3e01ddf803b4b38ac");
}

#[test]
fn same_for_any_number_of_threads() {
    let make = || digits(9, 300, 50, 50);
    let (one, three) = (with_threads(1, make), with_threads(3, make));
    for split in SPLITS {
        assert_eq!(one.split(split), three.split(split));
    }
}

#[test]
fn fewer_images_are_the_first_of_more() {
    let (few, many) = (digits(5, 37, 3, 12), digits(5, 100, 50, 70));
    for split in SPLITS {
        let few = few.split(split);
        assert_eq!(*few, many.split(split).slice(0, few.len()));
    }
}

#[test]
fn seeds_and_splits_differ_and_no_image_comes_twice() {
    let (a, b) = (digits(1, 1_000, 1_000, 1_000), digits(2, 1_000, 0, 0));
    let mut all: Vec<&[u8]> = SPLITS.into_iter().flat_map(|split| images(a.split(split))).collect();
    all.extend(images(&b.train));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert_ne!(a.train.labels(), a.test.labels());
    assert_ne!(a.train.labels(), b.train.labels());
}

#[test]
fn every_prefix_is_balanced_and_the_order_is_random() {
    let set = digits(1, 1_003, 0, 0);
    let labels = set.train.labels();
    let mut counts = [0; 10];
    for &label in labels {
        counts[label as usize] += 1;
        let (least, most) = (counts.iter().min().expect("ten"), counts.iter().max().expect("ten"));
        assert!(most - least <= 1, "{counts:?}");
    }
    // Each digit stands about as often in each place of a group of ten: 10 of 100 expected, with deviation 3.
    let mut places = [[0; 10]; 10];
    labels.iter().enumerate().for_each(|(index, &label)| places[index % 10][label as usize] += 1);
    assert!(places.iter().flatten().all(|&n| (1..=23).contains(&n)), "{places:?}");
}

/// The first and last row and the first and last column of the ink.
fn ink_box(image: &[u8]) -> [usize; 4] {
    let ink = || (0..28 * 28).filter(|&p| image[p] > INK);
    let (top, bottom) = (ink().map(|p| p / 28).min(), ink().map(|p| p / 28).max());
    let (left, right) = (ink().map(|p| p % 28).min(), ink().map(|p| p % 28).max());
    [top, bottom, left, right].map(|end| end.expect("some ink"))
}

/// The centre of mass (row, column) of what is brighter than the noise; the first pixel's middle is 0.
fn centre_of_mass(image: &[u8]) -> (f64, f64) {
    let mut sums = (0.0, 0.0, 0.0);
    for (p, &value) in image.iter().enumerate().filter(|(_, value)| **value > INK) {
        let mass = f64::from(value);
        sums = (sums.0 + mass, sums.1 + mass * (p / 28) as f64, sums.2 + mass * (p % 28) as f64);
    }
    (sums.1 / sums.0, sums.2 / sums.0)
}

#[test]
fn digits_have_mnists_size_and_place() {
    let set = digits(11, 3_000, 0, 0);
    let (mut longest, mut mean) = (0.0, (0.0, 0.0));
    for image in images(&set.train) {
        let edge = (0..784).filter(|p| p / 28 == 0 || p / 28 == 27 || p % 28 == 0 || p % 28 == 27);
        assert!(edge.map(|p| image[p]).max().expect("an edge") < INK, "ink on the edge");
        assert!(*image.iter().max().expect("pixels") >= 170, "a faint digit");
        let [top, bottom, left, right] = ink_box(image);
        let long = (bottom - top).max(right - left) + 1;
        assert!((16..=21).contains(&long), "{long} pixels long");
        longest += long as f64 / 3_000.0;
        let (row, column) = centre_of_mass(image);
        assert!((row - 14.0).abs() < 3.0 && (column - 14.0).abs() < 3.0, "centre ({row}, {column})");
        mean = (mean.0 + row / 3_000.0, mean.1 + column / 3_000.0);
    }
    assert!((18.0..20.5).contains(&longest), "{longest} pixels long on average");
    assert!((mean.0 - 14.0_f64).abs() < 0.15 && (mean.1 - 14.0_f64).abs() < 0.15, "mean centre {mean:?}");
    // MNIST's mean is 0.13 of white.
    let white = bytes(&set.train).iter().map(|&b| f64::from(b)).sum::<f64>() / bytes(&set.train).len() as f64 / 255.0;
    assert!((0.11..0.15).contains(&white), "{white} of white");
}

/// Labels belong to their images, and the task can be learned but not by a glance: the nearest of the ten mean images
/// tells most digits, not nearly all.
#[test]
fn the_nearest_mean_image_tells_most_digits() {
    let set = digits(2, 5_000, 0, 1_000);
    let mut means = vec![[0.0; 28 * 28]; 10];
    for (image, &label) in images(&set.train).zip(set.train.labels()) {
        means[label as usize].iter_mut().zip(image).for_each(|(mean, &b)| *mean += f64::from(b) / 500.0);
    }
    let distance = |mean: &[f64], image: &[u8]| -> f64 {
        mean.iter().zip(image).map(|(m, &b)| (m - f64::from(b)) * (m - f64::from(b))).sum()
    };
    let right = images(&set.test).zip(set.test.labels()).filter(|(image, label)| {
        let nearest = (0..10).min_by(|&a, &b| distance(&means[a], image).total_cmp(&distance(&means[b], image)));
        nearest == Some(**label as usize)
    });
    let right = right.count();
    assert!((600..850).contains(&right), "{right} of 1,000");
}
