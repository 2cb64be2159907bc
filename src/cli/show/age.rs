//! Times as people say them.

use std::time::{Duration, SystemTime};

use serde_json::Value;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time of the API.
pub(in crate::cli) fn time(value: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.as_str()?).ok()
}

/// `4 min` of four minutes, for a sentence.
pub(in crate::cli) fn long(age: Duration) -> String {
    match parts(age) {
        (1, "days") => "1 day".to_owned(),
        (count, unit) => format!("{count} {unit}"),
    }
}

/// `4m` of four minutes, for a column.
pub(in crate::cli) fn short(age: Duration) -> String {
    let (count, unit) = parts(age);
    format!("{count}{}", &unit[..1])
}

fn parts(age: Duration) -> (u64, &'static str) {
    match age.as_secs() {
        seconds if seconds < MINUTE => (seconds, "s"),
        seconds if seconds < HOUR => (seconds / MINUTE, "min"),
        seconds if seconds < DAY => (seconds / HOUR, "h"),
        seconds => (seconds / DAY, "days"),
    }
}

/// How long ago a time of the API was; nothing if there is none.
pub(in crate::cli) fn since(value: &Value, now: SystemTime) -> Option<Duration> {
    Some(now.duration_since(time(value)?).unwrap_or_default())
}

/// [`long`] of [`since`]; nothing without a time.
pub(in crate::cli) fn long_since(value: &Value, now: SystemTime) -> Option<String> {
    since(value, now).map(long)
}

/// `03:02:11` of a time of the API; nothing without one.
pub(in crate::cli) fn clock(value: &Value) -> &str {
    value.as_str().and_then(|at| at.get(11..19)).unwrap_or_default()
}

/// [`short`] of [`since`], `-` without a time.
pub(in crate::cli) fn short_since(value: &Value, now: SystemTime) -> String {
    since(value, now).map_or_else(|| "-".to_owned(), short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let shown = |seconds| short(Duration::from_secs(seconds));
        assert_eq!(shown(4), "4s");
        assert_eq!(shown(250), "4m");
        assert_eq!(shown(7200), "2h");
        assert_eq!(shown(86_400), "1d");
        assert_eq!(shown(12 * 86_400), "12d");
        let shown = |seconds| long(Duration::from_secs(seconds));
        assert_eq!(
            (shown(250), shown(86_400), shown(172_800)),
            ("4 min".into(), "1 day".into(), "2 days".into())
        );
    }
}
