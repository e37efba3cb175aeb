//! Decoding many images in the order in which their source holds them.

use rayon::prelude::*;

use crate::decode::{Rgb, decode_working, decode_working_bytes};
use crate::error::DatasetError;
use crate::model::{ImageSource, Item};
use crate::resize::Resize;

/// Encoded bytes from which on no more are read before they are decoded.
const ENCODED_BYTES: usize = 64 << 20;

/// Where the item at `index` of its list lies in its source.
fn position(index: usize, item: &Item) -> usize {
    if let ImageSource::Row { row, .. } = &item.image { *row } else { index }
}

/// Decodes the items of these indices and brings them to the working size, up to `chunk` at a time in parallel on
/// rayon's current pool, in the order of their source: a parquet file is read in one pass. `finish` works on an image in
/// parallel too, `each` hears of a chunk after the other, with the indices.
///
/// # Errors
/// That of the first item, in the order of the source, that cannot be decoded, and those of `each`.
pub(crate) fn decode_in_order<T: Send>(
    items: &[Item],
    mut indices: Vec<usize>,
    working: Resize,
    chunk: usize,
    finish: impl Fn(Rgb) -> T + Sync,
    mut each: impl FnMut(Vec<(usize, T)>) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    indices.sort_by_key(|&index| position(index, &items[index]));
    let mut left = indices.as_slice();
    while !left.is_empty() {
        let (read, rest) = next_chunk(items, left, chunk)?;
        left = rest;
        let decoded: Vec<Result<(usize, T), DatasetError>> = read
            .into_par_iter()
            .map(|(index, bytes)| {
                let item = &items[index];
                let image = match bytes {
                    Some(bytes) => decode_working_bytes(item, bytes, working)?,
                    None => decode_working(item, working)?,
                };
                Ok((index, finish(image)))
            })
            .collect();
        each(decoded.into_iter().collect::<Result<_, _>>()?)?;
    }
    Ok(())
}

/// Indices with the bytes of those that can only be read one after the other.
type Read = Vec<(usize, Option<Vec<u8>>)>;

fn next_chunk<'a>(items: &[Item], left: &'a [usize], chunk: usize) -> Result<(Read, &'a [usize]), DatasetError> {
    let (mut read, mut encoded) = (Vec::new(), 0);
    for &index in left.iter().take(chunk.max(1)) {
        let bytes = match &items[index].image {
            ImageSource::Row { images, row } => Some(images.read(*row)?),
            _ => None,
        };
        encoded += bytes.as_ref().map_or(0, Vec::len);
        read.push((index, bytes));
        if encoded >= ENCODED_BYTES {
            break;
        }
    }
    let taken = read.len();
    Ok((read, &left[taken..]))
}
