//! When a secret can be used, and what is said of one that expires. Pure: the caller gives the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A secret is said to expire this long before it does, in seconds: a week.
const SOON: i64 = 7 * 24 * 60 * 60;
/// Or in the last part of its life, if that is shorter: certificates of a day are renewed every few hours.
const LAST_PART: i64 = 5;
/// The last second that RFC 3339 can tell, 9999-12-31T23:59:59Z.
const LATEST: i64 = 253_402_300_799;

/// The time in which a secret can be used, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment; `None`: always.
    pub starts: Option<i64>,
    /// The last moment; `None`: for ever.
    pub ends: Option<i64>,
}

impl Validity {
    /// The last moment in RFC 3339.
    #[must_use]
    pub fn expires_at(&self) -> Option<String> {
        self.ends.map(moment)
    }

    /// The warning about a secret that is not valid at `now`, or expires soon; without its subject.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        match (self.starts, self.ends) {
            (_, Some(ends)) if ends < now => Some(format!("expired at {}", moment(ends))),
            (Some(starts), _) if starts > now => Some(format!("not valid before {}", moment(starts))),
            (starts, Some(ends)) if ends - now < soon(starts, ends) => Some(format!("expires at {}", moment(ends))),
            _ => None,
        }
    }
}

/// How long before its end a secret is said to expire.
fn soon(starts: Option<i64>, ends: i64) -> i64 {
    let last_part = starts.map(|starts| ends.saturating_sub(starts) / LAST_PART);
    last_part.map_or(SOON, |last_part| last_part.min(SOON))
}

/// A moment in seconds since 1970, in RFC 3339.
#[must_use]
pub fn moment(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds.min(LATEST)).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    #[test]
    fn a_secret_is_said_to_expire_in_its_last_week_or_the_last_fifth_of_its_life() {
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
        let quarter = Validity {
            starts: Some(10 * DAY),
            ends: Some(100 * DAY),
        };
        let said = |validity: &Validity, now| validity.warning(at(now));
        assert_eq!(
            said(&quarter, 9 * DAY).as_deref(),
            Some("not valid before 1970-01-11T00:00:00Z")
        );
        assert_eq!(said(&quarter, 93 * DAY), None);
        assert_eq!(
            said(&quarter, 93 * DAY + 1).as_deref(),
            Some("expires at 1970-04-11T00:00:00Z")
        );
        assert_eq!(
            said(&quarter, 100 * DAY + 1).as_deref(),
            Some("expired at 1970-04-11T00:00:00Z")
        );

        let of_a_day = Validity {
            starts: Some(0),
            ends: Some(DAY),
        };
        assert_eq!(said(&of_a_day, DAY * 4 / 5), None);
        assert_eq!(
            said(&of_a_day, DAY * 4 / 5 + 1).as_deref(),
            Some("expires at 1970-01-02T00:00:00Z")
        );
        let for_ever = Validity {
            starts: None,
            ends: None,
        };
        assert_eq!(said(&for_ever, 1000 * DAY), None);
    }

    #[test]
    fn moments_beyond_the_calendar_are_its_last() {
        assert_eq!(moment(i64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(moment(-1), "1970-01-01T00:00:00Z");
    }
}
