//! Parquet files, read column by column, a few rows at a time.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parquet::basic::{Repetition, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use super::Part;
use super::fence::fenced;
use super::folder::regular;
use crate::error::DatasetError;

/// Rows of small values that are read at once.
const BATCH: usize = 1024;
/// Rows whose images are in flight at once.
const IMAGES: usize = 32;

/// Row groups whose images unpack to more than this many times their size are refused …
const MAX_RATIO: i64 = 200;
/// … from this size on, in bytes.
const FREE_SIZE: i64 = 1 << 25;

/// An open parquet file.
pub(crate) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
}

/// A leaf column: its index in the file and the name to be used in messages.
pub(crate) struct Column {
    index: usize,
    name: String,
    physical: PhysicalType,
    max_definition: i16,
}

impl Column {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Table {
    pub(crate) fn open(path: &Path) -> Result<Self, DatasetError> {
        let read = |source| DatasetError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.is_dir() {
            let reason = "it is a folder; a folder of images is `folder = { path = … }`";
            return Err(read(std::io::Error::new(std::io::ErrorKind::IsADirectory, reason)));
        }
        regular(path)?;
        let file = File::open(path).map_err(read)?;
        let reader = fenced(|| SerializedFileReader::new(file))
            .map_err(|source| DatasetError::Parquet { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), reader })
    }

    fn schema(&self) -> &SchemaDescriptor {
        self.reader.metadata().file_metadata().schema_descr()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// How messages call a row.
    pub(crate) fn place(&self, row: usize) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        format!("{} row {row}", name.to_string_lossy())
    }

