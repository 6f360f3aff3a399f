//! Times and lengths of time: as numbers, as the history has them, and in words for a person.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_millis, format_rfc3339_seconds};

/// Milliseconds since the epoch.
pub(crate) fn to_ms(time: SystemTime) -> u64 {
    duration_ms(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn from_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

pub(crate) fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn duration_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A time to the second.
pub(crate) fn time(ms: u64) -> String {
    text(format_rfc3339_seconds(from_ms(ms))).unwrap_or_else(|| format!("{ms} ms since 1970"))
}

/// A time to the millisecond.
pub(crate) fn time_with_ms(ms: u64) -> String {
    text(format_rfc3339_millis(from_ms(ms))).unwrap_or_else(|| format!("{ms} ms after 1970"))
}

/// None for a year beyond 9999, which only a damaged history has.
fn text(time: humantime::Rfc3339Timestamp) -> Option<String> {
    let mut text = String::new();
    write!(text, "{time}").ok().map(|()| text)
}

/// To the second, and below that to the millisecond: `1m 1s`, `800ms`.
pub(crate) fn coarse(ms: u64) -> String {
    let ms = if ms < 1000 { ms } else { ms - ms % 1000 };
    format_duration(Duration::from_millis(ms)).to_string()
}

/// To the microsecond, so that lengths below each other are compared at a glance: `12.345 ms`.
pub(crate) fn exact(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000_000 => format!("{}.{:03} ms", us / 1000, us % 1000),
        _ => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}

/// In the unit that suits it, with three figures: `20 µs`, `5.68 ms`, `3.10 s`.
pub(crate) fn brief(us: u64) -> String {
    match us {
        0 => "0".into(),
        1..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", figures(us as f64 / 1e3)),
        1_000_000..60_000_000 => format!("{} s", figures(us as f64 / 1e6)),
        60_000_000..3_600_000_000 => {
            format!("{} min {:02} s", us / 60_000_000, us / 1_000_000 % 60)
        }
        _ => format!("{} h {:02} min", us / 3_600_000_000, us / 60_000_000 % 60),
    }
}

fn figures(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// In milliseconds, however long: `12.0 ms`, `15000 ms`.
pub(crate) fn in_ms(us: u64) -> String {
    match us as f64 / 1e3 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// Of a column of milliseconds: comparable with the others, also where a length of microseconds
/// follows one of minutes.
pub(crate) fn column_ms(us: u64) -> String {
    if us == 0 { "0".into() } else { format!("{:.2}", us as f64 / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_also_in_a_damaged_history() {
        assert_eq!(time(1_795_000_000_123), "2026-11-18T11:06:40Z");
        assert_eq!(time_with_ms(1_795_000_000_123), "2026-11-18T11:06:40.123Z");
        assert_eq!(time(u64::MAX), "18446744073709551615 ms since 1970");
        assert_eq!(time_with_ms(u64::MAX), "18446744073709551615 ms after 1970");
    }

    #[test]
    fn lengths_have_the_unit_that_suits_them() {
        let lengths = [0, 999, 1000, 12_345, 9_999_999, 61_250_000, 3_661_000_000];
        assert_eq!(
            lengths.map(exact),
            ["0 us", "999 us", "1.000 ms", "12.345 ms", "9999.999 ms", "61.2 s", "3661.0 s"]
        );
        assert_eq!(
            lengths.map(brief),
            ["0", "999 µs", "1.00 ms", "12.3 ms", "10.00 s", "1 min 01 s", "1 h 01 min"]
        );
        let ms = ["0.00 ms", "1.00 ms", "1.00 ms", "12.3 ms", "10000 ms", "61250 ms", "3661000 ms"];
        assert_eq!(lengths.map(in_ms), ms);
        assert_eq!([0, 20, 3_003_200].map(column_ms), ["0", "0.02", "3003.20"]);
        assert_eq!([0, 800, 61_999].map(coarse), ["0s", "800ms", "1m 1s"]);
    }
}
