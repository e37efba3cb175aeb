//! Parquet files, read column by column.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Repetition, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use rayon::prelude::*;

use super::notice_dropped;
use crate::error::DatasetError;
use crate::model::{Found, ImageSource, Item, sha256_hex, sort_classes};

/// Rows whose images are in flight at once.
const BATCH: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Train,
    Test,
    Dropped(&'static str),
}

struct Table<'a> {
    path: &'a Path,
    reader: SerializedFileReader<File>,
}

/// A leaf column: its index in the file and the name to be used in messages.
struct Column {
    index: usize,
    name: String,
    max_definition: i16,
}

pub(super) fn read(path: &Path) -> Result<Found, DatasetError> {
    let table = Table::open(path)?;
    let image = table.image_column()?;
    let split = table.required("split", &[PhysicalType::BYTE_ARRAY], "text")?;
    let class = table.optional("class_name", &[PhysicalType::BYTE_ARRAY], "text")?;
    let label = table.optional("label", &[PhysicalType::INT32, PhysicalType::INT64], "an integer")?;
    let parts = table.splits(&split)?;
    let labels = label.map(|column| table.integers(&column)).transpose()?;
    let mut found = Found::default();
    let names = match (class, &labels) {
        (Some(column), _) => table.texts(&column)?,
        (None, Some(labels)) => labels.iter().map(|label| label.map(|l| l.to_string()).unwrap_or_default()).collect(),
        (None, None) => return Err(table.missing("class_name")),
    };
    if let Some(labels) = labels {
        found.notices.extend(disagreement(&names, &labels));
    }
    found.classes = sort_classes(names.clone());
    let ids: BTreeMap<&str, u32> = found.classes.iter().zip(0u32..).map(|(name, id)| (name.as_str(), id)).collect();
    let row_labels: Vec<u32> = names.iter().map(|name| ids[name.as_str()]).collect();
    let mut dropped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    table.images(&image, &mut |row, image, sha256| match parts[row] {
        Part::Dropped(split) => dropped.entry(split).or_default().push(sha256),
        part => {
            let place = table.place(row);
            let item = Item { image: ImageSource::Bytes(image), label: row_labels[row], place, sha256 };
            if part == Part::Train { found.train.push(item) } else { found.test.push(item) }
        }
    })?;
    for (split, hashes) in dropped {
        notice_dropped(&mut found, split, &hashes);
    }
    Ok(found)
}

