//! The images of a parquet file by their rows: read when they are wanted, never held.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::ByteArrayType;

use super::table::{Column, Table};
use crate::error::DatasetError;

/// The encoded images of a parquet file that stays open.
///
/// Rows that are asked for in rising order are read in one pass over the file; going back begins anew at the row group
/// in question. No more than a page of the file is in memory.
pub struct ParquetImages {
    table: Table,
    column: Column,
    cursor: Mutex<Option<Cursor>>,
}

/// A column reader inside a row group.
struct Cursor {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// The row that it reads next.
    next: usize,
    /// The first row behind its row group.
    end: usize,
}

impl ParquetImages {
    pub(super) fn new(table: Table, column: Column) -> Self {
        Self { table, column, cursor: Mutex::new(None) }
    }

    /// The encoded image of a row, counted from 0 over the whole file.
    ///
    /// # Errors
    /// [`DatasetError::Parquet`] if the file is damaged there or has no such row, [`DatasetError::Null`] without a value.
    pub fn read(&self, row: usize) -> Result<Vec<u8>, DatasetError> {
        // A reader that failed is dropped here, so that a poisoned lock guards nothing half-done.
        let mut kept = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = kept.take().filter(|cursor| (cursor.next..cursor.end).contains(&row));
        let mut cursor = match usable {
            Some(cursor) => cursor,
            None => {
                let (reader, rows) = self.table.group_of(&self.column, row)?;
                Cursor { reader, next: rows.start, end: rows.end }
            }
        };
        let image = self.table.value_at(&self.column, &mut cursor.reader, cursor.next, row)?;
        cursor.next = row + 1;
        *kept = Some(cursor);
        image.ok_or_else(|| self.table.null(row, self.column.name()))
    }
}

impl fmt::Debug for ParquetImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetImages").field("path", &self.table.path()).finish_non_exhaustive()
    }
}
