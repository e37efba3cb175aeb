use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::*;

/// One entry as it is written: name, content, method, claimed size, external attributes, flags.
struct Raw<'a> {
    name: &'a [u8],
    content: &'a [u8],
    method: u16,
    size: u32,
    attributes: u32,
    flags: u16,
}

impl<'a> Raw<'a> {
    fn stored(name: &'a str, content: &'a [u8]) -> Self {
        Raw { name: name.as_bytes(), content, method: 0, size: content.len() as u32, attributes: 0, flags: 0 }
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// An archive, byte by byte, from what the format says. `sum` is the checksum of the unpacked content.
fn archive(entries: &[(Raw<'_>, u32)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (raw, sum) in entries {
        let header = out.len() as u32;
        let mut shared = Vec::new();
        [20, raw.flags, raw.method, 0, 0x21].iter().for_each(|half: &u16| shared.extend(half.to_le_bytes()));
        [*sum, raw.content.len() as u32, raw.size].iter().for_each(|word| shared.extend(word.to_le_bytes()));
        shared.extend((raw.name.len() as u16).to_le_bytes());
        shared.extend([0, 0]);
        out.extend(0x0403_4b50u32.to_le_bytes());
        out.extend(&shared);
        out.extend(raw.name);
        out.extend(raw.content);
        directory.extend(0x0201_4b50u32.to_le_bytes());
        directory.extend([20, 3]);
        directory.extend(&shared);
        directory.extend([0; 6]);
        directory.extend(raw.attributes.to_le_bytes());
        directory.extend(header.to_le_bytes());
        directory.extend(raw.name);
    }
    let offset = out.len() as u32;
    out.extend(&directory);
    out.extend(0x0605_4b50u32.to_le_bytes());
    [0, 0, entries.len() as u16, entries.len() as u16].iter().for_each(|half| out.extend(half.to_le_bytes()));
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, Result<Archive, DatasetError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    fs::write(&path, bytes).unwrap();
    let archive = Archive::open(&path);
    (dir, archive)
}

fn refused(raw: Raw<'_>, sum: u32) -> String {
    let name = String::from_utf8_lossy(raw.name).replace('\\', "/");
    let (dir, archive) = open(&archive(&[(raw, sum)]));
    let error = archive.and_then(|archive| archive.read(&name, 1 << 22)).unwrap_err().to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn what_was_written_is_read() {
    let mut writer = ZipWriter::new(Vec::new());
    writer.add("a/images/1.png", b"picture").unwrap();
    writer.add("a/anno/train.txt", "1.png 1\n\u{fc}.png 2\n".as_bytes()).unwrap();
    let (_dir, archive) = open(&writer.finish().unwrap());
    let archive = archive.unwrap();
    assert_eq!(archive.read("a/images/1.png", 7).unwrap(), b"picture");
    assert_eq!(archive.roots().unwrap(), ["a"]);
    assert_eq!(archive.list("a/images").unwrap(), ["1.png"]);
    let lines = archive.lines("a", "train").unwrap().unwrap();
    assert_eq!(lines[1], Line { number: 2, file: "\u{fc}.png".into(), label: 2 });
    assert_eq!(archive.lines("a", "test").unwrap(), None);
    assert!(archive.read("a/images/1.png", 6).unwrap_err().to_string().contains("has 7 bytes; the limit is 6"));
}

#[test]
fn deflated_entries_are_unpacked() {
    let text = b"leaf leaf leaf leaf".repeat(100);
    let packed = deflate(&text);
    let raw = Raw { method: 8, size: text.len() as u32, ..Raw::stored("a\\b.txt", &packed) };
    let (_dir, archive) = open(&archive(&[(raw, crc(&text))]));
    assert_eq!(archive.unwrap().read("a/b.txt", 1 << 20).unwrap(), text);
}

#[test]
fn names_that_lead_out_are_refused() {
    for (name, reason) in [
        ("../evil.png", "leads out of the archive's folder"),
        ("images/../../evil.png", "leads out"),
        ("images\\..\\..\\evil.png", "leads out"),
        ("/etc/passwd", "absolute path"),
        ("C:\\evil.png", "absolute path"),
        ("a\0b", "zero byte"),
    ] {
        let text = refused(Raw::stored(name, b"x"), crc(b"x"));
        assert!(text.starts_with("DIR/set.zip: entry `") && text.contains(reason), "{text}");
    }
    let text = refused(Raw { name: b"images/\xff.png", ..Raw::stored("", b"x") }, crc(b"x"));
    assert!(text.contains("entry `images/\u{fffd}.png`: its name is not UTF-8"), "{text}");
    let link = Raw { attributes: 0o120_777 << 16, ..Raw::stored("link", b"/etc") };
    assert_eq!(refused(link, crc(b"/etc")), "DIR/set.zip: entry `link`: it is a link");
    let twice = archive(&[(Raw::stored("a", b"x"), crc(b"x")), (Raw::stored("./a", b"y"), crc(b"y"))]);
    let error = open(&twice).1.unwrap_err().to_string();
    assert!(error.ends_with("entry `./a`: there are two entries of this name"), "{error}");
}

#[test]
fn bombs_and_lies_are_refused() {
    let zeros = vec![0; 1 << 21];
    let bomb = deflate(&zeros);
    let text = refused(Raw { method: 8, size: 1 << 21, ..Raw::stored("a", &bomb) }, crc(&zeros));
    assert!(text.contains("unpack to 2097152, more than 200 times as many"), "{text}");
    // A bomb that lies about its size is unpacked to the size it claims and no further.
    let text = refused(Raw { method: 8, size: 100, ..Raw::stored("a", &bomb) }, crc(&zeros));
    assert!(text.contains("it unpacks to more than the 100 bytes"), "{text}");
    let text = refused(Raw { method: 8, size: 1 << 30, ..Raw::stored("a", &bomb) }, crc(&zeros));
    assert!(text.contains("it has 1073741824 bytes; the limit is 4194304"), "{text}");
    let short = deflate(b"leaf");
    let text = refused(Raw { method: 8, size: 5, ..Raw::stored("a", &short) }, crc(b"leaf"));
    assert!(text.contains("it unpacks to less than the 5 bytes"), "{text}");
    assert!(refused(Raw::stored("a", b"x"), 7).contains("its checksum is wrong"));
    assert!(refused(Raw { size: 2, ..Raw::stored("a", b"x") }, crc(b"x")).contains("its two sizes differ"));
    assert!(refused(Raw { flags: 1, ..Raw::stored("a", b"x") }, crc(b"x")).contains("it is encrypted"));
    assert!(refused(Raw { method: 9, ..Raw::stored("a", b"x") }, crc(b"x")).contains("compression method 9"));
}

#[test]
fn every_truncation_is_an_error() {
    let whole = archive(&[(Raw::stored("a", b"xyz"), crc(b"xyz")), (Raw::stored("b", b"uvw"), crc(b"uvw"))]);
    for length in 0..whole.len() {
        assert!(open(&whole[..length]).1.is_err(), "{length} of {}", whole.len());
    }
    assert!(open(&whole).1.is_ok());
    // A comment that is longer than it says, or shorter.
    assert!(open(&[&whole[..], b"tail"].concat()).1.is_err());
}

#[test]
fn lists_name_the_line_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("anno")).unwrap();
    let lines = |bytes: &[u8]| {
        fs::write(dir.path().join("anno/train.txt"), bytes).unwrap();
        Archive::open(dir.path()).unwrap().lines("", "train").map(|lines| lines.unwrap_or_default())
    };
    let error = |bytes: &[u8]| lines(bytes).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR");
    let good = lines(b"\xef\xbb\xbfa b.png 1\r\n\r\nc.png\t12").unwrap();
    assert_eq!(
        good.iter().map(|l| (l.number, l.file.as_str(), l.label)).collect::<Vec<_>>(),
        [(1, "a b.png", 1), (3, "c.png", 12)]
    );
    assert_eq!(error(b"a.png 1\nb.png"), "DIR: anno/train.txt line 2: `b.png` is not of the form `filename label`");
    assert_eq!(error(b"a.png 0"), "DIR: anno/train.txt line 1: the label is 0; labels count from 1");
    assert_eq!(error(b"a.png -1"), "DIR: anno/train.txt line 1: the label `-1` is not a whole number from 1");
    assert_eq!(error(b"a.png 1\nb.png 2\na.png 1"), "DIR: anno/train.txt line 3: `a.png` is listed a second time");
    assert_eq!(error(b"a.png 1\n\xff.png 2"), "DIR: anno/train.txt line 2: it is not UTF-8 text");
    for name in ["../a.png", "/etc/passwd", "..", "a\\b.png"] {
        let text = error(format!("{name} 1").as_bytes());
        assert_eq!(text, format!("DIR: anno/train.txt line 1: `{name}` is not a plain file name"));
    }
}

#[test]
fn roots_are_found_in_folders() {
    let dir = tempfile::tempdir().unwrap();
    for root in ["SoyAgeing/SoyAgeing-R1/R1", "SoyAgeing/SoyAgeing-R3/R3", "other"] {
        fs::create_dir_all(dir.path().join(root).join("images")).unwrap();
        fs::create_dir_all(dir.path().join(root).join("anno")).unwrap();
        if root != "other" {
            fs::write(dir.path().join(root).join("anno/train.txt"), "").unwrap();
        }
    }
    let roots = |path: &Path| Archive::open(path).unwrap().roots().unwrap();
    assert_eq!(roots(dir.path()), ["SoyAgeing/SoyAgeing-R1/R1", "SoyAgeing/SoyAgeing-R3/R3"]);
    assert_eq!(roots(&dir.path().join("SoyAgeing/SoyAgeing-R1/R1")), [""]);
    assert_eq!(roots(&dir.path().join("other")), [""; 0]);
}
