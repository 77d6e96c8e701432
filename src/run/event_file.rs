//! TensorBoard's event files: records of a length, the bytes of an `Event`, and a checksum of each.
//!
//! Form of a record (TFRecord), little endian: `u64` length, `u32` masked CRC-32C of these eight bytes, the bytes, `u32` masked
//! CRC-32C of them. The messages are the part of TensorFlow's `event.proto` and `summary.proto` that numbers over steps need.

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What the first record says of the form.
const FILE_VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of several kinds of value in the original, so it is written even if it is zero.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// A new event file that numbers are appended to.
pub struct EventFile(File);

impl EventFile {
    /// Creates the file; `time` is in seconds since 1970. Its name must hold `tfevents` for TensorBoard to see it.
    ///
    /// # Errors
    ///
    /// If there is such a file already or it cannot be written.
    pub fn create(path: &Path, time: f64) -> io::Result<Self> {
        let mut file = Self(File::create_new(path)?);
        file.write(&Event { wall_time: time, file_version: Some(FILE_VERSION.into()), ..Event::default() })?;
        Ok(file)
    }

    /// Appends the values of some tags after `step`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn scalars(&mut self, step: u64, time: f64, values: &[(&str, f64)]) -> io::Result<()> {
        let value = |&(tag, value): &(&str, f64)| Value { tag: tag.into(), simple_value: Some(value as f32) };
        let summary = Summary { value: values.iter().map(value).collect() };
        self.write(&Event { wall_time: time, step: step as i64, summary: Some(summary), ..Event::default() })
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        // A record at a time, so that whoever reads meanwhile finds whole ones.
        self.0.write_all(&record(&event.encode_to_vec()))
    }
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length, &masked_crc(&length).to_le_bytes()[..], bytes, &masked_crc(bytes).to_le_bytes()].concat()
}

/// The checksum as these files hold it: turned and shifted, for a CRC of bytes that hold their own CRC tells little.
fn masked_crc(bytes: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // CRC-32C of "123456789" is e3069283 in every table of checksums.
        assert_eq!(Crc::<u32>::new(&CRC_32_ISCSI).checksum(b"123456789"), 0xe306_9283);
        let unmasked = masked_crc(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmasked, 0xe306_9283);
    }

    /// The bytes that TensorBoard's own writer makes of the same two events.
    #[test]
    fn bytes_are_those_of_tensorboards_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.1");
        let mut file = EventFile::create(&path, 1.5).unwrap();
        file.scalars(300, 2.25, &[("loss/train", 0.5), ("accuracy/train", 0.0)]).unwrap();
        let hex: String = std::fs::read(&path).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let header = "1800000000000000a37f4b2209000000000000f83f1a0d62\
                      7261696e2e4576656e743a322a28646c";
        let numbers = "3800000000000000a3797d5709000000000000024010ac022a2a0a110a0a6c6f\
                       73732f747261696e150000003f0a150a0e61636375726163792f747261696e15000000000ac30393";
        assert_eq!(hex, format!("{header}{numbers}"));
        assert!(EventFile::create(&path, 1.5).is_err(), "nothing is written over");
    }
}
