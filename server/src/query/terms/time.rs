//! Times: NOW, EPOCH_TIME, ISO8601, TIME, their parts, and the names of days and months.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{Civil, Time, TimeError};

use super::Op;
use super::selection::is_closed;
use crate::query::error::{ReqlError, Result};
use crate::query::eval::{Call, integer};
use crate::query::iso8601;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(103, "now", 0, 0, now).with(Op::PER_QUERY),
    Op::new(101, "epoch_time", 1, 1, epoch_time),
    Op::new(102, "to_epoch_time", 1, 1, to_epoch_time),
    Op::new(99, "iso8601", 1, 1, from_iso8601).options(&["default_timezone"]),
    Op::new(100, "to_iso8601", 1, 1, to_iso8601),
    Op::new(104, "in_timezone", 2, 2, in_timezone),
    Op::new(105, "during", 3, 3, during).options(&["left_bound", "right_bound"]),
    Op::new(106, "date", 1, 1, date),
    Op::new(126, "time_of_day", 1, 1, time_of_day),
    Op::new(127, "timezone", 1, 1, timezone),
    Op::new(128, "year", 1, 1, |call| part(call, |civil| civil.year as f64)),
    Op::new(129, "month", 1, 1, |call| part(call, |civil| f64::from(civil.month))),
    Op::new(130, "day", 1, 1, |call| part(call, |civil| f64::from(civil.day))),
    Op::new(131, "day_of_week", 1, 1, day_of_week),
    Op::new(132, "day_of_year", 1, 1, day_of_year),
    Op::new(133, "hours", 1, 1, |call| part(call, |civil| f64::from(civil.hour))),
    Op::new(134, "minutes", 1, 1, |call| part(call, |civil| f64::from(civil.minute))),
    Op::new(135, "seconds", 1, 1, |call| part(call, seconds)),
    Op::new(136, "time", 4, 7, time),
    Op::new(107, "monday", 0, 0, |_| Ok(1.0.into())),
    Op::new(108, "tuesday", 0, 0, |_| Ok(2.0.into())),
    Op::new(109, "wednesday", 0, 0, |_| Ok(3.0.into())),
    Op::new(110, "thursday", 0, 0, |_| Ok(4.0.into())),
    Op::new(111, "friday", 0, 0, |_| Ok(5.0.into())),
    Op::new(112, "saturday", 0, 0, |_| Ok(6.0.into())),
    Op::new(113, "sunday", 0, 0, |_| Ok(7.0.into())),
    Op::new(114, "january", 0, 0, |_| Ok(1.0.into())),
    Op::new(115, "february", 0, 0, |_| Ok(2.0.into())),
    Op::new(116, "march", 0, 0, |_| Ok(3.0.into())),
    Op::new(117, "april", 0, 0, |_| Ok(4.0.into())),
    Op::new(118, "may", 0, 0, |_| Ok(5.0.into())),
    Op::new(119, "june", 0, 0, |_| Ok(6.0.into())),
    Op::new(120, "july", 0, 0, |_| Ok(7.0.into())),
    Op::new(121, "august", 0, 0, |_| Ok(8.0.into())),
    Op::new(122, "september", 0, 0, |_| Ok(9.0.into())),
    Op::new(123, "october", 0, 0, |_| Ok(10.0.into())),
    Op::new(124, "november", 0, 0, |_| Ok(11.0.into())),
    Op::new(125, "december", 0, 0, |_| Ok(12.0.into())),
];

impl From<TimeError> for ReqlError {
    fn from(error: TimeError) -> Self {
        Self::logic(error.to_string())
    }
}

fn instant(call: &Call<'_>, position: usize) -> Result<Time> {
    match call.datum(position)? {
        Datum::Time(time) => Ok(time),
        other => {
            let found = crate::query::pseudo::type_name(&other);
            let error = ReqlError::logic(format!("Not a TIME pseudotype: `{found}`."));
            Err(if matches!(other, Datum::Null) { ReqlError::wrong_type("PTYPE<TIME>", &other) } else { error }
                .at(position))
        }
    }
}

fn now(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::Time(call.ctx().now).into())
}

fn epoch_time(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::Time(Time::new(call.number(0)?, 0)?).into())
}

fn to_epoch_time(call: &Call<'_>) -> Result<Value> {
    Ok(instant(call, 0)?.epoch_seconds().into())
}

fn from_iso8601(call: &Call<'_>) -> Result<Value> {
    let text = call.string(0)?;
    let zone = call.option_string("default_timezone")?;
    Ok(Datum::Time(iso8601::parse(&text, zone.as_deref()).map_err(|error| error.at(0))?).into())
}

