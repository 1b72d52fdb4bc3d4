//! Ages as kubectl prints them: `45s`, `3m12s`, `5h`, `2d3h`.

use jiff::Timestamp;

/// The time since `timestamp` (RFC 3339), or `<unknown>`.
pub(super) fn since(timestamp: Option<&str>, now: Timestamp) -> String {
    match timestamp.and_then(|timestamp| timestamp.parse::<Timestamp>().ok()) {
        Some(then) => duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// The rules of Kubernetes' `duration.HumanDuration`: two units while the first is small, then one.
pub(super) fn duration(seconds: i64) -> String {
    // A clock that is a little behind is no reason to worry anyone.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days, years) = (seconds / 60, seconds / 3600, seconds / 86_400, seconds / (365 * 86_400));
    let two = |first: i64, first_unit: &str, second: i64, second_unit: &str| {
        if second == 0 { format!("{first}{first_unit}") } else { format!("{first}{first_unit}{second}{second_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_those_of_kubectl() {
        let (minute, hour, day) = (60, 3600, 86_400);
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (3 * minute + 12, "3m12s"),
            (10 * minute + 12, "10m"),
            (179 * minute, "179m"),
            (3 * hour + 5 * minute, "3h5m"),
            (8 * hour + 5 * minute, "8h"),
            (47 * hour, "47h"),
            (2 * day + 3 * hour, "2d3h"),
            (8 * day + 3 * hour, "8d"),
            (729 * day, "729d"),
            (730 * day, "2y"),
            (800 * day, "2y70d"),
            (8 * 365 * day + day, "8y"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn an_unknown_time_is_an_unknown_age() {
        let now = "2024-02-01T00:00:10Z".parse().unwrap();
        assert_eq!(since(Some("2024-02-01T00:00:00Z"), now), "10s");
        assert_eq!(since(Some("yesterday"), now), "<unknown>");
        assert_eq!(since(None, now), "<unknown>");
    }
}
