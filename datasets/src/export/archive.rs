//! The official archive: `<folder>/images/*` and `<folder>/anno/{train,test}.txt`.

use std::io::{self, Write};

use super::Picture;
use crate::archive::ZipWriter;
use crate::import::Mark;
use crate::model::Split;

pub(super) struct ArchiveSink<W: Write> {
    zip: ZipWriter<W>,
    folder: &'static str,
    train: String,
    test: String,
    validation: bool,
}

impl<W: Write> ArchiveSink<W> {
    pub(super) fn new(out: W, folder: &'static str, mark: &str, validation: bool) -> io::Result<Self> {
        let mut zip = ZipWriter::new(out);
        zip.add(&format!("{folder}/{}", Mark::FILE), mark.as_bytes())?;
        Ok(Self { zip, folder, train: String::new(), test: String::new(), validation })
    }

    pub(super) fn write(&mut self, pictures: &[Picture<'_>]) -> io::Result<()> {
        for picture in pictures {
            self.zip.add(&format!("{}/images/{}", self.folder, picture.name), &picture.png)?;
            let lines = if picture.split == Split::Train { &mut self.train } else { &mut self.test };
            *lines += &format!("{} {}\n", picture.name, picture.class + 1);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        let mut lists = vec![("train", &self.train), ("test", &self.test)];
        if self.validation {
            lists.push(("val", &self.test));
        }
        for (list, lines) in lists {
            self.zip.add(&format!("{}/anno/{list}.txt", self.folder), lines.as_bytes())?;
        }
        self.zip.finish()
    }
}
