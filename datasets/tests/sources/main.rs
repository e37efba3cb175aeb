//! Sources of datasets through the public interface: files as people bring them, and what is said when they are wrong.

mod anno;
mod config;
mod decoding;
mod folder;
mod parquet_file;
mod tables;
mod tomato;

use std::path::Path;

use datasets::{Dataset, DatasetConfig, DatasetError, FolderConfig, ParquetConfig};

/// A small PNG whose pixels depend on `tag`.
fn png(tag: u8) -> Vec<u8> {
    let image = image::RgbImage::from_fn(6, 4, |x, y| image::Rgb([tag, (x * 20) as u8, (y * 30) as u8]));
    encode(&image::DynamicImage::ImageRgb8(image), image::ImageFormat::Png)
}

fn encode(image: &image::DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an image can be encoded");
    bytes.into_inner()
}

fn load_parquet(path: &Path) -> Result<Dataset, DatasetError> {
    datasets::load("set", &DatasetConfig::Parquet(ParquetConfig { path: path.to_owned() }), Path::new(""))
}

fn load_folder(path: &Path) -> Result<Dataset, DatasetError> {
    datasets::load("set", &DatasetConfig::Folder(FolderConfig { path: path.to_owned() }), Path::new(""))
}

/// The message, with the temporary folder replaced by `DIR`.
fn message(error: &DatasetError, dir: &Path) -> String {
    error.to_string().replace(&dir.display().to_string(), "DIR")
}
