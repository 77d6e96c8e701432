//! Entries of a zip file, the wrapping of NumPy's `.npz`: stored or deflated, with every length and checksum checked.

use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use std::io::Read;

/// Deflate's best ratio: 258 bytes from two bits. An entry that claims more is lying.
const MAX_RATIO: u64 = 1032;
/// More in one entry is refused, whatever it claims.
const MAX_BYTES: u64 = 2 << 30;

const END: &[u8] = b"PK\x05\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// An entry as the file's directory describes it.
pub struct Entry {
    /// Name of the file that was packed.
    pub name: String,
    method: u16,
    flags: u16,
    crc: u32,
    packed: u64,
    size: u64,
    at: u64,
}

/// The file's directory, or what was found instead.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    if !bytes.starts_with(b"PK") {
        return Err("is no zip file, which every .npz is".into());
    }
    // The end record is 22 bytes and a comment of at most 65,535.
    let from = bytes.len().saturating_sub(22 + 65_535);
    let end = (from..(bytes.len() + 1).saturating_sub(22)).rev().find(|&at| bytes[at..].starts_with(END));
    let end = end.ok_or("ends early: the directory at its end is missing")?;
    let count = usize::from(short(bytes, end + 10)?);
    let mut at = long(bytes, end + 16)? as usize;
    if count == 0xffff || at == 0xffff_ffff {
        return Err("is a zip64 file, of more than 4 GB or 65,534 entries".into());
    }
    let mut entries = Vec::new();
    for number in 0..count {
        if bytes.get(at..at + 4) != Some(CENTRAL) {
            return Err(format!("its directory is broken at entry {number}"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|offset| short(bytes, at + offset).map(usize::from));
        let (name, extra, comment) = (name?, extra?, comment?);
        let text = bytes.get(at + 46..at + 46 + name).ok_or_else(|| format!("ends within its entry {number}"))?;
        entries.push(Entry {
            name: String::from_utf8_lossy(text).into_owned(),
            flags: short(bytes, at + 8)?,
            method: short(bytes, at + 10)?,
            crc: long(bytes, at + 16)?,
            packed: long(bytes, at + 20)?.into(),
            size: long(bytes, at + 24)?.into(),
            at: long(bytes, at + 42)?.into(),
        });
        at += 46 + name + extra + comment;
    }
    Ok(entries)
}

impl Entry {
    /// What was packed, or what was found instead.
    pub fn unpack(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let at = self.at as usize;
        if self.flags & 1 != 0 {
            return Err("is encrypted".into());
        }
        if bytes.get(at..at + 4) != Some(LOCAL) {
            return Err("is not where the directory says".into());
        }
        // The sizes here may be left out; the directory's are the ones that hold.
        let start = at + 30 + usize::from(short(bytes, at + 26)?) + usize::from(short(bytes, at + 28)?);
        let packed = start.checked_add(self.packed as usize).and_then(|end| bytes.get(start..end));
        let packed =
            packed.ok_or_else(|| format!("claims {} packed bytes, more than the file has left", self.packed))?;
        if self.size > MAX_BYTES || self.size > self.packed.saturating_mul(MAX_RATIO) {
            return Err(format!("claims {} bytes from {} packed ones, more than can be", self.size, self.packed));
        }
        let content = match self.method {
            0 => packed.to_vec(),
            8 => {
                let mut content = Vec::new();
                let read = DeflateDecoder::new(packed).take(self.size + 1).read_to_end(&mut content);
                read.map_err(|e| format!("its packed data is corrupt after {} bytes ({e})", content.len()))?;
                content
            }
            other => return Err(format!("is packed by method {other}, not stored (0) or deflated (8)")),
        };
        if content.len() as u64 != self.size {
            return Err(format!("holds another number of bytes than the {} that its directory claims", self.size));
        }
        let mut crc = Crc::new();
        crc.update(&content);
        if crc.sum() == self.crc { Ok(content) } else { Err("does not have its checksum: it is corrupt".into()) }
    }
}

fn short(bytes: &[u8], at: usize) -> Result<u16, String> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    field.map(|field| u16::from_le_bytes(*field)).ok_or_else(|| "ends within its directory".into())
}

fn long(bytes: &[u8], at: usize) -> Result<u32, String> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    field.map(|field| u32::from_le_bytes(*field)).ok_or_else(|| "ends within its directory".into())
}
