//! Entries of zip archives, from the bytes that describe them.

use std::io::Read;

use flate2::read::DeflateDecoder;

/// Signature of a record of the central directory.
const CENTRAL: u32 = 0x0201_4b50;

/// One file of an archive.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where its local header begins.
    pub(super) header: u64,
    pub(super) compressed: u64,
    pub(super) size: u64,
    pub(super) crc: u32,
    pub(super) method: u16,
    pub(super) encrypted: bool,
    /// The name's bytes as stored.
    pub(super) raw: Vec<u8>,
}

/// Little-endian numbers, one after the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

/// One record of the central directory, and whether it is a symbolic link.
pub(super) fn central(fields: &mut Fields<'_>) -> Option<(Entry, bool)> {
    if fields.u32()? != CENTRAL {
        return None;
    }
    let made_by = fields.u16()?;
    fields.take(2)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.take(4)?;
    let crc = fields.u32()?;
    let (compressed, size) = (fields.u32()?, fields.u32()?);
    let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
    fields.take(4)?;
    let (attributes, header) = (fields.u32()?, fields.u32()?);
    let raw = fields.take(name.into())?.to_vec();
    let extra = fields.take(extra.into())?;
    fields.take(comment.into())?;
    let mut wide = wide_fields(extra);
    let mut widen = |value: u32| if value == u32::MAX { wide.u64() } else { Some(value.into()) };
    let (size, compressed, header) = (widen(size)?, widen(compressed)?, widen(header)?);
    let is_link = made_by >> 8 == 3 && (attributes >> 16) & 0o170_000 == 0o120_000;
    Some((Entry { header, compressed, size, crc, method, encrypted: flags & 1 == 1, raw }, is_link))
}

/// The fields of the zip64 extension (id 1) among an entry's extra fields.
fn wide_fields(extra: &[u8]) -> Fields<'_> {
    let mut fields = Fields(extra);
    while let (Some(id), Some(length)) = (fields.u16(), fields.u16()) {
        let Some(body) = fields.take(length.into()) else { break };
        if id == 1 {
            return Fields(body);
        }
    }
    Fields(&[])
}

/// A name with `/` between its parts, if it stays inside its folder.
pub(super) fn plain(name: &str) -> Result<String, &'static str> {
    let name = name.replace('\\', "/");
    if name.starts_with('/') || name.as_bytes().get(1) == Some(&b':') {
        return Err("its name is an absolute path");
    }
    if name.contains('\0') {
        return Err("its name holds a zero byte");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("its name leads out of the archive's folder (`..`)");
    }
    if parts.is_empty() { Err("it has no name") } else { Ok(parts.join("/")) }
}

/// The content of an entry, from its packed bytes.
pub(super) fn unpack(entry: &Entry, data: &[u8]) -> Result<Vec<u8>, String> {
    match entry.method {
        0 if entry.compressed == entry.size => Ok(data.to_vec()),
        0 => Err("it is stored, but its two sizes differ".into()),
        8 => {
            let mut bytes = Vec::new();
            // One byte more than there should be, so that a lie about the size is seen and goes no further.
            let mut reader = DeflateDecoder::new(data).take(entry.size.saturating_add(1));
            reader.read_to_end(&mut bytes).map_err(|e| format!("it cannot be unpacked: {e}"))?;
            if bytes.len() as u64 == entry.size {
                return Ok(bytes);
            }
            let than = if (bytes.len() as u64) < entry.size { "less" } else { "more" };
            Err(format!("it unpacks to {than} than the {} bytes that the directory says", entry.size))
        }
        other => Err(format!(
            "its compression method {other} is none that is read here (stored, deflate); unpack the archive and import \
             the folder"
        )),
    }
}
