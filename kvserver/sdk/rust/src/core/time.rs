//! Points in time: RFC 3339 texts, as the server writes them, and HTTP's dates.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in whole milliseconds. `Display` and `FromStr` are RFC 3339: `2026-11-22T11:40:00.123Z`.
///
/// ```
/// use kvserver_client::Timestamp;
/// let time: Timestamp = "2026-11-22T11:40:00.123Z".parse()?;
/// assert_eq!(time.unix_millis(), 1_795_347_600_123);
/// assert_eq!(time.to_string(), "2026-11-22T11:40:00.123Z");
/// # Ok::<(), kvserver_client::BadTime>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadTime(String);

impl fmt::Display for BadTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an RFC 3339 time such as 2026-11-22T11:40:00.123Z: {:?}", self.0)
    }
}

impl std::error::Error for BadTime {}

impl Timestamp {
    /// Return the time that is `millis` milliseconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Return the milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Return the time of an HTTP date: `Sun, 22 Nov 2026 11:40:00 GMT`.
    pub(crate) fn from_http_date(text: &str) -> Option<Self> {
        let mut parts = text.split_once(", ")?.1.split(' ');
        let day: u32 = parts.next()?.parse().ok()?;
        let name = parts.next()?;
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = months.iter().position(|known| *known == name)? as u32 + 1;
        let year: i64 = parts.next()?.parse().ok()?;
        let seconds = clock(parts.next()?)?;
        Some(Self((days_before(year, month, day) * 86_400 + seconds) * 1_000))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(after.as_millis() as i64),
            Err(before) => Self(-(before.duration().as_millis() as i64)),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_millis(time.0.unsigned_abs());
        if time.0 < 0 {
            UNIX_EPOCH - distance
        } else {
            UNIX_EPOCH + distance
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = date_of(days);
        let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1_000)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        parse(text).map(Self).ok_or_else(|| BadTime(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<i64> {
    if !text.is_ascii() || text.len() < 20 || !matches!(text.as_bytes()[10], b'T' | b't' | b' ') {
        return None;
    }
    let (date, rest) = (&text[..10], &text[11..]);
    let mut numbers = date.split('-');
    let year: i64 = numbers.next().filter(|part| part.len() == 4)?.parse().ok()?;
    let month: u32 = numbers.next()?.parse().ok().filter(|month| (1..=12).contains(month))?;
    let day: u32 = numbers.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let seconds = clock(&rest[..8])?;
    let (fraction, zone) = match rest[8..].strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("000", &rest[8..]),
    };
    if fraction.is_empty() {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (sign, clock_text) = zone.split_at(1);
            let minutes = clock(&format!("{clock_text}:00"))?;
            match sign {
                "+" => minutes,
                "-" => -minutes,
                _ => return None,
            }
        }
    };
    Some((days_before(year, month, day) * 86_400 + seconds - offset) * 1_000 + millis)
}

/// Return the seconds of `11:40:00`.
fn clock(text: &str) -> Option<i64> {
    if text.len() != 8 || text.as_bytes()[2] != b':' || text.as_bytes()[5] != b':' {
        return None;
    }
    let part = |from: usize, below: i64| text[from..from + 2].parse().ok().filter(|n: &i64| (0..below).contains(n));
    Some(part(0, 24)? * 3_600 + part(3, 60)? * 60 + part(6, 61)?)
}

/// Return the days from 1970-01-01 to a date of the Gregorian calendar.
fn days_before(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Return year, month and day of the date that is `days` after 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_agree() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2026-11-22T11:40:00.123Z", 1_795_347_600_123),
            ("1969-12-31T23:59:59.000Z", -1_000),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().unix_millis(), millis, "{text}");
            assert_eq!(Timestamp(millis).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives_a_round_trip() {
        for days in -30_000..120_000 {
            let time = Timestamp(days * 86_400_000 + 1);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn other_forms_of_rfc_3339_are_read() {
        let time: Timestamp = "2026-11-22t12:40:00.5+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T11:40:00.500Z");
        assert_eq!("2026-11-22T11:40:00Z".parse::<Timestamp>().unwrap().unix_millis(), 1_795_347_600_000);
        for bad in [
            "",
            "2026-11-22",
            "2026-11-22T11:40:00",
            "2026-13-22T11:40:00Z",
            "2026-11-22T11:40:00.Z",
            "yesterday at noon, UTC",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn http_dates_are_read() {
        let time = Timestamp::from_http_date("Sun, 22 Nov 2026 11:40:00 GMT").unwrap();
        assert_eq!(time.to_string(), "2026-11-22T11:40:00.000Z");
        assert_eq!(Timestamp::from_http_date("soon"), None);
    }

    #[test]
    fn system_time_goes_both_ways() {
        for millis in [-5, 0, 1_795_347_600_123] {
            assert_eq!(Timestamp::from(SystemTime::from(Timestamp(millis))), Timestamp(millis));
        }
    }
}
