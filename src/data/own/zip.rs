//! Entries of a zip file, the wrapping of NumPy's `.npz`: stored or deflated, with every length and checksum checked.

use super::bytes::Bytes;
use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use std::io::Read;

/// Deflate's best ratio: 258 bytes from two bits. An entry that claims more is lying.
const MAX_RATIO: u64 = 1032;
/// More is not unpacked, whatever an entry claims; what is stored as it is may be larger.
const MAX_BYTES: u64 = 2 << 30;

const END: &[u8] = b"PK\x05\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// Of the form for files of more than 4 GiB: the end record, and what tells where it is.
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";

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
    let (mut count, mut at) = (u64::from(short(bytes, end + 10)?), u64::from(long(bytes, end + 16)?));
    if count == 0xffff || at == 0xffff_ffff {
        let broken = || "has a broken zip64 directory".to_owned();
        let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(LOCATOR64)).ok_or_else(broken)?;
        let record = usize::try_from(long64(bytes, locator + 8)?).map_err(|_| broken())?;
        if bytes.get(record..).is_none_or(|rest| !rest.starts_with(END64)) {
            return Err(broken());
        }
        (count, at) = (long64(bytes, record + 32)?, long64(bytes, record + 48)?);
    }
    let mut at = usize::try_from(at).map_err(|_| "has a directory beyond its end".to_owned())?;
    let mut entries = Vec::new();
    for number in 0..count {
        if bytes.get(at..).is_none_or(|rest| !rest.starts_with(CENTRAL)) {
            return Err(format!("its directory is broken at entry {number}"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|offset| short(bytes, at + offset).map(usize::from));
        let (name, extra, comment) = (name?, extra?, comment?);
        let text = bytes.get(at + 46..at + 46 + name).ok_or_else(|| format!("ends within its entry {number}"))?;
        let mut entry = Entry {
            name: String::from_utf8_lossy(text).into_owned(),
            flags: short(bytes, at + 8)?,
            method: short(bytes, at + 10)?,
            crc: long(bytes, at + 16)?,
            packed: long(bytes, at + 20)?.into(),
            size: long(bytes, at + 24)?.into(),
            at: long(bytes, at + 42)?.into(),
        };
        let fields = bytes.get(at + 46 + name..at + 46 + name + extra);
        entry.widen(fields.ok_or_else(|| format!("ends within its entry {number}"))?)?;
        entries.push(entry);
        at += 46 + name + extra + comment;
    }
    Ok(entries)
}

impl Entry {
    /// Takes from the extra fields what does not fit into 32 bits: size, packed size and place, those of them that are full.
    fn widen(&mut self, mut fields: &[u8]) -> Result<(), String> {
        while fields.len() >= 4 {
            let (id, length) = (short(fields, 0)?, usize::from(short(fields, 2)?));
            if id == 1 {
                let wide = [&mut self.size, &mut self.packed, &mut self.at];
                for (n, field) in wide.into_iter().filter(|field| **field == 0xffff_ffff).enumerate() {
                    *field = long64(fields, 4 + 8 * n)?;
                }
                return Ok(());
            }
            fields = fields.get(4 + length..).unwrap_or_default();
        }
        Ok(())
    }

    /// What was packed, or what was found instead.
    pub fn unpack(&self, bytes: &Bytes) -> Result<Bytes, String> {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        if self.flags & 1 != 0 {
            return Err("is encrypted".into());
        }
        if bytes.get(at..).is_none_or(|rest| !rest.starts_with(LOCAL)) {
            return Err("is not where the directory says".into());
        }
        // The sizes here may be left out; the directory's are the ones that hold.
        let start = at + 30 + usize::from(short(bytes, at + 26)?) + usize::from(short(bytes, at + 28)?);
        let end = usize::try_from(self.packed).ok().and_then(|packed| start.checked_add(packed));
        let span = end.filter(|&end| end <= bytes.len()).map(|end| start..end);
        let span = span.ok_or_else(|| format!("claims {} packed bytes, more than the file has left", self.packed))?;
        if self.size > self.packed.saturating_mul(MAX_RATIO) {
            return Err(format!("claims {} bytes from {} packed ones, more than can be", self.size, self.packed));
        }
        let content = match self.method {
            0 => bytes.part(span),
            8 if self.size > MAX_BYTES => {
                let found = format!("unpacks to {} bytes, more than the {MAX_BYTES} that are unpacked", self.size);
                return Err(format!("{found}: numpy.savez instead of savez_compressed has no such limit"));
            }
            8 => {
                let mut content = Vec::new();
                let read = DeflateDecoder::new(&bytes[span]).take(self.size + 1).read_to_end(&mut content);
                read.map_err(|e| format!("its packed data is corrupt after {} bytes ({e})", content.len()))?;
                Bytes::Owned(content)
            }
            other => return Err(format!("is packed by method {other}, not stored (0) or deflated (8)")),
        };
        if content.len() as u64 != self.size {
            return Err(format!("holds another number of bytes than the {} that its directory claims", self.size));
        }
        let mut crc = Crc::new();
        content.chunks(1 << 30).for_each(|chunk| crc.update(chunk));
        if crc.sum() == self.crc { Ok(content) } else { Err("does not have its checksum: it is corrupt".into()) }
    }
}

fn short(bytes: &[u8], at: usize) -> Result<u16, String> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    field.map(|field| u16::from_le_bytes(*field)).ok_or_else(|| "ends within its directory".into())
}

fn long64(bytes: &[u8], at: usize) -> Result<u64, String> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
    field.map(|field| u64::from_le_bytes(*field)).ok_or_else(|| "ends within its directory".into())
}

fn long(bytes: &[u8], at: usize) -> Result<u32, String> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    field.map(|field| u32::from_le_bytes(*field)).ok_or_else(|| "ends within its directory".into())
}
