use super::*;

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn granted(ids: &[i64], ttl: i64) -> Leases {
    let mut leases = Leases::default();
    for id in ids {
        assert_eq!(leases.grant(*id, ttl, 2), Ok(ttl));
    }
    leases
}

#[test]
fn smallest_ttl() {
    assert_eq!(ttl_min(Duration::from_secs(1)), 2);
    assert_eq!(ttl_min(Duration::from_millis(100)), 1);
    assert_eq!(ttl_min(Duration::from_secs(50)), 75);
    assert_eq!(ttl_min(Duration::ZERO), 1);
    assert_eq!(ttl_min(Duration::MAX), TTL_MAX);
}

#[test]
fn what_is_granted() {
    let mut leases = Leases::default();
    assert_eq!(leases.grant(-5, -1, 2), Ok(2));
    assert_eq!(leases.grant(6, 0, 2), Ok(2));
    assert_eq!(leases.grant(7, TTL_MAX, 2), Ok(TTL_MAX));
    assert_eq!(leases.grant(7, TTL_MAX + 1, 2), Err(Error::LeaseTtlTooLarge));
    assert_eq!(leases.grant(7, 5, 2), Err(Error::LeaseExists));
    assert_eq!(leases.grant(0, 5, 2), Err(Error::LeaseNotFound));
    let ids: Vec<_> = leases.iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [-5, 6, 7]);
}

#[test]
fn a_key_has_one_lease_at_most() {
    let mut leases = granted(&[1, 2], 10);
    let key = Bytes::from_static(b"k");
    leases.attach(&key, 1);
    leases.attach(&key, 2);
    assert!(leases.get(1).unwrap().keys.is_empty());
    assert_eq!(leases.get(2).unwrap().keys.len(), 1);
    assert_eq!(leases.of_key(b"k"), Some(2));
    leases.attach(&key, 0);
    assert!(leases.get(2).unwrap().keys.is_empty());
    assert_eq!(leases.of_key(b"k"), None);
    leases.attach(&key, 1);
    assert_eq!(leases.remove(1).unwrap().keys.len(), 1);
    assert_eq!(leases.of_key(b"k"), None);
    assert_eq!(leases.remove(1), None);
}

#[test]
fn a_lease_ends_at_the_first_look_after_its_ttl() {
    let leases = granted(&[1], 2);
    let mut deadlines = Deadlines::default();
    assert_eq!(deadlines.next_timeout(), None);
    deadlines.granted(at(700), 1, 2);
    assert_eq!(deadlines.next_timeout(), Some(at(3000)));
    assert_eq!(deadlines.remaining(at(800), 1), Some(1));
    assert_eq!(deadlines.renew(at(1000), 1, &leases), Renewal::Renewed(2));
    assert_eq!(deadlines.remaining(at(1000), 1), Some(2));
    assert_eq!(deadlines.next_timeout(), Some(at(3000)));
    assert_eq!(deadlines.renew(at(3000), 1, &leases), Renewal::Ending);
    assert_eq!(deadlines.remaining(at(3400), 1), Some(0));
    assert_eq!(deadlines.expired(at(3000)), [1]);
    deadlines.revoked(1);
    assert_eq!(deadlines.next_timeout(), None);
    assert_eq!(deadlines.remaining(at(3400), 1), None);
    assert_eq!(deadlines.renew(at(3400), 1, &leases), Renewal::Unknown);
}

#[test]
fn a_revocation_that_gets_nowhere_is_tried_again() {
    let mut deadlines = Deadlines::default();
    deadlines.granted(at(0), 1, 2);
    assert_eq!(deadlines.expired(at(1999)), []);
    assert_eq!(deadlines.expired(at(2000)), [1]);
    assert_eq!(deadlines.expired(at(2500)), []);
    assert_eq!(deadlines.next_timeout(), Some(at(5000)));
    assert_eq!(deadlines.expired(at(5000)), [1]);
}

#[test]
fn revocations_are_paced() {
    let mut deadlines = Deadlines::default();
    for id in 1..=REVOCATIONS_MAX as i64 + 1 {
        deadlines.granted(at(0), id, 2);
    }
    assert_eq!(deadlines.expired(at(2000)).len(), REVOCATIONS_MAX);
    assert_eq!(deadlines.next_timeout(), Some(at(2500)));
    assert_eq!(deadlines.expired(at(2500)), [REVOCATIONS_MAX as i64 + 1]);
}

#[test]
fn a_new_leader_starts_over() {
    let leases = granted(&[3, 1], 10);
    let mut deadlines = Deadlines::promoted(at(5000), Duration::from_secs(1), &leases);
    assert_eq!(deadlines.remaining(at(5000), 3), Some(11));
    assert_eq!(deadlines.by_end(), [1, 3]);
    assert_eq!(deadlines.renew(at(5000), 1, &leases), Renewal::Renewed(10));
    deadlines.granted(at(5000), 2, 5);
    assert_eq!(deadlines.by_end(), [2, 1, 3]);
}

#[test]
fn times_at_the_end_of_time_saturate() {
    let end = Instant::from_nanos(u64::MAX);
    let mut deadlines = Deadlines::default();
    deadlines.granted(end, 1, TTL_MAX);
    assert_eq!(deadlines.expired(end), [1]);
    assert!(deadlines.next_timeout().is_some());
}