fn to_iso8601(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::from(instant(call, 0)?.to_iso8601()?).into())
}

fn in_timezone(call: &Call<'_>) -> Result<Value> {
    let time = instant(call, 0)?;
    let zone = Time::parse_zone(&call.string(1)?)?;
    Ok(Datum::Time(time.in_zone(zone)?).into())
}

fn during(call: &Call<'_>) -> Result<Value> {
    let time = instant(call, 0)?.epoch_seconds();
    let (start, end) = (instant(call, 1)?.epoch_seconds(), instant(call, 2)?.epoch_seconds());
    let behind_start = if is_closed(call, "left_bound", "closed")? { start <= time } else { start < time };
    let before_end = if is_closed(call, "right_bound", "open")? { time <= end } else { time < end };
    Ok((behind_start && before_end).into())
}

fn midnight(civil: &Civil) -> Civil {
    Civil { hour: 0, minute: 0, second: 0, millisecond: 0, ..*civil }
}

fn date(call: &Call<'_>) -> Result<Value> {
    let time = instant(call, 0)?;
    let date = Time::from_civil(&midnight(&time.civil()?), time.offset_minutes())?;
    Ok(Datum::Time(date).into())
}

fn seconds(civil: &Civil) -> f64 {
    (f64::from(civil.second) * 1000.0 + f64::from(civil.millisecond)) / 1000.0
}

fn time_of_day(call: &Call<'_>) -> Result<Value> {
    part(call, |civil| {
        let minutes = f64::from(civil.hour) * 60.0 + f64::from(civil.minute);
        ((minutes * 60.0 + f64::from(civil.second)) * 1000.0 + f64::from(civil.millisecond)) / 1000.0
    })
}

fn timezone(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::from(instant(call, 0)?.zone()).into())
}

/// What a clock on the wall shows of the time.
fn part(call: &Call<'_>, of: impl Fn(&Civil) -> f64) -> Result<Value> {
    Ok(of(&instant(call, 0)?.civil()?).into())
}

/// Whole days since 1970 began, in the time's zone.
fn days(time: &Time) -> f64 {
    ((time.epoch_seconds() + f64::from(time.offset_minutes()) * 60.0) / 86_400.0).floor()
}

fn day_of_week(call: &Call<'_>) -> Result<Value> {
    let time = instant(call, 0)?;
    time.civil()?;
    // 1970 began on a Thursday.
    Ok(((days(&time) + 3.0).rem_euclid(7.0) + 1.0).into())
}

fn day_of_year(call: &Call<'_>) -> Result<Value> {
    let time = instant(call, 0)?;
    let new_year = Civil { month: 1, day: 1, ..midnight(&time.civil()?) };
    let new_year = Time::from_civil(&new_year, time.offset_minutes())?;
    Ok((days(&time) - days(&new_year) + 1.0).into())
}

fn time(call: &Call<'_>) -> Result<Value> {
    let whole = match call.count() {
        4 => false,
        7 => true,
        other => return Err(ReqlError::logic(format!("Got {other} arguments to TIME (expected 4 or 7)."))),
    };
    let field = |position: usize, name: &str, least: i64, most: i64| -> Result<i64> {
        let value = integer(&call.datum(position)?).map_err(|error| error.at(position))?;
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(ReqlError::logic(format!("Error in time logic: {name} is out of valid range: {least}..{most}."))
            .at(position))
    };
    let zone = call.string(if whole { 6 } else { 3 })?;
    let year = field(0, "Year", 1400, 10_000)?;
    let month = field(1, "Month number", 1, 12)?;
    let day = field(2, "Day of month value", 1, 31)?;
    if day > iso8601::days_in_month(year, month) {
        return Err(ReqlError::logic("Error in time logic: Day of month is not valid for year.").at(2));
    }
    let (mut hour, mut minute, mut seconds) = (0, 0, 0.0);
    if whole {
        hour = field(3, "Hours", 0, 24)?;
        minute = field(4, "Minutes", 0, 59)?;
        seconds = call.number(5)?;
        if !(0.0..60.0).contains(&seconds) {
            return Err(ReqlError::logic("Error in time logic: Seconds is out of valid range: 0..59.").at(5));
        }
    }
    let civil = Civil {
        year,
        month: month as u8,
        day: day as u8,
        hour: hour as u8,
        minute: minute as u8,
        second: seconds as u8,
        millisecond: ((seconds.fract() * 1000.0).round() as u16).min(999),
    };
    Ok(Datum::Time(Time::from_civil(&civil, Time::parse_zone(&zone)?)?).into())
}
