//! Simple tokens: what one member remembers of them.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::time::Duration;

use etcd_proxy_core::time::Instant;

use super::{Auth, Request, Response, User};
use crate::error::Error;

/// Letters in front of a simple token's point.
const PREFIX_LETTERS: usize = 16;

/// The letters in front of a simple token's point, which the member that is asked to authenticate draws.
pub fn token_prefix(random: &mut fastrand::Rng) -> String {
    (0..PREFIX_LETTERS).map(|_| random.alphabetic()).collect()
}

/// Whom a call comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// No token, or authentication is off.
    Anonymous,
    /// The token was assigned by a log entry that this member hasn't applied yet: it waits until it has applied the
    /// entry with this index, for as long as the client does, and looks again.
    Later(u64),
    /// The token's user.
    User(User),
}

/// The tokens that one member knows. Gone when it restarts.
#[derive(Clone, Debug)]
pub struct Tokens {
    ttl: Duration,
    tokens: BTreeMap<String, Token>,
}

#[derive(Clone, Debug)]
struct Token {
    user: String,
    end: Instant,
}

impl Tokens {
    /// None yet. A token ends when it wasn't used on this member for `ttl`.
    ///
    /// etcd looks for ended tokens once a second, so there a token may live that much longer.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            tokens: BTreeMap::new(),
        }
    }

    /// Whom a call with this token (the metadata's `token`, or `authorization` in its absence) comes from, on a
    /// member that has applied the log up to `applied`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidAuthToken`] for a token that was not assigned, ended, or was made invalid by a change of its
    /// user or by switching authentication off.
    pub fn identify(
        &mut self,
        now: Instant,
        applied: u64,
        auth: &Auth,
        token: Option<&[u8]>,
    ) -> Result<Identity, Error> {
        if !auth.enabled() {
            return Ok(Identity::Anonymous);
        }
        let Some(token) = token else {
            return Ok(Identity::Anonymous);
        };
        let token = core::str::from_utf8(token).map_err(|_| Error::InvalidAuthToken)?;
        let index = index(token).ok_or(Error::InvalidAuthToken)?;
        if index > applied {
            return Ok(Identity::Later(index));
        }
        let known = self.tokens.get_mut(token).filter(|token| now <= token.end);
        let known = known.ok_or(Error::InvalidAuthToken)?;
        known.end = now + self.ttl;
        Ok(Identity::User(User {
            name: known.user.clone(),
            revision: auth.revision(),
        }))
    }

    /// Takes note of a request that this member has just applied, with its result.
    pub fn applied(&mut self, now: Instant, request: &Request, result: &Result<Response, Error>) {
        let Ok(response) = result else {
            return;
        };
        match (request, response) {
            (Request::Authenticate { name, .. }, Response::Authenticated(token)) => {
                self.tokens.retain(|_, token| now <= token.end);
                let token = token.clone();
                let end = now + self.ttl;
                self.tokens.insert(
                    token,
                    Token {
                        user: name.clone(),
                        end,
                    },
                );
            }
            (Request::Disable, _) => self.tokens.clear(),
            (Request::UserChangePassword(request), _) => self.forget(&request.name),
            (Request::UserDelete(request), _) => self.forget(&request.name),
            _ => {}
        }
    }

    fn forget(&mut self, user: &str) {
        self.tokens.retain(|_, token| token.user != user);
    }
}

/// The index of the log entry that assigned a token: what stands after its only point.
fn index(token: &str) -> Option<u64> {
    let (_, index) = token.split_once('.')?;
    // Go's ParseUint takes no sign, Rust's does.
    if !index.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    index.parse().ok()
}
