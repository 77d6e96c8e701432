//! A picture of one digit, brought to the form of MNIST's images.
//!
//! MNIST was made by scaling each digit to a box of 20x20 pixels, its sides' ratio kept, with grey levels from averaging,
//! and by placing it in 28x28 pixels with its centre of mass in the middle, white on black. The same is done here, after
//! the digit has been found: the picture may be dark on light or light on dark, of any size, with some noise. It should
//! show one digit on even ground.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, LumaA};

use crate::{Error, Result};

/// Rows of an image and pixels of a row.
const SIDE: usize = 28;
/// The longer side of the digit in it.
const BOX: usize = 20;
/// Where its centre of mass comes, in rows and columns counted from 0, as in MNIST.
const MIDDLE: f32 = 14.0;

/// Full white in a [`Gray`] picture.
const WHITE: f32 = 65535.0;

/// Largest file, in bytes; also the most memory that decoding may take.
const MAX_BYTES: u64 = 256 << 20;
/// Most pixels along a side.
const MAX_SIDE: u32 = 20_000;
/// Most pixels in all: those of a 50-megapixel camera.
const MAX_PIXELS: u64 = 50_000_000;

/// A picture without colour.
#[derive(Clone, Debug, PartialEq)]
pub struct Gray {
    /// Pixels of a row, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// `[height,width]`, from 0 (black) to 65535 (white).
    pub values: Vec<f32>,
}

/// Reads a PNG or JPEG picture of one digit as an image in MNIST's form: 784 bytes, `[28,28]`, white on black.
///
/// Where a picture is transparent, its background shows. A photograph's note of how the camera was held is followed.
///
/// # Errors
///
/// [`Error::Data`] if there is no such file or it is a folder, if it is empty, too large, broken or no PNG or JPEG, or
/// if the picture has no digit on it; [`Error::Io`] if the system does not let it be read.
pub fn read_digit(path: &Path) -> Result<Vec<u8>> {
    let image = decode(path, &read(path)?)?;
    digit(&flatten(&image.into_luma_alpha16())).ok_or_else(|| {
        Error::data(path, "the picture is blank: nothing stands out from its background", "give one that shows a digit")
    })
}

/// The file's bytes.
fn read(path: &Path) -> Result<Vec<u8>> {
    const REMEDY: &str = "give the path of a PNG or JPEG picture";
    if path.is_dir() {
        return Err(Error::data(path, "is a folder", REMEDY));
    }
    let refused = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => Error::data(path, "no such file", REMEDY),
        _ => Error::io(path, "read", e, REMEDY),
    };
    let mut bytes = Vec::new();
    // What is no plain file may have no end.
    File::open(path).map_err(refused)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(refused)?;
    match bytes.len() as u64 {
        0 => Err(Error::data(path, "the file is empty", REMEDY)),
        n if n > MAX_BYTES => Err(Error::data(path, format!("more than {MAX_BYTES} bytes"), "scale the picture down")),
        _ => Ok(bytes),
    }
}

