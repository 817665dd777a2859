use core::time::Duration;

use super::*;

#[test]
fn known_times() {
    for (seconds, micros, text) in [
        (0, 0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
        (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
        (951_868_800, 0, "2000-03-01T00:00:00.000000Z"),
        (1_767_323_045, 123_456, "2026-01-02T03:04:05.123456Z"),
        (1_835_395_199, 0, "2028-02-28T23:59:59.000000Z"),
        (1_835_395_200, 0, "2028-02-29T00:00:00.000000Z"),
        (4_107_542_399, 0, "2100-02-28T23:59:59.000000Z"),
        (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        (13_574_563_200, 0, "2400-02-29T00:00:00.000000Z"),
        (253_402_300_799, 0, "9999-12-31T23:59:59.000000Z"),
    ] {
        let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
        assert_eq!(format(time), text);
        assert_eq!(unix_seconds(time), seconds);
    }
    let before = UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(
        (format(before).as_str(), unix_seconds(before)),
        ("1970-01-01T00:00:00.000000Z", 0)
    );
}

#[test]
fn days_follow_one_another() {
    let mut expected = (1970, 1, 1);
    // Two cycles of four centuries.
    for days in 0..2 * CYCLE {
        assert_eq!(date(days), expected, "day {days}");
        let (year, month, day) = expected;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        expected = match (month, day) {
            (12, 31) => (year + 1, 1, 1),
            _ if day == length => (year, month + 1, 1),
            _ => (year, month, day + 1),
        };
    }
}
