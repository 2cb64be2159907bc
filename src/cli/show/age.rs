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

/// `4m` of four minutes.
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
    }
}
