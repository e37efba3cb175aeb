//! The layout of a file of pixels. All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `UFGPIXEL` |
//! | 8–11 | version of this layout |
//! | 12–15 | CRC-32 of the header with these four bytes 0, and of the index |
//! | 16–47 | key |
//! | 48–55 | number of images |
//! | 56–63 | length of the file |
//! | 64… | an entry of 24 bytes for each image: u64 offset, u32 width, u32 height, u32 CRC-32 of the pixels, u32 0 |
//! | then | pixels, image after image in any order, without gaps: rows from the top, red green blue |

use super::Key;

const MAGIC: &[u8; 8] = b"UFGPIXEL";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const ENTRY: usize = 24;

/// Where an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) crc: u32,
}

impl Entry {
    /// Bytes of its pixels; `None` where no such image could be.
    pub(super) fn length(&self) -> Option<u64> {
        u64::from(self.width).checked_mul(u64::from(self.height))?.checked_mul(3)
    }
}

/// Length of header and index, where the pixels begin.
pub(super) fn head_length(images: usize) -> u64 {
    (HEADER + ENTRY * images) as u64
}

/// Header and index of a file.
pub(super) fn head(key: Key, entries: &[Entry], length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + ENTRY * entries.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&key.0);
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    for entry in entries {
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        for number in [entry.width, entry.height, entry.crc, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    let crc = crc32fast::hash(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The index of a file, or what is wrong with it.
pub(super) fn parse(file: &[u8], key: Key, images: usize) -> Result<Vec<Entry>, String> {
    let Some(header) = file.get(..HEADER) else {
        return Err(format!("it has {} bytes, a file of pixels at least {HEADER}", file.len()));
    };
    if &header[..8] != MAGIC {
        return Err("it is no file of pixels".into());
    }
    let (version, crc) = (u32_at(header, 8), u32_at(header, 12));
    if version != VERSION {
        return Err(format!("its layout has version {version}, this program's {VERSION}"));
    }
    let length = u64_at(header, 56);
    if length != file.len() as u64 {
        return Err(format!("it has {} bytes, its header says {length}: it was cut or added to", file.len()));
    }
    if header[16..48] != key.0 || u64_at(header, 48) != images as u64 {
        return Err("it holds other images, or another working size".into());
    }
    let Some(head) = file.get(..HEADER + ENTRY * images) else {
        return Err("it ends inside its index".into());
    };
    let mut hash = crc32fast::Hasher::new();
    [&head[..12], &[0; 4], &head[16..]].iter().for_each(|part| hash.update(part));
    if hash.finalize() != crc {
        return Err("the checksum of its index is wrong".into());
    }
    let entry =
        |b: &[u8]| Entry { offset: u64_at(b, 0), width: u32_at(b, 8), height: u32_at(b, 12), crc: u32_at(b, 16) };
    let entries: Vec<Entry> = head[HEADER..].chunks_exact(ENTRY).map(entry).collect();
    let mut end = Some(head.len() as u64);
    let mut by_place: Vec<&Entry> = entries.iter().collect();
    by_place.sort_unstable_by_key(|entry| (entry.offset, entry.length()));
    for entry in by_place {
        end = end.filter(|&end| end == entry.offset).and_then(|end| end.checked_add(entry.length()?));
    }
    if end != Some(length) {
        return Err("its index does not fit its length".into());
    }
    Ok(entries)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}
