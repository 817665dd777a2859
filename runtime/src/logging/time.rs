//! Times as etcd's log writes them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(test)]
mod tests;

/// Whole seconds since 1970; 0 for a clock that is set before.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-01-02T03:04:05.123456Z`. A clock before 1970 shows as 1970.
pub(super) fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second, micros) = (
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros(),
    );
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 1600-03-01, a leap day is the last day of a year, and four centuries repeat.
    let days = days + DAYS_1600_TO_1970;
    let (cycle, day) = (days / CYCLE, days % CYCLE);
    // The last day of four centuries, and of four years, has no full century, or year, before it.
    let century = (day / CENTURY).min(3);
    let day = day - century * CENTURY;
    let (leap, day) = (day / FOUR_YEARS, day % FOUR_YEARS);
    let year_of_four = (day / 365).min(3);
    let day = day - year_of_four * 365;
    // Months from March on begin at these days.
    let month = MONTH_STARTS.iter().rposition(|start| *start <= day).unwrap_or(0) as u64;
    let year = 1600 + cycle * 400 + century * 100 + leap * 4 + year_of_four;
    let day = day - MONTH_STARTS[month as usize] + 1;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

const DAY: u64 = 86_400;
const FOUR_YEARS: u64 = 1461;
const CENTURY: u64 = 36_524;
const CYCLE: u64 = 146_097;
/// From 1600-03-01 to 1970-01-01.
const DAYS_1600_TO_1970: u64 = 135_080;
const MONTH_STARTS: [u64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];
