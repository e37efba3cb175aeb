//! Writes small parquet files.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

/// One column of a row; `None` is null.
pub(crate) enum Column {
    /// Bytes or text.
    Bytes(Vec<Option<Vec<u8>>>),
    /// Integers.
    Int(Vec<Option<i64>>),
}

/// Texts without nulls.
pub(crate) fn texts(values: &[&str]) -> Column {
    Column::Bytes(values.iter().map(|v| Some(v.as_bytes().to_vec())).collect())
}

/// Images without nulls.
pub(crate) fn images(values: Vec<Vec<u8>>) -> Column {
    Column::Bytes(values.into_iter().map(Some).collect())
}

/// Integers without nulls.
pub(crate) fn ints(values: &[i64]) -> Column {
    Column::Int(values.iter().map(|&v| Some(v)).collect())
}

/// How to write a file.
pub(crate) struct Layout {
    /// Fields of the message, each ending in `;`.
    pub(crate) fields: &'static str,
    /// Rows in a row group.
    pub(crate) group: usize,
    /// Codec of the pages.
    pub(crate) compression: Compression,
    /// Whether values are stored in a dictionary.
    pub(crate) dictionary: bool,
    /// Definition level of a value that is there: 1 for an optional column, 2 inside an optional struct.
    pub(crate) level: i16,
}

/// The columns of the UFG mirror.
pub(crate) const MIRROR: Layout = Layout {
    fields: "optional binary image; optional int64 label; optional binary class_name (UTF8); optional binary split (UTF8);",
    group: 1000,
    compression: Compression::SNAPPY,
    dictionary: true,
    level: 1,
};

/// Writes the columns, in the order of the leaves. The first column uses `layout.level`, the others level 1.
pub(crate) fn write(path: &Path, layout: &Layout, columns: &[Column]) {
    let schema = Arc::new(parse_message_type(&format!("message table {{ {} }}", layout.fields)).expect("a schema"));
    let properties = WriterProperties::builder()
        .set_compression(layout.compression)
        .set_dictionary_enabled(layout.dictionary)
        .build();
    let file = std::fs::File::create(path).expect("a new file");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
    let leaves: Vec<(i16, &Column)> =
        columns.iter().enumerate().flat_map(|(k, c)| leaf_levels(layout, k).map(move |level| (level, c))).collect();
    let rows = columns.iter().map(len).min().unwrap_or(0);
    for start in (0..rows).step_by(layout.group) {
        let range = start..(start + layout.group).min(rows);
        let mut group = writer.next_row_group().expect("a row group");
        for &(level, column) in &leaves {
            let mut out = group.next_column().expect("a column").expect("as many columns as leaves");
            match column {
                Column::Bytes(values) => {
                    let values = values[range.clone()].iter().map(|v| v.clone().map(ByteArray::from));
                    put::<ByteArrayType>(&mut out, values.collect(), level);
                }
                Column::Int(values) if matches!(out.untyped(), ColumnWriter::Int32ColumnWriter(_)) => {
                    let values = values[range.clone()].iter().map(|v| v.map(|v| v as i32));
                    put::<parquet::data_type::Int32Type>(&mut out, values.collect(), level);
                }
                Column::Int(values) => put::<Int64Type>(&mut out, values[range.clone()].to_vec(), level),
            }
            out.close().expect("a closed column");
        }
        group.close().expect("a closed row group");
    }
    writer.close().expect("a closed file");
}

fn leaf_levels(layout: &Layout, column: usize) -> Option<i16> {
    Some(if column == 0 { layout.level } else { 1 })
}

fn len(column: &Column) -> usize {
    match column {
        Column::Bytes(values) => values.len(),
        Column::Int(values) => values.len(),
    }
}

fn put<T: DataType>(out: &mut SerializedColumnWriter<'_>, values: Vec<Option<T::T>>, level: i16) {
    let levels: Vec<i16> = values.iter().map(|v| if v.is_some() { level } else { level - 1 }).collect();
    let present: Vec<T::T> = values.into_iter().flatten().collect();
    out.typed::<T>().write_batch(&present, Some(&levels), None).expect("a written batch");
}
