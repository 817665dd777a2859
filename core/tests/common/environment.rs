//! Settings of simulations.

/// A number of the environment, if it is set.
#[expect(clippy::disallowed_methods, reason = "the tests aren't the core")]
pub(crate) fn number_from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} isn't a number: {value}")),
    )
}
