//! Synthetic digits, drawn with a random pen: a data set for machines that have no network.
//!
//! Every digit is written down as strokes in a few styles. An image takes one style, wobbles it, slants, scales and
//! rotates it, and draws it with a pen of random width on 28x28 pixels, white on black, placed as MNIST's digits are.
//!
//! An image depends on the seed, its split and its index only: each has its own stream of one ChaCha8 generator. So the
//! result is the same for any number of threads, and a smaller set holds the first images of a larger one. The drawing
//! uses sums, products, quotients and square roots alone, which round the same on every platform.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{BYTE_SCALE, Dataset, Sequences, Split, Values};

/// Training images of the full set, as many as MNIST's tutorial split has.
pub const TRAIN: usize = 55_000;
/// Validation images of the full set.
pub const VALIDATION: usize = 5_000;
/// Test images of the full set.
pub const TEST: usize = 10_000;

/// Rows of an image and pixels of a row.
const SIDE: usize = 28;
const CLASSES: usize = 10;

/// A position: x to the right, y downwards.
type Point = (f32, f32);

/// Synthetic digits: images `[N,28,28]` as bytes with scale 1/255, white on black, with their digits as class numbers.
///
/// `train`, `validation` and `test` are the numbers of images in each split ([`TRAIN`], [`VALIDATION`] and [`TEST`] are
/// the usual ones). In each split every ten images from a multiple of ten on hold every digit once, in random order, so
/// no two digits differ by more than one in their number. The same seed gives the same images; fewer images are the
/// first of more.
pub fn digits(seed: u64, train: usize, validation: usize, test: usize) -> Dataset {
    Dataset {
        description: format!(
            "synthetic digits drawn with seed {seed}: {train} for training, {validation} for validation, {test} for \
             testing; accuracy on them cannot be compared with MNIST's"
        ),
        name: "synthetic",
        classes: CLASSES,
        train: sequences(seed, Split::Train, train),
        validation: sequences(seed, Split::Validation, validation),
        test: sequences(seed, Split::Test, test),
        own: None,
    }
}

/// The first `n` images of a split.
fn sequences(seed: u64, split: Split, n: usize) -> Sequences {
    let labels: Vec<u32> = (0..n.div_ceil(CLASSES)).flat_map(|group| labels(seed, split, group)).take(n).collect();
    let mut bytes = vec![0; n * SIDE * SIDE];
    bytes.par_chunks_mut(SIDE * SIDE).zip(&labels).enumerate().for_each(|(index, (image, &digit))| {
        let mut dice = Dice::new(seed, stream(split, Kind::Image, index));
        image.copy_from_slice(&draw(digit as usize, &mut dice));
    });
    Sequences::new(SIDE, SIDE, Values::U8 { bytes, scale: BYTE_SCALE }, labels)
}

/// The labels of images `10 * group` to `10 * group + 9`: every digit once, shuffled.
fn labels(seed: u64, split: Split, group: usize) -> [u32; CLASSES] {
    let mut dice = Dice::new(seed, stream(split, Kind::Labels, group));
    let mut labels = std::array::from_fn(|digit| digit as u32);
    for last in (1..CLASSES).rev() {
        labels.swap(last, dice.below(last + 1));
    }
    labels
}

/// What a stream of random numbers is for.
enum Kind {
    Image,
    Labels,
}

/// The number of the stream for the `index`th thing of a kind in a split: no two share one.
fn stream(split: Split, kind: Kind, index: usize) -> u64 {
    let split = match split {
        Split::Train => 0,
        Split::Validation => 1,
        Split::Test => 2,
    };
    let kind = match kind {
        Kind::Image => 0,
        Kind::Labels => 1,
    };
    (split << 61) | (kind << 60) | index as u64
}

