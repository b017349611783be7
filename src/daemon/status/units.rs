//! Numbers as people read them at a glance: at most three digits that count, and a unit.

use std::time::Duration;

/// Decimal prefixes of a thousand each.
const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// A number in at most four characters: `0`, `999`, `1.2k`, `12k`, `999k`, `1.0M`.
pub(super) fn count(n: u64) -> String {
    scaled(n as f64)
}

/// Bits per second, as `1.2Gbit`; `0` if there are none.
pub(super) fn bits(per_second: f64) -> String {
    if per_second < 0.5 { "0".into() } else { scaled(per_second) + "bit" }
}

/// Frames per second. Fewer than ten are told to a tenth: one in two seconds is not nothing.
pub(super) fn frames(per_second: f64) -> String {
    match per_second {
        n if n < 0.05 => "0".into(),
        n if n < 9.95 => format!("{n:.1}"),
        n => scaled(n),
    }
}

/// Bytes, as `5.3GB`; `0` if there are none.
pub(super) fn bytes(n: u64) -> String {
    if n == 0 { "0".into() } else { scaled(n as f64) + "B" }
}

/// How long something has lasted, by its greatest unit: `5s`, `3m`, `2h`, `4d`.
pub(super) fn age(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86400 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86400),
    }
}

fn scaled(n: f64) -> String {
    let (mut n, mut place) = (n, 0);
    // 999.5 would be shown as 1000.
    while n >= 999.5 && place + 1 < PREFIXES.len() {
        n /= 1000.0;
        place += 1;
    }
    let prefix = PREFIXES[place];
    if place > 0 && n < 9.95 { format!("{n:.1}{prefix}") } else { format!("{n:.0}{prefix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_at_most_three_digits() {
        for (n, text) in [
            (0, "0"),
            (7, "7"),
            (999, "999"),
            (1000, "1.0k"),
            (1249, "1.2k"),
            (9949, "9.9k"),
            (9950, "10k"),
            (999_499, "999k"),
            (999_500, "1.0M"),
            (18_400_000_000_000_000_000, "18E"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(count(n), text);
        }
        assert_eq!(
            (bits(0.0), bits(1.24e9), bits(800.0)),
            ("0".into(), "1.2Gbit".into(), "800bit".into())
        );
        let seen = [0.0, 0.5, 2.0, 9.99, 104_000.0].map(frames);
        assert_eq!(seen, ["0", "0.5", "2.0", "10", "104k"]);
        assert_eq!((bytes(0), bytes(1254)), ("0".into(), "1.3kB".into()));
    }

    #[test]
    fn an_age_is_told_by_its_greatest_unit() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_400, "1d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
