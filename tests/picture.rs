//! Pictures of digits: whatever their size, polarity and file format, they come out as MNIST's images are made.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use fused_lstm::Error;
use fused_lstm::data::picture::{Gray, digit, read_digit};
use fused_lstm::data::{Values, synthetic};
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use tempfile::TempDir;

const WHITE: f32 = 65535.0;

/// A five in the unit square.
const FIVE: [(f32, f32); 8] =
    [(0.72, 0.1), (0.34, 0.12), (0.32, 0.44), (0.55, 0.4), (0.72, 0.55), (0.7, 0.75), (0.5, 0.88), (0.28, 0.8)];

/// Lines through points of the unit square, white on black, in a square of `side` pixels with soft edges. The digit takes
/// a `size`th of it and begins at (`left`, `top`), in pixels.
fn drawn(points: &[(f32, f32)], side: usize, size: f32, (left, top): (f32, f32)) -> Gray {
    let unit = side as f32 * size;
    let points: Vec<_> = points.iter().map(|(x, y)| (left + x * unit, top + y * unit)).collect();
    let cover = |place: usize| {
        let (x, y) = ((place % side) as f32 + 0.5, (place / side) as f32 + 0.5);
        let far = points.windows(2).map(|line| {
            let ((ax, ay), (bx, by)) = (line[0], line[1]);
            let (dx, dy) = (bx - ax, by - ay);
            let t = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
            (x - ax - t * dx).hypot(y - ay - t * dy)
        });
        (0.05 * unit - far.fold(f32::INFINITY, f32::min) + 0.5).clamp(0.0, 1.0)
    };
    Gray { width: side, height: side, values: (0..side * side).map(|place| (cover(place) * WHITE).round()).collect() }
}

fn five(side: usize) -> Gray {
    drawn(&FIVE, side, 1.0, (0.0, 0.0))
}

fn mapped(picture: &Gray, change: impl Fn(f32) -> f32) -> Gray {
    Gray { values: picture.values.iter().map(|&value| change(value)).collect(), ..*picture }
}

fn made(picture: &Gray) -> Vec<u8> {
    digit(picture).expect("a digit")
}

/// The mean absolute difference of two images' pixels, of 255.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}

/// Asserts that two images are nearly the same.
fn assert_close(a: &[u8], b: &[u8], most: f64, what: &str) {
    let apart = difference(a, b);
    assert!(apart <= most, "{what}: {apart} of 255 apart\n{}", beside(a, b));
}

/// Both images as text, side by side.
fn beside(a: &[u8], b: &[u8]) -> String {
    let line = |row: &[u8]| row.iter().map(|&b| b" .:-=+*#%@"[usize::from(b) * 9 / 255] as char).collect::<String>();
    a.chunks(28).zip(b.chunks(28)).map(|(a, b)| format!("|{}|{}|\n", line(a), line(b))).collect()
}

fn bytes8(picture: &Gray) -> GrayImage {
    let bytes = picture.values.iter().map(|value| (value / 257.0).round() as u8).collect();
    GrayImage::from_raw(picture.width as u32, picture.height as u32, bytes).expect("the picture's size")
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.into().write_to(&mut file, format).expect("encoding");
    file.into_inner()
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    encoded(image, ImageFormat::Png)
}

fn jpeg(image: impl Into<DynamicImage>) -> Vec<u8> {
    encoded(image, ImageFormat::Jpeg)
}

/// A folder for one test's files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("seven.png");
        std::fs::write(&path, bytes).expect("writing");
        path
    }

    fn read(&self, bytes: &[u8]) -> fused_lstm::Result<Vec<u8>> {
        read_digit(&self.write(bytes))
    }
}

