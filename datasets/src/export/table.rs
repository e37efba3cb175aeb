//! The mirror's parquet file: columns `image`, `label`, `class_name`, `split`.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::Picture;
use crate::import::Mark;
use crate::model::Split;

const BYTES: &str = "optional binary image;";
const STRUCT: &str = "optional group image { optional binary bytes; optional binary path (UTF8); }";
const REST: &str = "optional int64 label; optional binary class_name (UTF8); optional binary split (UTF8);";

pub(super) struct TableSink<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    paths: bool,
    validation: bool,
}

impl<W: Write + Send> TableSink<W> {
    pub(super) fn new(out: W, mark: &str, paths: bool, validation: bool) -> io::Result<Self> {
        let fields = if paths { STRUCT } else { BYTES };
        let schema = parse_message_type(&format!("message table {{ {fields} {REST} }}"))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(vec![KeyValue::new(Mark::KEY.to_owned(), mark.to_owned())]))
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?;
        Ok(Self { writer, paths, validation })
    }

    pub(super) fn write(&mut self, pictures: &[Picture<'_>]) -> io::Result<()> {
        let mut rows: Vec<(&Picture<'_>, &str)> = Vec::new();
        for picture in pictures {
            rows.push((picture, if picture.split == Split::Train { "train" } else { "test" }));
            if self.validation && picture.split == Split::Test {
                rows.push((picture, "val"));
            }
        }
        let mut group = self.writer.next_row_group()?;
        let inner = if self.paths { 2 } else { 1 };
        put::<ByteArrayType>(&mut group, inner, rows.iter().map(|(p, _)| ByteArray::from(p.png.clone())))?;
        if self.paths {
            put::<ByteArrayType>(&mut group, inner, rows.iter().map(|(p, _)| ByteArray::from(p.name)))?;
        }
        put::<Int64Type>(&mut group, 1, rows.iter().map(|(p, _)| p.class as i64))?;
        put::<ByteArrayType>(&mut group, 1, rows.iter().map(|(p, _)| ByteArray::from(p.class_name)))?;
        put::<ByteArrayType>(&mut group, 1, rows.iter().map(|(_, split)| ByteArray::from(*split)))?;
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<W> {
        Ok(self.writer.into_inner()?)
    }
}

/// Writes the next column of a row group; no value is null, so all have the same definition level.
fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    level: i16,
    values: impl Iterator<Item = T::T>,
) -> io::Result<()> {
    let values: Vec<T::T> = values.collect();
    let missing = || ParquetError::General("the schema has fewer columns than are written".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(&values, Some(&vec![level; values.len()]), None)?;
    column.close()?;
    Ok(())
}
