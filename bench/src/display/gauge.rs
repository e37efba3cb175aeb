//! How far something has come, how fast, and what is left of it, in words.

/// Work on a known number of things.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gauge {
    /// Things so far.
    pub(super) done: u64,
    /// All of them.
    pub(super) total: u64,
    /// Seconds so far.
    pub(super) seconds: f64,
}

impl Gauge {
    /// Things a second; none before there is anything to measure.
    pub(super) fn rate(self) -> Option<f64> {
        (self.done > 0 && self.seconds > 0.0).then(|| self.done as f64 / self.seconds)
    }

    /// `812 images/s`, or nothing.
    pub(super) fn speed(self) -> String {
        self.rate().map_or(String::new(), |rate| format!("{rate:.0} images/s"))
    }

    /// `3 min left`, or nothing.
    pub(super) fn left(self) -> String {
        let left = self.rate().map(|rate| self.total.saturating_sub(self.done) as f64 / rate);
        left.filter(|_| self.done < self.total).map_or(String::new(), |left| format!("{} left", duration(left)))
    }
}

/// A duration to be read at a glance.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 99.5 * 60.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The parts that say something, with two spaces between them.
pub(super) fn joined<const N: usize>(parts: [String; N]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_the_speed() {
        let gauge = |done, seconds| Gauge { done, total: 1000, seconds };
        assert_eq!((gauge(0, 3.0).speed(), gauge(0, 3.0).left()), (String::new(), String::new()));
        assert_eq!((gauge(250, 0.0).speed(), gauge(250, 0.0).left()), (String::new(), String::new()));
        assert_eq!((gauge(250, 2.0).speed(), gauge(250, 2.0).left()), ("125 images/s".into(), "6.0 s left".into()));
        assert_eq!(gauge(1000, 4.0).left(), "");
        assert_eq!(gauge(1200, 4.0).left(), "", "more than was promised");
        let durations = [0.04, 9.96, 99.4, 100.0, 5969.0, 5971.0, 90_000.0].map(duration);
        assert_eq!(durations, ["0.0 s", "10 s", "99 s", "2 min", "99 min", "1.7 h", "25.0 h"]);
        assert_eq!(joined(["a".into(), String::new(), "b".into()]), "a  b");
    }
}