/// A PNG from its header's fields and its rows, each with a filter byte in front.
fn raw_png(width: u32, height: u32, depth: u8, colour: u8, palette: &[u8], rows: &[u8]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let mut sum = flate2::Crc::new();
        sum.update(name);
        sum.update(body);
        [&(body.len() as u32).to_be_bytes()[..], name, body, &sum.sum().to_be_bytes()].concat()
    };
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(rows).expect("packing");
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let mut file = [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header)].concat();
    if !palette.is_empty() {
        file.extend(chunk(b"PLTE", palette));
    }
    file.extend(chunk(b"IDAT", &packed.finish().expect("packing")));
    file.extend(chunk(b"IEND", &[]));
    file
}

/// The centre of mass (row, column), the first pixel's middle being 0.
fn centre_of_mass(image: &[u8]) -> (f64, f64) {
    let mass: f64 = image.iter().map(|&b| f64::from(b)).sum();
    let mean = |at: fn(usize) -> usize| {
        image.iter().enumerate().map(|(place, &b)| f64::from(b) * at(place) as f64).sum::<f64>() / mass
    };
    (mean(|place| place / 28), mean(|place| place % 28))
}

/// Synthetic digits as pictures.
fn synthetic_digits(n: usize) -> Vec<Gray> {
    let set = synthetic::digits(4, n, 0, 0);
    let Values::U8 { bytes, .. } = set.train.values() else { panic!("the images are not bytes") };
    let picture =
        |image: &[u8]| Gray { width: 28, height: 28, values: image.iter().map(|&b| f32::from(b) * 257.0).collect() };
    bytes.chunks_exact(28 * 28).map(picture).collect()
}

/// The correlation of two images' pixels.
fn correlation(a: &[u8], b: &[u8]) -> f64 {
    let mean = |image: &[u8]| image.iter().map(|&b| f64::from(b)).sum::<f64>() / image.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |a: &[u8], mean_a: f64, b: &[u8], mean_b: f64| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - mean_a) * (f64::from(b) - mean_b)).sum()
    };
    sum(a, mean_a, b, mean_b) / (sum(a, mean_a, a, mean_a) * sum(b, mean_b, b, mean_b)).sqrt()
}

/// An image moved by whole pixels; what leaves is lost.
fn moved(image: &[u8], down: i32, right: i32) -> Vec<u8> {
    let from = |place: i32| {
        let (row, column) = (place / 28 - down, place % 28 - right);
        let inside = (0..28).contains(&row) && (0..28).contains(&column);
        if inside { image[(row * 28 + column) as usize] } else { 0 }
    };
    (0..28 * 28).map(from).collect()
}

/// `image`, moved by up to three whole pixels so that it is nearest to `other`: synthetic digits lie up to two pixels off
/// the middle, and rounding may place digits that hardly differ a pixel apart.
fn aligned(image: &[u8], other: &[u8]) -> Vec<u8> {
    let moves = (-3..=3).flat_map(|down| (-3..=3).map(move |right| moved(image, down, right)));
    moves.min_by(|a, b| difference(a, other).total_cmp(&difference(b, other))).expect("moves")
}

#[test]
fn a_synthetic_digit_comes_back_nearly_unchanged() {
    let files = Files::new();
    let mut mean = 0.0;
    let pictures = synthetic_digits(200);
    for picture in &pictures {
        let image = bytes8(picture);
        let back = files.read(&png(image.clone())).expect("a digit");
        let same = correlation(&aligned(image.as_raw(), &back), &back);
        assert!(same > 0.9, "{same}\n{}", beside(image.as_raw(), &back));
        mean += same / pictures.len() as f64;
    }
    assert!(mean > 0.98, "{mean} on average");
}

#[test]
fn an_image_in_mnists_form_stays_as_it_is() {
    for picture in synthetic_digits(200) {
        let mut once = made(&picture);
        // A smear too faint to be taken for the digit, as blurred edges are.
        let place = (0..28 * 28 - 1).find(|&place| once[place + 1] > 100).expect("ink");
        once[place] = once[place].max(20);
        let again = made(&Gray { values: once.iter().map(|&b| f32::from(b) * 257.0).collect(), ..picture });
        assert_eq!(again, once, "{}", beside(&again, &once));
    }
}