/// Says so if `label` is not simply another name of the class.
fn disagreement(names: &[String], labels: &[Option<i64>]) -> Option<String> {
    let mut label_of: BTreeMap<&str, i64> = BTreeMap::new();
    let mut name_of: BTreeMap<i64, &str> = BTreeMap::new();
    for (name, label) in names.iter().zip(labels) {
        let Some(label) = *label else { continue };
        let (known_label, known_name) = (*label_of.entry(name).or_insert(label), *name_of.entry(label).or_insert(name));
        if known_label != label {
            return Some(format!(
                "column `label` disagrees with `class_name`, which is used: class `{name}` has labels {known_label} and {label}"
            ));
        }
        if known_name != name {
            return Some(format!(
                "column `label` disagrees with `class_name`, which is used: label {label} is class `{known_name}` and `{name}`"
            ));
        }
    }
    None
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self, DatasetError> {
        let read = |source| DatasetError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.is_dir() {
            let reason = "it is a folder; a folder of images is `folder = { path = … }`";
            return Err(read(std::io::Error::new(std::io::ErrorKind::IsADirectory, reason)));
        }
        let reader = SerializedFileReader::new(file)
            .map_err(|source| DatasetError::Parquet { path: path.to_owned(), source })?;
        Ok(Self { path, reader })
    }

    fn schema(&self) -> &SchemaDescriptor {
        self.reader.metadata().file_metadata().schema_descr()
    }

    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn place(&self, row: usize) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        format!("{} row {row}", name.to_string_lossy())
    }

    fn parquet(&self, source: ParquetError) -> DatasetError {
        DatasetError::Parquet { path: self.path(), source }
    }

    fn missing(&self, column: &str) -> DatasetError {
        let found = self.schema().root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
        DatasetError::MissingColumn { path: self.path(), column: column.to_owned(), found }
    }

    /// The leaf column at this dotted path, if there is one.
    fn leaf(&self, name: &str) -> Option<(PhysicalType, Column)> {
        let (index, column) = self.schema().columns().iter().enumerate().find(|(_, c)| c.path().string() == name)?;
        let found = Column { index, name: name.to_owned(), max_definition: column.max_def_level() };
        // A repeated leaf has several values a row: no column of ours does.
        (column.max_rep_level() == 0).then_some((column.physical_type(), found))
    }

    fn optional(
        &self,
        name: &str,
        types: &[PhysicalType],
        expected: &'static str,
    ) -> Result<Option<Column>, DatasetError> {
        let Some(field) = self.schema().root_schema().get_fields().iter().find(|field| field.name() == name) else {
            return Ok(None);
        };
        let error =
            |found: String| DatasetError::ColumnType { path: self.path(), column: name.to_owned(), found, expected };
        match self.leaf(name) {
            Some((physical, column)) if types.contains(&physical) => Ok(Some(column)),
            Some((physical, _)) => Err(error(format!("{physical}"))),
            None if field.get_basic_info().has_repetition()
                && field.get_basic_info().repetition() == Repetition::REPEATED =>
            {
                Err(error("a list".into()))
            }
            None => {
                let leaves = self.schema().columns().iter().map(|c| c.path().string());
                let inner: Vec<String> = leaves.filter(|leaf| leaf.starts_with(&format!("{name}."))).collect();
                Err(error(format!("a group ({})", inner.join(", "))))
            }
        }
    }

    fn required(&self, name: &str, types: &[PhysicalType], expected: &'static str) -> Result<Column, DatasetError> {
        self.optional(name, types, expected)?.ok_or_else(|| self.missing(name))
    }

    /// `image` as bytes, or the Hub's struct `{bytes, path}`.
    fn image_column(&self) -> Result<Column, DatasetError> {
        if let Some((PhysicalType::BYTE_ARRAY, column)) = self.leaf("image.bytes") {
            return Ok(column);
        }
        self.required("image", &[PhysicalType::BYTE_ARRAY], "encoded bytes, or a struct with a field `bytes`")
    }

    /// Calls `each(row, value)` for all rows of a column over all row groups.
    fn visit<T: DataType>(
        &self,
        column: &Column,
        take: impl Fn(ColumnReader) -> Option<ColumnReaderImpl<T>>,
        each: &mut dyn FnMut(usize, Vec<Option<T::T>>) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        let mut row = 0;
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group).map_err(|e| self.parquet(e))?;
            let end = row + usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let reader = group.get_column_reader(column.index).map_err(|e| self.parquet(e))?;
            let Some(mut reader) = take(reader) else {
                return Err(self.parquet(ParquetError::General(format!("column `{}` changes its type", column.name))));
            };
            while row < end {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let wanted = BATCH.min(end - row);
                let (records, _, _) =
                    reader.read_records(wanted, Some(&mut levels), None, &mut values).map_err(|e| self.parquet(e))?;
                if records == 0 {
                    let reason = format!("column `{}` ends at row {row}, the row group at {end}", column.name);
                    return Err(self.parquet(ParquetError::General(reason)));
                }
                let mut values = values.into_iter();
                let rows: Vec<Option<T::T>> = if column.max_definition == 0 {
                    values.map(Some).collect()
                } else {
                    levels.iter().map(|&l| if l == column.max_definition { values.next() } else { None }).collect()
                };
                each(row, rows)?;
                row += records;
            }
        }
        Ok(())
    }

    fn null(&self, row: usize, column: &Column) -> DatasetError {
        DatasetError::Null { path: self.path(), row, column: column.name.clone() }
    }

    fn texts(&self, column: &Column) -> Result<Vec<String>, DatasetError> {
        let mut texts = Vec::new();
        self.visit(column, as_bytes, &mut |first, rows| {
            for (row, value) in (first..).zip(rows) {
                let bytes = value.ok_or_else(|| self.null(row, column))?;
                let text = std::str::from_utf8(bytes.data()).map_err(|_| DatasetError::NotText {
                    path: self.path(),
                    row,
                    column: column.name.clone(),
                })?;
                texts.push(text.to_owned());
            }
            Ok(())
        })?;
        Ok(texts)
    }

    fn splits(&self, column: &Column) -> Result<Vec<Part>, DatasetError> {
        let part = |(row, text): (usize, String)| match text.as_str() {
            "train" => Ok(Part::Train),
            "test" => Ok(Part::Test),
            "val" => Ok(Part::Dropped("val")),
            "validation" => Ok(Part::Dropped("validation")),
            _ => Err(DatasetError::UnknownSplit { path: self.path(), row, value: text }),
        };
        self.texts(column)?.into_iter().enumerate().map(part).collect()
    }

    /// The integers; null is kept where another column can stand in for it.
    fn integers(&self, column: &Column) -> Result<Vec<Option<i64>>, DatasetError> {
        let mut values = Vec::new();
        if self.schema().column(column.index).physical_type() == PhysicalType::INT32 {
            self.visit(column, as_i32, &mut |_, rows| {
                values.extend(rows.into_iter().map(|v| v.map(i64::from)));
                Ok(())
            })?;
        } else {
            self.visit(column, as_i64, &mut |_, rows| {
                values.extend(rows);
                Ok(())
            })?;
        }
        let alone = !self.schema().columns().iter().any(|c| c.path().string() == "class_name");
        match values.iter().position(Option::is_none) {
            Some(row) if alone => Err(self.null(row, column)),
            _ => Ok(values),
        }
    }

    /// Calls `each(row, bytes, sha256)` for all rows in order; the hashes of a batch are taken in parallel.
    fn images(&self, column: &Column, each: &mut dyn FnMut(usize, Arc<[u8]>, String)) -> Result<(), DatasetError> {
        self.visit(column, as_bytes, &mut |first, rows| {
            let mut images: Vec<Arc<[u8]>> = Vec::with_capacity(rows.len());
            for (row, value) in (first..).zip(rows) {
                images.push(value.ok_or_else(|| self.null(row, column))?.data().into());
            }
            let hashes: Vec<String> = images.par_iter().map(|image| sha256_hex(image)).collect();
            for (row, (image, hash)) in (first..).zip(images.into_iter().zip(hashes)) {
                each(row, image, hash);
            }
            Ok(())
        })
    }
}

fn as_bytes(reader: ColumnReader) -> Option<ColumnReaderImpl<parquet::data_type::ByteArrayType>> {
    if let ColumnReader::ByteArrayColumnReader(reader) = reader { Some(reader) } else { None }
}

fn as_i32(reader: ColumnReader) -> Option<ColumnReaderImpl<parquet::data_type::Int32Type>> {
    if let ColumnReader::Int32ColumnReader(reader) = reader { Some(reader) } else { None }
}

fn as_i64(reader: ColumnReader) -> Option<ColumnReaderImpl<parquet::data_type::Int64Type>> {
    if let ColumnReader::Int64ColumnReader(reader) = reader { Some(reader) } else { None }
}
