//! What is remembered of one published key: [`Record`] and its [`State`].

use chrono::TimeDelta;

use super::{Policy, Time};
use crate::jwk::{Jwk, KeyId};

/// What is remembered of one published key. Times are whole seconds, never earlier than the moment
/// they stand for, so that a duration counted from one is never too short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The public half.
    pub key: Jwk,
    /// When the record was first made; part of its file name.
    pub created_at: Time,
    /// When the serving process first had it in its set. `None`: published to nobody yet.
    pub published_at: Option<Time>,
    /// Where the key is in its life.
    pub state: State,
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
        /// Published at least until then. Only ever moves later.
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
        Self { key, created_at: whole_second(now), published_at: None, state }
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

    /// The same key, published until `keep_until` at least if it is retired.
    #[must_use]
    pub fn kept_until(&self, keep_until: Time) -> Self {
        let mut kept = self.clone();
        if let State::Retired { remove_at, .. } = &mut kept.state {
            *remove_at = (*remove_at).max(whole_second(keep_until));
        }
        kept
    }

    /// The same key, never to be published again.
    #[must_use]
    pub fn revoked(&self, now: Time, reason: &str) -> Self {
        self.with(State::Revoked { revoked_at: whole_second(now), reason: reason.to_owned() })
    }

    /// The same key where the clock that its times were read from is off by so much. What a file's
    /// name says, and when a key was revoked, stays.
    #[must_use]
    pub fn shifted(&self, by: TimeDelta) -> Self {
        let shift = |time: Time| time.checked_add_signed(by).map_or(time, whole_second);
        let state = match &self.state {
            State::Next { promotion_requested_at: at } => {
                State::Next { promotion_requested_at: at.map(shift) }
            }
            State::Current { activated_at } => {
                State::Current { activated_at: shift(*activated_at) }
            }
            State::Retired { activated_at, retired_at, remove_at } => State::Retired {
                activated_at: activated_at.map(shift),
                retired_at: shift(*retired_at),
                remove_at: shift(*remove_at),
            },
            revoked @ State::Revoked { .. } => revoked.clone(),
        };
        Self { published_at: self.published_at.map(shift), ..self.with(state) }
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

    /// Until when the key stays published at least, if it is retired.
    pub fn remove_at(&self) -> Option<Time> {
        match self.state {
            State::Retired { remove_at, .. } => Some(remove_at),
            _ => None,
        }
    }

    /// What becomes of this record when the directory says `found`: that, unless a promise would be
    /// broken. A revoked key stays revoked, a removal only ever moves later, and a publication that
    /// happened is not forgotten.
    #[must_use]
    pub fn keeping_promises_of(&self, found: &Self) -> Self {
        if self.is_revoked() && !found.is_revoked() {
            return self.clone();
        }
        let mut kept = found.kept_until(self.remove_at().unwrap_or(Time::MIN_UTC));
        kept.published_at = found.published_at.or(self.published_at);
        kept
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

    #[test]
    fn a_clock_that_was_set_shortens_nothing() {
        let at = |secs| chrono::DateTime::from_timestamp(1_795_000_000 + secs, 0).unwrap();
        let key = Jwk::from_coordinates([1; 32], [1; 32]);
        let state =
            State::Retired { activated_at: Some(at(100)), retired_at: at(200), remove_at: at(300) };
        let record = Record::new(key, at(0), state).published(at(50));
        for (by, keep_until, remove_at) in [(1_000, 0, 1_300), (-100, 0, 200), (-100, 250, 250)] {
            let shifted = record.shifted(TimeDelta::seconds(by)).kept_until(at(keep_until));
            assert_eq!(shifted.created_at, at(0), "the name of its file stays");
            assert_eq!(shifted.published_at, Some(at(50 + by)));
            assert_eq!(shifted.retired_at(), Some(at(200 + by)));
            assert_eq!(shifted.remove_at(), Some(at(remove_at)));
        }
        let tombstone = record.revoked(at(250), "");
        assert_eq!(tombstone.shifted(TimeDelta::days(1)).kept_until(at(0)).state, tombstone.state);
    }
}