/// A digit whose mass lies at one end cannot be centred without losing the other end; it is kept whole.
#[test]
fn a_digit_that_is_heavy_at_one_end_is_not_cut_off() {
    let block = |x: usize, y: usize| (14..20).contains(&x) && (14..20).contains(&y);
    let tail = |x: usize, y: usize| x == 19 && y < 20 || y == 19 && x < 20;
    let at = |place: usize| if block(place % 40, place / 40) || tail(place % 40, place / 40) { WHITE } else { 0.0 };
    let heavy_below = Gray { width: 40, height: 40, values: (0..40 * 40).map(at).collect() };
    let heavy_above = Gray { values: heavy_below.values.iter().rev().copied().collect(), ..heavy_below };
    for (picture, first) in [(heavy_below, 0), (heavy_above, 8)] {
        let image = made(&picture);
        assert_eq!(image.iter().filter(|&&b| b == 255).count(), 36 + 2 * 14, "{}", beside(&image, &image));
        assert_eq!(image.iter().position(|&b| b > 0).map(|place| place / 28), Some(first));
    }
}

#[test]
fn size_place_and_contrast_are_mnists() {
    // Without their noise, which is as bright as the darkest edges and would count as ink here.
    let clean = |picture| mapped(picture, |value| if value < 32.0 * 257.0 { 0.0 } else { value });
    let pictures: Vec<Gray> = synthetic_digits(300).iter().map(clean).collect();
    for picture in pictures.iter().chain(&[five(28), five(64), five(400)]) {
        let image = made(picture);
        assert_eq!((image.len(), image.iter().max()), (28 * 28, Some(&255)));
        let ink = || (0..28 * 28).filter(|&place| image[place] > 0);
        let long = |at: fn(usize) -> usize| {
            let (first, last) = (ink().map(at).min(), ink().map(at).max());
            last.zip(first).map_or(0, |(last, first)| last - first + 1)
        };
        let long = long(|place| place / 28).max(long(|place| place % 28));
        assert!((19..=21).contains(&long), "{long} pixels long");
        let (row, column) = centre_of_mass(&image);
        assert!((row - 14.0).abs() < 0.56 && (column - 14.0).abs() < 0.56, "centre ({row}, {column})");
    }
}

#[test]
fn dark_on_light_is_light_on_dark() {
    for picture in synthetic_digits(50).iter().chain(&[five(29), five(77), five(200)]) {
        assert_eq!(made(&mapped(picture, |value| WHITE - value)), made(picture));
    }
    // These are averaged first, which rounds differently.
    let large = five(900);
    assert_close(&made(&mapped(&large, |value| WHITE - value)), &made(&large), 0.02, "large");
}

#[test]
fn the_pictures_size_does_not_matter() {
    let image = made(&five(100));
    for (side, most) in [(28, 10.0), (50, 5.0), (401, 2.0), (1_500, 2.0)] {
        assert_close(&aligned(&made(&five(side)), &image), &image, most, &format!("{side} pixels"));
    }
}

#[test]
fn neither_do_place_and_share_of_the_picture() {
    let image = made(&drawn(&FIVE, 200, 0.5, (0.0, 0.0)));
    for place in [(100.0, 0.0), (0.0, 100.0), (31.0, 77.0)] {
        assert_eq!(made(&drawn(&FIVE, 200, 0.5, place)), image, "{place:?}");
    }
    // Cropped to the ink, so that it touches all four edges.
    let tight = drawn(&FIVE, 100, 1.15, (-27.0, -6.0));
    assert_close(&made(&tight), &image, 4.0, "cropped");
    let small = drawn(&FIVE, 400, 0.1, (300.0, 20.0));
    assert_close(&made(&small), &image, 5.0, "small");
}

