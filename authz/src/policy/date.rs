//! Dates of conditions: the W3C profile of ISO 8601, or seconds since 1970.

use time::{Date, Month, PrimitiveDateTime, Time, UtcOffset};

/// Milliseconds since 1970. A text of digits only is seconds.
pub(crate) fn parse(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1_000);
    }
    let (date, clock) = match text.split_once(['T', ' ']) {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let date = parse_date(date)?;
    let (time, offset) = match clock {
        None => (Time::MIDNIGHT, UtcOffset::UTC),
        Some(clock) => parse_clock(clock)?,
    };
    let moment = PrimitiveDateTime::new(date, time).assume_offset(offset);
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

fn digits<T: std::str::FromStr>(text: &str, count: usize) -> Option<T> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn parse_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let year = digits(parts.next()?, 4)?;
    let month: u8 = parts.next().map_or(Some(1), |m| digits(m, 2))?;
    let day = parts.next().map_or(Some(1), |d| digits(d, 2))?;
    if parts.next().is_some() {
        return None;
    }
    Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()
}

/// `hh:mm[:ss[.fraction]]` and a zone; none means UTC.
fn parse_clock(text: &str) -> Option<(Time, UtcOffset)> {
    let zone_at = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (clock, zone) = text.split_at(zone_at);
    let mut parts = clock.split(':');
    let hour = digits(parts.next()?, 2)?;
    let minute = digits(parts.next()?, 2)?;
    let seconds = parts.next().unwrap_or("00");
    if parts.next().is_some() {
        return None;
    }
    let (second, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let nanos = format!("{fraction:0<9}");
    let nano = digits(nanos.get(..9)?, 9)?;
    let time = Time::from_hms_nano(hour, minute, digits(second, 2)?, nano).ok()?;
    let offset = match zone {
        "" | "Z" | "z" => UtcOffset::UTC,
        _ => {
            let sign: i8 = if zone.starts_with('-') { -1 } else { 1 };
            let hours: i8 = digits(zone.get(1..3)?, 2)?;
            let minutes: i8 = digits(zone.get(3..)?.trim_start_matches(':'), 2)?;
            UtcOffset::from_hms(sign.checked_mul(hours)?, sign.checked_mul(minutes)?, 0).ok()?
        }
    };
    Some((time, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_w3c_profile_is_read() {
        assert_eq!(parse("1970-01-01T00:00:01Z"), Some(1_000));
        assert_eq!(parse("1970-01-01T01:00:01.5+01:00"), Some(1_500));
        assert_eq!(parse("1970-01-02"), Some(86_400_000));
        assert_eq!(parse("1970-02"), Some(2_678_400_000));
        assert_eq!(parse("1970-01-01T00:00Z"), Some(0));
        assert_eq!(parse("10"), Some(10_000));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            "",
            "1970-13-01",
            "1970-01-01T25:00Z",
            "1970-1-1",
            "yesterday",
            "1970-01-01T00Z",
            "1970-01-01TZ",
            "1970-01-01T00:00+1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