    /// The value of a key of the file's metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        let pairs = self.reader.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    fn parquet(&self, source: ParquetError) -> DatasetError {
        DatasetError::Parquet { path: self.path(), source }
    }

    pub(crate) fn missing(&self, column: &str) -> DatasetError {
        let found = self.schema().root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
        DatasetError::MissingColumn { path: self.path(), column: column.to_owned(), found }
    }

    /// The leaf column at this dotted path, if there is one.
    fn leaf(&self, name: &str) -> Option<Column> {
        let (index, column) = self.schema().columns().iter().enumerate().find(|(_, c)| c.path().string() == name)?;
        // A repeated leaf has several values a row: no column of ours does.
        (column.max_rep_level() == 0).then(|| Column {
            index,
            name: name.to_owned(),
            physical: column.physical_type(),
            max_definition: column.max_def_level(),
        })
    }

    fn optional(
        &self,
        name: &str,
        types: &[PhysicalType],
        expected: &'static str,
    ) -> Result<Option<Column>, DatasetError> {
        let mut fields = self.schema().root_schema().get_fields().iter().filter(|field| field.name() == name);
        let Some(field) = fields.next() else {
            return Ok(None);
        };
        let error =
            |found: String| DatasetError::ColumnType { path: self.path(), column: name.to_owned(), found, expected };
        if fields.next().is_some() {
            return Err(error("there twice".into()));
        }
        match self.leaf(name) {
            Some(column) if types.contains(&column.physical) => Ok(Some(column)),
            Some(column) => Err(error(format!("{}", column.physical))),
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

    /// A column of text, if there is one.
    pub(crate) fn text_column(&self, name: &str) -> Result<Option<Column>, DatasetError> {
        self.optional(name, &[PhysicalType::BYTE_ARRAY], "text")
    }

    /// A column of integers, if there is one.
    pub(crate) fn integer_column(&self, name: &str) -> Result<Option<Column>, DatasetError> {
        self.optional(name, &[PhysicalType::INT32, PhysicalType::INT64], "an integer")
    }

    /// `image` as bytes, or the Hub's struct `{bytes, path}`.
    pub(crate) fn image_column(&self) -> Result<Column, DatasetError> {
        if let Some(column) = self.leaf("image.bytes").filter(|c| c.physical == PhysicalType::BYTE_ARRAY) {
            return Ok(column);
        }
        self.optional("image", &[PhysicalType::BYTE_ARRAY], "encoded bytes, or a struct with a field `bytes`")?
            .ok_or_else(|| self.missing("image"))
    }

    /// `path` of the Hub's struct `{bytes, path}`, if it is there.
    pub(crate) fn image_path_column(&self) -> Option<Column> {
        self.leaf("image.path").filter(|c| c.physical == PhysicalType::BYTE_ARRAY)
    }

    /// Calls `each(row, values)` for all rows of a column over all row groups, up to `batch` rows at a time.
    fn visit<T: DataType>(
        &self,
        column: &Column,
        batch: usize,
        take: impl Fn(ColumnReader) -> Option<ColumnReaderImpl<T>>,
        each: &mut dyn FnMut(usize, Vec<Option<T::T>>) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        let mut row = 0;
        for group in 0..self.reader.num_row_groups() {
            let group = fenced(|| self.reader.get_row_group(group)).map_err(|e| self.parquet(e))?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let end = row + rows;
            let reader = fenced(|| group.get_column_reader(column.index)).map_err(|e| self.parquet(e))?;
            let Some(mut reader) = take(reader) else {
                return Err(self.changed_type(column));
            };
            while row < end {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let wanted = batch.min(end - row);
                let (records, _, _) = fenced(|| reader.read_records(wanted, Some(&mut levels), None, &mut values))
                    .map_err(|e| self.parquet(e))?;
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

    pub(crate) fn null(&self, row: usize, column: &str) -> DatasetError {
        DatasetError::Null { path: self.path(), row, column: column.to_owned() }
    }

    /// The texts of a column, null where there is none.
    pub(crate) fn texts_or_null(&self, column: &Column) -> Result<Vec<Option<String>>, DatasetError> {
        let mut texts = Vec::new();
        self.visit(column, BATCH, as_bytes, &mut |first, rows| {
            for (row, value) in (first..).zip(rows) {
                let Some(bytes) = value else {
                    texts.push(None);
                    continue;
                };
                let text = std::str::from_utf8(bytes.data()).map_err(|_| DatasetError::NotText {
                    path: self.path(),
                    row,
                    column: column.name.clone(),
                })?;
                texts.push(Some(text.to_owned()));
            }
            Ok(())
        })?;
        Ok(texts)
    }

    /// The texts of a column without nulls.
    pub(crate) fn texts(&self, column: &Column) -> Result<Vec<String>, DatasetError> {
        let texts = self.texts_or_null(column)?.into_iter().enumerate();
        texts.map(|(row, text)| text.ok_or_else(|| self.null(row, &column.name))).collect()
    }

    /// The column `split`, row by row.
    pub(crate) fn splits(&self) -> Result<Vec<Part>, DatasetError> {
        let column = self.text_column("split")?.ok_or_else(|| self.missing("split"))?;
        let part = |(row, text): (usize, String)| match text.as_str() {
            "train" => Ok(Part::Train),
            "test" => Ok(Part::Test),
            "val" => Ok(Part::Dropped("val")),
            "validation" => Ok(Part::Dropped("validation")),
            _ => Err(DatasetError::UnknownSplit { path: self.path(), row, value: text }),
        };
        self.texts(&column)?.into_iter().enumerate().map(part).collect()
    }

    /// The integers of a column, null where there is none.
    pub(crate) fn integers(&self, column: &Column) -> Result<Vec<Option<i64>>, DatasetError> {
        let mut values = Vec::new();
        if column.physical == PhysicalType::INT32 {
            self.visit(column, BATCH, as_i32, &mut |_, rows| {
                values.extend(rows.into_iter().map(|v| v.map(i64::from)));
                Ok(())
            })?;
        } else {
            self.visit(column, BATCH, as_i64, &mut |_, rows| {
                values.extend(rows);
                Ok(())
            })?;
        }
        Ok(values)
    }

    /// Calls `each(row of the first, images)` for all rows in order, a few at a time.
    pub(crate) fn images(
        &self,
        column: &Column,
        each: &mut dyn FnMut(usize, Vec<ByteArray>) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        self.refuse_bombs(column)?;
        self.visit(column, IMAGES, as_bytes, &mut |first, rows| {
            let images: Result<Vec<ByteArray>, DatasetError> =
                (first..).zip(rows).map(|(row, value)| value.ok_or_else(|| self.null(row, &column.name))).collect();
            each(first, images?)
        })
    }

    /// A reader of the column in the row group that holds a row, and the rows of that group.
    pub(super) fn group_of(
        &self,
        column: &Column,
        row: usize,
    ) -> Result<(ColumnReaderImpl<ByteArrayType>, Range<usize>), DatasetError> {
        let mut start = 0usize;
        for (number, group) in self.reader.metadata().row_groups().iter().enumerate() {
            let end = start.saturating_add(usize::try_from(group.num_rows()).unwrap_or(0));
            if row < end {
                let reader = fenced(|| self.reader.get_row_group(number)?.get_column_reader(column.index));
                let reader = as_bytes(reader.map_err(|e| self.parquet(e))?);
                return reader.map(|reader| (reader, start..end)).ok_or_else(|| self.changed_type(column));
            }
            start = end;
        }
        Err(self.parquet(ParquetError::General(format!("it has no row {row}"))))
    }

    /// The value in `row` of a column whose reader stands before the row `next`; `None` is null.
    pub(super) fn value_at(
        &self,
        column: &Column,
        reader: &mut ColumnReaderImpl<ByteArrayType>,
        next: usize,
        row: usize,
    ) -> Result<Option<Vec<u8>>, DatasetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let read = fenced(|| {
            let skipped = reader.skip_records(row - next)?;
            let (records, _, _) = reader.read_records(1, Some(&mut levels), None, &mut values)?;
            Ok(skipped == row - next && records == 1)
        });
        if !read.map_err(|e| self.parquet(e))? {
            let reason = format!("column `{}` ends before row {row}", column.name);
            return Err(self.parquet(ParquetError::General(reason)));
        }
        Ok(values.first().map(|value| value.data().to_vec()))
    }

    fn changed_type(&self, column: &Column) -> DatasetError {
        self.parquet(ParquetError::General(format!("column `{}` changes its type", column.name)))
    }

    /// Encoded images do not pack much further; what does would fill the memory.
    fn refuse_bombs(&self, column: &Column) -> Result<(), DatasetError> {
        for (number, group) in self.reader.metadata().row_groups().iter().enumerate() {
            let chunk = group.column(column.index);
            let (packed, whole) = (chunk.compressed_size().max(1), chunk.uncompressed_size());
            if whole > FREE_SIZE && whole / packed > MAX_RATIO {
                let reason = format!(
                    "column `{}` of row group {number}: {packed} bytes unpack to {whole}, more than {MAX_RATIO} times as \
                     many: a decompression bomb",
                    column.name
                );
                return Err(self.parquet(ParquetError::General(reason)));
            }
        }
        Ok(())
    }
}

fn as_bytes(reader: ColumnReader) -> Option<ColumnReaderImpl<ByteArrayType>> {
    if let ColumnReader::ByteArrayColumnReader(reader) = reader { Some(reader) } else { None }
}

fn as_i32(reader: ColumnReader) -> Option<ColumnReaderImpl<parquet::data_type::Int32Type>> {
    if let ColumnReader::Int32ColumnReader(reader) = reader { Some(reader) } else { None }
}

fn as_i64(reader: ColumnReader) -> Option<ColumnReaderImpl<parquet::data_type::Int64Type>> {
    if let ColumnReader::Int64ColumnReader(reader) = reader { Some(reader) } else { None }
}