#[test]
fn wide_and_high_pictures_keep_the_sides_ratio() {
    let square = five(120);
    let wide = Gray { width: 360, values: vec![0.0; 360 * 120], ..square };
    let mut wide = wide;
    for row in 0..120 {
        wide.values[row * 360 + 200..row * 360 + 320].copy_from_slice(&square.values[row * 120..(row + 1) * 120]);
    }
    assert_eq!(made(&wide), made(&square));
    let line = made(&drawn(&[(0.1, 0.5), (0.9, 0.5)], 100, 1.0, (0.0, 0.0)));
    let rows = (0..28).filter(|row| line[row * 28..(row + 1) * 28].iter().any(|&b| b > 64)).count();
    assert!(rows <= 3, "a dash became {rows} pixels high");
}

#[test]
fn grey_on_grey_is_stretched() {
    let picture = five(100);
    let image = made(&picture);
    assert_close(&made(&mapped(&picture, |value| 0.6 * WHITE - value * 0.2)), &image, 0.1, "dark on grey");
    assert_close(&made(&mapped(&picture, |value| 0.4 * WHITE + value * 0.2)), &image, 0.1, "light on grey");
}

/// Numbers in `0..1` that look random.
fn noise(place: usize) -> f32 {
    let mixed = (place as u32 ^ 0x5bd1).wrapping_mul(0x9e37_79b1);
    ((mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b) >> 8) as f32 / (1 << 24) as f32
}

#[test]
fn noise_and_specks_do_not_move_the_digit() {
    let clean = drawn(&FIVE, 300, 0.6, (60.0, 60.0));
    let mut dirty = mapped(&clean, |value| 0.8 * WHITE - 0.6 * value);
    dirty.values.iter_mut().enumerate().for_each(|(place, value)| *value += (noise(place) - 0.5) * 0.15 * WHITE);
    for (row, column) in [(5, 5), (290, 20), (150, 285)] {
        for place in [row * 300 + column, row * 300 + column + 1, (row + 1) * 300 + column] {
            dirty.values[place] = 0.0;
        }
    }
    assert_close(&made(&dirty), &made(&clean), 4.0, "dirty");
}

#[test]
fn a_slight_shadow_is_no_ink() {
    let clean = five(200);
    let mut shaded = mapped(&clean, |value| 0.9 * WHITE - 0.8 * value);
    shaded
        .values
        .iter_mut()
        .enumerate()
        .for_each(|(place, value)| *value -= (place % 200) as f32 / 200.0 * 0.1 * WHITE);
    shaded.values.iter_mut().for_each(|value| *value = value.max(0.0));
    assert_close(&made(&shaded), &made(&clean), 4.0, "shaded");
    // The light falls on all but the edge: in sum, more is brighter than the edge than is darker.
    let mut lit = mapped(&clean, |value| 0.8 * WHITE - 0.7 * value);
    for place in 0..200 * 200 {
        if place / 200 == 0 || place / 200 == 199 || place % 200 == 0 || place % 200 == 199 {
            lit.values[place] = 0.6 * WHITE;
        }
    }
    assert_close(&made(&lit), &made(&clean), 4.0, "lit");
}

#[test]
fn every_kind_of_png_gives_the_same() {
    let files = Files::new();
    let picture = mapped(&five(90), |value| (WHITE - value) / 257.0);
    let (n, at) = (90, |x: u32, y: u32| picture.values[(y * 90 + x) as usize].round() as u8);
    let wide = |b: u8| u16::from(b) * 257;
    let expected = files.read(&png(GrayImage::from_fn(n, n, |x, y| Luma([at(x, y)])))).expect("a digit");
    let kinds = [
        ("16 bit", png(ImageBuffer::from_fn(n, n, |x, y| Luma([wide(at(x, y))])))),
        ("RGB", png(ImageBuffer::from_fn(n, n, |x, y| Rgb([at(x, y); 3])))),
        ("RGB, 16 bit", png(ImageBuffer::from_fn(n, n, |x, y| Rgb([wide(at(x, y)); 3])))),
        ("RGBA", png(ImageBuffer::from_fn(n, n, |x, y| Rgba([at(x, y), at(x, y), at(x, y), 255])))),
        ("grey and alpha", png(ImageBuffer::from_fn(n, n, |x, y| LumaA([at(x, y), 255])))),
    ];
    for (kind, file) in kinds {
        assert_close(&files.read(&file).expect("a digit"), &expected, 0.02, kind);
    }
    let palette: Vec<u8> = (0..=255).flat_map(|b| [b; 3]).collect();
    let rows: Vec<u8> =
        (0..n).flat_map(|y| std::iter::once(0).chain((0..n).map(move |x| (x, y)).map(|(x, y)| at(x, y)))).collect();
    assert_close(&files.read(&raw_png(n, n, 8, 3, &palette, &rows)).expect("a digit"), &expected, 0.02, "palette");
    let jpeg = files.read(&jpeg(GrayImage::from_fn(n, n, |x, y| Luma([at(x, y)])))).expect("a digit");
    assert_close(&jpeg, &expected, 2.0, "JPEG");
}

