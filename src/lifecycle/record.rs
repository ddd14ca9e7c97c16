//! What is remembered of one published key: [`Record`] and its [`State`].

use std::collections::BTreeMap;

use super::{Policy, Time};
use crate::jwk::{Jwk, KeyId};

/// What is remembered of one published key. Times are whole seconds, never earlier than the moment
/// they stand for; how long a state has lasted is not counted from them, but by [`Served`](super::Served).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The public half.
    pub key: Jwk,
    /// When the record was first made; part of its file name.
    pub created_at: Time,
    /// When a serving process first had it in its set, for people. `None`: published to nobody yet.
    pub published_at: Option<Time>,
    /// Where the key is in its life.
    pub state: State,
    /// What another version has written beside that, by name: kept, and ignored.
    pub others: BTreeMap<String, String>,
}

/// Where a key is in its life; each state holds only what is legal in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Published, never signed with yet.
    Next {
        /// When a person asked for its promotion as soon as it is ready.
        promotion_requested_at: Option<Time>,
    },
    /// Signs.
    Current {
        /// When it was first seen as the signing key.
        activated_at: Time,
    },
    /// Signs no more, verifies still.
    Retired {
        /// When it was first seen as the signing key; `None` if it is not known to have signed.
        activated_at: Option<Time>,
        /// When it was first seen not to be the signing key any more.
        retired_at: Time,
        /// When it will have been retained by the clock that wrote this, for people and for earlier
        /// versions. What decides is for how long it was served.
        remove_at: Time,
    },
    /// Must not verify; the record is a tombstone.
    Revoked {
        /// When it was revoked.
        revoked_at: Time,
        /// Why, in the words of the person who did it.
        reason: String,
    },
}

impl Record {
    /// A record for a key that has none yet.
    pub fn new(key: Jwk, now: Time, state: State) -> Self {
        let created_at = whole_second(now);
        Self { key, created_at, published_at: None, state, others: BTreeMap::new() }
    }

    /// A record for a key that is to be the next one.
    pub fn staged(key: Jwk, now: Time, promotion_requested: bool) -> Self {
        let promotion_requested_at = promotion_requested.then(|| whole_second(now));
        Self::new(key, now, State::Next { promotion_requested_at })
    }

    /// The kid of the key.
    pub fn kid(&self) -> KeyId {
        self.key.kid()
    }

    /// The same key, first served at `now` if it was not before.
    #[must_use]
    pub fn published(&self, now: Time) -> Self {
        let published_at = self.published_at.or_else(|| Some(whole_second(now)));
        Self { published_at, ..self.clone() }
    }

    /// The same key, signing since `now`.
    #[must_use]
    pub fn activated(&self, now: Time) -> Self {
        self.with(State::Current { activated_at: whole_second(now) })
    }

    /// The same key, to sign no more from `now` and to be published for `retain_for` from then.
    #[must_use]
    pub fn retired(&self, now: Time, policy: &Policy) -> Self {
        let retired_at = whole_second(now);
        let remove_at = whole_second(retired_at + policy.retain_for());
        self.with(State::Retired { activated_at: self.activated_at(), retired_at, remove_at })
    }

    /// The same key, never to be published again.
    #[must_use]
    pub fn revoked(&self, now: Time, reason: &str) -> Self {
        self.with(State::Revoked { revoked_at: whole_second(now), reason: reason.to_owned() })
    }

    /// Whether the key must not verify.
    pub fn is_revoked(&self) -> bool {
        matches!(self.state, State::Revoked { .. })
    }

    /// When the key began to sign, if it is the one that signs.
    pub fn activated_at(&self) -> Option<Time> {
        match self.state {
            State::Current { activated_at } => Some(activated_at),
            _ => None,
        }
    }

    /// When the key ceased to sign, if it is retired.
    pub fn retired_at(&self) -> Option<Time> {
        match self.state {
            State::Retired { retired_at, .. } => Some(retired_at),
            _ => None,
        }
    }

    /// Until when its record says that the key stays published, if it is retired.
    pub fn remove_at(&self) -> Option<Time> {
        match self.state {
            State::Retired { remove_at, .. } => Some(remove_at),
            _ => None,
        }
    }

    /// What becomes of this record when the directory says `found`: that, but a revoked key stays
    /// revoked, and a publication that happened is not forgotten.
    #[must_use]
    pub fn keeping_promises_of(&self, found: &Self) -> Self {
        if self.is_revoked() && !found.is_revoked() {
            return self.clone();
        }
        Self { published_at: found.published_at.or(self.published_at), ..found.clone() }
    }

    /// The same key in another state.
    #[must_use]
    pub fn with(&self, state: State) -> Self {
        Self { state, ..self.clone() }
    }
}

impl State {
    /// The word for the state: `next`, `current`, `retired` or `revoked`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Next { .. } => "next",
            Self::Current { .. } => "current",
            Self::Retired { .. } => "retired",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// `time`, or the next whole second if it is not one: rounding down would break a promise by up to
/// a second.
pub fn whole_second(time: Time) -> Time {
    let up = i64::from(time.timestamp_subsec_nanos() > 0);
    // At the end of all time there is no next second.
    Time::from_timestamp(time.timestamp() + up, 0).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_written_time_is_never_earlier_than_the_moment_it_stands_for() {
        let second = chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        assert_eq!(whole_second(second), second);
        assert_eq!(
            whole_second(second + TimeDelta::nanoseconds(1)),
            second + TimeDelta::seconds(1)
        );
        let read = |text: &str| text.parse::<Time>().unwrap();
        let leap_second = whole_second(read("2016-12-31T23:59:60Z"));
        assert_eq!(leap_second, read("2017-01-01T00:00:00Z"));
        assert_eq!(whole_second(read("3000-01-01T00:00:00.1Z")), read("3000-01-01T00:00:01Z"));
        assert_eq!(whole_second(Time::MAX_UTC), Time::MAX_UTC);
    }
}