/// Random numbers of one stream. They are made from the generator's words here, not by a library's distributions, so
/// that the images stay the same when that library changes.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64, stream: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Self(generator)
    }

    /// Evenly distributed over `[low, high)`.
    fn between(&mut self, low: f32, high: f32) -> f32 {
        const STEP: f32 = 1.0 / (1 << 24) as f32;
        low + (high - low) * ((self.0.next_u32() >> 8) as f32 * STEP)
    }

    /// Between `-reach` and `reach`, more often near 0: a triangle, as two dice make.
    fn around_zero(&mut self, reach: f32) -> f32 {
        self.between(-0.5, 0.5) * reach + self.between(-0.5, 0.5) * reach
    }

    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }
}

/// One pull of the pen, in hundredths of the digit's height.
enum Stroke {
    /// Straight from point to point.
    Line(&'static [(i8, i8)]),
    /// Smoothly through all points.
    Curve(&'static [(i8, i8)]),
}
use Stroke::{Curve, Line};

/// A way to write a digit; strokes that share a point stay joined there.
type Style = &'static [Stroke];

/// The ways to write each digit; a style that stands twice is drawn twice as often.
#[rustfmt::skip]
const STYLES: [&[Style]; CLASSES] = [
    &[ZERO_ROUND, ZERO_FROM_RIGHT],
    &[ONE_PLAIN, ONE_PLAIN, ONE_FLAG, ONE_BASE],
    &[TWO_ANGLE, TWO_LOOP],
    &[THREE_ROUND, THREE_ROUND, THREE_FLAT],
    &[FOUR_OPEN, FOUR_OPEN, FOUR_CLOSED],
    &[FIVE_ANGLE, FIVE_ANGLE, FIVE_ROUND],
    &[SIX_ROUND, SIX_SLIM],
    &[SEVEN_PLAIN, SEVEN_PLAIN, SEVEN_BAR, SEVEN_CURVED],
    &[EIGHT_CROSSED, EIGHT_CROSSED, EIGHT_RINGS],
    &[NINE_STRAIGHT, NINE_HOOK],
];

const ZERO_ROUND: Style = &[Curve(&[
    (36, 0),
    (17, 10),
    (6, 32),
    (5, 62),
    (15, 89),
    (34, 100),
    (54, 90),
    (66, 64),
    (65, 33),
    (54, 9),
    (36, 0),
])];
const ZERO_FROM_RIGHT: Style = &[Curve(&[
    (52, 4),
    (32, 2),
    (13, 18),
    (5, 46),
    (9, 77),
    (25, 97),
    (43, 95),
    (57, 75),
    (61, 45),
    (55, 17),
    (40, 3),
    (27, 5),
])];
const ONE_PLAIN: Style = &[Line(&[(30, 0), (30, 100)])];
const ONE_FLAG: Style = &[Line(&[(20, 24), (36, 0), (36, 100)])];
const ONE_BASE: Style = &[Line(&[(20, 22), (36, 0), (36, 100)]), Line(&[(14, 100), (58, 100)])];
const TWO_ANGLE: Style =
    &[Curve(&[(7, 24), (16, 6), (36, 0), (55, 8), (60, 28), (48, 52), (26, 76), (4, 98)]), Line(&[(4, 98), (66, 97)])];
const TWO_LOOP: Style = &[Curve(&[
    (8, 20),
    (21, 3),
    (42, 1),
    (56, 14),
    (55, 36),
    (40, 63),
    (21, 88),
    (6, 95),
    (3, 84),
    (17, 79),
    (34, 90),
    (52, 99),
    (70, 93),
])];
const THREE_ROUND: Style = &[
    Curve(&[(6, 13), (23, 0), (45, 3), (55, 19), (46, 36), (24, 46)]),
    Curve(&[(24, 46), (50, 50), (62, 68), (54, 90), (31, 100), (4, 90)]),
];
const THREE_FLAT: Style =
    &[Line(&[(8, 2), (58, 2), (29, 40)]), Curve(&[(29, 40), (52, 46), (62, 66), (54, 90), (31, 100), (5, 90)])];
const FOUR_OPEN: Style = &[Line(&[(12, 2), (5, 56), (67, 54)]), Line(&[(53, 6), (48, 100)])];
const FOUR_CLOSED: Style = &[Line(&[(48, 100), (48, 0), (1, 67), (70, 67)])];
const FIVE_ANGLE: Style = &[
    Line(&[(60, 2), (15, 2), (11, 43)]),
    Curve(&[(11, 43), (36, 37), (57, 50), (60, 75), (43, 96), (20, 100), (2, 89)]),
];
const FIVE_ROUND: Style =
    &[Curve(&[(62, 3), (38, 2), (19, 8), (13, 27), (23, 41), (44, 48), (58, 64), (53, 88), (31, 100), (4, 92)])];
const SIX_ROUND: Style = &[Curve(&[
    (53, 2),
    (31, 14),
    (13, 40),
    (5, 70),
    (16, 94),
    (38, 100),
    (56, 87),
    (56, 67),
    (40, 55),
    (20, 61),
    (7, 77),
])];
const SIX_SLIM: Style =
    &[Curve(&[(36, 0), (18, 28), (7, 58), (9, 87), (27, 100), (47, 91), (51, 71), (37, 59), (20, 65), (9, 81)])];
const SEVEN_PLAIN: Style = &[Line(&[(-4, 4), (66, 2), (27, 100)])];
const SEVEN_BAR: Style = &[Line(&[(-4, 4), (66, 2), (27, 100)]), Line(&[(18, 51), (62, 48)])];
const SEVEN_CURVED: Style = &[Line(&[(-3, 17), (-1, 4), (66, 4)]), Curve(&[(66, 4), (46, 33), (35, 65), (31, 100)])];
const EIGHT_CROSSED: Style = &[Curve(&[
    (57, 14),
    (40, 0),
    (17, 6),
    (13, 26),
    (32, 45),
    (54, 63),
    (58, 86),
    (36, 100),
    (12, 89),
    (11, 67),
    (31, 47),
    (53, 29),
    (57, 14),
])];
const EIGHT_RINGS: Style = &[
    Curve(&[(34, 46), (16, 36), (14, 14), (32, 1), (51, 11), (52, 34), (34, 46)]),
    Curve(&[(34, 46), (12, 57), (7, 82), (30, 100), (56, 87), (56, 60), (34, 46)]),
];
const NINE_STRAIGHT: Style = &[
    Curve(&[(58, 12), (37, 0), (14, 9), (5, 29), (16, 47), (37, 47), (53, 33), (58, 12)]),
    Line(&[(58, 12), (54, 100)]),
];
const NINE_HOOK: Style = &[
    Curve(&[(57, 20), (42, 1), (18, 5), (6, 26), (15, 46), (36, 47), (52, 34), (57, 20)]),
    Curve(&[(57, 20), (59, 50), (50, 82), (30, 99), (8, 93)]),
];

/// One image of `digit`, row by row.
fn draw(digit: usize, dice: &mut Dice) -> [u8; SIDE * SIDE] {
    let styles = STYLES[digit];
    let style = styles[dice.below(styles.len())];
    let hand = Hand::new(dice);
    let mut lines: Vec<Vec<Point>> = style.iter().map(|stroke| path(stroke, &hand)).collect();
    let pen = Pen::new(dice);
    place(&mut lines, pen.reach(), dice);
    shade(&nearest(&lines, pen.reach()), &pen, dice)
}

/// Cells of the wobble's grid along an edge of the digit's box.
const GRID: usize = 3;

/// How this writer bends a style: a random wobble, then a linear map.
struct Hand {
    /// Shifts at the grid's corners, in heights of the digit. Between them they are blended, so points that coincide
    /// move together and joints stay closed.
    wobble: [[Point; GRID + 1]; GRID + 1],
    /// Rows of the matrix that scales, slants and rotates.
    matrix: [Point; 2],
}

impl Hand {
    fn new(dice: &mut Dice) -> Self {
        let wobble =
            std::array::from_fn(|_| std::array::from_fn(|_| (dice.around_zero(WOBBLE), dice.around_zero(WOBBLE))));
        let (wide, tall) = (dice.between(0.72, 1.2), dice.between(0.8, 1.1));
        // Most people lean to the right: with y downwards, x falls as y grows.
        let slant = dice.around_zero(0.55) - 0.12;
        let sin = dice.around_zero(0.4);
        let cos = (1.0 - sin * sin).sqrt();
        let matrix = [(cos * wide, (cos * slant - sin) * tall), (sin * wide, (sin * slant + cos) * tall)];
        Self { wobble, matrix }
    }

    /// Where a style's point goes, before the digit is placed.
    fn bend(&self, (x, y): (i8, i8)) -> Point {
        let (x, y) = (f32::from(x) / 100.0, f32::from(y) / 100.0);
        let (shift_x, shift_y) = self.shift(x, y);
        let (x, y) = (x + shift_x, y + shift_y);
        let [(xx, xy), (yx, yy)] = self.matrix;
        (xx * x + xy * y, yx * x + yy * y)
    }

    /// The wobble at a place of the unit square.
    fn shift(&self, x: f32, y: f32) -> Point {
        let cell = |v: f32| (((v * GRID as f32) as usize).min(GRID - 1), v * GRID as f32);
        let ((column, u), (row, v)) = (cell(x), cell(y));
        let (u, v) = (u - column as f32, v - row as f32);
        let across = |row: usize| blend(self.wobble[row][column], self.wobble[row][column + 1], u);
        blend(across(row), across(row + 1), v)
    }
}

/// Reach of the wobble in heights of the digit: more would turn some digits into others.
const WOBBLE: f32 = 0.17;

/// The point at share `t` of the way from `a` to `b`.
fn blend(a: Point, b: Point, t: f32) -> Point {
    (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t)
}

/// The corners of a stroke after bending; curves become short lines.
fn path(stroke: &Stroke, hand: &Hand) -> Vec<Point> {
    match stroke {
        Line(points) => points.iter().map(|&point| hand.bend(point)).collect(),
        Curve(points) => smooth(&points.iter().map(|&point| hand.bend(point)).collect::<Vec<_>>()),
    }
}

/// Lines for each span of a curve.
const PIECES: usize = 4;

/// A Catmull-Rom curve through the points: at each it runs parallel to the line between its neighbours.
fn smooth(points: &[Point]) -> Vec<Point> {
    let last = points.len() - 1;
    let mut path = vec![points[0]];
    for i in 0..last {
        let (a, b) = (points[i], points[i + 1]);
        let (before, after) = (points[i.saturating_sub(1)], points[(i + 2).min(last)]);
        for piece in 1..=PIECES {
            let t = piece as f32 / PIECES as f32;
            let at = |before: f32, a: f32, b: f32, after: f32| {
                let (out, into) = ((b - before) * 0.5, (after - a) * 0.5);
                let (square, cube) = (3.0 * (b - a) - 2.0 * out - into, 2.0 * (a - b) + out + into);
                a + t * (out + t * (square + t * cube))
            };
            path.push((at(before.0, a.0, b.0, after.0), at(before.1, a.1, b.1, after.1)));
        }
    }
    path
}

/// The pen, in pixels and shares of full white.
struct Pen {
    /// Half its width.
    radius: f32,
    /// Width of the soft edge, half of it on either side of the radius.
    softness: f32,
    /// Brightness of a stroke's middle.
    white: f32,
    /// Reach of the noise.
    noise: f32,
}

impl Pen {
    fn new(dice: &mut Dice) -> Self {
        Self {
            radius: dice.between(0.75, 1.85),
            softness: dice.between(1.0, 1.8),
            white: dice.between(0.8, 1.1),
            noise: dice.between(0.0, 0.1),
        }
    }

    /// How far from its path the pen leaves any ink.
    fn reach(&self) -> f32 {
        self.radius + 0.5 * self.softness
    }
}

/// The longer side of the drawn digit, in pixels, as in MNIST.
const BOX: f32 = 20.0;
/// Pixels along the image's edge that stay black.
const MARGIN: f32 = 1.0;
/// How far the centre of mass may lie from the image's, in pixels in each direction.
const SHIFT: f32 = 2.0;

/// Scales the lines so that the digit fits the box, and moves its centre of mass near the image's centre.
fn place(lines: &mut [Vec<Point>], reach: f32, dice: &mut Dice) {
    let (low, high) = bounds(lines);
    let size = BOX * dice.between(0.97, 1.04);
    let scale = (size - 2.0 * reach) / (high.0 - low.0).max(high.1 - low.1);
    let mass = centre(lines);
    // MNIST counts pixels from their corners: a centre of mass at (14, 14) lies half a pixel right of and below the
    // image's middle.
    let middle = SIDE as f32 / 2.0 + 0.5;
    let room = SIDE as f32 - MARGIN - reach;
    let mut axis = |mass: f32, low: f32, high: f32| {
        let at = middle + dice.between(-SHIFT, SHIFT);
        let (least, most) = (SIDE as f32 - room - (low - mass) * scale, room - (high - mass) * scale);
        (mass, at.max(least).min(most))
    };
    let ((mass_x, x), (mass_y, y)) = (axis(mass.0, low.0, high.0), axis(mass.1, low.1, high.1));
    for point in lines.iter_mut().flatten() {
        *point = (x + (point.0 - mass_x) * scale, y + (point.1 - mass_y) * scale);
    }
}

/// The smallest and the largest coordinates.
fn bounds(lines: &[Vec<Point>]) -> (Point, Point) {
    let start = ((f32::INFINITY, f32::INFINITY), (f32::NEG_INFINITY, f32::NEG_INFINITY));
    lines
        .iter()
        .flatten()
        .fold(start, |(low, high), &(x, y)| ((low.0.min(x), low.1.min(y)), (high.0.max(x), high.1.max(y))))
}

/// The centre of mass of lines of even width.
fn centre(lines: &[Vec<Point>]) -> Point {
    let (mut sum, mut length) = ((0.0, 0.0), 0.0);
    for (a, b) in lines.iter().flat_map(|line| line.iter().zip(&line[1..])) {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let long = (dx * dx + dy * dy).sqrt();
        let middle = blend(*a, *b, 0.5);
        sum = (sum.0 + middle.0 * long, sum.1 + middle.1 * long);
        length += long;
    }
    (sum.0 / length, sum.1 / length)
}

/// The squared distance of each pixel's middle from the nearest line, where it is at most `reach`.
fn nearest(lines: &[Vec<Point>], reach: f32) -> [f32; SIDE * SIDE] {
    let mut squares = [f32::INFINITY; SIDE * SIDE];
    for (&(ax, ay), &(bx, by)) in lines.iter().flat_map(|line| line.iter().zip(&line[1..])) {
        let (dx, dy) = (bx - ax, by - ay);
        // A line without length is its first point.
        let inverse = 1.0 / (dx * dx + dy * dy).max(1e-12);
        // `as` takes a negative number to 0.
        let range =
            |a: f32, b: f32| ((a.min(b) - reach) as usize).min(SIDE)..((a.max(b) + reach) as usize + 1).min(SIDE);
        for row in range(ay, by) {
            let y = row as f32 + 0.5 - ay;
            for column in range(ax, bx) {
                let x = column as f32 + 0.5 - ax;
                let t = ((x * dx + y * dy) * inverse).clamp(0.0, 1.0);
                let (ex, ey) = (x - t * dx, y - t * dy);
                let square = &mut squares[row * SIDE + column];
                *square = square.min(ex * ex + ey * ey);
            }
        }
    }
    squares
}

/// The pixels, from the squares of their distances from the pen's path.
fn shade(squares: &[f32; SIDE * SIDE], pen: &Pen, dice: &mut Dice) -> [u8; SIDE * SIDE] {
    let mut image = [0; SIDE * SIDE];
    for (pixel, square) in image.iter_mut().zip(squares) {
        let cover = ((pen.reach() - square.sqrt()) / pen.softness).clamp(0.0, 1.0);
        // Paper is plain, as MNIST's: most of an image is zero, which engines may make use of.
        let noise = if cover > 0.0 { dice.between(-pen.noise, pen.noise) } else { 0.0 };
        let ink = (cover * pen.white + noise).clamp(0.0, 1.0);
        // `as` cuts off; a half more rounds to the nearest.
        *pixel = (ink * 255.0 + 0.5) as u8;
    }
    image
}
