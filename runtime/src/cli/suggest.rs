//! What was probably meant by a word that nothing is called.

/// Longer words are no misspelling of anything.
const WORD_BYTES_MAX: usize = 64;

/// The candidate that a word was probably meant to be: the one that the fewest changes lead to, if they are few for the
/// word's length, or the shortest that begins with it. Case counts for nothing, and `_` is `-`.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = folded(word);
    let changes_max = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = folded(candidate);
            let changes = strsim::osa_distance(&word, &other);
            // What was left out behind a word is more likely meant than what was mistyped in it.
            let begins = word.len() >= BEGINNING_BYTES_MIN && other.starts_with(&word);
            (begins || (changes <= changes_max && changes < other.chars().count())).then_some((
                if begins { 1 } else { changes },
                other.len(),
                candidate,
            ))
        })
        .min_by_key(|(changes, len, _)| (*changes, *len))
        .map(|(_, _, candidate)| candidate)
}

/// Shortest beginning of a word that stands for all of it.
const BEGINNING_BYTES_MIN: usize = 4;

fn folded(word: &str) -> String {
    word.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::FLAGS;

    fn flag(word: &str) -> Option<&'static str> {
        closest(word, FLAGS.iter().map(|flag| flag.name))
    }

    #[test]
    fn misspelt_words_find_what_was_meant() {
        for (word, meant) in [
            ("listen-adr", "listen-addr"),
            ("listen_addr", "listen-addr"),
            ("listen-address", "listen-addr"),
            ("LISTEN-ADDR", "listen-addr"),
            ("listen", "listen-addr"),
            ("endpoint", "endpoints"),
            ("enpdoints", "endpoints"),
            ("embeded", "embedded"),
            ("dail-timeout", "dial-timeout"),
            ("loglevel", "log-level"),
            ("chache", "cache"),
            ("endpoint-probe-intervall", "endpoint-probe-interval"),
        ] {
            assert_eq!(flag(word), Some(meant), "{word}");
        }
        let commands = ["start", "grpc-proxy", "in-memory-etcd"];
        assert_eq!(closest("strat", commands), Some("start"));
        assert_eq!(closest("Start", commands), Some("start"));
        assert_eq!(closest("in-memory", commands), Some("in-memory-etcd"));
    }

    #[test]
    fn words_far_from_all_find_nothing() {
        let long = "x".repeat(1 << 20);
        for word in ["", "x", "nonsense", "node", "initial-cluster", &long] {
            assert_eq!(flag(word), None, "{word:.20}");
        }
        assert_eq!(closest("stop", ["start"]), None);
        // One letter is not another one.
        assert_eq!(closest("x", ["y"]), None);
    }
}