/// The picture, turned upright.
fn decode(path: &Path, bytes: &[u8]) -> Result<DynamicImage> {
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        Ok(other) => return Err(Error::data(path, format!("a {other:?} picture"), "save it as PNG or JPEG")),
        Err(_) => return Err(Error::data(path, "not a picture", "give a PNG or JPEG picture")),
    };
    // The decoder fills up with grey what a JPEG lacks, and tells nobody.
    if format == ImageFormat::Jpeg && !has_end(bytes) {
        return Err(broken(path, "its end is missing"));
    }
    let refused = |e| match e {
        ImageError::Limits(_) => {
            too_large(path, format!("more than {MAX_SIDE} pixels along a side, or too much memory"))
        }
        e => broken(path, &e.to_string()),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_BYTES {
        return Err(too_large(path, format!("{width}x{height} pixels are too many")));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn too_large(path: &Path, found: String) -> Error {
    Error::data(path, found, format!("scale the picture down, to at most {} million pixels", MAX_PIXELS / 1_000_000))
}

fn broken(path: &Path, why: &str) -> Error {
    // The decoders' texts may have several lines.
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::data(path, format!("the picture is broken ({why})"), "save or copy it again")
}

/// True if a JPEG's mark for the end follows its last mark for the start of pixels.
fn has_end(bytes: &[u8]) -> bool {
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| pair == mark);
    last([0xff, 0xd9]) > last([0xff, 0xda])
}

/// Grey values over the picture's background where it is transparent.
fn flatten(image: &GreyAlpha) -> Gray {
    let (width, height) = image.dimensions();
    let behind = behind(image);
    let over = |LumaA([luma, alpha]): &LumaA<u16>| {
        let share = f32::from(*alpha) / WHITE;
        f32::from(*luma) * share + behind * (1.0 - share)
    };
    Gray { width: width as usize, height: height as usize, values: image.pixels().map(over).collect() }
}

type GreyAlpha = ImageBuffer<LumaA<u16>, Vec<u16>>;

/// What to put behind a transparent picture.
///
/// If most of it is transparent, what is opaque is the digit, and white goes behind a dark one, black behind a light
/// one. Otherwise the picture has a background of its own, which is then its most common grey.
fn behind(image: &GreyAlpha) -> f32 {
    let opaque = || image.pixels().filter(|pixel| pixel[1] > u16::MAX / 2).map(|pixel| f32::from(pixel[0]));
    let (count, all) = (opaque().count(), image.pixels().len());
    if count == all {
        return WHITE; // nothing shows through
    }
    if count * 2 > all {
        return median(opaque().collect());
    }
    let mean = opaque().map(f64::from).sum::<f64>() / count.max(1) as f64;
    if mean < f64::from(WHITE) / 2.0 { WHITE } else { 0.0 }
}

/// The digit of a picture in MNIST's form: 784 bytes, `[28,28]`, white on black; none if the picture is blank.
///
/// The digit's longer side has 20 pixels (19 or 21 if it had so many already: then its pixels are taken as they are),
/// its strongest pixel is 255, and its centre of mass lies within half a pixel of row 14 and column 14, counted from 0:
/// it is moved by whole pixels, as MNIST's digits were, and not so far that some of it would be cut off. A picture that
/// has this form already comes out as it is.
///
/// # Panics
///
/// If `values` does not hold `height * width` numbers or the picture has no pixel.
pub fn digit(picture: &Gray) -> Option<Vec<u8>> {
    assert_eq!(picture.values.len(), picture.width * picture.height, "values do not have the shape [height,width]");
    assert!(!picture.values.is_empty(), "a picture without pixels");
    let (ink, noise) = ink(&shrink(picture));
    let mut digit = ink.clone();
    let area = strokes(&mut digit, noise)?;
    let digit = crop(&digit, &area);
    Some(place(&if has_form(&ink, &digit, &area) { ink } else { fit(&digit) }))
}

/// True if a picture, with its digit cut out from `area`, is in MNIST's form.
fn has_form(picture: &Gray, digit: &Gray, area: &Area) -> bool {
    // Rounding, and faint pixels that were not taken for ink, may have moved the centre a little.
    let centred = |centre: f32, start: usize| (centre + start as f32 - MIDDLE).abs() < 0.55;
    let (row, column) = centre_of_mass(digit);
    let sized = digit.width.max(digit.height).abs_diff(BOX) <= 1;
    (picture.width, picture.height) == (SIDE, SIDE) && sized && centred(row, area.top) && centred(column, area.left)
}

/// Longest side in which a digit is looked for, in pixels: enough for a digit that is a twentieth of the picture, and
/// averaging more pixels to so many takes away most noise.
const SEARCH: usize = 400;

/// The picture with at most [`SEARCH`] pixels along a side.
fn shrink(picture: &Gray) -> Gray {
    let long = picture.width.max(picture.height);
    if long <= SEARCH {
        return picture.clone();
    }
    let side = |n: usize| (n * SEARCH / long).max(1);
    resample(picture, side(picture.width), side(picture.height))
}

/// How much each pixel stands out from the background towards the digit's side, dark or light, beyond the noise; and
/// that noise.
fn ink(picture: &Gray) -> (Gray, f32) {
    let border = border(picture);
    let paper = median(border.clone());
    // Three times the median deviation is about two standard deviations of normal noise. A median, so that a digit
    // that touches the border does not count.
    let noise = 3.0 * median(border.iter().map(|value| (value - paper).abs()).collect());
    // The third power gives few strong pixels, strokes, more weight than many weak ones, shadows.
    let lighter: f64 = picture.values.iter().map(|value| f64::from(value - paper).powi(3)).sum();
    let side = if lighter < 0.0 { -1.0 } else { 1.0 };
    let values = picture.values.iter().map(|value| (side * (value - paper) - noise).max(0.0)).collect();
    (Gray { values, ..*picture }, noise)
}

/// The values of the outermost pixels.
fn border(picture: &Gray) -> Vec<f32> {
    let (right, bottom) = (picture.width - 1, picture.height - 1);
    let outer = |place: &usize| {
        let (row, column) = (place / picture.width, place % picture.width);
        row == 0 || row == bottom || column == 0 || column == right
    };
    (0..picture.values.len()).filter(outer).map(|place| picture.values[place]).collect()
}

/// The middle value, or the mean of the two middle ones; 0 of nothing.
fn median(mut values: Vec<f32>) -> f32 {
    let half = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    let even = values.len().is_multiple_of(2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(half, f32::total_cmp);
    if even { (below.iter().copied().fold(0.0, f32::max) + upper) * 0.5 } else { upper }
}

/// A rectangle of pixels: from `left` and `top` to before `right` and `bottom`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Area {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// Least contrast of a digit with its background.
const CONTRAST: f32 = 0.04 * WHITE;

/// Wipes out what does not belong to the digit and gives the area of what does, if there is a digit.
///
/// The digit is all connected pixels with enough ink (several such sets, if the pen was lifted): a set counts if it has
/// a pixel nearly as strong as the strongest and is not a mere speck beside the largest.
fn strokes(ink: &mut Gray, noise: f32) -> Option<Area> {
    let peak = ink.values.iter().copied().fold(0.0, f32::max);
    if peak < CONTRAST.max(1.5 * noise) {
        return None;
    }
    let mut sets = connected(ink, 0.12 * peak);
    let mass = |set: &[usize]| set.iter().map(|&place| ink.values[place]).sum::<f32>();
    let largest = sets.iter().map(|set| mass(set)).fold(0.0, f32::max);
    sets.retain(|set| set.iter().any(|&place| ink.values[place] > 0.4 * peak) && mass(set) > 0.04 * largest);

    let mut kept = vec![0.0; ink.values.len()];
    let mut area = Area { left: usize::MAX, top: usize::MAX, right: 0, bottom: 0 };
    for place in sets.into_iter().flatten() {
        kept[place] = ink.values[place];
        let (row, column) = (place / ink.width, place % ink.width);
        area = Area {
            left: area.left.min(column),
            top: area.top.min(row),
            right: area.right.max(column + 1),
            bottom: area.bottom.max(row + 1),
        };
    }
    ink.values = kept;
    (area.left < area.right).then_some(area)
}

/// The sets of pixels above `least` that touch each other, by a side or a corner.
fn connected(ink: &Gray, least: f32) -> Vec<Vec<usize>> {
    let mut open: Vec<bool> = ink.values.iter().map(|&value| value > least).collect();
    let mut sets = Vec::new();
    for start in 0..open.len() {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        let mut set = vec![start];
        let mut next = 0;
        while next < set.len() {
            let (row, column) = (set[next] / ink.width, set[next] % ink.width);
            for row in row.saturating_sub(1)..(row + 2).min(ink.height) {
                for column in column.saturating_sub(1)..(column + 2).min(ink.width) {
                    let place = row * ink.width + column;
                    if std::mem::take(&mut open[place]) {
                        set.push(place);
                    }
                }
            }
            next += 1;
        }
        sets.push(set);
    }
    sets
}

/// The pixels of an area.
fn crop(picture: &Gray, area: &Area) -> Gray {
    let rows = (area.top..area.bottom).map(|row| row * picture.width);
    let values = rows.flat_map(|row| &picture.values[row + area.left..row + area.right]).copied().collect();
    Gray { width: area.right - area.left, height: area.bottom - area.top, values }
}

/// Scales the digit to the box, its sides' ratio kept.
fn fit(digit: &Gray) -> Gray {
    let long = digit.width.max(digit.height);
    // An edge fainter than the threshold may have cost a pixel: a digit already in MNIST's form must not be blurred.
    if long.abs_diff(BOX) <= 1 {
        return digit.clone();
    }
    let side = |n: usize| ((2 * n * BOX + long) / (2 * long)).max(1);
    resample(digit, side(digit.width), side(digit.height))
}

/// A picture with another number of pixels: fewer by averaging over areas, more by linear interpolation.
fn resample(picture: &Gray, width: usize, height: usize) -> Gray {
    let across = shares(picture.width, width);
    let narrow: Vec<f32> = picture
        .values
        .chunks_exact(picture.width)
        .flat_map(|row| across.iter().map(|share| share.of(row, 1)))
        .collect();
    let down = shares(picture.height, height);
    let values = down.iter().flat_map(|share| (0..width).map(|column| share.of(&narrow[column..], width))).collect();
    Gray { width, height, values }
}

/// Which pixels of a line make one pixel of the new line, and how much of each.
struct Share {
    first: usize,
    weights: Vec<f32>,
}

impl Share {
    /// The new pixel, from a line whose pixels lie `step` apart.
    fn of(&self, line: &[f32], step: usize) -> f32 {
        self.weights.iter().enumerate().map(|(i, weight)| weight * line[(self.first + i) * step]).sum()
    }
}

/// The shares of `from` pixels in each of `to` pixels; each new pixel's weights add up to 1.
fn shares(from: usize, to: usize) -> Vec<Share> {
    let scale = from as f32 / to as f32;
    let area = |i: usize| {
        let (start, end) = (i as f32 * scale, (i + 1) as f32 * scale);
        let (first, last) = ((start as usize).min(from - 1), (end.ceil() as usize).clamp(1, from));
        let covered = |pixel: usize| (end.min((pixel + 1) as f32) - start.max(pixel as f32)).max(0.0);
        (first, (first..last.max(first + 1)).map(covered).collect::<Vec<_>>())
    };
    let line = |i: usize| {
        let middle = ((i as f32 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f32);
        let first = (middle as usize).min(from.saturating_sub(2));
        let second = middle - first as f32;
        (first, if from == 1 { vec![1.0] } else { vec![1.0 - second, second] })
    };
    let share = |i: usize| {
        let (first, mut weights) = if to < from { area(i) } else { line(i) };
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        Share { first, weights }
    };
    (0..to).map(share).collect()
}

/// Puts the digit into an image, with its strongest pixel at 255 and its centre of mass in the middle.
fn place(digit: &Gray) -> Vec<u8> {
    let peak = digit.values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let (row, column) = centre_of_mass(digit);
    // Whole pixels, as MNIST did: a share of a pixel would blur the digit.
    let shift = |centre: f32, size: usize| ((MIDDLE - centre).round().max(0.0) as usize).min(SIDE - size);
    let (top, left) = (shift(row, digit.height), shift(column, digit.width));
    let mut image = vec![0; SIDE * SIDE];
    for (row, values) in digit.values.chunks_exact(digit.width).enumerate() {
        let start = (top + row) * SIDE + left;
        for (pixel, value) in image[start..start + digit.width].iter_mut().zip(values) {
            *pixel = (value / peak * 255.0).round() as u8;
        }
    }
    image
}

/// The centre of mass (row, column), the first pixel's middle being 0.
fn centre_of_mass(digit: &Gray) -> (f32, f32) {
    let (mut mass, mut rows, mut columns) = (0.0, 0.0, 0.0);
    for (place, value) in digit.values.iter().enumerate() {
        mass += value;
        rows += value * (place / digit.width) as f32;
        columns += value * (place % digit.width) as f32;
    }
    let mass = mass.max(f32::MIN_POSITIVE);
    (rows / mass, columns / mass)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: usize, values: &[f32]) -> Gray {
        Gray { width, height: values.len() / width, values: values.to_vec() }
    }

    #[test]
    fn the_median_of_odd_even_and_no_values() {
        assert_eq!(median(vec![9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(vec![9.0, 1.0, 4.0, 6.0]), 5.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn fewer_pixels_are_averages_over_areas() {
        let picture = gray(4, &[1.0, 3.0, 10.0, 20.0, 5.0, 7.0, 30.0, 40.0]);
        assert_eq!(resample(&picture, 2, 1), gray(2, &[4.0, 25.0]));
        // 3 pixels to 2: each takes one and a half.
        assert_eq!(resample(&gray(3, &[6.0, 12.0, 0.0]), 2, 1), gray(2, &[8.0, 4.0]));
    }

    #[test]
    fn more_pixels_lie_on_lines_between() {
        assert_eq!(resample(&gray(2, &[0.0, 8.0]), 4, 1), gray(4, &[0.0, 2.0, 6.0, 8.0]));
        assert_eq!(resample(&gray(1, &[0.0, 8.0]), 1, 4), gray(1, &[0.0, 2.0, 6.0, 8.0]));
        assert_eq!(resample(&gray(1, &[5.0]), 3, 2), gray(3, &[5.0; 6]));
    }

    #[test]
    fn any_size_to_any_size_keeps_an_even_grey() {
        for from in 1..60 {
            for to in 1..60 {
                let made = resample(&gray(from, &vec![7.0; from]), to, 1);
                assert!(made.width == to && made.values.iter().all(|v| (v - 7.0).abs() < 1e-4), "{from} to {to}");
            }
        }
    }

    #[test]
    fn pixels_that_touch_by_a_corner_are_connected() {
        #[rustfmt::skip]
        let picture = gray(5, &[
            1.0, 0.0, 0.0, 1.0, 1.0,
            0.0, 1.0, 0.0, 0.0, 1.0,
            1.0, 0.0, 0.0, 0.0, 0.0,
        ]);
        let sets: Vec<Vec<usize>> = connected(&picture, 0.5)
            .into_iter()
            .map(|mut set| {
                set.sort_unstable();
                set
            })
            .collect();
        assert_eq!(sets, [vec![0, 6, 10], vec![3, 4, 9]]);
    }

    #[test]
    fn the_border_is_each_outer_pixel_once() {
        let picture = gray(3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(border(&picture), [1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(border(&gray(3, &[1.0, 2.0, 3.0])), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_end_of_a_jpeg_comes_after_its_pixels() {
        assert!(has_end(&[0xff, 0xda, 7, 0xff, 0xd9, 0, 0]));
        assert!(!has_end(&[0xff, 0xd9, 0xff, 0xda, 7, 0xff]), "a preview's end does not count");
        assert!(!has_end(&[0xff, 0xd8]));
    }
}
