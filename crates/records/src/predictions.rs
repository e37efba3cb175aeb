//! Per-image predictions: what paired comparisons are made from.
//!
//! A CSV file, one row a test image, in the order of the dataset: `image,label,predicted,probability,true_probability,rank`.
//! Probabilities are written with 9 significant digits, enough to give a float32 back exactly.

use std::fmt::Write;

/// What a trial said about one test image.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Identity of the image: the first hex digits of the SHA-256 of its bytes.
    pub image: String,
    /// True class id.
    pub label: u32,
    /// Class id with the largest logit (the lower id of equals).
    pub predicted: u32,
    /// Probability of the predicted class.
    pub probability: f32,
    /// Probability of the true class.
    pub true_probability: f32,
    /// Rank of the true class, from 1.
    pub rank: u32,
}

/// Header of the file.
pub const HEADER: &str = "image,label,predicted,probability,true_probability,rank";

/// The file's contents.
pub fn to_csv(predictions: &[Prediction]) -> String {
    let mut out = String::from(HEADER);
    out.push('\n');
    for p in predictions {
        writeln!(
            out,
            "{},{},{},{:.8e},{:.8e},{}",
            p.image, p.label, p.predicted, p.probability, p.true_probability, p.rank
        )
        .expect("writing to a String");
    }
    out
}

/// Reads what [`to_csv`] wrote. The error names the line, counted from 1.
pub fn from_csv(text: &str) -> Result<Vec<Prediction>, String> {
    let mut lines = text.lines().enumerate();
    match lines.next() {
        Some((_, header)) if header == HEADER => {}
        _ => return Err(format!("line 1: expected the header `{HEADER}`")),
    }
    lines
        .map(|(index, line)| parse_row(line).ok_or_else(|| format!("line {}: `{line}` is no prediction", index + 1)))
        .collect()
}

fn parse_row(line: &str) -> Option<Prediction> {
    let mut fields = line.split(',');
    let row = Prediction {
        image: fields.next()?.to_owned(),
        label: fields.next()?.parse().ok()?,
        predicted: fields.next()?.parse().ok()?,
        probability: fields.next()?.parse().ok()?,
        true_probability: fields.next()?.parse().ok()?,
        rank: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_wrote_and_names_a_bad_line() {
        let rows: Vec<Prediction> = [0.1f32, 1.0, f32::MIN_POSITIVE, 0.333_333_34]
            .into_iter()
            .enumerate()
            .map(|(i, p)| Prediction {
                image: format!("{i:016x}"),
                label: i as u32,
                predicted: 3,
                probability: p,
                true_probability: p / 2.0,
                rank: 1 + i as u32,
            })
            .collect();
        let text = to_csv(&rows);
        assert_eq!(from_csv(&text).unwrap(), rows);
        let torn = text.replace("1.00000000e0", "one");
        assert!(from_csv(&torn).unwrap_err().starts_with("line 3:"));
        assert!(from_csv("").is_err());
    }
}