#[test]
fn behind_transparency_is_what_lets_the_digit_be_seen() {
    let files = Files::new();
    let picture = five(90);
    let cover = |x: u32, y: u32| (picture.values[(y * 90 + x) as usize] / 257.0).round() as u8;
    let expected = made(&picture);
    let ink = |level: u8| png(ImageBuffer::from_fn(90, 90, |x, y| Rgba([level, level, level, cover(x, y)])));
    assert_close(&files.read(&ink(0)).expect("a digit"), &expected, 0.05, "black on nothing");
    assert_close(&files.read(&ink(255)).expect("a digit"), &expected, 0.05, "white on nothing");
    // The colour of what cannot be seen does not count.
    let hidden = |x, y| LumaA([if cover(x, y) == 0 { 255 } else { 0 }, cover(x, y)]);
    let hidden = png(ImageBuffer::from_fn(90, 90, hidden));
    assert_close(&files.read(&hidden).expect("a digit"), &expected, 0.05, "hidden white");
    // A card with transparent corners, black digit on white and white digit on black.
    for card in [255, 0] {
        let corner = |x: u32, y: u32| x.min(89 - x) + y.min(89 - y) < 14;
        let level = |x: u32, y: u32| if card == 255 { 255 - cover(x, y) } else { cover(x, y) };
        let file = png(ImageBuffer::from_fn(90, 90, |x, y| LumaA([level(x, y), if corner(x, y) { 0 } else { 255 }])));
        assert_close(&files.read(&file).expect("a digit"), &expected, 0.05, "a card");
    }
}

