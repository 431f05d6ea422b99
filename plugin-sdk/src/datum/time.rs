//! Instants, as ReQL's `PTYPE<TIME>` has them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

/// An instant in milliseconds, and the zone it is shown in. Equality is about both: ReQL's order, which ignores the
/// zone, is that of [`Datum`](super::Datum).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    epoch_seconds: f64,
    offset_minutes: i16,
}

/// A date and a time of day, as a clock on the wall shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// The year of the Gregorian calendar.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999.
    pub millisecond: u16,
}

/// Why something is not a time. The texts are those of the ReQL protocol, which clients compare.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeError {
    /// Not a finite number of seconds.
    #[error("The seconds of a time have to be a finite number.")]
    NotFinite,
    /// An offset of a day or more.
    #[error("The offset of a time zone has to be less than 24 hours.")]
    OffsetOutOfRange,
    /// The year is outside of what calendar functions handle.
    #[error("Error in time logic: Year is out of valid range: 1400..10000.")]
    YearOutOfRange,
    /// The year has no four digits.
    #[error("Year `{0}` out of valid ISO 8601 range [0, 9999].")]
    NotIso8601(i64),
    /// A zone without a sign.
    #[error("Timezone `{0}` does not start with `-` or `+`.")]
    ZoneSign(String),
    /// A zone that is not `+HH`, `+HHMM` or `+HH:MM`.
    #[error("`{0}` is not a valid time offset.")]
    ZoneForm(String),
    /// Hours above 23.
    #[error("Hours out of range in `{0}`.")]
    ZoneHours(String),
    /// Minutes above 59.
    #[error("Minutes out of range in `{0}`.")]
    ZoneMinutes(String),
}

const DAY_MS: i64 = 86_400_000;
/// Far beyond every calendar, and in milliseconds still exact in both f64 and i64.
const CALENDAR_SECONDS: f64 = 1e12;

impl Time {
    /// The instant `epoch_seconds` after 1970 began in UTC, rounded to milliseconds, shown `offset_minutes` east.
    ///
    /// # Errors
    /// When the seconds are not finite or the offset is a day or more.
    pub fn new(epoch_seconds: f64, offset_minutes: i16) -> Result<Self, TimeError> {
        if !epoch_seconds.is_finite() {
            return Err(TimeError::NotFinite);
        }
        if offset_minutes.unsigned_abs() >= 24 * 60 {
            return Err(TimeError::OffsetOutOfRange);
        }
        let rounded = (epoch_seconds * 1000.0).round() / 1000.0;
        // Too large for a fraction: the product may even have overflowed.
        let epoch_seconds = if epoch_seconds.abs() < CALENDAR_SECONDS { rounded } else { epoch_seconds };
        Ok(Self { epoch_seconds, offset_minutes })
    }

    /// The present, shown in UTC.
    #[must_use]
    pub fn now() -> Self {
        let millis = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_millis() as f64,
            Err(before) => -(before.duration().as_millis() as f64),
        };
        Self { epoch_seconds: millis / 1000.0, offset_minutes: 0 }
    }

    /// What a clock on the wall showed in a zone, as an instant. Days and hours beyond their range carry over.
    ///
    /// # Errors
    /// When the year is not in 1400 to 10000, or the offset is a day or more.
    pub fn from_civil(civil: &Civil, offset_minutes: i16) -> Result<Self, TimeError> {
        if !(1400..=10_000).contains(&civil.year) {
            return Err(TimeError::YearOutOfRange);
        }
        let minutes = i64::from(civil.hour) * 60 + i64::from(civil.minute) - i64::from(offset_minutes);
        let seconds = days_from_civil(civil.year, civil.month, civil.day) * 86_400 + minutes * 60;
        Self::new((seconds + i64::from(civil.second)) as f64 + f64::from(civil.millisecond) / 1000.0, offset_minutes)
    }

    /// Seconds since 1970 began in UTC.
    #[must_use]
    pub fn epoch_seconds(&self) -> f64 {
        self.epoch_seconds
    }

    /// Minutes east of UTC of the zone that the time is shown in.
    #[must_use]
    pub fn offset_minutes(&self) -> i16 {
        self.offset_minutes
    }

    /// The same instant, shown in another zone.
    ///
    /// # Errors
    /// When the offset is a day or more.
    pub fn in_zone(&self, offset_minutes: i16) -> Result<Self, TimeError> {
        Self::new(self.epoch_seconds, offset_minutes)
    }

    /// The zone: `+00:00`, `-07:00`.
    #[must_use]
    pub fn zone(&self) -> String {
        let minutes = self.offset_minutes.unsigned_abs();
        let sign = if self.offset_minutes < 0 { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }

    /// The minutes east of UTC that a zone stands for: `Z`, `+HH`, `+HHMM` or `+HH:MM`, or the same with a minus.
    ///
    /// # Errors
    /// With the words of the ReQL protocol.
    pub fn parse_zone(zone: &str) -> Result<i16, TimeError> {
        if zone == "Z" {
            return Ok(0);
        }
        let (sign, digits) = match zone.as_bytes() {
            [b'+', digits @ ..] => (1, digits),
            [b'-', digits @ ..] => (-1, digits),
            _ => return Err(TimeError::ZoneSign(zone.to_owned())),
        };
        let number = |tens: u8, units: u8| {
            let both = tens.is_ascii_digit() && units.is_ascii_digit();
            both.then(|| i16::from(tens - b'0') * 10 + i16::from(units - b'0'))
        };
        let (hours, minutes) = match *digits {
            [a, b] => (number(a, b), Some(0)),
            [a, b, c, d] | [a, b, b':', c, d] => (number(a, b), number(c, d)),
            _ => (None, None),
        };
        let (Some(hours), Some(minutes)) = (hours, minutes) else {
            return Err(TimeError::ZoneForm(zone.to_owned()));
        };
        if hours > 23 {
            return Err(TimeError::ZoneHours(zone.to_owned()));
        }
        if minutes > 59 {
            return Err(TimeError::ZoneMinutes(zone.to_owned()));
        }
        // ISO 8601 has no negative zero.
        if sign < 0 && hours == 0 && minutes == 0 {
            return Err(TimeError::ZoneForm(zone.to_owned()));
        }
        Ok(sign * (hours * 60 + minutes))
    }

    /// What a clock on the wall shows at this instant in its zone.
    ///
    /// # Errors
    /// When the year is not in 1400 to 10000.
    pub fn civil(&self) -> Result<Civil, TimeError> {
        if self.epoch_seconds.abs() >= CALENDAR_SECONDS {
            return Err(TimeError::YearOutOfRange);
        }
        let local_ms = (self.epoch_seconds * 1000.0).round() as i64 + i64::from(self.offset_minutes) * 60_000;
        let (year, month, day) = civil_from_days(local_ms.div_euclid(DAY_MS));
        if !(1400..=10_000).contains(&year) {
            return Err(TimeError::YearOutOfRange);
        }
        let ms = local_ms.rem_euclid(DAY_MS);
        Ok(Civil {
            year,
            month,
            day,
            hour: (ms / 3_600_000) as u8,
            minute: (ms / 60_000 % 60) as u8,
            second: (ms / 1000 % 60) as u8,
            millisecond: (ms % 1000) as u16,
        })
    }

    /// `2013-07-30T20:56:05-07:00`; with three decimals when the seconds have a fraction.
    ///
    /// # Errors
    /// When the year is not in 1400 to 9999.
    pub fn to_iso8601(&self) -> Result<String, TimeError> {
        let civil = self.civil()?;
        if civil.year > 9999 {
            return Err(TimeError::NotIso8601(civil.year));
        }
        Ok(format!("{civil}{}", self.zone()))
    }
}

