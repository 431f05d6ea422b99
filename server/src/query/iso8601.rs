//! Reading times in the forms of ISO 8601 that ReQL takes.
//!
//! Dates: `YYYY`, `YYYY-MM`, `YYYY-MM-DD`, `YYYYMMDD`, `YYYY-DDD`, `YYYYDDD`. Times of day behind a `T`: `HH`, `HH:MM`,
//! `HHMM`, `HH:MM:SS`, `HHMMSS`, the last two with a fraction. Zones as [`Time::parse_zone`] has them.

use photondb_plugin_sdk::datum::{Civil, Time};

use super::error::{ReqlError, Result};

/// The time that the text stands for; `zone` is taken where the text has none.
///
/// # Errors
/// With what is wrong with the text.
pub fn parse(text: &str, zone: Option<&str>) -> Result<Time> {
    let invalid = |what: &str| ReqlError::logic(format!("Invalid {what} in ISO 8601 string `{text}`."));
    let (date, rest) = match text.split_once('T') {
        Some((date, rest)) => (date, Some(rest)),
        None => (text, None),
    };
    let (clock, own_zone) = match rest {
        None => ("", None),
        Some(rest) => match rest.find(['+', '-', 'Z']) {
            Some(at) => (&rest[..at], Some(&rest[at..])),
            None => (rest, None),
        },
    };
    let offset = match own_zone.or(zone) {
        Some(zone) => Time::parse_zone(zone)?,
        None => {
            return Err(ReqlError::logic("ISO 8601 string has no time zone, and no default time zone was provided."));
        }
    };
    let (year, month, day) = parse_date(date).ok_or_else(|| invalid("date"))?;
    let civil = Civil { year, month, day, hour: 0, minute: 0, second: 0, millisecond: 0 };
    let civil = match rest {
        None => civil,
        Some(_) => parse_clock(clock, civil).ok_or_else(|| invalid("time of day"))?,
    };
    Ok(Time::from_civil(&civil, offset)?)
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn parse_date(date: &str) -> Option<(i64, u8, u8)> {
    let year = number(date.get(..4)?)?;
    let rest = date.get(4..)?;
    let (month, day) = match (rest.len(), rest.starts_with('-')) {
        (0, _) => (1, 1),
        (3, true) => (number(rest.get(1..)?)?, 1),
        (6, true) if rest.get(3..4)? == "-" => (number(rest.get(1..3)?)?, number(rest.get(4..)?)?),
        (4, false) => (number(rest.get(..2)?)?, number(rest.get(2..)?)?),
        (4, true) => day_of_year(year, number(rest.get(1..)?)?)?,
        (3, false) => day_of_year(year, number(rest)?)?,
        _ => return None,
    };
    let valid = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    valid.then_some((year, month as u8, day as u8))
}

/// How many days a month has.
#[must_use]
pub fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn day_of_year(year: i64, mut day: i64) -> Option<(i64, i64)> {
    for month in 1..=12 {
        let days = days_in_month(year, month);
        if day <= days {
            return (day > 0).then_some((month, day));
        }
        day -= days;
    }
    None
}

fn parse_clock(clock: &str, date: Civil) -> Option<Civil> {
    let (whole, fraction) = match clock.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (clock, None),
    };
    let parts: Vec<&str> = match whole.len() {
        2 => vec![whole],
        4 => vec![whole.get(..2)?, whole.get(2..)?],
        6 => vec![whole.get(..2)?, whole.get(2..4)?, whole.get(4..)?],
        5 | 8 => whole.split(':').collect(),
        _ => return None,
    };
    if parts.iter().any(|part| part.len() != 2) || (fraction.is_some() && parts.len() != 3) {
        return None;
    }
    let part = |at: usize, most: i64| match parts.get(at) {
        None => Some(0),
        Some(digits) => number(digits).filter(|value| *value <= most).and_then(|value| u8::try_from(value).ok()),
    };
    let millisecond = match fraction {
        None => 0,
        Some(digits) => {
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            let padded = format!("{digits:0<3}");
            u16::try_from(number(padded.get(..3)?)?).ok()?
        }
    };
    Some(Civil { hour: part(0, 24)?, minute: part(1, 59)?, second: part(2, 59)?, millisecond, ..date })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_one_instant() {
        let dates = ["2013", "2013-01", "2013-01-01", "20130101", "2013-001", "2013001"];
        let clocks = ["13", "13:00", "1300", "13:00:00", "13:00:00.000000", "130000.000000"];
        for date in dates {
            for clock in clocks {
                for zone in ["Z", "+00", "+0000", "+00:00"] {
                    let text = format!("{date}T{clock}{zone}");
                    let time = parse(&text, None).unwrap_or_else(|error| panic!("{text}: {error}"));
                    assert_eq!(time.to_iso8601().unwrap(), "2013-01-01T13:00:00+00:00", "{text}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for date in ["201301", "2013-0101", "2a13", "2013+01", "2013-01-01.1"] {
            assert!(parse(&format!("{date}T13Z"), None).is_err(), "{date}");
        }
        for clock in ["a3", "13:0000", "13:000", "13:00.00", "130000.00000000a"] {
            assert!(parse(&format!("2013-01-01T{clock}Z"), None).is_err(), "{clock}");
        }
        for zone in ["X", "-7", "-07:-1", "+07+01", "PST", "UTC", "Z+00"] {
            assert!(parse(&format!("2013-01-01T13:00{zone}"), None).is_err(), "{zone}");
        }
        assert!(parse("2013-07-30T20:56:05", None).unwrap_err().message().contains("no time zone"));
    }
}
