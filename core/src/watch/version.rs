//! What is known of servers by their version.

/// Whether a server of this version tells the truth about the progress of watches: etcd from 3.4.31 and 3.5.13 on. Older
/// ones answer a progress request whether or not all events have been sent. What can't be read isn't trusted.
#[must_use]
pub fn trusts_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) = (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    match (major, minor) {
        (3, 4) => patch >= 31,
        (3, 5) => patch >= 13,
        newer => newer > (3, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for version in [
            "3.4.31",
            "3.5.13",
            "3.5.30",
            "3.6.0",
            "3.6.0-rc.1",
            "3.7.1",
            "4.0.0",
        ] {
            assert!(trusts_progress(version), "{version}");
        }
        for version in ["3.4.30", "3.5.12", "3.3.27", "2.3.8", "", "3.5", "3.x.1", "three"] {
            assert!(!trusts_progress(version), "{version}");
        }
    }
}
