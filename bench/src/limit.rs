//! Times as a user writes them, for limits.

use std::time::Duration;

/// The longest limit, days: what is longer is a mistake.
const MOST_DAYS: f64 = 1000.0;

/// `6h`, `90m`, `45s`, `1.5d`, several of these such as `1h30m`, or plain seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is no time; write 6h, 90m, 45s, 1h30m, or a number of seconds, above 0");
    let plain = text.parse::<f64>().ok().filter(|_| text.ends_with(|c: char| c.is_ascii_digit()));
    let seconds = match plain {
        Some(seconds) => seconds,
        None => parts(text).ok_or_else(refuse)?,
    };
    // Kept as nanoseconds, of which there must be one.
    let kept = Duration::try_from_secs_f64(seconds).map_err(|_| refuse())?;
    let holds = !kept.is_zero() && seconds <= MOST_DAYS * 86_400.0;
    if holds { Ok(kept) } else { Err(refuse()) }
}

/// Numbers with units, summed; the units from the longest on, each at most once.
fn parts(text: &str) -> Option<f64> {
    let mut units = [('d', 86_400.0), ('h', 3600.0), ('m', 60.0), ('s', 1.0)].into_iter();
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let unit = rest[end..].chars().next()?;
        let (_, seconds) = units.find(|(name, _)| *name == unit)?;
        sum += rest[..end].parse::<f64>().ok()? * seconds;
        rest = &rest[end + 1..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written_on_clusters() {
        for (text, seconds) in [
            ("6h", 21_600.0),
            ("90m", 5400.0),
            ("45s", 45.0),
            ("300", 300.0),
            ("0.5", 0.5),
            ("1.5d", 129_600.0),
            ("1h30m", 5400.0),
            ("2d1h1m1s", 176_461.0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_expected() {
        for text in [
            "", "h", "6 h", "6x", "6hours", "30m1h", "1h1h", "0", "0s", "-5", "-5m", "nan", "inf", "1e400", "5000d",
            "1..5h", "6µ", "1e-10",
        ] {
            let reason = parse(text).expect_err(text);
            assert!(reason.starts_with(&format!("`{text}` is no time; write 6h, 90m, 45s")), "{reason}");
        }
    }
}
