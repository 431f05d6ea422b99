//! Time zones as offsets: `+00:00`, `-07`, `Z`.

use super::error::{ReqlError, Result};

/// The offset in minutes that the text stands for.
///
/// # Errors
/// With the text, and what is wrong with it.
pub fn parse(text: &str) -> Result<i16> {
    if text == "Z" || text == "z" {
        return Ok(0);
    }
    let invalid = || ReqlError::logic(format!("`{text}` is not a valid time offset."));
    let (sign, rest) = match text.as_bytes() {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(ReqlError::logic(format!("Timezone `{text}` does not start with `-` or `+`."))),
    };
    let number = |digits: &[u8]| -> Result<i16> {
        digits.iter().try_fold(0, |sum, digit| match digit {
            b'0'..=b'9' => Ok(sum * 10 + i16::from(digit - b'0')),
            _ => Err(invalid()),
        })
    };
    let (hours, minutes) = match rest {
        [h1, h2] => (number(&[*h1, *h2])?, 0),
        [h1, h2, m1, m2] | [h1, h2, b':', m1, m2] => (number(&[*h1, *h2])?, number(&[*m1, *m2])?),
        _ => return Err(invalid()),
    };
    if hours > 23 {
        return Err(ReqlError::logic(format!("Hours out of range in `{text}`.")));
    }
    if minutes > 59 {
        return Err(ReqlError::logic(format!("Minutes out of range in `{text}`.")));
    }
    // ISO 8601 knows no negative zero.
    if sign < 0 && hours == 0 && minutes == 0 {
        return Err(invalid());
    }
    Ok(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_every_form() {
        for (text, minutes) in [("Z", 0), ("+00", 0), ("-07:00", -420), ("+0130", 90), ("-00:59", -59)] {
            assert_eq!(parse(text).unwrap(), minutes, "{text}");
        }
    }

    #[test]
    fn bad_offsets_are_explained() {
        for (text, message) in [
            ("", "Timezone `` does not start with `-` or `+`."),
            ("-00:00", "`-00:00` is not a valid time offset."),
            ("+00:60", "Minutes out of range in `+00:60`."),
            ("+25:00", "Hours out of range in `+25:00`."),
        ] {
            assert_eq!(parse(text).unwrap_err().message(), message);
        }
    }
}