/// A JPEG with a note that the camera was turned.
fn turned_jpeg(file: &[u8], orientation: u8) -> Vec<u8> {
    let note =
        [b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    let length = (note.len() as u16 + 2).to_be_bytes();
    [&file[..2], &[0xff, 0xe1], &length[..], &note, &file[2..]].concat()
}

#[test]
fn a_photograph_taken_sideways_is_turned_upright() {
    let files = Files::new();
    let image = bytes8(&five(120));
    let expected = files.read(&jpeg(image.clone())).expect("a digit");
    // 6: the picture must be turned by a quarter clockwise.
    let sideways = turned_jpeg(&jpeg(image::imageops::rotate270(&image)), 6);
    assert_close(&files.read(&sideways).expect("a digit"), &expected, 2.0, "turned");
}

/// The text of the error, checked to be one line that names the file.
fn refusal(path: &Path) -> String {
    let error = read_digit(path).expect_err("an unusable picture was read");
    assert!(matches!(error, Error::Data { .. }) && error.exit_code() == 3, "{error:?}");
    let text = error.to_string();
    assert!(text.lines().count() == 1 && text.starts_with(&path.display().to_string()), "{text}");
    assert!(text.split("; ").count() >= 2, "no remedy in {text}");
    text
}

#[test]
fn unusable_files_are_refused_with_the_reason() {
    let files = Files::new();
    let folder = files.0.path();
    assert!(refusal(&folder.join("none.png")).contains("no such file"));
    assert!(refusal(folder).contains("folder"));
    let good = png(bytes8(&five(60)));
    let photo = jpeg(bytes8(&five(60)));
    let cases: [(&[u8], &str); 8] = [
        (b"", "empty"),
        (b"This is a letter, no picture.\n", "not a picture"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "a Gif picture"),
        (&good[..good.len() / 2], "broken"),
        (&good[..20], "broken"),
        (&photo[..photo.len() / 2], "its end is missing"),
        (&raw_png(30_000, 30_000, 8, 0, &[], &[0; 100]), "20000 pixels along a side"),
        (&raw_png(8_000, 8_000, 8, 0, &[], &[0; 100]), "8000x8000 pixels"),
    ];
    for (bytes, reason) in cases {
        let text = refusal(&files.write(bytes));
        assert!(text.contains(reason), "{reason:?} is not in {text:?}");
    }
    // 16 bits in four channels: few enough pixels, but too many bytes.
    assert!(refusal(&files.write(&raw_png(7_000, 7_000, 16, 6, &[], &[0; 100]))).contains("7000x7000"));
}

#[test]
fn blank_pictures_are_refused() {
    let files = Files::new();
    let flat = |level: u8| png(ImageBuffer::from_pixel(40, 40, Luma([level])));
    let clear = png(ImageBuffer::from_pixel(40, 40, LumaA([0_u8, 0])));
    // Nearly normal noise with a deviation of 29 levels.
    let grain = |place: usize| 50.0 * (0..4).map(|i| noise(4 * place + i)).sum::<f32>();
    let grain = png(ImageBuffer::from_fn(40, 40, |x, y| Luma([(grain((y * 40 + x) as usize) + 20.0) as u8])));
    let faint = png(bytes8(&mapped(&five(40), |value| 0.5 * WHITE + value * 0.02)));
    let dot = png(ImageBuffer::from_pixel(1, 1, Luma([255_u8])));
    for file in [flat(255), flat(0), flat(128), clear, grain, faint, dot] {
        assert!(refusal(&files.write(&file)).contains("blank"));
    }
}

#[test]
fn pictures_of_a_few_pixels_do_no_harm() {
    for width in 1..8 {
        for height in 1..8 {
            for seed in 0..20 {
                let level = |place| if noise(place + 1_000 * seed) > 0.7 { WHITE } else { 0.0 };
                let picture = Gray { width, height, values: (0..width * height).map(level).collect() };
                assert!(digit(&picture).is_none_or(|image| image.len() == 28 * 28));
            }
        }
    }
    // As long and thin as can be.
    let line = |width, height| Gray { width, height, values: (0..20_000).map(|i| (i % 3) as f32 * 20_000.0).collect() };
    assert!(digit(&line(20_000, 1)).is_none_or(|image| image.len() == 28 * 28));
    assert!(digit(&line(1, 20_000)).is_none_or(|image| image.len() == 28 * 28));
}

/// An image or an error; a panic would fail the test.
fn any_answer(files: &Files, bytes: &[u8]) -> bool {
    match files.read(bytes) {
        Ok(image) => {
            assert_eq!(image.len(), 28 * 28);
            true
        }
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            false
        }
    }
}

#[test]
fn cut_files_are_refused() {
    let files = Files::new();
    for file in
        [png(bytes8(&five(40))), jpeg(bytes8(&five(40))), png(DynamicImage::from(bytes8(&five(30))).to_rgba16())]
    {
        // A PNG's last chunk, of 12 bytes, carries nothing.
        for end in (0..file.len() - 12).step_by(3) {
            assert!(!any_answer(&files, &file[..end]), "{end} of {} bytes were taken for a picture", file.len());
        }
        assert!(any_answer(&files, &file));
    }
}

#[test]
fn a_changed_byte_gives_a_picture_or_an_error() {
    let files = Files::new();
    for file in [png(bytes8(&five(40))), jpeg(bytes8(&five(40))), turned_jpeg(&jpeg(bytes8(&five(28))), 6)] {
        for place in 0..file.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = file.clone();
                bytes[place] ^= change;
                any_answer(&files, &bytes);
            }
        }
    }
}
