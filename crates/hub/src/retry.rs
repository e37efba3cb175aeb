//! How long to wait before the next attempt.

use std::time::Duration;

use sha2::{Digest, Sha256};

/// How patient a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in a row that bring nothing before it gives up; at least 1.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause that the back-off comes to.
    pub longest: Duration,
    /// The longest pause that a server may ask for; where it asks for more, the download gives up at once.
    pub longest_asked: Duration,
}

impl Default for Retry {
    /// Six attempts, pauses of about 1, 2, 4, 8 and 16 seconds, and up to five minutes where the server asks for it.
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            longest_asked: Duration::from_secs(300),
        }
    }
}

impl Retry {
    /// The pause after the `failed`-th failure in a row (from 1): `first · 2^(failed − 1)`, at most `longest`, of which
    /// a share between ½ and 1 is taken, so that processes which failed together do not come back together. The share
    /// is a function of `key` (process and file) and the attempt. What the server asks for is the least.
    pub(crate) fn pause(&self, failed: u32, asked: Option<Duration>, key: &str) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX));
        let digest = Sha256::digest(format!("{key}\0{failed}"));
        let share = 0.5 + 0.5 * f64::from(u16::from_le_bytes([digest[0], digest[1]])) / 65536.0;
        doubled.min(self.longest).mul_f64(share).max(asked.unwrap_or_default())
    }
}

/// What `Retry-After` asks for: seconds, or a date, which is taken relative to the response's own `Date`.
pub(crate) fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = http_date(value)?.checked_sub(http_date(date?)?)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The seconds until the limit's window ends, of a header such as `RateLimit: "api";r=0;t=55`, if nothing is left of it.
pub(crate) fn rate_limit(value: &str) -> Option<Duration> {
    let field = |name: &str| value.split(';').find_map(|part| part.trim().strip_prefix(name)?.parse::<u64>().ok());
    (field("r=")? == 0).then(|| field("t="))?.map(Duration::from_secs)
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.trim().strip_suffix(" GMT")?.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let clock: Vec<i64> = words.next()?.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    // Days of the civil calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    (words.next().is_none()).then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_differ_and_give_way_to_the_server() {
        let retry = Retry::default();
        let pauses: Vec<f64> = (1..=8).map(|n| retry.pause(n, None, "a").as_secs_f64()).collect();
        for (n, pause) in pauses.iter().enumerate() {
            let full = f64::min(2f64.powi(n as i32), 30.0);
            assert!((full / 2.0..=full).contains(pause), "pause {n} is {pause}");
        }
        assert_ne!(retry.pause(1, None, "a"), retry.pause(1, None, "b"));
        assert_eq!(retry.pause(1, None, "a"), retry.pause(1, None, "a"));
        assert_eq!(retry.pause(1, Some(Duration::from_secs(7)), "a"), Duration::from_secs(7));
        assert!(retry.pause(u32::MAX, None, "a") <= retry.longest);
    }

    #[test]
    fn what_the_server_asks_for_is_understood() {
        assert_eq!(retry_after(" 12 ", None), Some(Duration::from_secs(12)));
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:07 GMT");
        assert_eq!(http_date(date), Some(784_111_777));
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(retry_after(later, Some(date)), Some(Duration::from_secs(90)));
        assert_eq!(retry_after(date, Some(later)), Some(Duration::ZERO));
        assert_eq!(retry_after(later, None), None);
        assert_eq!(retry_after("soon", Some(date)), None);
        assert_eq!(rate_limit("\"api\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(rate_limit("\"api\";r=3;t=55"), None);
        assert_eq!(rate_limit("nonsense"), None);
    }
}
