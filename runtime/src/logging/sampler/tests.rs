use super::*;

#[test]
fn the_first_hundred_then_every_hundredth() {
    let sampler = Sampler::new();
    let admitted: Vec<u64> = (1..=1000).filter(|_| sampler.admit(7, 3)).collect();
    let expected: Vec<u64> = (1..=100).chain((200..=1000).step_by(100)).collect();
    assert_eq!(admitted, expected);
}

#[test]
fn a_new_second_begins_anew() {
    let sampler = Sampler::new();
    for second in [5, 6, 4] {
        assert_eq!(
            (0..150).filter(|_| sampler.admit(second, 0)).count(),
            100,
            "second {second}"
        );
    }
}

#[test]
fn callsites_do_not_share() {
    let sampler = Sampler::new();
    assert_eq!((0..150).filter(|_| sampler.admit(1, 1)).count(), 100);
    assert!(sampler.admit(1, 2));
    assert!(!sampler.admit(1, 1));
}
