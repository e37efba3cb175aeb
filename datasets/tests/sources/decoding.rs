use datasets::{Rgb, decode_bytes};
use image::{DynamicImage, ImageFormat};

use super::{encode, png};

fn decoded(image: DynamicImage, format: ImageFormat) -> Rgb {
    decode_bytes(&encode(&image, format), "here").expect("an image")
}

#[test]
fn grey_alpha_and_deep_images_become_rgb() {
    let png = ImageFormat::Png;
    let grey = image::GrayImage::from_raw(2, 1, vec![7, 200]).expect("sizes");
    assert_eq!(decoded(grey.into(), png).data, [7, 7, 7, 200, 200, 200]);
    let grey_alpha = image::GrayAlphaImage::from_raw(1, 1, vec![9, 0]).expect("sizes");
    assert_eq!(decoded(grey_alpha.into(), png).data, [9, 9, 9]);
    let alpha = image::RgbaImage::from_raw(2, 1, vec![1, 2, 3, 0, 4, 5, 6, 128]).expect("sizes");
    assert_eq!(decoded(alpha.into(), png).data, [1, 2, 3, 4, 5, 6], "alpha is dropped, not blended");
    let deep: image::ImageBuffer<image::Rgb<u16>, Vec<u16>> =
        image::ImageBuffer::from_raw(2, 1, vec![0, 65535, 257 * 100, 128, 129, 32768]).expect("sizes");
    assert_eq!(decoded(DynamicImage::ImageRgb16(deep), png).data, [0, 255, 100, 0, 0, 128], "the high byte, as Pillow");
}

/// A palette PNG of two pixels (entries 1 and 0 of red, blue), made with Pillow 13.0.0:
///
/// ```python
/// im = Image.new("P", (2, 1)); im.putpalette([255, 0, 0, 0, 0, 255]); im.putdata([1, 0]); im.save(f, "PNG")
/// ```
const PALETTE: &str = "89504e470d0a1a0a0000000d4948445200000002000000010103000000ceecedc900000006504c5445ff00000000ff6ca1fd8e0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082";

#[test]
fn palettes_become_rgb() {
    let digit = |b: u8| (b as char).to_digit(16).expect("hex") as u8;
    let bytes: Vec<u8> = PALETTE.as_bytes().chunks(2).map(|p| digit(p[0]) * 16 + digit(p[1])).collect();
    let image = decode_bytes(&bytes, "here").expect("an image");
    assert_eq!((image.width, image.height, image.data), (2, 1, vec![0, 0, 255, 255, 0, 0]));
}

#[test]
fn every_format_is_told_from_its_bytes() {
    let source = DynamicImage::ImageRgb8(image::RgbImage::from_pixel(8, 8, image::Rgb([200, 100, 50])));
    for format in
        [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Jpeg]
    {
        let image = decode_bytes(&encode(&source, format), "here").expect("an image");
        assert_eq!((image.width, image.height), (8, 8));
        // JPEG and the palette of GIF are not exact.
        let near = image.data.chunks(3).all(|p| p.iter().zip([200u8, 100, 50]).all(|(a, b)| a.abs_diff(b) <= 4));
        assert!(near, "{format:?} {:?}", &image.data[..3]);
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let text = |bytes: &[u8]| decode_bytes(bytes, "set.parquet row 3").expect_err("refused").to_string();
    assert_eq!(text(b""), "set.parquet row 3: the image is empty (0 bytes)");
    let unknown = "not an image in a known format (bmp, gif, jpeg, png, tiff, webp); it begins with 68 65 6c 6c";
    assert_eq!(text(b"hello"), format!("set.parquet row 3: {unknown}"));
    let whole = png(1);
    for length in [8, 20, whole.len() / 2] {
        assert!(text(&whole[..length]).starts_with("set.parquet row 3: "), "{length}");
    }
}

#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    // A PNG header that claims 50000×50000 pixels, with a valid checksum.
    let mut bytes = png(1);
    bytes[16..20].copy_from_slice(&50_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&50_000u32.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode_bytes(&bytes, "row 1").expect_err("refused").to_string();
    assert!(error.contains("limit") || error.contains("large"), "{error}");
    // 19000×19000 pixels are within the sides, but more than 1 GiB.
    bytes[16..20].copy_from_slice(&19_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&19_000u32.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode_bytes(&bytes, "row 1").expect_err("refused").to_string();
    assert!(error.to_lowercase().contains("memory") || error.contains("limit"), "{error}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}

proptest::proptest! {
    #[test]
    fn damage_is_an_error_or_an_image_never_a_panic(at in 0usize..200, value: u8) {
        let mut bytes = png(3);
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(image) = decode_bytes(&bytes, "here") {
            proptest::prop_assert_eq!(image.data.len(), image.width * image.height * 3);
        }
    }
}