/// ISO 8601 without a zone.
impl fmt::Display for Civil {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second, millisecond } = self;
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if *millisecond != 0 {
            write!(out, ".{millisecond:03}")?;
        }
        Ok(())
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms"): years begin in March, so that the leap day is the last of one.
fn days_from_civil(year: i64, month: u8, day: u8) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iso(seconds: f64, zone: &str) -> Result<String, TimeError> {
        Time::new(seconds, Time::parse_zone(zone)?)?.to_iso8601()
    }

    #[test]
    fn prints_iso8601() {
        assert_eq!(iso(1_375_147_296.68, "-07:00").unwrap(), "2013-07-29T18:21:36.680-07:00");
        assert_eq!(iso(1_375_242_965.0, "-07").unwrap(), "2013-07-30T20:56:05-07:00");
        assert_eq!(iso(1.444_444_5, "Z").unwrap(), "1970-01-01T00:00:01.444+00:00");
        assert_eq!(iso(2.058, "+00:00").unwrap(), "1970-01-01T00:00:02.058+00:00");
        assert_eq!(iso(-0.001, "Z").unwrap(), "1969-12-31T23:59:59.999+00:00");
        assert_eq!(iso(951_782_400.0, "Z").unwrap(), "2000-02-29T00:00:00+00:00");
    }

    #[test]
    fn years_out_of_range_are_told_apart() {
        assert_eq!(iso(253_430_000_000.0, "Z"), Err(TimeError::NotIso8601(10_000)));
        assert_eq!(iso(253_440_000_000.0 * 2.0, "Z"), Err(TimeError::YearOutOfRange));
        assert_eq!(iso(-17_990_000_000.0, "Z"), Err(TimeError::YearOutOfRange));
        assert_eq!(Time::new(-17_980_000_000.0, 0).unwrap().civil().unwrap().year, 1400);
        assert_eq!(iso(1e300, "Z"), Err(TimeError::YearOutOfRange));
        assert_eq!(Time::new(f64::NAN, 0), Err(TimeError::NotFinite));
    }

    #[test]
    fn civil_times_come_back() {
        for day in (-200_000..2_900_000).step_by(997) {
            let time = Time::new(f64::from(day) * 86_400.0 + 3_723.5, 0).unwrap();
            let civil = time.civil().unwrap();
            assert_eq!((civil.hour, civil.minute, civil.second, civil.millisecond), (1, 2, 3, 500));
            assert_eq!(Time::from_civil(&civil, 0).unwrap(), time);
        }
    }

    #[test]
    fn zones_are_checked() {
        for (zone, minutes) in [("+00", 0), ("-00:59", -59), ("+0530", 330), ("-01:01", -61), ("+23:59", 1439)] {
            assert_eq!(Time::parse_zone(zone), Ok(minutes), "{zone}");
        }
        for (zone, message) in [
            ("", "Timezone `` does not start with `-` or `+`."),
            ("UTC+00", "Timezone `UTC+00` does not start with `-` or `+`."),
            ("-00:00", "`-00:00` is not a valid time offset."),
            ("-00", "`-00` is not a valid time offset."),
            ("+1:00", "`+1:00` is not a valid time offset."),
            ("+00:60", "Minutes out of range in `+00:60`."),
            ("+25:00", "Hours out of range in `+25:00`."),
        ] {
            assert_eq!(Time::parse_zone(zone).unwrap_err().to_string(), message);
        }
    }
}
